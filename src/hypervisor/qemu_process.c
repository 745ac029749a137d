/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The QEMU process: started so that it outlives the daemon, found again, ended for certain. */
#include <ctype.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "hypervisor/qemu_internal.h"
#include "hypervisor/unix_socket.h"
#include "shim/protocol.h"

#define POLITE_NS (2 * GW_NS_PER_S)
#define KILLED_NS (10 * GW_NS_PER_S) /* a killed process may first have to finish I/O in the kernel */
#define LOG_TAIL_BYTES 4096
#define WORDS_LINES_MAX 3

/* The daemon's environment is not QEMU's: what speaks to the daemon or its service manager is left out. */
static bool is_ours(const char *variable)
{
	static const char *const prefixes[] = { "GODWIT_", "LD_PRELOAD=", "NOTIFY_SOCKET=", "LISTEN_",
	                                        "WATCHDOG_", "INVOCATION_ID=", "JOURNAL_STREAM=" };

	for (unsigned i = 0; i < GW_ARRAY_SIZE(prefixes); i++)
		if (strncmp(variable, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	return false;
}

static void make_environment(struct gw_strv *env, const char *shim, const char *shim_socket)
{
	const char *preload = getenv("LD_PRELOAD");

	for (char **v = environ; *v; v++)
		if (!is_ours(*v))
			gw_strv_add(env, "%s", *v);
	if (shim && shim_socket) {
		gw_strv_add(env, "LD_PRELOAD=%s%s%s", shim, preload ? ":" : "", preload ? preload : "");
		gw_strv_add(env, GW_SHIM_SOCKET_ENV "=%s", shim_socket);
	} else if (preload) {
		gw_strv_add(env, "LD_PRELOAD=%s", preload);
	}
}

/* The descriptors are moved out of the way of the numbers that they get in the child. */
static int spawn(char *const argv[], char *const env[], int qmp_fd, int log_fd, pid_t *ret_pid)
{
	gw_autofd int qmp = fcntl(qmp_fd, F_DUPFD_CLOEXEC, 16);
	gw_autofd int log = fcntl(log_fd, F_DUPFD_CLOEXEC, 16);
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t all, none;
	int r;

	if (qmp < 0 || log < 0)
		return -errno;
	sigfillset(&all);
	sigemptyset(&none);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, log, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&files, log, STDERR_FILENO);
	posix_spawn_file_actions_adddup2(&files, qmp, GW_QEMU_QMP_FD);
	posix_spawn_file_actions_addclosefrom_np(&files, GW_QEMU_QMP_FD + 1);
	posix_spawn_file_actions_addchdir_np(&files, "/");
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF |
	                                POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setsigmask(&attr, &none);
	r = posix_spawnp(ret_pid, argv[0], &files, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return -r;
}

int gw_qemu_spawn(const struct gw_qemu_host *host, char *const argv[], int qmp_fd, int log_fd,
                  const char *shim_socket, pid_t *ret_pid, int *ret_pidfd, struct gw_error *err)
{
	struct gw_strv env = { .v = NULL };
	pid_t pid;
	int r, pidfd;

	make_environment(&env, host->shim, shim_socket);
	r = env.failed ? -ENOMEM : spawn(argv, env.v, qmp_fd, log_fd, &pid);
	gw_strv_done(&env);
	if (r < 0)
		return gw_error_set_errno(err, r, "cannot run %s", argv[0]);
	pidfd = pidfd_open(pid, 0); /* not reaped yet: the pid cannot be somebody else's */
	if (pidfd < 0) {
		r = -errno;
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		return gw_error_set_errno(err, r, "cannot watch %s", argv[0]);
	}
	*ret_pid = pid;
	*ret_pidfd = pidfd;
	return 0;
}

int gw_qemu_start_time(pid_t pid, uint64_t *ret)
{
	char path[64];
	gw_autofree char *text = NULL;
	unsigned long long start;
	const char *after_name;
	size_t len;
	char state;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (gw_read_file(path, 4096, &text, &len) < 0)
		return -ESRCH;
	after_name = strrchr(text, ')'); /* the name may contain anything */
	if (!after_name ||
	    sscanf(after_name, ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
	                       "%*d %*d %llu", &state, &start) != 2)
		return -EBADMSG;
	if (state == 'Z' || state == 'X')
		return -ESRCH;
	*ret = start;
	return 0;
}

/* The daemon died between starting QEMU and noting its pid: QEMU's own pidfile has it, and the pidfile
 * option in its command line proves that it is the right one. */
static pid_t pid_from_pidfile(const char *run_dir)
{
	char path[GW_QEMU_PATH_MAX + 16], cmdline[64];
	gw_autofree char *text = NULL, *args = NULL;
	size_t len, args_len;
	long pid;

	snprintf(path, sizeof(path), "%s/qemu.pid", run_dir);
	if (gw_read_file(path, 64, &text, &len) < 0)
		return -1;
	pid = strtol(text, NULL, 10);
	if (pid <= 1 || pid > INT32_MAX)
		return -1;
	snprintf(cmdline, sizeof(cmdline), "/proc/%ld/cmdline", pid);
	if (gw_read_file(cmdline, 1 << 20, &args, &args_len) < 0 ||
	    !memmem(args, args_len, path, strlen(path) + 1))
		return -1;
	return (pid_t)pid;
}

int gw_qemu_find_process(const char *run_dir, struct gw_qemu_record *rec, int *ret_pidfd)
{
	bool known = rec->pid != 0;
	pid_t pid = known ? rec->pid : pid_from_pidfile(run_dir);
	gw_autofd int pidfd = pid > 0 ? pidfd_open(pid, 0) : -1;
	uint64_t start_time;

	/* The start time is read with the pidfd in hand: what it belongs to cannot change any more. */
	if (pidfd < 0 || gw_qemu_start_time(pid, &start_time) < 0 || gw_qemu_pidfd_ended(pidfd) ||
	    (known && start_time != rec->start_time))
		return -ESRCH;
	rec->pid = pid;
	rec->start_time = start_time;
	*ret_pidfd = gw_steal_fd(&pidfd);
	return 0;
}

bool gw_qemu_pidfd_ended(int pidfd)
{
	return gw_unix_wait(pidfd, POLLIN, 0) == 0;
}

int gw_qemu_end_process(int pidfd, bool asked, struct gw_error *err)
{
	siginfo_t info;

	if (!gw_qemu_pidfd_ended(pidfd)) {
		if (!asked)
			pidfd_send_signal(pidfd, SIGTERM, NULL, 0);
		if (gw_unix_wait(pidfd, POLLIN, gw_deadline_in(POLITE_NS)) < 0)
			pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
		if (gw_unix_wait(pidfd, POLLIN, gw_deadline_in(KILLED_NS)) < 0)
			return gw_error_set(err, -EBUSY, "QEMU does not end, not even killed (it hangs in "
			                    "the kernel, mostly for I/O)");
	}
	waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG); /* a child of an earlier daemon is not ours */
	return 0;
}

/* ---- last words ---- */

static void describe_end(int pidfd, char *ret, size_t len)
{
	siginfo_t info = { .si_pid = 0 };

	ret[0] = 0;
	if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || !info.si_pid)
		return;
	if (info.si_code == CLD_EXITED)
		snprintf(ret, len, "exit status %d", info.si_status);
	else
		snprintf(ret, len, "killed by signal %d", info.si_status);
}

