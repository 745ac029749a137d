/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checking what arrived, and byte order: nothing behind this file sees an unchecked length or index. */
#include "wire/codec.h"

#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define JSON_ROW(n) { n, 2, GW_WIRE_JSON_MAX }
#define FIXED_ROW(n, type) { n, sizeof(type), sizeof(type) }

const struct gw_wire_frame_row gw_wire_frame_table[GW_WIRE_FRAME_TYPES] = {
	[GW_WIRE_PREPARE] = JSON_ROW("PREPARE"),
	[GW_WIRE_PREPARED] = JSON_ROW("PREPARED"),
	[GW_WIRE_PREFLIGHT] = JSON_ROW("PREFLIGHT"),
	[GW_WIRE_VERDICT] = JSON_ROW("VERDICT"),
	[GW_WIRE_LAYOUT] = { "LAYOUT", 0, GW_WIRE_EXTENTS_MAX * sizeof(struct gw_wire_extent) },
	[GW_WIRE_PASS] = FIXED_ROW("PASS", struct gw_wire_pass),
	[GW_WIRE_SWITCH] = FIXED_ROW("SWITCH", struct gw_wire_pass),
	[GW_WIRE_STATE] = { "STATE", 1, GW_WIRE_STATE_CHUNK_MAX },
	[GW_WIRE_SENT] = FIXED_ROW("SENT", struct gw_wire_sent),
	[GW_WIRE_READY] = FIXED_ROW("READY", struct gw_wire_ready),
	[GW_WIRE_VERIFY] = FIXED_ROW("VERIFY", struct gw_wire_verify),
	[GW_WIRE_DIGESTS] = { "DIGESTS", sizeof(struct gw_wire_digest),
	                      GW_WIRE_DIGESTS_MAX * sizeof(struct gw_wire_digest) },
	[GW_WIRE_COMMIT] = FIXED_ROW("COMMIT", struct gw_wire_commit),
	[GW_WIRE_RUNNING] = FIXED_ROW("RUNNING", struct gw_wire_running),
	[GW_WIRE_ABORT] = { "ABORT", 0, GW_WIRE_TEXT_MAX },
	[GW_WIRE_FAILED] = { "FAILED", sizeof(struct gw_wire_failed),
	                     sizeof(struct gw_wire_failed) + GW_WIRE_TEXT_MAX },
	[GW_WIRE_ANSWER] = FIXED_ROW("ANSWER", struct gw_wire_answer),
	[GW_WIRE_OWED] = { "OWED", sizeof(struct gw_wire_owed) + 1,
	                   sizeof(struct gw_wire_owed) + GW_WIRE_OWED_PAGES_MAX / 8 },
	[GW_WIRE_COMPLETE] = FIXED_ROW("COMPLETE", struct gw_wire_complete),
	[GW_WIRE_RECOVER] = JSON_ROW("RECOVER"),
};

const char *gw_wire_frame_name(uint32_t type)
{
	if (type >= GW_WIRE_FRAME_TYPES || !gw_wire_frame_table[type].name)
		return "unknown";
	return gw_wire_frame_table[type].name;
}

void gw_wire_hello_init(struct gw_wire_hello *h, enum gw_wire_role role, const struct gw_wire_id *migration)
{
	*h = (struct gw_wire_hello){
		.version_min = htole16(GW_WIRE_VERSION_MIN),
		.version_max = htole16(GW_WIRE_VERSION_MAX),
		.features = htole32(GW_WIRE_FEATURES),
		.role = (uint8_t)role,
	};
	memcpy(h->magic, GW_WIRE_MAGIC, GW_WIRE_MAGIC_LEN);
	if (migration)
		h->migration = *migration;
}

