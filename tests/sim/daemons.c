/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The two simulated daemons: they carry out what the machines order, as the real drivers must. */
#include "world.h"

#include <string.h>

static unsigned lowest(unsigned set)
{
	return set & -set;
}

void sim_source_event(struct sim_world *w, enum gw_source_event ev)
{
	unsigned actions;

	if (w->a_todo)
		sim_break(w, "driver error: event before the actions of the last one were done");
	actions = gw_source_step(&w->a, ev);
	if (w->trace)
		printf("  A %-16s -> %-9s actions %#x\n", gw_source_event_name(ev),
		       gw_source_state_name(w->a.state), actions);
	w->a_todo = actions;
	if (actions & GW_SOURCE_DO_RECORD_COMMIT)
		sim_check_commit(w);
}

void sim_target_event(struct sim_world *w, enum gw_target_event ev)
{
	unsigned actions;

	if (w->b_todo)
		sim_break(w, "driver error: event before the actions of the last one were done");
	actions = gw_target_step(&w->b, ev);
	if (w->trace)
		printf("  B %-16s -> %-9s actions %#x\n", gw_target_event_name(ev),
		       gw_target_state_name(w->b.state), actions);
	w->b_todo = actions;
}

static void source_write(struct sim_world *w, enum sim_record r)
{
	if (w->a_writing != REC_NONE)
		sim_break(w, "two record writes at once");
	w->a_writing = r;
	/* A daemon that dies from here on may leave any mixture behind: see sim_source_written. */
}

void sim_source_written(struct sim_world *w)
{
	enum sim_record r = w->a_writing;
	bool fails = w->store_fails || w->store_fails_once;

	w->a_writing = REC_NONE;
	w->store_fails_once = false;
	if (!fails) {
		w->visible = w->durable = r;
		sim_source_event(w, GW_SOURCE_EV_RECORDED);
		return;
	}
	/* Failed: nothing, the page cache alone, or all of it took effect. */
	switch (sim_below(&w->rng, 3)) {
	case 2:
		w->durable = r;
		/* fall through */
	case 1:
		w->visible = r;
		break;
	}
	sim_source_event(w, GW_SOURCE_EV_RECORD_FAILED);
}

static void source_cancel_save(struct sim_world *w)
{
	w->a_copying = w->demand = false;
	if (w->a_stop_stage == 1 || w->a_stop_stage == 2 || w->stream == STREAM_OPEN) {
		w->stream = STREAM_BROKEN;
		w->b_link_lost = true;
	}
	w->a_stop_stage = 0;
}

static void source_destroy(struct sim_world *w)
{
	if (w->durable != REC_COMMIT || w->visible != REC_COMMIT)
		sim_break(w, "5: source image destroyed without a durable COMMIT");
	if (w->vm_a == VM_RUNS)
		sim_break(w, "5: a running source destroyed");
	w->vm_a = VM_NONE;
	sim_destroy_image(w);
}

void sim_source_work(struct sim_world *w)
{
	unsigned bit = lowest(w->a_todo);

	w->a_todo &= ~bit;
	switch ((enum gw_source_action)bit) {
	case GW_SOURCE_DO_RECORD_BEGIN:
		source_write(w, REC_BEGIN);
		break;
	case GW_SOURCE_DO_SEND_PREPARE:
		sim_send(w, &w->to_b, MSG_PREPARE);
		break;
	case GW_SOURCE_DO_COPY:
		w->stream = w->link_up ? STREAM_OPEN : STREAM_BROKEN;
		w->a_copying = w->vm_a == VM_RUNS;
		break;
	case GW_SOURCE_DO_STOP_AND_SEND:
		w->a_stop_stage = 1;
		break;
	case GW_SOURCE_DO_RECORD_COMMIT:
		source_write(w, REC_COMMIT);
		break;
	case GW_SOURCE_DO_SEND_COMMIT:
		w->commit_acted = true;
		sim_source_commits(w);
		sim_send(w, &w->to_b, MSG_COMMIT);
		break;
	case GW_SOURCE_DO_CANCEL_SAVE:
		source_cancel_save(w);
		break;
	case GW_SOURCE_DO_RECORD_ABORT:
		source_write(w, REC_ABORT);
		break;
	case GW_SOURCE_DO_RESUME:
		w->a_resuming = true;
		w->abort_acted = true;
		break;
	case GW_SOURCE_DO_SEND_ABORT:
		w->abort_acted = true;
		sim_send(w, &w->to_b, MSG_ABORT);
		break;
	case GW_SOURCE_DO_DESTROY:
		source_destroy(w);
		break;
	case GW_SOURCE_DO_ASK:
		sim_send(w, &w->to_b, MSG_ASK);
		break;
	case GW_SOURCE_DO_SERVE:
		sim_source_serves(w);
		break;
	case GW_SOURCE_DO_ALARM:
		break;
	}
}

