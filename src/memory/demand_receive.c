/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages of a post-copy that arrive: claimed, filled in place, and only then shown to the VMM. */
#include <string.h>

#include "base/cleanup.h"
#include "memory/demand_internal.h"

/* Makes the unit at `page` ours to fill. *ret_wanted: somebody waits for it. */
static bool claim(struct gw_demand_ram *r, uint64_t page, bool *ret_wanted)
{
	uint8_t state = atomic_load_explicit(&r->states[page], memory_order_relaxed);

	while (state == GW_PAGE_ABSENT || state == GW_PAGE_WANTED)
		if (atomic_compare_exchange_weak(&r->states[page], &state, GW_PAGE_FILLING)) {
			*ret_wanted |= state == GW_PAGE_WANTED;
			return true;
		}
	return false;
}

static void set_states(struct gw_demand_ram *r, uint64_t first, uint64_t n, uint8_t state)
{
	for (uint64_t p = first; p < first + n; p += r->unit_pages)
		atomic_store_explicit(&r->states[p], state, memory_order_release);
}

/* [first, first+n), claimed and filled by the caller, become visible. */
static void finish_pages(struct gw_demand *d, uint32_t region, uint64_t first, uint64_t n, bool wanted)
{
	struct gw_demand_ram *r = &d->regions[region];
	uint64_t before;

	set_states(r, first, n, GW_PAGE_COMPLETE);
	gw_demand_map(d, r, first, n, true);
	if (wanted)
		gw_demand_note_served(d, region, first, n);
	before = atomic_fetch_sub(&d->left, n);
	if (before == n)
		d->config.complete(d->config.arg);
}

/* The length of the run from `page` on that is (or is not) ours, claimed on the way. */
static uint64_t claim_run(struct gw_demand_ram *r, uint64_t page, uint64_t end, bool *ret_ours, bool *ret_wanted)
{
	uint64_t n = r->unit_pages;

	*ret_ours = claim(r, page, ret_wanted);
	while (page + n < end) {
		uint8_t state = atomic_load_explicit(&r->states[page + n], memory_order_relaxed);
		bool fillable = state == GW_PAGE_ABSENT || state == GW_PAGE_WANTED;

		if (fillable != *ret_ours || (fillable && !claim(r, page + n, ret_wanted)))
			break;
		n += r->unit_pages;
	}
	return n;
}

static void receive_zeros(struct gw_demand *d, uint32_t region, const struct gw_wire_run *run)
{
	struct gw_demand_ram *r = &d->regions[region];
	uint64_t at = run->first_page, end = at + run->n_pages;

	while (at < end) {
		bool ours, wanted = false;
		uint64_t n = claim_run(r, at, end, &ours, &wanted);

		if (ours) {
			memset(r->where.ram->base + (at << GW_PAGE_SHIFT), 0, n << GW_PAGE_SHIFT);
			finish_pages(d, region, at, n, wanted);
		} else {
			atomic_fetch_add_explicit(&d->thrown_away, n, memory_order_relaxed);
		}
		at += n;
	}
}

struct filling {
	uint64_t first, n;
	bool wanted;
};

/* Claims what of the batch's raw pages lacks and lays out where its payload goes: in place, or to the scratch area. */
static unsigned lay_out(struct gw_demand *d, const struct gw_wire_batch *b, const struct gw_wire_run *runs,
                        struct filling *fillings, unsigned *ret_n_iov, struct iovec *iov, uint8_t *scratch)
{
	struct gw_demand_ram *r = &d->regions[b->region];
	unsigned n_fillings = 0, n_iov = 0;

	for (unsigned i = 0; i < b->n_runs; i++) {
		uint64_t at = runs[i].first_page, end = at + runs[i].n_pages;

		while (runs[i].kind == GW_WIRE_RUN_RAW && at < end) {
			struct filling f = { .first = at };
			bool ours;

			f.n = claim_run(r, at, end, &ours, &f.wanted);
			if (!ours) {
				f.n = GW_MIN(f.n, GW_DEMAND_SCRATCH >> GW_PAGE_SHIFT);
				atomic_fetch_add_explicit(&d->thrown_away, f.n, memory_order_relaxed);
			} else {
				fillings[n_fillings++] = f;
			}
			iov[n_iov++] = (struct iovec){ ours ? r->where.ram->base + (at << GW_PAGE_SHIFT) : scratch,
				                       f.n << GW_PAGE_SHIFT };
			at += f.n;
		}
	}
	*ret_n_iov = n_iov;
	return n_fillings;
}

static bool await_start(struct gw_demand *d)
{
	GW_LOCKED(&d->lock);
	while (!d->started && !atomic_load(&d->stop))
		pthread_cond_wait(&d->started_cond, &d->lock);
	return d->started;
}

int gw_demand_receive(struct gw_demand *d, const struct gw_wire_batch *b, const struct gw_wire_run *runs,
                      struct iovec *iov, uint8_t *scratch, int fd, const struct gw_wait *w, struct gw_error *err)
{
	struct gw_demand_ram *r = &d->regions[b->region];
	struct filling fillings[GW_WIRE_BATCH_PAGES_MAX];
	unsigned n, n_iov;
	int e;

	if (!await_start(d))
		return gw_error_set(err, ECANCELED, "cancelled");
	for (unsigned i = 0; i < b->n_runs; i++) {
		if (runs[i].first_page % r->unit_pages || runs[i].n_pages % r->unit_pages)
			return gw_error_set(err, EPROTO, "a part of a large page arrived, where only whole ones are of use");
		if (runs[i].kind == GW_WIRE_RUN_ZERO)
			receive_zeros(d, b->region, &runs[i]);
	}
	n = lay_out(d, b, runs, fillings, &n_iov, iov, scratch);
	e = gw_readv_full(fd, iov, n_iov, w);
	for (unsigned i = 0; i < n; i++) {
		if (e < 0)
			set_states(r, fillings[i].first, fillings[i].n, GW_PAGE_WANTED);
		else
			finish_pages(d, b->region, fillings[i].first, fillings[i].n, fillings[i].wanted);
	}
	return e < 0 ? gw_error_set_errno(err, e, "a data channel from the source broke") : 0;
}

