/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is left does not fit: copy on, hold hot pages back, go over to post-copy, slow the guest, or give up (N4, N8). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "engine/convergence_internal.h"

/* Theory of operation
 *
 * Each way to go on is forecast from what the last pass measured, as the sum of a geometric series: passes that each
 * leave `ratio` = dirty rate / bandwidth of what they sent, until the rest fits. The dirty rate is that of the last
 * part of the pass: over a long pass a small hot set looks like a low rate.
 *
 * - Copying on is the first choice: the guest needs one host only, at any time.
 * - Hot pages are held back when that brings the end nearer: copying them is in vain, they are dirty again before the
 *   pass is over. It leads somewhere when they fit the pause themselves, and the others shrink.
 * - Post-copy takes the time of one more copy of what is left, for certain. It is chosen when passes have stopped to
 *   make progress or are forecast to, and when they would take more than POSTCOPY_GAIN times as long and more than a
 *   grace: a short while, or a part of the time already spent.
 * - The guest is slowed down when post-copy is forbidden or impossible, after a stall: by as much as makes each pass
 *   leave THROTTLE_RATIO of the one before, and more while that is not reached, down to 1 % of its speed. All pages
 *   are sent then: with the guest slow, hot ones cool down.
 * - What still does not converge is for the stall policy.
 *
 * The plan moves on in the order of enum gw_plan only, and within THROTTLE the guest only gets slower. Every way ends:
 * max_passes bounds the passes without, THROTTLE_PASSES_MAX those with a slow guest.
 */

#define SHRINKS_WELL 0.5 /* a ratio below it: nothing to be mended */
#define DEFER_GAIN 0.7
#define HOT_FIT_SHARE 0.8 /* hot pages fit the pause when they take at most so much of it: others come on top */

#define POSTCOPY_GAIN 2.5
#define GRACE_NS (500 * GW_NS_PER_MS) /* or, if that is more, ... */
#define GRACE_SHARE 4                 /* ... 1/4 of the copying so far */

#define THROTTLE_RATIO 0.4
#define THROTTLE_MIN_PERCENT 20u
#define THROTTLE_FIRST_MAX_PERCENT 95u
#define THROTTLE_MAX_PERCENT 99u
#define THROTTLE_PROGRESS 0.7 /* less progress than this: slower */
#define THROTTLE_STUCK 2      /* passes in vain at the last level */
#define THROTTLE_PASSES_MAX 32

static const char *const plan_names[] = {
	[GW_PLAN_COPY] = "copy",
	[GW_PLAN_DEFER] = "defer",
	[GW_PLAN_THROTTLE] = "throttle",
	[GW_PLAN_POSTCOPY] = "post-copy",
};

const char *gw_plan_name(enum gw_plan plan)
{
	return (size_t)plan < GW_ARRAY_SIZE(plan_names) ? plan_names[plan] : NULL;
}

static double ms(gw_time_ns ns)
{
	return (double)ns / (double)GW_NS_PER_MS;
}

/* The largest rest with which the switch would be made. */
static double fitting_bytes(const struct gw_convergence *c, const struct gw_pass_stats *s)
{
	gw_time_ns budget = gw_conv_copy_budget_ns(c, s);

	if (budget < 0)
		return 0;
	return fmin((double)gw_conv_threshold_bytes(c), (double)budget / (double)GW_NS_PER_S * c->bandwidth_Bps);
}

/* The time of passes that send `todo` at first and `ratio` of the one before each, until one leaves at most `goal`. */
static gw_time_ns series_ns(const struct gw_convergence *c, double todo, double ratio, double goal)
{
	double n, ns;

	if (c->bandwidth_Bps <= 0 || ratio >= 1)
		return GW_TIME_NEVER;
	if (todo <= goal || ratio <= 0)
		return gw_conv_copy_ns(c, (uint64_t)todo);
	if (goal <= 0)
		return GW_TIME_NEVER;
	n = ceil(log(goal / todo) / log(ratio));
	if (c->passes + n > c->params.max_passes)
		return GW_TIME_NEVER;
	ns = todo / c->bandwidth_Bps * (1 - pow(ratio, n)) / (1 - ratio) * (double)GW_NS_PER_S;
	return ns >= 9e18 ? GW_TIME_NEVER : (gw_time_ns)ns;
}

