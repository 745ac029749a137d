/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The two handover machines as tables of transitions. */
#include "engine/handover.h"

#include <stddef.h>

#include "base/cleanup.h"

/* Theory of operation
 *
 * Goal: at no instant do two copies run, and no fault of one process, host or link loses the guest.
 *
 * The source's durable record is the decision. Five rules carry the whole proof:
 *
 * 1. COMMIT is written only when the target is whole (READY) and the source has sent everything (SENT),
 *    so after it nothing that only the source has is needed; or nothing but its image, see 6.
 * 2. From the moment a COMMIT may be on disk until its outcome is known the source neither runs the guest
 *    nor tells anybody anything. A failed write has an unknown outcome: only a durable ABORT over it, or a
 *    durable COMMIT, ends that; when neither can be had the machine stays UNKNOWN and paused.
 * 3. Until the guest is stopped nothing at the target can be whole, so ABORT needs no record to be true
 *    (presumed abort). After that it does: with "undecided" on disk a later power cut, which takes the
 *    resumed guest with it, would make the daemon commit the older image at the target (see 5).
 * 4. Once READY, the target never decides: it asks until it is answered. Before READY it may destroy its
 *    copy at any time, because without READY there is no COMMIT.
 * 5. A failure before COMMIT means ABORT, but for one: when the VMM at the source is gone for certain,
 *    ABORT would throw away the only whole image; the source asks the target and commits if that is whole.
 * 6. In post-copy (READY_OWING) the whole image is the target's and the source's together. COMMIT is right
 *    as long as the source's can be read, with or without a VMM: a daemon that has lived since the stop has
 *    the RAM mapped (VM_LOST). After a restart without a VMM (RESTARTED_LOST) or IMAGE_LOST it counts as
 *    gone: then nobody has a whole image, no COMMIT is written onto an owing target, and it is an ordinary
 *    crash at the source. After COMMIT there is no way back whatever is lost: SERVING ends only by the
 *    target's word that it runs and lacks nothing, or wants nothing. An image lost there is the guest's
 *    crash: it waits for the page for ever, an operator ends it, and that is told as COMPLETE.
 * 7. Starting the guest may need an owed page, before the VMM at the target can say that it runs. So COMMIT
 *    goes with a link that serves pages whenever the target may lack some; a restarted source cannot know.
 *
 * A COMMIT or ABORT that a restarted daemon reads may have reached the page cache only. It is therefore
 * written again before anybody is told, so that a later crash of the host cannot take it back.
 *
 * Rows are searched from the top; the first whose guard holds is taken. No row: the event means nothing.
 */

enum mark {
	MARK_SENT = 1 << 0,
	MARK_READY = 1 << 1,
	MARK_STOPPED = 1 << 2,
	MARK_FAILED = 1 << 3,
	MARK_TRIED = 1 << 4,
	MARK_TOLD = 1 << 5,
	MARK_LOST = 1 << 6,
	MARK_ABORTED = 1 << 7,
	MARK_MAY_BE_WHOLE = 1 << 8,
	MARK_OWES = 1 << 9,
	MARK_IMAGE_LOST = 1 << 10,
};

#define MARK_STOP (MARK_STOPPED | MARK_MAY_BE_WHOLE)

typedef bool (*source_guard)(const struct gw_source_machine *m);

struct source_row {
	enum gw_source_state state;
	enum gw_source_event event;
	source_guard when; /* NULL: always */
	enum gw_source_state next;
	unsigned actions;
	unsigned marks;    /* facts that hold from now on */
};

static bool has_failed(const struct gw_source_machine *m)
{
	return m->failed;
}

static bool is_ready(const struct gw_source_machine *m)
{
	return m->ready;
}

static bool is_lost(const struct gw_source_machine *m)
{
	return m->lost;
}

static bool is_image_lost(const struct gw_source_machine *m)
{
	return m->image_lost;
}

/* The target may run, or holds (with the image here) the only whole one: the way back is closed. */
static bool must_commit(const struct gw_source_machine *m)
{
	return m->commit_told || (m->lost && m->ready && !(m->owes && m->image_lost));
}

static bool undecided(const struct gw_source_machine *m)
{
	return !m->aborted;
}

static bool undecided_and_whole(const struct gw_source_machine *m)
{
	return !m->aborted && m->may_be_whole;
}

static bool undecided_and_stopped(const struct gw_source_machine *m)
{
	return !m->aborted && m->stopped;
}

