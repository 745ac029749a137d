/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of a demand share: demand.c (theory, life), demand_fault.c (who waits), demand_receive.c (what arrives). */
#ifndef GW_MEMORY_DEMAND_INTERNAL_H
#define GW_MEMORY_DEMAND_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "memory/demand.h"

/* See the theory in demand.c. */
enum gw_page_state {
	GW_PAGE_COMPLETE = 0, /* what a fresh file of states holds */
	GW_PAGE_ABSENT,
	GW_PAGE_WANTED,
	GW_PAGE_FILLING,
};

#define GW_DEMAND_BUCKETS 128u /* of latency: quarters of powers of two, in ns */
#define GW_DEMAND_WAITERS 256u /* whose times are taken; more go uncounted */

struct gw_demand_states; /* the head of the states' file */

struct gw_demand_ram {
	struct gw_demand_region where;
	uint64_t unit_pages; /* 4 KiB pages in a page of the backing */
	_Atomic uint8_t *states;
};

struct gw_demand_waiter {
	uint32_t region;
	uint64_t page; /* UINT64_MAX: free */
	gw_time_ns since;
};

struct gw_demand {
	/* set by gw_demand_new */
	struct gw_demand_config config;
	struct gw_demand_ram regions[8];
	int stop_fd;
	struct gw_demand_states *file; /* mapped */
	size_t file_bytes;

	atomic_uint_fast64_t left, faults, demanded, thrown_away;
	atomic_bool stop;

	pthread_mutex_t lock;
	pthread_cond_t started_cond;
	/* protected by lock */
	bool started;
	pthread_t thread;
	struct gw_demand_waiter waiters[GW_DEMAND_WAITERS];
	uint64_t buckets[GW_DEMAND_BUCKETS];
	gw_time_ns max_ns;
};

/* The end of the 2 MiB of the VMM's address space that `page` lies in: what one entry of its page tables may map. */
uint64_t gw_demand_chunk_end(const struct gw_demand_ram *r, uint64_t page);
bool gw_demand_holds_owed(const struct gw_demand_ram *r, uint64_t first, uint64_t end);

/* demand_fault.c */
void *gw_demand_fault_thread(void *arg);
/* Maps [first, first+n), whole and final, into the VMM's page tables and wakes who waits there. Pages that the file does
 * not have are zeros: allocated with `allocate`, passed by without. */
void gw_demand_map(struct gw_demand *d, const struct gw_demand_ram *r, uint64_t first, uint64_t n, bool allocate);
void gw_demand_wake(struct gw_demand *d, uint64_t hva, uint64_t len);
/* Wanted pages are in place: how long did that take? */
void gw_demand_note_served(struct gw_demand *d, uint32_t region, uint64_t first, uint64_t n);

#endif
