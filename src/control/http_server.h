/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The REST API over a unix socket: HTTP/1.1 in front of the functions of host.h.
 *
 * One thread per connection, so a host function may block without holding up other clients. Everything a
 * client can use up is bounded: connections, event streams, header and body sizes, and the time that a
 * request may take to arrive and an answer to be fetched.
 */
#ifndef GW_CONTROL_HTTP_SERVER_H
#define GW_CONTROL_HTTP_SERVER_H

#include <stddef.h>

#include "base/clock.h"
#include "base/error.h"
#include "control/host.h"

struct gw_http_server;

struct gw_http_limits {
	unsigned connections;      /* further clients wait in the socket's backlog */
	unsigned streams;          /* of them open event streams; further ones get 503 */
	size_t body_bytes;         /* of a request; more is 413 */
	gw_time_ns request_ns;     /* for a whole request to arrive, counted from when it may begin */
	gw_time_ns answer_ns;      /* for a whole answer to be fetched (event streams: without progress) */
};

/* 64 connections, 40 streams, 1 MiB, 10 s, 30 s. */
#define GW_HTTP_LIMITS_DEFAULT \
	((struct gw_http_limits){ .connections = 64, .streams = 40, .body_bytes = 1 << 20, \
	                          .request_ns = 10 * GW_NS_PER_S, .answer_ns = 30 * GW_NS_PER_S })

/* Serves `host` on `listen_fd`, a bound and listening unix stream socket, until _free. Takes listen_fd
 * over, on failure too. `limits` may be NULL. `host` must outlive the server. */
int gw_http_server_new(int listen_fd, struct gw_host *host, const struct gw_http_limits *limits,
                       struct gw_http_server **ret, struct gw_error *err);

/* Accepts no more, ends event streams (within a second) and returns when the last request is answered:
 * a host function that blocks must have been made to return before. NULL is fine. */
void gw_http_server_free(struct gw_http_server *s);

#endif
