/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vCPUs and device state of a QEMU: stop, save, load, cont.
 *
 * Theory of operation
 *
 * Everything here is inside the guest's downtime, so nothing sleeps or polls: replies and events end the
 * waits, and commands that need no answer in between travel together. Device state moves by QEMU's own
 * migration with capability x-ignore-shared, which leaves out the RAM that is a shared file; capability
 * `events` reports its end. Facts that the code rests on:
 *  - STOP is sent before the reply to `stop` and RESUME before that to `cont`; once `stop` is answered
 *    the devices are quiet too.
 *  - On the target the event "completed" is the last thing of loading: the VM is paused by then.
 *  - On the source it is not: the run state is "finish-migrate" for a moment longer, in which `cont` is
 *    refused. settle() waits for its end.
 *  - `cont` on a VM that still waits for its state succeeds, and runs it as soon as the state is in: it
 *    must never be sent then.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "hypervisor/qemu_internal.h"
#include "hypervisor/unix_socket.h"

#define FD_NAME "s"
#define UNLIMITED_BPS (1LL << 50)
#define EXIT_AFTER_FAILURE_NS (500 * GW_NS_PER_MS)

static bool is_event(const char *name, const struct gw_qmp_event *e)
{
	return strcmp(e->name, name) == 0;
}

static bool is_named(void *userdata, const struct gw_qmp_event *e)
{
	return is_event(userdata, e);
}

/* Has it been seen after `since`? Does not wait. */
static bool seen_event(struct gw_qmp *q, uint64_t since, const char *name)
{
	return gw_qmp_wait_event(q, since, is_named, (void *)name, 0, NULL) == 0;
}

enum migration_end { END_NONE, END_COMPLETED, END_FAILED, END_CANCELLED };

static enum migration_end migration_end(const char *status)
{
	if (strcmp(status, "completed") == 0)
		return END_COMPLETED;
	if (strcmp(status, "failed") == 0)
		return END_FAILED;
	return strcmp(status, "cancelled") == 0 ? END_CANCELLED : END_NONE;
}

static bool is_migration_end(void *userdata, const struct gw_qmp_event *e)
{
	const char *status = json_string_value(json_object_get(e->data, "status"));

	if (!is_event("MIGRATION", e) || !status)
		return false;
	*(enum migration_end *)userdata = migration_end(status);
	return *(enum migration_end *)userdata != END_NONE;
}

/* QEMU's migration status; its own words for a failure go to `ret_why` (may be NULL). */
static int query_migration(struct gw_qemu *q, gw_time_ns deadline, char *ret, size_t len, char *ret_why,
                           size_t why_len, struct gw_error *err)
{
	struct gw_qmp_call call = { .command = "query-migrate" };
	const char *status, *why;
	int r = gw_qemu_run(q, &call, 1, -1, deadline, err);

	if (r < 0)
		return r;
	status = json_string_value(json_object_get(call.reply, "status"));
	why = json_string_value(json_object_get(call.reply, "error-desc"));
	snprintf(ret, len, "%s", status ? status : "none");
	if (ret_why)
		snprintf(ret_why, why_len, "%s", why ? why : "QEMU gave no reason");
	json_decref(call.reply);
	return 0;
}

/* After a migration's end: until QEMU is out of the state in which it refuses to run the VM. Each query
 * is answered by the thread that leads out of that state, which is wait enough. */
static int settle(struct gw_qemu *q, gw_time_ns deadline, struct gw_error *err)
{
	char state[32];

	do {
		int r = gw_qemu_runstate(q, deadline, state, sizeof(state), err);

		if (r < 0)
			return r;
		if (gw_now_ns() >= deadline)
			return gw_error_set(err, -ETIMEDOUT, "VM %s: its migration does not end", q->name);
	} while (strcmp(state, "finish-migrate") == 0);
	return 0;
}

int gw_qemu_configure(struct gw_qemu *q, gw_time_ns deadline, struct gw_error *err)
{
	json_t *capabilities = json_pack("{s:[{s:s, s:b}, {s:s, s:b}]}", "capabilities",
	                                 "capability", "x-ignore-shared", "state", 1,
	                                 "capability", "events", "state", 1);
	/* Announcing is done after the commit; only the network may slow the state down. */
	json_t *parameters = json_pack("{s:i, s:I}", "announce-rounds", 0, "max-bandwidth",
	                               (json_int_t)UNLIMITED_BPS);
	struct gw_qmp_call calls[] = {
		{ .command = "migrate-set-capabilities", .arguments = capabilities },
		{ .command = "migrate-set-parameters", .arguments = parameters },
	};
	int r = gw_qemu_run(q, calls, GW_ARRAY_SIZE(calls), -1, deadline, err);

	for (unsigned i = 0; i < GW_ARRAY_SIZE(calls) && r == 0; i++)
		json_decref(calls[i].reply);
	return r;
}

/* ---- vCPUs ---- */

