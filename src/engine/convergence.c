/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When to stop copying and switch: thresholds and short last passes (N3, N4, N5). */
#include "engine/convergence.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "engine/convergence_internal.h"

/* Theory of operation
 *
 * Every pass copies what was dirtied during the one before. With a dirty rate below the bandwidth what is
 * left shrinks geometrically towards the guest's hot set; with a higher one it does not shrink at all.
 *
 * - The pause is predicted as switch cost + last scan + left / bandwidth. Above the budget there is no
 *   switch, with any threshold, unless passes stall and the policy says so.
 * - When everything fits, the gap can often be had smaller for almost nothing: short passes go on while
 *   what is left is above a floor (1 ms of copying, at least 64 KiB) and the last pass shrank it by 30 % or
 *   more. The first one is made on the strength of the prediction alone, since a long pass says little
 *   about what a short one leaves, and always when the bandwidth was not really measured yet. Their
 *   number and their time are bounded for the whole migration.
 * - When it does not fit, convergence_plan.c says how to go on. A stall is stall_passes passes in a row that
 *   left more than progress_ratio of what the one before left, or max_passes in all. A budget below the fixed
 *   cost can never be met: that is for the stall policy as soon as nothing is to be gained by copying.
 * - Bandwidth counts pages with contents only, over the copying time of the pass. The dirty set is hardly
 *   ever zero, while the first pass may be mostly zero and cost almost nothing on the wire; counting zero
 *   pages would promise a link that is not there. A pass of mostly zero pages gives a lower bound: it may
 *   raise the estimate, and stands in until a real measurement comes, but never lowers one. Tiny passes
 *   measure latency rather than bandwidth and are used in the same way. Falling bandwidth is believed
 *   faster than rising.
 */

#define PAGE_BYTES 4096ULL

#define MEASURE_MIN_PAGES 1024ULL             /* 4 MiB, or ... */
#define MEASURE_MIN_NS (10 * GW_NS_PER_MS)    /* ... so much time with ... */
#define MEASURE_MIN_PAGES_SLOW 64ULL          /* ... at least this */
#define SMOOTH_UP 0.4
#define SMOOTH_DOWN 0.7

#define FLOOR_BYTES (64 * GW_KIB)
#define FLOOR_NS GW_NS_PER_MS
#define SHRINK_RATIO 0.7
#define SHORT_PASSES_MAX 8
#define SHORT_TIME_NS (250 * GW_NS_PER_MS) /* or, if that is more, ... */
#define SHORT_TIME_SHARE 20                /* ... 1/20 of the copying so far */

static const char *const mode_names[] = {
	[GW_MODE_AUTO] = "auto",
	[GW_MODE_PRECOPY] = "pre-copy",
	[GW_MODE_POSTCOPY] = "post-copy",
	[GW_MODE_HYBRID] = "hybrid",
};

const char *gw_mode_name(enum gw_mode mode)
{
	return mode < GW_ARRAY_SIZE(mode_names) ? mode_names[mode] : NULL;
}

int gw_mode_parse(const char *text, enum gw_mode *ret)
{
	for (size_t i = 0; i < GW_ARRAY_SIZE(mode_names); i++)
		if (!strcmp(text, mode_names[i])) {
			*ret = (enum gw_mode)i;
			return 0;
		}
	return -EINVAL;
}

void gw_convergence_defaults(struct gw_convergence_params *p)
{
	*p = (struct gw_convergence_params){
		.mode = GW_MODE_AUTO,
		.hybrid_passes = 1,
		.threshold = GW_THRESHOLD_ADAPTIVE,
		.threshold_bytes = 4 * GW_MIB,
		.threshold_fraction = 0.001,
		.max_downtime_ns = 50 * GW_NS_PER_MS,
		.switch_cost_ns = 10 * GW_NS_PER_MS,
		.stall = GW_STALL_SWITCH,
		.stall_passes = 3,
		.progress_ratio = 0.9,
		.max_passes = 40,
	};
}

void gw_convergence_init(struct gw_convergence *c, const struct gw_convergence_params *p)
{
	*c = (struct gw_convergence){
		.params = *p,
		.last_left_bytes = UINT64_MAX,
		.best_left_bytes = UINT64_MAX,
	};
}

void gw_convergence_begin(const struct gw_convergence *c, struct gw_decision *ret)
{
	*ret = (struct gw_decision){
		.verdict = c->params.mode == GW_MODE_POSTCOPY ? GW_VERDICT_POSTCOPY : GW_VERDICT_PASS,
		.plan = c->params.mode == GW_MODE_POSTCOPY ? GW_PLAN_POSTCOPY : GW_PLAN_COPY,
		.predicted_downtime_ns = GW_TIME_NEVER,
		.eta_ns = GW_TIME_NEVER,
	};
	if (ret->verdict == GW_VERDICT_POSTCOPY) {
		ret->predicted_downtime_ns = c->params.switch_cost_ns;
		ret->eta_ns = 0;
		snprintf(ret->reason, sizeof(ret->reason), "post-copy was asked for");
	}
}

