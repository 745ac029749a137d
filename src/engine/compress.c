/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether packing pages pays, and how.
 *
 * Theory of operation. A channel's thread packs while the kernel sends what was packed before, so a byte of guest memory
 * takes
 *
 *     time(m) = max(CPU(m) * contention, ratio(m) / link)        time(off) = 1 / link
 *
 * - The link's rate is what went out in a window in which the thread waited for it. A window without waiting gives a
 *   lower bound only. Waiting for the receiver (its window is shut) is no reason to pack: unpacking would make it slower
 *   still; so on a link that is faster than the hosts nothing is packed and nothing copied.
 * - Ratio and CPU of a method come from samples, those of the present method from all that it did. Contention is the
 *   thread's time on the clock, waiting left out, by its time on a CPU: what the guest and others leave over.
 *
 * The model does not know everything: a host whose CPUs are overrun looks like a slow link from outside, and packing there
 * makes matters worse. So what packing really moves is compared with what went unpacked before; when it is much less,
 * packing stops and is left alone for a while, each time for twice as long.
 *
 * The lightest method within 5 % of the best is preferred. A heavier one must be 15 % better than the present one, a
 * lighter one only as good; packing at all must save 15 % to begin and less than 5 % ends it. These bands, smoothing and
 * a least stay keep it from swinging. While packing is what limits, the link is not seen any more and may have become
 * faster; so after RECHECK_WINDOWS without waiting one window goes out unpacked and measures it anew.
 */
#include "engine/compress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

#define LIMITED 0.5          /* share of waiting from which on the link counts as what limits */
#define BEGIN_GAIN 0.85      /* of the time before: to begin, or to take a heavier method */
#define KEEP_GAIN 0.95       /* to go on packing */
#define NEAR_BEST 1.05
#define STAY_WINDOWS 3u
#define BEGIN_WINDOWS 2u      /* in a row that the link limited, before packing begins */
#define VAIN 0.75             /* of what went without */
#define WAIT_WINDOWS 20u      /* after packing has not helped */
#define WAIT_WINDOWS_MAX 320u
#define RECHECK_WINDOWS 100u
#define SMOOTH 0.3           /* weight of what is new */
#define CONTENTION_MAX 4.0
#define SKIP_MAX 32u
#define DELTA_NS_PER_BYTE 2.0 /* copies, difference, packing of mostly zeros, and the way back */

static const struct {
	const char *name;
	double ns_per_byte; /* a guess before the first sample: is sampling worth it? */
} methods[GW_COMPRESS_METHODS] = {
	[GW_COMPRESS_OFF] = { "off", 0 },
	[GW_COMPRESS_LZ4] = { "lz4", 0.8 },
	[GW_COMPRESS_ZSTD_1] = { "zstd-1", 2.0 },
	[GW_COMPRESS_ZSTD_3] = { "zstd-3", 4.0 },
};

static const struct {
	enum gw_compress_method first, last; /* to choose from */
	const char *words;
} policies[] = {
	[GW_COMPRESS_AUTO] = { GW_COMPRESS_OFF, GW_COMPRESS_ZSTD_3, NULL },
	[GW_COMPRESS_NEVER] = { GW_COMPRESS_OFF, GW_COMPRESS_OFF, "switched off" },
	[GW_COMPRESS_ALWAYS_LZ4] = { GW_COMPRESS_LZ4, GW_COMPRESS_LZ4, "as asked for" },
	[GW_COMPRESS_ALWAYS_ZSTD] = { GW_COMPRESS_ZSTD_1, GW_COMPRESS_ZSTD_3, "as asked for" },
};

const char *gw_compress_method_name(enum gw_compress_method m)
{
	return m < GW_COMPRESS_METHODS ? methods[m].name : "unknown";
}

void gw_compress_init(struct gw_compress *c, enum gw_compress_policy policy)
{
	*c = (struct gw_compress){ .policy = policy, .method = policies[policy].first, .contention = 1 };
	c->delta = c->method != GW_COMPRESS_OFF;
	snprintf(c->reason, sizeof(c->reason), "%s",
	         policies[policy].words ? policies[policy].words : "the link was not measured yet");
}

void gw_compress_no_link(struct gw_compress *c)
{
	if (c->policy != GW_COMPRESS_AUTO)
		return;
	c->policy = GW_COMPRESS_NEVER;
	snprintf(c->reason, sizeof(c->reason), "both ends are on this machine");
}

