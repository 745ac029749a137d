/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tracing by WP_ASYNC and PAGEMAP_SCAN: find and re-arm in one call, no thread, no waiting guest. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "memory/huge.h"
#include "memory/kernel_compat.h"
#include "memory/trace_internal.h"

/* Piece by piece, so that no call holds the traced process's mmap lock for long (a writer's stall). */
#define PIECE_BYTES (64ull << 20)
#define VEC_LEN 4096
#define MERGE_CHUNKS 4 /* at once: all of it is sent once more */

/* What is known of a range that has huge mappings, by 2 MiB. */
struct splits {
	struct gw_bitmap split;    /* by us */
	gw_time_ns *written;       /* when it was last found written; of split ones */
	gw_time_ns last_merge;
};

struct async {
	int pagemap_fd, pidfd;
	struct splits splits[GW_TRACE_RANGES_MAX]; /* empty where nothing is mapped huge */
	struct page_region vec[VEC_LEN];           /* what the last scan returned */
};

static int scan_error(struct gw_error *err)
{
	return gw_error_set_errno(err, errno == ENOTTY || errno == EINVAL ? EOPNOTSUPP : errno,
	                          "cannot scan the VM's page tables (PAGEMAP_SCAN)");
}

/* Arms everything, existing or not: no category is asked for, so every page matches. */
static int arm(struct async *a, uint64_t at, uint64_t end, struct gw_error *err)
{
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
	return 0;
}

static int arm_all(struct gw_trace *t, struct async *a, struct gw_error *err)
{
	int r = 0;

	for (unsigned i = 0; i < t->n_ranges && r == 0; i++)
		r = arm(a, t->ranges[i].hva, t->ranges[i].hva + t->ranges[i].size_bytes, err);
	return r;
}

static int init_splits(struct gw_trace *t, struct async *a)
{
	for (unsigned i = 0; i < t->n_ranges; i++) {
		struct splits *s = &a->splits[i];
		size_t n = t->ranges[i].size_bytes / GW_HUGE_BYTES;

		if (t->ranges[i].page_size_bytes != 4096)
			continue;
		s->written = calloc(n + 1, sizeof(*s->written));
		if (!s->written || gw_bitmap_init(&s->split, n + 1) < 0)
			return -ENOMEM;
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
	a->pidfd = (int)syscall(SYS_pidfd_open, t->pid, 0); /* -1: nothing will be merged */
	if (init_splits(t, a) < 0)
		return gw_error_set(err, ENOMEM, "out of memory");
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
static int split_huge(struct gw_trace *t, uint64_t at)
{
	int e = gw_trace_protect(t, at, GW_HUGE_BYTES / 2, true);

	return e < 0 ? e : gw_trace_protect(t, at + GW_HUGE_BYTES / 2, GW_HUGE_BYTES / 2, true);
}

static int note_written(struct gw_trace *t, unsigned range, const struct page_region *r, gw_time_ns now)
{
	struct splits *s = &((struct async *)t->method)->splits[range];
	uint64_t hva = t->ranges[range].hva;
	size_t first = (r->start - hva) / GW_HUGE_BYTES, last = (r->end - 1 - hva) / GW_HUGE_BYTES;

	if (!s->written)
		return 0;
	for (size_t chunk = first; chunk <= last; chunk++) {
		s->written[chunk] = now;
		if (r->categories & PAGE_IS_HUGE) {
			int e = split_huge(t, hva + chunk * GW_HUGE_BYTES);

			if (e < 0)
				return e;
			gw_bitmap_set_range(&s->split, chunk, 1);
		}
	}
	return 0;
}

/* One walk over pages [first, last) with the given categories; sets bits and re-arms. */
static int scan(struct gw_trace *t, unsigned index, size_t first, size_t last, uint64_t inverted, uint64_t mask,
                struct gw_bitmap *into, struct gw_error *err)
{
	const struct gw_trace_range *range = &t->ranges[index];
	struct async *a = t->method;
	gw_time_ns now = gw_now_ns();
	uint64_t at = range->hva + first * 4096, end = range->hva + last * 4096;

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
			int e = note_written(t, index, r, now);

			gw_bitmap_set_range(into, (r->start - range->hva) / 4096, (r->end - r->start) / 4096);
			if (e < 0)
				return gw_error_set_errno(err, e, "cannot split a traced huge page");
		}
		/* A full vector ends the walk early; walk_end says where to go on. */
		at = q.walk_end > at ? q.walk_end : q.end;
	}
	return 0;
}

