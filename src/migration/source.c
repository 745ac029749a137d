/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source's side of one migration: asks the handover machine what to do, does it, and reports what came of it.
 *
 * Only gw_out_run()'s thread feeds the machine. Other threads post events, or ask to cancel; both wake whatever the
 * thread is waiting for. Once COMMIT is being written a cancel is refused and wakes nothing.
 */
#include "migration/source.h"

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
#include "transport/peer.h"

#define NO_EVENT ((enum gw_source_event)-1)
#define RETRY_NS (500 * GW_NS_PER_MS)
#define COMPLAIN_NS (60 * GW_NS_PER_S)

void gw_out_set_step(struct gw_out *o, const char *step)
{
	{
		GW_LOCKED(&o->lock);
		o->step = step;
	}
	if (o->config.changed)
		o->config.changed(o->config.changed_arg);
}

void gw_out_add_phase(struct gw_out *o, size_t phases_offset, const char *name, gw_time_ns ns)
{
	GW_LOCKED(&o->lock);
	gw_phase_add((struct gw_phases *)((char *)&o->report + phases_offset), name, ns);
}

static bool stopping(struct gw_out *o)
{
	GW_LOCKED(&o->lock);
	return o->stop;
}

/* The oldest posted event, or NO_EVENT. The wake-up is taken back unless a cancel stands. */
static enum gw_source_event take_posted(struct gw_out *o)
{
	enum gw_source_event ev;
	eventfd_t ignored;

	GW_LOCKED(&o->lock);
	if (o->n_events == 0) {
		if (!o->cancelled && !o->stop)
			eventfd_read(o->cancel_fd, &ignored);
		return NO_EVENT;
	}
	ev = o->events[0];
	o->n_events--;
	memmove(o->events, o->events + 1, o->n_events * sizeof(o->events[0]));
	if (o->n_events == 0 && !o->cancelled && !o->stop)
		eventfd_read(o->cancel_fd, &ignored);
	return ev;
}

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

static bool vm_died(struct gw_out *o)
{
	enum gw_vm_status status;

	return o->config.vm && o->config.vm->ops->status(o->config.vm, &status, NULL) == 0 && status == GW_VM_DEAD;
}

/* What a failed action means: something posted may be the true reason. */
static enum gw_source_event failed(struct gw_out *o, int code)
{
	enum gw_source_event ev = code == -ECANCELED ? take_posted(o) : NO_EVENT;

	if (code == -ECONNRESET || code == -EPIPE)
		prefer_target_words(o);
	/* A VMM that died may have caused any other failure, and must be named first (see handover.h). */
	if (ev == NO_EVENT && vm_died(o))
		ev = GW_SOURCE_EV_VM_LOST;
	if (ev == GW_SOURCE_EV_VM_LOST)
		gw_error_set(&o->failure, ESRCH, "the VM's process ended during the migration");
	return ev == NO_EVENT ? GW_SOURCE_EV_FAILED : ev;
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

	{ /* From here on nobody can cancel; a cancel that came too late must not wake the waits after it. */
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
	int r;

	gw_out_set_step(o, "preparing the target");
	r = gw_out_prepare(o, &o->failure);
	return r < 0 ? failed(o, r) : GW_SOURCE_EV_PREPARED;
}

static enum gw_source_event do_copy(struct gw_out *o)
{
	int r;

	gw_out_set_step(o, "copying memory");
	r = gw_out_copy(o, &o->failure);
	return r < 0 ? failed(o, r) : GW_SOURCE_EV_CONVERGED;
}

static enum gw_source_event do_stop_and_send(struct gw_out *o)
{
	int r;

	gw_out_set_step(o, "switching over");
	r = gw_out_stop_and_send(o, &o->failure);
	return r < 0 ? failed(o, r) : GW_SOURCE_EV_ALL_SENT;
}

/* In SENT with nothing to do: the target's word. */
static enum gw_source_event await_ready(struct gw_out *o)
{
	int r = gw_out_await_ready(o, &o->failure);

