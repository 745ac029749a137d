/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The handover (X1) as two pure machines, one per host; see docs/handover.md for the protocol.
 *
 * Events go in, a set of actions comes out; the drivers in migration/ carry the actions out in the order
 * of their bits and report what came of them as further events. No sockets, threads or clocks in here.
 * With the journal decider the source's own durable record is the decision; absence of a COMMIT record
 * means ABORT once the source is not in the migration any more (presumed abort).
 *
 * Post-copy is the same protocol with pages owed: SENT then means that everything the target needs before
 * it runs was sent (with the list of owed pages), READY that this is loaded there, and from COMMIT on the
 * source serves the owed pages until COMPLETE. A switch is one of post-copy when the target says that
 * pages are owed to it; a target to which nothing is owed any more is an ordinary one.
 *
 * What the drivers must keep to:
 * - One record write at a time; each is followed by exactly one RECORDED or RECORD_FAILED.
 * - A message that is lost is not an event of its own: the loss of the link is. Both sides repeat what
 *   matters: the source SEND_COMMIT while COMMITTED, the target ASK while READY or PART.
 * - A daemon that starts feeds the one RESTARTED event that fits what it found into a fresh machine,
 *   before it answers anybody about that migration.
 * - Whether the VMM lives is looked at first: VM_LOST goes before any FAILED or RECORD_FAILED.
 * - A source forgets a migration only in ABORTED or DONE, a target only in GONE, or in RUNNING when
 *   nothing is owed. Until then a target does not migrate the VM any further.
 * - A target says READY, RUNNING and "whole" only when nothing is owed; else the messages that lead to
 *   READY_OWING and RUNNING_OWED. It hands the guest no page that is absent, whatever happens.
 * - Owed pages are served from the stop on whenever there is a link: loading the state may need some, and
 *   starting the guest. DO_SERVE, and DO_SEND_COMMIT with `owes`, make a lost link again. A target that is
 *   starting its guest takes that link.
 * - The image at the source (its RAM, whether or not the VMM lives) stays as it was at the stop until
 *   DO_RESUME or DO_DESTROY: serving takes nothing away.
 */
#ifndef GW_ENGINE_HANDOVER_H
#define GW_ENGINE_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>

/* Source. "Runs" says whether the guest may run here in that state. */
enum gw_source_state {
	GW_SOURCE_IDLE,      /* no migration. runs. -> BEGIN by START */
	GW_SOURCE_BEGIN,     /* record being made durable: migrating(M, A->B). runs */
	GW_SOURCE_PREPARE,   /* the target creates its VM. runs */
	GW_SOURCE_COPY,      /* passes over RAM. runs */
	GW_SOURCE_STOP,      /* being paused, last pages and state being sent. does not run */
	GW_SOURCE_SENT,      /* everything sent, waits for READY. paused */
	GW_SOURCE_COMMIT,    /* COMMIT being made durable; no way to tell until it is. paused */
	GW_SOURCE_COMMITTED, /* durable: never runs here again; tells the target until it answers */
	GW_SOURCE_SERVING,   /* the target runs, is recorded as the owner, and still fetches memory from
	                      * here. Never runs here again; the image is kept until COMPLETE */
	GW_SOURCE_DONE,      /* target runs, lacks nothing and said so; the copy here is destroyed */
	GW_SOURCE_ABORT,     /* undoing: cancel, wait for its end, ABORT durable, resume */
	GW_SOURCE_ABORTED,   /* runs here, as before */
	GW_SOURCE_UNKNOWN,   /* the store failed after the stop: nothing moves until RETRY */
	GW_SOURCE_STATE_COUNT,
};

