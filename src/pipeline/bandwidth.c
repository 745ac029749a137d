/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bandwidth that all migrations of a host have together: start-time fair queueing. */
#include "pipeline/bandwidth.h"

#include "base/cleanup.h"

/* Theory of operation
 *
 * Batches go one after the other at the limit's speed: each is let go when the one before has passed. Of those that
 * wait the one with the smallest start tag is next (P. Goyal, H. Vin, H. Cheng: Start-time Fair Queueing, 1996). A tag
 * is the migration's own count of bytes divided by its weight, moved up to the tag of what was let go last when the
 * migration had nothing to send for a while: what somebody leaves unused is used by the others at once, and not owed.
 *
 * There is no thread here. Each waiting sender sleeps until the line is free, and whoever wakes first lets go the turn
 * that is due, be it its own or not; the others find out when they wake at about the same time.
 *
 * Tags alone could let a weight of 1 beside one of 1000 wait longer than the other host waits for a sign of life. So a
 * turn that has waited for STARVED_NS goes first.
 */

#define BURST_NS (20 * GW_NS_PER_MS) /* what was not used for longer than this is gone */
#define STARVED_NS (3 * GW_NS_PER_S)

void gw_bandwidth_init(struct gw_bandwidth *b, uint64_t Bps)
{
	*b = (struct gw_bandwidth){ .Bps = Bps };
	pthread_mutex_init(&b->lock, NULL);
}

void gw_bandwidth_done(struct gw_bandwidth *b)
{
	pthread_mutex_destroy(&b->lock);
}

void gw_bandwidth_queue(struct gw_bandwidth *b, struct gw_claim *c, struct gw_turn *t, uint64_t bytes, gw_time_ns now)
{
	struct gw_turn **end;

	GW_LOCKED(&b->lock);
	*t = (struct gw_turn){ .start = GW_MAX(b->virtual_time, c->finish), .bytes = bytes, .since = now };
	c->finish = t->start + (double)bytes / c->weight;
	for (end = &b->waiting; *end; end = &(*end)->next)
		;
	*end = t; /* the first of equals is the oldest */
}

/* Whose turn it is; the lock is held, and somebody waits. */
static struct gw_turn *due(struct gw_bandwidth *b, gw_time_ns now)
{
	struct gw_turn *best = b->waiting;

	if (now - b->waiting->since >= STARVED_NS)
		return b->waiting;
	for (struct gw_turn *t = b->waiting; t; t = t->next)
		if (t->start < best->start)
			best = t;
	return best;
}

static void take_out(struct gw_bandwidth *b, const struct gw_turn *t)
{
	for (struct gw_turn **p = &b->waiting; *p; p = &(*p)->next)
		if (*p == t) {
			*p = t->next;
			return;
		}
}

gw_time_ns gw_bandwidth_granted(struct gw_bandwidth *b, struct gw_turn *t, gw_time_ns now)
{
	GW_LOCKED(&b->lock);
	while (!t->granted && now >= b->free_at) {
		struct gw_turn *next = due(b, now);

		take_out(b, next);
		next->granted = true;
		b->virtual_time = GW_MAX(b->virtual_time, next->start);
		b->free_at = GW_MAX(b->free_at, now - BURST_NS) +
			     (gw_time_ns)((double)next->bytes * (double)GW_NS_PER_S / (double)b->Bps);
	}
	return t->granted ? 0 : b->free_at;
}

void gw_bandwidth_leave(struct gw_bandwidth *b, struct gw_turn *t)
{
	GW_LOCKED(&b->lock);
	if (!t->granted)
		take_out(b, t);
}
