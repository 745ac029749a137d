/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every check of what comes from another host: what is good, and each field out of its limits. */
#include <endian.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "wire/codec.h"

static const struct gw_wire_id some_id = { .bytes = { 0x3f, 0x2a, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0xff } };

/* Two regions; the second is no multiple of a stripe. */
static const struct gw_wire_ram ram = { .n_regions = 2, .region_pages = { 1u << 20, 1000 }, .channels = 4 };
static const struct gw_wire_ram one_channel = { .n_regions = 2, .region_pages = { 1u << 22, 1000 }, .channels = 1 };
/* The largest RAM there is: additions that wrap around would show. */
static const struct gw_wire_ram huge = { .n_regions = 1, .region_pages = { UINT64_MAX }, .channels = 1 };

static int hello_with(size_t offset, const void *value, size_t len, struct gw_wire_welcome *ret)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_wire_hello h;
	int r;

	gw_wire_hello_init(&h, GW_WIRE_ROLE_CONTROL, &some_id);
	memcpy((char *)&h + offset, value, len);
	r = gw_wire_hello_check(&h, ret, &err);
	assert_int_equal((int32_t)le32toh((uint32_t)ret->result), r);
	assert_memory_equal(ret->magic, "GODWIT\r\n", 8);
	if (r < 0) {
		assert_int_equal(err.code, r);
		assert_true(err.text[0]);
		assert_int_equal(ret->version, 0);
		assert_int_equal(ret->features, 0);
	}
	return r;
}

#define HELLO_WITH(field, value, ret)                                                             \
	__extension__({                                                                           \
		struct gw_wire_hello h_ = { .field = value };                                     \
		hello_with(offsetof(struct gw_wire_hello, field), &h_.field, sizeof(h_.field), ret); \
	})

static void test_hello(void **state)
{
	struct gw_wire_welcome w;
	uint32_t len = 9;

	assert_int_equal(hello_with(0, "G", 1, &w), 0);
	assert_int_equal(le16toh(w.version), GW_WIRE_VERSION_MAX);
	assert_int_equal(le32toh(w.features), GW_WIRE_FEATURES);
	assert_int_equal(gw_wire_welcome_check(&w, &len, NULL), 0);
	assert_int_equal(len, 0);
	for (unsigned role = 0; role < 256; role++)
		assert_int_equal(HELLO_WITH(role, (uint8_t)role, &w),
		                 role >= GW_WIRE_ROLE_CONTROL && role <= GW_WIRE_ROLE_RECOVER ? 0 : -EPROTO);
	for (size_t i = 0; i < GW_WIRE_MAGIC_LEN; i++)
		assert_int_equal(hello_with(i, "x", 1, &w), -EPROTO);
	assert_int_equal(hello_with(6, "\n\n", 2, &w), -EPROTO); /* mangled by a text-mode transfer */
	/* A peer that can do more gets what both can. */
	assert_int_equal(HELLO_WITH(features, 0xffffffffu, &w), 0);
	assert_int_equal(le32toh(w.features), GW_WIRE_FEATURES);
	assert_int_equal(HELLO_WITH(features, 0, &w), 0);
	assert_int_equal(w.features, 0);
}

static void test_versions(void **state)
{
	static const struct {
		uint16_t min, max;
		int result;
	} rows[] = {
		{ GW_WIRE_VERSION_MIN, GW_WIRE_VERSION_MAX, 0 },
		{ 0, 0xffff, 0 },
		{ GW_WIRE_VERSION_MAX, 0xffff, 0 },
		{ GW_WIRE_VERSION_MAX + 1, 0xffff, -EPROTONOSUPPORT },
		{ 0, GW_WIRE_VERSION_MIN - 1, -EPROTONOSUPPORT },
		{ GW_WIRE_VERSION_MAX, 0, -EPROTONOSUPPORT },
	};

	for (size_t i = 0; i < GW_ARRAY_SIZE(rows); i++) {
		struct gw_wire_welcome w;
		uint16_t both[2] = { htole16(rows[i].min), htole16(rows[i].max) };

		assert_int_equal(hello_with(offsetof(struct gw_wire_hello, version_min), both, sizeof(both), &w),
		                 rows[i].result);
		if (rows[i].result == 0)
			assert_int_equal(le16toh(w.version), GW_WIRE_VERSION_MAX);
	}
}

