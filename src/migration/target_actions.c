/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the target does for each action that its handover machine orders. All of it runs in gw_in_run()'s thread. */
#include <endian.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "migration/target_internal.h"
#include "transport/peer.h"
#include "transport/tcp.h"

/* A failed step before READY: woken by a post, by a broken channel, by the link, or by an error of its own. */
static enum gw_target_event failed(struct gw_in *in, int code)
{
	enum gw_target_event ev = code == -ECANCELED ? gw_in_take_posted(in) : GW_IN_NO_EVENT;

	if (ev == GW_TARGET_EV_FAILED && !in->failure.code)
		gw_error_set(&in->failure, ESRCH, "the VM's process on the target ended");
	if (ev != GW_IN_NO_EVENT)
		return ev;
	if (code == -ECANCELED && in->receiver)
		code = gw_receiver_error(in->receiver, &in->failure);
	return code == -ECONNRESET || code == -EPIPE ? GW_TARGET_EV_LINK_LOST : GW_TARGET_EV_FAILED;
}

static enum gw_target_event do_create(struct gw_in *in)
{
	int r = gw_in_create(in, &in->failure);

	if (r == -ESTALE) /* the source sent ABORT */
		return GW_TARGET_EV_ABORT;
	return r < 0 ? failed(in, r) : GW_TARGET_EV_PREPARED;
}

static enum gw_target_event do_send_prepared(struct gw_in *in)
{
	int r = gw_in_send_prepared(in, &in->failure);

	(void)gw_fault("target-prepared-sent");
	if (r == 0)
		r = gw_in_receive(in, &in->failure);
	if (r == -ESTALE) /* the source sent ABORT */
		return GW_TARGET_EV_ABORT;
	return r < 0 ? failed(in, r) : GW_TARGET_EV_ALL_RECEIVED;
}

static enum gw_target_event do_load(struct gw_in *in)
{
	struct gw_in_guard guard;
	int r = gw_in_guard_begin(&guard, in, GW_IN_GUARD_LOADING, &in->failure);

	if (r == 0)
		r = gw_in_guard_end(&guard, gw_in_load(in, &in->failure), &in->failure);
	if (r == -ESTALE) /* the source sent ABORT */
		return GW_TARGET_EV_ABORT;
	if (r < 0)
		return GW_TARGET_EV_FAILED;
	return in->owing ? GW_TARGET_EV_LOADED_OWING : GW_TARGET_EV_LOADED;
}

static enum gw_target_event do_send_ready(struct gw_in *in)
{
	if (in->control_fd < 0)
		return GW_IN_NO_EVENT; /* asked on another connection, which gets its own answer */
	if (gw_in_send_ready(in, in->control_fd, &in->failure) < 0)
		return GW_TARGET_EV_LINK_LOST;
	(void)gw_fault("target-ready-sent");
	return GW_IN_NO_EVENT;
}

/* *ret_connected: somebody there took the connection, whatever came of it. */
static int ask_once(struct gw_in *in, uint32_t *ret_answer, bool *ret_connected, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = 5 * GW_NS_PER_S };
	struct gw_wire_hello hello;
	struct gw_wire_answer answer;
	struct gw_wire_frame f;
	gw_autofree char *body = NULL;
	gw_autofd int fd = -1;
	int r = gw_tcp_connect(in->source_address, GW_WIRE_PORT, &w, &fd, err);

	*ret_connected = r == 0;
	gw_wire_hello_init(&hello, GW_WIRE_ROLE_ASK, &in->config.id);
	hello.channel = htole16(in->machine.whole);
	if (r == 0)
		r = gw_peer_hello(fd, &hello, NULL, &w, err);
	if (r == 0)
		r = gw_peer_expect(fd, GW_WIRE_ANSWER, &f, &body, &w, err);
	if (r < 0)
		return r;
	memcpy(&answer, body, sizeof(answer));
	*ret_answer = le32toh(answer.answer);
	if (*ret_answer == GW_WIRE_ANSWER_COMMIT)
		in->ask_fd = gw_steal_fd(&fd);
	return 0;
}

static enum gw_target_event do_ask(struct gw_in *in)
{
	bool told = false, linked;

