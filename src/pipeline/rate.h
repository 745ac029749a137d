/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bandwidth cap of one migration, shared by its channels. */
#ifndef GW_PIPELINE_RATE_H
#define GW_PIPELINE_RATE_H

#include <pthread.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/io.h"

struct gw_rate {
	uint64_t Bps; /* set before the threads start; 0: no cap */
	pthread_mutex_t lock;
	gw_time_ns next; /* protected by lock: when all that is booked has gone */
};

void gw_rate_init(struct gw_rate *r, uint64_t Bps);
void gw_rate_done(struct gw_rate *r);

/* Waits until `bytes` may be sent. 0 or -ECANCELED. */
int gw_rate_take(struct gw_rate *r, uint64_t bytes, const struct gw_wait *w);

#endif
