/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A fake host behind a real server on a real socket. */
#include "http_world.h"

#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"

static void fill_address(struct sockaddr_un *addr, const char *path)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(addr->sun_path, sizeof(addr->sun_path), "%s", path);
}

int http_world_listen(const char *path)
{
	struct sockaddr_un addr;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	fill_address(&addr, path);
	assert(fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 64) == 0);
	return fd;
}

int http_world_connect(const char *path)
{
	struct sockaddr_un addr;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	fill_address(&addr, path);
	assert(fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	return fd;
}

bool http_world_send(int fd, const char *bytes, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		bytes += n;
		len -= (size_t)n;
	}
	return true;
}

bool http_world_read(int fd, char *buf, size_t len, const char *enough, gw_time_ns timeout)
{
	gw_time_ns until = gw_deadline_in(timeout);
	size_t at = 0;

	buf[0] = '\0';
	for (;;) {
		struct pollfd pfd = { .fd = fd, .events = POLLIN };
		ssize_t n;

		if (poll(&pfd, 1, gw_poll_ms(until)) <= 0)
			return false;
		n = recv(fd, buf + at, len - 1 - at, 0);
		if (n <= 0)
			return !enough;
		at += (size_t)n;
		buf[at] = '\0';
		if (enough && strstr(buf, enough))
			return true;
		if (at + 1 == len)
			at = 0; /* a long stream: look at its newest part only */
	}
}

void http_world_init(struct http_world *w, const struct gw_http_limits *limits, gw_time_ns step_ns)
{
	struct gw_error err = GW_ERROR_INIT;

	snprintf(w->folder, sizeof(w->folder), "/tmp/gw-http-XXXXXX");
	assert(mkdtemp(w->folder));
	snprintf(w->path, sizeof(w->path), "%s/api.sock", w->folder);
	w->host = fake_host_new(step_ns, NULL);
	assert(gw_http_server_new(http_world_listen(w->path), w->host, limits, &w->server, &err) == 0);
	assert(gw_http_client_new(w->path, -1, &w->client) == 0);
}

void http_world_done(struct http_world *w)
{
	gw_http_client_free(w->client);
	gw_http_server_free(w->server);
	fake_host_free(w->host);
	unlink(w->path);
	rmdir(w->folder);
}