static void test_welcome(void **state)
{
	struct gw_wire_welcome good = { .version = htole16(GW_WIRE_VERSION_MAX) }, w;
	struct gw_error err = GW_ERROR_INIT;
	uint32_t len;

	memcpy(good.magic, GW_WIRE_MAGIC, GW_WIRE_MAGIC_LEN);
	assert_int_equal(gw_wire_welcome_check(&good, &len, &err), 0);
	w = good;
	w.magic[0] = 'g';
	assert_int_equal(gw_wire_welcome_check(&w, &len, &err), -EPROTO);
	w = good;
	w.version = htole16(GW_WIRE_VERSION_MAX + 1);
	assert_int_equal(gw_wire_welcome_check(&w, &len, &err), -EPROTONOSUPPORT);
	w.version = 0;
	assert_int_equal(gw_wire_welcome_check(&w, &len, &err), -EPROTONOSUPPORT);
	/* A refusal keeps its code and says how much text follows; nonsense becomes EPROTO, never success. */
	static const struct {
		int32_t result;
		int code;
	} refusals[] = { { -EACCES, -EACCES }, { -4095, -4095 }, { -4096, -EPROTO }, { 1, -EPROTO },
		         { INT32_MIN, -EPROTO }, { INT32_MAX, -EPROTO } };
	for (size_t i = 0; i < GW_ARRAY_SIZE(refusals); i++) {
		w = good;
		w.result = (int32_t)htole32((uint32_t)refusals[i].result);
		w.text_length = htole16(GW_WIRE_TEXT_MAX);
		assert_int_equal(gw_wire_welcome_check(&w, &len, &err), refusals[i].code);
		assert_int_equal(len, GW_WIRE_TEXT_MAX);
	}
	w.text_length = htole16(GW_WIRE_TEXT_MAX + 1);
	assert_int_equal(gw_wire_welcome_check(&w, &len, &err), -EPROTO);
	assert_int_equal(len, 0);
}

static int frame(uint32_t type, uint32_t length)
{
	struct gw_wire_frame f = { .type = htole32(type), .length = htole32(length) };
	struct gw_error err = GW_ERROR_INIT;
	int r = gw_wire_frame_check(&f, &err);

	assert_int_equal(f.type, type);
	assert_int_equal(f.length, length);
	assert_true(r == 0 || err.text[0]);
	return r;
}

static void test_frames(void **state)
{
	for (uint32_t type = 1; type < GW_WIRE_FRAME_TYPES; type++) {
		const struct gw_wire_frame_row *row = &gw_wire_frame_table[type];

		assert_non_null(row->name);
		assert_true(row->max_length >= row->min_length && row->max_length <= GW_WIRE_JSON_MAX);
		assert_int_equal(frame(type, row->min_length), 0);
		assert_int_equal(frame(type, row->max_length), 0);
		if (row->min_length)
			assert_int_equal(frame(type, row->min_length - 1), -EPROTO);
		assert_int_equal(frame(type, row->max_length + 1), -EPROTO);
		assert_int_equal(frame(type, UINT32_MAX), -EPROTO);
		assert_string_equal(gw_wire_frame_name(type), row->name);
	}
	assert_int_equal(frame(0, 8), -EPROTO);
	assert_int_equal(frame(GW_WIRE_FRAME_TYPES, 8), -EPROTO);
	assert_int_equal(frame(UINT32_MAX, 8), -EPROTO);
	assert_string_equal(gw_wire_frame_name(0), "unknown");
	assert_string_equal(gw_wire_frame_name(UINT32_MAX), "unknown");
	/* Lists are whole numbers of their items. */
	assert_int_equal(gw_wire_frame_table[GW_WIRE_LAYOUT].max_length % sizeof(struct gw_wire_extent), 0);
	assert_int_equal(gw_wire_frame_table[GW_WIRE_DIGESTS].max_length % sizeof(struct gw_wire_digest), 0);
}

