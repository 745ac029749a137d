/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The heartbeat record that gwload sends out of the guest, and the trace that gwbeat writes of it. */
#ifndef GW_GUEST_BEAT_H
#define GW_GUEST_BEAT_H

#include <assert.h>
#include <stdint.h>

#define GW_BEAT_MAGIC 0x54424757u /* "WGBT" in memory order */
#define GW_BEAT_PERIOD_NS 1000000ull

/* Little-endian, as both ends are x86. */
struct gw_beat {
	uint32_t magic;
	uint32_t seq;            /* counts every period, also those whose record was dropped */
	uint64_t guest_ns;       /* the guest's CLOCK_MONOTONIC */
	uint64_t pages_dirtied;  /* since the start, all threads */
	uint32_t errors;         /* failed checks since the start; 0 is the only good value */
	uint32_t pages_checked;  /* pages checked whole by the background sweep; wraps */
};

/* One received beat in gwbeat's file. */
struct gw_beat_arrival {
	uint64_t host_ns;  /* the host's CLOCK_MONOTONIC after the read that returned it */
	uint32_t source;   /* index of the socket on gwbeat's command line */
	uint32_t connects; /* how often this socket has been connected to */
	struct gw_beat beat;
};

static_assert(sizeof(struct gw_beat) == 32, "record size is part of the format");
static_assert(sizeof(struct gw_beat_arrival) == 48, "record size is part of the format");

#endif
