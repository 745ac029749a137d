/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Seeded random numbers for simulations: the same seed gives the same run on every machine. */
#ifndef GW_TESTS_SIM_RNG_H
#define GW_TESTS_SIM_RNG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

struct sim_rng {
	uint64_t state;
};

/* splitmix64 (Steele, Lea, Flood 2014). */
static inline uint64_t sim_next(struct sim_rng *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static inline unsigned sim_below(struct sim_rng *r, unsigned n)
{
	return (unsigned)(sim_next(r) % n);
}

static inline bool sim_one_in(struct sim_rng *r, unsigned n)
{
	return sim_below(r, n) == 0;
}

/* GW_SEED in the environment replaces a range of seeds by that one. */
static inline void sim_seeds(uint64_t *first, uint64_t *count)
{
	const char *text = getenv("GW_SEED");

	if (!text)
		return;
	*first = strtoull(text, NULL, 0);
	*count = 1;
}

#endif