void sim_source_message(struct sim_world *w, enum sim_message m)
{
	static const int events[] = {
		[MSG_PREPARED] = GW_SOURCE_EV_PREPARED,
		[MSG_READY] = GW_SOURCE_EV_READY,
		[MSG_RUNNING] = GW_SOURCE_EV_RUNNING,
		[MSG_FAILED] = GW_SOURCE_EV_TARGET_LOST,
		[MSG_ASK_WHOLE] = GW_SOURCE_EV_READY,
		[MSG_ASK_PART] = GW_SOURCE_EV_TARGET_LOST,
		[MSG_READY_OWING] = GW_SOURCE_EV_READY_OWING,
		[MSG_RUNNING_OWED] = GW_SOURCE_EV_RUNNING_OWED,
		[MSG_COMPLETE] = GW_SOURCE_EV_COMPLETE,
		[MSG_ASK_OWING] = GW_SOURCE_EV_READY_OWING,
	};
	enum gw_answer answer;

	if (w->a_known)
		sim_source_event(w, events[m]);
	if (m != MSG_ASK_WHOLE && m != MSG_ASK_PART && m != MSG_ASK_OWING)
		return;
	answer = gw_source_answer(w->a_known ? &w->a : NULL);
	if (answer == GW_ANSWER_COMMIT) {
		w->commit_acted = true;
		sim_send(w, &w->to_b, MSG_COMMIT);
	} else if (answer == GW_ANSWER_ABORT) {
		w->abort_acted = true;
		sim_send(w, &w->to_b, MSG_ABORT);
	}
}

void sim_source_restart(struct sim_world *w)
{
	static const int undecided[] = {
		[VM_PAUSED] = GW_SOURCE_EV_RESTARTED_BEGIN,
		[VM_RUNS] = GW_SOURCE_EV_RESTARTED_BEGIN,
		[VM_DEAD] = GW_SOURCE_EV_RESTARTED_LOST,
	};

	w->a_up = true;
	w->a = (struct gw_source_machine){ 0 };
	w->a_known = true;
	switch (w->visible) {
	case REC_NONE:
		w->a_known = false;
		break;
	case REC_BEGIN:
		/* Without a VMM the image counts as lost, although it may be there. */
		w->a_died_fatally |= w->vm_a == VM_DEAD && sim_lacks_pages(w);
		sim_source_event(w, undecided[w->vm_a]);
		break;
	case REC_COMMIT:
		sim_source_event(w, GW_SOURCE_EV_RESTARTED_COMMIT);
		break;
	case REC_ABORT:
		if (w->vm_a == VM_RUNS)
			w->a_known = false;
		else
			sim_source_event(w, GW_SOURCE_EV_RESTARTED_ABORT);
		break;
	}
}

static void target_destroy(struct sim_world *w)
{
	if (w->vm_b == VM_RUNS)
		sim_break(w, "5: a running target destroyed");
	/* An operator may discard what can never be whole again. */
	if (w->vm_b == VM_PAUSED && w->commit_acted && !(w->a_gone && w->absent))
		sim_break(w, "5: a whole target destroyed after COMMIT");
	w->b_creating = w->b_loading = w->demand = false;
	w->b_destroying = true;
	w->vm_b = VM_NONE;
}

static void target_run(struct sim_world *w)
{
	if (w->vm_b == VM_PAUSED || w->vm_b == VM_RUNS)
		w->b_starting = true;
	else
		w->b_vm_lost = true;
}

