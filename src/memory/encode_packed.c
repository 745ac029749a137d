/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a bitmap of pages to batches of packed runs, for links that are slower than packing is.
 *
 * The guest writes on while its pages are packed. So a chunk (up to 16 pages in a row) is copied first, and only the copy
 * is looked at: its difference, its packed form and the cache's version are all of the same bytes. A page that changed
 * after the copy is written again in the next pass, like any other.
 */
#include "memory/encode.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"

/* Of a difference longer than this nothing is gained over packing the pages anew. */
#define DELTA_WORTH(len) ((len) / 2)
/* A chunk that saves less than a sixteenth is not worth unpacking. */
#define PACK_WORTH(len) ((len) - (len) / 16)

/* One batch in the making. */
struct making {
	struct gw_encode_packed *e;
	struct gw_encode_cursor *c;
	struct gw_batch *b;
	unsigned n_runs;
	uint64_t content_bytes, payload_bytes;
};

static const struct {
	enum gw_wire_run_kind kind;
	int level;
} methods[GW_COMPRESS_METHODS] = {
	[GW_COMPRESS_LZ4] = { GW_WIRE_RUN_LZ4, 0 },
	[GW_COMPRESS_ZSTD_1] = { GW_WIRE_RUN_ZSTD, 1 },
	[GW_COMPRESS_ZSTD_3] = { GW_WIRE_RUN_ZSTD, 3 },
};

int gw_encode_packed_init(struct gw_encode_packed *e, enum gw_compress_policy policy, uint64_t cache_bytes,
                          uint32_t channels)
{
	*e = (struct gw_encode_packed){ 0 };
	gw_compress_init(&e->compress, policy);
	return gw_delta_init(&e->cache, policy == GW_COMPRESS_NEVER ? 0 : cache_bytes / channels, channels);
}

void gw_encode_packed_done(struct gw_encode_packed *e)
{
	gw_delta_done(&e->cache);
	gw_packer_free(e->packer);
	free(e->copy);
	free(e->old);
	free(e->out);
	*e = (struct gw_encode_packed){ 0 };
}

static bool get_buffers(struct gw_encode_packed *e)
{
	if (e->out)
		return true;
	if (!e->packer && gw_packer_new(&e->packer) < 0)
		return false;
	if (!e->copy)
		e->copy = malloc(GW_PACK_CHUNK_BYTES);
	if (!e->old)
		e->old = malloc(GW_PACK_CHUNK_BYTES);
	if (e->copy && e->old)
		e->out = malloc(GW_PACKED_BATCH_BYTES);
	return e->out != NULL;
}

static void add_run(struct making *m, uint64_t first, uint64_t n, enum gw_wire_run_kind kind, size_t packed_bytes)
{
	m->b->runs[m->n_runs++] = (struct gw_wire_run){
		.first_page = htole64(first),
		.n_pages = htole32((uint32_t)n),
		.kind = htole16((uint16_t)kind),
		.packed_bytes = htole16((uint16_t)packed_bytes),
	};
	m->b->pages += n;
}

static void add_payload(struct making *m, const void *at, size_t len)
{
	struct gw_batch *b = m->b;
	struct iovec *last = &b->iov[b->n_iov - 1];

	if (b->n_iov > 2 && (const uint8_t *)last->iov_base + last->iov_len == at)
		last->iov_len += len;
	else
		b->iov[b->n_iov++] = (struct iovec){ (void *)at, len };
	m->payload_bytes += len;
}

/* The next `len` bytes of e->out are payload. */
static void add_out(struct making *m, size_t len)
{
	add_payload(m, m->e->out + m->e->out_bytes, len);
	m->e->out_bytes += len;
}

static const uint8_t *live(const struct making *m, uint64_t page)
{
	return m->c->ram->base + (page << GW_PAGE_SHIFT);
}