static int batch(uint32_t magic, uint16_t kind, uint16_t n_runs, uint32_t region, uint64_t payload)
{
	struct gw_wire_batch b = { .magic = htole32(magic), .kind = htole16(kind), .n_runs = htole16(n_runs),
		                   .region = htole32(region), .pass = htole32(7), .payload_bytes = htole64(payload) };
	struct gw_error err = GW_ERROR_INIT;
	int r = gw_wire_batch_check(&b, &ram, &err);

	assert_int_equal(b.pass, 7);
	assert_true(r == 0 || err.text[0]);
	return r;
}

static void test_batches(void **state)
{
	const uint32_t m = GW_WIRE_BATCH_MAGIC;
	const uint64_t most = (uint64_t)GW_WIRE_BATCH_PAGES_MAX * GW_WIRE_PAGE_BYTES;

	assert_int_equal(batch(m, GW_WIRE_BATCH_PAGES, 1, 0, 0), 0);
	assert_int_equal(batch(m, GW_WIRE_BATCH_PAGES, GW_WIRE_RUNS_MAX, 1, most), 0);
	assert_int_equal(batch(m, GW_WIRE_BATCH_BARRIER, 0, 0, 0), 0);
	assert_int_equal(batch(m ^ 1, GW_WIRE_BATCH_PAGES, 1, 0, 0), -EPROTO);
	assert_int_equal(batch(0, GW_WIRE_BATCH_BARRIER, 0, 0, 0), -EPROTO);
	assert_int_equal(batch(m, 0, 1, 0, 0), -EPROTO);
	assert_int_equal(batch(m, 3, 1, 0, 0), -EPROTO);
	assert_int_equal(batch(m, GW_WIRE_BATCH_PAGES, 0, 0, 0), -EPROTO);
	assert_int_equal(batch(m, GW_WIRE_BATCH_PAGES, GW_WIRE_RUNS_MAX + 1, 0, 0), -EPROTO);
	assert_int_equal(batch(m, GW_WIRE_BATCH_PAGES, 0xffff, 0, 0), -EPROTO);
	assert_int_equal(batch(m, GW_WIRE_BATCH_PAGES, 1, 2, 0), -EPROTO);
	assert_int_equal(batch(m, GW_WIRE_BATCH_PAGES, 1, UINT32_MAX, 0), -EPROTO);
	assert_int_equal(batch(m, GW_WIRE_BATCH_PAGES, 1, 0, most + 1), -EPROTO);
	assert_int_equal(batch(m, GW_WIRE_BATCH_PAGES, 1, 0, UINT64_MAX), -EPROTO);
	assert_int_equal(batch(m, GW_WIRE_BATCH_BARRIER, 1, 0, 0), -EPROTO);
	assert_int_equal(batch(m, GW_WIRE_BATCH_BARRIER, 0, 0, 4096), -EPROTO);
}

/* Runs whose payload adds up, unless `payload_off` says otherwise. */
static int runs_off(const struct gw_wire_ram *r, uint32_t region, uint32_t channel, int64_t payload_off, size_t n,
                    const struct gw_wire_run *list)
{
	struct gw_wire_batch b = { .kind = GW_WIRE_BATCH_PAGES, .n_runs = (uint16_t)n, .region = region };
	struct gw_wire_run runs[8];
	struct gw_error err = GW_ERROR_INIT;
	int result;

	for (size_t i = 0; i < n; i++) {
		runs[i] = (struct gw_wire_run){ htole64(list[i].first_page), htole32(list[i].n_pages),
			                        htole16(list[i].kind), htole16(list[i].packed_bytes) };
		b.payload_bytes += gw_wire_run_bytes(&list[i]);
	}
	b.payload_bytes += (uint64_t)payload_off;
	result = gw_wire_runs_check(runs, &b, r, channel, &err);
	assert_true(result == 0 || (result == -EPROTO && err.text[0]));
	return result;
}

