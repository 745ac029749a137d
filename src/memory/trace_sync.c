/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tracing by write-protect faults that a thread here answers: for kernels without WP_ASYNC.
 *
 * The guest's first write to a protected chunk blocks until the thread has unprotected the chunk and noted
 * it. Unprotecting and noting happen under one lock, and so do taking a note and protecting again: a note can
 * not be lost between them. The thread never waits for anything but that lock and the userfaultfd. Notes are kept by
 * 4 KiB pages, so that the size of chunks (trace_chunks.c) may change at any time. What is noted stays noted whatever
 * becomes of the page: one that is thrown away and written again was open, and is reported.
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "memory/huge.h"
#include "memory/kernel_compat.h"
#include "memory/trace_internal.h"

#define PIECE_BYTES (8ull << 20) /* protected by one call: a writer's stall */

struct sync {
	pthread_t thread;
	bool running;
	int stop_fd;
	atomic_bool waiting; /* the thread, for the lock */
	pthread_mutex_t lock;
	/* protected by lock: one bit per page that is writable (so: may have been written) */
	struct gw_bitmap written[GW_TRACE_RANGES_MAX];
	struct gw_chunks chunks[GW_TRACE_RANGES_MAX];
	bool failed;
};

static void answer_fault(struct gw_trace *t, struct sync *s, uint64_t address)
{
	for (unsigned i = 0; i < t->n_ranges; i++) {
		const struct gw_trace_range *r = &t->ranges[i];
		uint64_t offset, len;

		if (address < r->hva || address >= r->hva + r->size_bytes)
			continue;
		atomic_store(&s->waiting, true);
		GW_LOCKED(&s->lock);
		atomic_store(&s->waiting, false);
		gw_chunks_fault(&s->chunks[i], address - r->hva, &offset, &len);
		gw_bitmap_set_range(&s->written[i], offset / 4096, len / 4096);
		if (gw_trace_protect(t, r->hva + offset, len, false) < 0)
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

	gw_thread_urgent(); /* a vCPU waits for it */
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

static int protect_all(struct gw_trace *t)
{
	for (unsigned i = 0; i < t->n_ranges; i++) {
		const struct gw_trace_range *r = &t->ranges[i];
		uint64_t piece = GW_MAX(PIECE_BYTES, r->page_size_bytes);

		for (uint64_t at = 0; at < r->size_bytes; at += piece) {
			int e = gw_trace_protect(t, r->hva + at, GW_MIN(piece, r->size_bytes - at), true);

			if (e < 0)
				return e;
		}
	}
	return 0;
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
		if (gw_bitmap_init(&s->written[i], t->ranges[i].size_bytes / 4096) < 0 ||
		    gw_chunks_init(&s->chunks[i], &t->ranges[i]) < 0)
			return gw_error_set(err, ENOMEM, "out of memory");
	}
	r = start_thread(t, s);
	if (r < 0)
		return gw_error_set_errno(err, r, "cannot start the tracing thread");
	r = protect_all(t);
	return r < 0 ? gw_error_set_errno(err, r, "cannot write-protect the VM's RAM") : 0;
}

/* Takes the notes of pages [first, end) and re-protects from the first to the last of them by one call: what lies
 * between is protected already. */
static int collect_piece(struct gw_trace *t, unsigned range, size_t first, size_t end, bool adapt, struct gw_bitmap *into)
{
	struct sync *s = t->method;
	const struct gw_trace_range *r = &t->ranges[range];
	size_t at = first, from = end, run, n;
	int e;

	GW_LOCKED(&s->lock);
	while (at < end && gw_bitmap_next_run(&s->written[range], at, end, end - at, &run, &n)) {
		from = GW_MIN(from, run);
		at = run + n;
		gw_bitmap_set_range(into, run, n);
	}
	if (from < end) {
		e = gw_trace_protect(t, r->hva + from * 4096, (at - from) * 4096, true);
		if (e < 0)
			return e;
		gw_bitmap_clear_range(&s->written[range], from, at - from);
	}
	if (adapt) /* it counts looks at all memory */
		gw_chunks_adapt(&s->chunks[range], first * 4096 / GW_HUGE_BYTES, (end * 4096 + GW_HUGE_BYTES - 1) / GW_HUGE_BYTES);
	return s->failed ? -EIO : 0;
}

static int sync_collect(struct gw_trace *t, unsigned range, size_t first, size_t end, bool quick,
                        struct gw_bitmap *into, struct gw_error *err)
{
	struct sync *s = t->method;
	size_t piece = GW_MAX(GW_HUGE_BYTES, t->ranges[range].page_size_bytes) / 4096;

	for (size_t at = first; at < end; at += piece) {
		int r = collect_piece(t, range, at, GW_MIN(at + piece, end), !quick, into);

		if (r < 0)
			return gw_error_set_errno(err, r, "cannot write-protect the VM's RAM again");
		/* Locks are not fair: a guest's thread that waits comes first. */
		while (atomic_load(&s->waiting))
			sched_yield();
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
	for (unsigned i = 0; i < t->n_ranges; i++) {
		gw_bitmap_done(&s->written[i]);
		gw_chunks_done(&s->chunks[i]);
	}
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
