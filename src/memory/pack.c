/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Packing a few pages and unpacking them: lz4, zstd, and the difference to an older version. */
#include "memory/pack.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <lz4.h>
#include <zstd.h>

struct gw_packer {
	ZSTD_CCtx *zstd; /* made when first needed: it takes a megabyte */
	uint64_t differences[GW_PACK_CHUNK_BYTES / sizeof(uint64_t)];
	uint64_t lz4[]; /* its state */
};

struct gw_unpacker {
	ZSTD_DCtx *zstd;
	uint64_t differences[GW_PACK_CHUNK_BYTES / sizeof(uint64_t)];
};

int gw_packer_new(struct gw_packer **ret)
{
	struct gw_packer *p = calloc(1, sizeof(*p) + (size_t)LZ4_sizeofState());

	if (!p)
		return -ENOMEM;
	*ret = p;
	return 0;
}

void gw_packer_free(struct gw_packer *p)
{
	if (!p)
		return;
	ZSTD_freeCCtx(p->zstd);
	free(p);
}

static size_t pack_lz4(struct gw_packer *p, const void *bytes, size_t len, void *out, size_t room)
{
	int n = LZ4_compress_fast_extState(p->lz4, bytes, out, (int)len, (int)room, 1);

	return n > 0 ? (size_t)n : 0;
}

static size_t pack_zstd(struct gw_packer *p, int level, const void *bytes, size_t len, void *out, size_t room)
{
	size_t n;

	if (!p->zstd)
		p->zstd = ZSTD_createCCtx();
	if (!p->zstd)
		return 0;
	n = ZSTD_compressCCtx(p->zstd, out, room, bytes, len, level);
	return ZSTD_isError(n) ? 0 : n;
}

size_t gw_pack(struct gw_packer *p, enum gw_wire_run_kind kind, int level, const void *pages, size_t len, void *out,
               size_t room)
{
	return kind == GW_WIRE_RUN_ZSTD ? pack_zstd(p, level, pages, len, out, room) :
	                                  pack_lz4(p, pages, len, out, room);
}

/* Both may be at any address: pages come from buffers. */
static void exclusive_or(void *into, const void *a, const void *b, size_t len)
{
	for (size_t i = 0; i < len; i += sizeof(uint64_t)) {
		uint64_t x, y;

		memcpy(&x, (const char *)a + i, sizeof(x));
		memcpy(&y, (const char *)b + i, sizeof(y));
		x ^= y;
		memcpy((char *)into + i, &x, sizeof(x));
	}
}

size_t gw_pack_delta(struct gw_packer *p, const void *old, const void *pages, size_t len, void *out, size_t room)
{
	exclusive_or(p->differences, old, pages, len);
	return pack_lz4(p, p->differences, len, out, room);
}

int gw_unpacker_new(struct gw_unpacker **ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

void gw_unpacker_free(struct gw_unpacker *u)
{
	if (!u)
		return;
	ZSTD_freeDCtx(u->zstd);
	free(u);
}

static bool unpack_lz4(const struct gw_wire_run *run, const void *packed, void *into, size_t len)
{
	return LZ4_decompress_safe(packed, into, run->packed_bytes, (int)len) == (int)len;
}

static bool unpack_zstd(struct gw_unpacker *u, const struct gw_wire_run *run, const void *packed, void *into, size_t len)
{
	if (!u->zstd)
		u->zstd = ZSTD_createDCtx();
	return u->zstd && ZSTD_decompressDCtx(u->zstd, into, len, packed, run->packed_bytes) == len;
}

int gw_unpack(struct gw_unpacker *u, const struct gw_wire_run *run, const void *packed, const void *old, void *pages,
              struct gw_error *err)
{
	size_t len = (size_t)run->n_pages * GW_WIRE_PAGE_BYTES;
	bool good = false;

	switch (run->kind) {
	case GW_WIRE_RUN_LZ4:
		good = unpack_lz4(run, packed, pages, len);
		break;
	case GW_WIRE_RUN_ZSTD:
		good = unpack_zstd(u, run, packed, pages, len);
		break;
	case GW_WIRE_RUN_DELTA:
		good = unpack_lz4(run, packed, u->differences, len);
		if (good)
			exclusive_or(pages, old, u->differences, len);
		break;
	}
	if (!good)
		return gw_error_set(err, EPROTO,
		                    "a packed run of pages (%" PRIu64 "+%u, kind %u) does not unpack: the bytes are damaged",
		                    run->first_page, run->n_pages, run->kind);
	return 0;
}