static void copy_chunk(struct making *m, uint64_t first, uint64_t n)
{
	m->e->copy_bytes = n << GW_PAGE_SHIFT;
	memcpy(m->e->copy, live(m, first), m->e->copy_bytes);
}

static uint64_t add_zeros(struct making *m, uint64_t first, uint64_t n)
{
	uint64_t len = 1;

	while (len < n && gw_page_is_zero(live(m, first + len)))
		len++;
	gw_delta_drop(&m->e->cache, m->c->region, first, len);
	add_run(m, first, len, GW_WIRE_RUN_ZERO, 0);
	m->b->zero_pages += len;
	return len;
}

/* e->copy by the present method; false when it is not to be packed or does not get shorter. */
static bool add_packed(struct making *m, uint64_t first, uint64_t n)
{
	struct gw_encode_packed *e = m->e;
	enum gw_compress_method method = e->compress.method;
	size_t len = n << GW_PAGE_SHIFT, packed;

	packed = gw_pack(e->packer, methods[method].kind, methods[method].level, e->copy, len, e->out + e->out_bytes,
	                 PACK_WORTH(len));
	gw_compress_tried(&e->compress, packed > 0);
	e->from_bytes += len;
	e->to_bytes += packed ? packed : len;
	if (!packed)
		return false;
	add_run(m, first, n, methods[method].kind, packed);
	add_out(m, packed);
	m->b->packed_pages[method] += n;
	return true;
}

/* The copy itself: for pages of which the cache has just this version. */
static void add_copy(struct making *m, uint64_t first, uint64_t n)
{
	memcpy(m->e->out + m->e->out_bytes, m->e->copy, n << GW_PAGE_SHIFT);
	add_run(m, first, n, GW_WIRE_RUN_RAW, 0);
	add_out(m, n << GW_PAGE_SHIFT);
}

static bool wants_packing(struct gw_encode_packed *e, size_t len)
{
	if (e->compress.method == GW_COMPRESS_OFF)
		return false;
	if (gw_compress_try(&e->compress))
		return true;
	e->from_bytes += len;
	e->to_bytes += len;
	return false;
}

/* Pages of which the cache has the version that was sent last: the difference, or all of it anew. */
static void add_known(struct making *m, uint64_t first, uint64_t n, uint8_t *const *cached)
{
	struct gw_encode_packed *e = m->e;
	size_t len = n << GW_PAGE_SHIFT, packed;

	copy_chunk(m, first, n);
	for (uint64_t i = 0; i < n; i++) {
		memcpy(e->old + (i << GW_PAGE_SHIFT), cached[i], GW_PAGE_BYTES);
		memcpy(cached[i], e->copy + (i << GW_PAGE_SHIFT), GW_PAGE_BYTES);
	}
	packed = gw_pack_delta(e->packer, e->old, e->copy, len, e->out + e->out_bytes, DELTA_WORTH(len));
	if (packed) {
		add_run(m, first, n, GW_WIRE_RUN_DELTA, packed);
		add_out(m, packed);
		m->b->delta_pages += n;
	} else if (!wants_packing(e, len) || !add_packed(m, first, n)) {
		add_copy(m, first, n);
	}
}

/* Pages that go out for the first time, or that the cache had no room for. In the first pass nothing is put there: most
 * pages are never written again. */
static void add_unknown(struct making *m, uint64_t first, uint64_t n)
{
	struct gw_encode_packed *e = m->e;
	bool remember = e->compress.delta && m->c->pass > 1, remembered = false;
	bool pack = wants_packing(e, n << GW_PAGE_SHIFT);

	if (pack || remember)
		copy_chunk(m, first, n);
	for (uint64_t i = 0; remember && i < n; i++) {
		uint8_t *slot = gw_delta_add(&e->cache, m->c->region, first + i, m->c->pass);

		if (slot)
			memcpy(slot, e->copy + (i << GW_PAGE_SHIFT), GW_PAGE_BYTES);
		remembered |= slot != NULL;
	}
	if (pack && add_packed(m, first, n))
		return;
	if (remembered) {
		add_copy(m, first, n);
		return;
	}
	add_run(m, first, n, GW_WIRE_RUN_RAW, 0);
	add_payload(m, live(m, first), n << GW_PAGE_SHIFT);
}

