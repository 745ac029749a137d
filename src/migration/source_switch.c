/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The switch at the source (N5): stop, last pages, device state, SENT; then the target's READY.
 *
 * Everything here is the guest's downtime. The order is not free: RAM must be complete at the target before it loads
 * the device state, and what the VMM writes to RAM while it saves its state must still be sent before that.
 */
#include <endian.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "migration/source_internal.h"
#include "transport/peer.h"

/* The VMM's device state, drained into memory by a thread. */
struct save {
	int fd, vmm_fd;
	pthread_t reader;
	bool reading;

	/* the thread's until it is joined */
	char *data;
	size_t len, room;
	int error;
};

static void *read_state(void *arg)
{
	struct save *s = arg;

	for (;;) {
		ssize_t n;

		if (s->len == s->room) {
			char *bigger = s->room >= GW_WIRE_STATE_TOTAL_MAX ? NULL : realloc(s->data, s->room * 2);

			if (!bigger) {
				s->error = -EFBIG;
				return NULL;
			}
			s->data = bigger;
			s->room *= 2;
		}
		n = read(s->fd, s->data + s->len, s->room - s->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			s->error = -errno;
		if (n <= 0)
			return NULL;
		s->len += (size_t)n;
	}
}

/* Before the pause: socket, thread, and the VMM's end of it. */
static int prepare_save(struct gw_out *o, struct save *s, struct gw_error *err)
{
	int pair[2], r;

	*s = (struct save){ .fd = -1, .vmm_fd = -1, .room = 1u << 20 };
	s->data = malloc(s->room);
	if (!s->data || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return gw_error_set_errno(err, errno, "cannot make a socket for the device state");
	s->fd = pair[0];
	s->vmm_fd = pair[1];
	r = o->config.vm->ops->save_prepare(o->config.vm, s->vmm_fd, gw_deadline_in(o->config.switch_timeout_ns), err);
	if (r < 0)
		return r;
	s->reading = gw_thread_start(&s->reader, NULL, read_state, s) == 0;
	return s->reading ? 0 : gw_error_set(err, EAGAIN, "cannot start a thread for the device state");
}

static int begin_save(struct gw_out *o, struct gw_error *err)
{
	return o->config.vm->ops->save_begin(o->config.vm, -1, gw_deadline_in(o->config.switch_timeout_ns), err);
}

static int finish_save(struct gw_out *o, struct save *s, struct gw_error *err)
{
	int r = o->config.vm->ops->save_wait(o->config.vm, gw_deadline_in(o->config.switch_timeout_ns), err);

	if (r < 0)
		return r;
	shutdown(s->vmm_fd, SHUT_WR);
	pthread_join(s->reader, NULL);
	s->reading = false;
	if (s->error)
		return gw_error_set_errno(err, s->error, "cannot read the device state");
	free(o->state);
	o->state = gw_steal(&s->data);
	o->state_bytes = s->len;
	return 0;
}

static void end_save(struct save *s)
{
	/* On failure the VMM may hold its end open: shut it, so that the reader ends. */
	if (s->vmm_fd >= 0)
		shutdown(s->vmm_fd, SHUT_RDWR);
	if (s->reading)
		pthread_join(s->reader, NULL);
	if (s->vmm_fd >= 0)
		close(s->vmm_fd);
	if (s->fd >= 0)
		close(s->fd);
	free(s->data);
}

static int send_state(struct gw_out *o, struct gw_error *err)
{
	struct gw_sender_stats totals;
	struct gw_wire_sent sent;

	for (size_t at = 0; at < o->state_bytes; at += GW_WIRE_STATE_CHUNK_MAX) {
		int r = gw_peer_send(o->control_fd, GW_WIRE_STATE, o->state + at,
		                     GW_MIN(o->state_bytes - at, GW_WIRE_STATE_CHUNK_MAX), &o->wait, err);

		if (r < 0)
			return r;
	}
	gw_sender_progress(o->sender, &totals);
	sent = (struct gw_wire_sent){
		.pass = htole32(o->pass),
		.pages = htole64(totals.pages),
		.state_bytes = htole64(o->state_bytes),
		.state_digest = htole64(XXH3_64bits(o->state, o->state_bytes)),
		.owed_pages = htole64(o->owed_pages),
	};
	return gw_peer_send(o->control_fd, GW_WIRE_SENT, &sent, sizeof(sent), &o->wait, err);
}

static int begin_last_pages(struct gw_out *o, struct gw_error *err)
{
	uint64_t bytes;
	int r = gw_out_collect(o, false, &bytes, err);

	if (r == 0)
		gw_out_begin_pass(o);
	return r;
}

static int finish_last_pages(struct gw_out *o, struct gw_error *err)
{
	struct gw_sender_stats sent;
	int r = gw_out_finish_pass(o, &sent, err);

	if (r < 0)
		return r;
	GW_LOCKED(&o->lock);
	if (o->report.n_passes < GW_REPORT_PASSES_MAX) {
		struct gw_pass_stats *s = &o->report.passes[o->report.n_passes];

		*s = (struct gw_pass_stats){ .pass = o->pass, .duration_ns = gw_now_ns() - o->pass_began };
		gw_out_fill_stats(s, &sent);
		snprintf(o->report.decisions[o->report.n_passes].reason,
		         sizeof(o->report.decisions[0].reason), "last pages, guest paused");
		o->report.n_passes++;
	}
	return 0;
}

/* What the VMM wrote to RAM while it saved its state (usually nothing) belongs to the image too. */
static int late_pages(struct gw_out *o, struct gw_error *err)
{
	struct gw_sender_stats sent;
	uint64_t bytes;
	int r = gw_out_collect(o, true, &bytes, err);

	if (r < 0 || bytes == 0)
		return r;
	gw_out_begin_pass(o);
	return gw_out_finish_pass(o, &sent, err);
}

static int announce_switch(struct gw_out *o, struct gw_error *err)
{
	struct gw_wire_pass body = { .pass = htole32(o->pass + 1), .owing = htole32(o->postcopy) };

	return gw_peer_send(o->control_fd, GW_WIRE_SWITCH, &body, sizeof(body), &o->wait, err);
}

/* t: before and after. */
static int pause_guest(struct gw_out *o, gw_time_ns t[2], struct gw_error *err)
{
	int r;

	t[0] = o->stop_began = gw_now_ns();
	r = o->config.vm->ops->pause(o->config.vm, gw_deadline_in(o->config.switch_timeout_ns), err);
	t[1] = gw_now_ns();
	return r < 0 ? r : gw_fault("source-stopped");
}

/* The guest stands still from here on: the last pages are looked for, and go out, while the VMM saves its state. */
static int stop_save_send(struct gw_out *o, struct save *save, struct gw_error *err)
{
	gw_time_ns t[6];
	int r, r2;

	r = pause_guest(o, t, err);
	if (r == 0)
		r = begin_save(o, err);
	if (r == 0)
		r = begin_last_pages(o, err);
	if (r < 0)
		return r;
	t[2] = gw_now_ns();
	r = finish_save(o, save, err);
	t[3] = gw_now_ns();
	r2 = finish_last_pages(o, r < 0 ? NULL : err);
	if (r == 0)
		r = r2 < 0 ? r2 : gw_fault("source-state-saved");
	t[4] = gw_now_ns();
	if (r == 0)
		r = gw_fault("source-last-pages-sent");
	if (r == 0)
		r = late_pages(o, err);
	if (r == 0)
		r = send_state(o, err);
	t[5] = gw_now_ns();
	if (r < 0)
		return r;
	gw_out_phase(o, downtime, "stop", t[1] - t[0]);
	gw_out_phase(o, downtime, "find last pages (device state is saved meanwhile)", t[2] - t[1]);
	gw_out_phase(o, downtime, "rest of saving device state", t[3] - t[2]);
	gw_out_phase(o, downtime, "rest of last pages", t[4] - t[3]);
	gw_out_phase(o, downtime, "send device state", t[5] - t[4]);
	return gw_fault("source-all-sent");
}

/* The guest stands still from here on: all that is left is owed, the VMM's own last writes included. */
static int stop_save_owe(struct gw_out *o, struct save *save, struct gw_error *err)
{
	gw_time_ns t[6];
	uint64_t bytes;
	int r;

	r = pause_guest(o, t, err);
	if (r == 0)
		r = begin_save(o, err);
	if (r == 0)
		r = gw_out_collect(o, false, &bytes, err);
	t[2] = gw_now_ns();
	if (r == 0)
		r = finish_save(o, save, err);
	t[3] = gw_now_ns();
	if (r == 0)
		r = gw_fault("source-state-saved");
	if (r == 0)
		r = gw_out_collect(o, true, &bytes, err);
	if (r == 0)
		r = gw_out_send_owed(o, err);
	if (r == 0)
		r = gw_out_begin_push(o, err);
	t[4] = gw_now_ns();
	if (r == 0)
		r = send_state(o, err);
	t[5] = gw_now_ns();
	if (r < 0)
		return r;
	gw_out_phase(o, downtime, "stop", t[1] - t[0]);
	gw_out_phase(o, downtime, "find owed pages (device state is saved meanwhile)", t[2] - t[1]);
	gw_out_phase(o, downtime, "rest of saving device state", t[3] - t[2]);
	gw_out_phase(o, downtime, "name owed pages", t[4] - t[3]);
	gw_out_phase(o, downtime, "send device state", t[5] - t[4]);
	return gw_fault("source-all-sent");
}

/* What the sockets still hold would have to be worked off in the guest's downtime, and so would page tables that are
 * not populated yet: before the pause the target says that it is done with both. */
static int settle_target(struct gw_out *o, struct gw_error *err)
{
	struct gw_wire_pass body = { .pass = htole32(o->pass) };
	gw_autofree char *reply = NULL;
	struct gw_wire_frame f;
	gw_time_ns t0 = gw_now_ns();
	int r = gw_peer_send(o->control_fd, GW_WIRE_PASS, &body, sizeof(body), &o->wait, err);

	if (r == 0)
		r = gw_peer_expect(o->control_fd, GW_WIRE_PASS, &f, &reply, &o->wait, err);
	gw_out_phase(o, setup, "target catches up before the pause", gw_now_ns() - t0);
	return r;
}

int gw_out_stop_and_send(struct gw_out *o, struct gw_error *err)
{
	struct save save;
	int r = prepare_save(o, &save, err);

	if (r == 0 && o->pass > 0) /* without a pass nothing has been sent */
		r = settle_target(o, err);
	if (r == 0)
		r = gw_fault("source-stop-begin");
	if (r == 0)
		r = announce_switch(o, err);
	o->wait.idle_ns = GW_MIN(o->wait.idle_ns, o->config.switch_timeout_ns);
	gw_sender_uncap(o->sender);
	if (r == 0)
		r = (o->postcopy ? stop_save_owe : stop_save_send)(o, &save, err);
	end_save(&save);
	return r;
}

/* One READY, in answer to SENT or to a question. -EREMOTE when the target says that it failed. */
static int read_ready(struct gw_out *o, bool *ret_owing, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = o->cancel_fd, .idle_ns = o->config.switch_timeout_ns };
	gw_autofree char *body = NULL;
	struct gw_wire_ready ready;
	struct gw_wire_frame f;
	int r = gw_peer_recv(o->control_fd, &f, &body, &w, err);

	if (r < 0)
		return r;
	if (f.type == GW_WIRE_FAILED) {
		gw_peer_failure(&f, body, err);
		return -EREMOTE;
	}
	if (f.type != GW_WIRE_READY)
		return gw_error_set(err, EPROTO, "the other host sent %s where READY was due", gw_wire_frame_name(f.type));
	memcpy(&ready, body, sizeof(ready));
	*ret_owing = ready.owed_pages != 0;
	GW_LOCKED(&o->lock);
	o->report.populate_ns = (gw_time_ns)le64toh(ready.populate_ns);
	o->report.huge_after_bytes = le64toh(ready.huge_bytes);
	return 0;
}

/* READY is an old word when memory was compared meanwhile, or when this host was slow to read it: the target's VMM
 * may have died since. Its host is asked once more, so that COMMIT never names a copy known to be dead. */
static int still_ready(struct gw_out *o, bool *ret_owing, struct gw_error *err)
{
	struct gw_wire_answer question = { .answer = htole32(GW_WIRE_ANSWER_WAIT) };
	gw_time_ns t0 = gw_now_ns();
	int r = gw_peer_send(o->control_fd, GW_WIRE_ANSWER, &question, sizeof(question), &o->wait, err);

	if (r == 0)
		r = read_ready(o, ret_owing, err);
	gw_out_phase(o, downtime, "confirm", gw_now_ns() - t0);
	return r;
}

/* -EREMOTE: the target says that it failed; other errors are the connection's or a cancel. */
int gw_out_await_ready(struct gw_out *o, bool *ret_owing, struct gw_error *err)
{
	gw_time_ns t0 = gw_now_ns();
	int r = read_ready(o, ret_owing, err);

	if (r < 0)
		return r;
	gw_out_phase(o, downtime, "load device state at the target", gw_now_ns() - t0);
	(void)gw_fault("source-ready-received");
	if (o->config.verify)
		r = gw_out_verify(o, err);
	if (r == 0)
		r = still_ready(o, ret_owing, err);
	if (r == 0 && gw_now_ns() > o->config.deadline)
		r = gw_error_set(err, ETIME, "not finished within its time-out");
	return r;
}
