/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Slows threads of another process down (N4).
 *
 * Theory of operation: see throttle.c.
 */
#ifndef GW_HYPERVISOR_THROTTLE_H
#define GW_HYPERVISOR_THROTTLE_H

#include <sys/types.h>

#include "base/error.h"

#define GW_THROTTLE_THREADS_MAX 1024

struct gw_throttle;

/* From now on each thread runs for (100 - percent) % of the time only; percent is 1 to 99. They need not end together,
 * those that do end are let go. -EPERM where the threads may not be traced, -EBUSY where a debugger traces them. */
int gw_throttle_new(const pid_t *tids, unsigned n, unsigned percent, struct gw_throttle **ret, struct gw_error *err);

void gw_throttle_set(struct gw_throttle *t, unsigned percent);

/* The threads run at full speed when it returns. NULL allowed. */
void gw_throttle_free(struct gw_throttle *t);

#endif
