/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the commands share: talking to the daemon, errors, JSON. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli.h"
#include "control/table.h"

int cli_fail(enum cli_exit code, const char *fmt, ...)
{
	char text[GW_ERROR_TEXT_MAX + 256], clean[sizeof(text)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fflush(stdout);
	fprintf(stderr, "godwit: %s\n", gw_clean_text(clean, sizeof(clean), text));
	return (int)code;
}

int cli_fail_error(enum cli_exit code, const struct gw_error *err)
{
	return cli_fail(code, "%s", gw_error_text(err));
}

void cli_print_json(const json_t *json)
{
	json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	putchar('\n');
}

struct gw_http_client *cli_connect(struct cli *cli, int wake_fd)
{
	struct gw_http_client *client = NULL;

	if (gw_http_client_new(cli->socket, wake_fd, &client) < 0)
		cli_fail(CLI_USAGE, "there is not enough memory to talk to godwitd");
	return client;
}

enum cli_exit cli_exit_of(const struct gw_http_answer *answer, int error)
{
	if (answer->status == 0)
		return CLI_USAGE; /* unreachable, interrupted, timed out, or not our daemon */
	if (error == -ETIMEDOUT)
		return CLI_USAGE;
	/* Asked for something that makes no sense or is not there: wrong usage. */
	return answer->status == 400 || answer->status == 404 || answer->status == 405 ? CLI_USAGE
	                                                                               : CLI_FAILED;
}

int cli_call(struct cli *cli, const char *method, const char *path, const json_t *body, gw_time_ns timeout,
             json_t **ret)
{
	struct gw_http_client *client = cli_connect(cli, -1);
	struct gw_http_answer answer = { 0 };
	struct gw_error err = GW_ERROR_INIT;
	int r;

	*ret = NULL;
	if (!client)
		return CLI_USAGE;
	r = path ? gw_http_call(client, method, path, body, timeout, &answer, &err) : -ENOMEM;
	gw_http_client_free(client);
	if (r < 0) {
		err.code = r;
		return cli_fail_error(cli_exit_of(&answer, r), &err);
	}
	*ret = answer.json;
	return CLI_DONE;
}

int cli_get(struct cli *cli, const char *what, const char *name, bool *ret_found, json_t **ret)
{
	gw_autofree char *head = NULL, *path = NULL;
	struct gw_http_client *client = cli_connect(cli, -1);
	struct gw_http_answer answer = { 0 };
	struct gw_error err = GW_ERROR_INIT;
	int r = -ENOMEM;

	*ret = NULL;
	*ret_found = false;
	if (!client)
		return CLI_USAGE;
	if (asprintf(&head, "/v1/%s/", what) < 0)
		head = NULL;
	path = head ? gw_http_path(head, name, "") : NULL;
	if (path)
		r = gw_http_call(client, "GET", path, NULL, GW_HTTP_CALL_TIMEOUT_NS, &answer, &err);
	gw_http_client_free(client);
	if (answer.status == 404)
		return CLI_DONE;
	if (r < 0) {
		err.code = r;
		return cli_fail_error(cli_exit_of(&answer, r), &err);
	}
	*ret_found = true;
	*ret = answer.json;
	return CLI_DONE;
}
