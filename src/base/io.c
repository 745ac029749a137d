/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* File descriptors: whole reads and writes with deadlines, and descriptors over sockets. */
#include "base/io.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

static int wait_fd(int fd, short events, const struct gw_wait *w)
{
	gw_time_ns deadline = gw_deadline_in(w->idle_ns);
	struct pollfd p[2] = {
		{ .fd = fd, .events = events },
		{ .fd = w->cancel_fd, .events = POLLIN },
	};

	for (;;) {
		int r = poll(p, w->cancel_fd >= 0 ? 2 : 1, gw_poll_ms(deadline));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (w->cancel_fd >= 0 && p[1].revents)
			return -ECANCELED;
		if (p[0].revents & POLLNVAL)
			return -EBADF;
		if (p[0].revents)
			return 0;
		if (r == 0 && gw_poll_ms(deadline) == 0)
			return -ETIMEDOUT;
	}
}

int gw_wait_fd(int fd, short events, const struct gw_wait *w)
{
	gw_time_ns t0 = w->waited_ns ? gw_now_ns() : 0;
	int r = wait_fd(fd, events, w);

	if (w->waited_ns)
		*w->waited_ns += gw_now_ns() - t0;
	return r;
}

/* Drops `done` bytes from the front of the vector. */
static void advance(struct iovec **iov, size_t *n, size_t done)
{
	while (*n && done >= (*iov)->iov_len) {
		done -= (*iov)->iov_len;
		(*iov)++;
		(*n)--;
	}
	if (*n && done) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + done;
		(*iov)->iov_len -= done;
	}
}

/* Sockets are asked not to block, other descriptors may; a pipe or file never gives ENOTSOCK twice. */
static ssize_t transfer(int fd, struct iovec *iov, size_t n, bool in, bool *is_socket)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = GW_MIN(n, (size_t)IOV_MAX) };

	if (*is_socket) {
		ssize_t r = in ? recvmsg(fd, &m, MSG_DONTWAIT) : sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (r >= 0 || errno != ENOTSOCK)
			return r;
		*is_socket = false;
	}
	return in ? readv(fd, iov, (int)m.msg_iovlen) : writev(fd, iov, (int)m.msg_iovlen);
}

static int vector_full(int fd, struct iovec *iov, size_t n, bool in, const struct gw_wait *w)
{
	bool is_socket = true;

	advance(&iov, &n, 0);
	while (n) {
		ssize_t done = transfer(fd, iov, n, in, &is_socket);

		if (done > 0) {
			advance(&iov, &n, (size_t)done);
			continue;
		}
		if (done == 0 && in)
			return -ECONNRESET;
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
			return -errno;
		int r = gw_wait_fd(fd, in ? POLLIN : POLLOUT, w);

		if (r < 0)
			return r;
	}
	return 0;
}

int gw_readv_full(int fd, struct iovec *iov, size_t n, const struct gw_wait *w)
{
	return vector_full(fd, iov, n, true, w);
}

int gw_writev_full(int fd, struct iovec *iov, size_t n, const struct gw_wait *w)
{
	return vector_full(fd, iov, n, false, w);
}

int gw_read_full(int fd, void *buf, size_t len, const struct gw_wait *w)
{
	struct iovec iov = { buf, len };

	return gw_readv_full(fd, &iov, 1, w);
}

int gw_write_full(int fd, const void *buf, size_t len, const struct gw_wait *w)
{
	struct iovec iov = { (void *)buf, len };

	return gw_writev_full(fd, &iov, 1, w);
}

int gw_sendfile_full(int fd, int file_fd, uint64_t offset, size_t len, const struct gw_wait *w)
{
	off_t at = (off_t)offset;
	size_t left = len;

	while (left) {
		ssize_t n = sendfile(fd, file_fd, &at, left);

		if (n > 0) {
			left -= (size_t)n;
			continue;
		}
		if (n == 0)
			return -EIO;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return left == len || (errno != EINVAL && errno != EOPNOTSUPP) ? -errno : -EIO;
		int r = gw_wait_fd(fd, POLLOUT, w);

		if (r < 0)
			return r;
	}
	return 0;
}

int gw_set_nonblock(int fd)
{
	int fl = fcntl(fd, F_GETFL);

	if (fl < 0 || fcntl(fd, F_SETFL, fl | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

int gw_send_fd(int sock, int fd)
{
	char byte = 1, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &byte, 1 };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);

	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &fd, sizeof(fd));
	return sendmsg(sock, &m, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

int gw_recv_fd(int sock, int *ret_fd, const struct gw_wait *w)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { &byte, 1 };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *h;
	ssize_t n;
	int r = gw_wait_fd(sock, POLLIN, w);

	if (r < 0)
		return r;
	n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	if (n < 0)
		return -errno;
	if (n == 0)
		return -ECONNRESET;
	h = CMSG_FIRSTHDR(&m);
	if (!h || h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS || h->cmsg_len != CMSG_LEN(sizeof(int)))
		return -EPROTO;
	memcpy(ret_fd, CMSG_DATA(h), sizeof(*ret_fd));
	return 0;
}
