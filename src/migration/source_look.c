/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the guest writes while its memory is copied: looks at the tracing, and what follows from them (N3, V1).
 *
 * Theory of operation
 *
 * A look takes the written pages from the tracing and arms them again; they are owed from then on (o->pending). There is
 * one at the end of each pass, and in a long pass one more before each piece of it is read: what was written up to then
 * goes out as it is now, with the piece, and need not go again. With writes spread evenly that halves what a pass
 * leaves. Without it a page that was written first and sent afterwards would be sent twice.
 *
 * The order that trace.c asks for is kept: armed again, then read. No page of a piece is read before its look, for each
 * channel's thread calls gw_out_before_piece() first, and the one that comes first looks while the others wait.
 *
 * Pages that were written before their piece was read (o->early) are no less busy for that: heat and the rate of writing
 * count them.
 */
#include "base/cleanup.h"
#include "migration/source_internal.h"

#define IN_PIECES_MIN_PAGES ((64u << 20) >> GW_PAGE_SHIFT) /* below, a pass is over before it would gain anything */

static_assert(GW_SENDER_PIECE_PAGES % 64 == 0, "pieces would share words of the bitmaps");

static size_t n_pieces(const struct gw_out *o, unsigned region)
{
	return (o->ram[region].n_pages + GW_SENDER_PIECE_PAGES - 1) / GW_SENDER_PIECE_PAGES;
}

int gw_out_init_looks(struct gw_out *o, unsigned region)
{
	size_t n = o->ram[region].n_pages;

	if (gw_bitmap_init(&o->window[region], n) < 0 || gw_bitmap_init(&o->early[region], n) < 0 ||
	    gw_bitmap_init(&o->looked[region], n_pieces(o, region)) < 0 || gw_heat_init(&o->heat[region], n) < 0)
		return -ENOMEM;
	return 0;
}

void gw_out_done_looks(struct gw_out *o, unsigned region)
{
	gw_bitmap_done(&o->window[region]);
	gw_bitmap_done(&o->early[region]);
	gw_bitmap_done(&o->looked[region]);
	gw_heat_done(&o->heat[region]);
}

bool gw_out_looks_before_pieces(struct gw_out *o, uint64_t pages)
{
	bool in_pieces = pages >= IN_PIECES_MIN_PAGES;

	for (unsigned i = 0; i < o->n_regions; i++)
		in_pieces = in_pieces && o->ram[i].page_size_bytes <= GW_SENDER_PIECE_PAGES << GW_PAGE_SHIFT;
	GW_LOCKED(&o->trace_lock);
	for (unsigned i = 0; i < o->n_regions; i++)
		(in_pieces ? gw_bitmap_clear_range : gw_bitmap_set_range)(&o->looked[i], 0, n_pieces(o, i));
	return in_pieces;
}

int gw_out_before_piece(void *arg, uint32_t region, uint64_t first_page, uint64_t n_pages)
{
	struct gw_out *o = arg;
	struct gw_error err = GW_ERROR_INIT;
	int r;

	GW_LOCKED(&o->trace_lock);
	if (gw_bitmap_test(&o->looked[region], first_page / GW_SENDER_PIECE_PAGES))
		return 0;
	r = gw_trace_collect_part(o->trace, region, first_page, n_pages, &o->early[region], &err);
	if (r < 0) {
		o->piece_failure = err;
		return r;
	}
	gw_bitmap_add_except(&o->pending[region], &o->early[region], &o->sending[region], first_page, n_pages);
	gw_bitmap_set_range(&o->looked[region], first_page / GW_SENDER_PIECE_PAGES, 1);
	return 0;
}

/* Written pages are owed, but for those of the running pass that are still to be read. */
static void owe_written(struct gw_out *o, unsigned region)
{
	uint64_t n_pages = o->ram[region].n_pages;

	for (size_t i = 0; i < n_pieces(o, region); i++) {
		uint64_t first = i * GW_SENDER_PIECE_PAGES, n = GW_MIN(n_pages - first, GW_SENDER_PIECE_PAGES);

		gw_bitmap_add_except(&o->pending[region], &o->window[region],
		                     gw_bitmap_test(&o->looked[region], i) ? NULL : &o->sending[region], first, n);
	}
}

int gw_out_look(struct gw_out *o, uint64_t *ret_written_bytes, struct gw_error *err)
{
	uint64_t pages = 0;

	GW_LOCKED(&o->trace_lock);
	for (unsigned i = 0; i < o->n_regions; i++) {
		int r;

		gw_bitmap_clear_range(&o->window[i], 0, o->ram[i].n_pages);
		r = gw_trace_collect(o->trace, i, false, &o->window[i], err);
		if (r < 0)
			return r;
		owe_written(o, i);
		gw_bitmap_move(&o->window[i], &o->early[i], NULL);
		gw_heat_look(&o->heat[i], &o->window[i]);
		pages += gw_bitmap_count(&o->window[i]);
	}
	*ret_written_bytes = pages << GW_PAGE_SHIFT;
	return 0;
}

int gw_out_collect(struct gw_out *o, bool quick, uint64_t *ret_bytes, struct gw_error *err)
{
	uint64_t pages = 0;

	GW_LOCKED(&o->trace_lock);
	for (unsigned i = 0; i < o->n_regions; i++) {
		int r = gw_trace_collect(o->trace, i, quick, &o->pending[i], err);

		if (r < 0)
			return r;
		pages += gw_bitmap_count(&o->pending[i]);
	}
	*ret_bytes = pages << GW_PAGE_SHIFT;
	return 0;
}
