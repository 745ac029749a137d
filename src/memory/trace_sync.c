/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tracing by write-protect faults that a thread here answers: for kernels without WP_ASYNC.
 *
 * The guest's first write to a protected chunk blocks until the thread has unprotected the chunk and noted
 * it. Unprotecting and noting happen under one lock, and so do taking a note and protecting again: a note can
 * not be lost between them. The thread never waits for anything but that lock and the userfaultfd.
 */
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "memory/kernel_compat.h"
#include "memory/trace_internal.h"

#define CHUNK_BYTES (64ull << 10) /* one fault opens this much: fewer faults, coarser notes */
#define COLLECT_PIECE_CHUNKS 1024 /* the lock is let go between pieces */

struct sync {
	pthread_t thread;
	bool running;
	int stop_fd;
	pthread_mutex_t lock;
	/* protected by lock: one bit per chunk that is writable (so: may have been written) */
	struct gw_bitmap written[GW_TRACE_RANGES_MAX];
	bool failed;
};

static uint64_t chunk_bytes(const struct gw_trace_range *r)
{
	return GW_MAX(CHUNK_BYTES, r->page_size_bytes);
}

static void chunk_bounds(const struct gw_trace_range *r, uint64_t first, uint64_t n, uint64_t *start, uint64_t *len)
{
	uint64_t begin = first * chunk_bytes(r), end = GW_MIN(begin + n * chunk_bytes(r), r->size_bytes);

	*start = r->hva + begin;
	*len = end - begin;
}

static void answer_fault(struct gw_trace *t, struct sync *s, uint64_t address)
{
	for (unsigned i = 0; i < t->n_ranges; i++) {
		const struct gw_trace_range *r = &t->ranges[i];
		uint64_t chunk, start, len;

		if (address < r->hva || address >= r->hva + r->size_bytes)
			continue;
		chunk = (address - r->hva) / chunk_bytes(r);
		chunk_bounds(r, chunk, 1, &start, &len);
		GW_LOCKED(&s->lock);
		gw_bitmap_set_range(&s->written[i], chunk, 1);
		if (gw_trace_protect(t, start, len, false) < 0)
			s->failed = true; /* collect() reports it; the guest's thread is freed when tracing ends */
		return;
	}
}

static void *fault_thread(void *arg)
{
	struct gw_trace *t = arg;
	struct sync *s = t->method;
	struct pollfd p[2] = { { .fd = t->uffd, .events = POLLIN }, { .fd = s->stop_fd, .events = POLLIN } };
	struct uffd_msg msg[16];

	while (poll(p, 2, -1) >= 0 || errno == EINTR) {
		ssize_t n;

		if (p[1].revents)
			break;
		n = read(t->uffd, msg, sizeof(msg));
		for (ssize_t i = 0; i < n / (ssize_t)sizeof(msg[0]); i++)
			if (msg[i].event == UFFD_EVENT_PAGEFAULT)
				answer_fault(t, s, msg[i].arg.pagefault.address);
	}
	return NULL;
}

static int start_thread(struct gw_trace *t, struct sync *s)
{
	int r = gw_thread_start(&s->thread, NULL, fault_thread, t);

	s->running = r == 0;
	return r;
}

static int sync_start(struct gw_trace *t, struct gw_error *err)
{
	struct sync *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return gw_error_set(err, ENOMEM, "out of memory");
	pthread_mutex_init(&s->lock, NULL);
	t->method = s;
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (s->stop_fd < 0)
		return gw_error_set_errno(err, errno, "cannot make an eventfd");
	r = gw_trace_register(t, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM, err);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < t->n_ranges; i++) {
		const struct gw_trace_range *range = &t->ranges[i];

		if (gw_bitmap_init(&s->written[i], range->size_bytes / chunk_bytes(range) + 1) < 0)
			return gw_error_set(err, ENOMEM, "out of memory");
	}
	r = start_thread(t, s);
	if (r < 0)
		return gw_error_set_errno(err, r, "cannot start the tracing thread");
	for (unsigned i = 0; i < t->n_ranges; i++) {
		r = gw_trace_protect(t, t->ranges[i].hva, t->ranges[i].size_bytes, true);
		if (r < 0)
			return gw_error_set_errno(err, r, "cannot write-protect the VM's RAM");
	}
	return 0;
}

/* Takes and re-protects the notes of chunks [first, end) under one hold of the lock. */
static int collect_piece(struct gw_trace *t, unsigned range, size_t first, size_t end, struct gw_bitmap *into)
{
	struct sync *s = t->method;
	const struct gw_trace_range *r = &t->ranges[range];
	size_t run, n;

	GW_LOCKED(&s->lock);
	while (gw_bitmap_next_run(&s->written[range], first, end, end - first, &run, &n)) {
		uint64_t start, len;
		int e;

		chunk_bounds(r, run, n, &start, &len);
		e = gw_trace_protect(t, start, len, true);
		if (e < 0)
			return e;
		gw_bitmap_clear_range(&s->written[range], run, n);
		gw_bitmap_set_range(into, (start - r->hva) / 4096, len / 4096);
		first = run + n;
		if (first >= end)
			break;
	}
	return s->failed ? -EIO : 0;
}

static int sync_collect(struct gw_trace *t, unsigned range, bool quick, struct gw_bitmap *into, struct gw_error *err)
{
	struct sync *s = t->method;
	size_t n = s->written[range].nbits;

	for (size_t at = 0; at < n; at += COLLECT_PIECE_CHUNKS) {
		int r = collect_piece(t, range, at, GW_MIN(at + COLLECT_PIECE_CHUNKS, n), into);

		if (r < 0)
			return gw_error_set_errno(err, r, "cannot write-protect the VM's RAM again");
	}
	return 0;
}

static void sync_stop(struct gw_trace *t)
{
	struct sync *s = t->method;

	if (!s)
		return;
	if (s->running) {
		eventfd_write(s->stop_fd, 1);
		pthread_join(s->thread, NULL);
	}
	if (s->stop_fd >= 0)
		close(s->stop_fd);
	for (unsigned i = 0; i < t->n_ranges; i++)
		gw_bitmap_done(&s->written[i]);
	pthread_mutex_destroy(&s->lock);
	free(s);
	t->method = NULL;
}

const struct gw_trace_ops gw_trace_sync_ops = {
	.name = "sync",
	.start = sync_start,
	.collect = sync_collect,
	.stop = sync_stop,
};
