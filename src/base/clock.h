/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one time type, nanoseconds of CLOCK_MONOTONIC, and waiting by it. */
#ifndef GW_BASE_CLOCK_H
#define GW_BASE_CLOCK_H

#include <pthread.h>
#include <stdint.h>

typedef int64_t gw_time_ns;

#define GW_NS_PER_US 1000LL
#define GW_NS_PER_MS 1000000LL
#define GW_NS_PER_S 1000000000LL
#define GW_TIME_NEVER INT64_MAX

/* CLOCK_MONOTONIC: comparable between processes of one host, not between hosts. */
gw_time_ns gw_now_ns(void);

/* CLOCK_REALTIME seconds, for display and records only; never for decisions. */
double gw_wallclock_s(void);

/* now + `ns`, saturating at GW_TIME_NEVER. */
gw_time_ns gw_deadline_in(gw_time_ns ns);

/* Milliseconds left until `deadline`, rounded up, for poll(2): -1 for GW_TIME_NEVER, 0 when past. */
int gw_poll_ms(gw_time_ns deadline);

void gw_sleep_ns(gw_time_ns ns);

/* pthread_create with every signal blocked in the new thread: signals are the main loop's. 0 or -errno. */
int gw_thread_start(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);

/* A condition variable for gw_cond_wait(): its clock is CLOCK_MONOTONIC. */
void gw_cond_init(pthread_cond_t *c);

/* Waits with `m` held until `c` is signalled, or until `deadline` (GW_TIME_NEVER: none). 0, also when nothing was
 * signalled at all (the caller looks at its condition again), or -ETIMEDOUT. */
int gw_cond_wait(pthread_cond_t *c, pthread_mutex_t *m, gw_time_ns deadline);

/* Clearing up is done at this priority: late by milliseconds, never in a guest's way. */
#define GW_BACKGROUND_NICE 10
/* Puts the calling thread there, for good. */
void gw_thread_background(void);

/* For a thread that a vCPU waits for: ahead of all that copies. Where that is not allowed it stays as it is. */
void gw_thread_urgent(void);

#endif