int gw_wire_hello_check(const struct gw_wire_hello *h, struct gw_wire_welcome *ret, struct gw_error *err)
{
	unsigned lo = le16toh(h->version_min), hi = le16toh(h->version_max);
	unsigned version = hi < GW_WIRE_VERSION_MAX ? hi : GW_WIRE_VERSION_MAX;
	int r = 0;

	*ret = (struct gw_wire_welcome){ .version = 0 };
	memcpy(ret->magic, GW_WIRE_MAGIC, GW_WIRE_MAGIC_LEN);
	if (memcmp(h->magic, GW_WIRE_MAGIC, GW_WIRE_MAGIC_LEN))
		r = gw_error_set(err, EPROTO, "the peer does not speak Godwit's protocol");
	else if (lo > hi || lo > GW_WIRE_VERSION_MAX || hi < GW_WIRE_VERSION_MIN)
		r = gw_error_set(err, EPROTONOSUPPORT,
		                 "wrong protocol version: the peer speaks %u to %u, this host %u to %u (upgrade the "
		                 "older one)",
		                 lo, hi, GW_WIRE_VERSION_MIN, GW_WIRE_VERSION_MAX);
	else if (h->role < GW_WIRE_ROLE_CONTROL || h->role > GW_WIRE_ROLE_RECOVER)
		r = gw_error_set(err, EPROTO, "the peer wants something unknown (role %u)", h->role);
	ret->result = (int32_t)htole32((uint32_t)r);
	if (r == 0) {
		ret->version = htole16((uint16_t)version);
		ret->features = htole32(le32toh(h->features) & GW_WIRE_FEATURES);
	}
	return r;
}

int gw_wire_welcome_check(const struct gw_wire_welcome *w, uint32_t *ret_text_length, struct gw_error *err)
{
	int32_t result = (int32_t)le32toh((uint32_t)w->result);
	unsigned version = le16toh(w->version);

	*ret_text_length = 0;
	if (memcmp(w->magic, GW_WIRE_MAGIC, GW_WIRE_MAGIC_LEN))
		return gw_error_set(err, EPROTO, "the other side does not speak Godwit's protocol");
	if (le16toh(w->text_length) > GW_WIRE_TEXT_MAX)
		return gw_error_set(err, EPROTO, "the other side's answer is malformed");
	*ret_text_length = le16toh(w->text_length);
	if (result != 0)
		return gw_error_set(err, result > 0 || result < -4095 ? EPROTO : result, "refused by the other side");
	if (version < GW_WIRE_VERSION_MIN || version > GW_WIRE_VERSION_MAX)
		return gw_error_set(err, EPROTONOSUPPORT, "wrong protocol version: the other side chose %u", version);
	return 0;
}

int gw_wire_frame_check(struct gw_wire_frame *f, struct gw_error *err)
{
	const struct gw_wire_frame_row *row;

	f->type = le32toh(f->type);
	f->length = le32toh(f->length);
	if (f->type >= GW_WIRE_FRAME_TYPES || !gw_wire_frame_table[f->type].name)
		return gw_error_set(err, EPROTO, "unknown message %u from the other side", f->type);
	row = &gw_wire_frame_table[f->type];
	if (f->length < row->min_length || f->length > row->max_length)
		return gw_error_set(err, EPROTO, "%s message of %u bytes from the other side is malformed", row->name,
		                    f->length);
	return 0;
}

int gw_wire_batch_check(struct gw_wire_batch *b, const struct gw_wire_ram *ram, struct gw_error *err)
{
	b->magic = le32toh(b->magic);
	b->kind = le16toh(b->kind);
	b->n_runs = le16toh(b->n_runs);
	b->region = le32toh(b->region);
	b->pass = le32toh(b->pass);
	b->payload_bytes = le64toh(b->payload_bytes);
	if (b->magic != GW_WIRE_BATCH_MAGIC)
		return gw_error_set(err, EPROTO, "garbage on the data channel (no batch where one must begin)");
	if (b->kind == GW_WIRE_BATCH_BARRIER) {
		if (b->n_runs || b->payload_bytes)
			return gw_error_set(err, EPROTO, "malformed barrier on the data channel");
		return 0;
	}
	if (b->kind == GW_WIRE_BATCH_OWED && !ram->postcopy)
		return gw_error_set(err, EPROTO, "pages of a post-copy arrived, which was not agreed on");
	if ((b->kind != GW_WIRE_BATCH_PAGES && b->kind != GW_WIRE_BATCH_OWED) || b->n_runs == 0 || b->n_runs > GW_WIRE_RUNS_MAX)
		return gw_error_set(err, EPROTO, "malformed batch on the data channel (kind %u, %u runs)", b->kind,
		                    b->n_runs);
	if (b->region >= ram->n_regions)
		return gw_error_set(err, EPROTO, "a batch names memory region %u, which does not exist", b->region);
	if (b->payload_bytes > (uint64_t)GW_WIRE_BATCH_PAGES_MAX * GW_WIRE_PAGE_BYTES)
		return gw_error_set(err, EPROTO, "a batch of %" PRIu64 " bytes is too large", b->payload_bytes);
	return 0;
}

