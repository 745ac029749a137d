/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the two tracing methods share. */
#ifndef GW_MEMORY_TRACE_INTERNAL_H
#define GW_MEMORY_TRACE_INTERNAL_H

#include "memory/trace.h"

struct gw_trace_ops {
	const char *name;
	int (*start)(struct gw_trace *t, struct gw_error *err);
	/* Pages [first, end). */
	int (*collect)(struct gw_trace *t, unsigned range, size_t first, size_t end, bool quick, struct gw_bitmap *into,
	               struct gw_error *err);
	/* NULL: collect() does it all. */
	int (*merge)(struct gw_trace *t, unsigned range, struct gw_bitmap *into, struct gw_error *err);
	void (*stop)(struct gw_trace *t);
};

struct gw_trace {
	const struct gw_trace_ops *ops;
	/* set before start */
	pid_t pid;
	int uffd; /* owned */
	struct gw_trace_range ranges[GW_TRACE_RANGES_MAX];
	unsigned n_ranges;
	struct gw_bitmap huge[GW_TRACE_RANGES_MAX]; /* by 2 MiB: mapped huge when tracing began */
	/* Merging: what was left alone for this long, no more often than this (a few at a time). */
	gw_time_ns merge_idle_ns, merge_every_ns;
	void *method; /* owned by the method */
};

extern const struct gw_trace_ops gw_trace_async_ops;
extern const struct gw_trace_ops gw_trace_sync_ops;

/* What is learnt about each 2 MiB of a range while tracing by chunks (trace_chunks.c). */
struct gw_chunks {
	uint64_t size_bytes, smallest, fixed; /* fixed 0: adaptive */
	struct gw_chunk_block {
		uint8_t shift; /* log2 of what the next fault there opens */
		uint8_t idle;  /* collects without a fault */
		uint16_t faults; /* since the last collect */
	} *blocks;
	size_t n_blocks;
};

int gw_chunks_init(struct gw_chunks *c, const struct gw_trace_range *range);
void gw_chunks_done(struct gw_chunks *c);
/* A fault at `offset`: what to open. */
void gw_chunks_fault(struct gw_chunks *c, uint64_t offset, uint64_t *ret_offset, uint64_t *ret_len);
/* A collect has passed over [first, end) blocks: coarser or finer from now on. */
void gw_chunks_adapt(struct gw_chunks *c, size_t first, size_t end);

/* UFFDIO_API with `features`, then registers every range for write protection. */
int gw_trace_register(struct gw_trace *t, uint64_t features, struct gw_error *err);

/* UFFDIO_WRITEPROTECT of [start, start+len). -errno. */
int gw_trace_protect(struct gw_trace *t, uint64_t start, uint64_t len, bool protect);

#endif
