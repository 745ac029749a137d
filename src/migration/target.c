/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The target's side of one migration: asks the handover machine what to do, does it, and reports what came of it.
 *
 * Only gw_in_run()'s thread feeds the machine. Once the copy here is whole and READY was said, only a decision moves it
 * on: a lost connection makes it ask the source, again and again, and nothing here ever guesses.
 */
#include "migration/target.h"

#include <endian.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "migration/target_internal.h"
#include "transport/peer.h"

enum gw_target_event gw_in_take_posted(struct gw_in *in)
{
	enum gw_target_event ev = GW_IN_NO_EVENT;
	eventfd_t ignored;

	GW_LOCKED(&in->lock);
	if (in->n_events) {
		ev = in->events[0];
		in->n_events--;
		memmove(in->events, in->events + 1, in->n_events * sizeof(in->events[0]));
	}
	if (in->n_events == 0 && !in->stop)
		eventfd_read(in->wake_fd, &ignored);
	return ev;
}

void gw_in_drain_wake(struct gw_in *in)
{
	eventfd_t ignored;

	GW_LOCKED(&in->lock);
	if (!in->stop)
		eventfd_read(in->wake_fd, &ignored);
}

bool gw_in_stopping(struct gw_in *in)
{
	GW_LOCKED(&in->lock);
	return in->stop;
}

/* Only the VMM itself can say that it is there: a process that was killed just now still looks alive from outside. */
static enum gw_target_event confirm_whole(struct gw_in *in)
{
	enum gw_vm_status status = GW_VM_DEAD;

	if (in->vm->ops->status(in->vm, &status, &in->failure) == 0 && status == GW_VM_PAUSED)
		return GW_TARGET_EV_ASKED;
	gw_error_set(&in->failure, ESRCH, "the VM's process on the target ended");
	return GW_TARGET_EV_FAILED;
}

enum gw_target_event gw_in_woken(struct gw_in *in, bool *ret_linked)
{
	enum gw_target_event ev = gw_in_take_posted(in);

	*ret_linked = false;
	if (ev != GW_IN_NO_EVENT)
		return ev;
	if (in->machine.owes && in->demand && gw_demand_left(in->demand) == 0)
		return GW_TARGET_EV_COMPLETE;
	*ret_linked = gw_in_take_recovery(in);
	return gw_in_link_broke(in) ? GW_TARGET_EV_LINK_LOST : GW_IN_NO_EVENT;
}

/* With the connection alive, in READY or with pages owed: the next frame. */
static enum gw_target_event await_decision(struct gw_in *in)
{
	struct gw_wait w = { .cancel_fd = in->wake_fd, .idle_ns = GW_TIME_NEVER };
	gw_autofree char *body = NULL;
	struct gw_wire_frame f;
	struct gw_error err = GW_ERROR_INIT;
	bool linked;
	int r = gw_peer_recv(in->control_fd, &f, &body, &w, &err);

	if (r == -ECANCELED) {
		gw_in_resolve_refuse(in, "is still connected (a connection to a dead host is given up within ten seconds)");
		return gw_in_woken(in, &linked);
	}
	if (r == 0 && f.type == GW_WIRE_VERIFY)
		r = gw_in_answer_verify(in, body, &err);
	if (r < 0) {
		gw_log_warning(in->vm_name, "the link to %s is lost while it %s: %s", in->source_name,
		               in->machine.state == GW_TARGET_RUNNING ? "still has memory of the guest" : "decides",
		               gw_error_text(&err));
		close(gw_steal_fd(&in->control_fd));
		return GW_TARGET_EV_LINK_LOST;
	}
	switch (f.type) {
	case GW_WIRE_ANSWER: /* still whole? */
		return in->machine.state == GW_TARGET_READY ? confirm_whole(in) : GW_TARGET_EV_ASKED;
	case GW_WIRE_COMMIT:
		return GW_TARGET_EV_COMMIT;
	case GW_WIRE_ABORT:
		gw_error_set(&in->failure, ECANCELED, "%s", body);
		return GW_TARGET_EV_ABORT;
	default:
		return GW_IN_NO_EVENT;
	}
}

static unsigned feed(struct gw_in *in, enum gw_target_event ev)
{
	unsigned todo;

	GW_LOCKED(&in->lock);
	if (in->stop && gw_target_may_discard(&in->machine) && in->machine.state != GW_TARGET_DISCARD) {
		/* Whatever came of it: gw_in_stop() has ended the VMM. */
		gw_error_set(&in->failure, ESHUTDOWN, "the daemon of the target is stopping");
		ev = GW_TARGET_EV_FAILED;
	}
	gw_log_debug(in->vm_name, "incoming: %s in %s", gw_target_event_name(ev), gw_target_state_name(in->machine.state));
	todo = gw_target_step(&in->machine, ev);
	pthread_cond_broadcast(&in->changed);
	return todo;
}

