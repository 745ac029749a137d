/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a data channel straight into the target's RAM file. */
#ifndef GW_MEMORY_APPLY_H
#define GW_MEMORY_APPLY_H

#include "base/bitmap.h"
#include "base/error.h"
#include "base/io.h"
#include "memory/pack.h"
#include "memory/ram.h"
#include "wire/wire.h"

/* What a channel needs to unpack; made when its first packed run comes. */
struct gw_apply_packed {
	struct gw_unpacker *unpacker;
	uint8_t *payload; /* of a batch's packed runs */
};

void gw_apply_packed_done(struct gw_apply_packed *p);

/* Receives the payload of a checked batch: raw runs in place, packed ones into a buffer and from there into place; and
 * stores its zero runs. `touched` holds the pages that were ever written here: a page that was not is still zero in the
 * fresh file, and stays unallocated (V5 asks that a zero page inside of a populated huge page be stored, which it is:
 * the huge page is there already). 0; -EPROTO with err when a run does not unpack; another -errno of the read, without. */
int gw_apply_batch(const struct gw_wire_batch *batch, const struct gw_wire_run *runs, const struct gw_ram *ram,
                   struct gw_bitmap *touched, struct gw_apply_packed *packed, int fd, const struct gw_wait *w,
                   struct gw_error *err);

#endif
