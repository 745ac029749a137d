/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest RAM as the engine's process sees it: the backing files, mapped shared. */
#ifndef GW_MEMORY_RAM_H
#define GW_MEMORY_RAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bitmap.h"
#include "base/error.h"
#include "wire/wire.h"

#define GW_PAGE_BYTES GW_WIRE_PAGE_BYTES
#define GW_PAGE_SHIFT GW_WIRE_PAGE_SHIFT

/* One region. All fields are set by gw_ram_map and read-only afterwards. */
struct gw_ram {
	int fd;
	uint8_t *base;
	uint64_t size_bytes;
	uint64_t n_pages;
	uint64_t page_size_bytes; /* of the backing */
	bool writable;
};

/* Maps the file at `path`. The file must be exactly `size_bytes` long (rounded up to its page size). */
int gw_ram_map(struct gw_ram *ram, const char *path, uint64_t size_bytes, uint64_t page_size_bytes,
               bool writable, struct gw_error *err);
void gw_ram_unmap(struct gw_ram *ram);

/* Creates the (sparse) file for gw_ram_map, mode 0600; fails when it exists. */
int gw_ram_create(const char *path, uint64_t size_bytes, uint64_t page_size_bytes, struct gw_error *err);

/* Sets in `into` the pages that the file holds (holes were never touched: zeros). */
int gw_ram_find_data(const struct gw_ram *ram, struct gw_bitmap *into, struct gw_error *err);

/* First touch, ahead of the transfer: allocates file pages and this process's page tables for the range.
 * Stops between pieces once *stop is set. */
int gw_ram_populate(const struct gw_ram *ram, uint64_t first_page, uint64_t n_pages, const atomic_bool *stop,
                    struct gw_error *err);

/* XXH3-128 of each block of `block_pages` pages from first_page on; the last may be short. A hole counts
 * as zeros and is not allocated by reading it. */
int gw_ram_digests(const struct gw_ram *ram, uint64_t first_page, uint32_t block_pages, uint32_t n_blocks,
                   struct gw_wire_digest *ret, struct gw_error *err);

/* Is the page all zeros? (vectorised; one cache line decides for most pages that are not) */
bool gw_page_is_zero(const void *page);

#endif