enum gw_source_event {
	GW_SOURCE_EV_START,
	GW_SOURCE_EV_RECORDED,      /* the record that was being written is durable */
	GW_SOURCE_EV_RECORD_FAILED, /* writing it failed (outcome on disk not known) */
	GW_SOURCE_EV_PREPARED,      /* target: VM created, waiting */
	GW_SOURCE_EV_CONVERGED,     /* the convergence policy says switch */
	GW_SOURCE_EV_ALL_SENT,      /* stopped; last pages and device state were sent whole */
	GW_SOURCE_EV_READY,         /* target: everything arrived and loaded; also: it is whole and asks */
	GW_SOURCE_EV_RUNNING,       /* target: committed and running; it lacks nothing */
	GW_SOURCE_EV_FAILED,        /* link lost, own error, cancel, time-out */
	GW_SOURCE_EV_RESUMED,       /* undo complete: the guest runs here, or its VMM is dead for good */
	GW_SOURCE_EV_TARGET_LOST,   /* target said FAILED, or that it knows no such migration */
	GW_SOURCE_EV_RETRY,         /* in UNKNOWN: the store may work again; try to decide once more */
	GW_SOURCE_EV_RESTARTED_BEGIN,  /* the daemon came back and found the VM, the record undecided, */
	GW_SOURCE_EV_RESTARTED_COMMIT, /* ... saying COMMIT, whatever is left here, */
	GW_SOURCE_EV_RESTARTED_ABORT,  /* ... saying ABORT with the guest not running */
	GW_SOURCE_EV_RESTARTED_LOST,   /* ... undecided, and no VMM left here (host crash): not ABORT,
	                                * the target may hold the only whole image */
	GW_SOURCE_EV_VM_LOST,       /* the VMM process here is gone for certain; its RAM is still mapped */
	GW_SOURCE_EV_READY_OWING,   /* as READY, but for pages that only the image here holds */
	GW_SOURCE_EV_RUNNING_OWED,  /* as RUNNING, but the target still lacks pages */
	GW_SOURCE_EV_COMPLETE,      /* target: it holds every page, or is gone for good and wants none */
	GW_SOURCE_EV_IMAGE_LOST,    /* the RAM here cannot be read any more; implies VM_LOST */
	GW_SOURCE_EV_COUNT,
};

enum gw_source_action {
	GW_SOURCE_DO_RECORD_BEGIN  = 1 << 0,
	GW_SOURCE_DO_SEND_PREPARE  = 1 << 1,
	GW_SOURCE_DO_COPY          = 1 << 2,
	GW_SOURCE_DO_STOP_AND_SEND = 1 << 3, /* pause, last pages, device state */
	GW_SOURCE_DO_RECORD_COMMIT = 1 << 4,
	GW_SOURCE_DO_SEND_COMMIT   = 1 << 5, /* with `owes`, when it can be: over a link that serves pages */
	GW_SOURCE_DO_CANCEL_SAVE   = 1 << 6, /* end copying, saving; wait for the end: before any resume */
	GW_SOURCE_DO_RECORD_ABORT  = 1 << 7,
	GW_SOURCE_DO_RESUME        = 1 << 8, /* only when ABORT is certain; harmless when it runs */
	GW_SOURCE_DO_SEND_ABORT    = 1 << 9,
	GW_SOURCE_DO_DESTROY       = 1 << 10, /* only when the target runs and nothing is owed to it */
	GW_SOURCE_DO_ALARM         = 1 << 11, /* outcome unknown: tell the operator */
	GW_SOURCE_DO_ASK           = 1 << 12, /* ask the target until it says READY or FAILED */
	GW_SOURCE_DO_SERVE         = 1 << 13, /* connect when there is no link; serve owed pages over it */
};

struct gw_source_machine {
	enum gw_source_state state;
	bool sent, ready; /* both are needed for COMMIT */
	bool stopped;     /* the guest was (or may have been) paused by this migration */
	bool failed;      /* FAILED came while BEGIN was being written: abort when that is done */
	bool may_be_whole; /* the target may hold a whole image: only a durable ABORT allows to resume */
	bool commit_tried; /* a COMMIT may be on disk */
	bool commit_told; /* the target may have been told COMMIT: never abort again */
	bool lost;        /* no VMM here any more: only the target can run it, never abort a whole image */
	bool aborted;     /* ABORT is certain: durable, or presumed as nothing was stopped yet */
	bool owes;        /* the target fetches pages from here, or may (a restarted source cannot know) */
	bool image_lost;  /* the RAM here cannot be served, or may be another one than at the stop */
};

/* Returns the set of actions; an event that has no meaning in the state changes nothing and returns 0. */
unsigned gw_source_step(struct gw_source_machine *m, enum gw_source_event ev);
const char *gw_source_state_name(enum gw_source_state s);
const char *gw_source_event_name(enum gw_source_event e);
/* May the migration still be undone, or is it being undone (cancel accepted)? A cancel is then a FAILED. */
bool gw_source_can_abort(const struct gw_source_machine *m);
/* What a target that asks is told about this migration. NULL: the journal was read and knows no such
 * migration, so it was aborted (a COMMIT is never forgotten before the target's own record is durable). */
enum gw_answer { GW_ANSWER_WAIT, GW_ANSWER_COMMIT, GW_ANSWER_ABORT };
enum gw_answer gw_source_answer(const struct gw_source_machine *m);

