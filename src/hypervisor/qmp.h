/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A QMP client: commands from any thread, events in any order, and a QEMU that may die at any moment.
 *
 * One reader thread per connection hands replies to the callers that wait for them (by id) and keeps
 * the newest events in a ring. When the connection ends every waiter returns -ESRCH at once.
 */
#ifndef GW_HYPERVISOR_QMP_H
#define GW_HYPERVISOR_QMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/error.h"

struct gw_qmp;

/* Connects and negotiates. -ETIMEDOUT when QEMU does not greet by then (it serves one client at a
 * time, or hangs). */
int gw_qmp_connect(const char *path, gw_time_ns deadline, struct gw_qmp **ret, struct gw_error *err);
/* The same over a connected socket, which is owned from here on, also on failure. */
int gw_qmp_open(int fd, gw_time_ns deadline, struct gw_qmp **ret, struct gw_error *err);

struct gw_qmp *gw_qmp_ref(struct gw_qmp *q);
void gw_qmp_unref(struct gw_qmp *q); /* NULL allowed */

/* Has the connection ended? */
bool gw_qmp_dead(struct gw_qmp *q);

/* A command in flight; its owner keeps it until gw_qmp_run() has returned. */
struct gw_qmp_call {
	const char *command;
	json_t *arguments; /* may be NULL; always consumed */
	json_t *reply;     /* the value of "return": the caller's after success; NULL otherwise */
};

/* Sends all calls at once, in order, and waits for all replies. `fd` (or -1) travels with the first
 * byte, for getfd as first call; it stays the caller's. QEMU runs every call even when one before it
 * fails; the first failure is returned, with QEMU's own words in err. -EREMOTEIO: QEMU refused;
 * -ESRCH: the connection ended; -ETIMEDOUT: outcome not known. On failure all replies are freed. */
int gw_qmp_run(struct gw_qmp *q, struct gw_qmp_call *calls, unsigned n, int fd, gw_time_ns deadline,
               struct gw_error *err);

/* One call. `arguments` are consumed; ret_reply may be NULL. */
int gw_qmp_command(struct gw_qmp *q, const char *command, json_t *arguments, gw_time_ns deadline,
                   json_t **ret_reply, struct gw_error *err);

/* Sends a command whose reply nobody waits for, unless that would block. */
int gw_qmp_post(struct gw_qmp *q, const char *command);

/* Number of events seen so far: the "since" of a later wait. */
uint64_t gw_qmp_events(struct gw_qmp *q);

struct gw_qmp_event {
	uint64_t seq;
	const char *name;
	const json_t *data; /* may be NULL */
};

/* Is this the event that is waited for? Called with the connection's lock held: looks, nothing else. */
typedef bool gw_qmp_event_fn(void *userdata, const struct gw_qmp_event *event);

/* Returns at the first event after `since` for which `match` says yes: 0, -ESRCH, -ETIMEDOUT, or
 * -EOVERFLOW when events after `since` are no longer kept. */
int gw_qmp_wait_event(struct gw_qmp *q, uint64_t since, gw_qmp_event_fn *match, void *userdata,
                      gw_time_ns deadline, struct gw_error *err);

#endif
