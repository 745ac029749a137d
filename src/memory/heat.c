/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How busily each page is written: counters in planes of bits. */
#include "memory/heat.h"

#include <errno.h>

#define STRIPE_WORDS (GW_HEAT_STRIPE_PAGES / 64)

int gw_heat_init(struct gw_heat *h, size_t n_pages)
{
	if (gw_bitmap_init(&h->high, n_pages) < 0)
		return -ENOMEM;
	if (gw_bitmap_init(&h->low, n_pages) < 0) {
		gw_bitmap_done(&h->high);
		return -ENOMEM;
	}
	return 0;
}

void gw_heat_done(struct gw_heat *h)
{
	gw_bitmap_done(&h->high);
	gw_bitmap_done(&h->low);
}

void gw_heat_look(struct gw_heat *h, const struct gw_bitmap *written)
{
	uint64_t *high = h->high.words, *low = h->low.words;

	for (size_t i = 0; i < h->high.nbits / 64 + 1; i++) {
		uint64_t w = written->words[i], a = high[i], b = low[i];

		if (!(w | a | b))
			continue;
		/*      up: 0 1 2 3 -> 1 2 3 3;   down: 0 1 2 3 -> 0 0 1 2 */
		high[i] = (w & (a | b)) | (~w & a & b);
		low[i] = (w & (a | ~b)) | (~w & a & ~b);
	}
}

unsigned gw_heat_stripe(const struct gw_heat *h, size_t stripe)
{
	size_t end = h->high.nbits / 64 + 1, from = stripe * STRIPE_WORDS;
	unsigned sum = 0;

	for (size_t i = from; i < end && i < from + STRIPE_WORDS; i++)
		sum += 2u * (unsigned)__builtin_popcountll(h->high.words[i]) +
		       (unsigned)__builtin_popcountll(h->low.words[i]);
	return sum;
}
