/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Faults of the simulated hosts. */
#include "world.h"

#include <string.h>

#define A_FREE(w) ((w)->a_up && !(w)->a_todo)
#define B_FREE(w) ((w)->b_up && !(w)->b_todo)

/* An ordinary crash: it ran, or the target was not ready to take over, or it was being taken back. */
static bool crash_of_a_is_fatal(const struct sim_world *w)
{
	return w->vm_a == VM_RUNS || !w->ever_ready || w->vm_b != VM_PAUSED || w->abort_acted ||
	       w->a.state == GW_SOURCE_ABORT || (w->a.state == GW_SOURCE_UNKNOWN && !w->a.ready) ||
	       w->visible == REC_ABORT || w->durable == REC_ABORT;
}

static void kill_vm_a(struct sim_world *w)
{
	w->a_died = true;
	w->a_died_fatally |= crash_of_a_is_fatal(w);
	w->vm_a = VM_DEAD;
	w->a_vm_lost = true;
	w->a_copying = false;
	if (w->a_stop_stage < 3)
		w->a_stop_stage = 0;
	if (w->stream == STREAM_OPEN) {
		w->stream = STREAM_BROKEN;
		w->b_link_lost = true;
	}
}

void sim_kill_vm_b(struct sim_world *w)
{
	w->b_died = true;
	w->vm_b = VM_DEAD;
	w->b_loading = w->b_starting = false;
	w->b_vm_lost = true;
}

/* What a write in flight leaves behind when its writer dies. */
static void kill_daemon_a(struct sim_world *w)
{
	if (w->a_writing != REC_NONE) {
		unsigned outcome = sim_below(&w->rng, 3);

		if (outcome >= 1)
			w->visible = w->a_writing;
		if (outcome == 2)
			w->durable = w->a_writing;
	}
	w->a_up = w->a_resuming = w->a_copying = w->a_vm_lost = false;
	w->a_writing = REC_NONE;
	w->a_todo = w->a_stop_stage = 0;
	sim_cut(w);
	w->a_link_lost = false;
}

static void kill_daemon_b(struct sim_world *w)
{
	/* A VMM that is being started or destroyed is found as it is when the daemon is back. */
	if (w->b_creating)
		w->vm_b = sim_one_in(&w->rng, 2) ? VM_PART : VM_NONE;
	w->b_up = w->b_creating = w->b_starting = w->b_destroying = w->b_vm_lost = w->b_complete = false;
	w->b_todo = 0;
	sim_cut(w);
	w->b_link_lost = false;
}

static bool fault_message(struct sim_world *w, bool twice)
{
	struct sim_queue *q = w->to_a.n && (!w->to_b.n || sim_one_in(&w->rng, 2)) ? &w->to_a : &w->to_b;

	if (!q->n || q->n == SIM_QUEUE_MAX)
		return false;
	if (twice) {
		memmove(q->m + 1, q->m, q->n * sizeof(q->m[0]));
		q->n++;
	} else {
		sim_take(q);
	}
	return true;
}

static bool fault_vm(struct sim_world *w, enum sim_fault f)
{
	bool alive_a = w->vm_a == VM_RUNS || w->vm_a == VM_PAUSED;

	if (f == FAULT_A_VMM) {
		if (alive_a)
			kill_vm_a(w);
		return alive_a;
	}
	if (f == FAULT_A_IMAGE) {
		if (!w->image_a)
			return false;
		if (alive_a)
			kill_vm_a(w);
		sim_lose_image(w);
		w->a_vm_lost = w->a_up;
		return true;
	}
	if (w->vm_b == VM_NONE || w->vm_b == VM_DEAD)
		return false;
	sim_kill_vm_b(w);
	return true;
}

static bool fault_host(struct sim_world *w, enum sim_fault f)
{
	if (f == FAULT_B_HOST) {
		fault_vm(w, FAULT_B_VMM);
		kill_daemon_b(w);
		return true;
	}
	kill_daemon_a(w);
	fault_vm(w, FAULT_A_IMAGE);
	w->visible = w->durable;
	w->a_gone |= f == FAULT_A_HOST_GONE;
	return true;
}

static bool fault_source_event(struct sim_world *w, enum sim_fault f)
{
	if (!A_FREE(w) || !w->a_known || w->a_vm_lost || !gw_source_can_abort(&w->a))
		return false;
	w->cancel_accepted |= f == FAULT_CANCEL;
	sim_source_event(w, GW_SOURCE_EV_FAILED);
	return true;
}

bool sim_inject(struct sim_world *w, enum sim_fault f)
{
	bool done = true;

	switch (f) {
	case FAULT_A_DAEMON:
		done = w->a_up;
		if (done)
			kill_daemon_a(w);
		break;
	case FAULT_B_DAEMON:
		done = w->b_up;
		if (done)
			kill_daemon_b(w);
		break;
	case FAULT_A_VMM:
	case FAULT_A_IMAGE:
	case FAULT_B_VMM:
		done = fault_vm(w, f);
		break;
	case FAULT_A_HOST:
	case FAULT_B_HOST:
	case FAULT_A_HOST_GONE:
		done = fault_host(w, f);
		break;
	case FAULT_LINK:
		w->link_up = false;
		sim_cut(w);
		break;
	case FAULT_DROP:
	case FAULT_DUPLICATE:
		done = fault_message(w, f == FAULT_DUPLICATE);
		break;
	case FAULT_A_STORE:
		w->store_fails = true;
		break;
	case FAULT_A_STORE_ONCE:
		w->store_fails_once = true;
		break;
	case FAULT_B_STORE_ONCE:
		w->b_store_fails_once = true;
		break;
	case FAULT_CANCEL:
	case FAULT_TIMEOUT:
		done = fault_source_event(w, f);
		break;
	case FAULT_B_ERROR:
		done = B_FREE(w) && w->b_known && w->b.state < GW_TARGET_READY;
		if (done)
			sim_target_event(w, GW_TARGET_EV_FAILED);
		break;
	case FAULT_COUNT:
	default:
		return false;
	}
	w->used[f] += done;
	if (done && w->trace)
		printf("     FAULT %s\n", sim_fault_name(f));
	sim_check(w);
	return done;
}

const char *sim_fault_name(enum sim_fault f)
{
	static const char *const names[FAULT_COUNT] = {
		[FAULT_A_DAEMON] = "source daemon killed",
		[FAULT_B_DAEMON] = "target daemon killed",
		[FAULT_A_VMM] = "source VMM killed",
		[FAULT_A_IMAGE] = "source VMM and its RAM lost",
		[FAULT_B_VMM] = "target VMM killed",
		[FAULT_A_HOST] = "source host power cut",
		[FAULT_B_HOST] = "target host power cut",
		[FAULT_A_HOST_GONE] = "source host gone for good",
		[FAULT_LINK] = "link cut",
		[FAULT_DROP] = "message lost",
		[FAULT_DUPLICATE] = "message twice",
		[FAULT_A_STORE] = "source store fails",
		[FAULT_A_STORE_ONCE] = "source store fails once",
		[FAULT_B_STORE_ONCE] = "target store fails once",
		[FAULT_CANCEL] = "cancel",
		[FAULT_TIMEOUT] = "time-out",
		[FAULT_B_ERROR] = "target error",
	};

	return f < FAULT_COUNT ? names[f] : "none";
}
