/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A fake host behind a real server on a real socket, and raw connections to it, for tests of the API. */
#ifndef TESTS_UNIT_HTTP_WORLD_H
#define TESTS_UNIT_HTTP_WORLD_H

#include "control/http_client.h"
#include "control/http_server.h"
#include "fake_host.h"

struct http_world {
	char folder[64], path[96];
	struct gw_host *host;
	struct gw_http_server *server;
	struct gw_http_client *client;
};

/* `limits` may be NULL. Scripts of jobs take `step_ns` per step. Asserts on failure. */
void http_world_init(struct http_world *w, const struct gw_http_limits *limits, gw_time_ns step_ns);
void http_world_done(struct http_world *w);

/* A listening socket at `path`, with nobody behind it yet. */
int http_world_listen(const char *path);

/* A raw connection to `path`. */
int http_world_connect(const char *path);

/* Sends raw bytes; false when the peer is gone. */
bool http_world_send(int fd, const char *bytes, size_t len);

/* Reads into buf until the peer closes, `enough` is found in the text, or `timeout`; NUL-terminates.
 * Returns whether `enough` was found (NULL: whether the peer closed). */
bool http_world_read(int fd, char *buf, size_t len, const char *enough, gw_time_ns timeout);

#endif
