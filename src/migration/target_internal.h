/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One incoming migration's insides, shared by target.c (the machine) and the other target_*.c. */
#ifndef GW_MIGRATION_TARGET_INTERNAL_H
#define GW_MIGRATION_TARGET_INTERNAL_H

#include <pthread.h>

#include "base/io.h"
#include "memory/demand.h"
#include "memory/ram.h"
#include "migration/target.h"
#include "pipeline/target.h"
#include "wire/codec.h"

#define GW_IN_EVENTS_MAX 16
#define GW_IN_NO_EVENT ((enum gw_target_event)-1)
#define GW_IN_RETRY_NS (500 * GW_NS_PER_MS)

struct gw_in {
	/* set by gw_in_new */
	struct gw_in_config config;
	struct gw_wait wait; /* of the control connection; wakes on events and channel failures */
	int wake_fd;
	enum gw_target_event first;

	/* the running thread's */
	const json_t *prepare;
	int control_fd, ask_fd;
	char vm_name[64];
	struct gw_vm *vm; /* written with the lock held: others kill it */
	struct gw_journal *journal;
	char source_name[128], source_address[304];
	uint64_t epoch; /* E, the source's; COMMIT makes it E+1 */
	bool reserved;
	struct gw_wire_ram wire_ram;
	struct gw_ram ram[GW_RAM_REGIONS_MAX];
	struct gw_wire_extent *layout;
	size_t n_layout;
	int load_fd; /* our end of the VMM's device state */
	char *state;
	size_t state_bytes, state_room;
	struct gw_wire_sent sent;
	gw_time_ns switch_began, load_ns, ram_wait_ns, fence_ns, resume_ns, record_ns;
	bool owner_recorded;
	bool announced; /* hooks->running was called */
	struct gw_error failure;

	/* post-copy; NULL where it is impossible or not asked for. Set before PREPARED, or on a restart. */
	struct gw_demand *demand;
	char states_path[256];
	bool owing;              /* SWITCH said that pages will be owed */
	uint64_t announced_owed; /* pages named in OWED frames */
	bool armed, mapping;
	int hold_fd; /* open: the VMM gives back no memory; or -1 */
	pthread_t map_thread;    /* maps what is whole ahead of its use */

	struct gw_populate *populate; /* NULL: not under way */

	/* A want of the fault thread may meet the end of a link. Taken after `lock`. Guards `receiver` too, for writers. */
	pthread_mutex_t link_lock;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* protected by lock */
	struct gw_target_machine machine;
	enum gw_target_event events[GW_IN_EVENTS_MAX];
	unsigned n_events;
	bool stop, finished, recorded;
	bool given_up; /* by the guard */
	struct gw_receiver *receiver; /* channels may be added from other threads */
	uint8_t token[16];
	bool token_valid;
	int recover_fd; /* a new control connection, or -1 */
	enum gw_in_resolve { GW_IN_RESOLVE_NONE, GW_IN_RESOLVE_WANTED, GW_IN_RESOLVE_REFUSED, GW_IN_RESOLVE_GRANTED } resolve;
	struct gw_error resolve_why;
};

/* target.c */
bool gw_in_stopping(struct gw_in *in);
/* The oldest posted event, or GW_IN_NO_EVENT. */
enum gw_target_event gw_in_take_posted(struct gw_in *in);
/* Takes the wake-up back; what was posted stays. */
void gw_in_drain_wake(struct gw_in *in);
/* What a wake-up means: something posted, the last owed page, a new link (*ret_linked), or the end of this one. */
enum gw_target_event gw_in_woken(struct gw_in *in, bool *ret_linked);

/* target_actions.c: carries out what gw_target_step() ordered; the event that came of it, or GW_IN_NO_EVENT. */
enum gw_target_event gw_in_carry_out(struct gw_in *in, unsigned todo);

