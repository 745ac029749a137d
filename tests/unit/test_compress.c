/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether packing pays: the decision on simulated links, hosts and guests. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "engine/compress.h"

#define WINDOW_NS (100 * GW_NS_PER_MS)
#define SEND_NS_PER_BYTE 0.4

/* A channel: what its link carries, what its pages and CPU are like. */
struct channel {
	double link_Bps;
	double peer_Bps; /* what the receiver takes; 0: anything */
	double ratio[GW_COMPRESS_METHODS], ns_per_byte[GW_COMPRESS_METHODS];
	double contention;
	double packed_pace; /* packing takes the CPU from the rest of the way: 0.2: a fifth arrives; 0: it does not */
	double noise; /* 0.2: figures are off by up to 20 % */
	uint64_t seed;
};

/* As measured on text, tables and pointers, in chunks of 64 KiB. */
#define PACKABLE                                                    \
	.ratio = { 1, 0.45, 0.36, 0.34 }, .ns_per_byte = { 0, 1.4, 3.4, 6.0 }, .contention = 1
#define RANDOM                                                      \
	.ratio = { 1, 1, 1, 1 }, .ns_per_byte = { 0, 0.3, 0.6, 0.9 }, .contention = 1

static double shaken(struct channel *ch, double x)
{
	ch->seed ^= ch->seed << 13;
	ch->seed ^= ch->seed >> 7;
	ch->seed ^= ch->seed << 17;
	return x * (1 + ch->noise * ((double)(ch->seed % 2001) / 1000 - 1));
}

/* One window of the channel under the present method. */
static bool run_window(struct gw_compress *c, struct channel *ch)
{
	enum gw_compress_method m = c->method;
	double busy = (ch->ns_per_byte[m] + SEND_NS_PER_BYTE * ch->ratio[m]) * ch->contention; /* ns a byte of pages */
	double link = ch->ratio[m] * 1e9 / ch->link_Bps, peer = ch->peer_Bps ? 1e9 * ch->ratio[m] / ch->peer_Bps : 0;
	double slowest = fmax(busy, fmax(link, peer)), pages = WINDOW_NS / slowest;
	double waited = (slowest - busy) / slowest * WINDOW_NS;
	struct gw_compress_window w = {
		.wall_ns = WINDOW_NS,
		.blocked_ns = (gw_time_ns)waited,
		.peer_ns = peer > link ? (gw_time_ns)waited : 0,
		.cpu_ns = (gw_time_ns)((WINDOW_NS - waited) / ch->contention),
		.wire_bytes = (uint64_t)shaken(ch, pages * ch->ratio[m]),
		.content_bytes = (uint64_t)pages,
		.packed_from_bytes = m ? (uint64_t)pages : 0,
		.packed_to_bytes = m ? (uint64_t)(pages * fmin(shaken(ch, ch->ratio[m]), 1)) : 0,
	};
	unsigned wanted;

	if (m && ch->packed_pace > 0) { /* nothing waits for the link then, and little moves */
		w.blocked_ns = 0;
		w.wire_bytes = (uint64_t)((double)w.wire_bytes * ch->packed_pace);
		w.content_bytes = (uint64_t)((double)w.content_bytes * ch->packed_pace);
	}
	wanted = gw_compress_note(c, &w);

	for (enum gw_compress_method i = GW_COMPRESS_LZ4; i < GW_COMPRESS_METHODS; i++)
		if (wanted & 1u << i)
			gw_compress_sample(c, i, 65536, (uint64_t)(65536 * fmin(shaken(ch, ch->ratio[i]), 1)),
			                   (gw_time_ns)(65536 * shaken(ch, ch->ns_per_byte[i])));
	return gw_compress_decide(c);
}

/* Returns how often the method changed. */
static unsigned run(struct gw_compress *c, struct channel *ch, unsigned windows)
{
	unsigned changes = 0;

	while (windows--) {
		enum gw_compress_method before = c->method;

		run_window(c, ch);
		changes += c->method != before;
	}
	return changes;
}

static void test_gigabit(void **state)
{
	struct channel ch = { .link_Bps = 62.5e6, PACKABLE };
	struct gw_compress c;

	gw_compress_init(&c, GW_COMPRESS_AUTO);
	assert_int_equal(c.method, GW_COMPRESS_OFF);
	run(&c, &ch, 2);
	assert_int_equal(c.method, GW_COMPRESS_ZSTD_1); /* after two windows: a sixth of a second */
	assert_true(c.delta);
	assert_non_null(strstr(c.reason, "MB/s"));
	assert_int_equal(run(&c, &ch, 90), 0);
}

