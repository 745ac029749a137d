/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source's data flow of a post-copy: demands first, the rest in the background (N6, N7, N8). */
#ifndef GW_PIPELINE_PUSH_H
#define GW_PIPELINE_PUSH_H

#include <stdint.h>

#include "base/bitmap.h"
#include "base/error.h"
#include "base/io.h"
#include "memory/ram.h"
#include "pipeline/bandwidth.h"
#include "wire/codec.h"

struct gw_push;

struct gw_push_config {
	const int *channel_fds; /* n_channels for the background, then the demand channel; the caller's, alive until free */
	unsigned n_channels;
	const struct gw_ram *ram;       /* ditto; nobody writes it any more */
	const struct gw_wire_ram *wire_ram; /* what demands may name; copied */
	const struct gw_bitmap *owed;   /* one a region; copied. In whole pages of the backing */
	/* How soon a stripe (GW_WIRE_STRIPE_PAGES from page `first` on) will be used, as far as the past tells: larger goes
	 * earlier. NULL: the number of owed pages in it. */
	unsigned (*heat)(void *arg, uint32_t region, uint64_t first_page);
	void *heat_arg;
	uint64_t bandwidth_Bps; /* of the background; 0: no cap */
	struct gw_bandwidth *shared; /* the host's, and the weight in it; NULL: none */
	unsigned weight;
	gw_time_ns idle_ns; /* longest time in which a channel takes nothing */
	int notify_fd; /* eventfd, written to when a channel fails */
};

struct gw_push_stats {
	uint64_t demands;        /* served */
	uint64_t demanded_pages; /* sent for them, neighbours included */
	uint64_t pages;          /* all that were sent */
	uint64_t wire_bytes;
	uint64_t left_pages;     /* not sent yet */
};

/* Demands are served at once, the background waits for gw_push_background(). */
int gw_push_new(const struct gw_push_config *config, struct gw_push **ret, struct gw_error *err);
void gw_push_background(struct gw_push *p);

/* The failure of a channel, or 0. */
int gw_push_error(struct gw_push *p, struct gw_error *err);

/* Totals; any thread. */
void gw_push_stats(struct gw_push *p, struct gw_push_stats *ret);

/* Ends the threads (the channels are shut down). NULL allowed. */
void gw_push_free(struct gw_push *p);

#endif
