/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwit stop: powers a VM off and removes it. */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli.h"
#include "control/json.h"

#define STOP_TIMEOUT_NS (60 * GW_NS_PER_S)

const struct cli_option cli_stop_options[] = {
	{ "force", CLI_FLAG, .key = "force", .help = "switch it off without asking the guest" },
	{ "timeout", CLI_DURATION, "TIME", "timeout_ns",
	  .help = "how long the guest may take (default 60s)" },
	{ NULL },
};

int cmd_stop(struct cli *cli)
{
	gw_time_ns timeout = gw_json_int(cli->options, "timeout_ns", STOP_TIMEOUT_NS);
	gw_autofree char *path = NULL, *tail = NULL;
	json_t *none;
	int r;

	if (asprintf(&tail, "?force=%s&timeout_ns=%lld",
	             gw_json_bool(cli->options, "force") ? "true" : "false", (long long)timeout) < 0)
		tail = NULL;
	path = tail ? gw_http_path("/v1/vms/", cli->args[0], tail) : NULL;
	/* The daemon keeps the time; some more for it to clean up after QEMU. */
	r = cli_call(cli, "DELETE", path, NULL, timeout + GW_HTTP_CALL_TIMEOUT_NS, &none);
	if (r != CLI_DONE)
		return r;
	json_decref(none);
	if (cli->json)
		printf("{}\n");
	else
		printf("%s is stopped\n", cli->args[0]);
	return CLI_DONE;
}