	if (r == -EREMOTE)
		return GW_SOURCE_EV_TARGET_LOST;
	return r < 0 ? failed(o, r) : GW_SOURCE_EV_READY;
}

/* COMMIT over the control connection first, over a new one when that is lost. */
static int commit_over_control(struct gw_out *o, struct gw_error *err)
{
	struct gw_wire_commit commit = { .epoch = htole64(o->config.epoch + 1) };
	struct gw_wire_running running;
	struct gw_wire_frame f;
	gw_autofree char *body = NULL;
	gw_time_ns t0 = gw_now_ns(), record_ns, resume_ns;
	int r = gw_peer_send(o->control_fd, GW_WIRE_COMMIT, &commit, sizeof(commit), &o->wait_decided, err);

	if (r == 0)
		r = gw_peer_expect(o->control_fd, GW_WIRE_RUNNING, &f, &body, &o->wait_decided, err);
	if (r < 0)
		return r;
	memcpy(&running, body, sizeof(running));
	record_ns = (gw_time_ns)le64toh(running.record_ns);
	resume_ns = (gw_time_ns)le64toh(running.resume_ns);
	gw_out_phase(o, downtime, "resume at the target", resume_ns);
	gw_out_phase(o, downtime, "target's word that it runs", gw_now_ns() - t0 - record_ns - resume_ns);
	GW_LOCKED(&o->lock);
	o->report.downtime_ns = gw_now_ns() - record_ns - o->stop_began;
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

	gw_out_set_step(o, "committed; the target starts the guest");
	if (o->control_fd >= 0) {
		r = commit_over_control(o, &err);
		if (r == 0)
			return GW_SOURCE_EV_RUNNING;
		close(gw_steal_fd(&o->control_fd));
	} else {
		r = gw_out_tell(o, GW_WIRE_ANSWER_COMMIT, &ev, &err);
		if (r == 0)
			return ev;
		pause_before_retry(o);
	}
	if (gw_now_ns() >= o->next_complaint) {
		gw_log_warning(o->config.vm_name, "committed to %s, which has not confirmed yet: %s",
		               o->config.target_name, gw_error_text(&err));
		o->next_complaint = gw_deadline_in(COMPLAIN_NS);
	}
	ev = take_posted(o);
	return ev == NO_EVENT ? GW_SOURCE_EV_FAILED : ev;
}

/* The VMM here is gone while the target may hold a whole image: ask until it answers. */
static enum gw_source_event do_ask(struct gw_out *o)
{
	struct gw_error err = GW_ERROR_INIT;
	enum gw_source_event ev;

	gw_out_set_step(o, "asking the target whether it holds the whole VM");
	if (o->control_fd >= 0)
		close(gw_steal_fd(&o->control_fd));
	while (!stopping(o)) {
		if (gw_out_tell(o, GW_WIRE_ANSWER_WAIT, &ev, &err) == 0)
			return ev;
		pause_before_retry(o);
		ev = take_posted(o);
		if (ev != NO_EVENT)
			return ev;
	}
	return NO_EVENT;
}

/* The way back. */

static enum gw_source_event do_cancel_save(struct gw_out *o)
{
	struct gw_error err = GW_ERROR_INIT;

	gw_out_set_step(o, "undoing");
	gw_out_close_pipeline(o);
	/* Resuming beside a save that goes on could leave the guest paused for ever: no way on before its end. */
	while (o->config.vm && !stopping(o) &&
	       o->config.vm->ops->cancel_save(o->config.vm, gw_deadline_in(10 * GW_NS_PER_S), &err) < 0 && !vm_died(o)) {
		gw_log_error(o->config.vm_name, "ending the device state transfer: %s", gw_error_text(&err));
		gw_sleep_ns(RETRY_NS);
	}
	return NO_EVENT;
}

static enum gw_source_event do_resume(struct gw_out *o)
{
	struct gw_error err = GW_ERROR_INIT;
	enum gw_vm_status status = GW_VM_DEAD;
	int r;

