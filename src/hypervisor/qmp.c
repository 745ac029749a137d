/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A QMP client: commands from any thread, events in any order. */
#include "hypervisor/qmp.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "hypervisor/qmp_parse.h"
#include "hypervisor/unix_socket.h"

#define EVENTS_KEPT 256
#define READER_STACK_BYTES (512u << 10) /* the JSON parser recurses up to its own limit */

/* Somebody waits for the reply to `id`. Lives on the waiter's stack, on the list until replied. */
struct pending {
	struct pending *next;
	uint64_t id;
	bool replied;
	struct gw_qmp_message message;
};

struct kept_event {
	char name[GW_QMP_EVENT_NAME_MAX];
	json_t *data;
};

struct gw_qmp {
	/* Set before the reader starts. */
	int fd;
	pthread_t reader;
	atomic_uint refs;

	/* Keeps one sender's bytes together. Taken before `lock`. */
	pthread_mutex_t send_lock;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Protected by lock. */
	bool greeted;
	bool dead;
	const char *why;             /* why it is dead, for people */
	uint64_t next_id;
	struct pending *pending;
	uint64_t n_events;           /* seq of the newest one kept; the first has 1 */
	struct kept_event events[EVENTS_KEPT];

	/* The reader's own. */
	struct gw_qmp_parser parser;
};

/* ---- the reader ---- */

static void keep_event(struct gw_qmp *q, struct gw_qmp_message *m)
{
	struct kept_event *e = &q->events[++q->n_events % EVENTS_KEPT];

	json_decref(e->data);
	memcpy(e->name, m->event, sizeof(e->name));
	e->data = gw_steal(&m->body);
}

static void keep_reply(struct gw_qmp *q, struct gw_qmp_message *m)
{
	for (struct pending **p = &q->pending; *p; p = &(*p)->next) {
		struct pending *found = *p;

		if (!m->has_id || found->id != m->id)
			continue;
		*p = found->next;
		found->replied = true;
		found->message = *m;
		m->body = NULL;
		return;
	}
	/* A reply that came after its waiter's deadline. */
}

static void on_message(void *userdata, struct gw_qmp_message *m)
{
	struct gw_qmp *q = userdata;
	GW_LOCKED(&q->lock);

	switch (m->kind) {
	case GW_QMP_GREETING:
		q->greeted = true;
		break;
	case GW_QMP_EVENT:
		keep_event(q, m);
		break;
	case GW_QMP_RETURN:
	case GW_QMP_ERROR:
		keep_reply(q, m);
		break;
	}
	pthread_cond_broadcast(&q->changed);
}

static void mark_dead(struct gw_qmp *q, const char *why)
{
	GW_LOCKED(&q->lock);

	if (!q->dead) {
		q->dead = true;
		q->why = why;
	}
	pthread_cond_broadcast(&q->changed);
}

