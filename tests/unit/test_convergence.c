/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The convergence policy, decision by decision (N3, N4). Whole migrations: tests/sim/sim_convergence.c. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/units.h"
#include "engine/convergence.h"

#define MS GW_NS_PER_MS
#define PAGES(bytes) ((bytes) / 4096)

/* A pass that copied `bytes` without zero pages in `ms` milliseconds and left `left` bytes. */
static struct gw_decision pass(struct gw_convergence *c, uint64_t bytes, unsigned ms, uint64_t left)
{
	struct gw_pass_stats s = {
		.pass = c->passes + 1,
		.pages = PAGES(bytes),
		.wire_bytes = bytes,
		.duration_ns = ms * MS,
		.left_bytes = left,
	};
	struct gw_decision d;

	gw_convergence_decide(c, &s, &d);
	assert_true(strlen(d.reason) > 10);
	return d;
}

static struct gw_convergence fresh(void)
{
	struct gw_convergence_params p;
	struct gw_convergence c;

	gw_convergence_defaults(&p);
	gw_convergence_init(&c, &p);
	return c;
}

static void test_defaults(void **state)
{
	struct gw_convergence_params p;

	gw_convergence_defaults(&p);
	assert_int_equal(p.mode, GW_MODE_AUTO);
	assert_int_equal(p.hybrid_passes, 1);
	assert_false(p.postcopy_possible);
	assert_int_equal(p.threshold, GW_THRESHOLD_ADAPTIVE);
	assert_int_equal(p.max_downtime_ns, 50 * MS);
	assert_int_equal(p.switch_cost_ns, 10 * MS);
	assert_int_equal(p.stall, GW_STALL_SWITCH);
	assert_int_equal(p.stall_passes, 3);
	assert_true(p.progress_ratio == 0.9);
	assert_int_equal(p.max_passes, 40);
}

static void test_mode_words(void **state)
{
	char words[64] = "";
	enum gw_mode mode = GW_MODE_AUTO;

	for (unsigned i = 0; gw_mode_name((enum gw_mode)i); i++) {
		assert_int_equal(gw_mode_parse(gw_mode_name((enum gw_mode)i), &mode), 0);
		assert_int_equal(mode, i);
		strcat(words, i ? "|" : "");
		strcat(words, gw_mode_name((enum gw_mode)i));
	}
	assert_string_equal(words, GW_MODE_WORDS);
	assert_int_equal(gw_mode_parse("precopy", &mode), -EINVAL);
	assert_int_equal(gw_mode_parse("", &mode), -EINVAL);
}

static void test_asked_for_postcopy(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d;

	gw_convergence_begin(&c, &d);
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	c.params.mode = GW_MODE_POSTCOPY;
	gw_convergence_begin(&c, &d);
	assert_int_equal(d.verdict, GW_VERDICT_POSTCOPY);
	assert_string_equal(d.reason, "post-copy was asked for");
	assert_int_equal(d.predicted_downtime_ns, 10 * MS);
}

static void test_asked_for_hybrid(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d;

	c.params.mode = GW_MODE_HYBRID;
	c.params.hybrid_passes = 2;
	gw_convergence_begin(&c, &d);
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	d = pass(&c, GW_GIB, 1000, 512 * GW_MIB);
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	d = pass(&c, 512 * GW_MIB, 500, 512 * GW_MIB);
	assert_int_equal(d.verdict, GW_VERDICT_POSTCOPY);
	assert_string_equal(d.reason, "hybrid was asked for, with 2 passes");
	assert_int_equal(d.eta_ns, 0);

	c = fresh();
	c.params.mode = GW_MODE_HYBRID;
	d = pass(&c, GW_GIB, 1000, 0); /* nothing is owed: no reason to depend on the source */
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
}