	if (!o->config.vm)
		return GW_SOURCE_EV_RESUMED;
	for (int i = 0; i < 5; i++) {
		r = o->config.vm->ops->status(o->config.vm, &status, &err);
		if (r == 0 && (status == GW_VM_RUNNING || status == GW_VM_SHUTDOWN || status == GW_VM_DEAD))
			return GW_SOURCE_EV_RESUMED;
		if (r == 0)
			r = o->config.vm->ops->resume(o->config.vm, gw_deadline_in(10 * GW_NS_PER_S), &err);
		if (r == 0 || r == -ESRCH)
			return GW_SOURCE_EV_RESUMED;
		gw_log_error(o->config.vm_name, "cannot resume the guest: %s", gw_error_text(&err));
		gw_sleep_ns(200 * GW_NS_PER_MS);
	}
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
	return NO_EVENT;
}

static enum gw_source_event do_destroy(struct gw_out *o)
{
	struct gw_error err = GW_ERROR_INIT;
	gw_time_ns t0 = gw_now_ns();

	gw_out_set_step(o, "removing the VM here");
	gw_thread_background();
	(void)gw_fault("source-running-received");
	gw_out_close_pipeline(o);
	if (o->control_fd >= 0)
		close(gw_steal_fd(&o->control_fd));
	if (o->config.vm && o->config.vm->ops->destroy(o->config.vm, &err) < 0)
		gw_log_error(o->config.vm_name, "removing the VM: %s", gw_error_text(&err));
	gw_out_phase(o, cleanup, "free memory and processes", gw_now_ns() - t0);
	(void)gw_fault("source-destroyed");
	return NO_EVENT;
}

static enum gw_source_event do_alarm(struct gw_out *o)
{
	struct gw_source_machine m;

	{
		GW_LOCKED(&o->lock);
		m = o->machine;
	}
	if (m.state == o->alarmed)
		return NO_EVENT; /* said already */
	o->alarmed = m.state;
	gw_log_error(o->config.vm_name, "ALARM: migration to %s is in state %s and needs an operator: %s",
	             o->config.target_name, gw_source_state_name(m.state), gw_error_text(&o->failure));
	return NO_EVENT;
}

/* In the order in which several are carried out. */
static const struct {
	unsigned action;
	enum gw_source_event (*carry_out)(struct gw_out *o);
} actions[] = {
	{ GW_SOURCE_DO_RECORD_BEGIN, do_record_begin },
	{ GW_SOURCE_DO_SEND_PREPARE, do_send_prepare },
	{ GW_SOURCE_DO_COPY, do_copy },
	{ GW_SOURCE_DO_STOP_AND_SEND, do_stop_and_send },
	{ GW_SOURCE_DO_RECORD_COMMIT, do_record_commit },
	{ GW_SOURCE_DO_SEND_COMMIT, do_send_commit },
	{ GW_SOURCE_DO_CANCEL_SAVE, do_cancel_save },
	{ GW_SOURCE_DO_RECORD_ABORT, do_record_abort },
	{ GW_SOURCE_DO_RESUME, do_resume },
	{ GW_SOURCE_DO_SEND_ABORT, do_send_abort },
	{ GW_SOURCE_DO_DESTROY, do_destroy },
	{ GW_SOURCE_DO_ALARM, do_alarm },
	{ GW_SOURCE_DO_ASK, do_ask },
};

static unsigned feed(struct gw_out *o, enum gw_source_event ev, enum gw_source_state *ret_state)
{
	unsigned todo;

	{
		GW_LOCKED(&o->lock);
		gw_log_debug(o->config.vm_name, "migration: %s in %s", gw_source_event_name(ev),
		             gw_source_state_name(o->machine.state));
		todo = gw_source_step(&o->machine, ev);
		*ret_state = o->machine.state;
	}
	if (o->config.changed)
		o->config.changed(o->config.changed_arg);
	return todo;
}

static enum gw_source_event carry_out(struct gw_out *o, unsigned todo)
{
	enum gw_source_event ev = NO_EVENT, one;

