/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwit resolve: an operator decides for a copy whose source host is gone for good. */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli.h"
#include "control/json.h"

#define RESOLVE_TIMEOUT_NS (60 * GW_NS_PER_S) /* a host that does not answer is waited for, and the start of the guest */

const struct cli_option cli_resolve_options[] = {
	{ "fenced", CLI_TEXT, "HOST", "fenced",
	  .help = "the host it came from: off for certain, or cut off from disks and network" },
	{ NULL },
};

int cmd_resolve(struct cli *cli)
{
	gw_autofree char *path = gw_http_path("/v1/vms/", cli->args[0], "/resolve");
	const char *fenced = gw_json_text(cli->options, "fenced");
	json_t *vm, *body;
	int r;

	if (!*fenced)
		return cli_fail(CLI_USAGE, "--fenced HOST is missing: name the host that can run nothing any more");
	body = json_pack("{s:s}", "fenced", fenced);
	r = cli_call(cli, "POST", path, body, RESOLVE_TIMEOUT_NS, &vm);
	json_decref(body);
	if (r != CLI_DONE)
		return r;
	if (cli->json)
		cli_print_json(vm);
	else
		printf("%s runs here now; start %s again only when nothing of the VM is left there\n", cli->args[0],
		       fenced);
	json_decref(vm);
	return CLI_DONE;
}
