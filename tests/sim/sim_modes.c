/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whole migrations in every mode: what the policy chooses, and that it never changes its mind (N4, N8).
 *
 * A guest has a hot set and the rest of its memory, each written uniformly at a rate of its own. Of each set the model
 * keeps which share of the pages has which heat and is owed, and moves that on at every look as memory/heat.c does for
 * single pages. The driver is source_copy.c in short: a look before the first pass and one shortly before its end, then
 * one after each pass. GW_SEED picks one seed of the noise.
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
#define PREPARE_NS 300e6
#define PASS_OVERHEAD_NS 300000.0
#define SCAN_NS_PER_GIB 500000.0
#define LOOK_MIN_NS 50e6
#define HOT 2
#define THROTTLED_PASSES_MAX 32

struct guest {
	double ram, hot, hot_Bps, wide_Bps, link_Bps, noise;
};

struct set {
	double bytes, Bps;
	double share[4][2]; /* of its pages: heat, owed */
};

struct outcome {
	struct gw_decision last;
	unsigned passes;
	double first_ns, copy_ns;    /* the first pass; all passes */
	double after_first, left;    /* owed then, and at the end */
	double gap_ns, all_ns;       /* the pause as it comes out; until nothing is owed any more */
	unsigned percent;            /* slowed down by, at the end */
	bool deferred, turned_back;
};

/* One look after `ns` of writing. Returns what was written, in bytes. */
static double look(struct set *s, double ns, double keep)
{
	double p = s->bytes > 0 ? 1 - exp(-s->Bps * keep * ns / 1e9 / s->bytes) : 0, next[4][2] = { 0 };

	for (int heat = 0; heat < 4; heat++)
		for (int owed = 0; owed < 2; owed++) {
			next[heat < 3 ? heat + 1 : 3][1] += p * s->share[heat][owed];
			next[heat > 0 ? heat - 1 : 0][owed] += (1 - p) * s->share[heat][owed];
		}
	memcpy(s->share, next, sizeof(next));
	return p * s->bytes;
}

static double owed(const struct set *s, int from_heat)
{
	double sum = 0;

	for (int heat = from_heat; heat < 4; heat++)
		sum += s->share[heat][1];
	return sum * s->bytes;
}

/* Takes what a pass sends. Returns it in bytes. */
static double take(struct set *s, bool defer)
{
	double sum = 0;

	for (int heat = 0; heat < (defer ? HOT : 4); heat++) {
		sum += s->share[heat][1];
		s->share[heat][0] += s->share[heat][1];
		s->share[heat][1] = 0;
	}
	return sum * s->bytes;
}

static double scan_ns(const struct guest *g)
{
	return g->ram / (double)GW_GIB * SCAN_NS_PER_GIB;
}

static uint64_t pages_of(double bytes)
{
	return (uint64_t)ceil(bytes / PAGE);
}

static struct gw_pass_stats one_pass(const struct guest *g, struct set sets[2], const struct gw_decision *d, unsigned pass,
                                     struct sim_rng *rng)
{
	double keep = 1 - d->throttle_percent / 100.0, bytes, ns, window, written = 0;
	double u = (double)sim_below(rng, 2001) / 1000 - 1;

	bytes = take(&sets[0], d->plan == GW_PLAN_DEFER) + take(&sets[1], d->plan == GW_PLAN_DEFER);
	ns = window = bytes / (g->link_Bps * (1 + g->noise * u)) * 1e9 + PASS_OVERHEAD_NS + scan_ns(g);
	if (pass == 1 && ns * 7 / 8 > LOOK_MIN_NS) {
		look(&sets[0], ns * 7 / 8, keep);
		look(&sets[1], ns * 7 / 8, keep);
		window = ns / 8;
	}
	written = look(&sets[0], window, keep) + look(&sets[1], window, keep);
	return (struct gw_pass_stats){
		.pass = pass, .pages = pages_of(bytes), .wire_bytes = (uint64_t)bytes,
		.duration_ns = (gw_time_ns)ns, .scan_ns = (gw_time_ns)scan_ns(g),
		.left_bytes = pages_of(owed(&sets[0], 0) + owed(&sets[1], 0)) * 4096,
		.hot_bytes = (uint64_t)((owed(&sets[0], HOT) + owed(&sets[1], HOT)) / PAGE) * 4096,
		.window_bytes = pages_of(written) * 4096, .window_ns = (gw_time_ns)window,
	};
}

