/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How fast one migration may send, shared by its channels: its own cap, and its share of the host's bandwidth. */
#ifndef GW_PIPELINE_RATE_H
#define GW_PIPELINE_RATE_H

#include <pthread.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/io.h"
#include "pipeline/bandwidth.h"

struct gw_rate {
	/* set before the threads start */
	uint64_t Bps;                /* own cap; 0: none */
	struct gw_bandwidth *shared; /* alive as long as this; NULL: none */
	struct gw_claim claim;       /* of `shared` */

	pthread_mutex_t lock;
	gw_time_ns next; /* protected by lock: when all that is booked has gone */
};

/* weight 0: GW_WEIGHT_DEFAULT. */
void gw_rate_init(struct gw_rate *r, uint64_t Bps, struct gw_bandwidth *shared, unsigned weight);
void gw_rate_done(struct gw_rate *r);

/* No more limits. No gw_rate_take may be under way. */
void gw_rate_lift(struct gw_rate *r);

/* Waits until `bytes` may be sent. 0 or -ECANCELED. */
int gw_rate_take(struct gw_rate *r, uint64_t bytes, const struct gw_wait *w);

#endif