#define RUNS(r, region, channel, ...)                                                              \
	runs_off(r, region, channel, 0, GW_ARRAY_SIZE(((struct gw_wire_run[]){ __VA_ARGS__ })),   \
	         (struct gw_wire_run[]){ __VA_ARGS__ })
#define RAW(first, n) { first, n, GW_WIRE_RUN_RAW }
#define ZERO(first, n) { first, n, GW_WIRE_RUN_ZERO }
#define STRIPE GW_WIRE_STRIPE_PAGES

static void test_runs(void **state)
{
	assert_int_equal(RUNS(&ram, 0, 0, RAW(0, 1)), 0);
	assert_int_equal(RUNS(&ram, 0, 0, RAW(0, STRIPE), ZERO(4 * STRIPE, STRIPE)), 0);
	assert_int_equal(RUNS(&ram, 0, 3, ZERO(3 * STRIPE, 1), RAW(3 * STRIPE + 1, 2), RAW(7 * STRIPE, 1)), 0);
	assert_int_equal(RUNS(&ram, 1, 1, RAW(999, 1)), 0); /* the last page */
	assert_int_equal(RUNS(&ram, 0, 0, RAW(0, 0)), -EPROTO);
	assert_int_equal(RUNS(&ram, 0, 0, { 0, 1, 2 }), -EPROTO);
	assert_int_equal(RUNS(&ram, 0, 0, { 0, 1, UINT16_MAX }), -EPROTO);
	assert_int_equal(RUNS(&ram, 1, 1, RAW(999, 2)), -EPROTO);
	assert_int_equal(RUNS(&ram, 1, 1, RAW(1000, 1)), -EPROTO);
	/* In ascending order, without overlap. */
	assert_int_equal(RUNS(&ram, 0, 0, RAW(5, 2), RAW(4, 1)), -EPROTO);
	assert_int_equal(RUNS(&ram, 0, 0, RAW(5, 2), RAW(5, 2)), -EPROTO);
	assert_int_equal(RUNS(&ram, 0, 0, RAW(5, 2), RAW(6, 1)), -EPROTO);
	assert_int_equal(RUNS(&ram, 0, 0, RAW(5, 2), RAW(7, 1)), 0);
}

static void test_stripes(void **state)
{
	for (uint32_t channel = 0; channel < 4; channel++) {
		for (uint32_t stripe = 0; stripe < 9; stripe++) {
			int want = stripe % 4 == channel ? 0 : -EPROTO;

			assert_int_equal(RUNS(&ram, 0, channel, RAW(stripe * STRIPE, 1)), want);
			assert_int_equal(RUNS(&ram, 0, channel, ZERO((stripe + 1) * STRIPE - 1, 1)), want);
		}
	}
	/* With several channels a run that leaves its stripe would leave its channel. */
	assert_int_equal(RUNS(&ram, 0, 0, ZERO(STRIPE - 1, 2)), -EPROTO);
	assert_int_equal(RUNS(&ram, 0, 0, ZERO(0, 4 * STRIPE + 1)), -EPROTO);
	assert_int_equal(RUNS(&one_channel, 0, 0, ZERO(STRIPE - 1, 2), RAW(2 * STRIPE, 2 * STRIPE)), 0);
	assert_int_equal(RUNS(&one_channel, 0, 0, ZERO(0, GW_WIRE_RUN_PAGES_MAX)), 0);
	assert_int_equal(RUNS(&one_channel, 0, 0, ZERO(0, GW_WIRE_RUN_PAGES_MAX + 1)), -EPROTO);
	/* A channel that does not exist owns no stripe. */
	assert_int_equal(RUNS(&ram, 0, 4, RAW(0, 1)), -EPROTO);
}

static void test_payload(void **state)
{
	static const struct gw_wire_run two[] = { RAW(0, 2), ZERO(2, 5) };

	assert_int_equal(runs_off(&ram, 0, 0, 0, 2, two), 0);
	assert_int_equal(runs_off(&ram, 0, 0, 4096, 2, two), -EPROTO);
	assert_int_equal(runs_off(&ram, 0, 0, -4096, 2, two), -EPROTO);
	assert_int_equal(runs_off(&ram, 0, 0, 1, 2, two), -EPROTO);
}

