/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a migration tells about itself while it runs and afterwards (X4). */
#ifndef GW_MIGRATION_REPORT_H
#define GW_MIGRATION_REPORT_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>

#include "base/clock.h"
#include "engine/convergence.h"

#define GW_REPORT_PASSES_MAX 128
#define GW_REPORT_PHASES_MAX 12

struct gw_phase {
	const char *name; /* static text */
	gw_time_ns ns;
};

struct gw_phases {
	unsigned n;
	struct gw_phase list[GW_REPORT_PHASES_MAX];
};

void gw_phase_add(struct gw_phases *p, const char *name, gw_time_ns ns);

struct gw_report {
	gw_time_ns started, finished; /* 0: not yet */
	uint64_t ram_used_bytes, wire_bytes;
	unsigned channels;
	const char *tracing;
	gw_time_ns populate_ns; /* the target's page tables, most of it while pages arrived (V2, V3) */
	uint64_t huge_before_bytes, huge_after_bytes; /* of guest RAM, mapped huge at the source and then at the target (V5) */
	struct gw_phases setup, downtime, cleanup;
	gw_time_ns downtime_ns; /* stop begun -> the target confirmed that it runs */

	enum gw_mode mode; /* what it came to; AUTO: not decided yet */

	struct gw_pass_stats sent;  /* of all passes: pages by kind */
	const char *compression;    /* at the end, static text; NULL: it did not come to sending */
	char compression_why[160];

	char why[160];     /* the convergence policy's last word */
	unsigned n_passes; /* passes beyond the table are counted in it but not listed */
	struct gw_pass_stats passes[GW_REPORT_PASSES_MAX];
	struct gw_decision decisions[GW_REPORT_PASSES_MAX];

	/* Post-copy; owed_bytes 0: there was none. */
	struct {
		uint64_t owed_bytes;      /* at the switch */
		uint64_t wire_bytes;      /* of what followed */
		uint64_t demanded;        /* faults that waited for the source */
		uint64_t demanded_bytes;  /* sent for them, neighbours included */
		gw_time_ns fault_p50_ns, fault_p99_ns, fault_max_ns;
		gw_time_ns duration_ns;   /* the target ran and still depended on the source (N12) */
		unsigned links_made_again;
	} postcopy;

	bool verified, verify_equal;
	uint64_t verify_pages, verify_different_pages;
	gw_time_ns verify_ns;
};

/* Live numbers. */
struct gw_progress {
	unsigned pass;
	uint64_t ram_used_bytes, transferred_bytes;
	uint64_t pass_total_bytes, pass_done_bytes;
	uint64_t rate_Bps, dirty_rate_Bps;
	gw_time_ns predicted_downtime_ns, eta_ns; /* GW_TIME_NEVER: not known */
	enum gw_plan plan;
	unsigned throttle_percent;
	char decision[160]; /* after the last pass */
};

/* The schemas Report and Job.progress of docs/openapi.yaml. New references. */
json_t *gw_report_json(const struct gw_report *r);
json_t *gw_progress_json(const struct gw_progress *p);

#endif