static void *read_all(void *arg)
{
	struct gw_qmp *q = arg;
	const char *why = "QEMU closed its control connection";
	char buf[16384];

	for (;;) {
		ssize_t n = recv(q->fd, buf, sizeof(buf), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		if (gw_qmp_parser_feed(&q->parser, buf, (size_t)n, on_message, q) < 0) {
			why = "QEMU sent something that is not QMP";
			shutdown(q->fd, SHUT_RDWR);
			break;
		}
	}
	mark_dead(q, why);
	return NULL;
}

/* ---- life ---- */

static void init_locks(struct gw_qmp *q)
{
	pthread_mutex_init(&q->send_lock, NULL);
	pthread_mutex_init(&q->lock, NULL);
	gw_cond_init(&q->changed);
}

static void destroy(struct gw_qmp *q)
{
	close(q->fd);
	for (unsigned i = 0; i < EVENTS_KEPT; i++)
		json_decref(q->events[i].data);
	gw_qmp_parser_done(&q->parser);
	pthread_cond_destroy(&q->changed);
	pthread_mutex_destroy(&q->lock);
	pthread_mutex_destroy(&q->send_lock);
	free(q);
}

static int start_reader(struct gw_qmp *q)
{
	pthread_attr_t attr;
	sigset_t all;
	int r;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setsigmask_np(&attr, &all);
	pthread_attr_setstacksize(&attr, READER_STACK_BYTES);
	r = pthread_create(&q->reader, &attr, read_all, q);
	pthread_attr_destroy(&attr);
	if (r == 0)
		pthread_setname_np(q->reader, "qmp");
	return -r;
}

struct gw_qmp *gw_qmp_ref(struct gw_qmp *q)
{
	atomic_fetch_add(&q->refs, 1);
	return q;
}

void gw_qmp_unref(struct gw_qmp *q)
{
	if (!q || atomic_fetch_sub(&q->refs, 1) != 1)
		return;
	shutdown(q->fd, SHUT_RDWR);
	pthread_join(q->reader, NULL);
	destroy(q);
}

bool gw_qmp_dead(struct gw_qmp *q)
{
	GW_LOCKED(&q->lock);

	return q->dead;
}

/* ---- waiting; `lock` is held ---- */

/* 0 after a change, -ETIMEDOUT past the deadline, -ESRCH when the connection has ended. */
static int wait_change(struct gw_qmp *q, gw_time_ns deadline)
{
	return q->dead ? -ESRCH : gw_cond_wait(&q->changed, &q->lock, deadline);
}

static int explain(struct gw_qmp *q, int code, const char *what, struct gw_error *err)
{
	if (code == -ESRCH)
		return gw_error_set(err, code, "%s: %s", what, q->why);
	if (code == -ETIMEDOUT)
		return gw_error_set(err, code, "%s: QEMU did not answer in time", what);
	return gw_error_set_errno(err, code, "%s", what);
}

static int wait_greeting(struct gw_qmp *q, gw_time_ns deadline, struct gw_error *err)
{
	GW_LOCKED(&q->lock);

	while (!q->greeted) {
		int r = wait_change(q, deadline);

		if (r < 0)
			return explain(q, r, "waiting for QEMU's greeting", err);
	}
	return 0;
}

/* ---- sending; `send_lock` is held ---- */

static int send_bytes(struct gw_qmp *q, const char *bytes, size_t len, int fd, gw_time_ns deadline,
                      size_t *ret_sent)
{
	size_t sent = 0;
	int r = 0;

	while (sent < len && r == 0) {
		struct iovec iov = { (char *)bytes + sent, len - sent };
		union {
			char buf[CMSG_SPACE(sizeof(int))];
			struct cmsghdr align;
		} control = { .buf = { 0 } };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n;

		if (fd >= 0) {
			msg.msg_control = control.buf;
			msg.msg_controllen = sizeof(control.buf);
			control.align.cmsg_level = SOL_SOCKET;
			control.align.cmsg_type = SCM_RIGHTS;
			control.align.cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &fd, sizeof(fd));
		}
		n = sendmsg(q->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			sent += (size_t)n;
			fd = -1;
		} else if (errno == EAGAIN) {
			r = gw_unix_wait(q->fd, POLLOUT, deadline);
		} else if (errno != EINTR) {
			r = errno == EPIPE || errno == ECONNRESET ? -ESRCH : -errno;
		}
	}
	*ret_sent = sent;
	return r;
}

/* Half a command on the wire leaves the connection of no use. */
static int send_all(struct gw_qmp *q, const char *bytes, size_t len, int fd, gw_time_ns deadline)
{
	size_t sent = 0;
	int r = send_bytes(q, bytes, len, fd, deadline, &sent);

	if (r < 0 && sent > 0) {
		mark_dead(q, "a command could not be sent whole");
		shutdown(q->fd, SHUT_RDWR);
	}
	return r;
}

/* QEMU reads its control socket a byte at a time: what is not sent need not be waited for. */
static int append_call(char **text, size_t *len, const char *command, const json_t *arguments,
                       uint64_t id)
{
	json_t *object = json_pack("{s:s, s:O*, s:I}", "execute", command, "arguments", arguments, "id",
	                           (json_int_t)id);
	size_t more = object ? json_dumpb(object, NULL, 0, JSON_COMPACT) : 0;
	char *longer = more ? realloc(*text, *len + more + 1) : NULL;

	if (longer) {
		json_dumpb(object, longer + *len, more, JSON_COMPACT);
		*text = longer;
		*len += more;
		(*text)[(*len)++] = '\n';
	}
	json_decref(object);
	return longer ? 0 : -ENOMEM;
}

static void expect_reply(struct gw_qmp *q, struct pending *p)
{
	GW_LOCKED(&q->lock);

	*p = (struct pending){ .id = ++q->next_id, .next = q->pending };
	q->pending = p;
}

static int send_calls(struct gw_qmp *q, struct gw_qmp_call *calls, struct pending *pending, unsigned n,
                      int fd, gw_time_ns deadline)
{
	gw_autofree char *text = NULL;
	size_t len = 0;
	GW_LOCKED(&q->send_lock);

	for (unsigned i = 0; i < n; i++) {
		int r;

		expect_reply(q, &pending[i]);
		r = append_call(&text, &len, calls[i].command, calls[i].arguments, pending[i].id);
		if (r < 0)
			return r;
	}
	return send_all(q, text, len, fd, deadline);
}

/* ---- commands ---- */

static void forget(struct gw_qmp *q, struct pending *pending, unsigned n)
{
	GW_LOCKED(&q->lock);

	for (unsigned i = 0; i < n; i++)
		for (struct pending **p = &q->pending; *p; p = &(*p)->next)
			if (*p == &pending[i]) {
				*p = pending[i].next;
				break;
			}
}

static int collect(struct gw_qmp *q, struct gw_qmp_call *call, struct pending *p, gw_time_ns deadline,
                   struct gw_error *err)
{
	GW_LOCKED(&q->lock);

