/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One outgoing migration's insides, shared by source.c (the machine), source_actions.c (what it orders) and what
 * carries out the large actions: source_setup.c, source_copy.c, source_switch.c and source_verify.c. */
#ifndef GW_MIGRATION_SOURCE_INTERNAL_H
#define GW_MIGRATION_SOURCE_INTERNAL_H

#include <pthread.h>

#include "base/io.h"
#include "memory/heat.h"
#include "memory/ram.h"
#include "migration/source.h"
#include "pipeline/push.h"
#include "pipeline/source.h"
#include "wire/codec.h"

#define GW_OUT_EVENTS_MAX 16
#define GW_OUT_NO_EVENT ((enum gw_source_event)-1)

struct gw_out {
	/* set by gw_out_new */
	struct gw_out_config config; /* strings and prepare are own copies */
	struct gw_wait wait;         /* cancellable; before the commit */
	struct gw_wait wait_decided; /* not cancellable; after it */
	enum gw_source_event first;  /* START or a RESTARTED event */

	/* the running thread's */
	int control_fd;
	uint32_t features; /* that both hosts have */
	int *channel_fds;
	uint8_t token[16];
	struct gw_ram_region regions[GW_RAM_REGIONS_MAX];
	struct gw_ram ram[GW_RAM_REGIONS_MAX];
	struct gw_bitmap pending[GW_RAM_REGIONS_MAX]; /* owed */
	struct gw_bitmap sending[GW_RAM_REGIONS_MAX]; /* taken from there by the running pass; the sender's meanwhile */
	struct gw_bitmap window[GW_RAM_REGIONS_MAX];  /* written between the last two looks */
	struct gw_bitmap early[GW_RAM_REGIONS_MAX];   /* found written since the last look, before their piece was read */
	struct gw_bitmap looked[GW_RAM_REGIONS_MAX];  /* pieces of the running pass that may be read */
	struct gw_heat heat[GW_RAM_REGIONS_MAX];
	/* Beside a running pass the sender's threads look, too, and the above, pending and trace are protected by this. */
	pthread_mutex_t trace_lock;
	struct gw_error piece_failure; /* of such a look; read when the pass is over */
	unsigned n_regions;
	unsigned n_channel_fds; /* the demand channel included */
	struct gw_trace *trace;
	int hold_fd; /* while open the VMM throws no page of RAM away; -1: not held */
	bool given_away; /* the VM here is to end: nothing of it needs tidying */
	struct gw_sender *sender;
	struct gw_push *push; /* set and cleared under lock: progress looks at it */
	gw_time_ns push_began;
	uint64_t owed_pages;
	gw_time_ns target_ran;
	struct gw_convergence convergence;
	uint32_t pass;
	bool postcopy; /* once gw_out_copy is over: o->pending is owed at the switch, and follows */
	unsigned throttle_percent; /* the guest is slowed down by so much */
	gw_time_ns stop_began;
	char *state; /* device state */
	size_t state_bytes;
	struct gw_error failure; /* why it is being aborted */
	gw_time_ns complained_at; /* 0: not yet */
	struct gw_error complaint;
	enum gw_source_state alarmed; /* the state that the last alarm was about */
	bool save_begun; /* the VMM may be saving its state, or hold it saved */
	bool abandoned;  /* the daemon stops and the way back waits for the VMM: the next start goes on */

	pthread_mutex_t lock;
	/* protected by lock */
	struct gw_source_machine machine;
	enum gw_source_event events[GW_OUT_EVENTS_MAX];
	unsigned n_events;
	bool cancelled, stop;
	struct gw_report report;
	struct gw_progress progress;
	const char *step;
	gw_time_ns pass_began;
	struct gw_sender_stats pass_base;
	bool sender_live; /* gw_sender_progress may be called */
	int cancel_fd;    /* eventfd: cancel or posted events */
};

void gw_out_set_step(struct gw_out *o, const char *step);
void gw_out_add_phase(struct gw_out *o, size_t phases_offset, const char *name, gw_time_ns ns);
#define gw_out_phase(o, which, name, ns) gw_out_add_phase(o, offsetof(struct gw_report, which), name, ns)

