/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwit start: hands a definition file to the daemon. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli.h"
#include "control/json.h"

#define DEFINITION_MAX 65536
#define START_TIMEOUT_NS (120 * GW_NS_PER_S)

/* The whole of `in`, at most DEFINITION_MAX bytes. Caller frees. */
static int read_all(FILE *in, char **ret, size_t *ret_len)
{
	gw_autofree char *text = malloc(DEFINITION_MAX + 1);
	size_t len;

	if (!text)
		return -ENOMEM;
	errno = 0;
	len = fread(text, 1, DEFINITION_MAX + 1, in);
	if (ferror(in))
		return errno ? -errno : -EIO;
	if (len > DEFINITION_MAX)
		return -EFBIG;
	*ret = gw_steal(&text);
	*ret_len = len;
	return 0;
}

int cmd_start(struct cli *cli)
{
	const char *path = cli->args[0];
	gw_autofile FILE *file = strcmp(path, "-") ? fopen(path, "re") : NULL;
	gw_autofree char *text = NULL;
	json_t *vm = NULL, *body;
	size_t len = 0;
	int r;

	if (!file && strcmp(path, "-"))
		return cli_fail(CLI_USAGE, "cannot open %s: %s", path, strerror(errno));
	r = read_all(file ? file : stdin, &text, &len);
	if (r < 0)
		return cli_fail(CLI_USAGE, "cannot read %s: %s", path, strerror(-r));
	body = json_pack("{s:o*}", "definition", json_stringn(text, len));
	if (!json_object_size(body)) {
		json_decref(body);
		return cli_fail(CLI_USAGE, "%s is not a VM definition: it is not UTF-8 text", path);
	}
	r = cli_call(cli, "POST", "/v1/vms", body, START_TIMEOUT_NS, &vm);
	json_decref(body);
	if (r != CLI_DONE)
		return r;
	if (cli->json)
		cli_print_json(vm);
	else
		printf("%s is %s\n", gw_json_text(vm, "name"), gw_json_text(vm, "state"));
	json_decref(vm);
	return CLI_DONE;
}
