/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The API's objects as text for people. All arguments are objects of docs/openapi.yaml; whatever they lack
 * is left out. No escape codes, and none that hide in the objects get through. */
#ifndef GW_CONTROL_RENDER_H
#define GW_CONTROL_RENDER_H

#include <jansson.h>
#include <stdio.h>

#include "base/clock.h"

void gw_render_host(FILE *out, const json_t *host);
void gw_render_vm_list(FILE *out, const json_t *vms);
void gw_render_vm(FILE *out, const json_t *vm);
void gw_render_job_list(FILE *out, const json_t *jobs);
void gw_render_dry_run(FILE *out, const char *vm, const char *to, const json_t *dry_run);

/* Everything about a job: what it is, how far it is, and its post-mortem when it has one. */
void gw_render_job(FILE *out, const json_t *job);

/* One sentence on how a final job ended, without full stop. Returns buf. */
const char *gw_outcome_sentence(char *buf, size_t len, const json_t *job);

/* That sentence, and the post-mortem below it. */
void gw_render_outcome(FILE *out, const json_t *job);

/* The post-mortem (X4): per pass, then the downtime phase by phase with what no phase explains. */
void gw_render_report(FILE *out, const json_t *report);

/* Prints "what" padded, then the text, when there is any text. */
void gw_render_pair(FILE *out, const char *what, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* "2026-11-20 21:04:05" in local time; "" for 0. Returns buf. */
const char *gw_render_time(char *buf, size_t len, double wallclock_s);

#endif
