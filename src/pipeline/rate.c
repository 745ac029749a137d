/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How fast one migration may send: every batch books its time on one line of time, goes when that time is over, and
 * then waits for its turn among all migrations. */
#include "pipeline/rate.h"

#include <poll.h>

#include "base/cleanup.h"

#define BURST_NS (20 * GW_NS_PER_MS) /* what was not used for longer than this is gone */

void gw_rate_init(struct gw_rate *r, uint64_t Bps, struct gw_bandwidth *shared, unsigned weight)
{
	*r = (struct gw_rate){
		.Bps = Bps,
		.shared = shared && shared->Bps ? shared : NULL,
		.claim.weight = weight ? weight : GW_WEIGHT_DEFAULT,
	};
	pthread_mutex_init(&r->lock, NULL);
}

void gw_rate_done(struct gw_rate *r)
{
	pthread_mutex_destroy(&r->lock);
}

void gw_rate_lift(struct gw_rate *r)
{
	r->Bps = 0;
	r->shared = NULL;
}

/* When a batch of `bytes` may go. */
static gw_time_ns book(struct gw_rate *r, uint64_t bytes, gw_time_ns now)
{
	GW_LOCKED(&r->lock);
	r->next = GW_MAX(r->next, now - BURST_NS) + (gw_time_ns)((double)bytes * 1e9 / (double)r->Bps);
	return r->next;
}

static int sleep_until(gw_time_ns due, const struct gw_wait *w)
{
	struct pollfd p = { .fd = w->cancel_fd, .events = POLLIN };
	gw_time_ns now = gw_now_ns();

	while (due > now) {
		struct timespec ts = { (due - now) / GW_NS_PER_S, (due - now) % GW_NS_PER_S };

		if (ppoll(&p, w->cancel_fd >= 0 ? 1 : 0, &ts, NULL) > 0)
			return -ECANCELED;
		now = gw_now_ns();
	}
	return 0;
}

static int take_turn(struct gw_rate *r, uint64_t bytes, const struct gw_wait *w)
{
	struct gw_turn turn;
	gw_time_ns again;
	int error = 0;

	gw_bandwidth_queue(r->shared, &r->claim, &turn, bytes, gw_now_ns());
	while (error == 0 && (again = gw_bandwidth_granted(r->shared, &turn, gw_now_ns())) != 0)
		error = sleep_until(again, w);
	if (error < 0)
		gw_bandwidth_leave(r->shared, &turn);
	return error;
}

int gw_rate_take(struct gw_rate *r, uint64_t bytes, const struct gw_wait *w)
{
	gw_time_ns began = w->waited_ns && (r->Bps || r->shared) ? gw_now_ns() : 0;
	int error = 0;

	if (r->Bps)
		error = sleep_until(book(r, bytes, gw_now_ns()), w);
	if (error == 0 && r->shared)
		error = take_turn(r, bytes, w);
	if (began)
		*w->waited_ns += gw_now_ns() - began;
	return error;
}
