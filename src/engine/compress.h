/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether packing pages pays, and how: pure decisions from what a channel measured.
 *
 * Theory of operation: see compress.c.
 */
#ifndef GW_ENGINE_COMPRESS_H
#define GW_ENGINE_COMPRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

enum gw_compress_method {
	GW_COMPRESS_OFF,
	GW_COMPRESS_LZ4,
	GW_COMPRESS_ZSTD_1,
	GW_COMPRESS_ZSTD_3,
	GW_COMPRESS_METHODS /* each costs more CPU than the one before */
};

/* What the user wants. */
enum gw_compress_policy {
	GW_COMPRESS_AUTO,
	GW_COMPRESS_NEVER,       /* nor differences */
	GW_COMPRESS_ALWAYS_LZ4,
	GW_COMPRESS_ALWAYS_ZSTD, /* the level is found out */
};

const char *gw_compress_method_name(enum gw_compress_method m);

/* What one channel did since it was asked the last time. */
struct gw_compress_window {
	gw_time_ns wall_ns;    /* while it had something to send */
	gw_time_ns blocked_ns; /* of it: waited for the socket or the bandwidth cap */
	gw_time_ns peer_ns;    /* of it: the receiver had no room; the link was not what it waited for */
	gw_time_ns cpu_ns;     /* of its thread */
	uint64_t wire_bytes;
	uint64_t content_bytes; /* of the pages that went, packed or not */
	uint64_t packed_from_bytes, packed_to_bytes; /* by the present method, chunks that it did not shorten included */
};

struct gw_compress {
	enum gw_compress_policy policy; /* set at init */
	/* the answer, to be read after decide */
	enum gw_compress_method method;
	bool delta;       /* send differences of pages that were sent before */
	char reason[160]; /* for the post-mortem */
	/* own state */
	struct {
		double ratio;       /* packed / unpacked; smoothed; 0: never sampled */
		double ns_per_byte; /* CPU, of unpacked bytes */
		double pages_Bps;   /* what it moved of contents while it was in use; smoothed; 0: it was not */
	} seen[GW_COMPRESS_METHODS];
	double link_Bps;    /* this channel's share; smoothed; 0: not known yet */
	double contention;  /* how much longer the CPU takes than it works: 1 when it is there at once */
	bool link_limits;   /* in the last window */
	unsigned windows_here, windows_limited, windows_unlimited; /* the latter two in a row */
	unsigned wait, wait_next; /* windows for which packing is not tried again */
	/* how the chunks of late did */
	unsigned skip, skip_next;
};

/* For a connection that no link is part of, such as between two daemons on one machine. */
void gw_compress_no_link(struct gw_compress *c);

void gw_compress_init(struct gw_compress *c, enum gw_compress_policy policy);

/* Takes a window in. Returns the methods (bit 1 << method) of which a sample is wanted before deciding. */
unsigned gw_compress_note(struct gw_compress *c, const struct gw_compress_window *w);

/* A sample: `from` bytes of pages became `to` and took cpu_ns. */
void gw_compress_sample(struct gw_compress *c, enum gw_compress_method m, uint64_t from, uint64_t to,
                        gw_time_ns cpu_ns);

/* After note and the samples that it asked for: sets method, delta and reason. True when method or delta changed. */
bool gw_compress_decide(struct gw_compress *c);

/* Within a method: is the next chunk worth a try? Chunks that did not get shorter make a pause before the next try. */
bool gw_compress_try(struct gw_compress *c);
void gw_compress_tried(struct gw_compress *c, bool shorter);

#endif
