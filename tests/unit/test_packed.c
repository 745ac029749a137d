/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Packed runs: what is packed unpacks to the same, damage is refused within bounds, and a difference leads from what the
 * target holds, however ways of sending take turns. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "memory/apply.h"
#include "memory/encode.h"

#define PAGE GW_PAGE_BYTES
#define CHUNK GW_PACK_CHUNK_BYTES
#define PAGES 4096u /* 8 stripes */

static uint64_t seed = 88172645463325252ull;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static void fill_random(uint8_t *at, size_t len)
{
	for (size_t i = 0; i < len; i += 8)
		memcpy(at + i, &(uint64_t){ next_random() }, 8);
}

static void fill_words(uint8_t *at, size_t len)
{
	static const char *const words[] = { "page", "run", "stripe", "batch", "barrier", "epoch", "guest", "host" };
	size_t i = 0;

	while (i < len) {
		const char *w = words[next_random() % 8];
		size_t n = GW_MIN(strlen(w), len - i);

		memcpy(at + i, w, n);
		i += n;
	}
}

static const struct {
	enum gw_wire_run_kind kind;
	int level;
} kinds[] = { { GW_WIRE_RUN_LZ4, 0 }, { GW_WIRE_RUN_ZSTD, 1 }, { GW_WIRE_RUN_ZSTD, 3 }, { GW_WIRE_RUN_DELTA, 0 } };

/* Buffers with guards behind them. */
struct buffers {
	uint8_t pages[CHUNK], old[CHUNK], packed[CHUNK], out[CHUNK + 64];
};

static size_t pack(struct gw_packer *p, struct buffers *b, unsigned kind, size_t len)
{
	return kinds[kind].kind == GW_WIRE_RUN_DELTA ?
	               gw_pack_delta(p, b->old, b->pages, len, b->packed, len - 1) :
	               gw_pack(p, kinds[kind].kind, kinds[kind].level, b->pages, len, b->packed, len - 1);
}

static struct gw_wire_run run_of(unsigned kind, size_t len, size_t packed)
{
	return (struct gw_wire_run){ .n_pages = (uint32_t)(len / PAGE), .kind = (uint16_t)kinds[kind].kind,
		                     .packed_bytes = (uint16_t)packed };
}

static void test_round_trip(void **state)
{
	gw_autofree struct buffers *b = calloc(1, sizeof(*b));
	struct gw_error err = GW_ERROR_INIT;
	struct gw_unpacker *u;
	struct gw_packer *p;

	assert_int_equal(gw_packer_new(&p), 0);
	assert_int_equal(gw_unpacker_new(&u), 0);
	for (unsigned kind = 0; kind < GW_ARRAY_SIZE(kinds); kind++) {
		for (size_t len = PAGE; len <= CHUNK; len += PAGE) {
			struct gw_wire_run run;
			size_t packed;

			fill_words(b->pages, len);
			fill_words(b->old, len);
			if (kinds[kind].kind == GW_WIRE_RUN_DELTA) {
				memcpy(b->old, b->pages, len);
				b->old[len / 2] ^= 1;
			}
			packed = pack(p, b, kind, len);
			assert_true(packed > 0 && packed < len * 3 / 4);
			run = run_of(kind, len, packed);
			assert_int_equal(gw_unpack(u, &run, b->packed, b->old, b->out, &err), 0);
			assert_memory_equal(b->out, b->pages, len);
			memcpy(b->out, b->old, len); /* in place */
			assert_int_equal(gw_unpack(u, &run, b->packed, b->out, b->out, &err), 0);
			assert_memory_equal(b->out, b->pages, len);
		}
		fill_random(b->pages, CHUNK);
		fill_random(b->old, CHUNK);
		assert_int_equal(pack(p, b, kind, CHUNK), 0); /* it would not be shorter */
	}
	gw_packer_free(p);
	gw_unpacker_free(u);
}

