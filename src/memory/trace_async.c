/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tracing by WP_ASYNC and PAGEMAP_SCAN: find and re-arm in one call, no thread, no waiting guest. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "memory/kernel_compat.h"
#include "memory/trace_internal.h"

/* Piece by piece, so that no call holds the traced process's mmap lock for long (a writer's stall). */
#define PIECE_BYTES (64ull << 20)
#define VEC_LEN 4096
#define HUGE_BYTES (2ull << 20)

struct async {
	int pagemap_fd;
	struct page_region vec[VEC_LEN]; /* what the last scan returned */
};

static int scan_error(struct gw_error *err)
{
	return gw_error_set_errno(err, errno == ENOTTY || errno == EINVAL ? EOPNOTSUPP : errno,
	                          "cannot scan the VM's page tables (PAGEMAP_SCAN)");
}

/* Arms everything, existing or not: no category is asked for, so every page matches. */
static int arm_all(struct gw_trace *t, struct async *a, struct gw_error *err)
{
	for (unsigned i = 0; i < t->n_ranges; i++) {
		uint64_t at = t->ranges[i].hva, end = at + t->ranges[i].size_bytes;

		while (at < end) {
			struct pm_scan_arg q = {
				.size = sizeof(q),
				.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
				.start = at,
				.end = GW_MIN(at + PIECE_BYTES, end),
			};

			if (ioctl(a->pagemap_fd, PAGEMAP_SCAN, &q) < 0)
				return scan_error(err);
			at = q.walk_end > at ? q.walk_end : q.end;
		}
	}
	return 0;
}

static int async_start(struct gw_trace *t, struct gw_error *err)
{
	struct async *a = calloc(1, sizeof(*a));
	char path[64];
	int r;

	if (!a)
		return gw_error_set(err, ENOMEM, "out of memory");
	a->pagemap_fd = -1;
	t->method = a;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", t->pid);
	a->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (a->pagemap_fd < 0)
		return gw_error_set_errno(err, errno, "cannot open %s (needed to trace writes)", path);
	r = gw_trace_register(t, UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
	                      err);
	return r < 0 ? r : arm_all(t, a, err);
}

/* A written huge mapping: from now on its pages are traced one by one. Protecting half of it makes the kernel split
 * it; what was written in between is not lost, for the caller reads the whole after this. */
static int split_huge(struct gw_trace *t, const struct page_region *r)
{
	for (uint64_t at = r->start; at + HUGE_BYTES <= r->end; at += HUGE_BYTES) {
		int e = gw_trace_protect(t, at, HUGE_BYTES / 2, true);

		if (e == 0)
			e = gw_trace_protect(t, at + HUGE_BYTES / 2, HUGE_BYTES / 2, true);
		if (e < 0)
			return e;
	}
	return 0;
}

/* One walk over the range with the given categories; sets bits and re-arms. */
static int scan(struct gw_trace *t, const struct gw_trace_range *range, uint64_t inverted, uint64_t mask,
                struct gw_bitmap *into, struct gw_error *err)
{
	struct async *a = t->method;
	uint64_t at = range->hva, end = at + range->size_bytes;

	while (at < end) {
		struct pm_scan_arg q = {
			.size = sizeof(q),
			.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
			.start = at,
			.end = GW_MIN(at + PIECE_BYTES, end),
			.vec = (uintptr_t)a->vec,
			.vec_len = VEC_LEN,
			.category_inverted = inverted,
			.category_mask = mask,
			.return_mask = PAGE_IS_WRITTEN | PAGE_IS_HUGE,
		};
		int n = ioctl(a->pagemap_fd, PAGEMAP_SCAN, &q);

		if (n < 0)
			return scan_error(err);
		for (int i = 0; i < n; i++) {
			const struct page_region *r = &a->vec[i];

			gw_bitmap_set_range(into, (r->start - range->hva) / 4096, (r->end - r->start) / 4096);
			if ((r->categories & PAGE_IS_HUGE) && range->page_size_bytes == 4096) {
				int e = split_huge(t, r);

				if (e < 0)
					return gw_error_set_errno(err, e, "cannot split a traced huge page");
			}
		}
		/* A full vector ends the walk early; walk_end says where to go on. */
		at = q.walk_end > at ? q.walk_end : q.end;
	}
	return 0;
}

static int async_collect(struct gw_trace *t, unsigned range, bool quick, struct gw_bitmap *into, struct gw_error *err)
{
	const struct gw_trace_range *r = &t->ranges[range];
	int e = scan(t, r, 0, PAGE_IS_WRITTEN, into, err);

	if (e < 0 || quick)
		return e;
	/* Neither present nor a marker: dropped after it was written (reclaimed, punched). */
	return scan(t, r, PAGE_IS_PRESENT | PAGE_IS_SWAPPED, PAGE_IS_PRESENT | PAGE_IS_SWAPPED, into, err);
}

static void async_stop(struct gw_trace *t)
{
	struct async *a = t->method;

	if (!a)
		return;
	if (a->pagemap_fd >= 0)
		close(a->pagemap_fd);
	free(a);
	t->method = NULL;
}

const struct gw_trace_ops gw_trace_async_ops = {
	.name = "async",
	.start = async_start,
	.collect = async_collect,
	.stop = async_stop,
};
