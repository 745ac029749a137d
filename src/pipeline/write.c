/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One batch, from guest RAM onto its channel. */
#include "pipeline/write.h"

#include <errno.h>

#define SENDFILE_MIN_BYTES (64u << 10) /* below, a system call costs more than the copy */

int gw_batch_write(struct gw_batch *b, const struct gw_ram *ram, int fd, bool *no_sendfile, const struct gw_wait *w)
{
	unsigned from = 0, i;
	int r = 0;

	for (i = 2; i < b->n_iov && r == 0 && !*no_sendfile; i++) {
		uint64_t offset = (uint64_t)((uint8_t *)b->iov[i].iov_base - ram->base);
		size_t len = b->iov[i].iov_len;

		if (len < SENDFILE_MIN_BYTES || offset >= ram->size_bytes) /* short, or packed and not in RAM */
			continue;
		r = gw_writev_full(fd, b->iov + from, i - from, w);
		if (r == 0)
			r = gw_sendfile_full(fd, ram->fd, offset, len, w);
		from = i + 1;
		if (r == -EINVAL || r == -EOPNOTSUPP) { /* hugetlbfs, or no TCP socket: nothing of it was sent */
			*no_sendfile = true;
			from = i;
			r = 0;
		}
	}
	return r < 0 ? r : gw_writev_full(fd, b->iov + from, b->n_iov - from, w);
}
