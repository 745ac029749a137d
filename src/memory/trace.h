/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Write tracing: which pages has the VMM's process written since the last time we asked? (N3, V1)
 *
 * Theory of operation: see trace.c. Two methods behind one set of operations, chosen by probing:
 *   async  userfaultfd WP_ASYNC + PAGEMAP_SCAN (Linux 6.7): the kernel resolves the fault itself, the
 *          guest pays one minor fault per page and pass, nobody waits for us
 *   sync   userfaultfd write-protect faults answered by a thread here (Linux 5.19), who opens a chunk at a time:
 *          2 MiB where it is cold, down to 4 KiB where writes happen
 */
#ifndef GW_MEMORY_TRACE_H
#define GW_MEMORY_TRACE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/error.h"

struct gw_trace;

enum gw_trace_mode { GW_TRACE_AUTO, GW_TRACE_ASYNC, GW_TRACE_SYNC };

struct gw_trace_range {
	uint64_t hva;        /* in the traced process */
	uint64_t size_bytes; /* whole pages of page_size_bytes */
	uint64_t page_size_bytes;
	uint64_t chunk_bytes; /* sync alone: what one fault opens, a power of two; 0: adapted to what is written */
};

#define GW_TRACE_RANGES_MAX 8

/* Gives a fresh userfaultfd of the traced process (AUTO may need a second one). */
typedef int gw_trace_open_fn(void *arg, int *ret_fd, struct gw_error *err);

/* Starts tracing: on return every later write by process `pid` through its mapping will be reported. Call before
 * anything is read. Writes through other mappings of the file are not seen. */
int gw_trace_new(pid_t pid, gw_trace_open_fn *open_uffd, void *arg, enum gw_trace_mode mode,
                 const struct gw_trace_range *ranges, unsigned n, struct gw_trace **ret, struct gw_error *err);

/* Adds to `into` (bit 0 = first 4 KiB page of range `range`) all pages written since they were last collected,
 * and re-arms them first: read a page only after collecting it. `quick` leaves out pages that were written and then
 * dropped by the kernel: for asking again within milliseconds while no vCPU runs. */
int gw_trace_collect(struct gw_trace *t, unsigned range, bool quick, struct gw_bitmap *into, struct gw_error *err);

/* The same, quickly, of pages [first, first + n) alone: whole pages of the range's page size. */
int gw_trace_collect_part(struct gw_trace *t, unsigned range, size_t first, size_t n, struct gw_bitmap *into,
                          struct gw_error *err);

/* For tracing that goes on for long: gives 2 MiB which were split and then not written for a while back to a huge
 * mapping, a few of them a second at most, and adds them whole to `into` as collect() does. */
int gw_trace_merge(struct gw_trace *t, unsigned range, struct gw_bitmap *into, struct gw_error *err);

/* The 2 MiB of the range that were mapped huge when tracing began (a bit each), for gw_huge_restore(). The caller's
 * from now on. */
struct gw_bitmap gw_trace_take_huge(struct gw_trace *t, unsigned range);

/* "async" or "sync". */
const char *gw_trace_mode_name(const struct gw_trace *t);

/* Ends tracing; the process goes on without faults. NULL allowed. */
void gw_trace_free(struct gw_trace *t);

#endif
