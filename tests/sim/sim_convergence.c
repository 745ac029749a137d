/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whole migrations of model guests against the convergence policy (N3, N4, N5).
 *
 * A guest writes uniformly at random into a hot set, so that of H bytes H * (1 - exp(-D t / H)) are dirty
 * after t at D bytes/s. A link has a bandwidth, optionally noisy; zero pages cost a tenth of memory speed.
 * The policy runs against every combination of the grid; GW_SEED picks one seed of the noise.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "engine/convergence.h"
#include "rng.h"

#define PAGE 4096.0
#define ZERO_Bps 10e9 /* how fast zero pages are recognised */
#define PASS_OVERHEAD_NS 200000.0
#define SCAN_NS_PER_GIB 500000.0
#define NOISE_SEEDS 3

struct guest {
	double ram, hot, dirty_Bps, zero_share, link_Bps, noise;
};

struct outcome {
	struct gw_decision last;
	unsigned passes;
	double bytes;      /* with contents, all passes */
	double total_ns;
	double left;       /* at the end */
	double downtime_ns; /* as it really comes out, at the nominal bandwidth */
	bool contradiction; /* a switch above the budget that is not the stall policy's */
	unsigned short_passes;
	double short_ns;
};

static double scan_ns(const struct guest *g)
{
	return g->ram / (double)GW_GIB * SCAN_NS_PER_GIB;
}

static double dirtied(const struct guest *g, double ns)
{
	double hot = fmin(g->hot, g->ram);

	return hot * (1 - exp(-g->dirty_Bps * ns / 1e9 / hot));
}

static double speed(const struct guest *g, struct sim_rng *rng)
{
	double u = (double)sim_below(rng, 2001) / 1000 - 1;

	return g->link_Bps * (1 + g->noise * u);
}

/* The time of a pass over so much with contents and so many zeros. */
static double pass_ns(const struct guest *g, double todo, double zero, double link_Bps)
{
	return todo / link_Bps * 1e9 + zero / ZERO_Bps * 1e9 + scan_ns(g) + PASS_OVERHEAD_NS;
}

static struct outcome migrate(const struct guest *g, const struct gw_convergence_params *p, uint64_t seed)
{
	struct sim_rng rng = { seed };
	struct gw_convergence c;
	struct outcome o = { 0 };
	double todo = g->ram * (1 - g->zero_share), zero = g->ram * g->zero_share;

	gw_convergence_init(&c, p);
	do {
		double ns = pass_ns(g, todo, zero, speed(g, &rng));
		struct gw_pass_stats s = {
			.pass = ++o.passes,
			.pages = (uint64_t)((todo + zero) / PAGE),
			.zero_pages = (uint64_t)(zero / PAGE),
			.wire_bytes = (uint64_t)todo,
			.duration_ns = (gw_time_ns)ns,
			.scan_ns = (gw_time_ns)scan_ns(g),
		};
		bool was_short = c.in_short_pass;

		o.bytes += todo;
		o.total_ns += ns;
		o.short_ns += was_short ? ns : 0;
		o.left = ceil(dirtied(g, ns) / PAGE) * PAGE;
		s.left_bytes = (uint64_t)o.left;
		gw_convergence_decide(&c, &s, &o.last);
		todo = o.left;
		zero = 0;
	} while (o.last.verdict == GW_VERDICT_PASS && o.passes < 10000);
	o.short_passes = c.short_passes;
	o.downtime_ns = (double)p->switch_cost_ns + scan_ns(g) + o.left / g->link_Bps * 1e9;
	o.contradiction = o.last.verdict == GW_VERDICT_SWITCH && p->max_downtime_ns != GW_TIME_NEVER &&
			  o.last.predicted_downtime_ns > p->max_downtime_ns && p->stall != GW_STALL_SWITCH;
	return o;
}

/* What is left when passes have shrunk it as far as they can, found without the policy. */
static double best_left(const struct guest *g)
{
	double todo = g->ram * (1 - g->zero_share), zero = g->ram * g->zero_share;

	for (unsigned i = 0; i < 200; i++) {
		todo = dirtied(g, pass_ns(g, todo, zero, g->link_Bps));
		zero = 0;
	}
	return ceil(todo / PAGE) * PAGE;
}

