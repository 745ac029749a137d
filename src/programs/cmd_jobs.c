/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwit jobs: migrations, running and past. */
#include <stdio.h>

#include "cli.h"
#include "control/json.h"
#include "control/render.h"

const struct cli_option cli_jobs_options[] = {
	{ "active", CLI_FLAG, .key = "active", .help = "only those that have not ended" },
	{ NULL },
};

static void drop_final(json_t *jobs)
{
	size_t i = 0;

	while (i < json_array_size(jobs)) {
		if (gw_json_bool(json_array_get(jobs, i), "final"))
			json_array_remove(jobs, i);
		else
			i++;
	}
}

int cmd_jobs(struct cli *cli)
{
	json_t *jobs;
	int r = cli_call(cli, "GET", "/v1/jobs", NULL, GW_HTTP_CALL_TIMEOUT_NS, &jobs);

	if (r != CLI_DONE)
		return r;
	if (gw_json_bool(cli->options, "active"))
		drop_final(jobs);
	if (cli->json)
		cli_print_json(jobs);
	else
		gw_render_job_list(stdout, jobs);
	json_decref(jobs);
	return CLI_DONE;
}
