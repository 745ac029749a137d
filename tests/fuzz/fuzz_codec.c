/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any bytes as each thing that another host may send: what is accepted must lie inside of what was agreed. */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "replay.h"
#include "wire/codec.h"

static void demand(bool good)
{
	if (!good)
		abort();
}

/* A refusal has a code and words. */
static bool accepted(int r, const struct gw_error *err)
{
	demand(r == 0 || (r < 0 && err->code == r && err->text[0]));
	return r == 0;
}

static void fuzz_hello(const uint8_t *data, size_t size, const struct gw_wire_ram *ram)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_wire_hello h;
	struct gw_wire_welcome w;
	uint32_t text_length;
	bool good;

	if (size < sizeof(h))
		return;
	memcpy(&h, data, sizeof(h));
	good = accepted(gw_wire_hello_check(&h, &w, &err), &err);
	err = GW_ERROR_INIT;
	/* Our own answer must be one that we would understand. */
	demand((gw_wire_welcome_check(&w, &text_length, &err) == 0) == good);
	demand(!good || (h.role >= GW_WIRE_ROLE_CONTROL && h.role <= GW_WIRE_ROLE_RECOVER));
}

static void fuzz_welcome(const uint8_t *data, size_t size, const struct gw_wire_ram *ram)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_wire_welcome w;
	uint32_t text_length = UINT32_MAX;

	if (size < sizeof(w))
		return;
	memcpy(&w, data, sizeof(w));
	accepted(gw_wire_welcome_check(&w, &text_length, &err), &err);
	demand(text_length <= GW_WIRE_TEXT_MAX);
}

static void fuzz_frame(const uint8_t *data, size_t size, const struct gw_wire_ram *ram)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_wire_frame f;

	if (size < sizeof(f))
		return;
	memcpy(&f, data, sizeof(f));
	if (accepted(gw_wire_frame_check(&f, &err), &err))
		demand(f.type > 0 && f.type < GW_WIRE_FRAME_TYPES && f.length <= GW_WIRE_JSON_MAX);
	demand(gw_wire_frame_name(f.type) != NULL);
}

static void demand_runs(const struct gw_wire_run *runs, const struct gw_wire_batch *b, const struct gw_wire_ram *ram,
                        uint32_t channel)
{
	uint64_t payload = 0, packed = 0, next = 0;

	for (unsigned i = 0; i < b->n_runs; i++) {
		uint64_t end = runs[i].first_page + runs[i].n_pages;

		demand(runs[i].n_pages > 0 && runs[i].first_page >= next && end > runs[i].first_page);
		demand(end <= ram->region_pages[b->region]);
		demand(runs[i].kind < GW_WIRE_RUN_KINDS);
		if (gw_wire_run_is_packed(&runs[i])) {
			demand(ram->features & GW_WIRE_FEATURE_PACKED);
			demand(runs[i].n_pages <= GW_WIRE_PACKED_PAGES_MAX && runs[i].packed_bytes > 0);
			demand(runs[i].packed_bytes < runs[i].n_pages * GW_WIRE_PAGE_BYTES);
			packed += runs[i].packed_bytes;
			payload += runs[i].packed_bytes;
		}
		if (b->kind == GW_WIRE_BATCH_OWED) {
			demand(ram->postcopy && !gw_wire_run_is_packed(&runs[i]));
		} else {
			demand(gw_wire_channel_of(runs[i].first_page, ram->channels) == channel);
			demand(gw_wire_channel_of(end - 1, ram->channels) == channel);
		}
		if (runs[i].kind == GW_WIRE_RUN_RAW)
			payload += (uint64_t)runs[i].n_pages * GW_WIRE_PAGE_BYTES;
		next = end;
	}
	demand(payload == b->payload_bytes && packed <= GW_WIRE_PACKED_BATCH_MAX);
}

static void fuzz_batch(const uint8_t *data, size_t size, const struct gw_wire_ram *ram)
{
	struct gw_error err = GW_ERROR_INIT;
	gw_autofree struct gw_wire_run *runs = NULL;
	struct gw_wire_batch b;
	uint32_t channel;

	if (size < sizeof(b) + 1)
		return;
	channel = data[0] % ram->channels;
	memcpy(&b, data + 1, sizeof(b));
	data += 1 + sizeof(b);
	size -= 1 + sizeof(b);
	if (!accepted(gw_wire_batch_check(&b, ram, &err), &err) || b.kind == GW_WIRE_BATCH_BARRIER)
		return;
	demand(b.n_runs > 0 && b.n_runs <= GW_WIRE_RUNS_MAX && b.region < ram->n_regions);
	demand(b.payload_bytes <= (uint64_t)GW_WIRE_BATCH_PAGES_MAX * GW_WIRE_PAGE_BYTES);
	if (size < b.n_runs * sizeof(*runs))
		return;
	runs = malloc(b.n_runs * sizeof(*runs));
	memcpy(runs, data, b.n_runs * sizeof(*runs));
	if (accepted(gw_wire_runs_check(runs, &b, ram, channel, &err), &err))
		demand_runs(runs, &b, ram, channel);
}

