/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* File descriptors: whole reads and writes with deadlines, durable files, descriptors over sockets. */
#ifndef GW_BASE_IO_H
#define GW_BASE_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "base/error.h"

/* Cancellation of blocking waits: an eventfd that becomes readable, or -1 for none. */
struct gw_wait {
	int cancel_fd;       /* -1: cannot be cancelled */
	gw_time_ns idle_ns;  /* longest time without progress; GW_TIME_NEVER for none */
	gw_time_ns *waited_ns; /* the time spent waiting is added to it; NULL: nobody asks */
};

#define GW_WAIT_NONE ((struct gw_wait){ .cancel_fd = -1, .idle_ns = GW_TIME_NEVER })

/* Waits until fd is ready for `events` (POLLIN/POLLOUT).
 * 0, -ECANCELED, -ETIMEDOUT, or -errno of poll(2). POLLHUP/POLLERR count as ready. */
int gw_wait_fd(int fd, short events, const struct gw_wait *w);

/* Read or write all of it on a non-blocking or blocking descriptor. 0, or -ECANCELED, -ETIMEDOUT,
 * -ECONNRESET when the peer closed before the end (reads), or another -errno. */
int gw_read_full(int fd, void *buf, size_t len, const struct gw_wait *w);
int gw_write_full(int fd, const void *buf, size_t len, const struct gw_wait *w);
/* iov is consumed (changed). n may exceed IOV_MAX. */
int gw_readv_full(int fd, struct iovec *iov, size_t n, const struct gw_wait *w);
int gw_writev_full(int fd, struct iovec *iov, size_t n, const struct gw_wait *w);

/* sendfile(2) of [offset, offset+len) to a non-blocking socket. -EINVAL or -EOPNOTSUPP (nothing sent) where the file
 * or the socket cannot; -EIO when the file is shorter. */
int gw_sendfile_full(int fd, int file_fd, uint64_t offset, size_t len, const struct gw_wait *w);

int gw_set_nonblock(int fd);

/* Reads a whole file of at most `max` bytes; NUL-terminated behind *ret_len. Caller frees. */
int gw_read_file(const char *path, size_t max, char **ret, size_t *ret_len);

/* Durable replacement: temporary file, fsync, rename, fsync of the folder. */
int gw_write_file_durable(const char *path, const void *data, size_t len, unsigned mode);

/* One byte plus one descriptor over a unix stream socket. */
int gw_send_fd(int sock, int fd);
int gw_recv_fd(int sock, int *ret_fd, const struct gw_wait *w);

/* mkdir -p with `mode` for the last component. 0 or -errno. */
int gw_mkdir_p(const char *path, unsigned mode);

/* Removes a tree; missing is fine. Never follows symbolic links. */
int gw_remove_tree(const char *path);

#endif
