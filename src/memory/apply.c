/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a data channel straight into the target's RAM file. */
#include "memory/apply.h"

#include <stdlib.h>
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

void gw_apply_packed_done(struct gw_apply_packed *p)
{
	gw_unpacker_free(p->unpacker);
	free(p->payload);
	*p = (struct gw_apply_packed){ 0 };
}

static bool get_buffers(struct gw_apply_packed *p)
{
	if (!p->payload)
		p->payload = malloc(GW_WIRE_PACKED_BATCH_MAX);
	return p->payload && (p->unpacker || gw_unpacker_new(&p->unpacker) == 0);
}

static int unpack_all(const struct gw_wire_batch *batch, const struct gw_wire_run *runs, const struct gw_ram *ram,
                      struct gw_apply_packed *p, struct gw_error *err)
{
	const uint8_t *at = p->payload;

	for (unsigned i = 0; i < batch->n_runs; i++) {
		uint8_t *pages = ram->base + (runs[i].first_page << GW_PAGE_SHIFT);
		int r;

		if (!gw_wire_run_is_packed(&runs[i]))
			continue;
		r = gw_unpack(p->unpacker, &runs[i], at, pages, pages, err);
		if (r < 0)
			return r;
		at += runs[i].packed_bytes;
	}
	return 0;
}

int gw_apply_batch(const struct gw_wire_batch *batch, const struct gw_wire_run *runs, const struct gw_ram *ram,
                   struct gw_bitmap *touched, struct gw_apply_packed *packed, int fd, const struct gw_wait *w,
                   struct gw_error *err)
{
	struct iovec iov[GW_WIRE_RUNS_MAX];
	size_t packed_bytes = 0;
	unsigned n = 0;
	int r;

	for (unsigned i = 0; i < batch->n_runs; i++) {
		const struct gw_wire_run *run = &runs[i];

		if (run->kind == GW_WIRE_RUN_ZERO) {
			store_zeros(run, ram, touched);
			continue;
		}
		gw_bitmap_set_range(touched, run->first_page, run->n_pages);
		if (gw_wire_run_is_packed(run)) {
			if (!packed_bytes && !get_buffers(packed))
				return gw_error_set(err, ENOMEM, "out of memory");
			iov[n++] = (struct iovec){ packed->payload + packed_bytes, run->packed_bytes };
			packed_bytes += run->packed_bytes;
			continue;
		}
		iov[n++] = (struct iovec){ ram->base + (run->first_page << GW_PAGE_SHIFT),
			                   (size_t)run->n_pages << GW_PAGE_SHIFT };
	}
	r = gw_readv_full(fd, iov, n, w);
	return r < 0 || !packed_bytes ? r : unpack_all(batch, runs, ram, packed, err);
}