static void test_switch_below_floor(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d = pass(&c, GW_GIB, 1000, 512 * GW_KIB);

	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
	assert_int_equal(d.eta_ns, 0);
	assert_string_equal(d.reason, "0.5 ms of 40.0 ms budget left to copy");
	assert_true(d.predicted_downtime_ns > 10 * MS && d.predicted_downtime_ns < 11 * MS);
	assert_in_range(d.bandwidth_Bps, GW_GIB - 1000, GW_GIB + 1000);
	assert_in_range(d.dirty_rate_Bps, 512 * GW_KIB - 1, 512 * GW_KIB + 1);
}

static void test_not_above_budget(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d = pass(&c, GW_GIB, 1000, 100 * GW_MIB);

	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	assert_true(d.predicted_downtime_ns > 50 * MS);
	/* One more pass of 98 ms leaves about 9.8 MiB, which fits. */
	assert_in_range(d.eta_ns, 90 * MS, 110 * MS);
}

static void test_short_passes_shrink(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d = pass(&c, GW_GIB, 1000, 30 * GW_MIB);

	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	d = pass(&c, 30 * GW_MIB, 30, 5 * GW_MIB);
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	d = pass(&c, 5 * GW_MIB, 5, 4 * GW_MIB); /* shrank by less than 30 % */
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
	assert_int_equal(c.short_passes, 2);
}

/* Passes at 1 GiB/s that leave `permille` of what they copied; returns how many until the switch. */
static unsigned shrink_until_switch(struct gw_convergence *c, uint64_t left, unsigned permille)
{
	struct gw_decision d = pass(c, GW_GIB, 1000, left);
	unsigned n = 0;

	while (d.verdict == GW_VERDICT_PASS && n++ < 20) {
		uint64_t bytes = left;

		left = left * permille / 1000;
		d = pass(c, bytes, (unsigned)((bytes * 1000 + GW_GIB / 2) / GW_GIB), left);
	}
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
	return n;
}

static void test_short_passes_bounded(void **state)
{
	struct gw_convergence c = fresh();

	assert_int_equal(shrink_until_switch(&c, 39 * GW_MIB, 690), 8);
	/* 195 ms of 250 ms are spent in the first one; the next would take 127 ms. */
	c = fresh();
	c.params.max_downtime_ns = 500 * MS;
	assert_int_equal(shrink_until_switch(&c, 200 * GW_MIB, 650), 1);
}

static void test_no_short_pass_against_a_fast_writer(void **state)
{
	struct gw_convergence c = fresh();
	/* 36 MiB fit, but the guest dirties 900 MiB/s of a 1 GiB/s link. */
	struct gw_decision d = pass(&c, 40 * GW_MIB, 40, 36 * GW_MIB);

	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
}

static void test_stall_switches(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d = pass(&c, GW_GIB, 1000, 512 * GW_MIB);

	for (int i = 0; i < 3; i++) {
		assert_int_equal(d.verdict, GW_VERDICT_PASS);
		d = pass(&c, 512 * GW_MIB, 500, 512 * GW_MIB);
		if (i < 2)
			assert_true(d.eta_ns == GW_TIME_NEVER); /* dirty rate = bandwidth */
	}
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
	assert_string_equal(d.reason, "no progress in 3 passes: switching with 512 MiB left, "
				      "460.0 ms past the budget of 50.0 ms");
}

static void test_stall_stays(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d;

	c.params.stall = GW_STALL_STAY;
	for (int i = 0; i < 4; i++)
		d = pass(&c, 512 * GW_MIB, 500, 512 * GW_MIB);
	assert_int_equal(d.verdict, GW_VERDICT_GIVE_UP);
	assert_true(d.eta_ns == GW_TIME_NEVER);
	assert_string_equal(d.reason, "no progress in 3 passes, 512 MiB left: the guest stays");
}

