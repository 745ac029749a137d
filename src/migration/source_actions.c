/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the source does for each action that its handover machine orders. All of it runs in gw_out_run()'s thread. */
#include <endian.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "migration/source_internal.h"
#include "pipeline/meter.h"
#include "transport/peer.h"

#define RETRY_NS (500 * GW_NS_PER_MS)
#define ATTEMPT_NS (2 * GW_NS_PER_S)
#define COMPLAIN_NS (60 * GW_NS_PER_S)
#define COMPLAIN_ANEW_NS (2 * GW_NS_PER_S) /* of another reason */
#define FIRST_MOMENTS_NS (30 * GW_NS_PER_MS) /* on one machine freeing memory takes CPUs from the guest that has just begun */

/* When a connection broke because the target gave up, its own words are the better reason. */
static void prefer_target_words(struct gw_out *o)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = 300 * GW_NS_PER_MS };
	gw_autofree char *body = NULL;
	struct gw_wire_frame f;

	if (o->control_fd >= 0 && gw_wait_fd(o->control_fd, POLLIN, &w) == 0 &&
	    gw_peer_recv(o->control_fd, &f, &body, &w, NULL) == 0 && f.type == GW_WIRE_FAILED)
		gw_peer_failure(&f, body, &o->failure);
}

/* What is tried again and again is told once a minute, or when it fails for another reason. */
static bool worth_saying(struct gw_out *o, const struct gw_error *why)
{
	gw_time_ns since = gw_now_ns() - o->complained_at;
	bool anew = strcmp(o->complaint.text, gw_error_text(why)) != 0;

	if (o->complained_at && since < (anew ? COMPLAIN_ANEW_NS : COMPLAIN_NS))
		return false;
	o->complained_at = gw_now_ns();
	gw_error_set(&o->complaint, why->code, "%s", gw_error_text(why));
	return true;
}

static bool vm_died(struct gw_out *o)
{
	enum gw_vm_status status;

	return o->config.vm && o->config.vm->ops->status(o->config.vm, &status, NULL) == 0 && status == GW_VM_DEAD;
}

/* What a failed action means: something posted may be the true reason. */
static enum gw_source_event failed(struct gw_out *o, int code)
{
	enum gw_source_event ev = code == -ECANCELED ? gw_out_take_posted(o) : GW_OUT_NO_EVENT;

	if (code == -ECONNRESET || code == -EPIPE)
		prefer_target_words(o);
	/* A VMM that died may have caused any other failure, and must be named first (see handover.h). Where a cancel has only
	 * copying to end nothing hangs on that, and one that does not answer need not be waited for. */
	if (ev == GW_OUT_NO_EVENT && (code != -ECANCELED || o->save_begun) && vm_died(o))
		ev = GW_SOURCE_EV_VM_LOST;
	if (ev == GW_SOURCE_EV_VM_LOST)
		gw_error_set(&o->failure, ESRCH, "the VM's process ended during the migration");
	return ev == GW_OUT_NO_EVENT ? GW_SOURCE_EV_FAILED : ev;
}

/* Records. */

static enum gw_source_event write_record(struct gw_out *o, enum gw_record_state state, uint64_t epoch)
{
	struct gw_record rec = { .state = state, .epoch = epoch, .migration = o->config.id };
	struct gw_error err = GW_ERROR_INIT;

	snprintf(rec.peer_name, sizeof(rec.peer_name), "%s", o->config.target_name);
	snprintf(rec.peer_address, sizeof(rec.peer_address), "%s", o->config.target_address);
	if (gw_journal_write(o->config.journal, &rec, &err) == 0)
		return GW_SOURCE_EV_RECORDED;
	gw_log_error(o->config.vm_name, "%s", err.text);
	if (!o->failure.code)
		o->failure = err;
	return GW_SOURCE_EV_RECORD_FAILED;
}

static enum gw_source_event do_record_begin(struct gw_out *o)
{
	enum gw_source_event ev = write_record(o, GW_RECORD_MIGRATING, o->config.epoch);

	return gw_fault("source-begin-recorded") < 0 ? GW_SOURCE_EV_RECORD_FAILED : ev;
}

static enum gw_source_event do_record_commit(struct gw_out *o)
{
	gw_time_ns t0 = gw_now_ns();
	enum gw_source_event ev;
	eventfd_t ignored;

	{ /* From here on nobody can cancel; one that was overtaken (see keep_cancel) must not wake the waits after it. */
		GW_LOCKED(&o->lock);
		o->cancelled = false;
		if (o->n_events == 0)
			eventfd_read(o->cancel_fd, &ignored);
	}
	ev = write_record(o, GW_RECORD_COMMITTED, o->config.epoch + 1);
	gw_out_phase(o, downtime, "commit record", gw_now_ns() - t0);
	(void)gw_fault("source-commit-recorded");
	return ev;
}

