/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Slows threads of another process down: a tracer stops them for a part of each period. */
#include "hypervisor/throttle.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

/* Theory of operation
 *
 * One thread here seizes the others with ptrace, interrupts them, waits for the rest of the stop's time, and detaches
 * again; then they run untraced until the next period. Why this and not another way:
 *
 * - Only the threads named stop (vCPUs). The VMM itself answers, its devices work, nothing is asked of it: its own
 *   `stop` flushes disks and takes a round trip each time.
 * - The kernel lets go of everything that a thread traces when that thread ends, however it ends. A daemon that is
 *   killed in the middle of a stop leaves the guest at full speed, with nothing to put right by the next one. Limits on
 *   a cgroup or a scheduling class would stay.
 * - A thread is traced while it is stopped only. Signals that come meanwhile wait, and are delivered with the detach.
 *
 * A stopped vCPU may hold a lock of the VMM, which then waits too: so periods are short. A thread that cannot stop yet
 * (it waits for a disk, say) stays seized, runs on, and is let go as soon as it stops. A thread that exits while it is
 * traced must be reaped here, or its process could not end.
 */

#define PERIOD_NS (40 * GW_NS_PER_MS)
#define STOP_TRIES 20
#define STOP_TRY_NS (100 * GW_NS_PER_US)

enum tracee { FREE, SEIZED, GONE };

struct gw_throttle {
	/* set before the thread starts */
	unsigned n;
	pid_t *tids;
	pthread_t thread;
	bool started;

	/* the thread's */
	enum tracee *tracees;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* protected by lock */
	unsigned percent;
	bool quit, tried;
	int error; /* of the first try */
};

/* Seizes and interrupts all. The first error that is not the end of a thread. */
static int stop_all(struct gw_throttle *t)
{
	int error = 0;

	for (unsigned i = 0; i < t->n; i++) {
		if (t->tracees[i] != FREE)
			continue;
		if (ptrace(PTRACE_SEIZE, t->tids[i], NULL, NULL) < 0) {
			if (errno == ESRCH)
				t->tracees[i] = GONE;
			else if (!error)
				error = -errno;
			continue;
		}
		t->tracees[i] = SEIZED;
		ptrace(PTRACE_INTERRUPT, t->tids[i], NULL, NULL);
	}
	return error;
}

/* Detaches from one if it has stopped. */
static void let_go(struct gw_throttle *t, unsigned i)
{
	int status;
	pid_t r = waitpid(t->tids[i], &status, __WALL | WNOHANG);
	bool signalled;

	if (r == 0)
		return;
	if (r < 0 || WIFEXITED(status) || WIFSIGNALED(status)) {
		t->tracees[i] = GONE;
		return;
	}
	/* Stopped by the interrupt, or on its way to a signal, which it must get. */
	signalled = WIFSTOPPED(status) && status >> 16 != PTRACE_EVENT_STOP;
	if (ptrace(PTRACE_DETACH, t->tids[i], NULL, signalled ? (long)WSTOPSIG(status) : 0L) == 0)
		t->tracees[i] = FREE;
	/* Otherwise it was killed just now, and is reaped the next time. */
}

static bool let_all_go(struct gw_throttle *t)
{
	bool all = true;

	for (unsigned i = 0; i < t->n; i++) {
		if (t->tracees[i] == SEIZED)
			let_go(t, i);
		all = all && t->tracees[i] != SEIZED;
	}
	return all;
}

/* Returns false when it is time to quit. */
static bool sleep_until(struct gw_throttle *t, gw_time_ns when)
{
	GW_LOCKED(&t->lock);
	while (!t->quit && gw_now_ns() < when)
		(void)gw_cond_wait(&t->changed, &t->lock, when);
	return !t->quit;
}

static gw_time_ns stop_ns(struct gw_throttle *t)
{
	GW_LOCKED(&t->lock);
	return PERIOD_NS * t->percent / 100;
}

static void note_first_try(struct gw_throttle *t, int error)
{
	GW_LOCKED(&t->lock);
	t->error = t->tried ? t->error : error;
	t->tried = true;
	pthread_cond_broadcast(&t->changed);
}

static void *throttle_thread(void *arg)
{
	struct gw_throttle *t = arg;
	bool go_on = true;

	while (go_on) {
		gw_time_ns began = gw_now_ns();

		note_first_try(t, stop_all(t));
		go_on = sleep_until(t, began + stop_ns(t));
		for (unsigned i = 0; i < STOP_TRIES && !let_all_go(t); i++)
			gw_sleep_ns(STOP_TRY_NS);
		go_on = go_on && sleep_until(t, began + PERIOD_NS);
	}
	return NULL; /* whatever is still seized is let go by the kernel */
}

static int start(struct gw_throttle *t, const pid_t *tids, unsigned percent)
{
	int r;

	t->tids = calloc(t->n, sizeof(*t->tids));
	t->tracees = calloc(t->n, sizeof(*t->tracees));
	if (!t->tids || !t->tracees)
		return -ENOMEM;
	memcpy(t->tids, tids, t->n * sizeof(*tids));
	t->percent = percent;
	pthread_mutex_init(&t->lock, NULL);
	gw_cond_init(&t->changed);
	r = gw_thread_start(&t->thread, NULL, throttle_thread, t);
	t->started = r == 0;
	return r;
}

static int await_first_try(struct gw_throttle *t)
{
	GW_LOCKED(&t->lock);
	while (!t->tried)
		pthread_cond_wait(&t->changed, &t->lock);
	return t->error;
}

int gw_throttle_new(const pid_t *tids, unsigned n, unsigned percent, struct gw_throttle **ret, struct gw_error *err)
{
	struct gw_throttle *t;
	int r;

	if (n == 0 || n > GW_THROTTLE_THREADS_MAX || percent < 1 || percent > 99)
		return gw_error_set(err, EINVAL, "cannot slow %u threads down by %u %%", n, percent);
	t = calloc(1, sizeof(*t));
	if (!t)
		return gw_error_set(err, ENOMEM, "out of memory");
	t->n = n;
	r = start(t, tids, percent);
	if (r == 0)
		r = await_first_try(t);
	if (r < 0) {
		gw_throttle_free(t);
		return gw_error_set_errno(err, r, "cannot slow the guest down: its vCPUs cannot be traced");
	}
	*ret = t;
	return 0;
}

void gw_throttle_set(struct gw_throttle *t, unsigned percent)
{
	GW_LOCKED(&t->lock);
	t->percent = percent;
}

void gw_throttle_free(struct gw_throttle *t)
{
	if (!t)
		return;
	if (t->started) {
		{
			GW_LOCKED(&t->lock);
			t->quit = true;
			pthread_cond_broadcast(&t->changed);
		}
		pthread_join(t->thread, NULL);
		pthread_cond_destroy(&t->changed);
		pthread_mutex_destroy(&t->lock);
	}
	free(t->tids);
	free(t->tracees);
	free(t);
}