static bool range_exists(uint64_t first_page, uint64_t n_pages, uint64_t region_pages)
{
	return n_pages > 0 && first_page < region_pages && n_pages <= region_pages - first_page;
}

/* A run that would not be shorter than its pages has no reason to be packed. */
static bool length_is_good(const struct gw_wire_run *r, uint32_t features)
{
	if (!gw_wire_run_is_packed(r))
		return r->packed_bytes == 0;
	return (features & GW_WIRE_FEATURE_PACKED) && r->n_pages <= GW_WIRE_PACKED_PAGES_MAX && r->packed_bytes > 0 &&
	       r->packed_bytes < r->n_pages * GW_WIRE_PAGE_BYTES;
}

static int run_check(const struct gw_wire_run *r, uint64_t region_pages, uint32_t channels, uint32_t channel)
{
	uint64_t last;

	if (r->n_pages > GW_WIRE_RUN_PAGES_MAX || r->kind >= GW_WIRE_RUN_KINDS ||
	    !range_exists(r->first_page, r->n_pages, region_pages))
		return -EPROTO;
	last = r->first_page + r->n_pages - 1;
	/* With one channel a run may cross stripes; with more it would leave the channel's own. */
	if (channels > 1 && r->first_page / GW_WIRE_STRIPE_PAGES != last / GW_WIRE_STRIPE_PAGES)
		return -EPROTO;
	return gw_wire_channel_of(r->first_page, channels) == channel || channels == 1 ? 0 : -EPROTO;
}

int gw_wire_runs_check(struct gw_wire_run *runs, const struct gw_wire_batch *b, const struct gw_wire_ram *ram,
                       uint32_t channel, struct gw_error *err)
{
	uint32_t channels = b->kind == GW_WIRE_BATCH_OWED ? 1 : ram->channels;
	uint64_t payload = 0, packed = 0, next = 0;

	for (unsigned i = 0; i < b->n_runs; i++) {
		struct gw_wire_run *r = &runs[i];

		r->first_page = le64toh(r->first_page);
		r->n_pages = le32toh(r->n_pages);
		r->kind = le16toh(r->kind);
		r->packed_bytes = le16toh(r->packed_bytes);
		if (run_check(r, ram->region_pages[b->region], channels, channel) < 0 || r->first_page < next ||
		    (b->kind == GW_WIRE_BATCH_OWED && gw_wire_run_is_packed(r)))
			return gw_error_set(err, EPROTO,
			                    "a run of pages (%" PRIu64 "+%u, kind %u) lies outside of what the channel may "
			                    "carry",
			                    r->first_page, r->n_pages, r->kind);
		if (!length_is_good(r, ram->features))
			return gw_error_set(err, EPROTO, "a packed run of pages (%" PRIu64 "+%u, kind %u, %u bytes) is malformed",
			                    r->first_page, r->n_pages, r->kind, r->packed_bytes);
		next = r->first_page + r->n_pages;
		payload += gw_wire_run_bytes(r);
		packed += r->packed_bytes;
	}
	if (packed > GW_WIRE_PACKED_BATCH_MAX)
		return gw_error_set(err, EPROTO, "a batch of %" PRIu64 " packed bytes is too large", packed);
	if (payload != b->payload_bytes)
		return gw_error_set(err, EPROTO, "a batch's payload does not add up (%" PRIu64 " of %" PRIu64 " bytes)",
		                    payload, b->payload_bytes);
	return 0;
}