	while (!gw_in_stopping(in)) {
		struct gw_wait w = { .cancel_fd = -1, .idle_ns = GW_IN_RETRY_NS };
		struct gw_error err = GW_ERROR_INIT;
		enum gw_target_event ev;
		uint32_t answer = GW_WIRE_ANSWER_WAIT;
		bool resolve = gw_in_resolve_wanted(in), connected;
		int r = ask_once(in, &answer, &connected, &err);

		if (r < 0 && !told) {
			gw_log_warning(in->vm_name,
			               "holds %s copy from %s and cannot ask it for the decision yet: %s (the copy stays "
			               "paused)",
			               in->machine.whole ? "a whole" : "part of a", in->source_name, gw_error_text(&err));
			told = true;
		}
		if (answer == GW_WIRE_ANSWER_COMMIT)
			return GW_TARGET_EV_COMMIT;
		if (answer == GW_WIRE_ANSWER_ABORT) {
			gw_error_set(&in->failure, ECANCELED, "the source says that the migration was undone");
			return GW_TARGET_EV_ABORT;
		}
		if (resolve && gw_in_resolve_after_asking(in, connected ? 0 : r))
			return GW_TARGET_EV_COMMIT;
		(void)gw_wait_fd(in->wake_fd, POLLIN, &w);
		ev = gw_in_woken(in, &linked);
		if (ev != GW_IN_NO_EVENT || linked) /* a new link: the decision may come on it */
			return ev;
	}
	return GW_IN_NO_EVENT;
}

/* Starting the guest may touch a page that lacks, and then the VMM answers nobody: not before there is a link. */
static bool await_link(struct gw_in *in)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = GW_IN_RETRY_NS };

	while (in->machine.owes && in->control_fd < 0 && !gw_in_stopping(in)) {
		if (in->demand && gw_demand_left(in->demand) == 0)
			break;
		(void)gw_wait_fd(in->wake_fd, POLLIN, &w);
		if (!gw_in_take_recovery(in))
			gw_in_drain_wake(in);
	}
	return !gw_in_stopping(in);
}

static enum gw_target_event do_fence_and_run(struct gw_in *in)
{
	struct gw_error err = GW_ERROR_INIT;
	gw_time_ns t0 = gw_now_ns();
	int r = gw_fault("target-commit-received");

	if (!await_link(in))
		return GW_IN_NO_EVENT;
	if (r == 0)
		r = in->vm->ops->resume(in->vm, gw_deadline_in(in->config.switch_timeout_ns), &in->failure);
	in->resume_ns = gw_now_ns() - t0;
	if (r < 0)
		return GW_TARGET_EV_FAILED;
	if (in->vm->ops->announce(in->vm, &err) < 0)
		gw_log_warning(in->vm_name, "announcing the VM to the network: %s", gw_error_text(&err));
	(void)gw_fault("target-resumed");
	return GW_TARGET_EV_RAN;
}

static enum gw_target_event do_record_owner(struct gw_in *in)
{
	struct gw_record rec = { .state = GW_RECORD_RUNNING, .epoch = in->epoch + 1, .migration = in->config.id };
	struct gw_error err = GW_ERROR_INIT;
	gw_time_ns t0 = gw_now_ns();

	if (in->owner_recorded)
		return GW_IN_NO_EVENT;
	snprintf(rec.peer_name, sizeof(rec.peer_name), "%s", in->source_name);
	snprintf(rec.peer_address, sizeof(rec.peer_address), "%s", in->source_address);
	while (gw_journal_write(in->journal, &rec, &err) < 0 && !gw_in_stopping(in)) {
		/* The source keeps the decision until we confirm, and we confirm only what is durable. */
		gw_log_error(in->vm_name, "runs, but cannot be recorded as the owner yet: %s", gw_error_text(&err));
		gw_sleep_ns(GW_NS_PER_S);
	}
	in->owner_recorded = !gw_in_stopping(in);
	in->record_ns = gw_now_ns() - t0;
	(void)gw_fault("target-owner-recorded");
	return GW_IN_NO_EVENT;
}