static double ratio(const struct gw_convergence *c)
{
	return c->bandwidth_Bps > 0 ? (double)c->dirty_rate_Bps / c->bandwidth_Bps : INFINITY;
}

/* The forecast of a plan. `goal` as above, for all that is left. */
static gw_time_ns forecast_ns(const struct gw_convergence *c, const struct gw_pass_stats *s, enum gw_plan plan,
                              double goal)
{
	struct gw_convergence as_if = *c;

	as_if.plan = plan;
	if (plan == GW_PLAN_DEFER && (double)s->hot_bytes > HOT_FIT_SHARE * goal)
		return GW_TIME_NEVER;
	if (plan == GW_PLAN_DEFER)
		goal -= (double)s->hot_bytes;
	return series_ns(c, (double)gw_conv_next_bytes(&as_if, s), gw_conv_next_rate_Bps(&as_if, s) / c->bandwidth_Bps,
	                 goal);
}

/* Is holding hot pages back better from now on? */
static bool wants_deferral(const struct gw_convergence *c, const struct gw_pass_stats *s, double goal)
{
	gw_time_ns plain = forecast_ns(c, s, GW_PLAN_COPY, goal);
	gw_time_ns defer = forecast_ns(c, s, GW_PLAN_DEFER, goal);

	if (c->plan != GW_PLAN_COPY || s->hot_bytes == 0 || ratio(c) < SHRINKS_WELL)
		return false;
	if (defer != GW_TIME_NEVER)
		return plain == GW_TIME_NEVER || (double)defer < DEFER_GAIN * (double)plain;
	/* No way out, but the way to find that out for certain is shorter. */
	return plain == GW_TIME_NEVER && s->hot_bytes >= s->left_bytes / 2;
}

/* A budget below the fixed part is not met with post-copy or a slow guest either. */
static bool can_be_met(const struct gw_convergence *c, const struct gw_pass_stats *s)
{
	return gw_conv_copy_budget_ns(c, s) >= 0;
}

static bool may_postcopy(const struct gw_convergence *c, const struct gw_pass_stats *s)
{
	return c->params.mode == GW_MODE_AUTO && c->params.postcopy_possible &&
	       (can_be_met(c, s) || ratio(c) >= SHRINKS_WELL);
}

static bool no_progress(const struct gw_convergence *c)
{
	/* Of a guest that writes little a pass without progress is an accident. */
	unsigned enough = ratio(c) < SHRINKS_WELL ? GW_MAX(c->params.stall_passes, 1u) : 1;

	return c->passes_without_progress >= enough;
}

static void postcopy(struct gw_convergence *c, const struct gw_pass_stats *s, struct gw_decision *d,
                     const char *why)
{
	char left[32], rate[32], speed[32];

	c->plan = GW_PLAN_POSTCOPY;
	d->verdict = GW_VERDICT_POSTCOPY;
	d->eta_ns = 0;
	d->predicted_downtime_ns = gw_conv_add_ns(c->params.switch_cost_ns, GW_MAX(s->scan_ns, 0));
	snprintf(d->reason, sizeof(d->reason), "%s: %s left, written at %s of %s: post-copy", why,
	         gw_format_size(left, sizeof(left), s->left_bytes),
	         gw_format_rate(rate, sizeof(rate), c->dirty_rate_Bps),
	         gw_format_rate(speed, sizeof(speed), (uint64_t)c->bandwidth_Bps));
}

static bool chose_postcopy(struct gw_convergence *c, const struct gw_pass_stats *s, gw_time_ns forecast,
                           struct gw_decision *d)
{
	gw_time_ns once = gw_conv_copy_ns(c, s->left_bytes), grace = GW_MAX(GRACE_NS, c->total_ns / GRACE_SHARE);
	char why[64];

	if (!may_postcopy(c, s))
		return false;
	if (no_progress(c))
		snprintf(why, sizeof(why), "no progress");
	else if (forecast == GW_TIME_NEVER)
		snprintf(why, sizeof(why), "passes would not converge");
	else if (forecast > grace && (double)forecast > POSTCOPY_GAIN * (double)once)
		snprintf(why, sizeof(why), "passes would take %.1f s more", ms(forecast) / 1000);
	else
		return false;
	postcopy(c, s, d, why);
	return true;
}