static void test_slow(void **state)
{
	struct channel ch = { .link_Bps = 5e6, PACKABLE };
	struct gw_compress c;

	gw_compress_init(&c, GW_COMPRESS_AUTO);
	run(&c, &ch, 20);
	assert_int_equal(c.method, GW_COMPRESS_ZSTD_3);
}

static void test_levels_follow_the_bottleneck(void **state)
{
	struct channel ch = { PACKABLE };
	enum gw_compress_method last = GW_COMPRESS_METHODS;

	for (double link = 1e6; link < 4e9; link *= 1.3) {
		struct gw_compress c;

		gw_compress_init(&c, GW_COMPRESS_AUTO);
		ch.link_Bps = link;
		run(&c, &ch, 30);
		assert_true(c.method <= last); /* the faster the link, the lighter */
		last = c.method;
	}
	assert_int_equal(last, GW_COMPRESS_OFF);
}

static void test_fast_link(void **state)
{
	struct channel ch = { .link_Bps = 20e9, PACKABLE };
	struct gw_compress c;

	gw_compress_init(&c, GW_COMPRESS_AUTO);
	assert_int_equal(run(&c, &ch, 50), 0);
	assert_int_equal(c.method, GW_COMPRESS_OFF);
	assert_false(c.delta);
}

static void test_slow_receiver(void **state)
{
	struct channel ch = { .link_Bps = 20e9, .peer_Bps = 100e6, PACKABLE };
	struct gw_compress c;

	gw_compress_init(&c, GW_COMPRESS_AUTO);
	assert_int_equal(run(&c, &ch, 50), 0);
	assert_false(c.delta);
}

static void test_random_pages(void **state)
{
	struct channel ch = { .link_Bps = 62.5e6, RANDOM, .noise = 0.05, .seed = 9 };
	struct gw_compress c;

	gw_compress_init(&c, GW_COMPRESS_AUTO);
	assert_int_equal(run(&c, &ch, 200), 0);
	assert_int_equal(c.method, GW_COMPRESS_OFF);
	assert_true(c.delta); /* the same pages again may differ little */
	assert_non_null(strstr(c.reason, "do not pack"));
}

static void test_busy_host(void **state)
{
	struct channel ch = { .link_Bps = 300e6, PACKABLE };
	struct gw_compress c;

	gw_compress_init(&c, GW_COMPRESS_AUTO);
	run(&c, &ch, 10);
	assert_int_equal(c.method, GW_COMPRESS_LZ4);
	ch.contention = 4; /* other work has come */
	run(&c, &ch, 20);
	assert_int_equal(c.method, GW_COMPRESS_OFF);
}

static void test_overrun_host(void **state)
{
	struct channel ch = { .link_Bps = 150e6, PACKABLE, .packed_pace = 0.2 };
	struct gw_compress c;
	unsigned packed = 0;

	gw_compress_init(&c, GW_COMPRESS_AUTO);
	for (unsigned i = 0; i < 600; i++) {
		run_window(&c, &ch);
		packed += c.method != GW_COMPRESS_OFF;
	}
	assert_in_range(packed, 1, 600 / 20); /* it looks like a slow link, is tried, and rarely again */
	assert_non_null(strstr(c.reason, "less than went without"));
	ch.packed_pace = 0; /* what overran it has gone */
	run(&c, &ch, 330);
	assert_true(c.method != GW_COMPRESS_OFF);
}

static void test_own_machine(void **state)
{
	struct gw_compress c;

	gw_compress_init(&c, GW_COMPRESS_AUTO);
	gw_compress_no_link(&c);
	assert_int_equal(c.policy, GW_COMPRESS_NEVER);
	assert_non_null(strstr(c.reason, "this machine"));
	gw_compress_init(&c, GW_COMPRESS_ALWAYS_LZ4);
	gw_compress_no_link(&c);
	assert_int_equal(c.method, GW_COMPRESS_LZ4); /* who asks for it gets it */
}

static void test_no_swinging(void **state)
{
	for (double link = 2e6; link < 4e9; link *= 1.17) {
		for (uint64_t seed = 1; seed <= 20; seed++) {
			struct channel ch = { .link_Bps = link, PACKABLE, .noise = 0.1, .seed = seed * 7919 };
			struct gw_compress c;
			unsigned changes;

			gw_compress_init(&c, GW_COMPRESS_AUTO);
			changes = run(&c, &ch, 300);
			/* Settling takes a few; each of at most three looks at the link costs two or three. */
			if (changes > 14)
				fail_msg("%u changes in 300 windows at %.0f MB/s, seed %lu", changes, link / 1e6, (unsigned long)seed);
		}
	}
}

