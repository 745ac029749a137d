/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwit host: what this host is and knows. */
#include <stdio.h>

#include "cli.h"
#include "control/render.h"

int cmd_host(struct cli *cli)
{
	json_t *host;
	int r = cli_call(cli, "GET", "/v1/host", NULL, GW_HTTP_CALL_TIMEOUT_NS, &host);

	if (r != CLI_DONE)
		return r;
	if (cli->json)
		cli_print_json(host);
	else
		gw_render_host(stdout, host);
	json_decref(host);
	return CLI_DONE;
}