static struct outcome migrate(const struct guest *g, const struct gw_convergence_params *p, uint64_t seed)
{
	struct set sets[2] = {
		{ .bytes = g->hot, .Bps = g->hot_Bps, .share[0][0] = 1 },
		{ .bytes = g->ram - g->hot, .Bps = g->wide_Bps, .share[0][0] = 1 },
	};
	struct sim_rng rng = { seed };
	struct gw_convergence c;
	struct outcome o = { 0 };

	for (int i = 0; i < 2; i++) {
		look(&sets[i], PREPARE_NS, 1);
		for (int heat = 0; heat < 4; heat++) { /* all of it goes in the first pass */
			sets[i].share[heat][1] += sets[i].share[heat][0];
			sets[i].share[heat][0] = 0;
		}
	}
	gw_convergence_init(&c, p);
	gw_convergence_begin(&c, &o.last);
	o.left = owed(&sets[0], 0) + owed(&sets[1], 0);
	while (o.last.verdict == GW_VERDICT_PASS && o.passes < 10000) {
		struct gw_decision before = o.last;
		struct gw_pass_stats s = one_pass(g, sets, &before, ++o.passes, &rng);

		gw_convergence_decide(&c, &s, &o.last);
		o.copy_ns += (double)s.duration_ns;
		o.left = (double)s.left_bytes;
		o.first_ns = o.passes == 1 ? (double)s.duration_ns : o.first_ns;
		o.after_first = o.passes == 1 ? o.left : o.after_first;
		o.deferred |= o.last.plan == GW_PLAN_DEFER;
		o.turned_back |= o.last.plan < before.plan || o.last.throttle_percent < before.throttle_percent;
	}
	o.percent = o.last.throttle_percent;
	o.gap_ns = (double)p->switch_cost_ns + scan_ns(g);
	o.all_ns = o.copy_ns + o.gap_ns + o.left / g->link_Bps * 1e9;
	if (o.last.verdict == GW_VERDICT_SWITCH)
		o.gap_ns += o.left / g->link_Bps * 1e9;
	return o;
}

static void describe(const struct guest *g, const struct gw_convergence_params *p, const struct outcome *o, char *text,
                     size_t len)
{
	snprintf(text, len, "%s ram %.0fM hot %.1fM at %.0f MB/s, rest at %.0f MB/s, link %.1f MB/s, noise %.1f, budget %.0f ms: "
	         "%u passes %.2fs, gap %.1f ms, all %.2fs%s, slowed %u%%: %s",
	         gw_mode_name(p->mode), g->ram / 1e6, g->hot / 1e6, g->hot_Bps / 1e6, g->wide_Bps / 1e6, g->link_Bps / 1e6,
	         g->noise, (double)p->max_downtime_ns / 1e6, o->passes, o->copy_ns / 1e9, o->gap_ns / 1e6, o->all_ns / 1e9,
	         o->deferred ? ", deferred" : "", o->percent, o->last.reason);
}

struct run {
	const struct guest *g;
	const struct gw_convergence_params *p;
	struct outcome o;
	uint64_t seed;
};

static void expect(const struct run *r, bool cond, const char *what)
{
	char text[500];

	if (cond)
		return;
	describe(r->g, r->p, &r->o, text, sizeof(text));
	fail_msg("%s; GW_SEED=%llu; %s", what, (unsigned long long)r->seed, text);
}

/* Answers to a stall, as the driver sets them up. */
enum setup { AUTO, AUTO_WITHOUT, PRECOPY, PRECOPY_SWITCH, PRECOPY_STAY, HYBRID, POSTCOPY, SETUPS };

static struct gw_convergence_params params(enum setup setup, gw_time_ns budget_ns)
{
	struct gw_convergence_params p;

	gw_convergence_defaults(&p);
	p.max_downtime_ns = budget_ns;
	p.mode = setup == HYBRID ? GW_MODE_HYBRID : setup == POSTCOPY ? GW_MODE_POSTCOPY :
		 setup >= PRECOPY ? GW_MODE_PRECOPY : GW_MODE_AUTO;
	p.postcopy_possible = setup != AUTO_WITHOUT;
	p.throttle_allowed = setup <= PRECOPY || setup >= HYBRID;
	p.stall = setup == PRECOPY_STAY ? GW_STALL_STAY : GW_STALL_SWITCH;
	return p;
}

