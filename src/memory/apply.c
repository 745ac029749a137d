/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a data channel straight into the target's RAM file. */
#include "memory/apply.h"

#include <string.h>

static void store_zeros(const struct gw_wire_run *r, const struct gw_ram *ram, const struct gw_bitmap *touched)
{
	size_t at = r->first_page, end = r->first_page + r->n_pages, first, n;

	while (gw_bitmap_next_run(touched, at, end, end - at, &first, &n)) {
		memset(ram->base + (first << GW_PAGE_SHIFT), 0, n << GW_PAGE_SHIFT);
		at = first + n;
		if (at >= end)
			break;
	}
}

int gw_apply_batch(const struct gw_wire_batch *batch, const struct gw_wire_run *runs, const struct gw_ram *ram,
                   struct gw_bitmap *touched, int fd, const struct gw_wait *w)
{
	struct iovec iov[GW_WIRE_RUNS_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < batch->n_runs; i++) {
		const struct gw_wire_run *r = &runs[i];

		if (r->kind == GW_WIRE_RUN_ZERO) {
			store_zeros(r, ram, touched);
			continue;
		}
		gw_bitmap_set_range(touched, r->first_page, r->n_pages);
		iov[n++] = (struct iovec){ ram->base + (r->first_page << GW_PAGE_SHIFT),
			                   (size_t)r->n_pages << GW_PAGE_SHIFT };
	}
	return gw_readv_full(fd, iov, n, w);
}