/* Damage may unpack to something else, but to exactly the pages of the run and to nothing outside of them. */
static void test_damage(void **state)
{
	gw_autofree struct buffers *b = calloc(1, sizeof(*b));
	static const uint8_t guard[64] = { [0 ... 63] = 0xa5 };
	unsigned refused = 0, tried = 0;
	struct gw_unpacker *u;
	struct gw_packer *p;

	assert_int_equal(gw_packer_new(&p), 0);
	assert_int_equal(gw_unpacker_new(&u), 0);
	for (unsigned i = 0; i < 4000; i++) {
		unsigned kind = i % GW_ARRAY_SIZE(kinds);
		size_t len = (1 + next_random() % 16) * PAGE, packed, damage = next_random() % 4;
		gw_autofree uint8_t *exact = NULL;
		struct gw_error err = GW_ERROR_INIT;
		struct gw_wire_run run;
		int r;

		fill_words(b->pages, len);
		memcpy(b->old, b->pages, len);
		fill_random(b->old, 16);
		packed = pack(p, b, kind, len);
		assert_true(packed > 8);
		run = run_of(kind, len, packed);
		if (damage == 0)
			run.packed_bytes = (uint16_t)(1 + next_random() % (packed - 1));
		else if (damage == 1)
			run.n_pages = (uint32_t)(run.n_pages == 16 ? 15 : run.n_pages + 1);
		else
			b->packed[next_random() % packed] ^= (uint8_t)(1 + next_random() % 255);
		exact = malloc(run.packed_bytes); /* for the address sanitizer */
		memcpy(exact, b->packed, run.packed_bytes);
		memcpy(b->out + run.n_pages * PAGE, guard, sizeof(guard));
		r = gw_unpack(u, &run, exact, b->old, b->out, &err);
		assert_true(r == 0 || (r == -EPROTO && strstr(err.text, "damaged")));
		assert_true(r < 0 || damage > 1); /* another length is always noticed */
		assert_memory_equal(b->out + run.n_pages * PAGE, guard, sizeof(guard));
		refused += r < 0;
		tried++;
	}
	assert_true(refused > tried / 2);
	gw_packer_free(p);
	gw_unpacker_free(u);
}

static void test_cache(void **state)
{
	struct gw_delta_cache c;
	uint8_t *a, *b;

	assert_int_equal(gw_delta_init(&c, 4 * PAGE, 2), 0);
	assert_null(gw_delta_find(&c, 0, 5, 2));
	a = gw_delta_add(&c, 0, 5, 2);
	assert_non_null(a);
	assert_ptr_equal(gw_delta_find(&c, 0, 5, 3), a);
	assert_null(gw_delta_find(&c, 1, 5, 3)); /* another region's page */
	assert_null(gw_delta_add(&c, 0, 9, 3));  /* its slot is in use */
	assert_null(gw_delta_add(&c, 0, 9, 4));
	b = gw_delta_add(&c, 0, 9, 5); /* page 5 was not written for a whole pass */
	assert_ptr_equal(b, a);
	assert_null(gw_delta_find(&c, 0, 5, 5));
	gw_delta_drop(&c, 0, 0, 9);
	assert_non_null(gw_delta_find(&c, 0, 9, 5));
	gw_delta_drop(&c, 0, 8, 2);
	assert_null(gw_delta_find(&c, 0, 9, 5));
	assert_int_equal(c.n_used, 0);
	assert_non_null(gw_delta_add(&c, 3, 512 * 2 + 1, 6)); /* channel 0's second stripe */
	gw_delta_drop_all(&c);
	assert_null(gw_delta_find(&c, 3, 512 * 2 + 1, 6));
	gw_delta_done(&c);
	/* No memory for it: nothing is remembered. */
	assert_int_equal(gw_delta_init(&c, 0, 2), 0);
	assert_null(gw_delta_add(&c, 0, 1, 2));
	assert_null(gw_delta_find(&c, 0, 1, 2));
	gw_delta_done(&c);
}

