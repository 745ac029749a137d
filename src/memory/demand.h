/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A target that runs before its memory is whole (N6, N7, N8): the state of every page, and the faults of those that lack.
 *
 * Theory of operation: see demand.c.
 */
#ifndef GW_MEMORY_DEMAND_H
#define GW_MEMORY_DEMAND_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io.h"
#include "memory/ram.h"
#include "wire/codec.h"

struct gw_demand;

struct gw_demand_region {
	const struct gw_ram *ram; /* mapped writable; outlives the demand */
	uint64_t hva;             /* of the same file in the VMM's process */
};

struct gw_demand_config {
	int uffd;   /* of the VMM's process, which keeps a copy open; taken over, also on failure */
	bool fresh; /* UFFDIO_API was not called on it yet */
	const struct gw_demand_region *regions;
	unsigned n_regions;
	const char *states_path; /* where the page states are kept: made, or opened when it is there (a restarted daemon) */
	/* Both from threads of the demand's own or of gw_demand_receive(); must not block for long. */
	void (*want)(void *arg, const struct gw_wire_demand *d); /* a thread of the VMM waits for this (host byte order) */
	void (*complete)(void *arg);                             /* the last page that was owed is in place */
	void *arg;
};

/* Sets up without any effect on the VMM. -EOPNOTSUPP where the kernel cannot do it for this backing. */
int gw_demand_new(const struct gw_demand_config *config, struct gw_demand **ret, struct gw_error *err);

/* From here on the VMM's process waits at any page that is not in its page tables. Nothing may have it populate them
 * any more. Not again after a restart. */
int gw_demand_arm(struct gw_demand *d, struct gw_error *err);

/* Before the start: these pages are missing, or stale. Counted once each. */
void gw_demand_owe(struct gw_demand *d, uint32_t region, uint64_t first_page, uint64_t n_pages);

/* The next range of `region`, at or after *page, that holds owed pages, in whole large pages of 2 MiB: what must go from
 * the VMM's page tables before it may touch memory. *page moves on. False when there is none. */
bool gw_demand_next_stale(struct gw_demand *d, uint32_t region, uint64_t *page, uint64_t *ret_hva, uint64_t *ret_len);

/* Faults are answered and pages accepted from here on. After a restart too: whoever waited asks again. */
int gw_demand_start(struct gw_demand *d, struct gw_error *err);

/* The device state is loaded: from here on a restarted daemon finds a VM that is whole but for the owed pages. */
void gw_demand_mark_loaded(struct gw_demand *d);
/* Of a states' file that may be there: was it marked so? */
bool gw_demand_was_loaded(const char *states_path);

/* Puts pages that are whole into the VMM's page tables ahead of its touching them (V2); ends early when stopped. */
void gw_demand_map_complete(struct gw_demand *d);

/* Receives an OWED batch of checked runs: waits for the start, fills what lacks, throws away what does not, and wakes
 * who waits. Several threads at once. `iov` has room for GW_WIRE_BATCH_PAGES_MAX + 1, scratch for GW_DEMAND_SCRATCH.
 * 0, -EPROTO for a part of a large page, or the -errno of the read (then pages half filled count as missing again). */
#define GW_DEMAND_SCRATCH 65536u
int gw_demand_receive(struct gw_demand *d, const struct gw_wire_batch *batch, const struct gw_wire_run *runs,
                      struct iovec *iov, uint8_t *scratch, int fd, const struct gw_wait *w, struct gw_error *err);

/* Asks again for all that somebody waits for: after the link was made anew. */
void gw_demand_want_again(struct gw_demand *d);

/* Lets threads in gw_demand_receive() that wait for the start go, with -ECANCELED, when it will not come. */
void gw_demand_cancel(struct gw_demand *d);

uint64_t gw_demand_left(const struct gw_demand *d); /* pages owed, not in place yet */
bool gw_demand_is_owed(const struct gw_demand *d, uint32_t region, uint64_t page);

struct gw_demand_stats {
	uint64_t faults;   /* all that the kernel reported */
	uint64_t demanded; /* of them: waited for the source */
	uint64_t thrown_away_pages;
	gw_time_ns p50_ns, p99_ns, max_ns; /* of the demanded ones, from the report to the page in place; within 20 % */
};
void gw_demand_stats(struct gw_demand *d, struct gw_demand_stats *ret);

/* Ends the fault thread and closes the userfaultfd; the states' file stays. Only the VMM's copy keeps its threads
 * waiting then: dropped while pages are owed, it would run on stale memory. NULL allowed. */
void gw_demand_free(struct gw_demand *d);

#endif