static bool is_aborted(const struct gw_source_machine *m)
{
	return m->aborted;
}

#define S(name) GW_SOURCE_##name
#define E(name) GW_SOURCE_EV_##name
#define DO(name) GW_SOURCE_DO_##name

static const struct source_row source_rows[] = {
	{ S(IDLE), E(START), NULL, S(BEGIN), DO(RECORD_BEGIN), 0 },
	{ S(IDLE), E(RESTARTED_BEGIN), NULL, S(ABORT), DO(CANCEL_SAVE) | DO(RECORD_ABORT), MARK_STOP },
	{ S(IDLE), E(RESTARTED_ABORT), NULL, S(ABORT), DO(CANCEL_SAVE) | DO(RECORD_ABORT),
	  MARK_STOP | MARK_TRIED },
	{ S(IDLE), E(RESTARTED_COMMIT), NULL, S(COMMIT), DO(RECORD_COMMIT),
	  MARK_STOP | MARK_SENT | MARK_READY | MARK_TRIED | MARK_TOLD | MARK_OWES },
	{ S(IDLE), E(RESTARTED_LOST), NULL, S(SENT), DO(ASK),
	  MARK_STOP | MARK_SENT | MARK_LOST | MARK_IMAGE_LOST },

	{ S(BEGIN), E(RECORDED), has_failed, S(ABORT), DO(RECORD_ABORT), 0 },
	{ S(BEGIN), E(RECORDED), NULL, S(PREPARE), DO(SEND_PREPARE), 0 },
	{ S(BEGIN), E(RECORD_FAILED), NULL, S(ABORTED), 0, MARK_ABORTED },
	{ S(BEGIN), E(FAILED), NULL, S(BEGIN), 0, MARK_FAILED },

	{ S(PREPARE), E(PREPARED), NULL, S(COPY), DO(COPY), 0 },
	{ S(PREPARE), E(FAILED), NULL, S(ABORT), DO(RECORD_ABORT), 0 },

	{ S(COPY), E(CONVERGED), NULL, S(STOP), DO(STOP_AND_SEND), MARK_STOP },
	{ S(COPY), E(FAILED), NULL, S(ABORT), DO(CANCEL_SAVE) | DO(RECORD_ABORT), 0 },

	{ S(STOP), E(ALL_SENT), is_ready, S(COMMIT), DO(RECORD_COMMIT), MARK_SENT | MARK_TRIED },
	{ S(STOP), E(ALL_SENT), NULL, S(SENT), 0, MARK_SENT },
	{ S(STOP), E(READY), NULL, S(STOP), 0, MARK_READY },
	{ S(STOP), E(FAILED), NULL, S(ABORT), DO(CANCEL_SAVE) | DO(RECORD_ABORT), 0 },
	{ S(STOP), E(VM_LOST), NULL, S(SENT), DO(CANCEL_SAVE) | DO(ASK), MARK_SENT | MARK_LOST },

	{ S(SENT), E(READY_OWING), is_image_lost, S(ABORT), DO(CANCEL_SAVE) | DO(RECORD_ABORT), 0 },
	{ S(SENT), E(READY), NULL, S(COMMIT), DO(RECORD_COMMIT), MARK_READY | MARK_TRIED },
	{ S(SENT), E(FAILED), is_lost, S(SENT), DO(ASK), 0 },
	{ S(SENT), E(FAILED), NULL, S(ABORT), DO(CANCEL_SAVE) | DO(RECORD_ABORT), 0 },
	{ S(SENT), E(TARGET_LOST), NULL, S(ABORT), DO(CANCEL_SAVE) | DO(RECORD_ABORT), 0 },
	{ S(SENT), E(VM_LOST), NULL, S(SENT), DO(ASK), MARK_LOST },
	/* An operator decided at the target: nothing may run here whatever the reason was. */
	{ S(SENT), E(RUNNING), NULL, S(COMMIT), DO(RECORD_COMMIT) | DO(ALARM),
	  MARK_READY | MARK_TRIED | MARK_TOLD },

	{ S(COMMIT), E(RECORDED), NULL, S(COMMITTED), DO(SEND_COMMIT), MARK_TOLD },
	{ S(COMMIT), E(RECORD_FAILED), must_commit, S(UNKNOWN), DO(ALARM), 0 },
	{ S(COMMIT), E(RECORD_FAILED), NULL, S(ABORT), DO(CANCEL_SAVE) | DO(RECORD_ABORT), 0 },
	{ S(COMMIT), E(VM_LOST), NULL, S(COMMIT), 0, MARK_LOST },

	{ S(COMMITTED), E(RUNNING), NULL, S(DONE), DO(DESTROY), 0 },
	{ S(COMMITTED), E(RUNNING_OWED), is_image_lost, S(SERVING), DO(ALARM), 0 },
	{ S(COMMITTED), E(RUNNING_OWED), NULL, S(SERVING), DO(SERVE), 0 },
	{ S(COMMITTED), E(FAILED), NULL, S(COMMITTED), DO(SEND_COMMIT), 0 },
	{ S(COMMITTED), E(TARGET_LOST), NULL, S(COMMITTED), DO(ALARM), 0 },

	/* With nothing left to serve it goes on asking, for the word that nothing is owed or wanted. */
	{ S(SERVING), E(RUNNING), NULL, S(DONE), DO(DESTROY), 0 },
	{ S(SERVING), E(RUNNING_OWED), is_image_lost, S(SERVING), DO(ALARM), 0 },
	{ S(SERVING), E(RUNNING_OWED), NULL, S(SERVING), DO(SERVE), 0 },
	{ S(SERVING), E(FAILED), is_image_lost, S(SERVING), DO(SEND_COMMIT), 0 },
	{ S(SERVING), E(FAILED), NULL, S(SERVING), DO(SERVE), 0 },
	{ S(SERVING), E(TARGET_LOST), NULL, S(SERVING), DO(ALARM), 0 },
	{ S(SERVING), E(IMAGE_LOST), NULL, S(SERVING), DO(ALARM), 0 },

	{ S(ABORT), E(RECORDED), undecided_and_stopped, S(ABORT), DO(RESUME) | DO(SEND_ABORT),
	  MARK_ABORTED },
	{ S(ABORT), E(RECORDED), undecided, S(ABORTED), DO(SEND_ABORT), MARK_ABORTED },
	{ S(ABORT), E(RECORD_FAILED), undecided_and_whole, S(UNKNOWN), DO(ALARM), 0 },
	{ S(ABORT), E(RECORD_FAILED), undecided, S(ABORTED), DO(SEND_ABORT), MARK_ABORTED },
	{ S(ABORT), E(RESUMED), is_aborted, S(ABORTED), 0, 0 },
	{ S(ABORT), E(RUNNING), NULL, S(ABORT), DO(ALARM), 0 },
	{ S(ABORTED), E(RUNNING), NULL, S(ABORTED), DO(ALARM), 0 },

	{ S(UNKNOWN), E(RETRY), must_commit, S(COMMIT), DO(RECORD_COMMIT), 0 },
	{ S(UNKNOWN), E(RETRY), NULL, S(ABORT), DO(RECORD_ABORT), 0 },
	{ S(UNKNOWN), E(VM_LOST), is_ready, S(UNKNOWN), 0, MARK_LOST },
	{ S(UNKNOWN), E(RUNNING), NULL, S(COMMIT), DO(RECORD_COMMIT), MARK_TOLD },
};

