/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parser of a server-sent event stream whose data are JSON. */
#ifndef GW_CONTROL_SSE_H
#define GW_CONTROL_SSE_H

#include <jansson.h>
#include <stddef.h>

#define GW_SSE_EVENT_MAX (4 << 20)

struct gw_sse;

/* `event` gets each event's data (borrowed); events without data are left out. -ENOMEM. */
int gw_sse_new(int (*event)(void *ctx, const json_t *data), void *ctx, struct gw_sse **ret);
void gw_sse_free(struct gw_sse *s);

/* Feeds any piece of the stream. 0; what `event` returned when not 0; -EPROTO for data that are not JSON or
 * are too long; -ENOMEM. */
int gw_sse_feed(struct gw_sse *s, const char *data, size_t len);

#endif