#define PACKED(first, n, kind, bytes) { first, n, GW_WIRE_RUN_##kind, bytes }

static void test_packed(void **state)
{
	struct gw_wire_ram packs = ram, one = one_channel;
	struct gw_wire_run many[GW_WIRE_RUNS_MAX];
	struct gw_wire_batch b = { .n_runs = 17, .payload_bytes = 17 * 65535 };
	struct gw_error err = GW_ERROR_INIT;

	packs.features = one.features = GW_WIRE_FEATURE_PACKED;
	assert_int_equal(RUNS(&packs, 0, 0, PACKED(0, 1, LZ4, 1), PACKED(1, 16, ZSTD, 65535), PACKED(20, 2, DELTA, 8191)), 0);
	/* Not without its having been agreed on. */
	assert_int_equal(RUNS(&ram, 0, 0, PACKED(0, 1, LZ4, 1)), -EPROTO);
	assert_int_equal(RUNS(&ram, 0, 0, PACKED(0, 1, ZSTD, 1)), -EPROTO);
	assert_int_equal(RUNS(&ram, 0, 0, PACKED(0, 1, DELTA, 1)), -EPROTO);
	assert_int_equal(RUNS(&packs, 0, 0, PACKED(0, 17, LZ4, 100)), -EPROTO);
	assert_int_equal(RUNS(&packs, 0, 0, PACKED(0, 1, LZ4, 0)), -EPROTO);
	assert_int_equal(RUNS(&packs, 0, 0, PACKED(0, 1, LZ4, 4096)), -EPROTO); /* raw would do */
	assert_int_equal(RUNS(&packs, 0, 0, PACKED(0, 2, DELTA, 8192)), -EPROTO);
	assert_int_equal(RUNS(&packs, 0, 0, PACKED(0, 1, RAW, 1)), -EPROTO);
	assert_int_equal(RUNS(&packs, 0, 0, PACKED(0, 1, ZERO, 1)), -EPROTO);
	assert_int_equal(RUNS(&packs, 0, 0, PACKED(0, 1, KINDS, 1)), -EPROTO);
	assert_int_equal(RUNS(&packs, 0, 0, PACKED(STRIPE - 1, 2, LZ4, 100)), -EPROTO);
	/* All packed runs of a batch fit in the buffer that the target has for them. */
	for (unsigned i = 0; i < 17; i++)
		many[i] = (struct gw_wire_run){ htole64(16 * i), htole32(16), htole16(GW_WIRE_RUN_LZ4), htole16(65535) };
	assert_int_equal(gw_wire_runs_check(many, &b, &one, 0, &err), -EPROTO);
	for (unsigned i = 0; i < 17; i++)
		many[i] = (struct gw_wire_run){ htole64(16 * i), htole32(16), htole16(GW_WIRE_RUN_LZ4), htole16(61000) };
	b.payload_bytes = 17 * 61000;
	assert_int_equal(gw_wire_runs_check(many, &b, &one, 0, &err), 0);
}

static void test_wrap_around(void **state)
{
	assert_int_equal(RUNS(&ram, 0, 0, RAW(UINT64_MAX, 1)), -EPROTO);
	assert_int_equal(RUNS(&ram, 0, 0, RAW(UINT64_MAX - 3, 8)), -EPROTO); /* would end at page 4 */
	assert_int_equal(RUNS(&ram, 0, 0, RAW(0, UINT32_MAX)), -EPROTO);
	assert_int_equal(RUNS(&huge, 0, 0, ZERO(UINT64_MAX - 1, 1)), 0);
	assert_int_equal(RUNS(&huge, 0, 0, ZERO(UINT64_MAX - 1, 2)), -EPROTO);
	assert_int_equal(RUNS(&huge, 0, 0, ZERO(UINT64_MAX - 1, 1), ZERO(0, 1)), -EPROTO);
}