/* Per event: its name, the event that it is treated as where it has no row of its own (none: START), and
 * what it says in whatever state. */
static const struct {
	const char *name;
	enum gw_source_event otherwise;
	unsigned marks;
} source_events[GW_SOURCE_EV_COUNT] = {
	[E(START)] = { "start" },
	[E(RECORDED)] = { "recorded" },
	[E(RECORD_FAILED)] = { "record-failed" },
	[E(PREPARED)] = { "prepared" },
	[E(CONVERGED)] = { "converged" },
	[E(ALL_SENT)] = { "all-sent" },
	[E(READY)] = { "ready" },
	[E(RUNNING)] = { "running" },
	[E(FAILED)] = { "failed" },
	[E(RESUMED)] = { "resumed" },
	[E(TARGET_LOST)] = { "target-lost", E(FAILED) },
	[E(RETRY)] = { "retry" },
	[E(RESTARTED_BEGIN)] = { "restarted-begin" },
	[E(RESTARTED_COMMIT)] = { "restarted-commit" },
	[E(RESTARTED_ABORT)] = { "restarted-abort" },
	[E(RESTARTED_LOST)] = { "restarted-lost" },
	[E(VM_LOST)] = { "vm-lost", E(FAILED) },
	[E(READY_OWING)] = { "ready-owing", E(READY), MARK_OWES },
	[E(RUNNING_OWED)] = { "running-owed", E(RUNNING) },
	[E(COMPLETE)] = { "complete", E(RUNNING) },
	[E(IMAGE_LOST)] = { "image-lost", E(VM_LOST), MARK_IMAGE_LOST },
};