static int run_and_look_for(struct gw_qemu *q, const char *command, const char *event,
                            gw_time_ns deadline, bool *ret_seen, struct gw_error *err)
{
	struct gw_qmp_call call = { .command = command };
	struct gw_qmp *qmp;
	uint64_t since;
	int r = gw_qemu_qmp(q, deadline, &qmp, err);

	if (r < 0)
		return r;
	since = gw_qmp_events(qmp);
	r = gw_qemu_run(q, &call, 1, -1, deadline, err);
	if (r == 0) {
		*ret_seen = seen_event(qmp, since, event);
		json_decref(call.reply);
	}
	gw_qmp_unref(qmp);
	return r;
}

int gw_qemu_pause(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	char state[32];
	bool seen;
	int r = gw_qemu_throttle(vm, 0, NULL); /* or `stop` would wait for vCPUs that cannot hear it */

	if (r == 0)
		r = run_and_look_for(q, "stop", "STOP", deadline, &seen, err);

	if (r < 0 || seen)
		return r;
	r = gw_qemu_runstate(q, deadline, state, sizeof(state), err); /* stood still before */
	if (r == 0 && strcmp(state, "running") == 0)
		return gw_error_set(err, -EIO, "VM %s: QEMU says that it runs, after stop", q->name);
	return r;
}

/* -EBUSY while the VM waits for device state. */
static int check_whole(struct gw_qemu *q, gw_time_ns deadline, struct gw_error *err)
{
	char state[32];
	int r;

	if (!q->rec.incoming || q->loaded)
		return 0;
	r = gw_qemu_runstate(q, deadline, state, sizeof(state), err);
	if (r < 0)
		return r;
	if (strcmp(state, "inmigrate") == 0)
		return gw_error_set(err, -EBUSY, "VM %s cannot run: its device state has not arrived",
		                    q->name);
	q->loaded = true;
	return 0;
}

int gw_qemu_resume(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct gw_error first = GW_ERROR_INIT;
	char state[32];
	bool seen = false;
	int r = check_whole(q, deadline, err);

	if (r < 0)
		return r;
	r = run_and_look_for(q, "cont", "RESUME", deadline, &seen, &first);
	if (r == -EREMOTEIO) { /* perhaps a save has only just ended */
		r = settle(q, deadline, err);
		if (r < 0)
			return r;
		r = run_and_look_for(q, "cont", "RESUME", deadline, &seen, &first);
	}
	if (r < 0)
		return gw_error_set(err, r, "%s", gw_error_text(&first));
	if (seen)
		return 0;
	r = gw_qemu_runstate(q, deadline, state, sizeof(state), err);
	if (r == 0 && strcmp(state, "running") != 0)
		return gw_error_set(err, -EIO, "VM %s does not run: QEMU's state is %s", q->name, state);
	return r;
}

/* ---- saving ---- */

/* Passes fd to QEMU (unless it is -1: has been passed) and names it to `command`; both travel in one message. */
static int hand_over_fd(struct gw_qemu *q, const char *command, int fd, gw_time_ns deadline,
                        struct gw_error *err)
{
	struct gw_qmp_call calls[2];
	unsigned n = 0;
	int r;

	if (fd >= 0)
		calls[n++] = (struct gw_qmp_call){ .command = "getfd",
			                           .arguments = json_pack("{s:s}", "fdname", FD_NAME) };
	if (command)
		calls[n++] = (struct gw_qmp_call){ .command = command,
			                           .arguments = json_pack("{s:s}", "uri", "fd:" FD_NAME) };
	r = gw_qemu_run(q, calls, n, fd, deadline, err);
	for (unsigned i = 0; i < n && r == 0; i++)
		json_decref(calls[i].reply);
	return r;
}

int gw_qemu_save_prepare(struct gw_vm *vm, int fd, gw_time_ns deadline, struct gw_error *err)
{
	return hand_over_fd(gw_qemu_of(vm), NULL, fd, deadline, err);
}

/* One at a time begins or cancels a save. */
static int gate_enter(struct gw_qemu *q, gw_time_ns deadline)
{
	int r = 0;
	GW_LOCKED(&q->lock);

	while (q->gate_taken && r == 0)
		r = gw_cond_wait(&q->gate_left, &q->lock, deadline);
	if (r == 0)
		q->gate_taken = true;
	return r;
}

static void gate_leave(struct gw_qemu *q)
{
	GW_LOCKED(&q->lock);

	q->gate_taken = false;
	pthread_cond_signal(&q->gate_left);
}

static int save_outcome(struct gw_qemu *q, enum migration_end end, gw_time_ns deadline,
                        struct gw_error *err)
{
	char status[32], why[512];
	int r;

	if (end == END_COMPLETED)
		return 0;
	if (end == END_CANCELLED)
		return gw_error_set(err, -ECANCELED, "VM %s: saving its device state was cancelled", q->name);
	r = query_migration(q, deadline, status, sizeof(status), why, sizeof(why), err);
	return r < 0 ? r : gw_error_set(err, -EIO, "VM %s: cannot save its device state: %s", q->name, why);
}

