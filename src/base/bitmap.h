/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A bitmap of pages. Not locked: the owner says who may touch it when. */
#ifndef GW_BASE_BITMAP_H
#define GW_BASE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gw_bitmap {
	uint64_t *words;
	size_t nbits;
};

int gw_bitmap_init(struct gw_bitmap *b, size_t nbits); /* all clear; -ENOMEM */
void gw_bitmap_done(struct gw_bitmap *b);

static inline bool gw_bitmap_test(const struct gw_bitmap *b, size_t bit)
{
	return b->words[bit / 64] >> (bit % 64) & 1;
}

void gw_bitmap_set_range(struct gw_bitmap *b, size_t first, size_t n);
void gw_bitmap_clear_range(struct gw_bitmap *b, size_t first, size_t n);
size_t gw_bitmap_count(const struct gw_bitmap *b);

/* The next four want bitmaps of one size. */
size_t gw_bitmap_count_both(const struct gw_bitmap *a, const struct gw_bitmap *b); /* bits set in both */
void gw_bitmap_add(struct gw_bitmap *into, const struct gw_bitmap *from);
/* Adds the bits of [first, first + n) that are in `from` and not in `except` (NULL: all); first is a multiple of 64. */
void gw_bitmap_add_except(struct gw_bitmap *into, const struct gw_bitmap *from, const struct gw_bitmap *except,
                          size_t first, size_t n);
/* Moves the set bits of `from` over to `into`, except those that `stay` has too (NULL: none). */
void gw_bitmap_move(struct gw_bitmap *into, struct gw_bitmap *from, const struct gw_bitmap *stay);

/* The first run of set bits at or after `from` and before `end`. Returns false when there is none;
 * otherwise *ret_first and *ret_n describe the run, cut at `end` and at `max` bits. */
bool gw_bitmap_next_run(const struct gw_bitmap *b, size_t from, size_t end, size_t max,
                        size_t *ret_first, size_t *ret_n);

#endif
