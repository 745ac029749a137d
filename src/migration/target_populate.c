/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Page tables at the target, filled before the guest runs (V2) and while pages arrive (V3).
 *
 * Theory of operation
 *
 * A guest that resumes on empty page tables faults its way back to speed, page by page. What the layout names is
 * populated ahead: first here, which allocates the file's pages (receiving then never stops to do so), then in the
 * VMM's process, which only has to map what is there by then: whole huge pages where the file has them. What appears
 * later (the guest touched it after the layout was sent) is noted by the channel that received it and mapped in the
 * VMM right behind, by the same thread. Before READY the thread has caught up, or has been waited for long enough:
 * what is missing then costs faults, nothing else.
 *
 * `known` has a bit for each page that was handed over to the thread. Channels write only their own stripes of it, and
 * stripes are whole words.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/units.h"
#include "memory/huge.h"
#include "migration/target_internal.h"

#define PIECE_PAGES 4096u      /* 16 MiB a request to the VMM's process */
#define NEAR_PAGES 16u         /* what lies closer together is mapped in one go, with what lies between */
#define REQUEST_RANGES 256u

struct range {
	uint32_t region;
	uint64_t first, n; /* pages */
};

struct gw_populate {
	/* set before the thread starts */
	struct gw_in *in;
	struct gw_bitmap known[GW_RAM_REGIONS_MAX];
	bool in_vmm;
	int stop_fd; /* eventfd: ends a request to the VMM, too */
	pthread_t thread;
	bool halted; /* the migration's thread's: `thread` was joined */

	/* the thread's */
	struct gw_ram_region regions[GW_RAM_REGIONS_MAX];
	unsigned n_regions;

	/* any thread */
	atomic_bool hurry; /* nothing more ahead, at the next piece: the guest stands still, or it is over */
	atomic_bool stop;  /* it is over */
	atomic_llong ns;
	atomic_ullong huge_bytes;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* protected by lock */
	struct gw_vm *vm; /* once it is started */
	struct range *queue;
	size_t n_queue, room;
	bool busy, ahead_done, ended;
	int error; /* no memory for the guest */
};

/* ---- the thread ---- */

static bool hurried(struct gw_populate *p)
{
	return atomic_load(&p->hurry);
}

static int map_in_vmm(struct gw_populate *p, const struct range *r, size_t n)
{
	struct gw_hva_range hva[REQUEST_RANGES];

	for (size_t i = 0; i < n; i++)
		hva[i] = (struct gw_hva_range){ p->regions[r[i].region].hva + (r[i].first << GW_PAGE_SHIFT),
			                        r[i].n << GW_PAGE_SHIFT };
	return p->vm->ops->populate_ranges(p->vm, hva, n, p->stop_fd, NULL);
}

/* Waits for the VMM. false: there will be none, or its page tables are left alone. */
static bool find_vmm(struct gw_populate *p)
{
	GW_LOCKED(&p->lock);
	while (!p->vm && !atomic_load(&p->stop))
		pthread_cond_wait(&p->changed, &p->lock);
	return p->vm && p->in_vmm && p->vm->ops->ram(p->vm, p->regions, &p->n_regions, NULL) == 0;
}

/* The layout's extents in requests of PIECE_PAGES together, so that a stop is never far. */
static void ahead_in_vmm(struct gw_populate *p)
{
	const struct gw_in *in = p->in;
	struct range batch[REQUEST_RANGES];
	uint64_t pages = 0;
	size_t n = 0;

	for (size_t i = 0; i < in->n_layout; i++) {
		const struct gw_wire_extent *e = &in->layout[i];

		for (uint64_t at = 0, len; at < e->n_pages && e->region < p->n_regions; at += len) {
			len = GW_MIN(e->n_pages - at, PIECE_PAGES - pages);
			batch[n++] = (struct range){ e->region, e->first_page + at, len };
			pages += len;
			if (pages < PIECE_PAGES && n < REQUEST_RANGES)
				continue;
			if (hurried(p) || map_in_vmm(p, batch, n) < 0)
				return; /* slower later, not wrong */
			pages = n = 0;
		}
	}
	if (n && !hurried(p))
		(void)map_in_vmm(p, batch, n);
}

