/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Write tracing: choosing the method, and what both do alike.
 *
 * Theory of operation
 *
 * Goal: after gw_trace_collect() has returned a page's bit, every later write to that page sets the bit again; a
 * page whose bit never comes back has not changed since it was read. So the order is always
 *     collect (takes the bit and re-arms)  ->  read the page  ->  send it.
 * A write between re-arming and reading is seen twice, never missed.
 *
 * Invariants
 *  - Arming covers pages that do not exist yet (a marker in the page table), so that a first write to a hole is seen.
 *  - A page-table entry that is empty without a marker counts as written: the kernel drops the "written" state of a
 *    shared page that it reclaims or that a balloon punches out, but never the marker of an armed one.
 *  - On huge mappings the async method keeps the mapping whole until the guest first writes to it; then that 2 MiB is
 *    split, so that from the next pass on only its written 4 KiB pages are sent again. One that was then left alone for
 *    long is made whole again by gw_trace_merge(): the kernel refuses that under write protection, so the protection
 *    is lifted, and all 2 MiB count as written once the new mapping is armed.
 *  - Which 2 MiB were mapped huge is noted before arming; whoever ends the tracing of a guest that stays makes those
 *    mappings anew (huge.h).
 *  - Ending: the userfaultfd is closed, never only unregistered: UFFDIO_UNREGISTER with active faulters can leave a
 *    thread asleep for ever.
 *
 * Limits: writes through other mappings of the file (a vhost-user backend) need that writer's own bitmap. A page that is
 * thrown away (a balloon's hole in the file) after it was collected changes to zeros without any trace: the VMM is kept
 * from it while it is traced (hold_discards in hypervisor.h). MADV_DONTNEED alone loses nothing here.
 */
#include "memory/trace.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "memory/huge.h"
#include "memory/kernel_compat.h"
#include "memory/trace_internal.h"

int gw_trace_register(struct gw_trace *t, uint64_t features, struct gw_error *err)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int r = gw_set_nonblock(t->uffd);

	if (r < 0)
		return gw_error_set_errno(err, r, "cannot set up the userfaultfd");
	if (ioctl(t->uffd, UFFDIO_API, &api) < 0)
		return gw_error_set_errno(err, errno == EINVAL ? EOPNOTSUPP : errno,
		                          "this kernel's userfaultfd lacks what %s tracing needs", t->ops->name);
	for (unsigned i = 0; i < t->n_ranges; i++) {
		struct uffdio_register reg = {
			.range = { t->ranges[i].hva, t->ranges[i].size_bytes },
			.mode = UFFDIO_REGISTER_MODE_WP,
		};

		if (ioctl(t->uffd, UFFDIO_REGISTER, &reg) < 0)
			return gw_error_set_errno(err, errno, "cannot trace writes to the VM's RAM at %" PRIx64,
			                          t->ranges[i].hva);
	}
	return 0;
}

int gw_trace_protect(struct gw_trace *t, uint64_t start, uint64_t len, bool protect)
{
	struct uffdio_writeprotect wp = {
		.range = { start, len },
		.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	while (ioctl(t->uffd, UFFDIO_WRITEPROTECT, &wp) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
	return 0;
}

static int start_with(struct gw_trace *t, const struct gw_trace_ops *ops, gw_trace_open_fn *open_uffd, void *arg,
                      struct gw_error *err)
{
	int r = open_uffd(arg, &t->uffd, err);

	if (r < 0)
		return r;
	t->ops = ops;
	r = ops->start(t, err);
	if (r < 0) {
		ops->stop(t);
		close(t->uffd);
		t->uffd = -1;
	}
	return r;
}

static void note_huge(struct gw_trace *t)
{
	for (unsigned i = 0; i < t->n_ranges; i++) {
		const struct gw_trace_range *r = &t->ranges[i];
		uint64_t mapped = 0;

		if (r->page_size_bytes != 4096 || gw_bitmap_init(&t->huge[i], r->size_bytes / GW_HUGE_BYTES) < 0)
			continue;
		/* An older kernel says only how many there are: then all are tried afterwards. */
		if (gw_huge_find(t->pid, r->hva, r->size_bytes, &t->huge[i]) == -EOPNOTSUPP &&
		    gw_huge_mapped(t->pid, r->hva, r->size_bytes, &mapped) == 0 && mapped)
			gw_bitmap_set_range(&t->huge[i], 0, t->huge[i].nbits);
	}
}

struct gw_bitmap gw_trace_take_huge(struct gw_trace *t, unsigned range)
{
	struct gw_bitmap huge = t->huge[range];

	t->huge[range] = (struct gw_bitmap){ .words = NULL };
	return huge;
}

int gw_trace_new(pid_t pid, gw_trace_open_fn *open_uffd, void *arg, enum gw_trace_mode mode,
                 const struct gw_trace_range *ranges, unsigned n, struct gw_trace **ret, struct gw_error *err)
{
	struct gw_trace *t;
	int r;

	if (n == 0 || n > GW_TRACE_RANGES_MAX)
		return gw_error_set(err, EINVAL, "cannot trace %u memory regions", n);
	t = calloc(1, sizeof(*t));
	if (!t)
		return gw_error_set(err, ENOMEM, "out of memory");
	t->pid = pid;
	t->uffd = -1;
	t->n_ranges = n;
	t->merge_idle_ns = 10 * GW_NS_PER_S;
	t->merge_every_ns = GW_NS_PER_S;
	memcpy(t->ranges, ranges, n * sizeof(*ranges));
	note_huge(t);
	r = start_with(t, mode == GW_TRACE_SYNC ? &gw_trace_sync_ops : &gw_trace_async_ops, open_uffd, arg, err);
	if (r == -EOPNOTSUPP && mode == GW_TRACE_AUTO)
		r = start_with(t, &gw_trace_sync_ops, open_uffd, arg, err);
	if (r < 0) {
		gw_trace_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

int gw_trace_collect(struct gw_trace *t, unsigned range, bool quick, struct gw_bitmap *into, struct gw_error *err)
{
	return t->ops->collect(t, range, 0, t->ranges[range].size_bytes / 4096, quick, into, err);
}

int gw_trace_collect_part(struct gw_trace *t, unsigned range, size_t first, size_t n, struct gw_bitmap *into,
                          struct gw_error *err)
{
	return t->ops->collect(t, range, first, GW_MIN(first + n, t->ranges[range].size_bytes / 4096), true, into, err);
}

int gw_trace_merge(struct gw_trace *t, unsigned range, struct gw_bitmap *into, struct gw_error *err)
{
	return t->ops->merge ? t->ops->merge(t, range, into, err) : 0;
}

const char *gw_trace_mode_name(const struct gw_trace *t)
{
	return t->ops->name;
}

void gw_trace_free(struct gw_trace *t)
{
	if (!t)
		return;
	if (t->method)
		t->ops->stop(t);
	if (t->uffd >= 0)
		close(t->uffd);
	for (unsigned i = 0; i < t->n_ranges; i++)
		gw_bitmap_done(&t->huge[i]);
	free(t);
}