/* source.c */
bool gw_out_stopping(struct gw_out *o);
/* The oldest posted event, or GW_OUT_NO_EVENT. The wake-up is taken back unless a cancel stands. */
enum gw_source_event gw_out_take_posted(struct gw_out *o);

/* source_actions.c: carries out what gw_source_step() ordered. Returns the event that came of it, or
 * GW_OUT_NO_EVENT; then gw_out_await() waits for what `state` needs. */
enum gw_source_event gw_out_carry_out(struct gw_out *o, unsigned todo);
enum gw_source_event gw_out_await(struct gw_out *o, enum gw_source_state state);

/* Each does its action and returns 0 or a negative errno with o->failure or err filled. */
int gw_out_prepare(struct gw_out *o, struct gw_error *err);       /* source_setup.c */
int gw_out_tell(struct gw_out *o, uint32_t value, enum gw_source_event *ret, struct gw_error *err);
int gw_out_map_ram(struct gw_out *o, struct gw_error *err);       /* source_setup.c */
int gw_out_start_tracing(struct gw_out *o, struct gw_error *err); /* source_copy.c */
int gw_out_copy(struct gw_out *o, struct gw_error *err);          /* source_copy.c: until it converged */
int gw_out_stop_and_send(struct gw_out *o, struct gw_error *err); /* source_switch.c */
int gw_out_await_ready(struct gw_out *o, bool *ret_owing, struct gw_error *err);
int gw_out_verify(struct gw_out *o, struct gw_error *err);        /* source_verify.c */

/* source_look.c. collect: what was written goes into o->pending, all of which is counted in bytes. look: the same, and
 * it is known to the pages' heat; counts what was written since the last look. */
int gw_out_collect(struct gw_out *o, bool quick, uint64_t *ret_bytes, struct gw_error *err);
int gw_out_look(struct gw_out *o, uint64_t *ret_written_bytes, struct gw_error *err);
/* A pass of so many pages begins: does it look before each of its pieces? The sender's threads do it by before_piece. */
bool gw_out_looks_before_pieces(struct gw_out *o, uint64_t pages);
int gw_out_before_piece(void *arg, uint32_t region, uint64_t first_page, uint64_t n_pages);
int gw_out_init_looks(struct gw_out *o, unsigned region); /* bitmaps and heat: 0 or -ENOMEM */
void gw_out_done_looks(struct gw_out *o, unsigned region);

/* The next pass: begins to send all of o->pending; waits until it is sent. What is found written meanwhile goes into
 * o->pending again. */
void gw_out_begin_pass(struct gw_out *o);
int gw_out_finish_pass(struct gw_out *o, struct gw_sender_stats *ret, struct gw_error *err);
/* The guest at full speed again. A pause does as much. */
void gw_out_unthrottle(struct gw_out *o); /* source_copy.c */
void gw_out_fill_stats(struct gw_pass_stats *s, const struct gw_sender_stats *sent);

/* source_postcopy.c: the list of what is owed (o->pending); demands are served, the background waits; a new link in
 * place of a lost one, and all that the target lacks pushed over it; serving until *ret says what happened. */
int gw_out_send_owed(struct gw_out *o, struct gw_error *err);
int gw_out_begin_push(struct gw_out *o, struct gw_error *err);
int gw_out_recover(struct gw_out *o, struct gw_error *err);
int gw_out_serve(struct gw_out *o, enum gw_source_event *ret, struct gw_error *err);

/* source_setup.c */
int gw_out_connect(struct gw_out *o, enum gw_wire_role role, int *ret_fd, uint32_t *ret_features, struct gw_error *err);
int gw_out_open_channels(struct gw_out *o, unsigned n, struct gw_error *err);
/* Ends connections, threads and tracing; RAM stays mapped. */
void gw_out_close_links(struct gw_out *o);
/* That, and RAM. The control connection stays. */
void gw_out_close_pipeline(struct gw_out *o);

#endif
