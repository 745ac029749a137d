/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host daemon as the API sees it: its VMs and its jobs.
 *
 * All functions are callable from any thread. JSON results are new references owned by the caller;
 * their shapes are the schemas of the same name in docs/openapi.yaml.
 */
#ifndef GW_CONTROL_HOST_H
#define GW_CONTROL_HOST_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/error.h"

struct gw_host;

int gw_host_info(struct gw_host *h, json_t **ret, struct gw_error *err);       /* Host */
int gw_host_vm_start(struct gw_host *h, const char *definition, json_t **ret,  /* Vm */
                     struct gw_error *err);
int gw_host_vm_list(struct gw_host *h, json_t **ret, struct gw_error *err);    /* [Vm] */
int gw_host_vm_show(struct gw_host *h, const char *name, json_t **ret, struct gw_error *err);
/* Powers the guest off and removes the VM; force: without asking the guest. -EBUSY while it migrates. */
int gw_host_vm_stop(struct gw_host *h, const char *name, bool force, gw_time_ns timeout,
                    struct gw_error *err);

/* Decides for a copy that waits for its decision: `fenced` is the host that it came from and that is gone. */
int gw_host_vm_resolve(struct gw_host *h, const char *name, const char *fenced, json_t **ret, /* Vm */
                       struct gw_error *err);

/* request: MigrateRequest. Returns at once with the Job; with "dry_run": true returns a DryRun object
 * {"possible": bool, "reasons": [string], "prediction": {...}} and touches nothing. */
int gw_host_migrate(struct gw_host *h, const char *vm, const json_t *request, json_t **ret,
                    struct gw_error *err);
int gw_host_job_list(struct gw_host *h, json_t **ret, struct gw_error *err);   /* [Job] newest last */
int gw_host_job_show(struct gw_host *h, const char *id, json_t **ret, struct gw_error *err);
/* 0 when the cancel was accepted, -EALREADY when it was decided already. Returns when the job has ended, or within a
 * second: then it is not final yet, and its step says what the way back waits for. */
int gw_host_job_cancel(struct gw_host *h, const char *id, struct gw_error *err);
/* Waits until the job has changed since *seq (0: at once) or `timeout` passed; fills *seq and *ret. */
int gw_host_job_wait(struct gw_host *h, const char *id, uint64_t *seq, gw_time_ns timeout,
                     json_t **ret, struct gw_error *err);

#endif