const char *gw_source_event_name(enum gw_source_event e)
{
	return (unsigned)e < GW_SOURCE_EV_COUNT ? source_events[e].name : "?";
}

static const struct source_row *source_find(const struct gw_source_machine *m, enum gw_source_event ev)
{
	for (size_t i = 0; i < GW_ARRAY_SIZE(source_rows); i++) {
		const struct source_row *r = &source_rows[i];

		if (r->state == m->state && r->event == ev && (!r->when || r->when(m)))
			return r;
	}
	return NULL;
}

unsigned gw_source_step(struct gw_source_machine *m, enum gw_source_event ev)
{
	const struct source_row *r = NULL;
	unsigned marks;

	if ((unsigned)ev >= GW_SOURCE_EV_COUNT)
		return 0;
	marks = source_events[ev].marks;
	do {
		r = source_find(m, ev);
		ev = source_events[ev].otherwise;
	} while (!r && ev);
	if (!r)
		return 0;

	marks |= r->marks;
	m->state = r->next;
	m->sent |= !!(marks & MARK_SENT);
	m->ready |= !!(marks & MARK_READY);
	m->stopped |= !!(marks & MARK_STOPPED);
	m->failed |= !!(marks & MARK_FAILED);
	m->commit_tried |= !!(marks & MARK_TRIED);
	m->commit_told |= !!(marks & MARK_TOLD);
	m->lost |= !!(marks & MARK_LOST);
	m->aborted |= !!(marks & MARK_ABORTED);
	m->may_be_whole |= !!(marks & MARK_MAY_BE_WHOLE);
	m->owes |= !!(marks & MARK_OWES);
	m->image_lost |= !!(marks & MARK_IMAGE_LOST);
	return r->actions;
}

/* Per state: its name, what a target is told, and whether a cancel is accepted. */
static const struct {
	const char *name;
	enum gw_answer answer;
	bool can_abort;
} source_states[GW_SOURCE_STATE_COUNT] = {
	[S(IDLE)] = { "idle", GW_ANSWER_WAIT, false },
	[S(BEGIN)] = { "begin", GW_ANSWER_WAIT, true },
	[S(PREPARE)] = { "prepare", GW_ANSWER_WAIT, true },
	[S(COPY)] = { "copy", GW_ANSWER_WAIT, true },
	[S(STOP)] = { "stop", GW_ANSWER_WAIT, true },
	[S(SENT)] = { "sent", GW_ANSWER_WAIT, true },
	[S(COMMIT)] = { "commit", GW_ANSWER_WAIT, false },
	[S(COMMITTED)] = { "committed", GW_ANSWER_COMMIT, false },
	[S(SERVING)] = { "serving", GW_ANSWER_COMMIT, false },
	[S(DONE)] = { "done", GW_ANSWER_COMMIT, false },
	[S(ABORT)] = { "abort", GW_ANSWER_WAIT, true }, /* until it is certain, see gw_source_answer */
	[S(ABORTED)] = { "aborted", GW_ANSWER_ABORT, true },
	[S(UNKNOWN)] = { "unknown", GW_ANSWER_WAIT, false },
};

const char *gw_source_state_name(enum gw_source_state s)
{
	return (unsigned)s < GW_SOURCE_STATE_COUNT ? source_states[s].name : "?";
}

bool gw_source_can_abort(const struct gw_source_machine *m)
{
	if (m->lost || (m->commit_tried && !m->aborted))
		return false;
	return source_states[m->state].can_abort;
}

enum gw_answer gw_source_answer(const struct gw_source_machine *m)
{
	if (!m)
		return GW_ANSWER_ABORT;
	if (m->state == S(ABORT) && m->aborted)
		return GW_ANSWER_ABORT;
	return source_states[m->state].answer;
}

#undef S
#undef E
#undef DO

/* The target's states say nearly all. `holds` follows from the row; a row for a VM that is owed pages has
 * no meaning for another one. */
enum holds {
	HOLDS_AS_BEFORE,
	HOLDS_ALL,
	HOLDS_ALL_BUT_OWED,
	HOLDS_PART,
};

