/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The preloaded library in a process that is this program itself, started a second time as a victim. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "hypervisor/shim_client.h"
#include "hypervisor/unix_socket.h"
#include "shim/protocol.h"

#define VICTIM_BYTES (8u << 20)
#define OTHER_LIBRARY "libpthread.so.0" /* exists everywhere and does nothing */

/* ---- the victim: obeys one-letter orders on its standard input ---- */

static void tell(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
}

/* The child lives until the victim ends; the socket must not lead to it. */
static void fork_child(void)
{
	int hold[2], ready[2];
	pid_t pid;
	char c = 0;

	if (pipe(hold) < 0 || pipe(ready) < 0)
		_exit(3);
	pid = fork();
	if (pid == 0) {
		close(hold[1]);
		(void)!write(ready[1], &c, 1);
		(void)!read(hold[0], &c, 1);
		_exit(0);
	}
	(void)!read(ready[0], &c, 1);
	tell("%d", (int)pid);
}

/* Writes into memory, has it thrown away, and says what is there then. */
static void discard_memory(volatile char *at, int advice)
{
	*at = 'x';
	if (madvise((void *)at, 4096, advice) < 0)
		tell("error %d", errno);
	else
		tell("%s", *at == 'x' ? "kept" : "gone");
}

static void discard_file(int fd)
{
	char c = 'x';

	if (pwrite(fd, &c, 1, 0) != 1 || fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0 ||
	    pread(fd, &c, 1, 0) != 1)
		tell("error %d", errno);
	else
		tell("%s", c == 'x' ? "kept" : "gone");
}

static long minor_faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_THREAD, &u);
	return u.ru_minflt;
}

__attribute__((no_sanitize_address)) /* its shadow memory would fault too */
static long faults_of_writing(volatile char *memory)
{
	long before;

	minor_faults(); /* the stack's own */
	before = minor_faults();
	for (unsigned i = 0; i < 100; i++)
		memory[i * 8192] = 1;
	return minor_faults() - before;
}

static int victim(void)
{
	char *memory = mmap(NULL, VICTIM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	volatile char *own = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int ram = memfd_create("ram", MFD_CLOEXEC), disk = memfd_create("disk", MFD_CLOEXEC);
	const char *preload = getenv("LD_PRELOAD");
	int order;

	tell("%p", (void *)memory);
	*own = 'x';
	while ((order = getchar()) != EOF) {
		switch (order) {
		case 'e':
			tell("%s %s", preload ? preload : "-", getenv(GW_SHIM_SOCKET_ENV) ? "set" : "unset");
			break;
		case 'f':
			fork_child();
			break;
		case 'w':
			tell("%ld", faults_of_writing(memory));
			break;
		case 'r':
			discard_memory(memory, MADV_REMOVE);
			break;
		case 'o': /* memory that nobody speaks of */
			discard_memory(memory + VICTIM_BYTES - 4096, MADV_REMOVE);
			break;
		case 'n':
			tell("%d", ram);
			break;
		case 'm':
			discard_file(ram);
			break;
		case 'd':
			discard_file(disk);
			break;
		case 'p':
			tell("%p", (void *)own);
			break;
		case 'c':
			tell("%s", *own == 'x' ? "kept" : "gone");
			break;
		case 't': /* waits when a userfaultfd is there */
			tell("%d", ((volatile char *)memory)[8192]);
			break;
		case 's': /* signals still arrive in the main thread */
			raise(SIGUSR1);
			break;
		}
	}
	return 0;
}

static void on_signal(int sig)
{
	static const char text[] = "signal\n";

	(void)!write(STDOUT_FILENO, text, sizeof(text) - 1);
}

/* ---- the tests' side ---- */

struct process {
	pid_t pid;
	FILE *in, *out;
	char dir[64], socket[96];
	uint64_t memory;
};

static const char *self_path;

static char *order(struct process *p, char letter)
{
	static char line[512];

	if (letter) {
		fputc(letter, p->in);
		fflush(p->in);
	}
	assert_non_null(fgets(line, sizeof(line), p->out));
	line[strcspn(line, "\n")] = 0;
	return line;
}

static void exec_victim(struct process *p, int in, int out)
{
	char preload[512];

	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	snprintf(preload, sizeof(preload), "%s:" OTHER_LIBRARY, getenv("GODWIT_TEST_SHIM"));
	setenv("LD_PRELOAD", preload, 1);
	setenv(GW_SHIM_SOCKET_ENV, p->socket, 1);
	setenv("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0", 1);
	execl(self_path, self_path, "--victim", NULL);
	_exit(127);
}

static int setup(void **state)
{
	struct process *p = calloc(1, sizeof(*p));
	int in[2], out[2];

	snprintf(p->dir, sizeof(p->dir), "/tmp/gw-test-shim-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->socket, sizeof(p->socket), "%s/shim.sock", p->dir);
	assert_int_equal(gw_write_file_durable(p->socket, "left over", 9, 0666), 0);
	assert_int_equal(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC), 0);
	p->pid = fork();
	if (p->pid == 0)
		exec_victim(p, in[0], out[1]);
	close(in[0]);
	close(out[1]);
	p->in = fdopen(in[1], "w");
	p->out = fdopen(out[0], "r");
	p->memory = strtoull(order(p, 0), NULL, 16);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct process *p = *state;
	int status;

	fclose(p->in);
	waitpid(p->pid, &status, 0);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0); /* undisturbed to the end */
	fclose(p->out);
	gw_remove_tree(p->dir);
	free(p);
	return 0;
}

