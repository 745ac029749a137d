/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwit list: the VMs of this host. */
#include <stdio.h>

#include "cli.h"
#include "control/render.h"

int cmd_list(struct cli *cli)
{
	json_t *vms;
	int r = cli_call(cli, "GET", "/v1/vms", NULL, GW_HTTP_CALL_TIMEOUT_NS, &vms);

	if (r != CLI_DONE)
		return r;
	if (cli->json)
		cli_print_json(vms);
	else
		gw_render_vm_list(stdout, vms);
	json_decref(vms);
	return CLI_DONE;
}
