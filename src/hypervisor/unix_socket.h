/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Unix stream sockets by path, and waiting on descriptors until a point in time. */
#ifndef GW_HYPERVISOR_UNIX_SOCKET_H
#define GW_HYPERVISOR_UNIX_SOCKET_H

#include "base/clock.h"
#include "base/error.h"

/* Connects close-on-exec. 0, -ENAMETOOLONG or another -errno. */
int gw_unix_connect(const char *path, int *ret_fd);

/* Listens at `path` with mode 0600, replacing a socket file that is there. */
int gw_unix_listen(const char *path, int *ret_fd, struct gw_error *err);

/* -EINVAL with a sentence when `path` is too long for a unix socket. */
int gw_unix_check_path(const char *path, struct gw_error *err);

/* poll(2) for one descriptor: 0, -ETIMEDOUT, or another -errno. Hang-ups count as ready. */
int gw_unix_wait(int fd, short events, gw_time_ns deadline);

#endif
