/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The API over the fake host as a process: fake_godwitd SOCKET STEP_MS [CONSOLE [JOB TO]].
 * Says "ready" when it serves; ends by SIGTERM. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/http_server.h"
#include "fake_host.h"

static int listen_on(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 64) < 0)
		return -1;
	return fd;
}

int main(int argc, char **argv)
{
	struct gw_http_server *server;
	struct gw_error err = GW_ERROR_INIT;
	struct gw_host *host;
	sigset_t set;
	int sig;

	if (argc < 3)
		return 2;
	gw_log_init(GW_LOG_INFO);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	host = fake_host_new(atoi(argv[2]) * GW_NS_PER_MS, argc > 3 ? argv[3] : NULL);
	if (argc > 5)
		fake_host_resume(host, argv[4], argv[5]);
	if (gw_http_server_new(listen_on(argv[1]), host, NULL, &server, &err) < 0) {
		fprintf(stderr, "%s\n", gw_error_text(&err));
		return 1;
	}
	puts("ready");
	fflush(stdout);
	sigwait(&set, &sig);
	gw_http_server_free(server);
	fake_host_free(host);
	return 0;
}
