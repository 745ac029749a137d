/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A host without QEMU: VMs and jobs in memory, for tests of the API and the command line.
 *
 * A migration plays a script that depends on the target's name:
 *   beta     three passes, then done (with --verify: verified)
 *   slow     copies for ever; ends by cancel
 *   stuck    copies for ever; a cancel is accepted and does not end
 *   late     like beta, but refuses to be cancelled: already decided
 *   fails    fails in the first pass
 *   limbo    ends unknown
 *   expires  fails because its time is over
 * Other targets are unknown (-ENOENT).
 */
#ifndef TESTS_UNIT_FAKE_HOST_H
#define TESTS_UNIT_FAKE_HOST_H

#include "control/host.h"

/* Has the VMs "web1" (console at `console`, may be NULL) and "db1". Each step of a script takes `step_ns`.
 */
struct gw_host *fake_host_new(gw_time_ns step_ns, const char *console);

/* All threads that wait in the host return first. */
void fake_host_free(struct gw_host *h);

/* Begins a migration of web1 to `to` under a given id, as after a restart of the daemon. */
void fake_host_resume(struct gw_host *h, const char *id, const char *to);

/* Changes the job at once, past its script: raises `transferred_bytes` and lets the state be. */
void fake_host_touch(struct gw_host *h, const char *id);

/* Threads that are inside gw_host_job_wait just now. */
unsigned fake_host_waiters(struct gw_host *h);

/* A Job as it looks after `steps` steps of the script of `to`. New reference. */
json_t *fake_job(const char *id, const char *to, unsigned steps, bool verify);

#endif