void sim_target_work(struct sim_world *w)
{
	unsigned bit = lowest(w->b_todo);
	bool owes = w->b.owes && w->absent; /* the page states know first */

	w->b_todo &= ~bit;
	switch ((enum gw_target_action)bit) {
	case GW_TARGET_DO_CREATE:
		w->b_creating = true;
		break;
	case GW_TARGET_DO_SEND_PREPARED:
		sim_send(w, &w->to_a, MSG_PREPARED);
		break;
	case GW_TARGET_DO_LOAD:
		w->b_loading = true;
		break;
	case GW_TARGET_DO_SEND_READY:
		sim_send(w, &w->to_a, owes && w->bug != BUG_READY_FOR_OWING ? MSG_READY_OWING : MSG_READY);
		break;
	case GW_TARGET_DO_ASK:
		sim_send(w, &w->to_a, owes ? MSG_ASK_OWING : w->b.whole || w->b.owes ? MSG_ASK_WHOLE : MSG_ASK_PART);
		break;
	case GW_TARGET_DO_FENCE_AND_RUN:
		target_run(w);
		break;
	case GW_TARGET_DO_RECORD_OWNER:
		if (w->b_store_fails_once)
			w->b_todo &= ~(GW_TARGET_DO_SEND_RUNNING | GW_TARGET_DO_SEND_COMPLETE);
		else
			w->b_recorded = true;
		w->b_store_fails_once = false;
		break;
	case GW_TARGET_DO_SEND_RUNNING:
		if (!w->b_recorded)
			sim_break(w, "driver error: RUNNING without a record");
		sim_send(w, &w->to_a, owes && w->bug != BUG_RUNNING_FOR_OWED ? MSG_RUNNING_OWED : MSG_RUNNING);
		break;
	case GW_TARGET_DO_DESTROY:
		target_destroy(w);
		break;
	case GW_TARGET_DO_SEND_FAILED:
		sim_send(w, &w->to_a, MSG_FAILED);
		break;
	case GW_TARGET_DO_SEND_COMPLETE:
		if (!w->b_recorded)
			sim_break(w, "driver error: COMPLETE without a record");
		sim_send(w, &w->to_a, MSG_COMPLETE);
		break;
	case GW_TARGET_DO_ALARM:
		break;
	}
}

void sim_target_message(struct sim_world *w, enum sim_message m)
{
	static const int events[] = {
		[MSG_PREPARE] = GW_TARGET_EV_PREPARE,
		[MSG_COMMIT] = GW_TARGET_EV_COMMIT,
		[MSG_ABORT] = GW_TARGET_EV_ABORT,
		[MSG_ASK] = GW_TARGET_EV_ASKED,
		[MSG_DEMAND] = GW_TARGET_EV_ASKED,
	};

	if (!w->b_known)
		w->b = (struct gw_target_machine){ 0 };
	if (m == MSG_DEMAND && w->b.owes)
		w->demand = true;
	/* Its own record says that it was the owner; the VM has gone since. */
	if (!w->b_known && w->b_recorded && m != MSG_PREPARE && m != MSG_ABORT)
		sim_target_event(w, GW_TARGET_EV_RESTARTED_RUNNING);
	else
		sim_target_event(w, events[m]);
	w->b_known = w->b.state != GW_TARGET_IDLE;
}

void sim_target_restart(struct sim_world *w)
{
	static const int events[][2] = {
		[VM_PART] = { GW_TARGET_EV_RESTARTED_PART, GW_TARGET_EV_RESTARTED_PART },
		[VM_PAUSED] = { GW_TARGET_EV_RESTARTED, GW_TARGET_EV_RESTARTED_OWING },
		[VM_RUNS] = { GW_TARGET_EV_RESTARTED_RUNNING, GW_TARGET_EV_RESTARTED_RUNNING_OWING },
	};

	w->b_up = true;
	w->b = (struct gw_target_machine){ 0 };
	w->b_known = w->vm_b == VM_PART || w->vm_b == VM_PAUSED || w->vm_b == VM_RUNS;
	if (w->b_known)
		sim_target_event(w, events[w->vm_b][w->absent && w->bug != BUG_FORGETS_OWED]);
}