/* The first window of a kind began with empty (or with foreign) buffers: the second replaces it. */
static double settle(double old, double new, unsigned windows)
{
	return windows <= 2 || old <= 0 ? new : old + SMOOTH * (new - old);
}

static double smooth(double old, double new)
{
	return old > 0 ? old + SMOOTH * (new - old) : new;
}

static void note_link(struct gw_compress *c, const struct gw_compress_window *w)
{
	double rate = (double)w->wire_bytes * 1e9 / (double)w->wall_ns;
	gw_time_ns waited = GW_MAX(w->blocked_ns - w->peer_ns, 0);

	c->link_limits = (double)waited >= LIMITED * (double)w->wall_ns;
	if (c->link_limits) {
		c->windows_unlimited = 0;
		c->link_Bps = c->method == GW_COMPRESS_OFF ? settle(c->link_Bps, rate, ++c->windows_limited) :
		                                             smooth(c->link_Bps, rate);
	} else {
		c->link_Bps = fmax(c->link_Bps, rate);
		c->windows_unlimited++;
		c->windows_limited = 0;
	}
}

static void note_contention(struct gw_compress *c, const struct gw_compress_window *w)
{
	double x;

	if (w->cpu_ns <= 0)
		return;
	x = (double)(w->wall_ns - w->blocked_ns) / (double)w->cpu_ns;
	c->contention = smooth(c->contention, fmin(fmax(x, 1), CONTENTION_MAX));
}

/* ns for a byte of guest memory. */
static double time_of(const struct gw_compress *c, enum gw_compress_method m)
{
	double link = 1e9 / c->link_Bps;

	if (m == GW_COMPRESS_OFF)
		return link;
	return fmax(c->seen[m].ns_per_byte * c->contention, fmin(c->seen[m].ratio, 1) * link);
}

/* Could it pay, if it packed everything to nothing? */
static bool could_pay(const struct gw_compress *c, enum gw_compress_method m)
{
	double cost = c->seen[m].ratio > 0 ? c->seen[m].ns_per_byte : methods[m].ns_per_byte;

	return cost * c->contention < BEGIN_GAIN * 1e9 / c->link_Bps;
}

unsigned gw_compress_note(struct gw_compress *c, const struct gw_compress_window *w)
{
	unsigned wanted = 0;

	if (w->wall_ns <= 0 || w->wire_bytes == 0)
		return 0;
	note_link(c, w);
	note_contention(c, w);
	c->windows_here++;
	c->seen[c->method].pages_Bps = settle(c->seen[c->method].pages_Bps,
	                                      (double)w->content_bytes * 1e9 / (double)w->wall_ns, c->windows_here);
	if (c->wait > 0)
		c->wait--;
	if (w->packed_from_bytes > 0)
		c->seen[c->method].ratio =
			smooth(c->seen[c->method].ratio, (double)w->packed_to_bytes / (double)w->packed_from_bytes);
	if (!c->link_limits && c->method == GW_COMPRESS_OFF)
		return 0;
	for (enum gw_compress_method m = GW_MAX(policies[c->policy].first, GW_COMPRESS_LZ4);
	     m <= policies[c->policy].last; m++)
		if (could_pay(c, m))
			wanted |= 1u << m;
	return wanted;
}

void gw_compress_sample(struct gw_compress *c, enum gw_compress_method m, uint64_t from, uint64_t to,
                        gw_time_ns cpu_ns)
{
	/* Of the present method more is known than from a sample. */
	if (m != c->method || c->seen[m].ratio <= 0)
		c->seen[m].ratio = smooth(c->seen[m].ratio, (double)to / (double)from);
	c->seen[m].ns_per_byte = smooth(c->seen[m].ns_per_byte, (double)cpu_ns / (double)from);
}

static bool known(const struct gw_compress *c, enum gw_compress_method m)
{
	return m == GW_COMPRESS_OFF || c->seen[m].ratio > 0;
}

/* The lightest method that is about as good as the best. */
static enum gw_compress_method favourite(const struct gw_compress *c)
{
	enum gw_compress_method m, first = policies[c->policy].first, last = policies[c->policy].last;
	double best = INFINITY;

	for (m = first; m <= last; m++)
		if (known(c, m))
			best = fmin(best, time_of(c, m));
	for (m = first; m <= last; m++)
		if (known(c, m) && time_of(c, m) <= NEAR_BEST * best)
			return m;
	return c->method;
}

/* Packing moves much less than would go without: what the first windows showed, or what the link has carried since, when
 * that is less (the first windows filled socket buffers too). */
