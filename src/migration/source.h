/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source's side of one migration: drives the handover machine with real QEMU, RAM, network and journal. */
#ifndef GW_MIGRATION_SOURCE_H
#define GW_MIGRATION_SOURCE_H

#include <jansson.h>

#include "engine/compress.h"
#include "engine/convergence.h"
#include "engine/handover.h"
#include "hypervisor/hypervisor.h"
#include "memory/trace.h"
#include "migration/journal.h"
#include "migration/report.h"
#include "pipeline/bandwidth.h"
#include "wire/wire.h"

struct gw_out; /* one outgoing migration */

struct gw_out_config {
	struct gw_wire_id id;
	const char *vm_name;
	struct gw_vm *vm;           /* alive until gw_out_free */
	struct gw_journal *journal; /* of this VM; nobody else writes it meanwhile */
	uint64_t epoch;             /* E, from the record */
	const char *self_name;
	uint16_t self_port; /* where the own daemon answers */
	const char *target_name, *target_address;
	const json_t *prepare; /* the host's part of PREPARE: definition, facts ...; copied */

	struct gw_convergence_params convergence; /* switch_cost and ram_used are filled in */
	uint64_t bandwidth_Bps;
	struct gw_bandwidth *shared; /* of all migrations of this host, alive until gw_out_free; NULL: no limit */
	unsigned weight;             /* in it; 0: the default */
	unsigned channels;
	enum gw_compress_policy compress;
	uint64_t delta_cache_bytes;
	enum gw_trace_mode tracing;
	bool verify;
	gw_time_ns deadline; /* no COMMIT after it; GW_TIME_NEVER for none */
	gw_time_ns prepare_timeout_ns, switch_timeout_ns, idle_timeout_ns;

	/* Called (any thread, no lock held) when something to show has changed. */
	void (*changed)(void *arg);
	void *changed_arg;
};

int gw_out_new(const struct gw_out_config *config, struct gw_out **ret, struct gw_error *err);

/* A migration found in the journal after a restart of the daemon; `ev` is one of the RESTARTED events. */
int gw_out_new_restarted(const struct gw_out_config *config, enum gw_source_event ev, struct gw_out **ret,
                         struct gw_error *err);

/* Runs to the end in the caller's thread: returns in DONE, ABORTED, or UNKNOWN.
 * 0 when the VM runs at the target; else why not, with err. -EAGAIN with state UNKNOWN: call again to retry. */
int gw_out_run(struct gw_out *o, struct gw_error *err);

/* From any thread. Asks for ABORT; -EALREADY when it was decided. Returns at once; once it was accepted the target will
 * not run, however long the way back takes. */
int gw_out_cancel(struct gw_out *o);

/* For the daemon's exit: cancels if that is still possible, else ends gw_out_run with -ESHUTDOWN and leaves everything
 * as it is for the next start. */
void gw_out_stop(struct gw_out *o);

/* From any thread: the target has said so on another connection, or the VMM is gone. */
void gw_out_post(struct gw_out *o, enum gw_source_event ev);

/* From any thread. */
enum gw_source_state gw_out_state(struct gw_out *o);
enum gw_answer gw_out_answer(struct gw_out *o);
void gw_out_progress(struct gw_out *o, struct gw_progress *ret);
void gw_out_report(struct gw_out *o, struct gw_report *ret);
const char *gw_out_step_text(struct gw_out *o); /* static text: what it is doing just now */
bool gw_out_undoing(struct gw_out *o);          /* is on the way back, or will be */
const struct gw_wire_id *gw_out_id(const struct gw_out *o);

void gw_out_free(struct gw_out *o);

/* Asks the target what would stand in the way (X3). *ret: array of sentences. */
int gw_out_preflight(const char *target_address, const json_t *prepare, gw_time_ns timeout, json_t **ret,
                     struct gw_error *err);

#endif