static double ms(gw_time_ns ns)
{
	return (double)ns / (double)GW_NS_PER_MS;
}

gw_time_ns gw_conv_add_ns(gw_time_ns a, gw_time_ns b)
{
	return a > GW_TIME_NEVER - b ? GW_TIME_NEVER : a + b;
}

static gw_time_ns ns_from_double(double ns)
{
	return ns >= 9e18 ? GW_TIME_NEVER : (gw_time_ns)ns;
}

gw_time_ns gw_conv_copy_ns(const struct gw_convergence *c, uint64_t bytes)
{
	if (bytes == 0)
		return 0;
	if (c->bandwidth_Bps <= 0)
		return GW_TIME_NEVER;
	return ns_from_double((double)bytes / c->bandwidth_Bps * (double)GW_NS_PER_S);
}

static void measure_bandwidth(struct gw_convergence *c, const struct gw_pass_stats *s)
{
	uint64_t full = s->pages > s->zero_pages ? s->pages - s->zero_pages : 0;
	gw_time_ns copy_ns = s->duration_ns - GW_MAX(s->scan_ns, 0);
	bool large;
	double x;

	if (full == 0 || copy_ns <= 0)
		return;
	x = (double)(full * PAGE_BYTES) * (double)GW_NS_PER_S / (double)copy_ns;
	large = full >= MEASURE_MIN_PAGES || (copy_ns >= MEASURE_MIN_NS && full >= MEASURE_MIN_PAGES_SLOW);
	if (!large || full < s->zero_pages) {
		if (c->bandwidth_Bps <= 0)
			c->bandwidth_is_bound = true;
		/* A bound taken from a few pages may be a fluke: it never outbids a measurement. */
		if (c->bandwidth_is_bound || full >= MEASURE_MIN_PAGES)
			c->bandwidth_Bps = fmax(c->bandwidth_Bps, x);
		return;
	}
	if (c->bandwidth_Bps <= 0 || c->bandwidth_is_bound)
		c->bandwidth_Bps = x;
	else if (x < c->bandwidth_Bps)
		c->bandwidth_Bps += SMOOTH_DOWN * (x - c->bandwidth_Bps);
	else
		c->bandwidth_Bps += SMOOTH_UP * (x - c->bandwidth_Bps);
	c->bandwidth_is_bound = false;
}

static double per_second(uint64_t bytes, gw_time_ns ns)
{
	return ns > 0 ? (double)bytes * (double)GW_NS_PER_S / (double)ns : 0;
}

/* Over a long pass a small hot set looks like a low rate, and over a short window a burst like a high one: the pages
 * that are known to be hot count at the rate of the window, the others at that of the pass. */
static void measure_dirty_rate(struct gw_convergence *c, const struct gw_pass_stats *s)
{
	double rate = per_second(s->left_bytes, s->duration_ns);

	if (s->window_ns > 0)
		rate = fmin(per_second(s->window_bytes, s->window_ns),
		            rate + per_second(s->hot_bytes, s->window_ns));
	if (s->duration_ns > 0)
		c->dirty_rate_Bps = (uint64_t)fmin(rate, 1e18);
}

uint64_t gw_conv_next_bytes(const struct gw_convergence *c, const struct gw_pass_stats *s)
{
	return c->plan == GW_PLAN_DEFER ? s->left_bytes - GW_MIN(s->hot_bytes, s->left_bytes) : s->left_bytes;
}

double gw_conv_next_rate_Bps(const struct gw_convergence *c, const struct gw_pass_stats *s)
{
	if (c->plan != GW_PLAN_DEFER)
		return (double)c->dirty_rate_Bps;
	return per_second(gw_conv_next_bytes(c, s), s->duration_ns);
}

static void count_progress(struct gw_convergence *c, const struct gw_pass_stats *s)
{
	bool progress = s->left_bytes < c->last_left_bytes &&
			(c->last_left_bytes == UINT64_MAX ||
			 (double)s->left_bytes <= c->params.progress_ratio * (double)c->last_left_bytes);

	c->passes_without_progress = progress ? 0 : c->passes_without_progress + 1;
	c->best_left_bytes = GW_MIN(c->best_left_bytes, s->left_bytes);
}

uint64_t gw_conv_threshold_bytes(const struct gw_convergence *c)
{
	const struct gw_convergence_params *p = &c->params;

	switch (p->threshold) {
	case GW_THRESHOLD_ABSOLUTE:
		return p->threshold_bytes;
	case GW_THRESHOLD_RELATIVE:
		return (uint64_t)(p->threshold_fraction * (double)p->ram_used_bytes);
	case GW_THRESHOLD_ADAPTIVE:
		break;
	}
	return UINT64_MAX;
}

gw_time_ns gw_conv_copy_budget_ns(const struct gw_convergence *c, const struct gw_pass_stats *s)
{
	if (c->params.max_downtime_ns == GW_TIME_NEVER)
		return GW_TIME_NEVER;
	return c->params.max_downtime_ns - c->params.switch_cost_ns - GW_MAX(s->scan_ns, 0);
}

