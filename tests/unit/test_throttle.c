/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Slowing threads of another process down, and that nothing leaves them slow or stopped (N4, X1). */
#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "hypervisor/throttle.h"

#define PATIENCE_NS (20 * GW_NS_PER_S)

/* Shared with the children. */
static struct shared {
	atomic_ulong turns, signals;
	atomic_int tid, ready;
	atomic_bool quit;
} *shared;

static void on_signal(int sig)
{
	atomic_fetch_add(&shared->signals, 1);
}

static void *spin(void *arg)
{
	atomic_store(&shared->tid, gettid());
	while (!atomic_load(&shared->quit))
		atomic_fetch_add_explicit(&shared->turns, 1, memory_order_relaxed);
	return NULL;
}

static void wait_for(bool (*what)(pid_t), pid_t arg, const char *text)
{
	gw_time_ns end = gw_deadline_in(PATIENCE_NS);

	while (!what(arg)) {
		if (gw_now_ns() > end)
			fail_msg("in vain: %s", text);
		gw_sleep_ns(GW_NS_PER_MS);
	}
}

static bool has_tid(pid_t ignored)
{
	return atomic_load(&shared->tid) != 0;
}

/* A process whose second thread spins. */
static pid_t make_spinner(void)
{
	pid_t pid;

	memset(shared, 0, sizeof(*shared));
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		pthread_t thread;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGUSR1, on_signal);
		pthread_create(&thread, NULL, spin, NULL);
		pthread_join(thread, NULL);
		_exit(0);
	}
	wait_for(has_tid, 0, "the child's thread");
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* "State" or "TracerPid" of the spinning thread. */
static void status_of(pid_t pid, const char *key, char *ret, size_t len)
{
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", (int)pid, atomic_load(&shared->tid));
	f = fopen(path, "re");
	assert_non_null(f);
	*ret = 0;
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, key, strlen(key)) == 0)
			snprintf(ret, len, "%s", line + strlen(key) + 1 + strspn(line + strlen(key) + 1, " \t"));
	fclose(f);
}

static bool is_stopped(pid_t pid)
{
	char state[64];

	status_of(pid, "State", state, sizeof(state));
	return state[0] == 't';
}

static bool is_traced(pid_t pid)
{
	char tracer[64];

	status_of(pid, "TracerPid", tracer, sizeof(tracer));
	return atoi(tracer) != 0;
}

static bool is_free(pid_t pid)
{
	return !is_stopped(pid) && !is_traced(pid);
}

static unsigned long turns_before;

static bool has_turned(pid_t ignored)
{
	return atomic_load(&shared->turns) > turns_before + 1000;
}

static void assert_runs(pid_t pid)
{
	wait_for(is_free, pid, "the thread is let go");
	turns_before = atomic_load(&shared->turns);
	wait_for(has_turned, 0, "the thread runs");
}

static struct gw_throttle *throttle(unsigned percent)
{
	struct gw_throttle *t = NULL;
	struct gw_error err = GW_ERROR_INIT;
	pid_t tid = atomic_load(&shared->tid);

	if (gw_throttle_new(&tid, 1, percent, &t, &err) < 0)
		fail_msg("%s", err.text);
	return t;
}

/* CPU time of the process for `ns` of the clock on the wall, in percent. */
static double share(pid_t pid, gw_time_ns ns)
{
	gw_time_ns t0 = gw_now_ns();
	struct timespec a, b;
	clockid_t clock;

	assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
	clock_gettime(clock, &a);
	gw_sleep_ns(ns);
	clock_gettime(clock, &b);
	return 100.0 * ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / (double)(gw_now_ns() - t0);
}

