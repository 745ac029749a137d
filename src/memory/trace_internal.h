/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the two tracing methods share. */
#ifndef GW_MEMORY_TRACE_INTERNAL_H
#define GW_MEMORY_TRACE_INTERNAL_H

#include "memory/trace.h"

struct gw_trace_ops {
	const char *name;
	int (*start)(struct gw_trace *t, struct gw_error *err);
	int (*collect)(struct gw_trace *t, unsigned range, bool quick, struct gw_bitmap *into, struct gw_error *err);
	void (*stop)(struct gw_trace *t);
};

struct gw_trace {
	const struct gw_trace_ops *ops;
	/* set before start */
	pid_t pid;
	int uffd; /* owned */
	struct gw_trace_range ranges[GW_TRACE_RANGES_MAX];
	unsigned n_ranges;
	void *method; /* owned by the method */
};

extern const struct gw_trace_ops gw_trace_async_ops;
extern const struct gw_trace_ops gw_trace_sync_ops;

/* UFFDIO_API with `features`, then registers every range for write protection. */
int gw_trace_register(struct gw_trace *t, uint64_t features, struct gw_error *err);

/* UFFDIO_WRITEPROTECT of [start, start+len). -errno. */
int gw_trace_protect(struct gw_trace *t, uint64_t start, uint64_t len, bool protect);

#endif
