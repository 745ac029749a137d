/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A simulated pair of hosts that runs the handover machines under faults.
 *
 * Two daemons, two VMs, the source's journal with its page cache, one network link. Everything that takes
 * time is a step; a scheduler picks one of the steps that are possible now. After every step the
 * invariants of docs/handover.md are checked; the first violation is kept in `broken`.
 */
#ifndef GW_TESTS_SIM_WORLD_H
#define GW_TESTS_SIM_WORLD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/handover.h"
#include "rng.h"

enum sim_record { REC_NONE, REC_BEGIN, REC_COMMIT, REC_ABORT };
enum sim_vm { VM_NONE, VM_PART, VM_PAUSED, VM_RUNS, VM_DEAD };
enum sim_message {
	MSG_PREPARE, MSG_COMMIT, MSG_ABORT, MSG_ASK, /* A -> B */
	MSG_DEMAND, /* ... opens the demand channel; is answered like ASK */
	MSG_PREPARED, MSG_READY, MSG_RUNNING, MSG_FAILED, MSG_ASK_WHOLE, MSG_ASK_PART, /* B -> A */
	MSG_READY_OWING, MSG_RUNNING_OWED, MSG_COMPLETE, MSG_ASK_OWING,
};
enum sim_stream { STREAM_NONE, STREAM_OPEN, STREAM_END, STREAM_DELIVERED, STREAM_BROKEN };

enum sim_fault {
	FAULT_A_DAEMON,     /* SIGKILL of a daemon; it restarts later */
	FAULT_B_DAEMON,
	FAULT_A_VMM,        /* SIGKILL of a VMM; its RAM stays mapped by the daemon */
	FAULT_A_IMAGE,      /* ... with its RAM */
	FAULT_B_VMM,
	FAULT_A_HOST,       /* power cut: daemon, VMM and page cache */
	FAULT_B_HOST,
	FAULT_A_HOST_GONE,  /* ... and it never comes back: an operator decides */
	FAULT_LINK,         /* cut; comes back later */
	FAULT_DROP,         /* one message in flight vanishes */
	FAULT_DUPLICATE,    /* ... is delivered twice */
	FAULT_A_STORE,      /* writes of records fail until the end of the faults */
	FAULT_A_STORE_ONCE, /* the next one fails */
	FAULT_B_STORE_ONCE,
	FAULT_CANCEL,
	FAULT_TIMEOUT,      /* the source loses patience */
	FAULT_B_ERROR,      /* the target fails by itself */
	FAULT_COUNT,
};

/* Drivers that do not keep to the contract: each must be caught. */
enum sim_bug {
	BUG_NONE,
	BUG_RUNNING_FOR_OWED,  /* the target says RUNNING although pages are owed to it */
	BUG_READY_FOR_OWING,   /* ... READY */
	BUG_FORGETS_OWED,      /* ... and forgets them when its daemon restarts */
	BUG_ABORTS_SERVING,    /* the source takes a link lost while serving for a reason to go back */
	BUG_COUNT,
};

#define SIM_QUEUE_MAX 64

struct sim_queue {
	enum sim_message m[SIM_QUEUE_MAX];
	unsigned n;
};

struct sim_world {
	struct sim_rng rng;
	bool trace;
	enum sim_bug bug;
	bool postcopy; /* the switch comes with pages owed, if there are any */
	bool unasked;  /* pages come unasked already before the target runs */

	/* Source host */
	bool a_up, a_gone, a_started, a_known;
	struct gw_source_machine a;
	unsigned a_todo;
	enum sim_record a_writing;
	bool a_copying, a_resuming, a_link_lost, a_vm_lost;
	unsigned a_stop_stage; /* 1 pause, 2 send the end, 3 report */
	enum sim_vm vm_a;
	bool image_a; /* the RAM can be read, with a VMM or without */
	enum sim_record visible, durable;

	/* Target host */
	bool b_up, b_known;
	struct gw_target_machine b;
	unsigned b_todo;
	bool b_creating, b_loading, b_starting, b_destroying, b_link_lost, b_vm_lost, b_complete;
	enum sim_vm vm_b;
	unsigned absent; /* pages, by bit, that are still owed to vm_b */
	bool b_recorded;

	/* Between them */
	bool link_up, demand;
	enum sim_stream stream;
	struct sim_queue to_a, to_b;

	/* Faults */
	bool store_fails, store_fails_once, b_store_fails_once;
	unsigned used[FAULT_COUNT];

	/* History, for the checks */
	unsigned fence;            /* epoch that the disks accept: 1 A, 2 B, 3 A again */
	bool ever_whole, ever_ready, commit_acted, abort_acted, operator_decided, cancel_accepted;
	bool a_died, a_died_fatally, b_died, served;
	unsigned steps;
	char broken[160];
};

void sim_world_init(struct sim_world *w, uint64_t seed);

/* One step of the scheduler. Returns false when nothing is left to do but to wait for a timer. */
bool sim_step(struct sim_world *w);
/* One timer: a repeated message, a lost patience. Returns false when none runs. */
bool sim_timer(struct sim_world *w);
/* Returns false when the fault has no meaning now. */
bool sim_inject(struct sim_world *w, enum sim_fault f);
/* No further faults: everything that can come back does, and the run goes on until it settles.
 * Sets `broken` when it does not, or when the end is not what was promised. */
void sim_finish(struct sim_world *w);

const char *sim_fault_name(enum sim_fault f);

/* Between the files of the simulation. */
void sim_check(struct sim_world *w);
void sim_break(struct sim_world *w, const char *what);
void sim_cut(struct sim_world *w);
void sim_send(struct sim_world *w, struct sim_queue *q, enum sim_message m);
enum sim_message sim_take(struct sim_queue *q);
void sim_source_event(struct sim_world *w, enum gw_source_event ev);
void sim_target_event(struct sim_world *w, enum gw_target_event ev);
void sim_source_message(struct sim_world *w, enum sim_message m);
void sim_target_message(struct sim_world *w, enum sim_message m);
void sim_source_restart(struct sim_world *w);
void sim_target_restart(struct sim_world *w);
void sim_source_work(struct sim_world *w);
void sim_target_work(struct sim_world *w);
void sim_source_written(struct sim_world *w);
void sim_kill_vm_b(struct sim_world *w);

/* Pages that are owed (owed.c). */
void sim_owe_pages(struct sim_world *w);
bool sim_lacks_pages(const struct sim_world *w);
bool sim_state_can_load(const struct sim_world *w);
bool sim_can_page_come(const struct sim_world *w);
void sim_page_comes(struct sim_world *w);
void sim_lose_image(struct sim_world *w);
void sim_destroy_image(struct sim_world *w);
void sim_check_commit(struct sim_world *w);
void sim_check_pages(struct sim_world *w);
bool sim_guest_can_start(const struct sim_world *w);
void sim_source_commits(struct sim_world *w);
void sim_source_serves(struct sim_world *w);

#endif
