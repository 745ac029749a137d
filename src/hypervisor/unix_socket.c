/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Unix stream sockets by path. */
#include "hypervisor/unix_socket.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/cleanup.h"

static int fill_address(const char *path, struct sockaddr_un *ret)
{
	size_t len = strlen(path);

	if (len >= sizeof(ret->sun_path))
		return -ENAMETOOLONG;
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(ret->sun_path, path, len + 1);
	return 0;
}

int gw_unix_check_path(const char *path, struct gw_error *err)
{
	struct sockaddr_un address;

	if (fill_address(path, &address) < 0)
		return gw_error_set(err, -EINVAL,
		                    "socket path %s is longer than %zu characters (use a shorter run folder, "
		                    "VM name or channel name)", path, sizeof(address.sun_path) - 1);
	return 0;
}

int gw_unix_connect(const char *path, int *ret_fd)
{
	struct sockaddr_un address;
	gw_autofd int fd = -1;
	int r = fill_address(path, &address);

	if (r < 0)
		return r;
	/* Non-blocking: a full backlog must not hold the caller for ever. */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	*ret_fd = gw_steal_fd(&fd);
	return 0;
}

int gw_unix_listen(const char *path, int *ret_fd, struct gw_error *err)
{
	struct sockaddr_un address;
	gw_autofd int fd = -1;
	int r = gw_unix_check_path(path, err);

	if (r < 0)
		return r;
	fill_address(path, &address);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return gw_error_set_errno(err, errno, "cannot make a unix socket");
	unlink(path);
	/* The mode of an unbound socket becomes that of the file that bind() makes. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, 8) < 0)
		return gw_error_set_errno(err, errno, "cannot listen on %s", path);
	*ret_fd = gw_steal_fd(&fd);
	return 0;
}

int gw_unix_wait(int fd, short events, gw_time_ns deadline)
{
	struct pollfd p = { .fd = fd, .events = events };

	for (;;) {
		int n = poll(&p, 1, gw_poll_ms(deadline));

		if (n > 0)
			return 0;
		if (n == 0 && gw_now_ns() >= deadline)
			return -ETIMEDOUT;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}
