/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checking what arrived, and byte order. All checks are pure: no I/O, no allocation. */
#ifndef GW_WIRE_CODEC_H
#define GW_WIRE_CODEC_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "wire/wire.h"

void gw_wire_hello_init(struct gw_wire_hello *h, enum gw_wire_role role, const struct gw_wire_id *migration);

/* A received hello: magic, version overlap, role. Fills the welcome to answer with (also on refusal).
 * 0, or -EPROTO / -EPROTONOSUPPORT with err. */
int gw_wire_hello_check(const struct gw_wire_hello *h, struct gw_wire_welcome *ret, struct gw_error *err);

/* A received welcome (its text not read yet): *ret_text_length bytes follow when it refuses. */
int gw_wire_welcome_check(const struct gw_wire_welcome *w, uint32_t *ret_text_length, struct gw_error *err);

/* Host byte order in place; type known and length within its limits, or -EPROTO. */
int gw_wire_frame_check(struct gw_wire_frame *f, struct gw_error *err);
const char *gw_wire_frame_name(uint32_t type);

/* RAM of one migration, as agreed in PREPARE: what data may refer to. */
struct gw_wire_ram {
	uint32_t n_regions;
	uint64_t region_pages[8];
	uint32_t channels;
	uint32_t features; /* that both sides have */
	bool postcopy; /* OWED batches are expected, and a demand channel with the number `channels` */
};

/* Decodes a batch header in place and checks every limit that does not need the runs. */
int gw_wire_batch_check(struct gw_wire_batch *b, const struct gw_wire_ram *ram, struct gw_error *err);

/* Decodes the runs in place: of a kind that was agreed on, inside the region, in ascending order, on `channel`'s
 * stripes (any, in an OWED batch, which has no packed runs), packed runs within their limits, and their payload adds up
 * to the header's. */
int gw_wire_runs_check(struct gw_wire_run *runs, const struct gw_wire_batch *b, const struct gw_wire_ram *ram,
                       uint32_t channel, struct gw_error *err);

/* Extents of a LAYOUT body (n = length / sizeof). */
int gw_wire_extents_check(struct gw_wire_extent *e, size_t n, const struct gw_wire_ram *ram,
                          struct gw_error *err);

/* An OWED body of `length` bytes: decodes its head in place; the bitmap behind it is as long as it must be. */
int gw_wire_owed_check(struct gw_wire_owed *o, size_t length, const struct gw_wire_ram *ram, struct gw_error *err);

int gw_wire_demand_check(struct gw_wire_demand *d, const struct gw_wire_ram *ram, struct gw_error *err);

int gw_wire_verify_check(struct gw_wire_verify *v, const struct gw_wire_ram *ram, struct gw_error *err);

/* "3f2a...": 32 hex digits and NUL. */
#define GW_WIRE_ID_TEXT 33
void gw_wire_id_format(const struct gw_wire_id *id, char text[GW_WIRE_ID_TEXT]);
int gw_wire_id_parse(const char *text, struct gw_wire_id *ret);
int gw_wire_id_random(struct gw_wire_id *ret);

static inline bool gw_wire_run_is_packed(const struct gw_wire_run *r)
{
	return r->kind >= GW_WIRE_RUN_LZ4;
}

/* What a checked run has in the payload. */
static inline uint64_t gw_wire_run_bytes(const struct gw_wire_run *r)
{
	if (gw_wire_run_is_packed(r))
		return r->packed_bytes;
	return r->kind == GW_WIRE_RUN_RAW ? (uint64_t)r->n_pages * GW_WIRE_PAGE_BYTES : 0;
}

static inline uint32_t gw_wire_channel_of(uint64_t page, uint32_t channels)
{
	return (uint32_t)(page / GW_WIRE_STRIPE_PAGES % channels);
}

#endif
