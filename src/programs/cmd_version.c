/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwit version: of this program, and of the daemon when it can be reached. */
#include <stdio.h>

#include "cli.h"
#include "control/json.h"

int cmd_version(struct cli *cli)
{
	struct gw_http_client *client = cli_connect(cli, -1);
	struct gw_http_answer answer = { 0 };
	struct gw_error err = GW_ERROR_INIT;
	json_t *out;
	int r;

	if (!client)
		return CLI_USAGE;
	r = gw_http_call(client, "GET", "/v1/host", NULL, GW_HTTP_CALL_TIMEOUT_NS, &answer, &err);
	gw_http_client_free(client);
	if (cli->json) {
		out = json_pack("{s:s, s:O?}", "godwit", GW_VERSION, "host", answer.json);
		cli_print_json(out);
		json_decref(out);
	} else {
		printf("godwit   %s\n", GW_VERSION);
		if (r == 0)
			printf("godwitd  %s on %s\nqemu     %s\n", gw_json_text(answer.json, "version"),
			       gw_json_text(answer.json, "name"),
			       gw_json_text(answer.json, "qemu_version"));
		else
			printf("godwitd  %s\n", gw_error_text(&err));
	}
	json_decref(answer.json);
	return CLI_DONE;
}