static void test_share(void **state)
{
	pid_t pid = make_spinner();
	struct gw_throttle *t = throttle(50);
	double half, little;

	half = share(pid, 600 * GW_NS_PER_MS);
	gw_throttle_set(t, 95);
	gw_sleep_ns(80 * GW_NS_PER_MS); /* the period that has begun */
	little = share(pid, 600 * GW_NS_PER_MS);
	print_message("slowed down by 50 %%: %.1f %% of the time; by 95 %%: %.1f %%\n", half, little);
	assert_true(half < 65);
	assert_true(little < 15);
	gw_throttle_free(t);
	assert_runs(pid);
	end(pid);
}

static void test_free_lets_go_at_once(void **state)
{
	pid_t pid = make_spinner();

	for (int i = 0; i < 30; i++) {
		struct gw_throttle *t = throttle(99);

		gw_sleep_ns(i * GW_NS_PER_MS); /* at any point of the period */
		gw_throttle_free(t);
		assert_false(is_traced(pid));
		assert_false(is_stopped(pid));
	}
	assert_runs(pid);
	end(pid);
}

static void test_killed_tracer(void **state)
{
	pid_t pid = make_spinner(), tracer = fork();

	if (tracer == 0) {
		(void)throttle(99);
		atomic_store(&shared->ready, 1);
		pause();
		_exit(0);
	}
	wait_for(is_stopped, pid, "the thread is stopped");
	end(tracer);
	assert_runs(pid);
	end(pid);
}

static bool all_signals(pid_t wanted)
{
	return atomic_load(&shared->signals) >= (unsigned long)wanted;
}

static void test_signals_arrive(void **state)
{
	pid_t pid = make_spinner();
	struct gw_throttle *t = throttle(80);

	for (int i = 1; i <= 100; i++) {
		assert_int_equal(tgkill(pid, atomic_load(&shared->tid), SIGUSR1), 0);
		wait_for(all_signals, i, "a signal is delivered");
	}
	gw_throttle_free(t);
	assert_int_equal(atomic_load(&shared->signals), 100);
	assert_runs(pid);
	end(pid);
}

static bool is_zombie(pid_t pid)
{
	siginfo_t info = { 0 };

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

static void test_end_of_the_process(void **state)
{
	pid_t pid = make_spinner();
	struct gw_throttle *t = throttle(90);

	kill(pid, SIGKILL); /* its traced thread must not keep it from ending */
	wait_for(is_zombie, pid, "the process ends");
	gw_throttle_free(t);
	waitpid(pid, NULL, 0);
	pid = make_spinner();
	t = throttle(90);
	atomic_store(&shared->quit, true); /* by itself */
	wait_for(is_zombie, pid, "the process ends");
	gw_throttle_free(t);
	waitpid(pid, NULL, 0);
}

static void test_debugger(void **state)
{
	pid_t pid = make_spinner(), tid = atomic_load(&shared->tid), debugger = fork();
	struct gw_throttle *t = NULL;
	struct gw_error err = GW_ERROR_INIT;

	if (debugger == 0) {
		ptrace(PTRACE_SEIZE, tid, NULL, NULL);
		pause();
		_exit(0);
	}
	wait_for(is_traced, pid, "the debugger traces it");
	assert_int_equal(gw_throttle_new(&tid, 1, 50, &t, &err), -EPERM);
	assert_null(t);
	assert_int_equal(err.code, -EPERM);
	assert_non_null(strstr(err.text, "cannot slow the guest down"));
	end(debugger);
	assert_runs(pid);
	end(pid);
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N4 a slowed thread runs for its share of the time", test_share),
		TEST("N4 a thread is at full speed as soon as it is let go", test_free_lets_go_at_once),
		TEST("X1 a tracer that is killed leaves the thread at full speed", test_killed_tracer),
		TEST("N4 signals to a slowed thread arrive, each once", test_signals_arrive),
		TEST("X1 a process with slowed threads can end", test_end_of_the_process),
		TEST("N4 threads that somebody else traces are not touched", test_debugger),
	};

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return cmocka_run_group_tests_name("throttle", tests, NULL, NULL);
}