/* A mode that was asked for rather than chosen. */
static bool chose_hybrid(struct gw_convergence *c, struct gw_decision *d)
{
	if (c->params.mode != GW_MODE_HYBRID || c->passes < c->params.hybrid_passes)
		return false;
	c->plan = GW_PLAN_POSTCOPY;
	d->verdict = GW_VERDICT_POSTCOPY;
	d->predicted_downtime_ns = c->params.switch_cost_ns;
	d->eta_ns = 0;
	snprintf(d->reason, sizeof(d->reason), "hybrid was asked for, with %u pass%s", c->passes,
	         c->passes == 1 ? "" : "es");
	return true;
}

static void say_unfit(const struct gw_convergence *c, const struct gw_pass_stats *s, struct gw_decision *d)
{
	char left[32], limit[32], hot[32];
	size_t at;

	gw_format_size(left, sizeof(left), s->left_bytes);
	if (d->predicted_downtime_ns == GW_TIME_NEVER)
		snprintf(d->reason, sizeof(d->reason), "%s left, bandwidth not measured yet", left);
	else if (d->predicted_downtime_ns > c->params.max_downtime_ns)
		snprintf(d->reason, sizeof(d->reason), "%s left would pause for %.1f ms, budget %.1f ms",
			 left, ms(d->predicted_downtime_ns), ms(c->params.max_downtime_ns));
	else
		snprintf(d->reason, sizeof(d->reason), "%s left, threshold %s", left,
			 gw_format_size(limit, sizeof(limit), gw_conv_threshold_bytes(c)));
	at = strlen(d->reason);
	if (c->plan == GW_PLAN_DEFER)
		snprintf(d->reason + at, sizeof(d->reason) - at, "; %s of it, busy, wait for the end",
		         gw_format_size(hot, sizeof(hot), s->hot_bytes));
	else if (c->plan == GW_PLAN_THROTTLE)
		snprintf(d->reason + at, sizeof(d->reason) - at, "; the guest is slowed down by %u %%",
		         c->throttle_percent);
}

/* No forward progress any more: the policy decides. */
static void stalled(const struct gw_convergence *c, const struct gw_pass_stats *s, const char *why,
                    struct gw_decision *d)
{
	gw_time_ns budget = c->params.max_downtime_ns;
	char left[32];

	gw_format_size(left, sizeof(left), s->left_bytes);
	if (c->params.stall == GW_STALL_STAY) {
		d->verdict = GW_VERDICT_GIVE_UP;
		d->eta_ns = GW_TIME_NEVER;
		snprintf(d->reason, sizeof(d->reason), "%s, %s left: the guest stays", why, left);
		return;
	}
	d->verdict = GW_VERDICT_SWITCH;
	d->eta_ns = 0;
	if (d->predicted_downtime_ns == GW_TIME_NEVER)
		snprintf(d->reason, sizeof(d->reason),
			 "%s: switching with %s left, bandwidth unknown", why, left);
	else if (d->predicted_downtime_ns > budget)
		snprintf(d->reason, sizeof(d->reason),
			 "%s: switching with %s left, %.1f ms past the budget of %.1f ms", why, left,
			 ms(d->predicted_downtime_ns - budget), ms(budget));
	else
		snprintf(d->reason, sizeof(d->reason),
			 "%s: switching with %s left, above the threshold", why, left);
}

/* Nothing but the fixed part is left of a pause whose budget is below it: no pass can help. */
static bool only_fixed_part(const struct gw_convergence *c, const struct gw_pass_stats *s)
{
	return !can_be_met(c, s) && s->left_bytes <= gw_conv_floor_bytes(c);
}

/* Fills why and returns true when passes do not lead anywhere any more. */
static bool is_stalled(const struct gw_convergence *c, char *why, size_t len)
{
	const struct gw_convergence_params *p = &c->params;

	if (c->passes_without_progress >= GW_MAX(p->stall_passes, 1u))
		snprintf(why, len, "no progress in %u passes", c->passes_without_progress);
	else if (c->passes >= GW_MAX(p->max_passes, 1u))
		snprintf(why, len, "limit of %u passes reached", p->max_passes);
	else
		return false;
	return true;
}