static void test_progress_resets(void **state)
{
	struct gw_convergence c = fresh();
	uint64_t left = 900 * GW_MIB;
	struct gw_decision d;

	pass(&c, GW_GIB, 1000, left);
	pass(&c, left, 900, left);
	pass(&c, left, 900, left);
	d = pass(&c, left, 900, left / 2);
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	pass(&c, left, 900, left / 2);
	d = pass(&c, left, 900, left / 2);
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	d = pass(&c, left, 900, left / 2);
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
}

static void test_max_passes(void **state)
{
	struct gw_convergence c = fresh();
	uint64_t left = 100 * GW_GIB;
	struct gw_decision d;

	c.params.max_passes = 5;
	for (int i = 0; i < 5; i++) {
		d = pass(&c, GW_GIB, 1000, left);
		assert_int_equal(d.verdict, i < 4 ? GW_VERDICT_PASS : GW_VERDICT_SWITCH);
		left = left * 8 / 10; /* progress, but too slow */
	}
	assert_non_null(strstr(d.reason, "limit of 5 passes reached"));
}

static void test_zero_pages_promise_nothing(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_pass_stats s = {
		.pass = 1, .pages = PAGES(GW_GIB), .zero_pages = PAGES(GW_GIB) - PAGES(10 * GW_MIB),
		.wire_bytes = 11 * GW_MIB, .duration_ns = 200 * MS, .left_bytes = 20 * GW_MIB,
	};
	struct gw_decision d;

	gw_convergence_decide(&c, &s, &d);
	/* Not 5 GiB/s: the 10 MiB with contents took at most 200 ms. */
	assert_in_range(d.bandwidth_Bps, 50 * GW_MIB - 1000, 50 * GW_MIB + 1000);
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	/* A real measurement replaces the bound at once. */
	d = pass(&c, 20 * GW_MIB, 20, 512 * GW_KIB);
	assert_in_range(d.bandwidth_Bps, 1000 * GW_MIB - 1000, 1000 * GW_MIB + 1000);
	/* A mostly empty pass never lowers it. */
	gw_convergence_decide(&c, &s, &d);
	assert_in_range(d.bandwidth_Bps, 1000 * GW_MIB - 1000, 1000 * GW_MIB + 1000);
}

static void test_tiny_passes_measure_nothing(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d;

	pass(&c, GW_GIB, 1000, 100 * GW_MIB);
	d = pass(&c, 64 * GW_KIB, 2, 100 * GW_MIB);
	assert_in_range(d.bandwidth_Bps, GW_GIB - 1000, GW_GIB + 1000);
	d = pass(&c, 3 * GW_MIB, 1, 100 * GW_MIB);
	assert_in_range(d.bandwidth_Bps, GW_GIB - 1000, GW_GIB + 1000);
}

static void test_falling_bandwidth(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d;

	pass(&c, 1000 * GW_MIB, 1000, 500 * GW_MIB);
	d = pass(&c, 500 * GW_MIB, 5000, 400 * GW_MIB);
	assert_in_range(d.bandwidth_Bps, 360 * GW_MIB, 380 * GW_MIB);
	d = pass(&c, 400 * GW_MIB, 400, 300 * GW_MIB);
	assert_in_range(d.bandwidth_Bps, 610 * GW_MIB, 630 * GW_MIB);
}

static void test_nothing_measured(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d = pass(&c, 0, 0, GW_MIB);

	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	assert_true(d.predicted_downtime_ns == GW_TIME_NEVER && d.eta_ns == GW_TIME_NEVER);
	assert_int_equal(d.bandwidth_Bps, 0);
	c = fresh();
	d = pass(&c, 0, 0, 0);
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
	assert_int_equal(d.predicted_downtime_ns, 10 * MS);
	assert_string_equal(d.reason, "nothing left to copy");
}

