/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The simulated hosts, their link, faults and invariants. */
#include "world.h"

#include <string.h>

#include "base/cleanup.h"

#define SETTLE_STEPS_MAX 3000

void sim_world_init(struct sim_world *w, uint64_t seed)
{
	*w = (struct sim_world){
		.rng = { seed },
		.a_up = true,
		.a_known = true,
		.b_up = true,
		.link_up = true,
		.vm_a = VM_RUNS,
		.image_a = true,
		.fence = 1,
	};
	w->postcopy = sim_one_in(&w->rng, 2);
	w->unasked = sim_one_in(&w->rng, 2);
}

void sim_break(struct sim_world *w, const char *what)
{
	if (!w->broken[0])
		snprintf(w->broken, sizeof(w->broken), "%s (A %s, B %s, step %u)", what,
			 gw_source_state_name(w->a.state), gw_target_state_name(w->b.state), w->steps);
}

void sim_send(struct sim_world *w, struct sim_queue *q, enum sim_message m)
{
	if (w->link_up && q->n < SIM_QUEUE_MAX)
		q->m[q->n++] = m;
}

enum sim_message sim_take(struct sim_queue *q)
{
	enum sim_message m = q->m[0];

	memmove(q->m, q->m + 1, --q->n * sizeof(q->m[0]));
	return m;
}

/* Ends every connection: what is in flight is gone, both sides hear of it some time later. */
void sim_cut(struct sim_world *w)
{
	w->to_a.n = w->to_b.n = 0;
	w->demand = false;
	w->a_link_lost = w->b_link_lost = true;
	if (w->stream == STREAM_OPEN || w->stream == STREAM_END)
		w->stream = STREAM_BROKEN;
}

/* The steps: what can happen next, and what it does. A daemon takes the next event only when it has
 * carried out the actions of the last one, but a record write, a copy or a start goes on meanwhile. */
#define A_IDLE(w) ((w)->a_up && !(w)->a_todo)
/* The source looks whether its VMM lives before it takes any other event. */
#define A_FREE(w) (A_IDLE(w) && !(w)->a_vm_lost)
#define B_FREE(w) ((w)->b_up && !(w)->b_todo)

static bool can_a_start(const struct sim_world *w)
{
	return A_FREE(w) && !w->a_started;
}

static void a_start(struct sim_world *w)
{
	w->a_started = true;
	sim_source_event(w, GW_SOURCE_EV_START);
}

static bool can_a_work(const struct sim_world *w)
{
	return w->a_up && w->a_todo;
}

static bool can_a_written(const struct sim_world *w)
{
	return A_FREE(w) && w->a_writing != REC_NONE;
}

static bool can_a_converge(const struct sim_world *w)
{
	return A_FREE(w) && w->a_copying && w->stream == STREAM_OPEN;
}

static void a_converge(struct sim_world *w)
{
	w->a_copying = false;
	sim_source_event(w, GW_SOURCE_EV_CONVERGED);
}

static bool can_a_stop(const struct sim_world *w)
{
	return A_FREE(w) && w->a_stop_stage && w->stream != STREAM_BROKEN;
}

static void a_stop(struct sim_world *w)
{
	switch (w->a_stop_stage) {
	case 1:
		if (w->vm_a == VM_RUNS)
			w->vm_a = VM_PAUSED;
		sim_owe_pages(w);
		w->a_stop_stage = 2;
		break;
	case 2:
		w->stream = STREAM_END;
		w->a_stop_stage = 3;
		break;
	case 3:
		w->a_stop_stage = 0;
		sim_source_event(w, GW_SOURCE_EV_ALL_SENT);
		break;
	}
}

static bool can_a_resume(const struct sim_world *w)
{
	return A_FREE(w) && w->a_resuming;
}

static void a_resume(struct sim_world *w)
{
	w->a_resuming = false;
	if (w->vm_a == VM_PAUSED || w->vm_a == VM_RUNS) {
		w->vm_a = VM_RUNS;
		w->fence = 3;
	}
	sim_source_event(w, GW_SOURCE_EV_RESUMED);
}

static bool can_a_receive(const struct sim_world *w)
{
	return A_FREE(w) && w->to_a.n;
}

static void a_receive(struct sim_world *w)
{
	sim_source_message(w, sim_take(&w->to_a));
}

