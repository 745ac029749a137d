/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The switch at the source (N5): stop, last pages, device state, SENT; then the target's READY.
 *
 * Everything here is the guest's downtime. The order is not free: RAM must be complete at the target before it loads
 * the device state, and what the VMM writes to RAM while it saves its state must still be sent before that.
 */
#include <endian.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "migration/source_internal.h"
#include "transport/peer.h"

/* Drains the VMM's device state into memory. */
struct state_reader {
	int fd;
	char *data;
	size_t len, room;
	int error;
	struct gw_wait wait;
};

static void *read_state(void *arg)
{
	struct state_reader *s = arg;

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

static int save_state(struct gw_out *o, struct gw_error *err)
{
	struct state_reader s = { .room = 1u << 20 };
	sigset_t all, old;
	pthread_t thread;
	int pair[2], r;

	s.data = malloc(s.room);
	if (!s.data || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		free(s.data);
		return gw_error_set_errno(err, errno, "cannot make a socket for the device state");
	}
	s.fd = pair[0];
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = -pthread_create(&thread, NULL, read_state, &s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r == 0) {
		r = o->config.vm->ops->save_state(o->config.vm, pair[1],
		                                  gw_deadline_in(o->config.switch_timeout_ns), err);
		/* On failure the VMM may hold its end open: shut it, so that the reader ends. */
		shutdown(pair[1], r < 0 ? SHUT_RDWR : SHUT_WR);
		pthread_join(thread, NULL);
	}
	close(pair[0]);
	close(pair[1]);
	if (r == 0 && s.error)
		r = gw_error_set_errno(err, s.error, "cannot read the device state");
	if (r < 0) {
		free(s.data);
		return r;
	}
	free(o->state);
	o->state = s.data;
	o->state_bytes = s.len;
	return 0;
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
	};
	return gw_peer_send(o->control_fd, GW_WIRE_SENT, &sent, sizeof(sent), &o->wait, err);
}

static int last_pages(struct gw_out *o, struct gw_error *err)
{
	struct gw_sender_stats sent;
	int r = gw_out_collect(o, &o->final_dirty_bytes, err);

	if (r == 0)
		r = gw_out_send_pass(o, &sent, err);
	if (r < 0)
		return r;
	GW_LOCKED(&o->lock);
	if (o->report.n_passes < GW_REPORT_PASSES_MAX) {
		struct gw_pass_stats *s = &o->report.passes[o->report.n_passes];

		*s = (struct gw_pass_stats){
			.pass = o->pass, .pages = sent.pages, .zero_pages = sent.zero_pages,
			.wire_bytes = sent.wire_bytes, .duration_ns = gw_now_ns() - o->pass_began,
		};
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
	int r = gw_out_collect(o, &bytes, err);

	if (r < 0 || bytes == 0)
		return r;
	return gw_out_send_pass(o, &sent, err);
}

static int announce_switch(struct gw_out *o, struct gw_error *err)
{
	struct gw_wire_pass body = { .pass = htole32(o->pass + 1) };

	return gw_peer_send(o->control_fd, GW_WIRE_SWITCH, &body, sizeof(body), &o->wait, err);
}

int gw_out_stop_and_send(struct gw_out *o, struct gw_error *err)
{
	struct gw_vm *vm = o->config.vm;
	gw_time_ns t[6];
	int r = gw_fault("source-stop-begin");

	if (r == 0)
		r = announce_switch(o, err);
	if (r < 0)
		return r;
	o->wait.idle_ns = GW_MIN(o->wait.idle_ns, o->config.switch_timeout_ns);
	gw_sender_uncap(o->sender);
	t[0] = o->stop_began = gw_now_ns();
	r = vm->ops->pause(vm, gw_deadline_in(o->config.switch_timeout_ns), err);
	t[1] = gw_now_ns();
	if (r == 0)
		r = gw_fault("source-stopped");
	if (r == 0)
		r = last_pages(o, err);
	t[2] = gw_now_ns();
	if (r == 0)
		r = gw_fault("source-last-pages-sent");
	if (r == 0)
		r = save_state(o, err);
	t[3] = gw_now_ns();
	if (r == 0)
		r = gw_fault("source-state-saved");
	if (r == 0)
		r = late_pages(o, err);
	if (r == 0)
		r = send_state(o, err);
	t[4] = gw_now_ns();
	if (r < 0)
		return r;
	gw_out_phase(o, downtime, "stop", t[1] - t[0]);
	gw_out_phase(o, downtime, "last pages", t[2] - t[1]);
	gw_out_phase(o, downtime, "save device state", t[3] - t[2]);
	gw_out_phase(o, downtime, "send device state", t[4] - t[3]);
	return gw_fault("source-all-sent");
}

/* One READY, in answer to SENT or to a question. -EREMOTE when the target says that it failed. */
static int read_ready(struct gw_out *o, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = o->cancel_fd, .idle_ns = o->config.switch_timeout_ns };
	gw_autofree char *body = NULL;
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
	return 0;
}

/* READY is an old word when memory was compared meanwhile, or when this host was slow to read it: the target's VMM
 * may have died since. Its host is asked once more, so that COMMIT never names a copy known to be dead. */
static int still_ready(struct gw_out *o, struct gw_error *err)
{
	struct gw_wire_answer question = { .answer = htole32(GW_WIRE_ANSWER_WAIT) };
	gw_time_ns t0 = gw_now_ns();
	int r = gw_peer_send(o->control_fd, GW_WIRE_ANSWER, &question, sizeof(question), &o->wait, err);

	if (r == 0)
		r = read_ready(o, err);
	gw_out_phase(o, downtime, "confirm", gw_now_ns() - t0);
	return r;
}

/* -EREMOTE: the target says that it failed; other errors are the connection's or a cancel. */
int gw_out_await_ready(struct gw_out *o, struct gw_error *err)
{
	gw_time_ns t0 = gw_now_ns();
	int r = read_ready(o, err);

	if (r < 0)
		return r;
	gw_out_phase(o, downtime, "load device state at the target", gw_now_ns() - t0);
	(void)gw_fault("source-ready-received");
	if (o->config.verify)
		r = gw_out_verify(o, err);
	return r < 0 ? r : still_ready(o, err);
}
