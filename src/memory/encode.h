/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a bitmap of pages to batches for the wire: runs of raw and of zero pages, nothing copied; or packed ones. */
#ifndef GW_MEMORY_ENCODE_H
#define GW_MEMORY_ENCODE_H

#include <stdbool.h>
#include <sys/uio.h>

#include "base/bitmap.h"
#include "engine/compress.h"
#include "memory/delta.h"
#include "memory/pack.h"
#include "memory/ram.h"
#include "wire/codec.h"

#define GW_PACKED_BATCH_BYTES (64u * GW_PAGE_BYTES) /* what a packed batch holds of contents: it goes while the next is made */

/* One batch, ready for writev: header, runs, then the pages straight from guest RAM, or packed. Large: keep one a
 * thread. */
struct gw_batch {
	struct gw_wire_batch header;
	struct gw_wire_run runs[GW_WIRE_RUNS_MAX];
	struct iovec iov[GW_WIRE_RUNS_MAX + 2];
	unsigned n_iov;
	uint32_t region;
	uint64_t pages, zero_pages; /* in this batch, zero pages included in pages */
	uint64_t delta_pages;
	uint64_t packed_pages[GW_COMPRESS_METHODS]; /* by lz4, ...; none at [OFF] */
	uint64_t wire_bytes;
};

/* Walks the set bits of one region's bitmap that belong to one channel, in ascending order. */
struct gw_encode_cursor {
	const struct gw_ram *ram;
	const struct gw_bitmap *pages;
	uint32_t region, pass, channel, channels;
	uint64_t at;  /* next page to look at */
	uint64_t end; /* pages from here on are left alone; 0: to the end of the region */
};

/* Fills `batch` with the next pages; false when there are none left. A page is zero-tested here and its bytes
 * are read by the kernel later: a change in between is written again in the next pass (see trace.c). */
bool gw_encode_next(struct gw_encode_cursor *c, struct gw_batch *batch);

/* An OWED batch of the pages whose bits are set in words[0..n_words): bit 0 of words[0] is page `base`. At most
 * GW_WIRE_BATCH_PAGES_MAX pages. `whole`: no zero test, for the parts of a large page that must not come apart. */
void gw_encode_owed(struct gw_batch *batch, const struct gw_ram *ram, uint32_t region, uint64_t base, const uint64_t *words,
                    unsigned n_words, bool whole);

/* What a channel needs to pack. */
struct gw_encode_packed {
	/* set by init */
	struct gw_compress compress;
	struct gw_delta_cache cache;
	/* made when first needed */
	struct gw_packer *packer;
	uint8_t *copy;    /* a chunk that stands still */
	size_t copy_bytes; /* of the last one; 0: the last batch had none */
	uint8_t *old;     /* what its pages were when they were sent last */
	uint8_t *out;     /* GW_PACKED_BATCH_BYTES: the payload that does not come straight from guest RAM */
	size_t out_bytes;
	uint64_t from_bytes, to_bytes; /* by the present method; for the window */
};

/* 0 or -ENOMEM. The cache takes `cache_bytes` of memory at most. */
int gw_encode_packed_init(struct gw_encode_packed *e, enum gw_compress_policy policy, uint64_t cache_bytes,
                          uint32_t channels);
void gw_encode_packed_done(struct gw_encode_packed *e);

/* As gw_encode_next, as e->compress wants it. The batch is to be sent before the next call: it points into `e`. A
 * failure to get memory makes it go raw. */
bool gw_encode_packed_next(struct gw_encode_packed *e, struct gw_encode_cursor *c, struct gw_batch *batch);

/* Packs some pages of a batch that gw_encode_next made, to see how method `m` does; tells e->compress. */
void gw_encode_sample(struct gw_encode_packed *e, const struct gw_batch *batch, enum gw_compress_method m);

/* For both ways of encoding. */
void gw_batch_begin(struct gw_batch *b);
void gw_batch_finish(struct gw_batch *b, uint16_t kind, uint32_t region, uint32_t pass, unsigned n_runs,
                     uint64_t payload_bytes);
/* The next set bits from c->at on, of the cursor's channel and within one stripe; false: none are left. */
bool gw_encode_find(struct gw_encode_cursor *c, uint64_t *ret_first, uint64_t *ret_n);

/* A barrier: the end of `pass` on a channel. */
void gw_encode_barrier(struct gw_batch *batch, uint32_t pass);

#endif