static bool can_a_link_lost(const struct sim_world *w)
{
	return A_FREE(w) && w->a_link_lost;
}

static void a_link_lost(struct sim_world *w)
{
	w->a_link_lost = false;
	if (w->bug == BUG_ABORTS_SERVING && w->a.state == GW_SOURCE_SERVING) {
		w->a = (struct gw_source_machine){ 0 };
		sim_source_event(w, GW_SOURCE_EV_RESTARTED_ABORT);
	} else if (w->a_known) {
		sim_source_event(w, GW_SOURCE_EV_FAILED);
	}
}

static bool can_a_vm_lost(const struct sim_world *w)
{
	return A_IDLE(w) && w->a_vm_lost;
}

static void a_vm_lost(struct sim_world *w)
{
	w->a_vm_lost = false;
	if (w->a_known)
		sim_source_event(w, w->image_a ? GW_SOURCE_EV_VM_LOST : GW_SOURCE_EV_IMAGE_LOST);
}

static bool can_a_restart(const struct sim_world *w)
{
	return !w->a_up && !w->a_gone;
}

static bool can_b_work(const struct sim_world *w)
{
	return w->b_up && w->b_todo;
}

static bool can_b_receive(const struct sim_world *w)
{
	return B_FREE(w) && w->to_b.n;
}

static void b_receive(struct sim_world *w)
{
	sim_target_message(w, sim_take(&w->to_b));
}

static bool can_b_created(const struct sim_world *w)
{
	return B_FREE(w) && w->b_creating;
}

static void b_created(struct sim_world *w)
{
	w->b_creating = false;
	w->vm_b = VM_PART;
	sim_target_event(w, GW_TARGET_EV_PREPARED);
}

static bool can_b_all_received(const struct sim_world *w)
{
	return B_FREE(w) && w->stream == STREAM_END && w->vm_b == VM_PART;
}

static void b_all_received(struct sim_world *w)
{
	w->stream = STREAM_DELIVERED;
	sim_target_event(w, GW_TARGET_EV_ALL_RECEIVED);
}

/* The VMM is done some time before its daemon hears of it. */
static bool can_b_load(const struct sim_world *w)
{
	return w->b_loading && w->vm_b == VM_PART && sim_state_can_load(w);
}

static void b_load(struct sim_world *w)
{
	w->vm_b = VM_PAUSED;
	w->ever_whole = true;
}

static bool can_b_loaded(const struct sim_world *w)
{
	return B_FREE(w) && w->b_loading && w->vm_b == VM_PAUSED;
}

static void b_loaded(struct sim_world *w)
{
	w->b_loading = false;
	sim_target_event(w, w->absent ? GW_TARGET_EV_LOADED_OWING : GW_TARGET_EV_LOADED);
}

static bool can_b_complete(const struct sim_world *w)
{
	return B_FREE(w) && w->b_complete;
}

static void b_complete(struct sim_world *w)
{
	w->b_complete = false;
	w->served |= w->b_known && w->b.state == GW_TARGET_RUNNING && w->b.owes;
	if (w->b_known)
		sim_target_event(w, GW_TARGET_EV_COMPLETE);
}

static bool can_b_start(const struct sim_world *w)
{
	return B_FREE(w) && w->b_starting && sim_guest_can_start(w);
}

static void b_start(struct sim_world *w)
{
	w->b_starting = false;
	w->fence = 2;
	w->vm_b = VM_RUNS;
	sim_target_event(w, GW_TARGET_EV_RAN);
}

static bool can_b_link_lost(const struct sim_world *w)
{
	return B_FREE(w) && w->b_link_lost;
}

static void b_link_lost(struct sim_world *w)
{
	w->b_link_lost = false;
	if (w->b_known)
		sim_target_event(w, GW_TARGET_EV_LINK_LOST);
}

static bool can_b_vm_lost(const struct sim_world *w)
{
	return B_FREE(w) && w->b_vm_lost;
}

static void b_vm_lost(struct sim_world *w)
{
	w->b_vm_lost = false;
	if (w->b_known)
		sim_target_event(w, GW_TARGET_EV_FAILED);
}

static bool can_b_destroyed(const struct sim_world *w)
{
	return B_FREE(w) && w->b_destroying;
}

static void b_destroyed(struct sim_world *w)
{
	w->b_destroying = false;
	sim_target_event(w, GW_TARGET_EV_DESTROYED);
}

