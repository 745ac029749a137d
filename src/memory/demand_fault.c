/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who waits for a page: the faults of the VMM's process, asking for what lacks, mapping what is there. */
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "memory/demand_internal.h"
#include "memory/kernel_compat.h"

#define MAP_AHEAD_PAGES 16u /* mapped along with a complete page that is touched: one fault instead of many */

/* The kernel. */

void gw_demand_wake(struct gw_demand *d, uint64_t hva, uint64_t len)
{
	struct uffdio_range range = { hva, len };

	(void)ioctl(d->config.uffd, UFFDIO_WAKE, &range); /* fails only when the process is gone */
}

void gw_demand_map(struct gw_demand *d, const struct gw_demand_ram *r, uint64_t first, uint64_t n, bool allocate)
{
	uint64_t at = r->where.hva + (first << GW_PAGE_SHIFT), end = at + (n << GW_PAGE_SHIFT);
	uint64_t unit = r->unit_pages << GW_PAGE_SHIFT;

	while (at < end) {
		struct uffdio_continue c = { .range = { at, end - at } };

		if (ioctl(d->config.uffd, UFFDIO_CONTINUE, &c) == 0)
			return;
		if (c.mapped > 0) { /* in part: go on behind it */
			at += (uint64_t)c.mapped;
		} else if (errno == EAGAIN || errno == EINTR) {
			continue;
		} else if (errno == EEXIST) {
			gw_demand_wake(d, at, unit);
			at += unit;
		} else if (errno == EFAULT && !allocate) {
			at += unit;
		} else if (errno == EFAULT) { /* not in the file: never touched at the source either */
			__atomic_fetch_add(r->where.ram->base + (at - r->where.hva), 0, __ATOMIC_RELAXED);
		} else { /* the process is on its way out */
			return;
		}
	}
}

/* Latencies. */

static unsigned bucket_of(gw_time_ns ns)
{
	unsigned log = ns > 0 ? 63u - (unsigned)__builtin_clzll((unsigned long long)ns) : 0;
	unsigned quarter = log >= 2 ? (unsigned)(ns >> (log - 2)) & 3 : 0;

	return GW_MIN(log * 4 + quarter, GW_DEMAND_BUCKETS - 1);
}

static gw_time_ns bucket_middle(unsigned bucket)
{
	return (gw_time_ns)((8.0 + 2 * (bucket % 4) + 1) / 8.0 * (double)(1ull << bucket / 4));
}

static void note_waiter(struct gw_demand *d, uint32_t region, uint64_t page)
{
	GW_LOCKED(&d->lock);
	for (unsigned i = 0; i < GW_DEMAND_WAITERS; i++) {
		struct gw_demand_waiter *w = &d->waiters[i];

		if (w->page == UINT64_MAX) {
			*w = (struct gw_demand_waiter){ region, page, gw_now_ns() };
			return;
		}
	}
}

void gw_demand_note_served(struct gw_demand *d, uint32_t region, uint64_t first, uint64_t n)
{
	gw_time_ns now = gw_now_ns();

	GW_LOCKED(&d->lock);
	for (unsigned i = 0; i < GW_DEMAND_WAITERS; i++) {
		struct gw_demand_waiter *w = &d->waiters[i];

		if (w->page == UINT64_MAX || w->region != region || w->page < first || w->page >= first + n)
			continue;
		d->buckets[bucket_of(now - w->since)]++;
		d->max_ns = GW_MAX(d->max_ns, now - w->since);
		w->page = UINT64_MAX;
	}
}

/* Faults. */

static void want(struct gw_demand *d, uint32_t region, uint64_t page)
{
	struct gw_wire_demand w = { .region = region, .first_page = page,
		                    .n_pages = (uint32_t)d->regions[region].unit_pages };

	d->config.want(d->config.arg, &w);
}

/* The run of complete units from `page` on, at most `max` pages. */
static uint64_t complete_run(const struct gw_demand_ram *r, uint64_t page, uint64_t max)
{
	uint64_t n = 0, end = GW_MIN(max, r->where.ram->n_pages - page);

	while (n < end && atomic_load_explicit(&r->states[page + n], memory_order_acquire) == GW_PAGE_COMPLETE)
		n += r->unit_pages;
	return n;
}