/* The budget is met for good, and is reached before three passes in a row go nowhere. */
static bool feasible(const struct guest *g, const struct gw_convergence_params *p)
{
	double todo = g->ram * (1 - g->zero_share), zero = g->ram * g->zero_share, last = 1e300;
	double budget_ns = 0.8 * (double)(p->max_downtime_ns - p->switch_cost_ns) - scan_ns(g);
	unsigned idle = 0;

	if (best_left(g) / g->link_Bps * 1e9 > budget_ns)
		return false;
	for (unsigned i = 1; i < p->max_passes; i++) {
		double left = dirtied(g, pass_ns(g, todo, zero, g->link_Bps));

		if (left / g->link_Bps * 1e9 <= budget_ns)
			return true;
		idle = left <= 0.8 * last ? 0 : idle + 1;
		if (idle >= 2)
			return false;
		last = todo = left;
		zero = 0;
	}
	return false;
}

static void describe(const struct guest *g, const struct gw_convergence_params *p, const struct outcome *o,
                     char *text, size_t len)
{
	snprintf(text, len,
		 "ram %.0fM hot %.2fM dirty %.0fMB/s zero %.2f link %.1fMB/s noise %.2f budget %.0fms %s: "
		 "%u passes, %.2fM left, downtime %.1fms, %s",
		 g->ram / 1048576, g->hot / 1048576, g->dirty_Bps / 1e6, g->zero_share, g->link_Bps / 1e6,
		 g->noise, (double)p->max_downtime_ns / 1e6, p->stall == GW_STALL_STAY ? "stay" : "switch",
		 o->passes, o->left / 1048576, o->downtime_ns / 1e6, o->last.reason);
}

typedef void (*check_fn)(const struct guest *g, const struct gw_convergence_params *p, uint64_t seed);

/* Every guest on every link with every budget and policy. */
static unsigned for_all(double noise, uint64_t seed, check_fn check)
{
	static const double ram[] = { 64e6, 1.07e9, 8.6e9 }, zero[] = { 0, 0.5, 0.97 };
	static const double hot[] = { 256e3, 16e6, 256e6, 1e12 };
	static const double dirty[] = { 0, 1e6, 30e6, 100e6, 400e6, 1e9, 5e9 };
	static const double link[] = { 12.5e6, 118e6, 1.2e9, 3.8e9 };
	static const gw_time_ns budget_ms[] = { 5, 20, 50, 300 };
	unsigned n = 0;

	for (unsigned i = 0; i < 3 * 3 * 4 * 7 * 4 * 4 * 2; i++) {
		unsigned k = i;
		struct gw_convergence_params p;
		struct guest g = { .noise = noise };

		gw_convergence_defaults(&p);
		g.ram = ram[k % 3], k /= 3;
		g.zero_share = zero[k % 3], k /= 3;
		g.hot = fmin(hot[k % 4], g.ram), k /= 4;
		g.dirty_Bps = dirty[k % 7], k /= 7;
		g.link_Bps = link[k % 4], k /= 4;
		p.max_downtime_ns = budget_ms[k % 4] * GW_NS_PER_MS, k /= 4;
		p.stall = k ? GW_STALL_STAY : GW_STALL_SWITCH;
		check(&g, &p, seed);
		n++;
	}
	return n;
}

#define EXPECT(cond, what) expect(cond, what, g, p, seed, &o)

static void expect(bool cond, const char *what, const struct guest *g,
                   const struct gw_convergence_params *p, uint64_t seed, const struct outcome *o)
{
	char text[400];

	if (cond)
		return;
	describe(g, p, o, text, sizeof(text));
	fail_msg("%s; GW_SEED=%llu; %s", what, (unsigned long long)seed, text);
}

static void check_bounds(const struct guest *g, const struct gw_convergence_params *p, uint64_t seed)
{
	struct outcome o = migrate(g, p, seed);
	double longest = g->ram * (1 - g->zero_share);

	EXPECT(o.last.verdict != GW_VERDICT_PASS, "does not end");
	EXPECT(o.passes <= p->max_passes + 1, "too many passes");
	EXPECT(o.bytes <= longest + o.passes * g->hot + 1, "bytes unbounded");
	EXPECT(!o.contradiction, "switched above the budget though told to stay");
	EXPECT(p->stall != GW_STALL_SWITCH || o.last.verdict == GW_VERDICT_SWITCH, "gave up unasked");
	EXPECT(o.last.verdict != GW_VERDICT_SWITCH || o.last.predicted_downtime_ns <= p->max_downtime_ns ||
	       strstr(o.last.reason, "past the budget"), "above the budget without saying so");
	EXPECT(o.short_passes <= 8 && o.short_ns < fmax(700e6, 0.1 * o.total_ns), "short passes unbounded");
}

static void check_feasible(const struct guest *g, const struct gw_convergence_params *p, uint64_t seed)
{
	struct outcome o = migrate(g, p, seed);

	if (!feasible(g, p))
		return;
	EXPECT(o.last.verdict == GW_VERDICT_SWITCH, "gave up though it was feasible");
	EXPECT(o.downtime_ns <= 1.1 * (double)p->max_downtime_ns, "above a feasible budget");
}

