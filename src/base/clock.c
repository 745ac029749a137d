/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading the clocks, and waiting by them. */
#include "base/clock.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>

#define URGENT_NICE (-15)

gw_time_ns gw_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * GW_NS_PER_S + ts.tv_nsec;
}

double gw_wallclock_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

gw_time_ns gw_deadline_in(gw_time_ns ns)
{
	gw_time_ns deadline;

	if (ns == GW_TIME_NEVER || __builtin_add_overflow(gw_now_ns(), ns, &deadline))
		return GW_TIME_NEVER;
	return deadline;
}

int gw_poll_ms(gw_time_ns deadline)
{
	gw_time_ns left;

	if (deadline == GW_TIME_NEVER)
		return -1;
	left = deadline - gw_now_ns();
	if (left <= 0)
		return 0;
	left = (left + GW_NS_PER_MS - 1) / GW_NS_PER_MS;
	return left > INT_MAX ? INT_MAX : (int)left;
}

void gw_sleep_ns(gw_time_ns ns)
{
	struct timespec ts = { .tv_sec = ns / GW_NS_PER_S, .tv_nsec = ns % GW_NS_PER_S };

	if (ns <= 0)
		return;
	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
		;
}

int gw_thread_start(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(ret, attr, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

void gw_cond_init(pthread_cond_t *c)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(c, &attr);
	pthread_condattr_destroy(&attr);
}

int gw_cond_wait(pthread_cond_t *c, pthread_mutex_t *m, gw_time_ns deadline)
{
	struct timespec until = { .tv_sec = deadline / GW_NS_PER_S, .tv_nsec = deadline % GW_NS_PER_S };

	if (deadline == GW_TIME_NEVER)
		return -pthread_cond_wait(c, m);
	return -pthread_cond_timedwait(c, m, &until);
}

void gw_thread_background(void)
{
	/* On Linux this is a thread's own value. */
	(void)setpriority(PRIO_PROCESS, 0, GW_BACKGROUND_NICE);
}

void gw_thread_urgent(void)
{
	(void)setpriority(PRIO_PROCESS, 0, URGENT_NICE); /* on Linux this thread's own */
}
