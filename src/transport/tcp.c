/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TCP between hosts. A dead peer or a cut link ends every socket within PEER_TIMEOUT. */
#include "transport/tcp.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

#define PEER_TIMEOUT_MS 8000

static void set_options(int fd)
{
	int one = 1, idle = 2, interval = 2, count = 3, timeout = PEER_TIMEOUT_MS;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
}

static int split(const char *address, uint16_t default_port, char host[GW_ADDRESS_MAX], char port[8],
                 struct gw_error *err)
{
	const char *colon = strrchr(address, ':'), *bracket = strrchr(address, ']');
	size_t n = strlen(address);

	snprintf(port, 8, "%u", default_port);
	if (colon && (strchr(address, ':') == colon || (bracket && colon > bracket))) {
		char *end;
		unsigned long p = strtoul(colon + 1, &end, 10);

		if (!colon[1] || *end || p > 65535)
			return gw_error_set(err, EINVAL, "'%s': the port must be a number from 0 to 65535", address);
		snprintf(port, 8, "%lu", p);
		n = (size_t)(colon - address);
	}
	if (n >= 2 && address[0] == '[' && address[n - 1] == ']') {
		address++;
		n -= 2;
	}
	if (n == 0 || n >= GW_ADDRESS_MAX)
		return gw_error_set(err, EINVAL, "'%s' is not a host address", address);
	memcpy(host, address, n);
	host[n] = 0;
	return 0;
}

int gw_tcp_check_address(const char *address, struct gw_error *err)
{
	char host[GW_ADDRESS_MAX], port[8];
	int r = split(address, 1, host, port, err);

	if (r == 0 && !strcmp(port, "0"))
		return gw_error_set(err, EINVAL, "'%s': the port must be a number from 1 to 65535", address);
	return r;
}

static int resolve(const char *address, uint16_t default_port, int flags, struct addrinfo **ret,
                   struct gw_error *err)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV };
	char host[GW_ADDRESS_MAX], port[8];
	int r = split(address, default_port, host, port, err);

	if (r < 0)
		return r;
	r = getaddrinfo(host, port, &hints, ret);
	if (r != 0)
		return gw_error_set(err, EHOSTUNREACH, "cannot find host '%s': %s", host, gai_strerror(r));
	return 0;
}

static int connect_one(const struct addrinfo *ai, const struct gw_wait *w, int *ret_fd)
{
	gw_autofd int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	socklen_t len = sizeof(int);
	int error = 0, r;

	if (fd < 0)
		return -errno;
	set_options(fd);
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
		if (errno != EINPROGRESS)
			return -errno;
		r = gw_wait_fd(fd, POLLOUT, w);
		if (r < 0)
			return r;
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
			return -errno;
		if (error)
			return -error;
	}
	*ret_fd = gw_steal_fd(&fd);
	return 0;
}

int gw_tcp_connect(const char *address, uint16_t default_port, const struct gw_wait *w, int *ret_fd,
                   struct gw_error *err)
{
	struct addrinfo *list = NULL;
	int r = resolve(address, default_port, 0, &list, err);

	if (r < 0)
		return r;
	for (struct addrinfo *ai = list; ai; ai = ai->ai_next) {
		r = connect_one(ai, w, ret_fd);
		if (r == 0 || r == -ECANCELED)
			break;
	}
	freeaddrinfo(list);
	if (r < 0)
		return gw_error_set_errno(err, r, "cannot reach %s", address);
	return 0;
}

int gw_tcp_listen(const char *address, uint16_t default_port, int *ret_fd, struct gw_error *err)
{
	struct addrinfo *list = NULL;
	gw_autofd int fd = -1;
	int one = 1, r = resolve(address, default_port, AI_PASSIVE, &list, err);

	if (r < 0)
		return r;
	fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) < 0 || listen(fd, 128) < 0)
		r = gw_error_set_errno(err, errno, "cannot listen on %s", address);
	freeaddrinfo(list);
	if (r == 0)
		*ret_fd = gw_steal_fd(&fd);
	return r;
}

int gw_tcp_accept(int listen_fd, int *ret_fd)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return -errno;
	set_options(fd);
	*ret_fd = fd;
	return 0;
}

static void format_name(const struct sockaddr_storage *ss, uint16_t port, char *ret, size_t len)
{
	char host[NI_MAXHOST], serv[NI_MAXSERV];
	bool v6 = ss->ss_family == AF_INET6;

	if (getnameinfo((const struct sockaddr *)ss, sizeof(*ss), host, sizeof(host), serv, sizeof(serv),
	                NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
		snprintf(ret, len, "unknown");
		return;
	}
	if (port)
		snprintf(serv, sizeof(serv), "%u", port);
	snprintf(ret, len, v6 ? "[%s]:%s" : "%s:%s", host, serv);
}

void gw_tcp_peer_name(int fd, uint16_t port, char *ret, size_t len)
{
	struct sockaddr_storage ss = { 0 };
	socklen_t n = sizeof(ss);

	if (getpeername(fd, (struct sockaddr *)&ss, &n) < 0)
		snprintf(ret, len, "unknown");
	else
		format_name(&ss, port, ret, len);
}

void gw_tcp_own_name(int fd, char *ret, size_t len)
{
	struct sockaddr_storage ss = { 0 };
	socklen_t n = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &n) < 0)
		snprintf(ret, len, "unknown");
	else
		format_name(&ss, 0, ret, len);
}