	for (size_t i = 0; i < GW_ARRAY_SIZE(actions); i++) {
		if (!(todo & actions[i].action))
			continue;
		one = actions[i].carry_out(o);
		if (one != NO_EVENT)
			ev = one;
	}
	return ev;
}

/* No action led to an event: what the state waits for. */
static enum gw_source_event await(struct gw_out *o, enum gw_source_state state)
{
	enum gw_source_event ev = take_posted(o);

	if (ev != NO_EVENT)
		return ev;
	if (state == GW_SOURCE_SENT)
		return await_ready(o);
	pause_before_retry(o);
	return GW_SOURCE_EV_FAILED; /* in COMMITTED: tell once more */
}

static int outcome(struct gw_out *o, enum gw_source_state state, struct gw_error *err)
{
	{
		GW_LOCKED(&o->lock);
		o->report.finished = gw_now_ns();
		if (o->sender_live)
			o->sender_live = false;
	}
	gw_out_close_pipeline(o);
	if (o->control_fd >= 0 && state != GW_SOURCE_UNKNOWN)
		close(gw_steal_fd(&o->control_fd));
	if (state == GW_SOURCE_DONE)
		return 0;
	if (state == GW_SOURCE_UNKNOWN) {
		gw_error_set(err, EAGAIN, "the decision could not be made durable (%s); the VM stays paused on both hosts",
		             gw_error_text(&o->failure));
		return -EAGAIN;
	}
	return gw_error_set(err, o->failure.code ? o->failure.code : -EIO, "%s",
	                    o->failure.code ? gw_error_text(&o->failure) : "the migration was undone");
}

int gw_out_run(struct gw_out *o, struct gw_error *err)
{
	enum gw_source_state state;
	enum gw_source_event ev = o->first;
	unsigned todo;

	{
		GW_LOCKED(&o->lock);
		if (o->machine.state == GW_SOURCE_UNKNOWN)
			ev = GW_SOURCE_EV_RETRY;
	}
	for (;;) {
		todo = feed(o, ev, &state);
		ev = carry_out(o, todo);
		if (state == GW_SOURCE_DONE || state == GW_SOURCE_ABORTED || state == GW_SOURCE_UNKNOWN)
			return outcome(o, state, err);
		if (stopping(o) && !gw_source_can_abort(&o->machine))
			return gw_error_set(err, ESHUTDOWN, "the daemon is stopping");
		if (ev == NO_EVENT)
			ev = await(o, state);
	}
}

/* Life. */

static int copy_config(struct gw_out *o, const struct gw_out_config *c)
{
	o->config = *c;
	o->config.vm_name = strdup(c->vm_name);
	o->config.self_name = strdup(c->self_name);
	o->config.target_name = strdup(c->target_name);
	o->config.target_address = strdup(c->target_address);
	o->config.prepare = c->prepare ? json_deep_copy(c->prepare) : json_object();
	return o->config.vm_name && o->config.self_name && o->config.target_name && o->config.target_address &&
	                       o->config.prepare ?
	               0 :
	               -ENOMEM;
}

int gw_out_new_restarted(const struct gw_out_config *c, enum gw_source_event ev, struct gw_out **ret,
                         struct gw_error *err)
{
	struct gw_out *o = calloc(1, sizeof(*o));

