/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How busily each page is written: what stays behind in a pass, and what goes first after the switch (N4, N6). */
#ifndef GW_MEMORY_HEAT_H
#define GW_MEMORY_HEAT_H

#include <stdint.h>

#include "base/bitmap.h"

#define GW_HEAT_MAX 3 /* of one page */
#define GW_HEAT_STRIPE_PAGES 512 /* 2 MiB */

/* A counter from 0 to GW_HEAT_MAX for each page, as two planes of bits so that 64 are moved at once: one up for each
 * look at which the page was found written, one down for each at which it was not. A page is hot with 2 and more:
 * it was written between each two of the last looks, or cools down from more than that. Not locked. */
struct gw_heat {
	struct gw_bitmap high, low; /* high is also the set of hot pages */
};

int gw_heat_init(struct gw_heat *h, size_t n_pages); /* all cold; -ENOMEM */
void gw_heat_done(struct gw_heat *h);

/* One look: what was written since the last one. */
void gw_heat_look(struct gw_heat *h, const struct gw_bitmap *written);

static inline unsigned gw_heat_of(const struct gw_heat *h, size_t page)
{
	return 2u * gw_bitmap_test(&h->high, page) + gw_bitmap_test(&h->low, page);
}

/* The sum over the pages of one stripe, 0 to GW_HEAT_STRIPE_PAGES * GW_HEAT_MAX. */
unsigned gw_heat_stripe(const struct gw_heat *h, size_t stripe);

#endif