static void stuck_clients_keep_nobody_waiting(void **state);

static gw_time_ns soon(void)
{
	return gw_deadline_in(10 * GW_NS_PER_S);
}

static void it_answers_on_a_socket_only_its_user_may_use(void **state)
{
	struct process *p = *state;
	struct stat st;

	assert_int_equal(stat(p->socket, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(gw_shim_hello(p->socket, soon(), NULL), 0);
}

static void a_process_of_another_user_is_not_served(void **state)
{
	struct process *p = *state;
	int status;
	pid_t pid;

	if (geteuid() != 0)
		skip();
	assert_int_equal(chmod(p->dir, 0755) | chmod(p->socket, 0666), 0);
	pid = fork();
	if (pid == 0)
		_exit(setuid(65534) < 0 ? 2 : gw_shim_hello(p->socket, soon(), NULL) == 0);
	waitpid(pid, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void its_userfaultfd_is_of_the_victims_memory_and_takes_kernel_faults(void **state)
{
	struct process *p = *state;
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .range = { p->memory, VICTIM_BYTES },
	                               .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fds[3];

	for (int i = 0; i < 3; i++)
		assert_int_equal(gw_shim_userfaultfd(p->socket, soon(), &fds[i], NULL), 0);
	assert_int_equal(ioctl(fds[2], UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(fds[2], UFFDIO_REGISTER, &reg), 0);
	assert_true(fcntl(fds[2], F_GETFL) & O_NONBLOCK);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
}

static uint64_t resident_kib(struct process *p)
{
	gw_autofree char *text = NULL;
	char path[64];
	size_t len;
	char *at;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)p->pid);
	assert_int_equal(gw_read_file(path, 4 << 20, &text, &len), 0);
	snprintf(path, sizeof(path), "%lx-", (unsigned long)p->memory);
	at = strstr(text, path);
	assert_non_null(at);
	return strtoull(strstr(at, "\nRss:") + 5, NULL, 10);
}

static void v2_it_populates_exactly_the_range_it_is_asked_for(void **state)
{
	struct process *p = *state;

	assert_int_equal(resident_kib(p), 0);
	assert_int_equal(gw_shim_populate(p->socket, p->memory, 6 << 20, soon(), -1, NULL), 0);
	assert_int_equal(resident_kib(p), 6 << 10);
}

static void populating_can_be_cancelled_while_nothing_answers(void **state)
{
	char path[] = "/tmp/gw-test-shim-mute-XXXXXX/shim.sock", *slash = strrchr(path, '/');
	int listen_fd, cancel_fd = eventfd(1, EFD_CLOEXEC);
	gw_time_ns began = gw_now_ns();
	struct gw_error err;

	*slash = 0;
	assert_non_null(mkdtemp(path));
	*slash = '/';
	assert_int_equal(gw_unix_listen(path, &listen_fd, &err), 0);
	assert_int_equal(gw_shim_populate(path, 4096, 4096, soon(), cancel_fd, &err), -ECANCELED);
	assert_true(gw_now_ns() - began < GW_NS_PER_S);
	close(cancel_fd);
	close(listen_fd);
	*slash = 0;
	assert_int_equal(gw_remove_tree(path), 0);
}

static void v2_it_populates_many_ranges_over_one_connection(void **state)
{
	struct process *p = *state;
	struct gw_hva_range ranges[100];

	for (unsigned i = 0; i < 100; i++)
		ranges[i] = (struct gw_hva_range){ p->memory + i * 8192, 4096 };
	assert_int_equal(gw_shim_populate_ranges(p->socket, ranges, 100, soon(), -1, NULL), 0);
	assert_int_equal(resident_kib(p), 400);
	assert_string_equal(order(p, 'w'), "0"); /* writing to what was mapped takes no fault */
	ranges[3].hva++;
	assert_int_equal(gw_shim_populate_ranges(p->socket, ranges, 100, soon(), -1, NULL), -EINVAL);
}

static void keep(struct process *p, int *ret_fd, bool fresh)
{
	bool was_fresh;

	assert_int_equal(gw_shim_keep_userfaultfd(p->socket, soon(), ret_fd, &was_fresh, NULL), 0);
	assert_int_equal(was_fresh, fresh);
}

static void n7_a_kept_userfaultfd_outlives_its_client_until_it_is_dropped(void **state)
{
	struct process *p = *state;
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .range = { p->memory, VICTIM_BYTES }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	int first, second;

	keep(p, &first, true);
	assert_int_equal(ioctl(first, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(first, UFFDIO_REGISTER, &reg), 0);
	close(first); /* this client dies */
	fputc('t', p->in);
	fflush(p->in);
	keep(p, &second, false);
	assert_int_equal(gw_unix_wait(second, POLLIN, soon()), 0); /* the same one: the victim waits at it */
	close(second);
	keep(p, &second, false);
	assert_int_equal(gw_unix_wait(second, POLLIN, soon()), 0);
	assert_int_equal(gw_unix_wait(fileno(p->out), POLLIN, gw_now_ns()), -ETIMEDOUT);
	close(second);
	assert_int_equal(gw_shim_drop_userfaultfd(p->socket, soon(), NULL), 0);
	assert_string_equal(order(p, 0), "0"); /* it is awake */
	assert_int_equal(gw_shim_drop_userfaultfd(p->socket, soon(), NULL), 0); /* nothing there any more */
	keep(p, &second, true);
	close(second);
}

static void n8_pages_leave_the_page_tables_of_shared_memory_only(void **state)
{
	struct process *p = *state;
	struct gw_hva_range ranges[2] = { { p->memory, 1 << 20 }, { p->memory + (2 << 20), 1 << 20 } };
	struct gw_error err;

	assert_int_equal(gw_shim_populate(p->socket, p->memory, 6 << 20, soon(), -1, NULL), 0);
	order(p, 'w');
	assert_int_equal(gw_shim_unmap_pages(p->socket, ranges, 2, soon(), &err), 0);
	assert_int_equal(resident_kib(p), 4 << 10);
	assert_string_equal(order(p, 't'), "1"); /* what they hold stays */
	ranges[0] = (struct gw_hva_range){ strtoull(order(p, 'p'), NULL, 16), 4096 };
	assert_int_equal(gw_shim_unmap_pages(p->socket, ranges, 1, soon(), &err), -EINVAL);
	assert_string_equal(order(p, 'c'), "kept");
	ranges[0] = (struct gw_hva_range){ p->memory, 1ull << 40 }; /* what lies behind is none of it */
	assert_int_equal(gw_shim_unmap_pages(p->socket, ranges, 1, soon(), &err), -EINVAL);
	ranges[0] = (struct gw_hva_range){ p->memory, UINT64_MAX };
	assert_int_equal(gw_shim_unmap_pages(p->socket, ranges, 1, soon(), &err), -EINVAL);
	assert_string_equal(order(p, 'c'), "kept");
}

static void discarded(struct process *p, const char *what, const char *where)
{
	for (; *where; where++)
		if (strcmp(order(p, *where), what) != 0)
			fail_msg("order %c: not %s", *where, what);
}

static void v1_discards_of_held_memory_are_skipped_until_the_holder_goes(void **state)
{
	struct process *p = *state;
	char path[64];
	struct stat st;
	int hold = -1;

	snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)p->pid, order(p, 'n'));
	assert_int_equal(stat(path, &st), 0);
	discarded(p, "gone", "romd");
	assert_int_equal(gw_shim_hold_discards(p->socket, p->memory, 1 << 20, st.st_dev, st.st_ino, soon(), &hold, NULL), 0);
	discarded(p, "kept", "rm");
	discarded(p, "gone", "od"); /* other memory and other files: as ever */
	stuck_clients_keep_nobody_waiting(state);
	discarded(p, "kept", "rm"); /* whoever else comes and goes */
	close(hold);
	assert_int_equal(gw_shim_hello(p->socket, soon(), NULL), 0); /* served after the hang-up was */
	discarded(p, "gone", "romd");
}

static void bad_ranges_are_refused_with_the_errno(void **state)
{
	struct process *p = *state;
	struct gw_error err;

	assert_int_equal(gw_shim_populate(p->socket, p->memory + 1, 4096, soon(), -1, &err), -EINVAL);
	assert_int_equal(gw_shim_populate(p->socket, p->memory, UINT64_MAX - 4095, soon(), -1, &err), -EINVAL);
	assert_int_equal(gw_shim_populate(p->socket, 4096, 4096, soon(), -1, &err), -ENOMEM);
	assert_non_null(strstr(err.text, "populate"));
	assert_int_equal(gw_shim_populate(p->socket, p->memory, 0, soon(), -1, &err), 0);
}

static void children_are_not_preloaded_and_other_libraries_stay(void **state)
{
	assert_string_equal(order(*state, 'e'), OTHER_LIBRARY " unset");
}

static void signals_go_to_the_victim_as_ever(void **state)
{
	assert_string_equal(order(*state, 's'), "signal");
}

/* Looks at every thread of the victim: the library's own must have all signals blocked. */
static void its_thread_has_its_name_and_blocks_every_signal(void **state)
{
	struct process *p = *state;
	char path[320];
	gw_autodir DIR *tasks = NULL;
	struct dirent *e;
	bool found = false;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)p->pid);
	tasks = opendir(path);
	while ((e = readdir(tasks))) {
		gw_autofree char *text = NULL;
		size_t len;

		snprintf(path, sizeof(path), "/proc/%d/task/%s/status", (int)p->pid, e->d_name);
		if (e->d_name[0] == '.' || gw_read_file(path, 65536, &text, &len) < 0 ||
		    !strstr(text, "Name:\tgodwit-shim\n"))
			continue;
		found = true;
		/* all but KILL, STOP and the two that the C library keeps for itself */
		assert_int_equal(strtoull(strstr(text, "SigBlk:") + 7, NULL, 16) | 0x180040100ull,
		                 0xffffffffffffffffull);
	}
	assert_true(found);
}