static bool can_b_restart(const struct sim_world *w)
{
	return !w->b_up;
}

static bool can_link_up(const struct sim_world *w)
{
	return !w->link_up;
}

static void link_up(struct sim_world *w)
{
	w->link_up = true;
}

static const struct step {
	const char *name;
	bool (*can)(const struct sim_world *w);
	void (*run)(struct sim_world *w);
} steps[] = {
	{ "A starts", can_a_start, a_start },
	{ "A works", can_a_work, sim_source_work },
	{ "A record written", can_a_written, sim_source_written },
	{ "A converged", can_a_converge, a_converge },
	{ "A stops", can_a_stop, a_stop },
	{ "A resumes", can_a_resume, a_resume },
	{ "A receives", can_a_receive, a_receive },
	{ "A link lost", can_a_link_lost, a_link_lost },
	{ "A VMM lost", can_a_vm_lost, a_vm_lost },
	{ "A restarts", can_a_restart, sim_source_restart },
	{ "B works", can_b_work, sim_target_work },
	{ "B receives", can_b_receive, b_receive },
	{ "B created", can_b_created, b_created },
	{ "B all received", can_b_all_received, b_all_received },
	{ "B loads", can_b_load, b_load },
	{ "B loaded", can_b_loaded, b_loaded },
	{ "B starts the guest", can_b_start, b_start },
	{ "a page comes", sim_can_page_come, sim_page_comes },
	{ "B complete", can_b_complete, b_complete },
	{ "B link lost", can_b_link_lost, b_link_lost },
	{ "B VMM lost", can_b_vm_lost, b_vm_lost },
	{ "B destroyed", can_b_destroyed, b_destroyed },
	{ "B restarts", can_b_restart, sim_target_restart },
	{ "link up", can_link_up, link_up },
};

void sim_check(struct sim_world *w)
{
	if (w->vm_a == VM_RUNS && w->vm_b == VM_RUNS)
		sim_break(w, "1: both run");
	if (w->vm_b == VM_RUNS && !w->operator_decided &&
	    (w->visible != REC_COMMIT || w->durable != REC_COMMIT))
		sim_break(w, "2: the target runs and the record does not name it");
	if (w->vm_b == VM_RUNS && w->fence != 2)
		sim_break(w, "2: the target runs without the fence");
	if ((w->visible == REC_COMMIT || w->durable == REC_COMMIT) && !w->ever_whole)
		sim_break(w, "3: COMMIT without a whole image at the target");
	w->ever_ready |= w->b_known && w->b.state == GW_TARGET_READY;
	if (w->commit_acted && w->abort_acted)
		sim_break(w, "4: both decisions were acted on");
	sim_check_pages(w);
}

static bool run_one(struct sim_world *w, const struct step *table, size_t n)
{
	const struct step *can[GW_ARRAY_SIZE(steps)], *chosen;
	unsigned found = 0;

	for (size_t i = 0; i < n; i++)
		if (table[i].can(w))
			can[found++] = &table[i];
	if (!found)
		return false;
	chosen = can[sim_below(&w->rng, found)];
	w->steps++;
	if (w->trace)
		printf("%4u %s\n", w->steps, chosen->name);
	chosen->run(w);
	sim_check(w);
	return true;
}

bool sim_step(struct sim_world *w)
{
	return run_one(w, steps, GW_ARRAY_SIZE(steps));
}

/* Timers: what the drivers repeat, and how long they wait for something that never comes. */
static bool can_a_repeat_commit(const struct sim_world *w)
{
	return A_FREE(w) && w->a_known && w->a.state == GW_SOURCE_COMMITTED;
}

static bool can_a_repeat_ask(const struct sim_world *w)
{
	return A_FREE(w) && w->a_known && w->a.state == GW_SOURCE_SENT && w->a.lost;
}

static void a_fails(struct sim_world *w)
{
	sim_source_event(w, GW_SOURCE_EV_FAILED);
}

static bool can_a_serve_again(const struct sim_world *w)
{
	return A_FREE(w) && w->a_known && w->a.state == GW_SOURCE_SERVING;
}

/* The demand channel is made anew, in case that what was said over it was lost. */
static void a_serve_again(struct sim_world *w)
{
	w->demand = false;
	sim_source_event(w, GW_SOURCE_EV_FAILED);
}

