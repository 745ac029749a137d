/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Packing a few pages and unpacking them: lz4, zstd, and the difference to an older version.
 *
 * Contexts belong to one thread. Nothing here looks at memory that another thread may write meanwhile: the caller
 * packs a copy that stands still, and unpacks into pages that nobody else uses.
 */
#ifndef GW_MEMORY_PACK_H
#define GW_MEMORY_PACK_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "wire/codec.h"

#define GW_PACK_CHUNK_BYTES (GW_WIRE_PACKED_PAGES_MAX * GW_WIRE_PAGE_BYTES)

struct gw_packer;

int gw_packer_new(struct gw_packer **ret);
void gw_packer_free(struct gw_packer *p); /* NULL allowed */

/* Packs `len` bytes (whole pages, at most a chunk) for a run of `kind`, LZ4 or ZSTD; `level` is zstd's. Returns the
 * packed bytes, at most `room`, or 0 when they would not fit. */
size_t gw_pack(struct gw_packer *p, enum gw_wire_run_kind kind, int level, const void *pages, size_t len, void *out,
               size_t room);

/* The same for a DELTA run: what leads from `old` to `pages`. */
size_t gw_pack_delta(struct gw_packer *p, const void *old, const void *pages, size_t len, void *out, size_t room);

struct gw_unpacker;

int gw_unpacker_new(struct gw_unpacker **ret);
void gw_unpacker_free(struct gw_unpacker *u); /* NULL allowed */

/* Unpacks a checked packed run into `pages` (run->n_pages of them). `old` holds the version before, of the same
 * pages; it is read for DELTA only and may be `pages` itself. Never writes outside of `pages`, whatever the bytes;
 * after -EPROTO (they are not exactly this run) the pages' contents are undefined. */
int gw_unpack(struct gw_unpacker *u, const struct gw_wire_run *run, const void *packed, const void *old, void *pages,
              struct gw_error *err);

#endif
