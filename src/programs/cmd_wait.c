/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwit wait: follows a migration that somebody else began. */
#include "cli.h"

int cmd_wait(struct cli *cli)
{
	json_t *job;
	bool found;
	int r = cli_get(cli, "jobs", cli->args[0], &found, &job);

	if (r != CLI_DONE)
		return r;
	if (!found)
		return cli_fail(CLI_USAGE, "there is no job called '%s' on this host", cli->args[0]);
	r = cli_wait_job(cli, job, false);
	json_decref(job);
	return r;
}