int gw_wire_extents_check(struct gw_wire_extent *e, size_t n, const struct gw_wire_ram *ram,
                          struct gw_error *err)
{
	for (size_t i = 0; i < n; i++) {
		e[i].region = le32toh(e[i].region);
		e[i].n_pages = le32toh(e[i].n_pages);
		e[i].first_page = le64toh(e[i].first_page);
		if (e[i].region >= ram->n_regions || e[i].first_page > ram->region_pages[e[i].region] ||
		    e[i].n_pages > ram->region_pages[e[i].region] - e[i].first_page)
			return gw_error_set(err, EPROTO, "the layout names memory that does not exist");
	}
	return 0;
}

int gw_wire_owed_check(struct gw_wire_owed *o, size_t length, const struct gw_wire_ram *ram, struct gw_error *err)
{
	o->region = le32toh(o->region);
	o->n_pages = le32toh(o->n_pages);
	o->first_page = le64toh(o->first_page);
	if (o->region >= ram->n_regions || o->n_pages > GW_WIRE_OWED_PAGES_MAX ||
	    !range_exists(o->first_page, o->n_pages, ram->region_pages[o->region]) ||
	    length != sizeof(*o) + (o->n_pages + 7) / 8 ||
	    (o->n_pages % 8 && ((const uint8_t *)o)[length - 1] >> o->n_pages % 8))
		return gw_error_set(err, EPROTO, "the other side names owed memory that does not exist");
	return 0;
}

int gw_wire_demand_check(struct gw_wire_demand *d, const struct gw_wire_ram *ram, struct gw_error *err)
{
	d->region = le32toh(d->region);
	d->n_pages = le32toh(d->n_pages);
	d->first_page = le64toh(d->first_page);
	if (d->region >= ram->n_regions || d->n_pages > GW_WIRE_DEMAND_PAGES_MAX ||
	    !range_exists(d->first_page, d->n_pages, ram->region_pages[d->region]))
		return gw_error_set(err, EPROTO, "the target demands memory that does not exist");
	return 0;
}

int gw_wire_verify_check(struct gw_wire_verify *v, const struct gw_wire_ram *ram, struct gw_error *err)
{
	v->region = le32toh(v->region);
	v->block_pages = le32toh(v->block_pages);
	v->first_page = le64toh(v->first_page);
	v->n_blocks = le32toh(v->n_blocks);
	if (v->region >= ram->n_regions || v->block_pages == 0 || v->block_pages > GW_WIRE_STRIPE_PAGES ||
	    v->n_blocks == 0 || v->n_blocks > GW_WIRE_DIGESTS_MAX ||
	    v->first_page >= ram->region_pages[v->region] ||
	    (uint64_t)(v->n_blocks - 1) * v->block_pages >= ram->region_pages[v->region] - v->first_page)
		return gw_error_set(err, EPROTO, "the other side asks for digests of memory that does not exist");
	return 0;
}

void gw_wire_id_format(const struct gw_wire_id *id, char text[GW_WIRE_ID_TEXT])
{
	for (int i = 0; i < 16; i++)
		snprintf(text + 2 * i, 3, "%02x", id->bytes[i]);
}

int gw_wire_id_parse(const char *text, struct gw_wire_id *ret)
{
	struct gw_wire_id id;

	if (strlen(text) != 32 || strspn(text, "0123456789abcdef") != 32)
		return -EINVAL;
	for (int i = 0; i < 16; i++) {
		unsigned v;

		if (sscanf(text + 2 * i, "%2x", &v) != 1)
			return -EINVAL;
		id.bytes[i] = (uint8_t)v;
	}
	*ret = id;
	return 0;
}

int gw_wire_id_random(struct gw_wire_id *ret)
{
	return getrandom(ret, sizeof(*ret), 0) == sizeof(*ret) ? 0 : -EIO;
}
