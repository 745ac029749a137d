/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bandwidth that all migrations of a host have together, shared by weight.
 *
 * Theory of operation: see bandwidth.c.
 */
#ifndef GW_PIPELINE_BANDWIDTH_H
#define GW_PIPELINE_BANDWIDTH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

#define GW_WEIGHT_DEFAULT 100
#define GW_WEIGHT_MAX 1000

struct gw_bandwidth {
	uint64_t Bps; /* set at init; 0: no limit, nobody waits */
	pthread_mutex_t lock;
	/* protected by lock */
	gw_time_ns free_at; /* when all that was let go has passed, at Bps */
	double virtual_time; /* the start tag of the last turn that was let go */
	struct gw_turn *waiting;
};

/* One migration's claim. Its fields are protected by the bandwidth's lock. */
struct gw_claim {
	unsigned weight; /* set at init; 1 to GW_WEIGHT_MAX */
	double finish;   /* tag */
};

/* Something that waits to be sent; on the sender's stack. */
struct gw_turn {
	/* protected by the bandwidth's lock */
	double start; /* tag */
	uint64_t bytes;
	gw_time_ns since;
	bool granted;
	struct gw_turn *next;
};

void gw_bandwidth_init(struct gw_bandwidth *b, uint64_t Bps);
void gw_bandwidth_done(struct gw_bandwidth *b);

/* Queues a turn, which gw_bandwidth_granted must be asked about until it says 0, or gw_bandwidth_leave be called. */
void gw_bandwidth_queue(struct gw_bandwidth *b, struct gw_claim *c, struct gw_turn *t, uint64_t bytes, gw_time_ns now);
/* 0: send. Otherwise the time at which to ask again, later than `now`. */
gw_time_ns gw_bandwidth_granted(struct gw_bandwidth *b, struct gw_turn *t, gw_time_ns now);
void gw_bandwidth_leave(struct gw_bandwidth *b, struct gw_turn *t);

#endif
