/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How much a write fault opens in synchronous tracing: coarse where memory is cold, fine where it is written (V1).
 *
 * Each 2 MiB begins whole: its first write opens all of it for one fault, and costs 2 MiB that are sent once more. From
 * then on it is opened by 4 KiB, and only what is written is sent again. Where that means many faults between two
 * collects nearly everything is dirty anyway, and 64 KiB at a time spare the guest; few faults make it 4 KiB again. What
 * was left alone for several collects is cold, and whole, again.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "memory/huge.h"
#include "memory/trace_internal.h"

#define COLD_SHIFT 21
#define HOT_SHIFT 16
#define FINE_SHIFT 12
#define HOT_FAULTS 64  /* of 512: at 4 KiB each */
#define CALM_FAULTS 4  /* of 32: at 64 KiB each */
#define COLD_COLLECTS 8

int gw_chunks_init(struct gw_chunks *c, const struct gw_trace_range *range)
{
	c->size_bytes = range->size_bytes;
	c->smallest = range->page_size_bytes;
	c->fixed = range->chunk_bytes ? GW_MAX(range->chunk_bytes, range->page_size_bytes) : 0;
	c->n_blocks = (size_t)(range->size_bytes / GW_HUGE_BYTES + 1);
	c->blocks = calloc(c->n_blocks, sizeof(*c->blocks));
	if (!c->blocks)
		return -ENOMEM;
	for (size_t i = 0; i < c->n_blocks; i++)
		c->blocks[i].shift = COLD_SHIFT;
	return 0;
}

void gw_chunks_done(struct gw_chunks *c)
{
	free(c->blocks);
	*c = (struct gw_chunks){ .blocks = NULL };
}

void gw_chunks_fault(struct gw_chunks *c, uint64_t offset, uint64_t *ret_offset, uint64_t *ret_len)
{
	struct gw_chunk_block *b = &c->blocks[offset / GW_HUGE_BYTES];
	uint64_t size = c->fixed ? c->fixed : GW_MAX(1ull << b->shift, c->smallest);

	if (b->faults < UINT16_MAX)
		b->faults++;
	*ret_offset = offset / size * size;
	*ret_len = GW_MIN(size, c->size_bytes - *ret_offset);
}

static uint8_t next_shift(const struct gw_chunk_block *b)
{
	if (b->idle >= COLD_COLLECTS)
		return COLD_SHIFT;
	if (b->faults == 0)
		return b->shift;
	switch (b->shift) {
	case FINE_SHIFT:
		return b->faults >= HOT_FAULTS ? HOT_SHIFT : FINE_SHIFT;
	case HOT_SHIFT:
		return b->faults <= CALM_FAULTS ? FINE_SHIFT : HOT_SHIFT;
	default:
		return FINE_SHIFT;
	}
}

void gw_chunks_adapt(struct gw_chunks *c, size_t first, size_t end)
{
	for (size_t i = first; i < GW_MIN(end, c->n_blocks); i++) {
		struct gw_chunk_block *b = &c->blocks[i];

		b->idle = b->faults ? 0 : (uint8_t)GW_MIN(b->idle + 1, COLD_COLLECTS);
		b->shift = next_shift(b);
		b->faults = 0;
	}
}