static void a_forked_child_does_not_hold_the_socket(void **state)
{
	struct process *p = *state;
	char path[320], target[64];
	pid_t child = (pid_t)atoi(order(p, 'f'));
	gw_autodir DIR *fds = NULL;
	struct dirent *e;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)child);
	fds = opendir(path);
	assert_non_null(fds);
	while ((e = readdir(fds))) {
		ssize_t n;

		if (atoi(e->d_name) <= STDERR_FILENO)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)child, e->d_name);
		n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = 0;
		assert_null(strstr(target, "socket:"));
		assert_null(strstr(target, "userfaultfd"));
	}
	assert_int_equal(gw_shim_hello(p->socket, soon(), NULL), 0);
	kill(child, SIGKILL);
}

static void stuck_clients_keep_nobody_waiting(void **state)
{
	struct process *p = *state;
	struct gw_shim_request half = { .magic = GW_SHIM_MAGIC };
	int stuck[20];

	for (unsigned i = 0; i < GW_ARRAY_SIZE(stuck); i++) {
		assert_int_equal(gw_unix_connect(p->socket, &stuck[i]), 0);
		send(stuck[i], &half, i % sizeof(half), MSG_NOSIGNAL);
		assert_int_equal(gw_shim_hello(p->socket, soon(), NULL), 0);
	}
	for (unsigned i = 0; i < GW_ARRAY_SIZE(stuck); i++)
		close(stuck[i]);
}

