/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a bitmap of pages to batches for the wire. */
#include "memory/encode.h"

#include <endian.h>
#include <string.h>

#include "base/cleanup.h"

static void add_raw(struct gw_batch *b, const struct gw_ram *ram, uint64_t first, uint64_t n)
{
	uint8_t *at = ram->base + (first << GW_PAGE_SHIFT);
	struct iovec *last = &b->iov[b->n_iov - 1];

	if (b->n_iov > 2 && (uint8_t *)last->iov_base + last->iov_len == at)
		last->iov_len += n << GW_PAGE_SHIFT;
	else
		b->iov[b->n_iov++] = (struct iovec){ at, n << GW_PAGE_SHIFT };
}

/* Cuts [first, first+n) into raw and zero runs (`whole`: into raw ones) until the batch is full. Returns the pages taken. */
static uint64_t add_pages(struct gw_batch *b, const struct gw_ram *ram, uint64_t first, uint64_t n, bool whole,
                          unsigned *n_runs, uint64_t *payload_pages)
{
	uint64_t done = 0;

	while (done < n && *n_runs < GW_WIRE_RUNS_MAX && *payload_pages < GW_WIRE_BATCH_PAGES_MAX) {
		const uint8_t *at = ram->base + ((first + done) << GW_PAGE_SHIFT);
		bool zero = !whole && gw_page_is_zero(at);
		uint64_t room = zero ? n - done : GW_MIN(n - done, GW_WIRE_BATCH_PAGES_MAX - *payload_pages);
		uint64_t len = 1;

		while (len < room && (!whole && gw_page_is_zero(at + (len << GW_PAGE_SHIFT))) == zero)
			len++;
		b->runs[(*n_runs)++] = (struct gw_wire_run){
			.first_page = htole64(first + done),
			.n_pages = htole32((uint32_t)len),
			.kind = htole16(zero ? GW_WIRE_RUN_ZERO : GW_WIRE_RUN_RAW),
		};
		if (zero) {
			b->zero_pages += len;
		} else {
			add_raw(b, ram, first + done, len);
			*payload_pages += len;
		}
		done += len;
	}
	return done;
}

void gw_batch_begin(struct gw_batch *b)
{
	b->pages = b->zero_pages = b->delta_pages = 0;
	memset(b->packed_pages, 0, sizeof(b->packed_pages));
	b->n_iov = 2;
}

void gw_batch_finish(struct gw_batch *b, uint16_t kind, uint32_t region, uint32_t pass, unsigned n_runs,
                     uint64_t payload_bytes)
{
	b->region = region;
	b->header = (struct gw_wire_batch){
		.magic = htole32(GW_WIRE_BATCH_MAGIC),
		.kind = htole16(kind),
		.n_runs = htole16((uint16_t)n_runs),
		.region = htole32(region),
		.pass = htole32(pass),
		.payload_bytes = htole64(payload_bytes),
	};
	b->iov[0] = (struct iovec){ &b->header, sizeof(b->header) };
	b->iov[1] = (struct iovec){ b->runs, n_runs * sizeof(b->runs[0]) };
	b->wire_bytes = sizeof(b->header) + n_runs * sizeof(b->runs[0]) + payload_bytes;
}

bool gw_encode_find(struct gw_encode_cursor *c, uint64_t *ret_first, uint64_t *ret_n)
{
	const uint64_t stripe = GW_WIRE_STRIPE_PAGES, end = c->end ? c->end : c->ram->n_pages;

	while (c->at < end) {
		uint64_t stripe_end = (c->at / stripe + 1) * stripe;

		if (gw_wire_channel_of(c->at, c->channels) == c->channel &&
		    gw_bitmap_next_run(c->pages, c->at, GW_MIN(stripe_end, end), stripe, ret_first, ret_n))
			return true;
		c->at = stripe_end;
	}
	return false;
}

bool gw_encode_next(struct gw_encode_cursor *c, struct gw_batch *b)
{
	unsigned n_runs = 0;
	uint64_t payload_pages = 0, first, n;

	gw_batch_begin(b);
	while (n_runs < GW_WIRE_RUNS_MAX && payload_pages < GW_WIRE_BATCH_PAGES_MAX && gw_encode_find(c, &first, &n)) {
		n = add_pages(b, c->ram, first, n, false, &n_runs, &payload_pages);
		b->pages += n;
		c->at = first + n;
	}
	if (n_runs == 0)
		return false;
	gw_batch_finish(b, GW_WIRE_BATCH_PAGES, c->region, c->pass, n_runs, payload_pages << GW_PAGE_SHIFT);
	return true;
}

void gw_encode_owed(struct gw_batch *b, const struct gw_ram *ram, uint32_t region, uint64_t base, const uint64_t *words,
                    unsigned n_words, bool whole)
{
	const struct gw_bitmap pages = { .words = (uint64_t *)words, .nbits = (size_t)n_words * 64 };
	uint64_t payload_pages = 0;
	unsigned n_runs = 0;
	size_t at = 0, first, n;

	gw_batch_begin(b);
	while (gw_bitmap_next_run(&pages, at, pages.nbits, pages.nbits, &first, &n)) {
		b->pages += add_pages(b, ram, base + first, n, whole, &n_runs, &payload_pages);
		at = first + n;
	}
	gw_batch_finish(b, GW_WIRE_BATCH_OWED, region, 0, n_runs, payload_pages << GW_PAGE_SHIFT);
}

void gw_encode_barrier(struct gw_batch *b, uint32_t pass)
{
	gw_batch_begin(b);
	b->n_iov = 1;
	gw_batch_finish(b, GW_WIRE_BATCH_BARRIER, 0, pass, 0, 0);
}
