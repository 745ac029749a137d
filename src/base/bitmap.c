/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A bitmap of pages: ranges and runs, a word at a time. */
#include "base/bitmap.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"

int gw_bitmap_init(struct gw_bitmap *b, size_t nbits)
{
	uint64_t *words = calloc(nbits / 64 + 1, sizeof(*words));

	if (!words)
		return -ENOMEM;
	b->words = words;
	b->nbits = nbits;
	return 0;
}

void gw_bitmap_done(struct gw_bitmap *b)
{
	free(b->words);
	b->words = NULL;
	b->nbits = 0;
}

static uint64_t mask_from_to(size_t lo, size_t hi) /* bits lo..hi-1 of one word, hi <= 64 */
{
	uint64_t m = ~0ULL << lo;

	return hi == 64 ? m : m & ~(~0ULL << hi);
}

static void change_range(struct gw_bitmap *b, size_t first, size_t n, bool set)
{
	size_t end = first + n;

	if (first >= b->nbits)
		return;
	if (end > b->nbits || end < first)
		end = b->nbits;
	while (first < end) {
		size_t word = first / 64, lo = first % 64;
		size_t hi = end - word * 64 >= 64 ? 64 : end - word * 64;
		uint64_t m = mask_from_to(lo, hi);

		if (set)
			b->words[word] |= m;
		else
			b->words[word] &= ~m;
		first = (word + 1) * 64;
	}
}

void gw_bitmap_set_range(struct gw_bitmap *b, size_t first, size_t n)
{
	change_range(b, first, n, true);
}

void gw_bitmap_clear_range(struct gw_bitmap *b, size_t first, size_t n)
{
	change_range(b, first, n, false);
}

size_t gw_bitmap_count(const struct gw_bitmap *b)
{
	size_t i, n = 0;

	for (i = 0; i < b->nbits / 64 + 1; i++)
		n += __builtin_popcountll(b->words[i]);
	return n;
}

size_t gw_bitmap_count_both(const struct gw_bitmap *a, const struct gw_bitmap *b)
{
	size_t i, n = 0;

	for (i = 0; i < a->nbits / 64 + 1; i++)
		n += __builtin_popcountll(a->words[i] & b->words[i]);
	return n;
}

void gw_bitmap_add(struct gw_bitmap *into, const struct gw_bitmap *from)
{
	for (size_t i = 0; i < into->nbits / 64 + 1; i++)
		into->words[i] |= from->words[i];
}

void gw_bitmap_add_except(struct gw_bitmap *into, const struct gw_bitmap *from, const struct gw_bitmap *except,
                          size_t first, size_t n)
{
	for (size_t i = first / 64; i < (first + n + 63) / 64; i++) {
		uint64_t mask = mask_from_to(0, GW_MIN(first + n - i * 64, (size_t)64));

		into->words[i] |= from->words[i] & ~(except ? except->words[i] : 0) & mask;
	}
}

void gw_bitmap_move(struct gw_bitmap *into, struct gw_bitmap *from, const struct gw_bitmap *stay)
{
	for (size_t i = 0; i < into->nbits / 64 + 1; i++) {
		uint64_t keep = stay ? stay->words[i] : 0;

		into->words[i] |= from->words[i] & ~keep;
		from->words[i] &= keep;
	}
}

/* First bit at or after `from` whose value is `set`; `end` when there is none before it. */
static size_t find(const struct gw_bitmap *b, size_t from, size_t end, bool set)
{
	while (from < end) {
		uint64_t w = b->words[from / 64];

		if (!set)
			w = ~w;
		w &= ~0ULL << (from % 64);
		if (w) {
			from = from / 64 * 64 + __builtin_ctzll(w);
			return from < end ? from : end;
		}
		from = (from / 64 + 1) * 64;
	}
	return end;
}

bool gw_bitmap_next_run(const struct gw_bitmap *b, size_t from, size_t end, size_t max, size_t *ret_first,
                        size_t *ret_n)
{
	size_t first, last;

	if (end > b->nbits)
		end = b->nbits;
	first = find(b, from, end, true);
	if (first >= end)
		return false;
	if (end - first > max)
		end = first + max;
	last = find(b, first, end, false);
	*ret_first = first;
	*ret_n = last - first;
	return true;
}