static void garbage_ends_the_connection_and_nothing_else(void **state)
{
	struct process *p = *state;
	char garbage[4096];
	gw_autofd int fd = -1;

	memset(garbage, 0x5a, sizeof(garbage));
	assert_int_equal(gw_unix_connect(p->socket, &fd), 0);
	assert_true(send(fd, garbage, sizeof(garbage), MSG_NOSIGNAL) > 0);
	assert_int_equal(gw_unix_wait(fd, POLLIN, soon()), 0);
	assert_true(recv(fd, garbage, sizeof(garbage), 0) <= 0);
	assert_int_equal(gw_shim_hello(p->socket, soon(), NULL), 0);
}

static void unknown_commands_are_refused(void **state)
{
	struct process *p = *state;
	struct gw_shim_request request = { .magic = GW_SHIM_MAGIC, .command = 99 };
	struct gw_shim_reply reply;
	gw_autofd int fd = -1;

	assert_int_equal(gw_unix_connect(p->socket, &fd), 0);
	assert_int_equal(send(fd, &request, sizeof(request), MSG_NOSIGNAL), sizeof(request));
	assert_int_equal(gw_unix_wait(fd, POLLIN, soon()), 0);
	assert_int_equal(recv(fd, &reply, sizeof(reply), 0), sizeof(reply));
	assert_int_equal(reply.result, -ENOSYS);
}