	if (!o)
		return gw_error_set(err, ENOMEM, "out of memory");
	pthread_mutex_init(&o->lock, NULL);
	o->control_fd = -1;
	o->first = ev;
	o->step = "starting";
	o->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (unsigned i = 0; i < GW_RAM_REGIONS_MAX; i++)
		o->ram[i].fd = -1;
	if (copy_config(o, c) < 0 || o->cancel_fd < 0) {
		gw_out_free(o);
		return gw_error_set(err, ENOMEM, "out of memory");
	}
	o->wait = (struct gw_wait){ .cancel_fd = o->cancel_fd, .idle_ns = c->idle_timeout_ns };
	o->wait_decided = (struct gw_wait){ .cancel_fd = o->cancel_fd, .idle_ns = c->switch_timeout_ns };
	o->report.started = gw_now_ns();
	o->report.channels = c->channels;
	o->progress.predicted_downtime_ns = o->progress.eta_ns = GW_TIME_NEVER;
	*ret = o;
	return 0;
}

int gw_out_new(const struct gw_out_config *c, struct gw_out **ret, struct gw_error *err)
{
	return gw_out_new_restarted(c, GW_SOURCE_EV_START, ret, err);
}

void gw_out_free(struct gw_out *o)
{
	if (!o)
		return;
	gw_out_close_pipeline(o);
	if (o->control_fd >= 0)
		close(o->control_fd);
	if (o->cancel_fd >= 0)
		close(o->cancel_fd);
	free((char *)o->config.vm_name);
	free((char *)o->config.self_name);
	free((char *)o->config.target_name);
	free((char *)o->config.target_address);
	json_decref((json_t *)o->config.prepare);
	free(o->state);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

/* Other threads. */

int gw_out_cancel(struct gw_out *o)
{
	GW_LOCKED(&o->lock);
	if (!gw_source_can_abort(&o->machine) && o->machine.state != GW_SOURCE_IDLE)
		return -EALREADY;
	o->cancelled = true;
	eventfd_write(o->cancel_fd, 1);
	return 0;
}

void gw_out_stop(struct gw_out *o)
{
	(void)gw_out_cancel(o);
	GW_LOCKED(&o->lock);
	o->stop = true;
	eventfd_write(o->cancel_fd, 1);
}

void gw_out_post(struct gw_out *o, enum gw_source_event ev)
{
	GW_LOCKED(&o->lock);
	/* A target that asks is whole, but as long as this VM lives its READY (and --verify) comes by the front door. */
	if (ev == GW_SOURCE_EV_READY && !o->machine.lost)
		return;
	for (unsigned i = 0; i < o->n_events; i++)
		if (o->events[i] == ev)
			return;
	if (o->n_events < GW_OUT_EVENTS_MAX)
		o->events[o->n_events++] = ev;
	eventfd_write(o->cancel_fd, 1);
}

enum gw_source_state gw_out_state(struct gw_out *o)
{
	GW_LOCKED(&o->lock);
	return o->machine.state;
}

enum gw_answer gw_out_answer(struct gw_out *o)
{
	GW_LOCKED(&o->lock);
	return gw_source_answer(&o->machine);
}

void gw_out_progress(struct gw_out *o, struct gw_progress *ret)
{
	struct gw_sender_stats now = { 0 };
	gw_time_ns elapsed;

	GW_LOCKED(&o->lock);
	*ret = o->progress;
	if (!o->sender_live)
		return;
	gw_sender_progress(o->sender, &now);
	elapsed = gw_now_ns() - o->pass_began;
	ret->transferred_bytes = now.wire_bytes;
	ret->pass_done_bytes = (now.pages - o->pass_base.pages) << GW_PAGE_SHIFT;
	if (elapsed > 10 * GW_NS_PER_MS && now.wire_bytes > o->pass_base.wire_bytes)
		ret->rate_Bps = (uint64_t)((double)(now.wire_bytes - o->pass_base.wire_bytes) * 1e9 / (double)elapsed);
}

void gw_out_report(struct gw_out *o, struct gw_report *ret)
{
	GW_LOCKED(&o->lock);
	*ret = o->report;
}

const char *gw_out_step_text(struct gw_out *o)
{
	GW_LOCKED(&o->lock);
	return o->step;
}

const struct gw_wire_id *gw_out_id(const struct gw_out *o)
{
	return &o->config.id;
}
