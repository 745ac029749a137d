/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connections from other hosts: who greets in which role, and what each is answered. */
#include <endian.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/host_internal.h"
#include "transport/peer.h"
#include "wire/wire.h"

#define CONNECTIONS_MAX 256
#define GREETING_NS (5 * GW_NS_PER_S)

struct connection {
	struct gw_host *host;
	int fd;
};

static void serve_data(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w)
{
	struct gw_host_in *e = gw_host_acquire_in(h, &hello->migration);
	struct gw_error err = GW_ERROR_INIT;
	gw_autofd int answer_fd = dup(fd); /* the channel owns fd from add_channel on */

	if (!e) {
		close(fd);
		gw_error_set(&err, ENOENT, "no migration here awaits this data channel");
		gw_peer_refuse(answer_fd, &err, w);
		return;
	}
	if (gw_in_add_channel(e->in, hello, fd, &err) < 0)
		gw_peer_refuse(answer_fd, &err, w);
	else if (gw_peer_welcome(answer_fd, hello, w) == 0)
		gw_in_welcomed(e->in, hello);
	gw_host_release_in(h, e);
}

static enum gw_answer answer_for(struct gw_host *h, const struct gw_wire_id *id, struct gw_job **ret_job,
                                 uint64_t *ret_epoch)
{
	*ret_job = NULL;
	for (struct gw_job *j = h->jobs; j; j = j->next) {
		if (j->out && !memcmp(gw_out_id(j->out), id, sizeof(*id))) {
			*ret_job = j;
			*ret_epoch = j->vm ? j->vm->record.epoch + 1 : 0;
			return gw_out_answer(j->out);
		}
	}
	/* Not known (any more): a COMMIT is never forgotten before the target's own record is durable. Unless a record could
	 * not be read: then nobody guesses. */
	return h->incomplete ? GW_ANSWER_WAIT : gw_source_answer(NULL);
}

static void serve_ask(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w)
{
	static const uint32_t values[] = {
		[GW_ANSWER_WAIT] = GW_WIRE_ANSWER_WAIT,
		[GW_ANSWER_COMMIT] = GW_WIRE_ANSWER_COMMIT,
		[GW_ANSWER_ABORT] = GW_WIRE_ANSWER_ABORT,
	};
	struct gw_wait patient = { .cancel_fd = -1, .idle_ns = 20 * GW_NS_PER_S };
	struct gw_wire_answer body = { 0 };
	gw_autofree char *reply = NULL;
	struct gw_wire_frame f;
	enum gw_answer answer;
	struct gw_job *job;
	uint64_t epoch = 0;

	{
		GW_LOCKED(&h->lock);
		answer = answer_for(h, &hello->migration, &job, &epoch);
		if (job && hello->channel)
			gw_out_post(job->out, GW_SOURCE_EV_READY);
	}
	body.answer = htole32(values[answer]);
	body.epoch = htole64(epoch);
	if (gw_peer_welcome(fd, hello, w) == 0 &&
	    gw_peer_send(fd, GW_WIRE_ANSWER, &body, sizeof(body), w, NULL) == 0 && answer == GW_ANSWER_COMMIT &&
	    gw_peer_recv(fd, &f, &reply, &patient, NULL) == 0 && f.type == GW_WIRE_RUNNING) {
		GW_LOCKED(&h->lock);
		(void)answer_for(h, &hello->migration, &job, &epoch);
		if (job)
			gw_out_post(job->out, ((struct gw_wire_running *)reply)->owed_pages ? GW_SOURCE_EV_RUNNING_OWED :
			                                                                      GW_SOURCE_EV_RUNNING);
	}
	close(fd);
}

enum ownership { OWNS_NOTHING, OWNS_WHOLE, OWNS_OWED };

/* Of a VM whose migration is over here, or could not be taken up again. */
static enum ownership owns(struct gw_host *h, const struct gw_wire_id *id)
{
	GW_LOCKED(&h->lock);
	for (struct gw_host_vm *v = h->vms; v; v = v->next) {
		if (memcmp(&v->record.migration, id, sizeof(*id)))
			continue;
		if (v->owed_unserved)
			return OWNS_OWED;
		if (v->record.state == GW_RECORD_RUNNING)
			return OWNS_WHOLE;
	}
	return OWNS_NOTHING;
}