static enum gw_target_event await(struct gw_in *in)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = GW_IN_RETRY_NS };
	bool linked;
	enum gw_target_event ev;

	if ((in->machine.state == GW_TARGET_READY || in->machine.state == GW_TARGET_RUNNING) && in->control_fd >= 0)
		return await_decision(in);
	(void)gw_wait_fd(in->wake_fd, POLLIN, &w);
	ev = gw_in_woken(in, &linked);
	if (ev != GW_IN_NO_EVENT || linked)
		return ev;
	/* READY or PART without a connection: ask (again). COMMITTED but not running: try again. */
	return in->machine.state == GW_TARGET_COMMITTED ? GW_TARGET_EV_COMMIT : GW_TARGET_EV_LINK_LOST;
}

static int finish(struct gw_in *in, struct gw_error *err)
{
	bool runs = in->machine.state == GW_TARGET_RUNNING;

	gw_thread_background();
	if (runs)
		gw_in_end_postcopy(in, true);
	gw_in_release(in);
	if (runs)
		in->config.hooks->whole(in->config.hooks_arg, in);
	else if (in->reserved)
		in->config.hooks->gone(in->config.hooks_arg, in, gw_error_text(&in->failure));
	GW_LOCKED(&in->lock);
	in->finished = true;
	pthread_cond_broadcast(&in->changed);
	if (runs)
		return 0;
	return gw_error_set(err, in->failure.code ? in->failure.code : -ECANCELED, "%s",
	                    in->failure.code ? gw_error_text(&in->failure) : "the migration was undone");
}

static void announce(struct gw_in *in)
{
	in->announced = true;
	in->config.hooks->running(in->config.hooks_arg, in, in->epoch + 1);
	GW_LOCKED(&in->lock);
	in->recorded = true;
	pthread_cond_broadcast(&in->changed);
}

int gw_in_run(struct gw_in *in, const json_t *prepare, struct gw_error *err)
{
	enum gw_target_event ev = in->first;

	in->prepare = prepare;
	while (!gw_in_stopping(in) || gw_target_may_discard(&in->machine)) {
		bool owned;

		ev = gw_in_carry_out(in, feed(in, ev));
		owned = in->machine.state == GW_TARGET_RUNNING && in->owner_recorded;
		if (owned && !in->announced)
			announce(in);
		if (in->machine.state == GW_TARGET_GONE || (owned && !in->machine.owes))
			return finish(in, err);
		if (ev == GW_IN_NO_EVENT)
			ev = await(in);
		while (ev == GW_IN_NO_EVENT && !gw_in_stopping(in))
			ev = await(in);
	}
	return gw_error_set(err, ESHUTDOWN, "the daemon is stopping");
}

/* Other threads. */

int gw_in_add_channel(struct gw_in *in, const struct gw_wire_hello *hello, int fd, struct gw_error *err)
{
	GW_LOCKED(&in->lock);
	if (!in->token_valid || memcmp(in->token, hello->token, sizeof(in->token)) || !in->receiver) {
		close(fd);
		return gw_error_set(err, EACCES, "the data channel's token is not this migration's");
	}
	return gw_receiver_add_channel(in->receiver, le16toh(hello->channel), fd, err);
}

void gw_in_welcomed(struct gw_in *in, const struct gw_wire_hello *hello)
{
	GW_LOCKED(&in->lock);
	if (in->token_valid && !memcmp(in->token, hello->token, sizeof(in->token)) && in->receiver)
		gw_receiver_welcomed(in->receiver, le16toh(hello->channel));
}

void gw_in_post(struct gw_in *in, enum gw_target_event ev)
{
	GW_LOCKED(&in->lock);
	if (in->n_events < GW_IN_EVENTS_MAX)
		in->events[in->n_events++] = ev;
	eventfd_write(in->wake_fd, 1);
}

void gw_in_stop(struct gw_in *in)
{
	struct gw_error why;

	gw_error_set(&why, ECANCELED, "the daemon of the target is stopping");
	GW_LOCKED(&in->lock);
	in->stop = true;
	eventfd_write(in->wake_fd, 1);
	pthread_cond_broadcast(&in->changed);
	if (!gw_target_may_discard(&in->machine))
		return;
	if (in->receiver)
		gw_receiver_break(in->receiver, &why);
	if (in->vm)
		in->vm->ops->kill(in->vm);
}

