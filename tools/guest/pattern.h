/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Page contents that can be checked: what every word of a page must be at a given generation. */
#ifndef GW_GUEST_PATTERN_H
#define GW_GUEST_PATTERN_H

#include <stddef.h>
#include <stdint.h>

#define GW_PAGE_BYTES 4096u
#define GW_PAGE_WORDS (GW_PAGE_BYTES / 8)

/*
 * Theory of operation
 *
 * Word 0 names the page, words 1 and 511 carry its generation, words 2..510 ("slots") are random
 * looking. A write raises the generation g by one and changes words 1, 511 and slot (g - 1) % 509, so
 * that a page is dirtied with three stores, and yet any older version of the page, any other page, and
 * any mix of two versions differ from what is expected: the generation that last wrote a slot follows
 * from g alone. The expected generation is kept outside the page by the caller.
 */
#define GW_PATTERN_FIRST_SLOT 2u
#define GW_PATTERN_SLOTS (GW_PAGE_WORDS - 3u)

/* Bits of a slot that are used: all of them by default, and then pages do not pack. Set before the first fill. */
static uint64_t gw_pattern_slot_bits = ~0ull;
#define GW_PATTERN_PACKABLE 0xffffull

static inline uint64_t gw_pattern_mix(uint64_t x)
{
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	x ^= x >> 32;
	return x;
}

static inline uint64_t gw_pattern_key(uint64_t seed, uint64_t page)
{
	return gw_pattern_mix(seed + page * 0x9e3779b97f4a7c15ull);
}

/* The slot's value as written by generation `gen` (0: by the first fill). */
static inline uint64_t gw_pattern_slot(uint64_t key, unsigned slot, uint32_t gen)
{
	return gw_pattern_mix(key + ((uint64_t)gen << 16 | slot) * 0xbf58476d1ce4e5b9ull) & gw_pattern_slot_bits;
}

static inline uint64_t gw_pattern_gen_word(uint64_t key, uint32_t gen)
{
	return key ^ gen;
}

static inline void gw_pattern_fill(volatile uint64_t *page, uint64_t key)
{
	page[0] = key;
	page[1] = gw_pattern_gen_word(key, 0);
	for (unsigned s = 0; s < GW_PATTERN_SLOTS; s++)
		page[GW_PATTERN_FIRST_SLOT + s] = gw_pattern_slot(key, s, 0);
	page[GW_PAGE_WORDS - 1] = gw_pattern_gen_word(key, 0);
}

/* Brings a page from generation gen - 1 to `gen`. */
static inline void gw_pattern_write(volatile uint64_t *page, uint64_t key, uint32_t gen)
{
	unsigned s = (gen - 1) % GW_PATTERN_SLOTS;

	page[1] = gw_pattern_gen_word(key, gen);
	page[GW_PATTERN_FIRST_SLOT + s] = gw_pattern_slot(key, s, gen);
	page[GW_PAGE_WORDS - 1] = gw_pattern_gen_word(key, gen);
}

/* The cheap check made before each rewrite: the four words that a lost write would leave wrong.
 * Returns the index of a wrong word, or -1. */
static inline int gw_pattern_check_quick(const volatile uint64_t *page, uint64_t key, uint32_t gen)
{
	uint64_t gen_word = gw_pattern_gen_word(key, gen);

	if (page[0] != key)
		return 0;
	if (page[1] != gen_word)
		return 1;
	if (page[GW_PAGE_WORDS - 1] != gen_word)
		return GW_PAGE_WORDS - 1;
	if (gen > 0) {
		unsigned s = (gen - 1) % GW_PATTERN_SLOTS;

		if (page[GW_PATTERN_FIRST_SLOT + s] != gw_pattern_slot(key, s, gen))
			return (int)(GW_PATTERN_FIRST_SLOT + s);
	}
	return -1;
}

/* Checks every word. Returns the index of the first wrong one, or -1. */
static inline int gw_pattern_check(const volatile uint64_t *page, uint64_t key, uint32_t gen)
{
	uint32_t newest_round = gen / GW_PATTERN_SLOTS * GW_PATTERN_SLOTS;
	int bad = gw_pattern_check_quick(page, key, gen);

	if (bad >= 0)
		return bad;
	for (unsigned s = 0; s < GW_PATTERN_SLOTS; s++) {
		/* The largest g <= gen with (g - 1) % SLOTS == s; 0 when there is none. */
		uint32_t g = newest_round + s + 1;

		if (g > gen)
			g = newest_round >= GW_PATTERN_SLOTS ? g - GW_PATTERN_SLOTS : 0;
		if (page[GW_PATTERN_FIRST_SLOT + s] != gw_pattern_slot(key, s, g))
			return (int)(GW_PATTERN_FIRST_SLOT + s);
	}
	return -1;
}

#endif
