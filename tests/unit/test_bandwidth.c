/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Several migrations share the host's bandwidth by their weights (N4), in a time that the test makes pass. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "pipeline/bandwidth.h"
#include "pipeline/rate.h"

#define Bps (100 * GW_MIB)
#define BATCH (4 * GW_MIB)
#define MS GW_NS_PER_MS
#define SENDERS_MAX 8

/* A channel of a migration: sends batches of a size, each taking `link_ns` beside its turn, from `from` to `to`. */
struct sender {
	struct gw_claim *claim;
	uint64_t batch;
	gw_time_ns link_ns, from, to;
	struct gw_turn turn;
	bool waits;
	gw_time_ns wakes;
	uint64_t sent;
	gw_time_ns longest;
	gw_time_ns asked;
};

static void wake(struct gw_bandwidth *b, struct sender *s, gw_time_ns now)
{
	gw_time_ns again;

	if (!s->waits) {
		if (now >= s->to) {
			s->wakes = GW_TIME_NEVER;
			return;
		}
		gw_bandwidth_queue(b, s->claim, &s->turn, s->batch, now);
		s->asked = now;
		s->waits = true;
	}
	again = gw_bandwidth_granted(b, &s->turn, now);
	if (again) {
		assert_true(again > now);
		s->wakes = again;
		return;
	}
	s->waits = false;
	s->sent += s->batch;
	s->longest = GW_MAX(s->longest, now - s->asked);
	s->wakes = now + s->link_ns;
}

/* Lets time pass; among those that wake at the same time the order is random. */
static void run(struct gw_bandwidth *b, struct sender *senders, unsigned n, gw_time_ns until)
{
	gw_time_ns now = 0;
	unsigned short seed[3] = { 1, 2, 3 };

	for (unsigned i = 0; i < n; i++)
		senders[i].wakes = senders[i].from;
	while (now < until) {
		unsigned first = (unsigned)nrand48(seed) % n, best = first;

		for (unsigned i = 0; i < n; i++)
			if (senders[(first + i) % n].wakes < senders[best].wakes)
				best = (first + i) % n;
		now = senders[best].wakes;
		if (now < until)
			wake(b, &senders[best], now);
	}
}

static double share(const struct sender *s, gw_time_ns ns)
{
	return (double)s->sent / ((double)Bps * (double)ns / 1e9);
}

static void test_weights(void **state)
{
	struct gw_bandwidth b;
	struct gw_claim light = { .weight = 100 }, heavy = { .weight = 300 };
	struct sender s[2] = {
		{ .claim = &light, .batch = BATCH, .to = GW_TIME_NEVER },
		{ .claim = &heavy, .batch = BATCH, .to = GW_TIME_NEVER },
	};

	gw_bandwidth_init(&b, Bps);
	run(&b, s, 2, 20 * GW_NS_PER_S);
	print_message("weight 100: %.3f, weight 300: %.3f\n", share(&s[0], 20 * GW_NS_PER_S), share(&s[1], 20 * GW_NS_PER_S));
	assert_true(share(&s[0], 20 * GW_NS_PER_S) > 0.24 && share(&s[0], 20 * GW_NS_PER_S) < 0.26);
	assert_true(share(&s[1], 20 * GW_NS_PER_S) > 0.74 && share(&s[1], 20 * GW_NS_PER_S) < 0.76);
	gw_bandwidth_done(&b);
}

static void test_channels_and_sizes_do_not_count(void **state)
{
	struct gw_bandwidth b;
	struct gw_claim a = { .weight = 100 }, c = { .weight = 100 };
	struct sender s[5] = { { .claim = &a, .batch = BATCH, .to = GW_TIME_NEVER } };
	uint64_t many = 0;

	for (int i = 1; i < 5; i++)
		s[i] = (struct sender){ .claim = &c, .batch = BATCH / 16, .to = GW_TIME_NEVER };
	gw_bandwidth_init(&b, Bps);
	run(&b, s, 5, 20 * GW_NS_PER_S);
	for (int i = 1; i < 5; i++)
		many += s[i].sent;
	assert_true(share(&s[0], 20 * GW_NS_PER_S) > 0.48);
	assert_in_range(many, s[0].sent * 96 / 100, s[0].sent * 104 / 100);
	gw_bandwidth_done(&b);
}

static void test_work_conserving(void **state)
{
	struct gw_bandwidth b;
	struct gw_claim idle = { .weight = 900 }, busy = { .weight = 100 };
	/* The heavy one gets nowhere near its share: its link carries 10 MiB/s; and from 10 s on it is over. */
	struct sender s[2] = {
		{ .claim = &idle, .batch = GW_MIB, .link_ns = 100 * MS, .to = 10 * GW_NS_PER_S },
		{ .claim = &busy, .batch = BATCH, .to = GW_TIME_NEVER },
	};

	gw_bandwidth_init(&b, Bps);
	run(&b, s, 2, 20 * GW_NS_PER_S);
	assert_true(share(&s[0], 10 * GW_NS_PER_S) > 0.06); /* each of its batches waits for one of the other's */
	assert_true(share(&s[0], 20 * GW_NS_PER_S) + share(&s[1], 20 * GW_NS_PER_S) > 0.99);
	gw_bandwidth_done(&b);
}

