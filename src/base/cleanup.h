/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Scope-bound clean-up, so that every exit path of a function looks alike. */
#ifndef GW_BASE_CLEANUP_H
#define GW_BASE_CLEANUP_H

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define GW_CLEANUP(fn) __attribute__((cleanup(fn)))

static inline void gw_cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void gw_cleanup_fd(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void gw_cleanup_file(FILE **f)
{
	if (*f)
		fclose(*f);
}

static inline void gw_cleanup_dir(DIR **d)
{
	if (*d)
		closedir(*d);
}

static inline void gw_cleanup_unlock(pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock(*m);
}

static inline pthread_mutex_t *gw_lock(pthread_mutex_t *m)
{
	pthread_mutex_lock(m);
	return m;
}

#define gw_autofree GW_CLEANUP(gw_cleanup_free)
#define gw_autofd   GW_CLEANUP(gw_cleanup_fd)
#define gw_autofile GW_CLEANUP(gw_cleanup_file)
#define gw_autodir  GW_CLEANUP(gw_cleanup_dir)

/* Holds `mutex` until the end of the scope. */
#define GW_CONCAT_(a, b) a##b
#define GW_CONCAT(a, b) GW_CONCAT_(a, b)
#define GW_LOCKED(mutex) \
	__attribute__((unused)) GW_CLEANUP(gw_cleanup_unlock) \
	pthread_mutex_t *GW_CONCAT(gw_locked_, __LINE__) = gw_lock(mutex)

/* Hands the value over to the caller and disarms the clean-up. */
static inline int gw_steal_fd(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

#define gw_steal(p) \
	__extension__({ __typeof__(*(p)) gw_v_ = *(p); *(p) = NULL; gw_v_; })

#define GW_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define GW_MIN(a, b) ((a) < (b) ? (a) : (b))
#define GW_MAX(a, b) ((a) > (b) ? (a) : (b))

#endif
