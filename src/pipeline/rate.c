/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bandwidth cap: every batch books its time on one line of time, and goes when that time is over. */
#include "pipeline/rate.h"

#include <poll.h>

#include "base/cleanup.h"

#define BURST_NS (20 * GW_NS_PER_MS) /* what was not used for longer than this is gone */

void gw_rate_init(struct gw_rate *r, uint64_t Bps)
{
	*r = (struct gw_rate){ .Bps = Bps };
	pthread_mutex_init(&r->lock, NULL);
}

void gw_rate_done(struct gw_rate *r)
{
	pthread_mutex_destroy(&r->lock);
}

/* When a batch of `bytes` may go. */
static gw_time_ns book(struct gw_rate *r, uint64_t bytes, gw_time_ns now)
{
	GW_LOCKED(&r->lock);
	r->next = GW_MAX(r->next, now - BURST_NS) + (gw_time_ns)((double)bytes * 1e9 / (double)r->Bps);
	return r->next;
}

int gw_rate_take(struct gw_rate *r, uint64_t bytes, const struct gw_wait *w)
{
	struct pollfd p = { .fd = w->cancel_fd, .events = POLLIN };
	gw_time_ns now, due;

	if (!r->Bps)
		return 0;
	now = gw_now_ns();
	due = book(r, bytes, now);
	while (due > now) {
		struct timespec ts = { (due - now) / GW_NS_PER_S, (due - now) % GW_NS_PER_S };

		if (ppoll(&p, w->cancel_fd >= 0 ? 1 : 0, &ts, NULL) > 0)
			return -ECANCELED;
		now = gw_now_ns();
	}
	return 0;
}
