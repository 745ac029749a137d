/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source's side of one migration: asks the handover machine what to do, has it done (source_actions.c), and
 * reports what came of it.
 *
 * Only gw_out_run()'s thread feeds the machine. Other threads post events, or ask to cancel; both wake whatever the
 * thread is waiting for. Once COMMIT is being written a cancel is refused and wakes nothing.
 */
#include "migration/source.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "migration/source_internal.h"

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

bool gw_out_stopping(struct gw_out *o)
{
	GW_LOCKED(&o->lock);
	return o->stop;
}

enum gw_source_event gw_out_take_posted(struct gw_out *o)
{
	enum gw_source_event ev;
	eventfd_t ignored;

	GW_LOCKED(&o->lock);
	if (o->n_events == 0) {
		if (!o->cancelled && !o->stop)
			eventfd_read(o->cancel_fd, &ignored);
		return GW_OUT_NO_EVENT;
	}
	ev = o->events[0];
	o->n_events--;
	memmove(o->events, o->events + 1, o->n_events * sizeof(o->events[0]));
	if (o->n_events == 0 && !o->cancelled && !o->stop)
		eventfd_read(o->cancel_fd, &ignored);
	return ev;
}

/* A cancel that was accepted is kept: what would lead to COMMIT is a failure then, unless the target runs already. Lock
 * held. */
static enum gw_source_event keep_cancel(const struct gw_out *o, enum gw_source_event ev)
{
	struct gw_source_machine next = o->machine;

	if (!o->cancelled || !gw_source_can_abort(&o->machine))
		return ev;
	(void)gw_source_step(&next, ev);
	return next.state == GW_SOURCE_COMMIT && !next.commit_told ? GW_SOURCE_EV_FAILED : ev;
}

static unsigned feed(struct gw_out *o, enum gw_source_event ev, enum gw_source_state *ret_state)
{
	unsigned todo;

	{
		GW_LOCKED(&o->lock);
		ev = keep_cancel(o, ev);
		gw_log_debug(o->config.vm_name, "migration: %s in %s", gw_source_event_name(ev),
		             gw_source_state_name(o->machine.state));
		todo = gw_source_step(&o->machine, ev);
		*ret_state = o->machine.state;
	}
	if (o->config.changed)
		o->config.changed(o->config.changed_arg);
	return todo;
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
		ev = gw_out_carry_out(o, todo);
		if (state == GW_SOURCE_DONE || state == GW_SOURCE_ABORTED || state == GW_SOURCE_UNKNOWN)
			return outcome(o, state, err);
		if (o->abandoned || (gw_out_stopping(o) && !gw_source_can_abort(&o->machine)))
			return gw_error_set(err, ESHUTDOWN, "the daemon is stopping");
		if (ev == GW_OUT_NO_EVENT)
			ev = gw_out_await(o, state);
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
	pthread_mutex_init(&o->trace_lock, NULL);
	o->control_fd = o->hold_fd = -1;
	o->first = ev;
	o->step = "starting";
	o->save_begun = ev != GW_SOURCE_EV_START; /* by an earlier life */
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
	pthread_mutex_destroy(&o->trace_lock);
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

/* What is owed counts as a pass of its own. Lock held. */
static void push_progress(struct gw_out *o, struct gw_progress *ret)
{
	struct gw_push_stats s;
	gw_time_ns elapsed = gw_now_ns() - o->push_began;

	gw_push_stats(o->push, &s);
	ret->transferred_bytes += s.wire_bytes;
	ret->pass_total_bytes = o->report.postcopy.owed_bytes;
	ret->pass_done_bytes = ret->pass_total_bytes - GW_MIN(s.left_pages << GW_PAGE_SHIFT, ret->pass_total_bytes);
	ret->dirty_rate_Bps = 0;
	ret->predicted_downtime_ns = o->report.downtime_ns ? o->report.downtime_ns : ret->predicted_downtime_ns;
	if (elapsed > 10 * GW_NS_PER_MS && s.wire_bytes) {
		ret->rate_Bps = (uint64_t)((double)s.wire_bytes * 1e9 / (double)elapsed);
		ret->eta_ns = (gw_time_ns)((double)(s.left_pages << GW_PAGE_SHIFT) / (double)GW_MAX(ret->rate_Bps, 1u) * 1e9);
	}
}

void gw_out_progress(struct gw_out *o, struct gw_progress *ret)
{
	struct gw_sender_stats now = { 0 };
	gw_time_ns elapsed;

	GW_LOCKED(&o->lock);
	*ret = o->progress;
	if (o->sender_live) {
		gw_sender_progress(o->sender, &now);
		ret->transferred_bytes += now.wire_bytes;
	}
	if (o->push) {
		push_progress(o, ret);
		return;
	}
	if (!o->sender_live)
		return;
	elapsed = gw_now_ns() - o->pass_began;
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

bool gw_out_undoing(struct gw_out *o)
{
	GW_LOCKED(&o->lock);
	return o->machine.state == GW_SOURCE_ABORT || (o->cancelled && gw_source_can_abort(&o->machine));
}

const struct gw_wire_id *gw_out_id(const struct gw_out *o)
{
	return &o->config.id;
}