/* Target. */
enum gw_target_state {
	GW_TARGET_IDLE,
	GW_TARGET_PREPARE,   /* creating the VM, paused */
	GW_TARGET_RECEIVE,   /* RAM and state arrive */
	GW_TARGET_LOAD,      /* everything arrived, the VMM loads the device state */
	GW_TARGET_READY,     /* whole up to what is owed, paused; READY was sent: only a decision moves it on */
	GW_TARGET_COMMITTED, /* decision known: takes the fence and runs */
	GW_TARGET_RUNNING,   /* the one owner; while pages are owed it waits for the source to connect */
	GW_TARGET_DISCARD,   /* being destroyed */
	GW_TARGET_GONE,      /* nothing left */
	GW_TARGET_PART,      /* not whole after a restart or the VMM's death: asks, never runs */
	GW_TARGET_STATE_COUNT,
};

enum gw_target_event {
	GW_TARGET_EV_PREPARE,       /* the source asks */
	GW_TARGET_EV_PREPARED,      /* VM created */
	GW_TARGET_EV_ALL_RECEIVED,  /* last pages in (all channels) and device state whole */
	GW_TARGET_EV_LOADED,
	GW_TARGET_EV_FAILED,        /* own error, VMM died, bad data */
	GW_TARGET_EV_LINK_LOST,
	GW_TARGET_EV_RESTARTED,     /* the daemon came back and found a whole, paused VM: ask first */
	GW_TARGET_EV_RESTARTED_PART,/* ... found one that is not whole: also ask first, it may not run */
	GW_TARGET_EV_COMMIT,
	GW_TARGET_EV_ABORT,
	GW_TARGET_EV_RAN,           /* fence taken, vCPUs run */
	GW_TARGET_EV_DESTROYED,
	GW_TARGET_EV_RESTARTED_RUNNING, /* ... found it running: so COMMIT had come. Also for a repeated
	                                 * COMMIT of a migration whose own record is durable here */
	GW_TARGET_EV_ASKED,         /* the source asks (DO_ASK) whether the image here is whole */
	GW_TARGET_EV_LOADED_OWING,  /* as LOADED, and pages are still owed by the source */
	GW_TARGET_EV_COMPLETE,      /* the last owed page is in */
	GW_TARGET_EV_RESTARTED_OWING,         /* as RESTARTED, and the page states say that pages are owed */
	GW_TARGET_EV_RESTARTED_RUNNING_OWING, /* as RESTARTED_RUNNING, and pages are owed */
	GW_TARGET_EV_COUNT,
};

enum gw_target_action {
	GW_TARGET_DO_CREATE       = 1 << 0,
	GW_TARGET_DO_SEND_PREPARED= 1 << 1,
	GW_TARGET_DO_LOAD         = 1 << 2,
	GW_TARGET_DO_SEND_READY   = 1 << 3, /* says whether pages are owed */
	GW_TARGET_DO_ASK          = 1 << 4, /* ask the source for the decision until it answers; as READY */
	GW_TARGET_DO_FENCE_AND_RUN= 1 << 5, /* take fence E+1, run, announce; idempotent */
	GW_TARGET_DO_RECORD_OWNER = 1 << 6, /* own record: (B, E+1, running), durable; idempotent */
	GW_TARGET_DO_SEND_RUNNING = 1 << 7, /* only once RECORD_OWNER is durable; a COMMIT retries. Says
	                                     * whether pages are owed */
	GW_TARGET_DO_DESTROY      = 1 << 8,
	GW_TARGET_DO_SEND_FAILED  = 1 << 9,
	GW_TARGET_DO_ALARM        = 1 << 10, /* a decision that does not fit: tell people */
	GW_TARGET_DO_SEND_COMPLETE= 1 << 11, /* as SEND_RUNNING; once: a source that lost it asks again */
};

struct gw_target_machine {
	enum gw_target_state state;
	bool whole; /* RAM and state are complete here */
	bool owes;  /* state is complete, and RAM but for pages that are owed to it: excludes whole */
};

/* As gw_source_step. */
unsigned gw_target_step(struct gw_target_machine *m, enum gw_target_event ev);
/* Nobody counts on the copy: a failure discards it, or it is being discarded. */
bool gw_target_may_discard(const struct gw_target_machine *m);
const char *gw_target_state_name(enum gw_target_state s);
const char *gw_target_event_name(enum gw_target_event e);

#endif