static int save_begin(struct gw_qemu *q, int fd, gw_time_ns deadline, struct gw_error *err)
{
	struct gw_qmp *qmp;
	int r = gw_qemu_qmp(q, deadline, &qmp, err);

	if (r < 0)
		return r;
	q->cancel_wanted = false;
	q->saving = true;
	r = gate_enter(q, deadline);
	if (r == 0) {
		q->save_since = gw_qmp_events(qmp);
		r = q->cancel_wanted ? gw_error_set(err, -ECANCELED, "VM %s: cancelled", q->name) :
		    hand_over_fd(q, "migrate", fd, deadline, err);
		gate_leave(q);
	} else {
		gw_error_set(err, r, "VM %s: another save of its device state does not end", q->name);
	}
	if (r < 0)
		q->saving = false;
	gw_qmp_unref(qmp);
	return r;
}

static int save_wait(struct gw_qemu *q, gw_time_ns deadline, struct gw_error *err)
{
	enum migration_end end;
	struct gw_qmp *qmp;
	int r = gw_qemu_qmp(q, deadline, &qmp, err);

	if (r == 0) {
		r = gw_qmp_wait_event(qmp, q->save_since, is_migration_end, &end, deadline, err);
		r = r < 0 ? gw_qemu_explain(q, r, "saving its device state", err) :
		    save_outcome(q, end, deadline, err);
		gw_qmp_unref(qmp);
	}
	q->saving = false;
	return r;
}

int gw_qemu_save_begin(struct gw_vm *vm, int fd, gw_time_ns deadline, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	gw_qemu_ask_begin(q);
	return gw_qemu_ask_end(q, save_begin(q, fd, deadline, err));
}

int gw_qemu_save_wait(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	gw_qemu_ask_begin(q);
	return gw_qemu_ask_end(q, save_wait(q, deadline, err));
}

static int cancel_gated(struct gw_qemu *q, struct gw_qmp *qmp, gw_time_ns deadline,
                         bool *ret_running, uint64_t *ret_since, struct gw_error *err)
{
	struct gw_qmp_call call = { .command = "migrate_cancel" };
	char status[32];
	int r = gate_enter(q, deadline);

	if (r < 0)
		return gw_error_set(err, r, "VM %s: QEMU does not answer", q->name);
	*ret_since = gw_qmp_events(qmp);
	r = gw_qemu_run(q, &call, 1, -1, deadline, err);
	if (r == 0) {
		json_decref(call.reply);
		r = query_migration(q, deadline, status, sizeof(status), NULL, 0, err);
	}
	gate_leave(q);
	if (r == 0)
		*ret_running = strcmp(status, "none") != 0 && migration_end(status) == END_NONE;
	return r;
}

static int cancel_save(struct gw_qemu *q, gw_time_ns deadline, struct gw_error *err)
{
	enum migration_end end;
	struct gw_qmp *qmp;
	uint64_t since = 0;
	bool running = false;
	int r;

	q->cancel_wanted = q->saving; /* for a save that has not got as far as telling QEMU */
	r = gw_qemu_qmp(q, deadline, &qmp, err);
	if (r < 0)
		return r;
	r = cancel_gated(q, qmp, deadline, &running, &since, err);
	if (r == 0 && running) {
		r = gw_qmp_wait_event(qmp, since, is_migration_end, &end, deadline, err);
		if (r < 0)
			r = gw_qemu_explain(q, r, "cancelling the save of its device state", err);
	}
	gw_qmp_unref(qmp);
	if (r == 0)
		r = settle(q, deadline, err);
	if (r == 0)
		q->saving = false; /* nobody need have waited for it */
	return r;
}

int gw_qemu_cancel_save(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	gw_qemu_ask_begin(q);
	return gw_qemu_ask_end(q, cancel_save(q, deadline, err));
}

/* ---- loading ---- */

int gw_qemu_load_begin(struct gw_vm *vm, int fd, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	gw_time_ns deadline = gw_deadline_in(GW_QEMU_ANSWER_NS);
	struct gw_qmp *qmp;
	int r = gw_qemu_qmp(q, deadline, &qmp, err);

	if (r < 0)
		return r;
	q->load_since = gw_qmp_events(qmp);
	gw_qmp_unref(qmp);
	r = hand_over_fd(q, "migrate-incoming", fd, deadline, err);
	if (r == 0)
		q->load_begun = true;
	return r;
}

int gw_qemu_load_wait(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	enum migration_end end;
	struct gw_qmp *qmp;
	int r;

	if (!q->load_begun)
		return gw_error_set(err, -EINVAL, "VM %s: its device state was never asked for", q->name);
	r = gw_qemu_qmp(q, deadline, &qmp, err);
	if (r < 0)
		return r;
	r = gw_qmp_wait_event(qmp, q->load_since, is_migration_end, &end, deadline, err);
	gw_qmp_unref(qmp);
	if (r == 0 && end == END_COMPLETED) {
		q->loaded = true;
		return 0;
	}
	if (r == 0) { /* this QEMU says why on its way out */
		gw_unix_wait(q->pidfd, POLLIN, gw_deadline_in(EXIT_AFTER_FAILURE_NS));
		r = gw_error_set(err, -EIO, "QEMU reports a failure");
	}
	return gw_qemu_explain(q, r, "cannot load its device state", err);
}
