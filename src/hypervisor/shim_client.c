/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Client side of the preloaded library's protocol. */
#include "hypervisor/shim_client.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "hypervisor/unix_socket.h"
#include "shim/protocol.h"

/* The reply, and the descriptor that came with it (-1 when none did). */
static int receive_reply(int sock, gw_time_ns deadline, int cancel_fd, struct gw_shim_reply *ret, int *ret_fd)
{
	gw_autofd int fd = -1;
	size_t have = 0;

	while (have < sizeof(*ret)) {
		struct iovec iov = { (char *)ret + have, sizeof(*ret) - have };
		union {
			char buf[CMSG_SPACE(sizeof(int))];
			struct cmsghdr align;
		} control;
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf,
		                      .msg_controllen = sizeof(control.buf) };
		struct cmsghdr *h;
		ssize_t n;
		struct gw_wait w = { .cancel_fd = cancel_fd, .idle_ns = deadline - gw_now_ns() };
		int r = gw_wait_fd(sock, POLLIN, &w);

		if (r < 0)
			return r;
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ECONNRESET;
		h = CMSG_FIRSTHDR(&msg);
		if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS && fd < 0)
			memcpy(&fd, CMSG_DATA(h), sizeof(fd));
		have += (size_t)n;
	}
	*ret_fd = gw_steal_fd(&fd);
	return 0;
}

static int exchange(int sock, const struct gw_shim_request *request, gw_time_ns deadline, int cancel_fd,
                    struct gw_shim_reply *ret, int *ret_fd)
{
	if (send(sock, request, sizeof(*request), MSG_NOSIGNAL) != (ssize_t)sizeof(*request))
		return -errno;
	return receive_reply(sock, deadline, cancel_fd, ret, ret_fd);
}

static int ask(const char *path, const struct gw_shim_request *request, gw_time_ns deadline, int cancel_fd,
               uint64_t *ret_value, int *ret_fd, const char *what, struct gw_error *err)
{
	struct gw_shim_reply reply;
	gw_autofd int sock = -1;
	gw_autofd int fd = -1;
	int r = gw_unix_connect(path, &sock);

	if (r == 0)
		r = exchange(sock, request, deadline, cancel_fd, &reply, &fd);
	if (r < 0)
		return gw_error_set_errno(err, r, "cannot reach the preloaded library at %s", path);
	if (reply.result < 0)
		return gw_error_set_errno(err, reply.result, "the VMM cannot %s", what);
	if (ret_value)
		*ret_value = reply.value;
	if (ret_fd)
		*ret_fd = gw_steal_fd(&fd);
	return 0;
}

int gw_shim_hello(const char *path, gw_time_ns deadline, struct gw_error *err)
{
	struct gw_shim_request request = { .magic = GW_SHIM_MAGIC, .command = GW_SHIM_HELLO };
	uint64_t version;
	int r = ask(path, &request, deadline, -1, &version, NULL, "say its version", err);

	if (r == 0 && version != GW_SHIM_VERSION)
		return gw_error_set(err, -EPROTO,
		                    "the library preloaded at %s speaks version %llu, wanted %u (the VM was "
		                    "started by another release)", path, (unsigned long long)version,
		                    GW_SHIM_VERSION);
	return r;
}

int gw_shim_userfaultfd(const char *path, gw_time_ns deadline, int *ret_fd, struct gw_error *err)
{
	struct gw_shim_request request = { .magic = GW_SHIM_MAGIC, .command = GW_SHIM_USERFAULTFD };
	int fd = -1;
	int r = ask(path, &request, deadline, -1, NULL, &fd, "make a userfaultfd", err);

	if (r < 0)
		return r;
	if (fd < 0)
		return gw_error_set(err, -EPROTO, "the preloaded library at %s sent no userfaultfd", path);
	*ret_fd = fd;
	return 0;
}