static bool can_a_patience(const struct sim_world *w)
{
	return A_FREE(w) && w->a_known && gw_source_can_abort(&w->a);
}

static bool can_a_retry(const struct sim_world *w)
{
	return A_FREE(w) && w->a_known && w->a.state == GW_SOURCE_UNKNOWN;
}

static void a_retry(struct sim_world *w)
{
	sim_source_event(w, GW_SOURCE_EV_RETRY);
}

static bool can_b_timer(const struct sim_world *w)
{
	return B_FREE(w) && w->b_known;
}

static const struct step timers[] = {
	{ "A repeats COMMIT", can_a_repeat_commit, a_fails },
	{ "A repeats ASK", can_a_repeat_ask, a_fails },
	{ "A serves again", can_a_serve_again, a_serve_again },
	{ "A loses patience", can_a_patience, a_fails },
	{ "A tries to decide again", can_a_retry, a_retry },
	{ "B asks, or takes the link for lost", can_b_timer, b_link_lost },
};

bool sim_timer(struct sim_world *w)
{
	return run_one(w, timers, GW_ARRAY_SIZE(timers));
}

/* Everything is over and tidy: one runs, the other side has nothing left. */
static bool settled(const struct sim_world *w)
{
	bool a_done = !w->a_known || w->a.state == GW_SOURCE_ABORTED || w->a.state == GW_SOURCE_DONE;
	bool b_done = !w->b_known || w->b.state == GW_TARGET_GONE ||
		      (w->b.state == GW_TARGET_RUNNING && !w->b.owes);

	if (!w->a_up || w->a_todo || w->a_writing != REC_NONE)
		a_done = w->a_gone;
	if (!w->b_up || w->b_todo || w->b_creating || w->b_destroying)
		b_done = false;
	return a_done && b_done;
}

/* Without the source, for good: a whole copy runs, another one goes. Without the source's image a guest
 * that waits for a page of it is ended. */
static void operator_decides(struct sim_world *w)
{
	if (!B_FREE(w) || !w->b_known)
		return;
	if ((w->b.state == GW_TARGET_RUNNING || w->b.state == GW_TARGET_COMMITTED) && sim_lacks_pages(w) &&
	    !w->image_a)
		sim_kill_vm_b(w);
	if (!w->a_gone)
		return;
	if (w->b.state == GW_TARGET_PART || (w->b.state == GW_TARGET_READY && w->b.owes))
		sim_target_event(w, GW_TARGET_EV_ABORT);
	if (w->b.state != GW_TARGET_READY)
		return;
	w->operator_decided = true;
	sim_target_event(w, GW_TARGET_EV_COMMIT);
}

/* The target's VMM died with the decision on its side: the guest has crashed, the source never resumes. */
static bool died_at_owner(const struct sim_world *w)
{
	return w->b_died && w->durable == REC_COMMIT;
}

/* Invariant 9 and the promises about losses. */
static void check_end(struct sim_world *w)
{
	bool runs_a = w->vm_a == VM_RUNS, runs_b = w->vm_b == VM_RUNS;
	bool lost = w->a_died_fatally || died_at_owner(w) || (w->a_died && w->b_died);

	if (!runs_a && !runs_b && !lost)
		sim_break(w, "9: nothing runs in the end");
	if (runs_a && w->vm_b != VM_NONE && w->vm_b != VM_DEAD)
		sim_break(w, "the target was not cleaned up");
	if (runs_b && !w->a_gone && w->vm_a != VM_NONE && w->vm_a != VM_DEAD)
		sim_break(w, "the source was not cleaned up");
	if (runs_b && w->absent)
		sim_break(w, "9: the target runs in the end and lacks pages");
	if (w->cancel_accepted && runs_b && !w->operator_decided && !w->a_died)
		sim_break(w, "a cancel was accepted and the guest moved");
}

void sim_finish(struct sim_world *w)
{
	w->store_fails = w->store_fails_once = w->b_store_fails_once = false;
	for (unsigned i = 0; i < SETTLE_STEPS_MAX && !w->broken[0]; i++) {
		if (sim_step(w))
			continue;
		if (settled(w))
			break;
		operator_decides(w);
		if (!w->b_todo)
			sim_timer(w);
	}
	if (!w->broken[0] && !settled(w) && !died_at_owner(w))
		sim_break(w, "never settles");
	if (!w->broken[0])
		check_end(w);
}
