/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When to stop copying and switch (N3, N4): pure decisions from pass statistics.
 *
 * Theory of operation: see convergence.c.
 */
#ifndef GW_ENGINE_CONVERGENCE_H
#define GW_ENGINE_CONVERGENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

/* What is left is small enough to switch when ... */
enum gw_threshold {
	GW_THRESHOLD_ADAPTIVE, /* ... its copying fits the downtime budget at the measured bandwidth */
	GW_THRESHOLD_ABSOLUTE, /* ... it is at most threshold_bytes */
	GW_THRESHOLD_RELATIVE, /* ... it is at most threshold_fraction of RAM in use */
};

/* How memory is to go. */
enum gw_mode {
	GW_MODE_AUTO,     /* as pre-copy; what does not converge follows by post-copy, where that is possible */
	GW_MODE_PRECOPY,  /* everything before the target runs */
	GW_MODE_POSTCOPY, /* stop at once; every page follows after the target runs (N7) */
	GW_MODE_HYBRID,   /* hybrid_passes passes, then post-copy (N8) */
};

#define GW_MODE_WORDS "auto|pre-copy|post-copy|hybrid"

/* What to do when passes make no forward progress. */
enum gw_stall_policy {
	GW_STALL_SWITCH, /* switch over anyway, past the budget, and say so */
	GW_STALL_STAY,   /* give up; the guest stays where it is */
};

struct gw_convergence_params {
	enum gw_mode mode;
	bool postcopy_possible;      /* both sides can, found out by the driver */
	bool throttle_allowed;       /* the guest may be slowed down when nothing else helps */
	unsigned hybrid_passes;      /* HYBRID: so many, at least one */
	enum gw_threshold threshold;
	uint64_t threshold_bytes;
	double threshold_fraction;   /* 0..1 */
	gw_time_ns max_downtime_ns;  /* budget for the whole pause, for every threshold; _NEVER: none */
	gw_time_ns switch_cost_ns;   /* expected fixed part of the pause: stop, device state, resume */
	enum gw_stall_policy stall;
	unsigned stall_passes;       /* so many passes in a row without progress are a stall */
	double progress_ratio;       /* a pass makes progress when left <= ratio * left before */
	unsigned max_passes;         /* then the stall policy decides, whatever the progress */
	uint64_t ram_used_bytes;
};

/* Static text; NULL for none of them. */
const char *gw_mode_name(enum gw_mode mode);
/* -EINVAL when `text` is none of GW_MODE_WORDS. */
int gw_mode_parse(const char *text, enum gw_mode *ret);

/* How the passes go on. The plan changes in this order only, never back: a choice that was made is not taken back by
 * the next pass's figures. */
enum gw_plan {
	GW_PLAN_COPY,     /* every pass sends all that is owed */
	GW_PLAN_DEFER,    /* pages that are written again and again (hot) are held back: they go last */
	GW_PLAN_THROTTLE, /* every pass sends all, and the guest is slowed down meanwhile */
	GW_PLAN_POSTCOPY, /* no more passes: what is owed follows */
};

const char *gw_plan_name(enum gw_plan plan); /* static text; NULL for none of them */

/* Sensible defaults: auto, adaptive, 50 ms, switch. ram_used_bytes stays 0: the caller fills it for RELATIVE. */
void gw_convergence_defaults(struct gw_convergence_params *p);

/* What one finished pass measured. */
struct gw_pass_stats {
	unsigned pass;            /* from 1 */
	uint64_t pages;           /* 4 KiB pages handled in this pass, zero pages included */
	uint64_t zero_pages;
	uint64_t wire_bytes;      /* on the wire in this pass */
	uint64_t delta_pages, packed_pages; /* sent as a difference; packed */
	const char *compression;  /* static text: how most of the packed ones were; NULL: none were */
	gw_time_ns duration_ns;   /* scan included */
	gw_time_ns scan_ns;
	uint64_t left_bytes;      /* owed: dirtied since the pass began, or held back in it */
	uint64_t hot_bytes;       /* of these: dirtied again and again; 0 when nobody looked */
	uint64_t window_bytes;    /* dirtied in the last part of the pass, ... */
	gw_time_ns window_ns;     /* ... which was so long; 0: the pass as a whole */
};

enum gw_verdict {
	GW_VERDICT_PASS,     /* copy once more */
	GW_VERDICT_SWITCH,   /* stop the guest now, send what is left, run at the target */
	GW_VERDICT_POSTCOPY, /* stop the guest now, run at the target; what is left follows by post-copy */
	GW_VERDICT_GIVE_UP,  /* abort; the guest stays */
};

struct gw_decision {
	enum gw_verdict verdict;
	enum gw_plan plan;               /* for the next pass */
	unsigned throttle_percent;       /* 1..99: the guest is to be slowed down by so much; 0: not at all */
	char reason[160];                /* for the log and the post-mortem */
	uint64_t bandwidth_Bps;          /* estimate used, of pages with contents; 0: not known */
	uint64_t dirty_rate_Bps;         /* of the last pass */
	gw_time_ns predicted_downtime_ns; /* if switched now; GW_TIME_NEVER when nothing was measured yet */
	gw_time_ns eta_ns;               /* until the switch; GW_TIME_NEVER when it does not converge */
};

struct gw_convergence {
	struct gw_convergence_params params; /* set at init */
	/* own state */
	unsigned passes, passes_without_progress;
	uint64_t last_left_bytes, best_left_bytes;
	uint64_t dirty_rate_Bps; /* of the last pass that took any time */
	double bandwidth_Bps;    /* smoothed over passes large enough to measure; 0: not known */
	gw_time_ns total_ns;     /* of all passes */
	bool bandwidth_is_bound; /* only a lower bound so far */
	unsigned short_passes;   /* made although the budget was met, to shrink the gap */
	gw_time_ns short_ns;     /* spent in them */
	bool in_short_pass;      /* the pass that is reported next is one of them */
	enum gw_plan plan;
	unsigned throttle_percent;
	unsigned throttle_passes, throttle_stuck; /* while slowed down; of these in vain at the last level */
};

void gw_convergence_init(struct gw_convergence *c, const struct gw_convergence_params *p);

/* Before the first pass: PASS, or POSTCOPY when there is to be none. */
void gw_convergence_begin(const struct gw_convergence *c, struct gw_decision *ret);

/* After each pass, in order. Pure: same history, same answer. */
void gw_convergence_decide(struct gw_convergence *c, const struct gw_pass_stats *s,
                           struct gw_decision *ret);

/* The driver could not do as the last decision's throttle_percent says: the stall policy decides instead. */
void gw_convergence_no_throttle(struct gw_convergence *c);

#endif