static enum gw_source_event do_record_abort(struct gw_out *o)
{
	return write_record(o, GW_RECORD_ABORTED, o->config.epoch + 1);
}

/* The way there. */

static enum gw_source_event do_send_prepare(struct gw_out *o)
{
	int r = gw_out_prepare(o, &o->failure);

	return r < 0 ? failed(o, r) : GW_SOURCE_EV_PREPARED;
}

static enum gw_source_event do_copy(struct gw_out *o)
{
	int r = gw_out_copy(o, &o->failure);

	return r < 0 ? failed(o, r) : GW_SOURCE_EV_CONVERGED;
}

static enum gw_source_event do_stop_and_send(struct gw_out *o)
{
	int r;

	o->save_begun = true;
	r = gw_out_stop_and_send(o, &o->failure);
	return r < 0 ? failed(o, r) : GW_SOURCE_EV_ALL_SENT;
}

/* In SENT with nothing to do: the target's word. */
static enum gw_source_event await_ready(struct gw_out *o)
{
	bool owing = false;
	int r = gw_out_await_ready(o, &owing, &o->failure);

	if (r == -EREMOTE)
		return GW_SOURCE_EV_TARGET_LOST;
	if (r < 0)
		return failed(o, r);
	return owing ? GW_SOURCE_EV_READY_OWING : GW_SOURCE_EV_READY;
}

/* COMMIT over the control connection first, over a new one when that is lost. */
static int commit_over_control(struct gw_out *o, enum gw_source_event *ret, struct gw_error *err)
{
	struct gw_wire_commit commit = { .epoch = htole64(o->config.epoch + 1) };
	struct gw_wire_running running;
	struct gw_wire_frame f;
	gw_autofree char *body = NULL;
	gw_time_ns t0 = gw_now_ns(), record_ns, resume_ns;
	int r = gw_peer_send(o->control_fd, GW_WIRE_COMMIT, &commit, sizeof(commit), &o->wait_decided, err);

	if (o->push) /* not before: loading and deciding need the CPUs */
		gw_push_background(o->push);
	if (r == 0)
		r = gw_peer_recv(o->control_fd, &f, &body, &o->wait_decided, err);
	if (r == 0 && f.type == GW_WIRE_COMPLETE) { /* on a new link: it had said RUNNING on the old one */
		*ret = GW_SOURCE_EV_COMPLETE;
		return 0;
	}
	if (r == 0 && f.type != GW_WIRE_RUNNING)
		r = f.type == GW_WIRE_FAILED ? gw_peer_failure(&f, body, err) :
		    gw_error_set(err, EPROTO, "the other host sent %s where RUNNING was due", gw_wire_frame_name(f.type));
	if (r < 0)
		return r;
	memcpy(&running, body, sizeof(running));
	record_ns = (gw_time_ns)le64toh(running.record_ns);
	resume_ns = (gw_time_ns)le64toh(running.resume_ns);
	*ret = running.owed_pages ? GW_SOURCE_EV_RUNNING_OWED : GW_SOURCE_EV_RUNNING;
	if (o->target_ran) /* said again, on a new link */
		return 0;
	gw_out_phase(o, downtime, "resume at the target", resume_ns);
	gw_out_phase(o, downtime, "target's word that it runs", gw_now_ns() - t0 - record_ns - resume_ns);
	o->target_ran = gw_now_ns();
	GW_LOCKED(&o->lock);
	o->report.downtime_ns = o->target_ran - record_ns - o->stop_began;
	return 0;
}

static void pause_before_retry(struct gw_out *o)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = RETRY_NS };

	(void)gw_wait_fd(o->cancel_fd, POLLIN, &w);
}

static enum gw_source_event do_send_commit(struct gw_out *o)
{
	struct gw_error err = GW_ERROR_INIT;
	enum gw_source_event ev;
	int r;

	o->given_away = true;
	/* A target that lacks pages may not even be able to say that it runs before it gets them; a restarted daemon cannot
	 * know whether it does. */
	if (o->control_fd < 0 && (o->machine.owes || o->first == GW_SOURCE_EV_RESTARTED_COMMIT))
		(void)gw_out_recover(o, &err);
	if (o->control_fd >= 0) {
		r = commit_over_control(o, &ev, &err);
		if (r == 0)
			return ev;
		gw_out_close_links(o);
		close(gw_steal_fd(&o->control_fd));
	} else {
		r = gw_out_tell(o, GW_WIRE_ANSWER_COMMIT, &ev, &err);
		if (r == 0)
			return ev;
		pause_before_retry(o);
	}
	if (worth_saying(o, &err))
		gw_log_warning(o->config.vm_name, "committed to %s, which has not confirmed yet: %s",
		               o->config.target_name, gw_error_text(&err));
	ev = gw_out_take_posted(o);
	return ev == GW_OUT_NO_EVENT ? GW_SOURCE_EV_FAILED : ev;
}