static int extent(const struct gw_wire_ram *r, uint32_t region, uint32_t n_pages, uint64_t first)
{
	struct gw_wire_extent e[2] = {
		{ .region = 0, .n_pages = htole32(1), .first_page = 0 },
		{ .region = htole32(region), .n_pages = htole32(n_pages), .first_page = htole64(first) },
	};
	struct gw_error err = GW_ERROR_INIT;
	int result = gw_wire_extents_check(e, 2, r, &err);

	assert_int_equal(e[1].first_page, first);
	assert_true(result == 0 || (result == -EPROTO && err.text[0]));
	return result;
}

static void test_extents(void **state)
{
	assert_int_equal(gw_wire_extents_check(NULL, 0, &ram, NULL), 0);
	assert_int_equal(extent(&ram, 1, 1000, 0), 0);
	assert_int_equal(extent(&ram, 1, 1, 999), 0);
	assert_int_equal(extent(&ram, 1, 0, 1000), 0);
	assert_int_equal(extent(&ram, 1, 1001, 0), -EPROTO);
	assert_int_equal(extent(&ram, 1, 1, 1000), -EPROTO);
	assert_int_equal(extent(&ram, 1, 2, 999), -EPROTO);
	assert_int_equal(extent(&ram, 2, 1, 0), -EPROTO);
	assert_int_equal(extent(&ram, UINT32_MAX, 1, 0), -EPROTO);
	assert_int_equal(extent(&ram, 0, 8, UINT64_MAX - 3), -EPROTO);
	assert_int_equal(extent(&ram, 0, UINT32_MAX, 0), -EPROTO);
	assert_int_equal(extent(&huge, 0, 1, UINT64_MAX - 1), 0);
	assert_int_equal(extent(&huge, 0, 2, UINT64_MAX - 1), -EPROTO);
}

static int verify(const struct gw_wire_ram *r, uint32_t region, uint32_t block, uint64_t first, uint32_t n)
{
	struct gw_wire_verify v = { htole32(region), htole32(block), htole64(first), htole32(n), 0 };
	struct gw_error err = GW_ERROR_INIT;
	int result = gw_wire_verify_check(&v, r, &err);

	assert_int_equal(v.n_blocks, n);
	assert_true(result == 0 || (result == -EPROTO && err.text[0]));
	return result;
}

static void test_verify(void **state)
{
	assert_int_equal(verify(&ram, 0, 1, 0, 1), 0);
	assert_int_equal(verify(&ram, 0, STRIPE, 0, 2048), 0);
	assert_int_equal(verify(&ram, 1, STRIPE, 0, 2), 0); /* the last block is cut by the region's end */
	assert_int_equal(verify(&ram, 1, STRIPE, 0, 3), -EPROTO);
	assert_int_equal(verify(&ram, 1, 1, 999, 1), 0);
	assert_int_equal(verify(&ram, 1, 1, 999, 2), -EPROTO);
	assert_int_equal(verify(&ram, 1, 1, 1000, 1), -EPROTO);
	assert_int_equal(verify(&ram, 2, 1, 0, 1), -EPROTO);
	assert_int_equal(verify(&ram, 0, 0, 0, 1), -EPROTO);
	assert_int_equal(verify(&ram, 0, STRIPE + 1, 0, 1), -EPROTO);
	assert_int_equal(verify(&ram, 0, 1, 0, 0), -EPROTO);
	assert_int_equal(verify(&ram, 0, 1, 0, GW_WIRE_DIGESTS_MAX), 0);
	assert_int_equal(verify(&ram, 0, 1, 0, GW_WIRE_DIGESTS_MAX + 1), -EPROTO);
	assert_int_equal(verify(&ram, 0, STRIPE, 0, UINT32_MAX), -EPROTO);
	assert_int_equal(verify(&ram, 0, 1, UINT64_MAX, 1), -EPROTO);
	assert_int_equal(verify(&huge, 0, STRIPE, UINT64_MAX - 1, 1), 0);
	assert_int_equal(verify(&huge, 0, STRIPE, UINT64_MAX - 1, 2), -EPROTO);
}

