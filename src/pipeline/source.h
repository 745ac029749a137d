/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source's data flow: pages of a pass -> encode -> channels, one thread a channel. */
#ifndef GW_PIPELINE_SOURCE_H
#define GW_PIPELINE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bitmap.h"
#include "base/error.h"
#include "base/io.h"
#include "engine/compress.h"
#include "memory/ram.h"
#include "pipeline/bandwidth.h"

struct gw_sender;

struct gw_sender_config {
	const int *channel_fds; /* welcomed data channels; owned by the caller, alive until gw_sender_free */
	unsigned n_channels;
	const struct gw_ram *ram; /* ditto */
	unsigned n_regions;
	uint64_t bandwidth_Bps; /* 0: no cap */
	struct gw_bandwidth *shared; /* of all migrations of this host; NULL: no limit */
	unsigned weight;             /* in it; 0: the default */
	enum gw_compress_policy compress; /* NEVER unless both sides have GW_WIRE_FEATURE_PACKED */
	uint64_t delta_cache_bytes;       /* for all channels together; 0: no differences */
	/* In passes that ask for it: called by each channel's thread before it reads any of the pages
	 * [first_page, first_page + n_pages) of a region; NULL without such passes. An error ends the pass. */
	int (*before_piece)(void *arg, uint32_t region, uint64_t first_page, uint64_t n_pages);
	void *before_arg;
	struct gw_wait wait;
};

/* Pages that are in none of the others went raw. */
struct gw_sender_stats {
	uint64_t pages, zero_pages, wire_bytes;
	uint64_t delta_pages, packed_pages[GW_COMPRESS_METHODS];
};

int gw_sender_new(const struct gw_sender_config *config, struct gw_sender **ret, struct gw_error *err);

#define GW_SENDER_PIECE_PAGES 4096u /* 16 MiB */

/* Begins to send every page that is set in pages[region], which must stay as they are until gw_sender_finish.
 * `in_pieces`: piece after piece, each announced to before_piece. */
void gw_sender_begin(struct gw_sender *s, uint32_t pass, const struct gw_bitmap *pages, bool in_pieces);

/* Returns when the running pass has sent so many pages, or is over. */
void gw_sender_await(struct gw_sender *s, uint64_t pages);

/* Returns when the last channel's barrier was handed to the kernel. Nothing is to be begun after an error. */
int gw_sender_finish(struct gw_sender *s, struct gw_sender_stats *ret, struct gw_error *err);

/* Both, not in pieces. */
int gw_sender_pass(struct gw_sender *s, uint32_t pass, const struct gw_bitmap *pages, struct gw_sender_stats *ret,
                   struct gw_error *err);

/* Totals of the migration so far; from any thread, also while a pass runs. */
void gw_sender_progress(struct gw_sender *s, struct gw_sender_stats *ret);

/* How pages are packed just now, and why (of the first channel; they see the same link). From any thread. */
#define GW_SENDER_WHY_MAX 160
enum gw_compress_method gw_sender_compression(struct gw_sender *s, char ret_why[GW_SENDER_WHY_MAX]);

/* Lifts the limits of bandwidth, for the last pass: the guest stands still. */
void gw_sender_uncap(struct gw_sender *s);

/* Ends the threads. NULL allowed. */
void gw_sender_free(struct gw_sender *s);

#endif