static enum gw_source_event do_serve(struct gw_out *o)
{
	struct gw_error err = GW_ERROR_INIT;
	enum gw_source_event ev;
	int r;

	(void)gw_fault("source-serving");
	r = gw_out_serve(o, &ev, &err);
	if (r == 0)
		return ev;
	if (r == -ENODATA)
		return GW_SOURCE_EV_IMAGE_LOST;
	if (r == -ENOENT)
		return GW_SOURCE_EV_TARGET_LOST;
	if (worth_saying(o, &err))
		gw_log_warning(o->config.vm_name, "the guest runs on %s, and the link over which the rest of its memory follows is "
		               "lost: %s (it is made again; nothing is lost)", o->config.target_name, gw_error_text(&err));
	gw_out_set_step(o, "the link is lost; the guest at the target waits for memory");
	pause_before_retry(o);
	ev = gw_out_take_posted(o);
	return ev == GW_OUT_NO_EVENT ? GW_SOURCE_EV_FAILED : ev;
}

/* The VMM here is gone while the target may hold a whole image: ask until it answers. */
static enum gw_source_event do_ask(struct gw_out *o)
{
	struct gw_error err = GW_ERROR_INIT;
	enum gw_source_event ev;

	if (o->control_fd >= 0)
		close(gw_steal_fd(&o->control_fd));
	while (!gw_out_stopping(o)) {
		if (gw_out_tell(o, GW_WIRE_ANSWER_WAIT, &ev, &err) == 0)
			return ev;
		pause_before_retry(o);
		ev = gw_out_take_posted(o);
		if (ev != GW_OUT_NO_EVENT)
			return ev;
	}
	return GW_OUT_NO_EVENT;
}

/* The way back. */

/* After the VMM failed to do what the way back needs: false when the daemon stops. Then the next start goes on from the
 * journal. */
static bool try_again(struct gw_out *o, const char *what, const struct gw_error *err)
{
	o->abandoned = gw_out_stopping(o);
	if (o->abandoned)
		return false;
	if (worth_saying(o, err))
		gw_log_error(o->config.vm_name, "%s, trying again: %s", what, gw_error_text(err));
	gw_sleep_ns(RETRY_NS);
	return true;
}

static enum gw_source_event do_cancel_save(struct gw_out *o)
{
	struct gw_vm *vm = o->save_begun ? o->config.vm : NULL;
	int r = vm ? -EAGAIN : 0;

	gw_out_close_links(o); /* RAM stays mapped: with pages owed it is the half of an image */
	/* Resuming beside a save that goes on could leave the guest paused for ever: no way on before its end. */
	while (r < 0) {
		struct gw_error err = GW_ERROR_INIT;

		r = vm->ops->cancel_save(vm, gw_deadline_in(ATTEMPT_NS), &err);
		if (r < 0 && ((r == -ESRCH && vm_died(o)) || !try_again(o, "ending the device state transfer", &err)))
			break;
	}
	return GW_OUT_NO_EVENT;
}

static int resume_once(struct gw_out *o, struct gw_error *err)
{
	struct gw_vm *vm = o->config.vm;
	enum gw_vm_status status;
	int r = vm->ops->status(vm, &status, err);

	if (r < 0 || status == GW_VM_RUNNING || status == GW_VM_SHUTDOWN || status == GW_VM_DEAD)
		return r;
	return vm->ops->resume(vm, gw_deadline_in(ATTEMPT_NS), err);
}

/* As often as the VMM does not answer; a few times when it does and refuses. */
static enum gw_source_event do_resume(struct gw_out *o)
{
	struct gw_error err = GW_ERROR_INIT;
	int r = o->config.vm ? -EAGAIN : 0;

	for (unsigned refused = 0; r < 0 && refused < 5; refused += r != -ETIMEDOUT) {
		r = resume_once(o, &err);
		if (r == 0 || (r == -ESRCH && vm_died(o)))
			return GW_SOURCE_EV_RESUMED;
		if (!try_again(o, "resuming the guest", &err))
			return GW_OUT_NO_EVENT;
	}
	if (r < 0)
		gw_error_prefix(&o->failure, "the guest could NOT be resumed (%s); the migration failed", gw_error_text(&err));
	return GW_SOURCE_EV_RESUMED;
}

static enum gw_source_event do_send_abort(struct gw_out *o)
{
	const char *text = gw_error_text(&o->failure);