static enum gw_target_event do_send_running(struct gw_in *in)
{
	struct gw_wire_running body = {
		.fence_ns = htole64((uint64_t)in->fence_ns),
		.resume_ns = htole64((uint64_t)in->resume_ns),
		.record_ns = htole64((uint64_t)in->record_ns),
		.owed_pages = htole64(in->machine.owes ? GW_MAX(gw_in_owed_pages(in), 1u) : 0),
	};
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = 2 * GW_NS_PER_S };

	if (!in->owner_recorded)
		return GW_IN_NO_EVENT;
	if (in->control_fd >= 0)
		(void)gw_peer_send(in->control_fd, GW_WIRE_RUNNING, &body, sizeof(body), &w, NULL);
	if (in->ask_fd >= 0)
		(void)gw_peer_send(in->ask_fd, GW_WIRE_RUNNING, &body, sizeof(body), &w, NULL);
	return GW_IN_NO_EVENT;
}

/* The source frees its image on this word: it is said only when the record here is durable. */
static enum gw_target_event do_send_complete(struct gw_in *in)
{
	if (!in->owner_recorded)
		return GW_IN_NO_EVENT;
	(void)gw_fault("target-complete");
	if (in->control_fd >= 0)
		(void)gw_in_send_complete(in, in->control_fd);
	if (in->ask_fd >= 0)
		(void)gw_in_send_complete(in, in->ask_fd);
	return GW_IN_NO_EVENT;
}

static enum gw_target_event do_send_failed(struct gw_in *in)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = 200 * GW_NS_PER_MS };

	if (!in->failure.code)
		gw_error_set(&in->failure, EIO, "the copy at the target is not whole");
	if (in->control_fd >= 0)
		gw_peer_send_failed(in->control_fd, &in->failure, &w);
	if (in->ask_fd >= 0)
		gw_peer_send_failed(in->ask_fd, &in->failure, &w);
	return GW_IN_NO_EVENT;
}

static enum gw_target_event do_destroy(struct gw_in *in)
{
	struct gw_error err = GW_ERROR_INIT;

	/* It never ran: a polite end could save nothing, and one that hangs would not hear of it. */
	if (in->vm)
		in->vm->ops->kill(in->vm);
	gw_in_release(in);
	if (in->vm && in->vm->ops->destroy(in->vm, &err) < 0)
		gw_log_error(in->vm_name, "removing the copy: %s", gw_error_text(&err));
	return GW_TARGET_EV_DESTROYED;
}

static enum gw_target_event do_alarm(struct gw_in *in)
{
	gw_log_error(in->vm_name, "ALARM: migration from %s in state %s got a decision that does not fit: %s",
	             in->source_name, gw_target_state_name(in->machine.state), gw_error_text(&in->failure));
	return GW_IN_NO_EVENT;
}

/* SEND_FAILED comes before DESTROY, unlike its bit: the source should hear at once. */
static const struct {
	unsigned action;
	enum gw_target_event (*carry_out)(struct gw_in *in);
} actions[] = {
	{ GW_TARGET_DO_CREATE, do_create },
	{ GW_TARGET_DO_SEND_PREPARED, do_send_prepared },
	{ GW_TARGET_DO_LOAD, do_load },
	{ GW_TARGET_DO_SEND_READY, do_send_ready },
	{ GW_TARGET_DO_SEND_FAILED, do_send_failed },
	{ GW_TARGET_DO_ASK, do_ask },
	{ GW_TARGET_DO_FENCE_AND_RUN, do_fence_and_run },
	{ GW_TARGET_DO_RECORD_OWNER, do_record_owner },
	{ GW_TARGET_DO_SEND_RUNNING, do_send_running },
	{ GW_TARGET_DO_SEND_COMPLETE, do_send_complete },
	{ GW_TARGET_DO_DESTROY, do_destroy },
	{ GW_TARGET_DO_ALARM, do_alarm },
};

enum gw_target_event gw_in_carry_out(struct gw_in *in, unsigned todo)
{
	enum gw_target_event ev = GW_IN_NO_EVENT, one;

	for (size_t i = 0; i < GW_ARRAY_SIZE(actions); i++) {
		if (!(todo & actions[i].action))
			continue;
		one = actions[i].carry_out(in);
		if (one != GW_IN_NO_EVENT)
			ev = one;
	}
	return ev;
}
