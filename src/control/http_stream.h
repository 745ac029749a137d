/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One job's progress as the text of a server-sent event stream. Knows nothing of HTTP. */
#ifndef GW_CONTROL_HTTP_STREAM_H
#define GW_CONTROL_HTTP_STREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "control/host.h"

/* No two events are closer than this unless the job's state changed. */
#define GW_STREAM_INTERVAL_NS (200 * GW_NS_PER_MS)
/* After so much silence a comment line is sent, so that either side notices that the other is gone. */
#define GW_STREAM_KEEPALIVE_NS GW_NS_PER_S

struct gw_stream;

/* `stopping` is looked at at least every GW_STREAM_KEEPALIVE_NS and ends the stream. -ENOMEM. */
int gw_stream_new(struct gw_host *host, const char *job, bool (*stopping)(void *ctx), void *ctx,
                  struct gw_stream **ret);
void gw_stream_free(struct gw_stream *s);

/* Blocks until there is text; copies up to `max` bytes. 0: the stream has ended. -errno: it broke. */
ssize_t gw_stream_read(struct gw_stream *s, char *buf, size_t max);

#endif