static int ahead(struct gw_populate *p)
{
	const struct gw_in *in = p->in;

	for (size_t i = 0; i < in->n_layout && !hurried(p); i++) {
		const struct gw_wire_extent *e = &in->layout[i];
		struct gw_error err = GW_ERROR_INIT;
		int r = gw_ram_populate(&in->ram[e->region], e->first_page, e->n_pages, &p->hurry, &err);

		if (r < 0)
			return err.code;
	}
	return 0;
}

static void count_huge(struct gw_populate *p)
{
	uint64_t all = 0, bytes;

	for (unsigned i = 0; i < p->n_regions; i++) {
		const struct gw_ram_region *r = &p->regions[i];

		if (gw_huge_mapped(p->vm->ops->pid(p->vm), r->hva, gw_round_up(r->size_bytes, r->page_size_bytes), &bytes) == 0)
			all += bytes;
	}
	atomic_store(&p->huge_bytes, all);
}

/* What the channels found, until told to stop. */
static void follow(struct gw_populate *p)
{
	for (;;) {
		gw_autofree struct range *mine = NULL;
		gw_time_ns t0;
		size_t n;

		{
			GW_LOCKED(&p->lock);
			p->busy = false;
			pthread_cond_broadcast(&p->changed);
			while (p->n_queue == 0 && !atomic_load(&p->stop))
				pthread_cond_wait(&p->changed, &p->lock);
			if (atomic_load(&p->stop))
				return;
			mine = gw_steal(&p->queue);
			n = p->n_queue;
			p->n_queue = p->room = 0;
			p->busy = true;
		}
		t0 = gw_now_ns();
		for (size_t at = 0; at < n && !atomic_load(&p->stop); at += REQUEST_RANGES)
			(void)map_in_vmm(p, mine + at, GW_MIN(n - at, REQUEST_RANGES));
		atomic_fetch_add(&p->ns, gw_now_ns() - t0);
	}
}

static void *populate(void *arg)
{
	struct gw_populate *p = arg;
	gw_time_ns t0 = gw_now_ns();
	int r = ahead(p);
	bool vmm = r == 0 && find_vmm(p);

	if (vmm) {
		ahead_in_vmm(p);
		count_huge(p);
	}
	atomic_store(&p->ns, gw_now_ns() - t0);
	{
		GW_LOCKED(&p->lock);
		p->ahead_done = true;
		p->error = r;
		pthread_cond_broadcast(&p->changed);
	}
	if (r < 0)
		eventfd_write(p->in->wake_fd, 1);
	if (vmm)
		follow(p);
	GW_LOCKED(&p->lock);
	p->ended = true;
	p->busy = false;
	pthread_cond_broadcast(&p->changed);
	return NULL;
}

/* ---- the channels ---- */

/* Joined to the last one where that is near: neighbours arrive one after the other. */
static void enqueue(struct gw_populate *p, uint32_t region, uint64_t first, uint64_t n)
{
	struct range *last;

	GW_LOCKED(&p->lock);
	last = p->n_queue ? &p->queue[p->n_queue - 1] : NULL;
	if (last && last->region == region && first >= last->first + last->n &&
	    first - (last->first + last->n) < NEAR_PAGES) {
		last->n = first + n - last->first;
		return;
	}
	if (p->n_queue == p->room) {
		size_t room = p->room ? p->room * 2 : 64;
		struct range *bigger = realloc(p->queue, room * sizeof(*bigger));

		if (!bigger)
			return; /* slower later, not wrong */
		p->queue = bigger;
		p->room = room;
	}
	p->queue[p->n_queue++] = (struct range){ region, first, n };
	pthread_cond_broadcast(&p->changed);
}