static void test_absolute(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d;

	c.params.threshold = GW_THRESHOLD_ABSOLUTE;
	c.params.threshold_bytes = GW_MIB;
	d = pass(&c, GW_GIB, 1000, 8 * GW_MIB); /* would fit the budget, is above the threshold */
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	assert_string_equal(d.reason, "8.00 MiB left, threshold 1.00 MiB");
	d = pass(&c, 8 * GW_MIB, 8, GW_MIB);
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);

	c = fresh();
	c.params.threshold = GW_THRESHOLD_ABSOLUTE;
	c.params.threshold_bytes = GW_GIB;
	d = pass(&c, GW_GIB, 1000, 100 * GW_MIB); /* below the threshold, above the budget */
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
}

static void test_relative(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d;

	c.params.threshold = GW_THRESHOLD_RELATIVE;
	c.params.threshold_fraction = 0.01;
	c.params.ram_used_bytes = 100 * GW_MIB;
	d = pass(&c, GW_GIB, 1000, 2 * GW_MIB);
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	d = pass(&c, 2 * GW_MIB, 2, GW_MIB);
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
}

static void test_impossible_budget(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d;

	c.params.max_downtime_ns = 5 * MS; /* below the fixed cost */
	c.params.stall = GW_STALL_STAY;
	d = pass(&c, GW_GIB, 1000, 10 * GW_MIB);
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	d = pass(&c, 10 * GW_MIB, 10, 100 * GW_KIB);
	assert_int_equal(d.verdict, GW_VERDICT_GIVE_UP);
	assert_non_null(strstr(d.reason, "the switch alone takes 10.0 ms"));
}

static void test_no_budget(void **state)
{
	struct gw_convergence c = fresh();
	struct gw_decision d;

	c.params.max_downtime_ns = GW_TIME_NEVER;
	d = pass(&c, 10 * GW_GIB, 10000, 10 * GW_GIB);
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
}

static void test_same_history_same_answer(void **state)
{
	struct gw_convergence a = fresh(), b = fresh();

	for (unsigned i = 1; i < 10; i++) {
		struct gw_decision x = pass(&a, GW_GIB / i, 1000 / i, 200 * GW_MIB / i);
		struct gw_decision y = pass(&b, GW_GIB / i, 1000 / i, 200 * GW_MIB / i);

		assert_memory_equal(&x, &y, sizeof(x));
	}
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N4 the defaults are adaptive, 50 ms, switch", test_defaults),
		TEST("N1 modes have the names that requests use", test_mode_words),
		TEST("N7 mode post-copy makes no pass", test_asked_for_postcopy),
		TEST("N8 mode hybrid makes as many passes as asked for, then post-copy", test_asked_for_hybrid),
		TEST("N4 it switches when less than a millisecond is left", test_switch_below_floor),
		TEST("N4 it does not switch above the budget and says when it will", test_not_above_budget),
		TEST("N4 short passes go on while they shrink what is left", test_short_passes_shrink),
		TEST("N4 short passes are bounded in number and time", test_short_passes_bounded),
		TEST("N4 no short pass where it cannot help", test_no_short_pass_against_a_fast_writer),
		TEST("N4 without progress it switches and says by how much too late", test_stall_switches),
		TEST("N4 without progress it gives up when told to stay", test_stall_stays),
		TEST("N4 progress in between starts the count anew", test_progress_resets),
		TEST("N4 passes are limited in number", test_max_passes),
		TEST("N4 zero pages promise no bandwidth", test_zero_pages_promise_nothing),
		TEST("N4 tiny passes do not change the estimate", test_tiny_passes_measure_nothing),
		TEST("N4 falling bandwidth is believed faster than rising", test_falling_bandwidth),
		TEST("N4 without a measurement nothing is promised", test_nothing_measured),
		TEST("N4 an absolute threshold counts bytes, within the budget", test_absolute),
		TEST("N4 a relative threshold counts shares of the RAM in use", test_relative),
		TEST("N4 a budget below the fixed cost goes to the stall policy", test_impossible_budget),
		TEST("N4 without a budget everything fits", test_no_budget),
		TEST("N3 the same history gives the same decision", test_same_history_same_answer),
	};

	return cmocka_run_group_tests_name("convergence", tests, NULL, NULL);
}
