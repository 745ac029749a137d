/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The cache behind DELTA runs. */
#include "memory/delta.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "wire/codec.h"

struct gw_delta_slot {
	uint64_t key;  /* 0: empty */
	uint32_t pass; /* when it was last sent */
};

int gw_delta_init(struct gw_delta_cache *c, uint64_t bytes, uint32_t channels)
{
	size_t n = bytes / GW_WIRE_PAGE_BYTES;

	*c = (struct gw_delta_cache){ .channels = channels };
	if (n == 0)
		return 0;
	c->slots = calloc(n, sizeof(*c->slots));
	c->pages = mmap(NULL, n * GW_WIRE_PAGE_BYTES, PROT_READ | PROT_WRITE,
	                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!c->slots || c->pages == MAP_FAILED) {
		free(c->slots);
		if (c->pages != MAP_FAILED)
			munmap(c->pages, n * GW_WIRE_PAGE_BYTES);
		*c = (struct gw_delta_cache){ .channels = channels };
		return -ENOMEM;
	}
	c->n_slots = n;
	return 0;
}

void gw_delta_done(struct gw_delta_cache *c)
{
	if (c->pages)
		munmap(c->pages, c->n_slots * GW_WIRE_PAGE_BYTES);
	free(c->slots);
	*c = (struct gw_delta_cache){ 0 };
}

static uint64_t key_of(uint32_t region, uint64_t page)
{
	return ((uint64_t)(region + 1) << 48) | page;
}

/* Neighbours have neighbouring slots: a hot set in one piece fits when it is not larger than the cache. */
static size_t slot_of(const struct gw_delta_cache *c, uint64_t page)
{
	uint64_t stripe = page / GW_WIRE_STRIPE_PAGES / c->channels;

	return (stripe * GW_WIRE_STRIPE_PAGES + page % GW_WIRE_STRIPE_PAGES) % c->n_slots;
}

uint8_t *gw_delta_find(struct gw_delta_cache *c, uint32_t region, uint64_t page, uint32_t pass)
{
	size_t i;

	if (!c->n_used)
		return NULL;
	i = slot_of(c, page);
	if (c->slots[i].key != key_of(region, page))
		return NULL;
	c->slots[i].pass = pass;
	return c->pages + i * GW_WIRE_PAGE_BYTES;
}

uint8_t *gw_delta_add(struct gw_delta_cache *c, uint32_t region, uint64_t page, uint32_t pass)
{
	struct gw_delta_slot *s;
	size_t i;

	if (!c->n_slots)
		return NULL;
	i = slot_of(c, page);
	s = &c->slots[i];
	if (s->key && s->pass + 1 >= pass)
		return NULL;
	c->n_used += s->key == 0;
	*s = (struct gw_delta_slot){ key_of(region, page), pass };
	return c->pages + i * GW_WIRE_PAGE_BYTES;
}

void gw_delta_drop(struct gw_delta_cache *c, uint32_t region, uint64_t first, uint64_t n)
{
	for (uint64_t page = first; page < first + n && c->n_used; page++) {
		struct gw_delta_slot *s = &c->slots[slot_of(c, page)];

		if (s->key == key_of(region, page)) {
			s->key = 0;
			c->n_used--;
		}
	}
}

void gw_delta_drop_all(struct gw_delta_cache *c)
{
	if (!c->n_used)
		return;
	memset(c->slots, 0, c->n_slots * sizeof(*c->slots));
	c->n_used = 0;
}