static int async_collect(struct gw_trace *t, unsigned range, size_t first, size_t end, bool quick,
                         struct gw_bitmap *into, struct gw_error *err)
{
	int e = scan(t, range, first, end, 0, PAGE_IS_WRITTEN, into, err);

	if (e < 0 || quick)
		return e;
	/* Neither present nor a marker: dropped after it was written (reclaimed, punched). */
	return scan(t, range, first, end, PAGE_IS_PRESENT | PAGE_IS_SWAPPED, PAGE_IS_PRESENT | PAGE_IS_SWAPPED, into, err);
}

/* Under write protection the kernel does not put pages together: protection is lifted, what is written meanwhile is
 * covered by reporting all of it once it is armed again. */
static int merge_chunk(struct gw_trace *t, unsigned range, size_t chunk, struct gw_bitmap *into, struct gw_error *err)
{
	struct async *a = t->method;
	uint64_t at = t->ranges[range].hva + chunk * GW_HUGE_BYTES;
	struct uffdio_register reg = { .range = { at, GW_HUGE_BYTES }, .mode = UFFDIO_REGISTER_MODE_WP };
	int r;

	if (ioctl(t->uffd, UFFDIO_UNREGISTER, &reg.range) < 0)
		return gw_error_set_errno(err, errno, "cannot lift the tracing of a cold huge page");
	(void)gw_huge_collapse(a->pidfd, at); /* refused: it stays as it is, and is not tried again */
	if (ioctl(t->uffd, UFFDIO_REGISTER, &reg) < 0)
		return gw_error_set_errno(err, errno, "cannot trace a cold huge page again");
	r = arm(a, at, at + GW_HUGE_BYTES, err);
	gw_bitmap_set_range(into, chunk * GW_HUGE_PAGES, GW_HUGE_PAGES);
	gw_bitmap_clear_range(&a->splits[range].split, chunk, 1);
	return r;
}

static int async_merge(struct gw_trace *t, unsigned range, struct gw_bitmap *into, struct gw_error *err)
{
	struct async *a = t->method;
	struct splits *s = &a->splits[range];
	gw_time_ns now = gw_now_ns();
	unsigned merged = 0;
	size_t at = 0, chunk, n;

	if (!s->written || a->pidfd < 0 || now - s->last_merge < t->merge_every_ns)
		return 0;
	s->last_merge = now;
	while (merged < MERGE_CHUNKS && gw_bitmap_next_run(&s->split, at, s->split.nbits, 1, &chunk, &n)) {
		at = chunk + 1;
		if (now - s->written[chunk] < t->merge_idle_ns)
			continue;
		int r = merge_chunk(t, range, chunk, into, err);

		if (r < 0)
			return r;
		merged++;
	}
	return 0;
}

static void async_stop(struct gw_trace *t)
{
	struct async *a = t->method;

	if (!a)
		return;
	if (a->pagemap_fd >= 0)
		close(a->pagemap_fd);
	if (a->pidfd >= 0)
		close(a->pidfd);
	for (unsigned i = 0; i < t->n_ranges; i++) {
		free(a->splits[i].written);
		gw_bitmap_done(&a->splits[i].split);
	}
	free(a);
	t->method = NULL;
}

const struct gw_trace_ops gw_trace_async_ops = {
	.name = "async",
	.start = async_start,
	.collect = async_collect,
	.merge = async_merge,
	.stop = async_stop,
};
