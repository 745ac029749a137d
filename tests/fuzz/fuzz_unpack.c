/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any bytes as the packed bytes of a run that the codec let through: they unpack to its pages, or are refused; nothing
 * is written outside of its pages, and the same bytes always give the same pages. */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "memory/pack.h"
#include "replay.h"

static void demand(bool good)
{
	if (!good)
		abort();
}

static int unpack(struct gw_unpacker *u, const struct gw_wire_run *run, const uint8_t *packed, const uint8_t *old,
                  uint8_t *pages)
{
	struct gw_error err = GW_ERROR_INIT;
	int r = gw_unpack(u, run, packed, old, pages, &err);

	demand(r == 0 || (r == -EPROTO && err.code == r && err.text[0]));
	return r;
}

/* The first byte says the kind, the second how many pages it is to be. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gw_wire_run run;
	gw_autofree uint8_t *old = NULL, *a = NULL, *b = NULL;
	struct gw_unpacker *u = NULL;
	size_t len;

	if (size < 3)
		return 0;
	run = (struct gw_wire_run){
		.n_pages = 1 + data[1] % GW_WIRE_PACKED_PAGES_MAX,
		.kind = (uint16_t)(GW_WIRE_RUN_LZ4 + data[0] % (GW_WIRE_RUN_KINDS - GW_WIRE_RUN_LZ4)),
	};
	len = run.n_pages * GW_WIRE_PAGE_BYTES;
	run.packed_bytes = (uint16_t)GW_MIN(size - 2, len - 1);
	old = malloc(len);
	a = malloc(len); /* exactly: an overrun is seen by the sanitizer */
	b = malloc(len);
	demand(old && a && b && gw_unpacker_new(&u) == 0);
	memset(old, 0x5a, len);
	memset(a, 0x11, len);
	memcpy(b, old, len);
	if (unpack(u, &run, data + 2, old, a) == 0) {
		demand(unpack(u, &run, data + 2, b, b) == 0);
		demand(memcmp(a, b, len) == 0);
	}
	gw_unpacker_free(u);
	return 0;
}
