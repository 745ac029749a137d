/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any bytes, in any pieces, through the QMP parser: the messages must not depend on the pieces. */
#include <stdlib.h>
#include <string.h>

#include "hypervisor/qmp_parse.h"
#include "replay.h"

#define LINE_MAX_BYTES 4096

static void count(void *userdata, struct gw_qmp_message *m)
{
	*(size_t *)userdata += 1 + strlen(m->event) + (m->desc ? strlen(m->desc) : 0);
}

static int run(const uint8_t *data, size_t size, size_t piece, size_t *ret_seen)
{
	struct gw_qmp_parser p;
	int r = 0;

	*ret_seen = 0;
	gw_qmp_parser_init(&p, LINE_MAX_BYTES);
	for (size_t at = 0; at < size && r == 0; at += piece)
		r = gw_qmp_parser_feed(&p, (const char *)data + at, size - at < piece ? size - at : piece,
		                       count, ret_seen);
	gw_qmp_parser_done(&p);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t whole, pieces;
	int a, b;

	if (size < 2)
		return 0;
	a = run(data + 1, size - 1, size, &whole);
	b = run(data + 1, size - 1, data[0] % 16 + 1, &pieces);
	if (a != b || whole != pieces)
		abort();
	return 0;
}