	while (!p->replied) {
		int r = wait_change(q, deadline);

		if (r < 0 && !p->replied)
			return explain(q, r, call->command, err);
	}
	if (p->message.kind == GW_QMP_ERROR)
		return gw_error_set(err, -EREMOTEIO, "QEMU refused %s: %s", call->command,
		                    p->message.desc);
	call->reply = gw_steal(&p->message.body);
	return 0;
}

#define CALLS_MAX 8

int gw_qmp_run(struct gw_qmp *q, struct gw_qmp_call *calls, unsigned n, int fd, gw_time_ns deadline,
               struct gw_error *err)
{
	struct pending pending[CALLS_MAX] = { { .id = 0 } };
	int result = n <= CALLS_MAX ? 0 : -E2BIG;

	if (result == 0)
		result = send_calls(q, calls, pending, n, fd, deadline);
	if (result < 0) {
		GW_LOCKED(&q->lock);
		explain(q, result, calls[0].command, err);
	}
	for (unsigned i = 0; i < n; i++) {
		int r;

		json_decref(calls[i].arguments);
		calls[i].arguments = NULL;
		calls[i].reply = NULL;
		if (result < 0 && result != -EREMOTEIO)
			continue;
		r = collect(q, &calls[i], &pending[i], deadline, result ? NULL : err);
		if (result == 0)
			result = r;
	}
	forget(q, pending, GW_MIN(n, CALLS_MAX));
	for (unsigned i = 0; i < GW_MIN(n, CALLS_MAX); i++)
		gw_qmp_message_done(&pending[i].message);
	for (unsigned i = 0; i < n && result < 0; i++) {
		json_decref(calls[i].reply);
		calls[i].reply = NULL;
	}
	return result;
}

int gw_qmp_command(struct gw_qmp *q, const char *command, json_t *arguments, gw_time_ns deadline,
                   json_t **ret_reply, struct gw_error *err)
{
	struct gw_qmp_call call = { .command = command, .arguments = arguments };
	int r = gw_qmp_run(q, &call, 1, -1, deadline, err);

	if (r == 0 && ret_reply)
		*ret_reply = call.reply;
	else
		json_decref(call.reply);
	return r;
}

int gw_qmp_post(struct gw_qmp *q, const char *command)
{
	struct gw_qmp_call call = { .command = command };
	struct pending nobody;
	int r = send_calls(q, &call, &nobody, 1, -1, gw_now_ns());

	forget(q, &nobody, 1);
	gw_qmp_message_done(&nobody.message);
	return r;
}

/* ---- events ---- */

uint64_t gw_qmp_events(struct gw_qmp *q)
{
	GW_LOCKED(&q->lock);

	return q->n_events;
}

int gw_qmp_wait_event(struct gw_qmp *q, uint64_t since, gw_qmp_event_fn *match, void *userdata,
                      gw_time_ns deadline, struct gw_error *err)
{
	GW_LOCKED(&q->lock);

	for (;;) {
		int r;

		if (since > q->n_events) /* of an earlier connection */
			return gw_error_set(err, -ECONNRESET, "the connection to QEMU was lost meanwhile");
		if (q->n_events - since > EVENTS_KEPT)
			return gw_error_set(err, -EOVERFLOW, "QEMU sent more events than are kept");
		for (; since < q->n_events; since++) {
			const struct kept_event *e = &q->events[(since + 1) % EVENTS_KEPT];
			struct gw_qmp_event event = { since + 1, e->name, e->data };

			if (match(userdata, &event))
				return 0;
		}
		r = wait_change(q, deadline);
		if (r < 0 && since == q->n_events)
			return explain(q, r, "waiting for an event", err);
	}
}

/* ---- opening ---- */

int gw_qmp_open(int fd, gw_time_ns deadline, struct gw_qmp **ret, struct gw_error *err)
{
	struct gw_qmp *q = calloc(1, sizeof(*q));
	int r;

	if (!q) {
		close(fd);
		return gw_error_set(err, -ENOMEM, "out of memory");
	}
	q->fd = fd;
	q->refs = 1;
	q->why = "QEMU closed its control connection";
	init_locks(q);
	gw_qmp_parser_init(&q->parser, GW_QMP_LINE_MAX);
	r = start_reader(q);
	if (r < 0) {
		destroy(q);
		return gw_error_set_errno(err, r, "cannot start a thread for QMP");
	}
	r = wait_greeting(q, deadline, err);
	if (r == 0)
		r = gw_qmp_command(q, "qmp_capabilities", NULL, deadline, NULL, err);
	if (r < 0) {
		gw_qmp_unref(q);
		return r;
	}
	*ret = q;
	return 0;
}

int gw_qmp_connect(const char *path, gw_time_ns deadline, struct gw_qmp **ret, struct gw_error *err)
{
	int fd = -1;
	int r = gw_unix_connect(path, &fd);
	int flags;

	if (r < 0)
		return gw_error_set_errno(err, r, "cannot connect to %s", path);
	flags = fcntl(fd, F_GETFL);
	fcntl(fd, F_SETFL, flags & ~O_NONBLOCK); /* the reader sleeps in recv() */
	return gw_qmp_open(fd, deadline, ret, err);
}