/* With `last` as the last byte of the bitmap. */
static int owed(uint32_t region, uint64_t first, uint32_t n, size_t bytes, uint8_t last)
{
	struct {
		struct gw_wire_owed head;
		uint8_t bits[GW_WIRE_OWED_PAGES_MAX / 8 + 2];
	} *o = calloc(1, sizeof(*o));
	struct gw_error err = GW_ERROR_INIT;
	int r;

	o->head = (struct gw_wire_owed){ htole32(region), htole32(n), htole64(first) };
	o->bits[bytes - 1] = last;
	r = gw_wire_owed_check(&o->head, sizeof(o->head) + bytes, &ram, &err);
	assert_int_equal(o->head.first_page, first);
	assert_true(r == 0 || (r == -EPROTO && err.text[0]));
	free(o);
	return r;
}

static void test_owed(void **state)
{
	assert_int_equal(owed(0, 0, GW_WIRE_OWED_PAGES_MAX, GW_WIRE_OWED_PAGES_MAX / 8, 0xff), 0);
	assert_int_equal(owed(1, 0, 1000, 125, 0xff), 0);
	assert_int_equal(owed(1, 999, 1, 1, 1), 0);
	assert_int_equal(owed(1, 990, 10, 2, 3), 0);
	assert_int_equal(owed(1, 990, 10, 2, 4), -EPROTO); /* a bit beyond the pages */
	assert_int_equal(owed(1, 990, 10, 1, 0xff), -EPROTO);
	assert_int_equal(owed(1, 990, 10, 3, 0), -EPROTO);
	assert_int_equal(owed(1, 990, 11, 2, 0), -EPROTO);
	assert_int_equal(owed(1, 1000, 1, 1, 0), -EPROTO);
	assert_int_equal(owed(1, UINT64_MAX, 8, 1, 0), -EPROTO);
	assert_int_equal(owed(0, 0, 0, 1, 0), -EPROTO);
	assert_int_equal(owed(0, 0, UINT32_MAX, 1, 0), -EPROTO);
	assert_int_equal(owed(2, 0, 8, 1, 0), -EPROTO);
}

static int demand(uint32_t region, uint64_t first, uint32_t n)
{
	struct gw_wire_demand d = { htole32(region), htole32(n), htole64(first) };
	struct gw_error err = GW_ERROR_INIT;
	int r = gw_wire_demand_check(&d, &ram, &err);

	assert_true(r == 0 || (r == -EPROTO && err.text[0]));
	return r;
}

static void test_demands(void **state)
{
	assert_int_equal(demand(0, 0, 1), 0);
	assert_int_equal(demand(0, 0, GW_WIRE_DEMAND_PAGES_MAX), 0);
	assert_int_equal(demand(1, 999, 1), 0);
	assert_int_equal(demand(0, 0, GW_WIRE_DEMAND_PAGES_MAX + 1), -EPROTO);
	assert_int_equal(demand(0, 0, 0), -EPROTO);
	assert_int_equal(demand(1, 999, 2), -EPROTO);
	assert_int_equal(demand(1, UINT64_MAX, 2), -EPROTO);
	assert_int_equal(demand(2, 0, 1), -EPROTO);
}

static int owed_run(bool postcopy, uint64_t first, uint32_t n, uint16_t kind, uint16_t packed)
{
	struct gw_wire_ram r = ram;
	struct gw_wire_batch b = { .magic = htole32(GW_WIRE_BATCH_MAGIC), .kind = htole16(GW_WIRE_BATCH_OWED), .n_runs = htole16(1) };
	struct gw_wire_run run = { .first_page = htole64(first), .n_pages = htole32(n), .kind = htole16(kind),
		                   .packed_bytes = htole16(packed) };
	uint64_t payload = kind == GW_WIRE_RUN_RAW ? n * 4096ull : packed;

	r.postcopy = postcopy;
	r.features = GW_WIRE_FEATURE_PACKED;
	b.payload_bytes = htole64(payload);
	if (gw_wire_batch_check(&b, &r, NULL) < 0)
		return -EPROTO;
	return gw_wire_runs_check(&run, &b, &r, 3, NULL);
}

