/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwit cancel: ends a migration before its commit. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli.h"
#include "control/json.h"
#include "control/render.h"

/* The job that `name` means: a VM's active migration, or a job's own id. Caller frees *ret_id. */
static int find_job(struct cli *cli, const char *name, char **ret_id)
{
	json_t *vm;
	bool found;
	int r = cli_get(cli, "vms", name, &found, &vm);

	if (r != CLI_DONE)
		return r;
	if (found && *gw_json_text(vm, "job"))
		*ret_id = strdup(gw_json_text(vm, "job"));
	json_decref(vm);
	if (*ret_id)
		return CLI_DONE;
	if (found)
		return cli_fail(CLI_FAILED, "no migration of %s is running", name);
	r = cli_get(cli, "jobs", name, &found, &vm);
	json_decref(vm);
	if (r != CLI_DONE)
		return r;
	if (!found)
		return cli_fail(CLI_USAGE, "there is no VM or job called '%s' on this host", name);
	*ret_id = strdup(name);
	return *ret_id ? CLI_DONE : CLI_FAILED;
}

int cmd_cancel(struct cli *cli)
{
	gw_autofree char *id = NULL, *path = NULL;
	char sentence[GW_ERROR_TEXT_MAX + 512];
	json_t *job;
	int r = find_job(cli, cli->args[0], &id);

	if (r != CLI_DONE)
		return r;
	path = gw_http_path("/v1/jobs/", id, "/cancel");
	r = cli_call(cli, "POST", path, NULL, CLI_CANCEL_TIMEOUT_NS, &job);
	if (r != CLI_DONE)
		return r;
	if (cli->json)
		cli_print_json(job);
	else if (gw_json_bool(job, "final"))
		printf("%s\n", gw_outcome_sentence(sentence, sizeof(sentence), job));
	if (!gw_json_bool(job, "final")) /* it takes longer than a command should: a time-out */
		r = cli_fail(CLI_USAGE, "the cancel of %s is accepted but not done yet; %s: %s ('godwit wait %s' shows its end)",
		             id, gw_json_text(job, "state"), gw_json_text(job, "step"), id);
	json_decref(job);
	return r;
}
