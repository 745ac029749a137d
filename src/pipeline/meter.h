/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a sending channel's thread spends its time with, in windows of a tenth of a second; for engine/compress. */
#ifndef GW_PIPELINE_METER_H
#define GW_PIPELINE_METER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "memory/encode.h"

struct gw_meter {
	gw_time_ns blocked_ns; /* added to by whatever waits for this channel */
	/* own */
	gw_time_ns mark, wall_ns; /* time with something to send, over passes */
	gw_time_ns cpu_ns, peer_ns; /* at the window's begin */
	uint64_t wire_bytes, content_bytes;
};

/* Whether both ends of a connection are on this machine. */
bool gw_meter_no_link(int fd);

/* A pass begins: what was before does not count. */
void gw_meter_begin(struct gw_meter *m);

/* A batch has gone. At the end of a window decides anew how to pack; true when there is something new to show. */
bool gw_meter_sent(struct gw_meter *m, int fd, struct gw_encode_packed *packed, const struct gw_batch *batch);

#endif