static void test_changes(void **state)
{
	struct channel ch = { .link_Bps = 62.5e6, RANDOM };
	struct channel packable = { .link_Bps = 62.5e6, PACKABLE };
	struct gw_compress c;

	gw_compress_init(&c, GW_COMPRESS_AUTO);
	run(&c, &ch, 30);
	assert_int_equal(c.method, GW_COMPRESS_OFF);
	run(&c, &packable, 10); /* another part of memory */
	assert_true(c.method > GW_COMPRESS_OFF);
	run(&c, &ch, 10);
	assert_int_equal(c.method, GW_COMPRESS_OFF);
}

static void test_link_becomes_faster(void **state)
{
	struct channel ch = { .link_Bps = 100e6, PACKABLE };
	struct gw_compress c;

	gw_compress_init(&c, GW_COMPRESS_AUTO);
	run(&c, &ch, 10);
	assert_true(c.method > GW_COMPRESS_OFF);
	ch.link_Bps = 20e9;
	run(&c, &ch, 110);
	assert_int_equal(c.method, GW_COMPRESS_OFF);
}

static void test_policies(void **state)
{
	struct channel ch = { .link_Bps = 20e6, PACKABLE }, fast = { .link_Bps = 20e9, PACKABLE };
	struct gw_compress c;

	gw_compress_init(&c, GW_COMPRESS_NEVER);
	assert_int_equal(run(&c, &ch, 30), 0);
	assert_int_equal(c.method, GW_COMPRESS_OFF);
	assert_false(c.delta);
	gw_compress_init(&c, GW_COMPRESS_ALWAYS_LZ4);
	assert_int_equal(c.method, GW_COMPRESS_LZ4); /* from the first page on */
	assert_true(c.delta);
	assert_int_equal(run(&c, &ch, 30) + run(&c, &fast, 300), 0);
	gw_compress_init(&c, GW_COMPRESS_ALWAYS_ZSTD);
	assert_int_equal(c.method, GW_COMPRESS_ZSTD_1);
	run(&c, &fast, 300);
	assert_int_equal(c.method, GW_COMPRESS_ZSTD_1);
	ch.ratio[GW_COMPRESS_ZSTD_3] = 0.2;
	run(&c, &ch, 30);
	assert_int_equal(c.method, GW_COMPRESS_ZSTD_3);
}

static void test_chunks(void **state)
{
	static const unsigned pauses[] = { 1, 2, 4, 8, 16, 32, 32, 32 };
	struct gw_compress c;

	gw_compress_init(&c, GW_COMPRESS_ALWAYS_LZ4);
	for (unsigned i = 0; i < sizeof(pauses) / sizeof(pauses[0]); i++) {
		assert_true(gw_compress_try(&c));
		gw_compress_tried(&c, false);
		for (unsigned n = 0; n < pauses[i]; n++)
			assert_false(gw_compress_try(&c));
	}
	assert_true(gw_compress_try(&c));
	gw_compress_tried(&c, true);
	assert_true(gw_compress_try(&c)); /* the pause is forgotten */
	gw_compress_tried(&c, false);
	assert_false(gw_compress_try(&c));
	assert_true(gw_compress_try(&c));
}

static void test_nothing_measured(void **state)
{
	struct gw_compress_window empty = { 0 }, no_time = { .wire_bytes = 5 };
	struct gw_compress c;

	gw_compress_init(&c, GW_COMPRESS_AUTO);
	assert_int_equal(gw_compress_note(&c, &empty), 0);
	assert_int_equal(gw_compress_note(&c, &no_time), 0);
	assert_false(gw_compress_decide(&c));
	assert_int_equal(c.method, GW_COMPRESS_OFF);
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("X4 a gigabit link with pages that pack is packed after two windows, and stays so", test_gigabit),
		TEST("X4 a slow link gets the strongest packing", test_slow),
		TEST("X4 the faster the link, the lighter the packing, down to none", test_levels_follow_the_bottleneck),
		TEST("X4 a link that is not waited for is not packed for, and nothing is copied", test_fast_link),
		TEST("X4 a receiver that is slow is not made slower by packing", test_slow_receiver),
		TEST("X4 pages that do not pack are left alone", test_random_pages),
		TEST("X4 packing gives way when the CPUs are taken", test_busy_host),
		TEST("X4 packing that moves less than went without stops and is rarely tried again", test_overrun_host),
		TEST("X4 between daemons of one machine there is no link to pack for", test_own_machine),
		TEST("X4 figures that shake do not make the method swing, on any link", test_no_swinging),
		TEST("X4 other pages or another rate change the method", test_changes),
		TEST("X4 a link that became faster is noticed", test_link_becomes_faster),
		TEST("X4 what the user asks for is done", test_policies),
		TEST("X4 chunks that do not pack make a pause before the next try", test_chunks),
		TEST("X4 without a measurement nothing changes", test_nothing_measured),
	};

	return cmocka_run_group_tests_name("compress", tests, NULL, NULL);
}