static void fuzz_extents(const uint8_t *data, size_t size, const struct gw_wire_ram *ram)
{
	struct gw_error err = GW_ERROR_INIT;
	size_t n = size / sizeof(struct gw_wire_extent);
	gw_autofree struct gw_wire_extent *e = malloc(size + 1);

	memcpy(e, data, n * sizeof(*e));
	if (!accepted(gw_wire_extents_check(e, n, ram, &err), &err))
		return;
	for (size_t i = 0; i < n; i++) {
		uint64_t end = e[i].first_page + e[i].n_pages;

		demand(e[i].region < ram->n_regions && end >= e[i].first_page && end <= ram->region_pages[e[i].region]);
	}
}

static void fuzz_verify(const uint8_t *data, size_t size, const struct gw_wire_ram *ram)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_wire_verify v;

	if (size < sizeof(v))
		return;
	memcpy(&v, data, sizeof(v));
	if (!accepted(gw_wire_verify_check(&v, ram, &err), &err))
		return;
	demand(v.region < ram->n_regions && v.block_pages > 0 && v.n_blocks > 0 && v.n_blocks <= GW_WIRE_DIGESTS_MAX);
	/* Every block begins inside the region. */
	demand(v.first_page + (uint64_t)(v.n_blocks - 1) * v.block_pages < ram->region_pages[v.region]);
}

static void fuzz_owed(const uint8_t *data, size_t size, const struct gw_wire_ram *ram)
{
	struct gw_error err = GW_ERROR_INIT;
	gw_autofree struct gw_wire_owed *o = malloc(size + 1);
	const uint8_t *bits = (uint8_t *)(o + 1);

	if (size <= sizeof(*o)) /* shorter frames are not read */
		return;
	memcpy(o, data, size);
	if (!accepted(gw_wire_owed_check(o, size, ram, &err), &err))
		return;
	demand(o->region < ram->n_regions && o->n_pages > 0);
	for (size_t i = 0; i < (size - sizeof(*o)) * 8; i++)
		if (bits[i / 8] >> i % 8 & 1)
			demand(i < o->n_pages && o->first_page + i < ram->region_pages[o->region]);
}

static void fuzz_demand(const uint8_t *data, size_t size, const struct gw_wire_ram *ram)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_wire_demand d;

	if (size < sizeof(d))
		return;
	memcpy(&d, data, sizeof(d));
	if (!accepted(gw_wire_demand_check(&d, ram, &err), &err))
		return;
	demand(d.region < ram->n_regions && d.n_pages > 0 && d.n_pages <= GW_WIRE_DEMAND_PAGES_MAX);
	demand(d.first_page < ram->region_pages[d.region] && d.n_pages <= ram->region_pages[d.region] - d.first_page);
}

static void fuzz_id(const uint8_t *data, size_t size, const struct gw_wire_ram *ram)
{
	gw_autofree char *text = calloc(1, size + 1);
	char again[GW_WIRE_ID_TEXT];
	struct gw_wire_id id;

	memcpy(text, data, size);
	if (gw_wire_id_parse(text, &id) < 0)
		return;
	gw_wire_id_format(&id, again);
	demand(strcmp(text, again) == 0);
}

/* The first byte says what it is, the second which RAM was agreed upon. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const kinds[])(const uint8_t *, size_t, const struct gw_wire_ram *) = {
		fuzz_hello, fuzz_welcome, fuzz_frame, fuzz_batch, fuzz_extents, fuzz_verify, fuzz_id,
		fuzz_owed, fuzz_demand,
	};
	static const struct gw_wire_ram rams[] = {
		{ .n_regions = 2, .region_pages = { 1u << 20, 1000 }, .channels = 4, .features = GW_WIRE_FEATURE_PACKED },
		{ .n_regions = 1, .region_pages = { 3 }, .channels = GW_WIRE_CHANNELS_MAX },
		{ .n_regions = 8, .region_pages = { 512, 513, 1, 1ull << 34, 5, 6, 7, 1024 }, .channels = 1, .features = GW_WIRE_FEATURE_PACKED },
		{ .n_regions = 1, .region_pages = { GW_WIRE_RAM_MAX_BYTES / GW_WIRE_PAGE_BYTES }, .channels = 3,
		  .postcopy = true },
	};

	if (size >= 2)
		kinds[data[0] % GW_ARRAY_SIZE(kinds)](data + 2, size - 2, &rams[data[1] % GW_ARRAY_SIZE(rams)]);
	return 0;
}