static bool in_vain(const struct gw_compress *c)
{
	double without = fmin(c->seen[GW_COMPRESS_OFF].pages_Bps, c->link_Bps);

	return c->method != GW_COMPRESS_OFF && without > 0 && c->seen[c->method].pages_Bps < VAIN * without;
}

static enum gw_compress_method choose(struct gw_compress *c)
{
	enum gw_compress_method now = c->method, fav;
	double off = time_of(c, GW_COMPRESS_OFF);

	if (now == GW_COMPRESS_OFF ? c->wait > 0 || c->windows_limited < BEGIN_WINDOWS : c->windows_here < STAY_WINDOWS)
		return now;
	if (c->policy == GW_COMPRESS_AUTO && in_vain(c)) {
		c->wait_next = GW_MIN(GW_MAX(2 * c->wait_next, WAIT_WINDOWS), WAIT_WINDOWS_MAX);
		c->wait = c->wait_next;
		return GW_COMPRESS_OFF;
	}
	if (c->policy == GW_COMPRESS_AUTO && now != GW_COMPRESS_OFF && c->windows_unlimited >= RECHECK_WINDOWS) {
		c->windows_unlimited = 0;
		c->link_Bps = 0; /* the next window tells */
		return GW_COMPRESS_OFF;
	}
	if (c->policy == GW_COMPRESS_AUTO && now != GW_COMPRESS_OFF && known(c, now) &&
	    time_of(c, now) > KEEP_GAIN * off)
		return GW_COMPRESS_OFF;
	fav = favourite(c);
	if (fav > now)
		return time_of(c, fav) < BEGIN_GAIN * time_of(c, now) ? fav : now;
	return fav;
}

static void choose_delta(struct gw_compress *c)
{
	bool cheap = DELTA_NS_PER_BYTE * c->contention < BEGIN_GAIN * 1e9 / c->link_Bps;

	if (c->policy == GW_COMPRESS_NEVER)
		c->delta = false;
	else if (c->method != GW_COMPRESS_OFF || (c->link_limits && cheap))
		c->delta = true;
	else if (!cheap)
		c->delta = false;
}

static void explain(struct gw_compress *c)
{
	double MBps = c->link_Bps / 1e6;
	enum gw_compress_method m = c->method;

	if (policies[c->policy].words)
		snprintf(c->reason, sizeof(c->reason), "%s", policies[c->policy].words);
	else if (m != GW_COMPRESS_OFF)
		snprintf(c->reason, sizeof(c->reason), "the link takes %.0f MB/s of a channel, %s leaves %.0f %% at %.0f MB/s",
		         MBps, methods[m].name, 100 * c->seen[m].ratio, 1e3 / c->seen[m].ns_per_byte / c->contention);
	else if (c->wait > 0)
		snprintf(c->reason, sizeof(c->reason), "packing was tried and moved less than went without");
	else if (c->link_Bps <= 0)
		snprintf(c->reason, sizeof(c->reason), "the link is being measured again");
	else if (!c->link_limits)
		snprintf(c->reason, sizeof(c->reason), "the link is not what limits (%.0f MB/s of a channel)", MBps);
	else if (!could_pay(c, GW_COMPRESS_LZ4))
		snprintf(c->reason, sizeof(c->reason), "the link takes %.0f MB/s of a channel, faster than packing is", MBps);
	else
		snprintf(c->reason, sizeof(c->reason), "the pages do not pack (lz4 leaves %.0f %%)",
		         100 * fmin(c->seen[GW_COMPRESS_LZ4].ratio, 1));
}

bool gw_compress_decide(struct gw_compress *c)
{
	enum gw_compress_method before = c->method;
	bool delta_before = c->delta;

	if (c->link_Bps <= 0)
		return false;
	c->method = choose(c);
	if (c->link_Bps > 0)
		choose_delta(c);
	if (c->method != before) {
		c->windows_here = c->windows_limited = 0;
		c->seen[c->method].pages_Bps = 0; /* of now, not of then */
		c->skip = c->skip_next = 0;
	}
	explain(c);
	return c->method != before || c->delta != delta_before;
}

bool gw_compress_try(struct gw_compress *c)
{
	if (c->skip == 0)
		return true;
	c->skip--;
	return false;
}

void gw_compress_tried(struct gw_compress *c, bool shorter)
{
	c->skip_next = shorter ? 0 : GW_MIN(GW_MAX(2 * c->skip_next, 1), SKIP_MAX);
	c->skip = c->skip_next;
}