static void check_bounds(const struct run *r, enum setup setup)
{
	const struct outcome *o = &r->o;
	bool fixed_part_fits = r->p->switch_cost_ns + (gw_time_ns)scan_ns(r->g) < r->p->max_downtime_ns;

	expect(r, o->last.verdict != GW_VERDICT_PASS, "does not end");
	expect(r, o->passes <= r->p->max_passes + THROTTLED_PASSES_MAX, "too many passes");
	expect(r, !o->turned_back, "changed its mind");
	expect(r, o->last.verdict != GW_VERDICT_POSTCOPY || setup == AUTO || setup >= HYBRID, "post-copy unasked");
	expect(r, o->last.verdict != GW_VERDICT_GIVE_UP || setup == PRECOPY_STAY, "gave up unasked");
	expect(r, o->percent == 0 || setup == AUTO_WITHOUT || setup == PRECOPY, "slowed the guest down unasked");
	expect(r, o->last.verdict != GW_VERDICT_SWITCH || o->last.predicted_downtime_ns <= r->p->max_downtime_ns ||
	       strstr(o->last.reason, "past the budget"), "past the budget without saying so");
	if (setup == AUTO && fixed_part_fits)
		expect(r, !strstr(o->last.reason, "past the budget"), "past the budget though post-copy was possible");
	if (setup == POSTCOPY)
		expect(r, o->passes == 0, "a pass nobody asked for");
	if (setup == HYBRID && o->last.verdict == GW_VERDICT_POSTCOPY)
		expect(r, o->passes == 1, "not as many passes as asked for");
}

static void check_auto(const struct run *r)
{
	const struct guest *g = r->g;
	const struct outcome *o = &r->o;
	double rate = g->hot_Bps + g->wide_Bps, budget = (double)(r->p->max_downtime_ns - r->p->switch_cost_ns) - scan_ns(g);

	if (rate < 0.2 * g->link_Bps)
		expect(r, o->last.verdict == GW_VERDICT_SWITCH, "post-copy for a guest that writes little");
	/* A hot set far above the budget, written faster than the link. */
	if (g->hot_Bps > 1.5 * g->link_Bps && budget > 0 && g->hot / g->link_Bps * 1e9 > 1.5 * budget) {
		expect(r, o->last.verdict == GW_VERDICT_POSTCOPY, "no post-copy where nothing else helps");
		/* A smaller one hides behind the others until passes are short, and in a short first pass nobody looks. */
		expect(r, o->passes <= 2 || g->hot < 0.15 * g->ram || o->first_ns < 100e6, "wasted passes on a guest that cannot converge");
		expect(r, o->copy_ns <= o->first_ns + 3 * o->after_first / g->link_Bps * 1e9 + 100e6, "took too long to see it");
	}
	/* One copy, what it left, and never more than a little in vain. */
	expect(r, o->all_ns <= 1.6 * o->first_ns + 4 * o->after_first / g->link_Bps * 1e9 + 1.5e9, "took too long");
}

static void check_throttle(const struct run *r)
{
	const struct guest *g = r->g;
	double rate = g->hot_Bps + g->wide_Bps, fixed = (double)r->p->switch_cost_ns + scan_ns(g) + 1e6;

	if ((double)r->p->max_downtime_ns < 1.2 * fixed)
		return;
	if (rate < 20 * g->link_Bps)
		expect(r, r->o.gap_ns <= 1.25 * (double)r->p->max_downtime_ns, "past the budget though the guest could be slowed");
	if (rate < 0.2 * g->link_Bps)
		expect(r, r->o.percent == 0, "slowed a guest that writes little");
}

static void check_one(const struct guest *g, enum setup setup, gw_time_ns budget_ns, uint64_t seed)
{
	struct gw_convergence_params p = params(setup, budget_ns);
	struct run r = { .g = g, .p = &p, .seed = seed };

	r.o = migrate(g, &p, seed);
	check_bounds(&r, setup);
	if (setup == AUTO)
		check_auto(&r);
	if (setup == PRECOPY && g->noise == 0)
		check_throttle(&r);
}

static void for_all(double noise, uint64_t seed)
{
	static const double ram[] = { 256e6, 1.07e9, 17e9 }, hot[] = { 0, 1e6, 30e6, 100e6, 0.5e9, 4e9 };
	static const double hot_Bps[] = { 0, 10e6, 100e6, 600e6, 3e9, 10e9 }, wide_Bps[] = { 0, 3e6, 50e6, 500e6, 3e9 };
	static const double link[] = { 12.5e6, 118e6, 1.2e9, 4e9 };
	static const gw_time_ns budget_ms[] = { 5, 20, 50, 300 };

	for (unsigned i = 0; i < 3 * 6 * 6 * 5 * 4 * 4 * SETUPS; i++) {
		struct guest g = { .noise = noise };
		gw_time_ns budget;
		unsigned k = i;

		g.ram = ram[k % 3], k /= 3;
		g.hot = fmin(hot[k % 6], 0.9 * g.ram), k /= 6;
		g.hot_Bps = g.hot > 0 ? hot_Bps[k % 6] : 0, k /= 6;
		g.wide_Bps = wide_Bps[k % 5], k /= 5;
		g.link_Bps = link[k % 4], k /= 4;
		budget = budget_ms[k % 4] * GW_NS_PER_MS, k /= 4;
		check_one(&g, (enum setup)k, budget, seed);
	}
}