/* Two RAMs and a channel between them. */
struct world {
	struct gw_ram source, target;
	struct gw_bitmap pending, touched;
	struct gw_wire_ram wire;
	struct gw_encode_packed packed;
	struct gw_apply_packed unpack;
	int fd;
	uint64_t by_kind[GW_WIRE_RUN_KINDS];
};

static void world_init(struct world *w, uint64_t cache_bytes)
{
	*w = (struct world){ .wire = { .n_regions = 1, .region_pages = { PAGES }, .channels = 1,
		                       .features = GW_WIRE_FEATURE_PACKED } };
	w->source = (struct gw_ram){ .fd = -1, .size_bytes = PAGES * PAGE, .n_pages = PAGES, .page_size_bytes = PAGE };
	w->target = w->source;
	w->source.base = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	w->target.base = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_int_equal(gw_bitmap_init(&w->pending, PAGES), 0);
	assert_int_equal(gw_bitmap_init(&w->touched, PAGES), 0);
	assert_int_equal(gw_encode_packed_init(&w->packed, GW_COMPRESS_AUTO, cache_bytes, 1), 0);
	w->fd = memfd_create("wire", MFD_CLOEXEC);
	assert_true(w->fd >= 0);
}

static void world_done(struct world *w)
{
	gw_encode_packed_done(&w->packed);
	gw_apply_packed_done(&w->unpack);
	gw_bitmap_done(&w->pending);
	gw_bitmap_done(&w->touched);
	munmap(w->source.base, PAGES * PAGE);
	munmap(w->target.base, PAGES * PAGE);
	close(w->fd);
}

/* The batch's bytes through a file, checked and applied as the target would. */
static void carry(struct world *w, const struct gw_batch *b)
{
	struct gw_wire_run runs[GW_WIRE_RUNS_MAX];
	struct gw_error err = GW_ERROR_INIT;
	struct gw_wire_batch header;
	uint64_t bytes = 0, pages = 0;
	struct iovec copy[GW_WIRE_RUNS_MAX + 2];

	assert_int_equal(ftruncate(w->fd, 0), 0);
	assert_int_equal(lseek(w->fd, 0, SEEK_SET), 0);
	memcpy(copy, b->iov, sizeof(copy));
	assert_int_equal(gw_writev_full(w->fd, copy, b->n_iov, &GW_WAIT_NONE), 0);
	assert_int_equal(lseek(w->fd, 0, SEEK_CUR), b->wire_bytes);
	lseek(w->fd, 0, SEEK_SET);
	assert_int_equal(gw_read_full(w->fd, &header, sizeof(header), &GW_WAIT_NONE), 0);
	assert_int_equal(gw_wire_batch_check(&header, &w->wire, &err), 0);
	assert_int_equal(gw_read_full(w->fd, runs, header.n_runs * sizeof(runs[0]), &GW_WAIT_NONE), 0);
	if (gw_wire_runs_check(runs, &header, &w->wire, 0, &err) < 0)
		fail_msg("%s", err.text);
	if (gw_apply_batch(&header, runs, &w->target, &w->touched, &w->unpack, w->fd, &GW_WAIT_NONE, &err) < 0)
		fail_msg("%s", gw_error_text(&err));
	for (unsigned i = 0; i < header.n_runs; i++) {
		w->by_kind[runs[i].kind] += runs[i].n_pages;
		bytes += gw_wire_run_bytes(&runs[i]);
		pages += runs[i].n_pages;
	}
	assert_int_equal(bytes, header.payload_bytes);
	assert_int_equal(pages, b->pages);
}

/* What a guest does between two passes. */
static void write_some(struct world *w)
{
	for (unsigned i = 0; i < 300; i++) {
		uint64_t r = next_random(), page = r & 1 ? (r >> 8) % 200 : (r >> 8) % PAGES;
		uint8_t *at = w->source.base + page * PAGE;

		gw_bitmap_set_range(&w->pending, page, 1);
		switch ((r >> 40) % 6) {
		case 0:
			memset(at, 0, PAGE);
			break;
		case 1:
			fill_random(at, PAGE);
			break;
		case 2:
			fill_words(at, PAGE);
			break;
		default:
			at[(r >> 44) % PAGE] ^= 0x41;
		}
	}
}