static void without_the_variable_it_does_nothing(void **state)
{
	char command[1024];
	int status;

	snprintf(command, sizeof(command), "env -u " GW_SHIM_SOCKET_ENV " LD_PRELOAD=%s sh -c "
	         "'test -n \"$LD_PRELOAD\" && test $(ls /proc/self/task | wc -l) = 1'",
	         getenv("GODWIT_TEST_SHIM"));
	status = system(command);
	assert_int_equal(status, 0);
}

int main(int argc, char **argv)
{
#define WITH_VICTIM(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_VICTIM(it_answers_on_a_socket_only_its_user_may_use),
		WITH_VICTIM(a_process_of_another_user_is_not_served),
		WITH_VICTIM(its_userfaultfd_is_of_the_victims_memory_and_takes_kernel_faults),
		WITH_VICTIM(v2_it_populates_exactly_the_range_it_is_asked_for),
		WITH_VICTIM(v2_it_populates_many_ranges_over_one_connection),
		WITH_VICTIM(n7_a_kept_userfaultfd_outlives_its_client_until_it_is_dropped),
		WITH_VICTIM(n8_pages_leave_the_page_tables_of_shared_memory_only),
		WITH_VICTIM(v1_discards_of_held_memory_are_skipped_until_the_holder_goes),
		WITH_VICTIM(bad_ranges_are_refused_with_the_errno),
		WITH_VICTIM(children_are_not_preloaded_and_other_libraries_stay),
		WITH_VICTIM(signals_go_to_the_victim_as_ever),
		WITH_VICTIM(its_thread_has_its_name_and_blocks_every_signal),
		WITH_VICTIM(a_forked_child_does_not_hold_the_socket),
		WITH_VICTIM(stuck_clients_keep_nobody_waiting),
		WITH_VICTIM(garbage_ends_the_connection_and_nothing_else),
		WITH_VICTIM(unknown_commands_are_refused),
		cmocka_unit_test(populating_can_be_cancelled_while_nothing_answers),
		cmocka_unit_test(without_the_variable_it_does_nothing),
	};

	if (argc > 1 && strcmp(argv[1], "--victim") == 0) {
		signal(SIGUSR1, on_signal);
		return victim();
	}
	if (!getenv("GODWIT_TEST_SHIM")) {
		fprintf(stderr, "GODWIT_TEST_SHIM must name libgodwit-shim.so\n");
		return 2;
	}
	self_path = "/proc/self/exe";
	return cmocka_run_group_tests(tests, NULL, NULL);
}
