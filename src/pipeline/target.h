/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The target's data flow: channels -> apply -> RAM file, one thread a channel. */
#ifndef GW_PIPELINE_TARGET_H
#define GW_PIPELINE_TARGET_H

#include <stdint.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io.h"
#include "memory/demand.h"
#include "memory/ram.h"
#include "wire/codec.h"

struct gw_receiver;

struct gw_receiver_stats {
	uint64_t pages, zero_pages, wire_bytes;
};

/* `ram` describes what the peer may send; rams[i] are mapped writable and outlive the receiver. When a channel
 * fails, notify_fd (an eventfd of the caller's, -1 for none) is written to, so that it can be a cancel_fd.
 * `demand`, NULL without ram->postcopy, takes the pages of OWED batches and outlives the receiver. */
int gw_receiver_new(const struct gw_wire_ram *ram, const struct gw_ram *rams, struct gw_demand *demand, gw_time_ns idle_ns,
                    int notify_fd, struct gw_receiver **ret, struct gw_error *err);

/* Before the first channel: `fn` is called by a channel's thread for every run that is in RAM now. */
typedef void gw_arrived_fn(void *arg, uint32_t region, uint64_t first_page, uint64_t n_pages);
void gw_receiver_on_arrival(struct gw_receiver *r, gw_arrived_fn *fn, void *arg);

/* Starts channel `index` on a connection; takes fd over (also on failure).
 * -EEXIST when the channel is there already, -EINVAL when there is no such channel. */
int gw_receiver_add_channel(struct gw_receiver *r, unsigned index, int fd, struct gw_error *err);
/* The source knows that the channel was taken: from here on demands go out on it, those first that somebody waits for. Not
 * earlier, as they would stand where the welcome is due. */
void gw_receiver_welcomed(struct gw_receiver *r, unsigned index);

/* Waits until every channel has arrived and passed the barrier of `pass`: then all of it is in RAM.
 * Fails with the first channel's error. w->idle_ns bounds the whole wait. */
int gw_receiver_wait(struct gw_receiver *r, uint32_t pass, const struct gw_wait *w, struct gw_error *err);

/* From any thread: as if a channel had failed for that reason. */
void gw_receiver_break(struct gw_receiver *r, const struct gw_error *why);

/* The failure, or 0. */
int gw_receiver_error(struct gw_receiver *r, struct gw_error *err);

/* 4 KiB page records applied so far (the sum that SENT names). */
void gw_receiver_progress(struct gw_receiver *r, struct gw_receiver_stats *ret);

/* Asks the source for pages, on the demand channel (host byte order in `d`). Nothing happens while there is none: what
 * is wanted is asked for again when the next one comes. */
void gw_receiver_demand(struct gw_receiver *r, const struct gw_wire_demand *d);

/* Shuts the channels down and joins the threads. NULL allowed. */
void gw_receiver_free(struct gw_receiver *r);

#endif