int gw_shim_keep_userfaultfd(const char *path, gw_time_ns deadline, int *ret_fd, bool *ret_fresh,
                             struct gw_error *err)
{
	struct gw_shim_request request = { .magic = GW_SHIM_MAGIC, .command = GW_SHIM_KEEP_USERFAULTFD };
	uint64_t fresh = 0;
	int fd = -1;
	int r = ask(path, &request, deadline, -1, &fresh, &fd, "keep a userfaultfd", err);

	if (r < 0)
		return r;
	if (fd < 0)
		return gw_error_set(err, -EPROTO, "the preloaded library at %s sent no userfaultfd", path);
	*ret_fd = fd;
	*ret_fresh = fresh != 0;
	return 0;
}

int gw_shim_drop_userfaultfd(const char *path, gw_time_ns deadline, struct gw_error *err)
{
	struct gw_shim_request request = { .magic = GW_SHIM_MAGIC, .command = GW_SHIM_DROP_USERFAULTFD };

	return ask(path, &request, deadline, -1, NULL, NULL, "drop its userfaultfd", err);
}

/* The same command for each range, over one connection. */
static int ask_ranges(const char *path, uint32_t command, const struct gw_hva_range *ranges, size_t n, gw_time_ns deadline,
                      int cancel_fd)
{
	gw_autofd int sock = -1;
	int r = gw_unix_connect(path, &sock);

	for (size_t i = 0; i < n && r == 0; i++) {
		struct gw_shim_request request = { .magic = GW_SHIM_MAGIC, .command = command,
			                           .address = ranges[i].hva, .length = ranges[i].len };
		struct gw_shim_reply reply;
		gw_autofd int fd = -1;

		r = exchange(sock, &request, deadline, cancel_fd, &reply, &fd);
		if (r == 0)
			r = reply.result;
	}
	return r;
}

int gw_shim_unmap_pages(const char *path, const struct gw_hva_range *ranges, size_t n, gw_time_ns deadline,
                        struct gw_error *err)
{
	int r = ask_ranges(path, GW_SHIM_UNMAP_PAGES, ranges, n, deadline, -1);

	return r < 0 ? gw_error_set_errno(err, r, "the VMM cannot take pages out of its page tables") : 0;
}

int gw_shim_populate(const char *path, uint64_t hva, uint64_t len, gw_time_ns deadline, int cancel_fd,
                     struct gw_error *err)
{
	struct gw_shim_request request = { .magic = GW_SHIM_MAGIC, .command = GW_SHIM_POPULATE_WRITE,
	                                   .address = hva, .length = len };

	return ask(path, &request, deadline, cancel_fd, NULL, NULL, "populate its page tables", err);
}

int gw_shim_populate_ranges(const char *path, const struct gw_hva_range *ranges, size_t n, gw_time_ns deadline,
                            int cancel_fd, struct gw_error *err)
{
	int r = ask_ranges(path, GW_SHIM_POPULATE_READ, ranges, n, deadline, cancel_fd);

	return r < 0 ? gw_error_set_errno(err, r, "the VMM cannot populate its page tables") : 0;
}

int gw_shim_hold_discards(const char *path, uint64_t hva, uint64_t len, uint64_t dev, uint64_t ino,
                          gw_time_ns deadline, int *ret_fd, struct gw_error *err)
{
	const struct gw_shim_request requests[] = {
		{ .magic = GW_SHIM_MAGIC, .command = GW_SHIM_HOLD_MEMORY, .address = hva, .length = len },
		{ .magic = GW_SHIM_MAGIC, .command = GW_SHIM_HOLD_FILE, .address = dev, .length = ino },
	};
	gw_autofd int sock = -1;
	int r = gw_unix_connect(path, &sock);

	for (size_t i = 0; i < GW_ARRAY_SIZE(requests) && r == 0; i++) {
		struct gw_shim_reply reply;
		gw_autofd int fd = -1;

		r = exchange(sock, &requests[i], deadline, -1, &reply, &fd);
		if (r == 0)
			r = reply.result;
	}
	if (r < 0)
		return gw_error_set_errno(err, r == -ENOSYS ? -EOPNOTSUPP : r, "the VMM cannot keep pages that its balloon gives back");
	*ret_fd = gw_steal_fd(&sock);
	return 0;
}
