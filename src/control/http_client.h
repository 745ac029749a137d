/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calling the REST API over a unix socket: one call at a time, and event streams.
 *
 * Not for use by several threads at once; a client may be used for a call from within its own event
 * callback.
 */
#ifndef GW_CONTROL_HTTP_CLIENT_H
#define GW_CONTROL_HTTP_CLIENT_H

#include <jansson.h>

#include "base/clock.h"
#include "base/error.h"

#define GW_HTTP_CONNECT_TIMEOUT_NS (5 * GW_NS_PER_S)
#define GW_HTTP_CALL_TIMEOUT_NS (30 * GW_NS_PER_S)
#define GW_HTTP_ANSWER_MAX (64 << 20)

struct gw_http_client;

/* `wake_fd`: when it becomes readable, whatever waits returns -EINTR; -1 for none. Not owned, not read. */
int gw_http_client_new(const char *socket_path, int wake_fd, struct gw_http_client **ret);
void gw_http_client_free(struct gw_http_client *c);

struct gw_http_answer {
	unsigned status; /* of HTTP; 0: no answer came, it is open whether the request was carried out */
	json_t *json;    /* new reference; NULL when the answer has no body */
};

/* 0 with *ret filled: a 2xx answer. Else a negative errno and `err`:
 *   ret->status != 0: the daemon said no; errno and text are its own.
 *   -ENOTCONN: it cannot be reached; nothing was sent; the text says what to do.
 *   -EINTR: wake_fd. -ETIMEDOUT: no answer within `timeout`. -ECONNRESET, -EPROTO: the answer broke off or
 *   makes no sense.
 * `path` is used as it is (see gw_http_path); `body` may be NULL. */
int gw_http_call(struct gw_http_client *c, const char *method, const char *path, const json_t *body,
                 gw_time_ns timeout, struct gw_http_answer *ret, struct gw_error *err);

/* Follows the server-sent events at `path`. `event` gets each event's data (borrowed) and returns 0, or a
 * positive number, which ends the stream and is returned. The server's end of the stream gives 0; otherwise
 * as gw_http_call, with -ETIMEDOUT after `silence` without a byte. *ret_status as above. */
int gw_http_events(struct gw_http_client *c, const char *path, gw_time_ns silence,
                   int (*event)(void *ctx, const json_t *data), void *ctx, unsigned *ret_status,
                   struct gw_error *err);

/* head + arg percent-encoded + tail, such as "/v1/vms/", name, "/migrate". Caller frees. NULL: no memory */
char *gw_http_path(const char *head, const char *arg, const char *tail);

#endif
