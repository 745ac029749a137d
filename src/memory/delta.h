/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The cache behind DELTA runs: contents of pages as they were sent last.
 *
 * Theory of operation: a difference is right only when it leads from exactly what the target holds. So a page is in
 * the cache if, and only if, its bytes here are those of its last version on the wire:
 *
 * - what is sent of a cached page is made from the copy in the cache, never from guest memory, which may change
 *   between two looks at it;
 * - a version that goes out any other way (zeros, raw from guest memory) takes the page out of the cache;
 * - one thread sends all versions of a page, in order, over one connection, and a version that was not sent ends the
 *   migration: nothing is ever sent on top of a version that got lost.
 *
 * One cache belongs to one channel and its thread. Each page has one slot where it may be; a page that is used (sent in
 * this pass or the one before) is not driven out by another, so that of a hot set larger than the cache a part stays.
 */
#ifndef GW_MEMORY_DELTA_H
#define GW_MEMORY_DELTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gw_delta_cache {
	uint8_t *pages;               /* the slots' contents; memory is used when a slot first is */
	struct gw_delta_slot *slots;
	size_t n_slots, n_used;
	uint32_t channels;
};

/* For one of `channels` channels, `bytes` of contents; 0 bytes: nothing is ever found. 0 or -ENOMEM. */
int gw_delta_init(struct gw_delta_cache *c, uint64_t bytes, uint32_t channels);
void gw_delta_done(struct gw_delta_cache *c);

/* The version that was sent last, which the caller overwrites with what it sends next; NULL: not known. */
uint8_t *gw_delta_find(struct gw_delta_cache *c, uint32_t region, uint64_t page, uint32_t pass);

/* A place for a page that is not in the cache, to be filled with what is sent; NULL when its slot is in use. */
uint8_t *gw_delta_add(struct gw_delta_cache *c, uint32_t region, uint64_t page, uint32_t pass);

/* [first, first+n) goes out another way. */
void gw_delta_drop(struct gw_delta_cache *c, uint32_t region, uint64_t first, uint64_t n);
void gw_delta_drop_all(struct gw_delta_cache *c);

#endif