struct target_row {
	enum gw_target_state next;
	unsigned actions;
	enum holds holds;
	bool only_owing;
	bool valid;
};

#define S(name) GW_TARGET_##name
#define E(name) GW_TARGET_EV_##name
#define DO(name) GW_TARGET_DO_##name
#define GO(next, actions) { S(next), actions, HOLDS_AS_BEFORE, false, true }
#define GO_WHOLE(next, actions) { S(next), actions, HOLDS_ALL, false, true }
#define GO_OWING(next, actions) { S(next), actions, HOLDS_ALL_BUT_OWED, false, true }
#define GO_PART(next, actions) { S(next), actions, HOLDS_PART, false, true }
/* Nothing is owed any more. */
#define OWING_GO_WHOLE(next, actions) { S(next), actions, HOLDS_ALL, true, true }

static const struct target_row target_table[GW_TARGET_STATE_COUNT][GW_TARGET_EV_COUNT] = {
	[S(IDLE)] = {
		[E(PREPARE)] = GO(PREPARE, DO(CREATE)),
		[E(RESTARTED)] = GO_WHOLE(READY, DO(ASK)),
		[E(RESTARTED_PART)] = GO_PART(PART, DO(ASK)),
		[E(RESTARTED_RUNNING)] = GO_WHOLE(RUNNING, DO(RECORD_OWNER) | DO(SEND_RUNNING)),
		[E(RESTARTED_OWING)] = GO_OWING(READY, DO(ASK)),
		[E(RESTARTED_RUNNING_OWING)] = GO_OWING(RUNNING, DO(RECORD_OWNER) | DO(SEND_RUNNING)),
		/* About a migration that is not known here: nothing to run, and the source must hear it. */
		[E(COMMIT)] = GO(IDLE, DO(SEND_FAILED) | DO(ALARM)),
		[E(ASKED)] = GO(IDLE, DO(SEND_FAILED)),
	},
	[S(PREPARE)] = {
		[E(PREPARED)] = GO(RECEIVE, DO(SEND_PREPARED)),
		[E(FAILED)] = GO(DISCARD, DO(DESTROY) | DO(SEND_FAILED)),
		[E(LINK_LOST)] = GO(DISCARD, DO(DESTROY)),
		[E(ABORT)] = GO(DISCARD, DO(DESTROY)),
		[E(COMMIT)] = GO(PREPARE, DO(ALARM)),
	},
	[S(RECEIVE)] = {
		[E(ALL_RECEIVED)] = GO(LOAD, DO(LOAD)),
		[E(FAILED)] = GO(DISCARD, DO(DESTROY) | DO(SEND_FAILED)),
		[E(LINK_LOST)] = GO(DISCARD, DO(DESTROY)),
		[E(ABORT)] = GO(DISCARD, DO(DESTROY)),
		[E(COMMIT)] = GO(RECEIVE, DO(ALARM)),
	},
	[S(LOAD)] = {
		[E(LOADED)] = GO_WHOLE(READY, DO(SEND_READY)),
		[E(LOADED_OWING)] = GO_OWING(READY, DO(SEND_READY)),
		[E(FAILED)] = GO(DISCARD, DO(DESTROY) | DO(SEND_FAILED)),
		[E(LINK_LOST)] = GO(DISCARD, DO(DESTROY)),
		[E(ABORT)] = GO(DISCARD, DO(DESTROY)),
		[E(COMMIT)] = GO(LOAD, DO(ALARM)),
	},
	[S(READY)] = {
		[E(COMMIT)] = GO(COMMITTED, DO(FENCE_AND_RUN)),
		[E(ABORT)] = GO_PART(DISCARD, DO(DESTROY)),
		[E(LINK_LOST)] = GO(READY, DO(ASK)),
		[E(FAILED)] = GO_PART(PART, DO(ASK) | DO(SEND_FAILED)),
		[E(ASKED)] = GO(READY, DO(SEND_READY)),
		[E(COMPLETE)] = OWING_GO_WHOLE(READY, 0),
	},
	[S(PART)] = {
		[E(ABORT)] = GO(DISCARD, DO(DESTROY)),
		[E(LINK_LOST)] = GO(PART, DO(ASK)),
		[E(COMMIT)] = GO(PART, DO(SEND_FAILED) | DO(ALARM)),
		[E(ASKED)] = GO(PART, DO(SEND_FAILED)),
	},
	[S(COMMITTED)] = {
		[E(RAN)] = GO(RUNNING, DO(RECORD_OWNER) | DO(SEND_RUNNING)),
		[E(FAILED)] = GO(COMMITTED, DO(SEND_FAILED) | DO(ALARM)),
		[E(COMMIT)] = GO(COMMITTED, DO(FENCE_AND_RUN)),
		[E(ABORT)] = GO(COMMITTED, DO(ALARM)),
		[E(COMPLETE)] = OWING_GO_WHOLE(COMMITTED, 0),
	},
	[S(RUNNING)] = {
		/* An ABORT here is a late answer of a source that has forgotten what is over: no row. */
		[E(COMMIT)] = GO(RUNNING, DO(RECORD_OWNER) | DO(SEND_RUNNING)),
		[E(ASKED)] = GO(RUNNING, DO(RECORD_OWNER) | DO(SEND_RUNNING)),
		[E(COMPLETE)] = OWING_GO_WHOLE(RUNNING, DO(RECORD_OWNER) | DO(SEND_COMPLETE)),
		/* The guest crashed or was ended here, at its owner: what it lacked nobody wants any more. */
		[E(FAILED)] = OWING_GO_WHOLE(RUNNING, DO(RECORD_OWNER) | DO(SEND_COMPLETE)),
	},
	[S(DISCARD)] = {
		[E(DESTROYED)] = GO(GONE, 0),
		[E(COMMIT)] = GO(DISCARD, DO(SEND_FAILED) | DO(ALARM)),
		[E(ASKED)] = GO(DISCARD, DO(SEND_FAILED)),
	},
	[S(GONE)] = {
		[E(COMMIT)] = GO(GONE, DO(SEND_FAILED) | DO(ALARM)),
		[E(ASKED)] = GO(GONE, DO(SEND_FAILED)),
	},
};

