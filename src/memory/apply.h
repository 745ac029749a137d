/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a data channel straight into the target's RAM file. */
#ifndef GW_MEMORY_APPLY_H
#define GW_MEMORY_APPLY_H

#include "base/bitmap.h"
#include "base/io.h"
#include "memory/ram.h"
#include "wire/wire.h"

/* Receives the payload of a checked batch in place and stores its zero runs. `touched` holds the pages that were
 * ever written here: a page that was not is still zero in the fresh file, and stays unallocated (V5 asks that a
 * zero page inside of a populated huge page be stored, which it is: the huge page is there already).
 * 0, or the -errno of the read. */
int gw_apply_batch(const struct gw_wire_batch *batch, const struct gw_wire_run *runs, const struct gw_ram *ram,
                   struct gw_bitmap *touched, int fd, const struct gw_wait *w);

#endif