void gw_in_arrived(void *arg, uint32_t region, uint64_t first, uint64_t n)
{
	struct gw_populate *p = arg;
	struct gw_bitmap *known = &p->known[region];
	uint64_t end = first + n;

	while (first < end) {
		uint64_t from;

		if (gw_bitmap_test(known, first)) {
			first++;
			continue;
		}
		from = first;
		while (first < end && !gw_bitmap_test(known, first))
			first++;
		gw_bitmap_set_range(known, from, first - from);
		enqueue(p, region, from, first - from);
	}
}

/* ---- the migration's thread ---- */

static void populate_free(struct gw_populate *p)
{
	if (!p)
		return;
	for (unsigned i = 0; i < GW_RAM_REGIONS_MAX; i++)
		gw_bitmap_done(&p->known[i]);
	if (p->stop_fd >= 0)
		close(p->stop_fd);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->lock);
	free(p->queue);
	free(p);
}

static int mark_layout(struct gw_populate *p)
{
	const struct gw_in *in = p->in;

	for (unsigned i = 0; i < in->wire_ram.n_regions; i++)
		if (gw_bitmap_init(&p->known[i], in->wire_ram.region_pages[i]) < 0)
			return -ENOMEM;
	for (size_t i = 0; i < in->n_layout; i++)
		gw_bitmap_set_range(&p->known[in->layout[i].region], in->layout[i].first_page, in->layout[i].n_pages);
	return 0;
}

void gw_in_start_populating(struct gw_in *in)
{
	struct gw_populate *p = calloc(1, sizeof(*p));

	if (!p)
		return;
	p->in = in;
	gw_cond_init(&p->changed);
	pthread_mutex_init(&p->lock, NULL);
	/* With all pages owed the VMM's page tables are to stay empty. */
	p->in_vmm = gw_fault("target-populate-vmm") == 0 && !json_is_true(json_object_get(in->prepare, "all_owed"));
	p->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->stop_fd < 0 || mark_layout(p) < 0 || gw_thread_start(&p->thread, NULL, populate, p) < 0)
		populate_free(p);
	else
		in->populate = p;
}

void gw_in_populate_vmm(struct gw_in *in, struct gw_vm *vm)
{
	if (!in->populate)
		return;
	GW_LOCKED(&in->populate->lock);
	in->populate->vm = vm;
	pthread_cond_broadcast(&in->populate->changed);
}

void gw_in_hurry_populating(struct gw_in *in)
{
	if (in->populate)
		atomic_store(&in->populate->hurry, true);
}

void gw_in_wait_populated(struct gw_in *in, gw_time_ns patience)
{
	struct gw_populate *p = in->populate;
	gw_time_ns deadline = gw_deadline_in(patience);
	int r = 0;

	if (!p)
		return;
	GW_LOCKED(&p->lock);
	while ((!p->ahead_done || p->n_queue || p->busy) && !p->ended && r == 0)
		r = gw_cond_wait(&p->changed, &p->lock, deadline);
}

int gw_in_populate_failed(struct gw_in *in, struct gw_error *err)
{
	struct gw_populate *p = in->populate;
	int r = 0;

	if (p) {
		GW_LOCKED(&p->lock);
		r = p->error;
	}
	return r < 0 ? gw_error_set_errno(err, r, "cannot allocate the guest's memory on the target") : 0;
}

void gw_in_populated(struct gw_in *in, gw_time_ns *ret_ns, uint64_t *ret_huge_bytes)
{
	*ret_ns = in->populate ? atomic_load(&in->populate->ns) : 0;
	*ret_huge_bytes = in->populate ? atomic_load(&in->populate->huge_bytes) : 0;
}

void gw_in_halt_populating(struct gw_in *in)
{
	struct gw_populate *p = in->populate;

	if (!p || p->halted)
		return;
	{
		GW_LOCKED(&p->lock);
		atomic_store(&p->stop, true);
		atomic_store(&p->hurry, true);
		pthread_cond_broadcast(&p->changed);
	}
	eventfd_write(p->stop_fd, 1);
	pthread_join(p->thread, NULL);
	p->halted = true;
}

void gw_in_stop_populating(struct gw_in *in)
{
	gw_in_halt_populating(in);
	populate_free(gw_steal(&in->populate));
}
