/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwit console: the terminal becomes a VM's serial console. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "cli.h"
#include "control/json.h"

#define ESCAPE 0x1d /* Ctrl-] */

/* Why the connection ended. */
enum end { END_NOT_YET, END_ESCAPE, END_CLOSED, END_SIGNAL, END_ERROR };

static int connect_console(const char *path, struct gw_error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	gw_autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return gw_error_set_errno(err, errno, "cannot make a socket");
	if (strlen(path) >= sizeof(addr.sun_path))
		return gw_error_set(err, ENAMETOOLONG, "the console's path is too long: %s", path);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return gw_error_set_errno(err, errno, "cannot connect to the console at %s", path);
	return gw_steal_fd(&fd);
}

/* From the keyboard to the VM, up to the escape. */
static enum end from_keyboard(int fd, struct pollfd *in)
{
	char buf[4096], *escape;
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));

	if (n <= 0) {
		in->fd = -1; /* a file or pipe has ended: go on showing what the VM writes */
		return isatty(STDIN_FILENO) ? END_CLOSED : END_NOT_YET;
	}
	escape = isatty(STDIN_FILENO) ? memchr(buf, ESCAPE, (size_t)n) : NULL;
	if (escape)
		n = escape - buf;
	if (gw_write_full(fd, buf, (size_t)n, &GW_WAIT_NONE) < 0)
		return END_CLOSED;
	return escape ? END_ESCAPE : END_NOT_YET;
}

static enum end from_vm(int fd)
{
	char buf[4096];
	ssize_t n = read(fd, buf, sizeof(buf));

	if (n <= 0)
		return n < 0 && errno == EINTR ? END_NOT_YET : END_CLOSED;
	return gw_write_full(STDOUT_FILENO, buf, (size_t)n, &GW_WAIT_NONE) < 0 ? END_ERROR : END_NOT_YET;
}

static enum end talk(int fd, int signal_fd)
{
	struct pollfd fds[] = {
		{ .fd = STDIN_FILENO, .events = POLLIN },
		{ .fd = fd, .events = POLLIN },
		{ .fd = signal_fd, .events = POLLIN },
	};
	enum end end = END_NOT_YET;

	while (end == END_NOT_YET) {
		if (poll(fds, GW_ARRAY_SIZE(fds), -1) < 0)
			continue; /* EINTR: nothing else can happen to these */
		if (fds[2].revents)
			end = END_SIGNAL;
		else if (fds[1].revents)
			end = from_vm(fd);
		else if (fds[0].revents)
			end = from_keyboard(fd, &fds[0]);
	}
	return end;
}

/* Raw mode around talk(); signals end it in order, so that the terminal is always put right again. */
static enum end talk_raw(int fd)
{
	static const int signals[] = { SIGTERM, SIGHUP, SIGINT, SIGQUIT };
	gw_autofd int signal_fd = -1;
	struct termios saved, raw;
	bool tty = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &saved) == 0;
	sigset_t set;
	enum end end;
	size_t i;

	sigemptyset(&set);
	for (i = 0; i < GW_ARRAY_SIZE(signals); i++)
		sigaddset(&set, signals[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (tty) {
		raw = saved;
		cfmakeraw(&raw);
		tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
	}
	end = talk(fd, signal_fd);
	if (tty)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
	return end;
}

int cmd_console(struct cli *cli)
{
	const char *name = cli->args[0];
	struct gw_error err = GW_ERROR_INIT;
	gw_autofd int fd = -1;
	json_t *vm;
	bool found;
	int r = cli_get(cli, "vms", name, &found, &vm);

	if (r != CLI_DONE)
		return r;
	if (!found)
		return cli_fail(CLI_USAGE, "there is no VM called '%s' on this host", name);
	if (*gw_json_text(vm, "console"))
		fd = connect_console(gw_json_text(vm, "console"), &err);
	else
		gw_error_set(&err, ENOENT, "%s has no console just now (it is %s)", name,
		             gw_json_text(vm, "state"));
	json_decref(vm);
	if (fd < 0)
		return cli_fail_error(CLI_FAILED, &err);
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "Connected to the console of %s. Ctrl-] ends the connection.\n", name);
	switch (talk_raw(fd)) {
	case END_SIGNAL:
		return CLI_USAGE;
	case END_ERROR:
		return cli_fail(CLI_FAILED, "cannot write to standard output");
	case END_CLOSED:
		fprintf(stderr, "\nThe console of %s was closed: it stopped, or moved to another host.\n",
		        name);
		return CLI_DONE;
	case END_ESCAPE:
	case END_NOT_YET:
		break;
	}
	fprintf(stderr, "\n");
	return CLI_DONE;
}
