/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwit migrate: moves a VM and, unless detached, waits for the end. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli.h"
#include "control/fields.h"
#include "control/json.h"
#include "control/render.h"
#include "engine/convergence.h"

#define DRY_RUN_TIMEOUT_NS (60 * GW_NS_PER_S)

/* Keys that are fields of a MigrateRequest go into the request as they are. */
const struct cli_option cli_migrate_options[] = {
	{ "to", CLI_TEXT, "HOST", "to", .help = "where to: a known host, or address[:port]" },
	{ "wait", CLI_FLAG, .key = "wait", .help = "show the progress until the end (default)" },
	{ "detach", CLI_FLAG, .key = "detach", .help = "print the job and return at once" },
	{ "dry-run", CLI_FLAG, .key = "dry_run", .help = "say whether it would work; touch nothing" },
	{ "mode", CLI_CHOICE, "MODE", "mode", .choices = GW_MODE_WORDS,
	  .help = "how memory goes: auto (default), pre-copy, post-copy or hybrid" },
	{ "hybrid-passes", CLI_COUNT, "N", "hybrid_passes", .min = 1, .max = 1000,
	  .help = "mode hybrid: post-copy after so many passes (default 1)" },
	{ "max-downtime", CLI_DURATION, "TIME", "max_downtime_ns",
	  .help = "how long the VM may stand still (default 50ms)" },
	{ "bandwidth", CLI_RATE, "RATE", "bandwidth_Bps", .help = "use at most that much, such as 1Gbps" },
	{ "weight", CLI_COUNT, "N", "weight", .min = 1, .max = 1000,
	  .help = "share of the host's migration_bandwidth (default 100)" },
	{ "channels", CLI_COUNT, "N", "channels", .min = 1, .max = 64,
	  .help = "TCP connections for memory" },
	{ "threshold", CLI_THRESHOLD, "WHEN", "threshold",
	  .help = "switch when so little is left: adaptive, 8M, 1%" },
	{ "on-stall", CLI_CHOICE, NULL, "on_stall", .choices = "throttle|switch|stay",
	  .help = "no progress and no post-copy: slow the VM (default), switch late, or give up" },
	{ "max-passes", CLI_COUNT, "N", "max_passes", .min = 1, .max = 1000000,
	  .help = "after so many passes, do as after a stall" },
	{ "timeout", CLI_DURATION, "TIME", "timeout_ns", .help = "give up when not decided by then" },
	{ "verify", CLI_FLAG, .key = "verify",
	  .help = "compare the memory of both sides while both stand still" },
	{ "tracing", CLI_CHOICE, NULL, "tracing", .choices = "auto|async|sync",
	  .help = "how writes are traced (default auto)" },
	{ "compress", CLI_CHOICE, NULL, "compress", .choices = "auto|off|lz4|zstd",
	  .help = "how memory is packed (default auto: as the link and the CPUs are)" },
	{ "reason", CLI_TEXT, "TEXT", "reason", .help = "kept with the job" },
	{ NULL },
};

static json_t *make_request(const struct cli *cli)
{
	json_t *request = json_object();
	const struct gw_field *f;

	for (f = gw_migrate_fields; request && f->name; f++)
		if (json_object_get(cli->options, f->name))
			json_object_set(request, f->name, json_object_get(cli->options, f->name));
	return request;
}

static int show_dry_run(const struct cli *cli, const json_t *dry_run)
{
	if (cli->json)
		cli_print_json(dry_run);
	else
		gw_render_dry_run(stdout, cli->args[0], gw_json_text(cli->options, "to"), dry_run);
	return gw_json_bool(dry_run, "possible") ? CLI_DONE : CLI_FAILED;
}

static int show_detached(const struct cli *cli, const json_t *job)
{
	if (cli->json)
		cli_print_json(job);
	else
		printf("%s moves %s to %s\n", gw_json_text(job, "id"), cli->args[0],
		       gw_json_text(cli->options, "to"));
	return CLI_DONE;
}

/* Sends the request; says more than cli_call when it is open whether the daemon got it. */
static int send_request(struct cli *cli, json_t **ret)
{
	bool dry_run = gw_json_bool(cli->options, "dry_run");
	gw_autofree char *path = gw_http_path("/v1/vms/", cli->args[0], "/migrate");
	struct gw_http_client *client = cli_connect(cli, -1);
	struct gw_http_answer answer = { 0 };
	struct gw_error err = GW_ERROR_INIT;
	json_t *request = make_request(cli);
	int r = -ENOMEM;

	if (client && path && request)
		r = gw_http_call(client, "POST", path, request,
		                 dry_run ? DRY_RUN_TIMEOUT_NS : GW_HTTP_CALL_TIMEOUT_NS, &answer, &err);
	gw_http_client_free(client);
	json_decref(request);
	if (r == 0) {
		*ret = answer.json;
		return CLI_DONE;
	}
	err.code = r;
	if (answer.status == 0 && r != -ENOTCONN && !dry_run)
		return cli_fail(CLI_USAGE, "%s ('godwit jobs' shows whether the migration began)",
		                gw_error_text(&err));
	return cli_fail_error(cli_exit_of(&answer, r), &err);
}

int cmd_migrate(struct cli *cli)
{
	json_t *answer = NULL;
	int r;

	if (!*gw_json_text(cli->options, "to"))
		return cli_fail(CLI_USAGE,
		                "say where to with --to HOST ('godwit host' shows the known ones)");
	if (gw_json_bool(cli->options, "wait") && gw_json_bool(cli->options, "detach"))
		return cli_fail(CLI_USAGE, "--wait and --detach exclude each other");
	r = send_request(cli, &answer);
	if (r != CLI_DONE)
		return r;
	if (gw_json_bool(cli->options, "dry_run"))
		r = show_dry_run(cli, answer);
	else if (gw_json_bool(cli->options, "detach"))
		r = show_detached(cli, answer);
	else
		r = cli_wait_job(cli, answer, true);
	json_decref(answer);
	return r;
}
