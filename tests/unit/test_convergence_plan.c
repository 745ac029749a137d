/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the policy does when what is left does not fit, decision by decision (N4, N8). Whole migrations:
 * tests/sim/sim_modes.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/units.h"
#include "engine/convergence.h"

#define MS GW_NS_PER_MS

/* A pass at 1 GiB/s over `sent` MiB that left `left`, `hot` of them hot, all in its window of an eighth. */
static struct gw_decision pass(struct gw_convergence *c, unsigned sent, unsigned left, unsigned hot)
{
	gw_time_ns ns = sent * GW_NS_PER_S / 1024;
	struct gw_pass_stats s = {
		.pass = c->passes + 1, .pages = sent * 256ull, .wire_bytes = sent * GW_MIB, .duration_ns = ns,
		.left_bytes = left * GW_MIB, .hot_bytes = hot * GW_MIB,
	};
	struct gw_decision d;

	s.window_bytes = c->passes ? s.left_bytes : s.hot_bytes;
	s.window_ns = c->passes ? ns : ns / 8;
	gw_convergence_decide(c, &s, &d);
	assert_true(strlen(d.reason) > 10);
	assert_int_equal(d.plan, c->plan);
	return d;
}

static struct gw_convergence fresh(enum gw_mode mode, bool possible, bool throttle)
{
	struct gw_convergence_params p;
	struct gw_convergence c;

	gw_convergence_defaults(&p);
	p.mode = mode;
	p.postcopy_possible = possible;
	p.throttle_allowed = throttle;
	gw_convergence_init(&c, &p);
	return c;
}

static void test_postcopy_after_one_pass(void **state)
{
	struct gw_convergence c = fresh(GW_MODE_AUTO, true, true);
	struct gw_decision d = pass(&c, 1024, 512, 512);

	assert_int_equal(d.verdict, GW_VERDICT_POSTCOPY);
	assert_int_equal(d.plan, GW_PLAN_POSTCOPY);
	assert_int_equal(d.throttle_percent, 0);
	assert_int_equal(d.predicted_downtime_ns, 10 * MS);
	assert_string_equal(d.reason, "passes would not converge: 512 MiB left, written at 4.29 GB/s of 1.07 GB/s: "
				      "post-copy");
}

static void test_burst_is_no_hot_set(void **state)
{
	struct gw_convergence c = fresh(GW_MODE_AUTO, true, true);
	struct gw_pass_stats s = {
		.pass = 1, .pages = 262144, .wire_bytes = GW_GIB, .duration_ns = GW_NS_PER_S, .left_bytes = 120 * GW_MIB,
		.hot_bytes = 0, .window_bytes = 120 * GW_MIB, .window_ns = GW_NS_PER_S / 8,
	};
	struct gw_decision d;

	gw_convergence_decide(&c, &s, &d); /* 960 MiB/s in the window, 120 over the pass */
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	assert_in_range(d.dirty_rate_Bps, 119 * GW_MIB, 121 * GW_MIB);
}

static void test_postcopy_when_passes_take_long(void **state)
{
	struct gw_convergence c = fresh(GW_MODE_AUTO, true, true);
	/* 700 MiB/s of 1 GiB/s: converges, in 8 passes and more than 10 seconds, where one copy of the rest takes 5. */
	struct gw_decision d = pass(&c, 8000, 5600, 700);

	assert_int_equal(d.verdict, GW_VERDICT_POSTCOPY);
	assert_non_null(strstr(d.reason, "s more: "));
}

static void test_little_writing_never_postcopies(void **state)
{
	struct gw_convergence c = fresh(GW_MODE_AUTO, true, true);
	unsigned left = 300;
	struct gw_decision d = pass(&c, 4096, left, 0);

	for (int i = 0; i < 10 && d.verdict == GW_VERDICT_PASS; i++)
		d = pass(&c, left, left / 4, left / 8), left /= 4;
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
	assert_int_equal(d.plan, GW_PLAN_COPY);
}

static void test_precopy_forbids_postcopy(void **state)
{
	struct gw_convergence c = fresh(GW_MODE_PRECOPY, true, false);
	struct gw_decision d = pass(&c, 1024, 512, 0);

	while (d.verdict == GW_VERDICT_PASS)
		d = pass(&c, 512, 512, 0);
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
	assert_non_null(strstr(d.reason, "past the budget"));
}

static void test_hot_pages_wait(void **state)
{
	struct gw_convergence c = fresh(GW_MODE_PRECOPY, true, true);
	struct gw_decision d = pass(&c, 2048, 400, 30);

	/* The 30 MiB hot ones fit the 40 ms; the other 370 do not yet. 230 MiB/s in all: no need to hold any back. */
	assert_int_equal(d.plan, GW_PLAN_COPY);
	d = pass(&c, 400, 340, 30); /* 870 MiB/s: shrinks slowly */
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	assert_int_equal(d.plan, GW_PLAN_DEFER);
	assert_non_null(strstr(d.reason, "30.0 MiB of it, busy, wait for the end"));
	d = pass(&c, 310, 190, 30);
	assert_int_equal(d.plan, GW_PLAN_DEFER);
	d = pass(&c, 160, 80, 30);
	d = pass(&c, 50, 38, 30); /* fits; a short pass over the others is worth its while */
	assert_int_equal(d.verdict, GW_VERDICT_PASS);
	d = pass(&c, 8, 32, 30);
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
	assert_true(d.predicted_downtime_ns <= 50 * MS);
}