static struct {
	unsigned all, time_spent;
} small_gaps;

/* Where the writer is slow against the link, the gap comes close to the smallest there is. */
static void check_small_gap(const struct guest *g, const struct gw_convergence_params *p, uint64_t seed)
{
	struct outcome o = migrate(g, p, seed);
	double floor = fmax(64 * 1024.0, g->link_Bps / 1000);

	if (!feasible(g, p) || g->dirty_Bps > 0.3 * g->link_Bps)
		return;
	small_gaps.all++;
	if (o.short_ns + o.left / g->link_Bps * 1e9 > 0.95 * fmax(250e6, o.total_ns / 20)) {
		small_gaps.time_spent++;
		return;
	}
	EXPECT(o.left <= 1.5 * fmax(floor, best_left(g)), "a larger gap than needed");
	EXPECT(o.bytes <= 1.6 * g->ram * (1 - g->zero_share) + 3 * g->hot, "paid too much for it");
}

static void check_eta(const struct guest *g, const struct gw_convergence_params *p, uint64_t seed)
{
	struct gw_convergence c;
	struct gw_pass_stats s = {
		.pass = 1,
		.pages = (uint64_t)(g->ram / PAGE),
		.duration_ns = (gw_time_ns)(g->ram / g->link_Bps * 1e9),
	};
	struct gw_decision d;

	s.left_bytes = (uint64_t)dirtied(g, (double)s.duration_ns);
	gw_convergence_init(&c, p);
	gw_convergence_decide(&c, &s, &d);
	assert_true(d.eta_ns >= 0);
	if (d.verdict == GW_VERDICT_PASS && d.dirty_rate_Bps >= d.bandwidth_Bps)
		assert_true(d.eta_ns == GW_TIME_NEVER);
	/* Each of the passes to come is shorter than the one before. */
	if (d.eta_ns != GW_TIME_NEVER)
		assert_true((double)d.eta_ns <= (double)s.duration_ns * p->max_passes);
}

static void run(double noise, check_fn check)
{
	uint64_t first = 1, count = noise > 0 ? NOISE_SEEDS : 1;
	unsigned n = 0;

	sim_seeds(&first, &count);
	for (uint64_t seed = first; seed < first + count; seed++)
		n += for_all(noise, seed, check);
	assert_true(n >= 8000);
}

static void test_bounds(void **state)
{
	run(0, check_bounds);
	run(0.2, check_bounds);
}

static void test_feasible(void **state)
{
	run(0, check_feasible);
}

static void test_small_gap(void **state)
{
	run(0, check_small_gap);
	/* The bound on extra time is the exception. */
	assert_true(small_gaps.time_spent < small_gaps.all / 20);
}

static void test_eta(void **state)
{
	run(0, check_eta);
}

/* An idle guest and 100 MB/s on a fast link: the figures that the bench will show. */
static void test_figures(void **state)
{
	static const struct {
		double dirty_Bps, link_Bps, left_max;
		unsigned passes_max;
	} rows[] = {
		{ 0, 1.8e9, 0, 1 },
		{ 100e6, 1.8e9, 2e6, 4 },
		{ 1e9, 1.8e9, 75e6, 12 },
		{ 50e6, 118e6, 0.2e6, 12 },
	};
	struct gw_convergence_params p;

	gw_convergence_defaults(&p);
	for (size_t i = 0; i < GW_ARRAY_SIZE(rows); i++) {
		const struct guest g = { .ram = 1.07e9, .hot = 1.07e9, .zero_share = 0.25,
					 .dirty_Bps = rows[i].dirty_Bps, .link_Bps = rows[i].link_Bps };
		struct outcome o = migrate(&g, &p, 1);
		char text[400];

		describe(&g, &p, &o, text, sizeof(text));
		print_message("%s\n", text);
		assert_int_equal(o.last.verdict, GW_VERDICT_SWITCH);
		assert_true(o.left <= rows[i].left_max);
		assert_true(o.passes <= rows[i].passes_max);
		assert_true(o.downtime_ns <= (double)p.max_downtime_ns);
	}
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N4 every migration ends, in bounds, and never above the budget unasked", test_bounds),
		TEST("N4 a feasible budget is kept", test_feasible),
		TEST("N5 a slow writer's gap comes close to the smallest there is", test_small_gap),
		TEST("N4 the ETA is finite only when passes converge", test_eta),
		TEST("N4 typical guests on typical links", test_figures),
	};

	return cmocka_run_group_tests_name("sim_convergence", tests, NULL, NULL);
}