/* A chunk: pages with contents in a row that are all in the cache, or all not. Returns the pages taken. */
static uint64_t add_chunk(struct making *m, uint64_t first, uint64_t n)
{
	uint8_t *cached[GW_WIRE_PACKED_PAGES_MAX];
	struct gw_encode_packed *e = m->e;
	uint64_t len;

	cached[0] = gw_delta_find(&e->cache, m->c->region, first, m->c->pass);
	for (len = 1; len < n; len++) {
		if (gw_page_is_zero(live(m, first + len)))
			break;
		cached[len] = gw_delta_find(&e->cache, m->c->region, first + len, m->c->pass);
		if (!cached[len] != !cached[0])
			break;
	}
	if (cached[0])
		add_known(m, first, len, cached);
	else
		add_unknown(m, first, len);
	m->content_bytes += len << GW_PAGE_SHIFT;
	return len;
}

static bool has_room(const struct making *m)
{
	return m->n_runs < GW_WIRE_RUNS_MAX && m->content_bytes < GW_PACKED_BATCH_BYTES;
}

static uint64_t add_pages(struct making *m, uint64_t first, uint64_t n)
{
	uint64_t done = 0;

	while (done < n && has_room(m)) {
		uint64_t room = GW_MIN(GW_WIRE_PACKED_PAGES_MAX, (GW_PACKED_BATCH_BYTES - m->content_bytes) >> GW_PAGE_SHIFT);

		if (gw_page_is_zero(live(m, first + done)))
			done += add_zeros(m, first + done, n - done);
		else
			done += add_chunk(m, first + done, GW_MIN(n - done, room));
	}
	return done;
}

bool gw_encode_packed_next(struct gw_encode_packed *e, struct gw_encode_cursor *c, struct gw_batch *b)
{
	struct making m = { .e = e, .c = c, .b = b };
	uint64_t first, n;

	if ((e->compress.method == GW_COMPRESS_OFF && !(e->compress.delta && c->pass > 1)) || !get_buffers(e)) {
		gw_delta_drop_all(&e->cache); /* what goes raw from guest memory is not known here */
		e->copy_bytes = 0;
		return gw_encode_next(c, b);
	}
	gw_batch_begin(b);
	e->out_bytes = 0;
	while (has_room(&m) && gw_encode_find(c, &first, &n))
		c->at = first + add_pages(&m, first, n);
	if (m.n_runs == 0)
		return false;
	gw_batch_finish(b, GW_WIRE_BATCH_PAGES, c->region, c->pass, m.n_runs, m.payload_bytes);
	return true;
}

static gw_time_ns cpu_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec * GW_NS_PER_S + ts.tv_nsec;
}

void gw_encode_sample(struct gw_encode_packed *e, const struct gw_batch *b, enum gw_compress_method m)
{
	size_t len, packed;
	gw_time_ns t0;

	if (b->n_iov < 3 || !get_buffers(e))
		return;
	/* What a packed batch copied last is there yet. */
	len = e->copy_bytes ? e->copy_bytes : GW_MIN(b->iov[b->n_iov - 1].iov_len, GW_PACK_CHUNK_BYTES);
	t0 = cpu_now();
	if (!e->copy_bytes)
		memcpy(e->copy, b->iov[b->n_iov - 1].iov_base, len);
	packed = gw_pack(e->packer, methods[m].kind, methods[m].level, e->copy, len, e->out, PACK_WORTH(len));
	gw_compress_sample(&e->compress, m, len, packed ? packed : len, cpu_now() - t0);
}
