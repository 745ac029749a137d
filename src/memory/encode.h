/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a bitmap of pages to batches for the wire: runs of raw and of zero pages, nothing copied. */
#ifndef GW_MEMORY_ENCODE_H
#define GW_MEMORY_ENCODE_H

#include <stdbool.h>
#include <sys/uio.h>

#include "base/bitmap.h"
#include "memory/ram.h"
#include "wire/codec.h"

/* One batch, ready for writev: header, runs, then the pages straight from guest RAM. Large: keep one a thread. */
struct gw_batch {
	struct gw_wire_batch header;
	struct gw_wire_run runs[GW_WIRE_RUNS_MAX];
	struct iovec iov[GW_WIRE_RUNS_MAX + 2];
	unsigned n_iov;
	uint32_t region;
	uint64_t pages, zero_pages; /* in this batch, zero pages included in pages */
	uint64_t wire_bytes;
};

/* Walks the set bits of one region's bitmap that belong to one channel, in ascending order. */
struct gw_encode_cursor {
	const struct gw_ram *ram;
	const struct gw_bitmap *pages;
	uint32_t region, pass, channel, channels;
	uint64_t at; /* next page to look at */
};

/* Fills `batch` with the next pages; false when there are none left. A page is zero-tested here and its bytes
 * are read by the kernel later: a change in between is written again in the next pass (see trace.c). */
bool gw_encode_next(struct gw_encode_cursor *c, struct gw_batch *batch);

/* An OWED batch of the pages whose bits are set in words[0..n_words): bit 0 of words[0] is page `base`. At most
 * GW_WIRE_BATCH_PAGES_MAX pages. `whole`: no zero test, for the parts of a large page that must not come apart. */
void gw_encode_owed(struct gw_batch *batch, const struct gw_ram *ram, uint32_t region, uint64_t base, const uint64_t *words,
                    unsigned n_words, bool whole);

/* A barrier: the end of `pass` on a channel. */
void gw_encode_barrier(struct gw_batch *batch, uint32_t pass);

#endif