uint64_t gw_conv_floor_bytes(const struct gw_convergence *c)
{
	double by_time = c->bandwidth_Bps * (double)FLOOR_NS / (double)GW_NS_PER_S;

	return by_time > (double)FLOOR_BYTES ? (uint64_t)by_time : FLOOR_BYTES;
}

/* The switch could be made now: is another short pass worth it? */
static bool wants_short_pass(const struct gw_convergence *c, const struct gw_pass_stats *s)
{
	uint64_t bytes = gw_conv_next_bytes(c, s);
	gw_time_ns cost = gw_conv_add_ns(gw_conv_copy_ns(c, bytes), GW_MAX(s->scan_ns, 0));
	gw_time_ns allowed = GW_MAX(SHORT_TIME_NS, c->total_ns / SHORT_TIME_SHARE);

	if (c->plan == GW_PLAN_THROTTLE)
		return false; /* the guest has waited long enough */
	if (bytes <= gw_conv_floor_bytes(c) || c->passes >= c->params.max_passes ||
	    c->short_passes >= SHORT_PASSES_MAX)
		return false;
	if (c->short_passes == 0 && c->bandwidth_is_bound)
		return true; /* takes no longer than the budget, likely far less, and measures */
	if (cost > allowed - c->short_ns)
		return false;
	if (c->short_passes == 0)
		return gw_conv_next_rate_Bps(c, s) < SHRINK_RATIO * c->bandwidth_Bps;
	return (double)s->left_bytes <= SHRINK_RATIO * (double)c->last_left_bytes;
}

static void say_fit(const struct gw_convergence *c, const struct gw_pass_stats *s, struct gw_decision *d)
{
	char left[32], limit[32];

	if (s->left_bytes == 0)
		snprintf(d->reason, sizeof(d->reason), "nothing left to copy");
	else if (c->params.threshold != GW_THRESHOLD_ADAPTIVE)
		snprintf(d->reason, sizeof(d->reason), "%s left, threshold %s",
			 gw_format_size(left, sizeof(left), s->left_bytes),
			 gw_format_size(limit, sizeof(limit), gw_conv_threshold_bytes(c)));
	else if (c->params.max_downtime_ns == GW_TIME_NEVER)
		snprintf(d->reason, sizeof(d->reason), "%s left, no limit for the pause",
			 gw_format_size(left, sizeof(left), s->left_bytes));
	else
		snprintf(d->reason, sizeof(d->reason), "%.1f ms of %.1f ms budget left to copy",
			 ms(gw_conv_copy_ns(c, s->left_bytes)), ms(gw_conv_copy_budget_ns(c, s)));
}

static void decide_fitting(struct gw_convergence *c, const struct gw_pass_stats *s, struct gw_decision *d)
{
	c->in_short_pass = wants_short_pass(c, s);
	if (!c->in_short_pass) {
		d->verdict = GW_VERDICT_SWITCH;
		d->eta_ns = 0;
		say_fit(c, s, d);
		return;
	}
	c->short_passes++;
	d->verdict = GW_VERDICT_PASS;
	d->eta_ns = gw_conv_copy_ns(c, gw_conv_next_bytes(c, s));
	snprintf(d->reason, sizeof(d->reason), "%.1f ms left to copy would do, a short pass makes it less",
		 ms(gw_conv_copy_ns(c, s->left_bytes)));
}

void gw_convergence_no_throttle(struct gw_convergence *c)
{
	c->params.throttle_allowed = false;
	c->throttle_percent = 0;
}

void gw_convergence_decide(struct gw_convergence *c, const struct gw_pass_stats *s,
                           struct gw_decision *ret)
{
	struct gw_decision d = { .verdict = GW_VERDICT_PASS };

	c->passes++;
	c->total_ns = gw_conv_add_ns(c->total_ns, GW_MAX(s->duration_ns, 0));
	if (c->in_short_pass)
		c->short_ns = gw_conv_add_ns(c->short_ns, GW_MAX(s->duration_ns, 0));
	c->in_short_pass = false;
	measure_bandwidth(c, s);
	measure_dirty_rate(c, s);
	count_progress(c, s);

	d.bandwidth_Bps = (uint64_t)c->bandwidth_Bps;
	d.dirty_rate_Bps = c->dirty_rate_Bps;
	d.predicted_downtime_ns = gw_conv_add_ns(gw_conv_add_ns(c->params.switch_cost_ns, GW_MAX(s->scan_ns, 0)),
					 gw_conv_copy_ns(c, s->left_bytes));

	if (s->left_bytes <= gw_conv_threshold_bytes(c) && d.predicted_downtime_ns <= c->params.max_downtime_ns)
		decide_fitting(c, s, &d);
	else
		gw_conv_plan(c, s, &d);
	c->last_left_bytes = s->left_bytes;
	d.plan = c->plan;
	d.throttle_percent = c->throttle_percent;
	*ret = d;
}