static void test_owed_batches(void **state)
{
	assert_int_equal(owed_run(true, 0, 8, GW_WIRE_RUN_RAW, 0), 0); /* not on a stripe of channel 3 */
	assert_int_equal(owed_run(true, 510, 8, GW_WIRE_RUN_ZERO, 0), 0); /* on two stripes */
	assert_int_equal(owed_run(false, 0, 8, GW_WIRE_RUN_RAW, 0), -EPROTO);
	assert_int_equal(owed_run(true, 0, 8, GW_WIRE_RUN_LZ4, 100), -EPROTO);
	assert_int_equal(owed_run(true, 1u << 20, 1, GW_WIRE_RUN_ZERO, 0), -EPROTO);
}

/* What a peer that knows no post-copy would send is refused by its size. */
static void test_sizes_of_postcopy(void **state)
{
	assert_int_equal(gw_wire_frame_table[GW_WIRE_READY].min_length, 40);
	assert_int_equal(gw_wire_frame_table[GW_WIRE_READY].max_length, 40);
	assert_int_equal(gw_wire_frame_table[GW_WIRE_RUNNING].min_length, 32);
	assert_int_equal(gw_wire_frame_table[GW_WIRE_RUNNING].max_length, 32);
	assert_int_equal(gw_wire_frame_table[GW_WIRE_COMPLETE].max_length, 32);
	assert_int_equal(gw_wire_frame_table[GW_WIRE_OWED].min_length, 17);
	assert_int_equal(gw_wire_frame_table[GW_WIRE_OWED].max_length, 16 + GW_WIRE_OWED_PAGES_MAX / 8);
}

static void test_ids(void **state)
{
	static const char *const bad[] = {
		"", "3f", "3f2a0102030405060708090a0b0c0dff0", "3F2A0102030405060708090a0b0c0dff",
		"3f2a0102030405060708090a0b0c0df ", "-f2a0102030405060708090a0b0c0dff", "0x2a0102030405060708090a0b0c0dff",
	};
	char text[GW_WIRE_ID_TEXT];
	struct gw_wire_id id, other;

	gw_wire_id_format(&some_id, text);
	assert_string_equal(text, "3f2a0102030405060708090a0b0c0dff");
	assert_int_equal(gw_wire_id_parse(text, &id), 0);
	assert_memory_equal(&id, &some_id, sizeof(id));
	for (size_t i = 0; i < GW_ARRAY_SIZE(bad); i++)
		assert_int_equal(gw_wire_id_parse(bad[i], &id), -EINVAL);
	assert_memory_equal(&id, &some_id, sizeof(id));
	assert_int_equal(gw_wire_id_random(&id), 0);
	assert_int_equal(gw_wire_id_random(&other), 0);
	assert_memory_not_equal(&id, &other, sizeof(id));
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N2 a hello is taken with the right magic and a known role only", test_hello),
		TEST("N2 versions that do not overlap are refused with their own error", test_versions),
		TEST("N2 a refusal keeps its reason, a malformed answer is never success", test_welcome),
		TEST("every frame has limits, and one byte beyond them is refused", test_frames),
		TEST("a batch header is checked in each of its fields", test_batches),
		TEST("runs lie inside their region, ascending, without overlap", test_runs),
		TEST("N3 a channel carries its own stripes and no others", test_stripes),
		TEST("a batch's payload must add up", test_payload),
		TEST("packed runs need the feature, are shorter than their pages, and fit the buffer", test_packed),
		TEST("page numbers near 2^64 do not wrap around", test_wrap_around),
		TEST("extents of a layout lie inside their region", test_extents),
		TEST("X2 digests are asked for memory that exists", test_verify),
		TEST("N7 owed pages exist, and their bitmap is as long as it must be", test_owed),
		TEST("N7 a demand names memory that exists, and not too much", test_demands),
		TEST("N7 owed pages come on any channel, when that was agreed on, and never packed", test_owed_batches),
		TEST("N7 frames of a post-copy have their sizes", test_sizes_of_postcopy),
		TEST("ids are 32 lower-case hex digits", test_ids),
	};

	return cmocka_run_group_tests_name("codec", tests, NULL, NULL);
}
