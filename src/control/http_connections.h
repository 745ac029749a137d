/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who is connected to the API and until when: accepts while there is room, and cuts off who is too slow. */
#ifndef GW_CONTROL_HTTP_CONNECTIONS_H
#define GW_CONTROL_HTTP_CONNECTIONS_H

#include "base/clock.h"
#include "base/error.h"

struct gw_connections;
struct gw_connection; /* one client; from _open to _close */

/* Will accept on `listen_fd` (owned from now on, on failure too) and give each descriptor to `take`, which
 * owns it then and returns -errno when it has closed it. At most `max` are taken and not closed at a time;
 * further clients wait in the socket's backlog. */
int gw_connections_new(int listen_fd, unsigned max, int (*take)(void *ctx, int fd), void *ctx,
                       struct gw_connections **ret, struct gw_error *err);

int gw_connections_start(struct gw_connections *c, struct gw_error *err);

/* Nobody is accepted or cut off any more. Fine when it was not started. */
void gw_connections_stop(struct gw_connections *c);

/* After gw_connections_stop(), when all are closed. NULL is fine. */
void gw_connections_free(struct gw_connections *c);

/* A descriptor that was taken is in use / is about to be closed by its user. _open never fails: without
 * memory the connection has no deadline and NULL is returned, which all functions accept. */
struct gw_connection *gw_connections_open(struct gw_connections *c, int fd, gw_time_ns deadline_in_ns);
void gw_connections_close(struct gw_connections *c, struct gw_connection *one);

/* The connection is shut down (not closed) unless this is called again before `in_ns` are over. */
void gw_connections_deadline(struct gw_connections *c, struct gw_connection *one, gw_time_ns in_ns);

#endif