unsigned gw_target_step(struct gw_target_machine *m, enum gw_target_event ev)
{
	const struct target_row *r;

	if ((unsigned)ev >= GW_TARGET_EV_COUNT)
		return 0;
	r = &target_table[m->state][ev];
	if (!r->valid || (r->only_owing && !m->owes))
		return 0;
	m->state = r->next;
	if (r->holds != HOLDS_AS_BEFORE) {
		m->whole = r->holds == HOLDS_ALL;
		m->owes = r->holds == HOLDS_ALL_BUT_OWED;
	}
	return r->actions;
}

bool gw_target_may_discard(const struct gw_target_machine *m)
{
	const struct target_row *r = &target_table[m->state][E(FAILED)];

	return m->state == S(DISCARD) || (r->valid && r->next == S(DISCARD));
}

static const char *const target_state_names[GW_TARGET_STATE_COUNT] = {
	[S(IDLE)] = "idle",
	[S(PREPARE)] = "prepare",
	[S(RECEIVE)] = "receive",
	[S(LOAD)] = "load",
	[S(READY)] = "ready",
	[S(COMMITTED)] = "committed",
	[S(RUNNING)] = "running",
	[S(DISCARD)] = "discard",
	[S(GONE)] = "gone",
	[S(PART)] = "part",
};

const char *gw_target_state_name(enum gw_target_state s)
{
	return (unsigned)s < GW_TARGET_STATE_COUNT ? target_state_names[s] : "?";
}

static const char *const target_event_names[GW_TARGET_EV_COUNT] = {
	[E(PREPARE)] = "prepare",
	[E(PREPARED)] = "prepared",
	[E(ALL_RECEIVED)] = "all-received",
	[E(LOADED)] = "loaded",
	[E(FAILED)] = "failed",
	[E(LINK_LOST)] = "link-lost",
	[E(RESTARTED)] = "restarted",
	[E(RESTARTED_PART)] = "restarted-part",
	[E(COMMIT)] = "commit",
	[E(ABORT)] = "abort",
	[E(RAN)] = "ran",
	[E(DESTROYED)] = "destroyed",
	[E(RESTARTED_RUNNING)] = "restarted-running",
	[E(ASKED)] = "asked",
	[E(LOADED_OWING)] = "loaded-owing",
	[E(COMPLETE)] = "complete",
	[E(RESTARTED_OWING)] = "restarted-owing",
	[E(RESTARTED_RUNNING_OWING)] = "restarted-running-owing",
};

const char *gw_target_event_name(enum gw_target_event e)
{
	return (unsigned)e < GW_TARGET_EV_COUNT ? target_event_names[e] : "?";
}