/* target_setup.c */
int gw_in_create(struct gw_in *in, struct gw_error *err);
int gw_in_send_prepared(struct gw_in *in, struct gw_error *err);
void gw_in_release(struct gw_in *in); /* channels, mappings, descriptors: not the VM */

/* target_guard.c. Between begin and end the VMM is killed when what is being done with it has become pointless. */
enum gw_in_guarded {
	GW_IN_GUARD_MAKING,  /* ends by anything from the source, a lost connection, and whatever wakes wake_fd */
	GW_IN_GUARD_LOADING, /* ends by ABORT alone */
};

struct gw_in_guard {
	struct gw_in *in;
	enum gw_in_guarded what;
	int end_fd;
	pthread_t thread;
};

int gw_in_guard_begin(struct gw_in_guard *g, struct gw_in *in, enum gw_in_guarded what, struct gw_error *err);
/* `r` is what came of the work; returned as it is unless the guard gave up. Then a negative errno, with the reason in
 * err: -ESTALE when the source sent ABORT. */
int gw_in_guard_end(struct gw_in_guard *g, int r, struct gw_error *err);

/* Makes the receiver of `in->wire_ram` and a token for its channels. */
int gw_in_open_receiver(struct gw_in *in, char ret_token[GW_WIRE_ID_TEXT], struct gw_error *err);
void gw_in_close_receiver(struct gw_in *in);

/* target_postcopy.c */
int gw_in_offer_postcopy(struct gw_in *in, struct gw_error *err); /* -EOPNOTSUPP: go on without */
int gw_in_arm(struct gw_in *in, struct gw_error *err);
int gw_in_owed(struct gw_in *in, char *body, size_t len, struct gw_error *err);
int gw_in_begin_demand(struct gw_in *in, struct gw_error *err); /* all OWED frames are in; the state is not loaded yet */
/* Takes up a recovery that waits; false when there is none. */
bool gw_in_take_recovery(struct gw_in *in);
/* The link is no good any more (a channel broke): so that the source makes a new one. */
bool gw_in_link_broke(struct gw_in *in);
int gw_in_send_complete(struct gw_in *in, int fd);
void gw_in_end_postcopy(struct gw_in *in, bool whole);

/* target_populate.c: on failure nothing is populated ahead, which is slower and not wrong. */
void gw_in_start_populating(struct gw_in *in);              /* what the layout names; RAM is mapped */
void gw_in_populate_vmm(struct gw_in *in, struct gw_vm *vm); /* it is there now */
void gw_in_arrived(void *populate, uint32_t region, uint64_t first_page, uint64_t n_pages); /* a channel's thread */
void gw_in_hurry_populating(struct gw_in *in);              /* the guest stands still: nothing more ahead */
/* Until all that has arrived is in the VMM's page tables too, and the layout. */
void gw_in_wait_populated(struct gw_in *in, gw_time_ns patience);
int gw_in_populate_failed(struct gw_in *in, struct gw_error *err); /* 0 as long as there is memory for the guest */
void gw_in_populated(struct gw_in *in, gw_time_ns *ret_ns, uint64_t *ret_huge_bytes);
void gw_in_halt_populating(struct gw_in *in); /* ends the thread; what arrives later is not mapped */
void gw_in_stop_populating(struct gw_in *in); /* after the receiver's end */

/* target_resolve.c, for the running thread. */
bool gw_in_resolve_wanted(struct gw_in *in);
void gw_in_resolve_refuse(struct gw_in *in, const char *why); /* "is ...": what the source host does */
/* `asked`: what came of connecting to the source after the request. true: nobody is there, and it is the decision. */
bool gw_in_resolve_after_asking(struct gw_in *in, int asked);

/* target_receive.c */
int gw_in_receive(struct gw_in *in, struct gw_error *err); /* until SENT and everything is in RAM */
int gw_in_load(struct gw_in *in, struct gw_error *err);
int gw_in_send_ready(struct gw_in *in, int fd, struct gw_error *err);
int gw_in_answer_verify(struct gw_in *in, const char *body, struct gw_error *err);

#endif
