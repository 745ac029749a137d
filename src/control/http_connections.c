/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who is connected to the API and until when.
 *
 * Two threads: the acceptor waits for room, then for a client; the reaper waits for the nearest deadline.
 * The reaper shuts sockets down but never closes them: their user does, after gw_connections_close(), which
 * takes the connection off the list under the lock that the reaper holds. So no descriptor is touched that
 * may already belong to somebody else.
 */
#include "control/http_connections.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"

struct gw_connection {
	struct gw_connection *next, **prev; /* protected by the lock */
	int fd;                             /* constant; not ours to close */
	gw_time_ns deadline;                /* protected by the lock */
};

struct gw_connections {
	/* set before threads start */
	int listen_fd, stop_fd;
	unsigned max;
	int (*take)(void *ctx, int fd);
	void *ctx;
	pthread_t acceptor, reaper;

	pthread_mutex_t lock;
	pthread_cond_t deadlines; /* a deadline was set, or stopping; monotonic clock */
	pthread_cond_t room;      /* a connection was closed, or stopping */
	/* protected by lock */
	bool stopping;
	unsigned taken;
	struct gw_connection *list;
};

/* Shuts down connections past their deadline; returns when the next one will be. Lock held. */
static gw_time_ns reap(struct gw_connections *c)
{
	gw_time_ns now = gw_now_ns(), next = GW_TIME_NEVER;
	struct gw_connection *one;

	for (one = c->list; one; one = one->next) {
		if (one->deadline <= now) {
			shutdown(one->fd, SHUT_RDWR);
			one->deadline = GW_TIME_NEVER;
		}
		next = GW_MIN(next, one->deadline);
	}
	return next;
}

static void *reaper_main(void *arg)
{
	struct gw_connections *c = arg;
	GW_LOCKED(&c->lock);

	while (!c->stopping) {
		gw_time_ns next = reap(c);

		(void)gw_cond_wait(&c->deadlines, &c->lock, next);
	}
	return NULL;
}

/* Takes one place for a client; false when stopping. */
static bool wait_for_room(struct gw_connections *c)
{
	GW_LOCKED(&c->lock);

	while (c->taken >= c->max && !c->stopping)
		pthread_cond_wait(&c->room, &c->lock);
	c->taken += !c->stopping;
	return !c->stopping;
}

static void give_back(struct gw_connections *c)
{
	GW_LOCKED(&c->lock);

	c->taken--;
	pthread_cond_signal(&c->room);
}

/* The next client's descriptor; -ECANCELED when stopping. */
static int accept_one(struct gw_connections *c)
{
	const struct gw_wait wait = { .cancel_fd = c->stop_fd, .idle_ns = GW_TIME_NEVER };
	const struct gw_wait pause = { .cancel_fd = c->stop_fd, .idle_ns = 200 * GW_NS_PER_MS };

	for (;;) {
		int fd, r = gw_wait_fd(c->listen_fd, POLLIN, &wait);

		if (r < 0)
			return r;
		fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			return fd;
		if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
			continue;
		/* Out of descriptors or memory: clients wait in the backlog meanwhile. */
		gw_log_warning("api", "cannot accept a client: %s", strerror(errno));
		if (gw_wait_fd(c->stop_fd, POLLIN, &pause) != -ETIMEDOUT)
			return -ECANCELED;
	}
}

static void *acceptor_main(void *arg)
{
	struct gw_connections *c = arg;

	while (wait_for_room(c)) {
		int fd = accept_one(c);

		if (fd < 0) {
			give_back(c);
			if (fd != -ECANCELED)
				gw_log_error("api", "no more clients are accepted: %s", strerror(-fd));
			break;
		}
		if (c->take(c->ctx, fd) < 0)
			give_back(c);
	}
	return NULL;
}

int gw_connections_new(int listen_fd, unsigned max, int (*take)(void *ctx, int fd), void *ctx,
                       struct gw_connections **ret, struct gw_error *err)
{
	struct gw_connections *c = calloc(1, sizeof(*c));
	int stop_fd = eventfd(0, EFD_CLOEXEC);

	if (!c || stop_fd < 0 || listen_fd < 0) {
		free(c);
		gw_cleanup_fd(&stop_fd);
		gw_cleanup_fd(&listen_fd);
		return gw_error_set(err, ENOMEM, "cannot serve the API: no memory or no descriptors");
	}
	*c = (struct gw_connections){ .listen_fd = listen_fd, .stop_fd = stop_fd, .max = max, .take = take,
		                      .ctx = ctx };
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->room, NULL);
	gw_cond_init(&c->deadlines);
	/* A client that goes away between poll and accept must not block the acceptor. */
	gw_set_nonblock(listen_fd);
	*ret = c;
	return 0;
}

int gw_connections_start(struct gw_connections *c, struct gw_error *err)
{
	int r = pthread_create(&c->reaper, NULL, reaper_main, c);

	if (r == 0)
		r = pthread_create(&c->acceptor, NULL, acceptor_main, c);
	return r ? gw_error_set_errno(err, r, "cannot start a thread for the API") : 0;
}

void gw_connections_stop(struct gw_connections *c)
{
	pthread_mutex_lock(&c->lock);
	c->stopping = true;
	pthread_cond_signal(&c->deadlines);
	pthread_cond_signal(&c->room);
	pthread_mutex_unlock(&c->lock);
	eventfd_write(c->stop_fd, 1);
	if (c->acceptor)
		pthread_join(c->acceptor, NULL);
	if (c->reaper)
		pthread_join(c->reaper, NULL);
	c->acceptor = c->reaper = 0;
}

void gw_connections_free(struct gw_connections *c)
{
	if (!c)
		return;
	close(c->listen_fd);
	close(c->stop_fd);
	pthread_cond_destroy(&c->deadlines);
	pthread_cond_destroy(&c->room);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

struct gw_connection *gw_connections_open(struct gw_connections *c, int fd, gw_time_ns deadline_in_ns)
{
	struct gw_connection *one = calloc(1, sizeof(*one));
	GW_LOCKED(&c->lock);

	if (!one)
		return NULL;
	one->fd = fd;
	one->deadline = gw_deadline_in(deadline_in_ns);
	one->next = c->list;
	one->prev = &c->list;
	if (one->next)
		one->next->prev = &one->next;
	c->list = one;
	pthread_cond_signal(&c->deadlines);
	return one;
}

void gw_connections_close(struct gw_connections *c, struct gw_connection *one)
{
	GW_LOCKED(&c->lock);

	c->taken--;
	pthread_cond_signal(&c->room);
	if (!one)
		return;
	*one->prev = one->next;
	if (one->next)
		one->next->prev = one->prev;
	free(one);
}

void gw_connections_deadline(struct gw_connections *c, struct gw_connection *one, gw_time_ns in_ns)
{
	GW_LOCKED(&c->lock);

	if (!one)
		return;
	one->deadline = gw_deadline_in(in_ns);
	pthread_cond_signal(&c->deadlines);
}