static void test_grid(void **state)
{
	uint64_t first = 1, count = 2;

	for_all(0, 1);
	sim_seeds(&first, &count);
	for (uint64_t seed = first; seed < first + count; seed++)
		for_all(0.2, seed);
}

/* Guests that tell what the choices are for. */
static void test_stories(void **state)
{
	static const struct {
		const char *what;
		struct guest g;
		enum setup setup;
		enum gw_verdict verdict;
		bool deferred, throttled;
		unsigned passes_max;
		double all_max_s;
	} rows[] = {
		{ "idle", { .ram = 1.07e9, .link_Bps = 1.8e9 }, AUTO, GW_VERDICT_SWITCH, false, false, 1, 0.7 },
		{ "100 MB/s everywhere", { .ram = 1.07e9, .wide_Bps = 100e6, .link_Bps = 1.8e9 }, AUTO, GW_VERDICT_SWITCH,
		  false, false, 4, 0.8 },
		{ "512 MB unthrottled", { .ram = 1.07e9, .hot = 512e6, .hot_Bps = 6e9, .link_Bps = 1.8e9 }, AUTO,
		  GW_VERDICT_POSTCOPY, false, false, 1, 1.0 },
		{ "the same without post-copy", { .ram = 1.07e9, .hot = 512e6, .hot_Bps = 6e9, .link_Bps = 1.8e9 },
		  AUTO_WITHOUT, GW_VERDICT_SWITCH, true, true, 16, 4.0 },
		{ "the same, post-copy forbidden", { .ram = 1.07e9, .hot = 512e6, .hot_Bps = 6e9, .link_Bps = 1.8e9 },
		  PRECOPY, GW_VERDICT_SWITCH, true, true, 16, 4.0 },
		{ "a hot set that fits the pause, and much beside it",
		  { .ram = 4e9, .hot = 25e6, .hot_Bps = 5e9, .wide_Bps = 500e6, .link_Bps = 1e9 }, PRECOPY,
		  GW_VERDICT_SWITCH, true, false, 16, 12 },
		{ "the same, with post-copy in reserve",
		  { .ram = 4e9, .hot = 25e6, .hot_Bps = 5e9, .wide_Bps = 500e6, .link_Bps = 1e9 }, AUTO,
		  GW_VERDICT_SWITCH, true, false, 16, 12 },
		{ "slow link", { .ram = 1.07e9, .hot = 100e6, .hot_Bps = 200e6, .wide_Bps = 2e6, .link_Bps = 118e6 }, AUTO,
		  GW_VERDICT_POSTCOPY, false, false, 2, 12 },
	};

	for (size_t i = 0; i < GW_ARRAY_SIZE(rows); i++) {
		struct gw_convergence_params p = params(rows[i].setup, 50 * GW_NS_PER_MS);
		struct run r = { .g = &rows[i].g, .p = &p, .o = migrate(&rows[i].g, &p, 1) };
		char text[500];

		describe(r.g, r.p, &r.o, text, sizeof(text));
		print_message("%s: %s\n", rows[i].what, text);
		expect(&r, r.o.last.verdict == rows[i].verdict, "another end");
		expect(&r, r.o.deferred == rows[i].deferred, "hot pages not as they should be");
		expect(&r, (r.o.percent > 0) == rows[i].throttled, "speed not as it should be");
		expect(&r, r.o.passes <= rows[i].passes_max, "too many passes");
		expect(&r, r.o.all_ns <= rows[i].all_max_s * 1e9, "too long");
		expect(&r, r.o.gap_ns <= 1.05 * (double)p.max_downtime_ns, "past the budget");
	}
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N4 every mode ends with every guest, in bounds, and never changes its mind", test_grid),
		TEST("N8 post-copy, hot pages and a slow guest where they help, and nowhere else", test_stories),
	};

	return cmocka_run_group_tests_name("sim_modes", tests, NULL, NULL);
}