	if (o->control_fd >= 0) {
		struct gw_wait w = { .cancel_fd = -1, .idle_ns = 200 * GW_NS_PER_MS };

		(void)gw_peer_send(o->control_fd, GW_WIRE_ABORT, text, strnlen(text, GW_WIRE_TEXT_MAX), &w, NULL);
		close(gw_steal_fd(&o->control_fd));
	}
	return GW_OUT_NO_EVENT;
}

static enum gw_source_event do_destroy(struct gw_out *o)
{
	struct gw_error err = GW_ERROR_INIT;
	gw_time_ns t0 = gw_now_ns();

	gw_thread_background();
	(void)gw_fault("source-running-received");
	if (o->control_fd >= 0 && gw_meter_no_link(o->control_fd))
		gw_sleep_ns(FIRST_MOMENTS_NS);
	gw_out_close_pipeline(o);
	if (o->control_fd >= 0)
		close(gw_steal_fd(&o->control_fd));
	if (o->config.vm && o->config.vm->ops->destroy(o->config.vm, &err) < 0)
		gw_log_error(o->config.vm_name, "removing the VM: %s", gw_error_text(&err));
	gw_out_phase(o, cleanup, "free memory and processes", gw_now_ns() - t0);
	(void)gw_fault("source-destroyed");
	return GW_OUT_NO_EVENT;
}

static enum gw_source_event do_alarm(struct gw_out *o)
{
	struct gw_source_machine m;

	{
		GW_LOCKED(&o->lock);
		m = o->machine;
	}
	if (m.state == o->alarmed)
		return GW_OUT_NO_EVENT; /* said already */
	o->alarmed = m.state;
	gw_log_error(o->config.vm_name, "ALARM: migration to %s is in state %s and needs an operator: %s",
	             o->config.target_name, gw_source_state_name(m.state),
	             o->failure.code ? gw_error_text(&o->failure) : "whether the other host runs it is not known yet");
	return GW_OUT_NO_EVENT;
}

/* In the order in which several are carried out. `step`: what people are told meanwhile. */
static const struct {
	unsigned action;
	enum gw_source_event (*carry_out)(struct gw_out *o);
	const char *step;
} actions[] = {
	{ GW_SOURCE_DO_RECORD_BEGIN, do_record_begin, "recording the beginning" },
	{ GW_SOURCE_DO_SEND_PREPARE, do_send_prepare, "preparing the target" },
	{ GW_SOURCE_DO_COPY, do_copy, "copying memory" },
	{ GW_SOURCE_DO_STOP_AND_SEND, do_stop_and_send, "switching over" },
	{ GW_SOURCE_DO_RECORD_COMMIT, do_record_commit, "recording the decision" },
	{ GW_SOURCE_DO_SEND_COMMIT, do_send_commit, "the target starts the guest" },
	{ GW_SOURCE_DO_CANCEL_SAVE, do_cancel_save, "ending what was begun" },
	{ GW_SOURCE_DO_RECORD_ABORT, do_record_abort, "recording that the VM stays" },
	{ GW_SOURCE_DO_RESUME, do_resume, "resuming the guest here" },
	{ GW_SOURCE_DO_SEND_ABORT, do_send_abort, "telling the target" },
	{ GW_SOURCE_DO_DESTROY, do_destroy, "removing the VM here" },
	{ GW_SOURCE_DO_SERVE, do_serve, "the guest runs at the target; the rest of its memory follows" },
	{ GW_SOURCE_DO_ALARM, do_alarm, "waiting for an operator or a store that can be written" },
	{ GW_SOURCE_DO_ASK, do_ask, "asking the target whether it holds the whole VM" },
};

enum gw_source_event gw_out_carry_out(struct gw_out *o, unsigned todo)
{
	enum gw_source_event ev = GW_OUT_NO_EVENT, one;

	for (size_t i = 0; i < GW_ARRAY_SIZE(actions); i++) {
		if (!(todo & actions[i].action))
			continue;
		gw_out_set_step(o, actions[i].step);
		one = actions[i].carry_out(o);
		if (o->abandoned)
			return GW_OUT_NO_EVENT;
		if (one != GW_OUT_NO_EVENT)
			ev = one;
	}
	return ev;
}

/* No action led to an event: what the state waits for. */
enum gw_source_event gw_out_await(struct gw_out *o, enum gw_source_state state)
{
	enum gw_source_event ev = gw_out_take_posted(o);

	if (ev != GW_OUT_NO_EVENT)
		return ev;
	if (state == GW_SOURCE_SENT) {
		gw_out_set_step(o, "waiting for the target to load the devices");
		return await_ready(o);
	}
	pause_before_retry(o);
	return GW_SOURCE_EV_FAILED; /* in COMMITTED: tell once more */
}