static void reply_told(struct gw_host *h, int fd, uint32_t type, uint64_t owed_pages, const struct gw_wait *w)
{
	struct gw_wire_running running = { .owed_pages = htole64(owed_pages) };
	struct gw_wire_ready ready = { .owed_pages = htole64(owed_pages) };
	struct gw_error err;

	switch (type) {
	case GW_WIRE_RUNNING:
		(void)gw_peer_send(fd, type, &running, sizeof(running), w, NULL);
		break;
	case GW_WIRE_READY:
		(void)gw_peer_send(fd, type, &ready, sizeof(ready), w, NULL);
		break;
	case GW_WIRE_FAILED:
		gw_error_set(&err, ENOENT, "host %s holds no whole copy of this migration", h->config->name);
		gw_peer_send_failed(fd, &err, w);
		break;
	}
}

/* 0: no answer, which is asked for again. */
static const uint32_t of_ownership[] = {
	[OWNS_NOTHING] = GW_WIRE_FAILED,
	[OWNS_WHOLE] = GW_WIRE_RUNNING,
	[OWNS_OWED] = 0,
};

static void serve_tell(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w)
{
	struct gw_host_in *e;
	struct gw_wire_answer told;
	struct gw_wire_frame f;
	gw_autofree char *body = NULL;
	uint64_t owed_pages = 0;
	uint32_t type = 0;

	if (gw_peer_welcome(fd, hello, w) == 0 && gw_peer_expect(fd, GW_WIRE_ANSWER, &f, &body, w, NULL) == 0) {
		memcpy(&told, body, sizeof(told));
		e = gw_host_acquire_in(h, &hello->migration);
		if (e) {
			type = gw_in_tell(e->in, le32toh(told.answer), 4 * GW_NS_PER_S, &owed_pages);
			gw_host_release_in(h, e);
		} else {
			type = of_ownership[owns(h, &hello->migration)];
		}
		reply_told(h, fd, type, owed_pages, w);
	}
	close(fd);
}

/* The migration of which nothing is owed any more: the source may have missed that. */
static void reply_complete(int fd, const struct gw_wait *w)
{
	struct gw_wire_complete complete = { 0 };
	json_t *j = json_pack("{s:s, s:i, s:i}", "token", "00000000000000000000000000000000", "channels", 1, "owed_pages", 0);

	if (gw_peer_send_json(fd, GW_WIRE_RECOVER, j, w, NULL) == 0)
		(void)gw_peer_send(fd, GW_WIRE_COMPLETE, &complete, sizeof(complete), w, NULL);
	json_decref(j);
}

static void serve_recover(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w)
{
	struct gw_host_in *e = gw_host_acquire_in(h, &hello->migration);
	struct gw_error err;

	if (gw_peer_welcome(fd, hello, w) < 0) {
		close(fd);
	} else if (e && gw_in_recover(e->in, fd)) {
		; /* taken */
	} else if (!e && owns(h, &hello->migration) == OWNS_WHOLE) {
		reply_complete(fd, w);
		close(fd);
	} else if (!e && owns(h, &hello->migration) == OWNS_OWED) {
		close(fd);
	} else {
		gw_error_set(&err, ENOENT, "host %s knows of no memory that this migration owes", h->config->name);
		gw_peer_send_failed(fd, &err, w);
		close(fd);
	}
	if (e)
		gw_host_release_in(h, e);
}

/* Each takes the fd. */
static void (*const roles[])(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w) = {
	[GW_WIRE_ROLE_CONTROL] = gw_host_serve_control,
	[GW_WIRE_ROLE_DATA] = serve_data,
	[GW_WIRE_ROLE_ASK] = serve_ask,
	[GW_WIRE_ROLE_TELL] = serve_tell,
	[GW_WIRE_ROLE_RECOVER] = serve_recover,
};

static void *serve_connection(void *arg)
{
	struct connection c = *(struct connection *)arg;
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = GREETING_NS };
	struct gw_error err = GW_ERROR_INIT;
	struct gw_wire_hello hello;

	free(arg);
	if (gw_peer_read_hello(c.fd, &hello, &w, &err) < 0) {
		gw_log_debug(NULL, "a connection was refused: %s", gw_error_text(&err));
		close(c.fd);
	} else {
		roles[hello.role](c.host, c.fd, &hello, &w);
	}
	atomic_fetch_sub(&c.host->connections, 1);
	return NULL;
}

void gw_host_connection(struct gw_host *h, int fd)
{
	struct connection *c = malloc(sizeof(*c));

	if (!c || atomic_load(&h->connections) >= CONNECTIONS_MAX || atomic_load(&h->stopping)) {
		free(c);
		close(fd);
		return;
	}
	*c = (struct connection){ h, fd };
	atomic_fetch_add(&h->connections, 1);
	if (gw_host_thread(h, serve_connection, c) < 0) {
		atomic_fetch_sub(&h->connections, 1);
		free(c);
		close(fd);
	}
}