static void answer_fault(struct gw_demand *d, uint64_t address)
{
	for (uint32_t i = 0; i < d->config.n_regions; i++) {
		struct gw_demand_ram *r = &d->regions[i];
		uint64_t page = (address - r->where.hva) >> GW_PAGE_SHIFT, ahead;
		uint8_t state = GW_PAGE_ABSENT;

		if (address < r->where.hva || page >= r->where.ram->n_pages)
			continue;
		page -= page % r->unit_pages;
		if (atomic_compare_exchange_strong(&r->states[page], &state, GW_PAGE_WANTED)) {
			atomic_fetch_add_explicit(&d->demanded, 1, memory_order_relaxed);
			note_waiter(d, i, page);
			want(d, i, page);
		} else if (state == GW_PAGE_COMPLETE) {
			gw_demand_map(d, r, page, r->unit_pages, true);
			ahead = complete_run(r, page, MAP_AHEAD_PAGES);
			if (ahead > r->unit_pages)
				gw_demand_map(d, r, page + r->unit_pages, ahead - r->unit_pages, false);
		} /* GW_PAGE_WANTED: was asked for. GW_PAGE_FILLING: its filler wakes. */
		return;
	}
}

void *gw_demand_fault_thread(void *arg)
{
	struct gw_demand *d = arg;
	struct pollfd p[2] = { { .fd = d->config.uffd, .events = POLLIN }, { .fd = d->stop_fd, .events = POLLIN } };
	struct uffd_msg msg[32];

	gw_thread_urgent();
	while (poll(p, 2, -1) >= 0 || errno == EINTR) {
		ssize_t n;

		if (p[1].revents)
			break;
		n = read(d->config.uffd, msg, sizeof(msg));
		for (ssize_t i = 0; i < n / (ssize_t)sizeof(msg[0]); i++) {
			if (msg[i].event != UFFD_EVENT_PAGEFAULT)
				continue;
			atomic_fetch_add_explicit(&d->faults, 1, memory_order_relaxed);
			answer_fault(d, msg[i].arg.pagefault.address);
		}
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			break; /* the process is gone */
	}
	return NULL;
}

void gw_demand_want_again(struct gw_demand *d)
{
	for (uint32_t i = 0; i < d->config.n_regions; i++) {
		struct gw_demand_ram *r = &d->regions[i];

		for (uint64_t page = 0; page < r->where.ram->n_pages; page += r->unit_pages)
			if (atomic_load_explicit(&r->states[page], memory_order_relaxed) == GW_PAGE_WANTED)
				want(d, i, page);
	}
}

void gw_demand_map_complete(struct gw_demand *d)
{
	for (uint32_t i = 0; i < d->config.n_regions; i++) {
		struct gw_demand_ram *r = &d->regions[i];
		uint64_t page = 0, n_pages = r->where.ram->n_pages;

		while (page < n_pages && !atomic_load_explicit(&d->stop, memory_order_relaxed)) {
			uint64_t end = gw_demand_chunk_end(r, page), n;

			if (!gw_demand_holds_owed(r, page, end)) { /* was never taken out */
				page = end;
				continue;
			}
			while (page < end && (n = complete_run(r, page, end - page)) == 0)
				page += r->unit_pages;
			if (page < end) {
				gw_demand_map(d, r, page, n, false);
				page += n;
			}
		}
	}
}

/* The time below which `share` of the demanded faults were served. Lock held. */
static gw_time_ns percentile(const struct gw_demand *d, double share)
{
	uint64_t total = 0, seen = 0;

	for (unsigned i = 0; i < GW_DEMAND_BUCKETS; i++)
		total += d->buckets[i];
	for (unsigned i = 0; i < GW_DEMAND_BUCKETS; i++) {
		seen += d->buckets[i];
		if (total && (double)seen >= share * (double)total)
			return bucket_middle(i);
	}
	return 0;
}

void gw_demand_stats(struct gw_demand *d, struct gw_demand_stats *ret)
{
	GW_LOCKED(&d->lock);
	*ret = (struct gw_demand_stats){
		.faults = atomic_load(&d->faults), .demanded = atomic_load(&d->demanded),
		.thrown_away_pages = atomic_load(&d->thrown_away),
		.p50_ns = percentile(d, 0.5), .p99_ns = percentile(d, 0.99), .max_ns = d->max_ns,
	};
}