static void test_throttle(void **state)
{
	struct gw_convergence c = fresh(GW_MODE_PRECOPY, true, true);
	struct gw_decision d = pass(&c, 1024, 512, 0);
	unsigned percent, n = 0;

	while (d.throttle_percent == 0 && n++ < 10) {
		assert_int_equal(d.verdict, GW_VERDICT_PASS);
		d = pass(&c, 512, 512, 0);
	}
	assert_int_equal(n, 3); /* a stall of three passes, as without it */
	assert_int_equal(d.plan, GW_PLAN_THROTTLE);
	assert_int_equal(d.throttle_percent, 60);
	assert_string_equal(d.reason, "no progress in 3 passes, 512 MiB left: the guest is slowed down by 60 %");
	d = pass(&c, 512, 200, 0); /* it helps: not slower than needed */
	assert_int_equal(d.throttle_percent, 60);
	assert_non_null(strstr(d.reason, "; the guest is slowed down by 60 %"));
	d = pass(&c, 200, 190, 0); /* not enough */
	percent = d.throttle_percent;
	assert_in_range(percent, 80, 84);
	d = pass(&c, 190, 80, 0);
	assert_int_equal(d.throttle_percent, percent);
	d = pass(&c, 80, 30, 0); /* fits: no short passes, the guest has waited long enough */
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
	assert_int_equal(d.throttle_percent, percent);
}

static void test_throttle_in_vain(void **state)
{
	struct gw_convergence c = fresh(GW_MODE_AUTO, false, true);
	struct gw_decision d = pass(&c, 1024, 512, 0);
	unsigned last = 0;

	while (d.verdict == GW_VERDICT_PASS) {
		assert_true(c.passes < 30);
		assert_true(d.throttle_percent >= last);
		last = d.throttle_percent;
		d = pass(&c, 512, 512, 0);
	}
	assert_int_equal(last, 99);
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
	assert_non_null(strstr(d.reason, "no progress with the guest slowed down by 99 %: switching with 512 MiB left, "
					 "460.0 ms past the budget"));
}

static void test_throttle_impossible(void **state)
{
	struct gw_convergence c = fresh(GW_MODE_PRECOPY, true, true);
	struct gw_decision d = pass(&c, 1024, 512, 0);

	while (d.throttle_percent == 0)
		d = pass(&c, 512, 512, 0);
	gw_convergence_no_throttle(&c);
	d = pass(&c, 512, 512, 0);
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
	assert_int_equal(d.throttle_percent, 0);
	assert_non_null(strstr(d.reason, "the guest cannot be slowed down"));
}

static void test_impossible_budget(void **state)
{
	struct gw_convergence c = fresh(GW_MODE_AUTO, true, true);
	struct gw_decision d;

	c.params.max_downtime_ns = 5 * MS;
	d = pass(&c, 1024, 50, 0);
	while (d.verdict == GW_VERDICT_PASS)
		d = pass(&c, 50, 50, 0);
	/* Of a guest that writes as fast as it is copied all may be owed; the fixed part is the same with both. */
	assert_int_equal(d.verdict, GW_VERDICT_POSTCOPY);
	c = fresh(GW_MODE_AUTO, true, true);
	c.params.max_downtime_ns = 5 * MS;
	d = pass(&c, 1024, 50, 0);
	d = pass(&c, 50, 0, 0);
	assert_int_equal(d.verdict, GW_VERDICT_SWITCH);
	assert_int_equal(d.plan, GW_PLAN_COPY);
}

static void test_plan_words(void **state)
{
	assert_string_equal(gw_plan_name(GW_PLAN_COPY), "copy");
	assert_string_equal(gw_plan_name(GW_PLAN_POSTCOPY), "post-copy");
	assert_null(gw_plan_name((enum gw_plan)(GW_PLAN_POSTCOPY + 1)));
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N4 a large hot set goes over to post-copy after the first pass", test_postcopy_after_one_pass),
		TEST("N4 a burst at the end of a pass is not taken for a hot set", test_burst_is_no_hot_set),
		TEST("N4 post-copy when passes would take much longer", test_postcopy_when_passes_take_long),
		TEST("N4 a guest that writes little never goes over to post-copy", test_little_writing_never_postcopies),
		TEST("N4 mode pre-copy forbids post-copy", test_precopy_forbids_postcopy),
		TEST("N4 hot pages are held back when the others shrink and they fit the pause", test_hot_pages_wait),
		TEST("N4 after a stall the guest is slowed down as far as needed, and no further", test_throttle),
		TEST("N4 a guest that is too fast even at 1 % is switched late, and it is said", test_throttle_in_vain),
		TEST("N4 where the guest cannot be slowed down the stall policy decides", test_throttle_impossible),
		TEST("N4 a budget below the fixed cost slows no guest down", test_impossible_budget),
		TEST("X4 plans have the names that the API uses", test_plan_words),
	};

	return cmocka_run_group_tests_name("convergence_plan", tests, NULL, NULL);
}