static void test_idle_time_is_not_saved_up(void **state)
{
	struct gw_bandwidth b;
	struct gw_claim late = { .weight = 100 }, always = { .weight = 100 };
	struct sender s[2] = {
		{ .claim = &late, .batch = BATCH, .from = 10 * GW_NS_PER_S, .to = GW_TIME_NEVER },
		{ .claim = &always, .batch = BATCH, .to = GW_TIME_NEVER },
	};

	gw_bandwidth_init(&b, Bps);
	run(&b, s, 2, 20 * GW_NS_PER_S);
	assert_true(share(&s[0], 10 * GW_NS_PER_S) > 0.48 && share(&s[0], 10 * GW_NS_PER_S) < 0.52);
	assert_true(share(&s[1], 20 * GW_NS_PER_S) > 0.73);
	gw_bandwidth_done(&b);
}

static void test_never_faster(void **state)
{
	struct gw_bandwidth b;
	struct gw_claim claims[SENDERS_MAX];
	struct sender s[SENDERS_MAX];
	double all = 0;

	for (unsigned i = 0; i < SENDERS_MAX; i++) {
		claims[i] = (struct gw_claim){ .weight = 1 + i * 140 };
		s[i] = (struct sender){ .claim = &claims[i], .batch = BATCH >> (i % 5), .from = i * 300 * MS,
					.to = (i % 3 + 3) * GW_NS_PER_S, .link_ns = (i % 2) * 5 * MS };
	}
	gw_bandwidth_init(&b, Bps);
	run(&b, s, SENDERS_MAX, 5 * GW_NS_PER_S);
	for (unsigned i = 0; i < SENDERS_MAX; i++)
		all += share(&s[i], 5 * GW_NS_PER_S);
	assert_true(all <= 1.02 && all > 0.97); /* one batch ahead, and a burst of 20 ms */
	gw_bandwidth_done(&b);
}

static void test_nobody_starves(void **state)
{
	struct gw_bandwidth b;
	struct gw_claim tiny = { .weight = 1 }, huge = { .weight = 1000 };
	struct sender s[2] = {
		{ .claim = &tiny, .batch = BATCH, .to = GW_TIME_NEVER },
		{ .claim = &huge, .batch = BATCH, .to = GW_TIME_NEVER },
	};

	gw_bandwidth_init(&b, Bps / 10);
	run(&b, s, 2, 60 * GW_NS_PER_S);
	assert_true(s[0].longest <= 4 * GW_NS_PER_S);
	assert_true(s[0].sent >= 14 * BATCH && s[0].sent < s[1].sent / 5);
	gw_bandwidth_done(&b);
}

static void test_leaving(void **state)
{
	struct gw_bandwidth b;
	struct gw_claim a = { .weight = 100 }, c = { .weight = 100 };
	struct gw_turn t[3];

	gw_bandwidth_init(&b, Bps);
	for (int i = 0; i < 3; i++)
		gw_bandwidth_queue(&b, i == 1 ? &a : &c, &t[i], BATCH, 0);
	assert_true(gw_bandwidth_granted(&b, &t[0], GW_NS_PER_S) == 0);
	gw_bandwidth_leave(&b, &t[1]); /* cancelled */
	gw_bandwidth_leave(&b, &t[0]); /* in vain: it was let go */
	assert_true(gw_bandwidth_granted(&b, &t[2], GW_NS_PER_S) > GW_NS_PER_S);
	assert_true(gw_bandwidth_granted(&b, &t[2], 2 * GW_NS_PER_S) == 0);
	assert_null(b.waiting);
	gw_bandwidth_done(&b);
}

/* With real time: a cap of its own, and a cancel. */
static void test_rate(void **state)
{
	struct gw_bandwidth b;
	struct gw_rate r;
	struct gw_wait w = { .cancel_fd = -1 };
	gw_time_ns t0 = gw_now_ns();

	gw_bandwidth_init(&b, Bps);
	gw_rate_init(&r, 0, &b, 0);
	assert_int_equal(r.claim.weight, GW_WEIGHT_DEFAULT);
	for (int i = 0; i < 5; i++)
		assert_int_equal(gw_rate_take(&r, BATCH, &w), 0);
	/* Four batches have passed, 20 ms of them at once. */
	assert_true(gw_now_ns() - t0 >= 130 * MS);
	gw_rate_lift(&r);
	t0 = gw_now_ns();
	assert_int_equal(gw_rate_take(&r, GW_GIB, &w), 0);
	assert_true(gw_now_ns() - t0 < 5 * GW_NS_PER_S);
	gw_rate_done(&r);
	gw_bandwidth_done(&b);
	gw_bandwidth_init(&b, 0); /* no limit: as if it was not there */
	gw_rate_init(&r, 0, &b, 7);
	assert_int_equal(gw_rate_take(&r, 100 * GW_GIB, &w), 0);
	gw_rate_done(&r);
	gw_bandwidth_done(&b);
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N4 bandwidth is shared as the weights are", test_weights),
		TEST("N4 more channels or smaller batches get no larger share", test_channels_and_sizes_do_not_count),
		TEST("N4 what one migration leaves the others use", test_work_conserving),
		TEST("N4 nobody saves up for later", test_idle_time_is_not_saved_up),
		TEST("N4 all together stay below the limit and use it", test_never_faster),
		TEST("N4 the smallest weight is not starved", test_nobody_starves),
		TEST("N1 a cancelled turn holds up nobody", test_leaving),
		TEST("N4 a migration waits for its turn, and not in the last pass", test_rate),
	};

	return cmocka_run_group_tests_name("bandwidth", tests, NULL, NULL);
}