static void one_pass(struct world *w, uint32_t pass, bool shuffle)
{
	struct gw_batch *b = calloc(1, sizeof(*b));
	struct gw_encode_cursor c = { .ram = &w->source, .pages = &w->pending, .pass = pass, .channels = 1 };

	while (gw_encode_packed_next(&w->packed, &c, b)) {
		carry(w, b);
		if (!shuffle)
			continue;
		w->packed.compress.method = next_random() % GW_COMPRESS_METHODS;
		w->packed.compress.delta = next_random() % 8 != 0;
		w->packed.compress.skip = 0;
		for (enum gw_compress_method m = GW_COMPRESS_LZ4; m < GW_COMPRESS_METHODS; m++)
			gw_encode_sample(&w->packed, b, m);
	}
	gw_bitmap_clear_range(&w->pending, 0, PAGES);
	free(b);
	assert_memory_equal(w->source.base, w->target.base, PAGES * PAGE);
}

static void test_ways_take_turns(void **state)
{
	static const uint64_t caches[] = { 0, 7 * PAGE, 64 * PAGE, 8 << 20 };

	for (unsigned i = 0; i < GW_ARRAY_SIZE(caches); i++) {
		struct world w;

		world_init(&w, caches[i]);
		gw_bitmap_set_range(&w.pending, 0, PAGES);
		fill_words(w.source.base, PAGES * PAGE / 3);
		fill_random(w.source.base + PAGES * PAGE / 2, PAGES * PAGE / 4);
		for (uint32_t pass = 1; pass <= 60; pass++) {
			one_pass(&w, pass, true);
			write_some(&w);
		}
		for (unsigned kind = 0; kind < GW_WIRE_RUN_DELTA; kind++)
			assert_true(w.by_kind[kind] > 0);
		assert_int_equal(w.by_kind[GW_WIRE_RUN_DELTA] > 0, caches[i] > 0);
		world_done(&w);
	}
}

static void test_hot_pages(void **state)
{
	struct world w;
	uint64_t raw;

	world_init(&w, 8 << 20);
	w.packed.compress.delta = true; /* the link limits, and lz4 would not help */
	fill_random(w.source.base, PAGES * PAGE);
	gw_bitmap_set_range(&w.pending, 0, PAGES);
	one_pass(&w, 1, false);
	assert_int_equal(w.by_kind[GW_WIRE_RUN_RAW], PAGES);
	assert_null(w.packed.out); /* the first pass copied nothing */
	for (uint32_t pass = 2; pass < 10; pass++) {
		for (unsigned page = 0; page < 1000; page++)
			w.source.base[page * PAGE + pass]++;
		gw_bitmap_set_range(&w.pending, 0, 1000);
		raw = w.by_kind[GW_WIRE_RUN_RAW];
		one_pass(&w, pass, false);
		/* The second pass is the first that knows which pages are hot. */
		assert_int_equal(w.by_kind[GW_WIRE_RUN_RAW] - raw, pass == 2 ? 1000 : 0);
	}
	assert_int_equal(w.by_kind[GW_WIRE_RUN_DELTA], 7 * 1000);
	world_done(&w);
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N3 what is packed unpacks to the same pages, in place or elsewhere", test_round_trip),
		TEST("N3 damaged bytes are refused, and nothing outside of the run is written", test_damage),
		TEST("N3 the cache knows exactly the pages it was given last", test_cache),
		TEST("N3 the target holds the same RAM however raw, zero, packed and delta take turns", test_ways_take_turns),
		TEST("N4 small changes of hot pages travel as differences", test_hot_pages),
	};

	return cmocka_run_group_tests_name("packed", tests, NULL, NULL);
}