/* "qemu-system-x86_64: -machine foo: unsupported" -> without the program's name. */
static const char *without_program(const char *line)
{
	const char *colon = strncmp(line, "qemu-", 5) == 0 ? strstr(line, ": ") : NULL;

	return colon ? colon + 2 : line;
}

static void add_line(char *ret, size_t len, const char *line)
{
	size_t used = strlen(ret);

	snprintf(ret + used, len - used, "%s%s", used ? "; " : "", line);
}

static void collect_words(char *tail, char *ret, size_t len)
{
	const char *lines[WORDS_LINES_MAX] = { NULL };
	char *state = NULL;

	for (char *line = strtok_r(tail, "\r\n", &state); line; line = strtok_r(NULL, "\r\n", &state)) {
		line = (char *)without_program(line);
		for (char *c = line; *c; c++)
			if (!isprint((unsigned char)*c))
				*c = '?';
		if (!*line || strncmp(line, "warning:", 8) == 0)
			continue;
		memmove(lines, lines + 1, sizeof(lines) - sizeof(lines[0]));
		lines[WORDS_LINES_MAX - 1] = line;
	}
	for (unsigned i = 0; i < WORDS_LINES_MAX; i++)
		if (lines[i])
			add_line(ret, len, lines[i]);
}

void gw_qemu_last_words(int pidfd, int log_fd, char *ret, size_t len)
{
	char tail[LOG_TAIL_BYTES + 1], words[640] = "", end[64] = "";
	off_t size = log_fd >= 0 ? lseek(log_fd, 0, SEEK_END) : -1;
	ssize_t n = 0;

	if (pidfd >= 0)
		describe_end(pidfd, end, sizeof(end));
	if (size > 0)
		n = pread(log_fd, tail, LOG_TAIL_BYTES, size > LOG_TAIL_BYTES ? size - LOG_TAIL_BYTES : 0);
	tail[n > 0 ? n : 0] = 0;
	collect_words(tail, words, sizeof(words));
	snprintf(ret, len, "%s%s%s%s", *end || *words ? ": " : "", end, *end && *words ? "; " : "", words);
}
