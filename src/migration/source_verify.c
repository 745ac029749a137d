/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --verify (X2): RAM digests of both sides are compared while both are paused, before the commit. */
#include <endian.h>
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "migration/source_internal.h"
#include "transport/peer.h"

static int ask(struct gw_out *o, uint32_t region, uint32_t block_pages, uint64_t first, uint32_t n,
               struct gw_error *err)
{
	struct gw_wire_verify v = {
		.region = htole32(region),
		.block_pages = htole32(block_pages),
		.first_page = htole64(first),
		.n_blocks = htole32(n),
	};

	return gw_peer_send(o->control_fd, GW_WIRE_VERIFY, &v, sizeof(v), &o->wait, err);
}

/* Digests of n blocks from both sides; the target computes while this side does. */
static int both_digests(struct gw_out *o, uint32_t region, uint32_t block_pages, uint64_t first, uint32_t n,
                        struct gw_wire_digest *own, char **ret_theirs, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = o->cancel_fd, .idle_ns = 60 * GW_NS_PER_S }; /* it may hash many GiB */
	struct gw_wire_frame f;
	int r = ask(o, region, block_pages, first, n, err);

	if (r == 0)
		r = gw_ram_digests(&o->ram[region], first, block_pages, n, own, err);
	if (r == 0)
		r = gw_peer_expect(o->control_fd, GW_WIRE_DIGESTS, &f, ret_theirs, &w, err);
	if (r == 0 && f.length != n * sizeof(*own))
		r = gw_error_set(err, EPROTO, "the other host sent %u bytes of digests where %zu were due", f.length,
		                 n * sizeof(*own));
	return r;
}

static bool same(const struct gw_wire_digest *own, const struct gw_wire_digest *theirs)
{
	return own->low == le64toh(theirs->low) && own->high == le64toh(theirs->high);
}

/* Which pages of a differing block differ. */
static int count_pages(struct gw_out *o, uint32_t region, uint64_t first, uint64_t *different, uint64_t *ret_page,
                       struct gw_error *err)
{
	uint32_t n = (uint32_t)GW_MIN(GW_WIRE_STRIPE_PAGES, o->ram[region].n_pages - first);
	struct gw_wire_digest own[GW_WIRE_STRIPE_PAGES];
	gw_autofree char *theirs = NULL;
	int r = both_digests(o, region, 1, first, n, own, &theirs, err);

	for (uint32_t i = 0; r == 0 && i < n; i++) {
		if (same(&own[i], (struct gw_wire_digest *)theirs + i))
			continue;
		if ((*different)++ == 0)
			*ret_page = first + i;
	}
	return r;
}

static int verify_region(struct gw_out *o, uint32_t region, uint64_t *different, uint64_t *ret_page,
                         struct gw_error *err)
{
	const uint64_t stripe = GW_WIRE_STRIPE_PAGES;
	gw_autofree struct gw_wire_digest *own = calloc(GW_WIRE_DIGESTS_MAX, sizeof(*own));
	uint64_t n_blocks = (o->ram[region].n_pages + stripe - 1) / stripe;

	if (!own)
		return gw_error_set(err, ENOMEM, "out of memory");
	for (uint64_t at = 0; at < n_blocks; at += GW_WIRE_DIGESTS_MAX) {
		uint32_t n = (uint32_t)GW_MIN(n_blocks - at, GW_WIRE_DIGESTS_MAX);
		gw_autofree char *theirs = NULL;
		int r = both_digests(o, region, stripe, at * stripe, n, own, &theirs, err);

		for (uint32_t i = 0; r == 0 && i < n; i++)
			if (!same(&own[i], (struct gw_wire_digest *)theirs + i))
				r = count_pages(o, region, (at + i) * stripe, different, ret_page, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int gw_out_verify(struct gw_out *o, struct gw_error *err)
{
	gw_time_ns t0 = gw_now_ns();
	uint64_t pages = 0, different = 0, page = 0;
	uint32_t where = 0;

	gw_out_set_step(o, "comparing memory");
	for (uint32_t i = 0; i < o->n_regions; i++) {
		int r = verify_region(o, i, &different, &page, err);

		if (r < 0)
			return r;
		if (!different)
			where = i;
		pages += o->ram[i].n_pages;
	}
	gw_out_phase(o, downtime, "verify", gw_now_ns() - t0);
	{
		GW_LOCKED(&o->lock);
		o->report.verified = true;
		o->report.verify_equal = different == 0;
		o->report.verify_pages = pages;
		o->report.verify_different_pages = different;
		o->report.verify_ns = gw_now_ns() - t0;
	}
	if (different)
		return gw_error_set(err, EILSEQ,
		                    "memory differs between source and target in %" PRIu64
		                    " pages (the first is page %" PRIu64 " of %s); the target's copy is discarded",
		                    different, page, o->regions[where].name);
	return 0;
}
