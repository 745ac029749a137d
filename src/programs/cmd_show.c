/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwit show: a VM, or a job with its post-mortem. */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli.h"
#include "control/json.h"
#include "control/render.h"

const struct cli_option cli_show_options[] = {
	{ "vm", CLI_FLAG, .key = "vm", .help = "look for a VM only" },
	{ "job", CLI_FLAG, .key = "job", .help = "look for a job only" },
	{ NULL },
};

int cmd_show(struct cli *cli)
{
	static const struct {
		const char *what, *other;
		void (*render)(FILE *out, const json_t *object);
	} kinds[] = {
		{ "vms", "job", gw_render_vm },
		{ "jobs", "vm", gw_render_job },
	};
	bool vm = gw_json_bool(cli->options, "vm"), job = gw_json_bool(cli->options, "job");
	size_t i;

	if (vm && job)
		return cli_fail(CLI_USAGE, "--vm and --job exclude each other");
	for (i = 0; i < GW_ARRAY_SIZE(kinds); i++) {
		json_t *object;
		bool found;
		int r;

		if (gw_json_bool(cli->options, kinds[i].other))
			continue;
		r = cli_get(cli, kinds[i].what, cli->args[0], &found, &object);
		if (r != CLI_DONE)
			return r;
		if (!found)
			continue;
		if (cli->json)
			cli_print_json(object);
		else
			kinds[i].render(stdout, object);
		json_decref(object);
		return CLI_DONE;
	}
	return cli_fail(CLI_USAGE, "there is no %s%s%s called '%s' on this host", job ? "" : "VM",
	                vm || job ? "" : " or ", vm ? "" : "job", cli->args[0]);
}