/* What to answer to the source, or 0 while that is not known yet. Lock held. */
static uint32_t tell_answer(const struct gw_in *in, uint32_t told)
{
	switch (in->machine.state) {
	case GW_TARGET_RUNNING:
		return in->recorded ? GW_WIRE_RUNNING : 0;
	case GW_TARGET_READY:
		return told == GW_WIRE_ANSWER_WAIT ? GW_WIRE_READY : 0;
	case GW_TARGET_PART:
		return GW_WIRE_FAILED;
	default:
		return in->finished ? GW_WIRE_FAILED : 0;
	}
}

uint32_t gw_in_tell(struct gw_in *in, uint32_t answer, gw_time_ns timeout, uint64_t *ret_owed_pages)
{
	gw_time_ns deadline = gw_deadline_in(timeout);
	uint32_t type;

	if (answer == GW_WIRE_ANSWER_COMMIT)
		gw_in_post(in, GW_TARGET_EV_COMMIT);
	else if (answer == GW_WIRE_ANSWER_ABORT)
		gw_in_post(in, GW_TARGET_EV_ABORT);
	GW_LOCKED(&in->lock);
	while ((type = tell_answer(in, answer)) == 0 && gw_cond_wait(&in->changed, &in->lock, deadline) == 0)
		;
	*ret_owed_pages = !in->machine.owes ? 0 : in->demand ? GW_MAX(gw_demand_left(in->demand), 1u) : 1;
	return type; /* 0: not known in time; the source asks again */
}

enum gw_target_state gw_in_state(struct gw_in *in)
{
	GW_LOCKED(&in->lock);
	return in->machine.state;
}

const struct gw_wire_id *gw_in_id(const struct gw_in *in)
{
	return &in->config.id;
}

const char *gw_in_vm_name(const struct gw_in *in)
{
	return in->vm_name;
}

/* Life. */

static struct gw_in *new_in(const struct gw_in_config *config, enum gw_target_event first)
{
	struct gw_in *in = calloc(1, sizeof(*in));

	if (!in)
		return NULL;
	in->config = *config;
	in->first = first;
	in->control_fd = in->ask_fd = in->load_fd = in->recover_fd = in->hold_fd = -1;
	for (unsigned i = 0; i < GW_RAM_REGIONS_MAX; i++)
		in->ram[i].fd = -1;
	pthread_mutex_init(&in->lock, NULL);
	pthread_mutex_init(&in->link_lock, NULL);
	gw_cond_init(&in->changed);
	in->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	in->wait = (struct gw_wait){ .cancel_fd = in->wake_fd, .idle_ns = GW_TIME_NEVER };
	if (in->wake_fd < 0) {
		gw_in_free(in);
		return NULL;
	}
	return in;
}

int gw_in_new(const struct gw_in_config *config, int control_fd, struct gw_in **ret, struct gw_error *err)
{
	struct gw_in *in = new_in(config, GW_TARGET_EV_PREPARE);

	if (!in) {
		close(control_fd);
		return gw_error_set(err, ENOMEM, "out of memory");
	}
	in->control_fd = control_fd;
	snprintf(in->vm_name, sizeof(in->vm_name), "incoming");
	*ret = in;
	return 0;
}

int gw_in_new_restarted(const struct gw_in_config *config, const char *vm_name, struct gw_vm *vm,
                        struct gw_journal *journal, const struct gw_record *record, enum gw_target_event ev,
                        struct gw_in **ret, struct gw_error *err)
{
	struct gw_in *in = new_in(config, ev);

	if (!in)
		return gw_error_set(err, ENOMEM, "out of memory");
	snprintf(in->vm_name, sizeof(in->vm_name), "%s", vm_name);
	snprintf(in->source_name, sizeof(in->source_name), "%s", record->peer_name);
	snprintf(in->source_address, sizeof(in->source_address), "%s", record->peer_address);
	in->epoch = record->epoch;
	in->vm = vm;
	in->journal = journal;
	in->reserved = true;
	*ret = in;
	return 0;
}

void gw_in_free(struct gw_in *in)
{
	if (!in)
		return;
	gw_in_release(in);
	gw_cleanup_fd(&in->wake_fd);
	free(in->state);
	free(in->layout);
	pthread_cond_destroy(&in->changed);
	pthread_mutex_destroy(&in->link_lock);
	pthread_mutex_destroy(&in->lock);
	free(in);
}