static void slow_down(struct gw_convergence *c, const struct gw_pass_stats *s, double keep, double max,
                      struct gw_decision *d)
{
	double before = 1 - c->throttle_percent / 100.0, after;

	c->throttle_percent = (unsigned)lround(fmin(fmax(100 * (1 - keep), THROTTLE_MIN_PERCENT), max));
	after = 1 - c->throttle_percent / 100.0;
	d->eta_ns = series_ns(c, (double)s->left_bytes, ratio(c) * after / before, fitting_bytes(c, s));
}

static void begin_throttle(struct gw_convergence *c, const struct gw_pass_stats *s, const char *why,
                           struct gw_decision *d)
{
	char left[32];

	c->plan = GW_PLAN_THROTTLE;
	slow_down(c, s, THROTTLE_RATIO / ratio(c), THROTTLE_FIRST_MAX_PERCENT, d);
	snprintf(d->reason, sizeof(d->reason), "%s, %s left: the guest is slowed down by %u %%", why,
	         gw_format_size(left, sizeof(left), s->left_bytes), c->throttle_percent);
}

static void throttle_on(struct gw_convergence *c, const struct gw_pass_stats *s, struct gw_decision *d)
{
	bool progress = (double)s->left_bytes <= THROTTLE_PROGRESS * (double)c->last_left_bytes;
	double keep = 1 - c->throttle_percent / 100.0;

	c->throttle_passes++;
	if (!c->params.throttle_allowed) {
		stalled(c, s, "the guest cannot be slowed down", d);
		return;
	}
	c->throttle_stuck += !progress && c->throttle_percent >= THROTTLE_MAX_PERCENT;
	if (c->throttle_stuck >= THROTTLE_STUCK || c->throttle_passes >= THROTTLE_PASSES_MAX) {
		char why[64];

		snprintf(why, sizeof(why), "no progress with the guest slowed down by %u %%", c->throttle_percent);
		stalled(c, s, why, d);
		return;
	}
	/* The first pass after the guest was slowed down began with what it had written before. */
	slow_down(c, s, progress ? keep : keep * fmin(0.5, THROTTLE_RATIO / ratio(c)), THROTTLE_MAX_PERCENT, d);
	say_unfit(c, s, d);
}

/* A stall where post-copy is none of the answers. */
static void answer_stall(struct gw_convergence *c, const struct gw_pass_stats *s, const char *why,
                         struct gw_decision *d)
{
	if (c->params.throttle_allowed && can_be_met(c, s) && isfinite(ratio(c)) && ratio(c) > 0)
		begin_throttle(c, s, why, d);
	else
		stalled(c, s, why, d);
}

void gw_conv_plan(struct gw_convergence *c, const struct gw_pass_stats *s, struct gw_decision *d)
{
	double goal = fitting_bytes(c, s);
	gw_time_ns forecast;
	char why[64];

	if (chose_hybrid(c, d))
		return;
	if (only_fixed_part(c, s)) {
		snprintf(why, sizeof(why), "the switch alone takes %.1f ms",
		         ms(c->params.switch_cost_ns + GW_MAX(s->scan_ns, 0)));
		stalled(c, s, why, d);
		return;
	}
	if (c->plan == GW_PLAN_THROTTLE) {
		throttle_on(c, s, d);
		return;
	}
	if (wants_deferral(c, s, goal))
		c->plan = GW_PLAN_DEFER;
	forecast = forecast_ns(c, s, c->plan, can_be_met(c, s) ? goal : (double)gw_conv_floor_bytes(c));
	if (c->bandwidth_Bps > 0 && chose_postcopy(c, s, forecast, d))
		return;
	if (is_stalled(c, why, sizeof(why))) {
		if (may_postcopy(c, s))
			postcopy(c, s, d, why);
		else
			answer_stall(c, s, why, d);
		return;
	}
	d->eta_ns = forecast;
	say_unfit(c, s, d);
}
