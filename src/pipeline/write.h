/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One batch, from guest RAM onto its channel. */
#ifndef GW_PIPELINE_WRITE_H
#define GW_PIPELINE_WRITE_H

#include <stdbool.h>

#include "base/io.h"
#include "memory/encode.h"

/* The batch (whose iov is consumed) in its order: long runs by sendfile (the kernel takes the pages as they are, which
 * saves a copy), what lies between them by gathering writes. A page that changes while it waits in the socket arrives newer
 * than it was read, which is as good: it was re-armed before, and comes again. *no_sendfile, the channel's, is set once it
 * was found not to work there. 0 or -errno of the write. */
int gw_batch_write(struct gw_batch *b, const struct gw_ram *ram, int fd, bool *no_sendfile, const struct gw_wait *w);

#endif
