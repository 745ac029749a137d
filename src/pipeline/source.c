/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source's data flow: pages of a pass -> encode -> channels, one thread a channel.
 *
 * Each thread walks all regions for the stripes that belong to its channel, so a page always travels on the same
 * connection and its versions stay in order. The caller's thread only starts passes and waits for their end. A long pass
 * goes piece by piece, so that the caller can take note of what was written before a piece is read.
 */
#include "pipeline/source.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "memory/encode.h"
#include "pipeline/meter.h"
#include "pipeline/rate.h"
#include "pipeline/write.h"

struct channel {
	/* set before the thread starts */
	struct gw_sender *sender;
	unsigned index;
	int fd;
	pthread_t thread;
	/* thread-local */
	struct gw_batch batch;
	struct gw_encode_packed packed;
	struct gw_meter meter;
	struct gw_wait wait; /* the sender's, counted by the meter */
	bool no_sendfile;
};

struct gw_sender {
	/* set before the threads start */
	const struct gw_ram *ram;
	unsigned n_regions, n_channels, n_started;
	struct gw_wait wait;
	struct gw_rate rate;
	int (*before_piece)(void *arg, uint32_t region, uint64_t first_page, uint64_t n_pages);
	void *before_arg;
	struct channel *channels;
	struct gw_sender_stats before; /* the caller's: totals when the pass began */

	/* any thread */
	atomic_uint_fast64_t pages, zero_pages, delta_pages, packed_pages[GW_COMPRESS_METHODS], wire_bytes;
	atomic_uint_fast64_t awaited; /* `done` is signalled when `pages` gets there */

	pthread_mutex_t lock;
	pthread_cond_t go, done;
	/* protected by lock */
	uint32_t pass; /* the threads do this one */
	const struct gw_bitmap *bitmaps;
	bool in_pieces;
	unsigned busy; /* threads that have not finished it */
	int error;     /* first failure of any thread */
	bool quit;
	enum gw_compress_method method; /* of the first channel */
	char why[GW_SENDER_WHY_MAX];
};

static void count(struct gw_sender *s, const struct gw_batch *b)
{
	uint64_t before = atomic_fetch_add(&s->pages, b->pages), awaited = atomic_load(&s->awaited);

	if (before < awaited && before + b->pages >= awaited) {
		GW_LOCKED(&s->lock);
		pthread_cond_signal(&s->done);
	}
	atomic_fetch_add_explicit(&s->zero_pages, b->zero_pages, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->wire_bytes, b->wire_bytes, memory_order_relaxed);
	if (b->delta_pages)
		atomic_fetch_add_explicit(&s->delta_pages, b->delta_pages, memory_order_relaxed);
	for (unsigned m = 1; m < GW_COMPRESS_METHODS; m++)
		if (b->packed_pages[m])
			atomic_fetch_add_explicit(&s->packed_pages[m], b->packed_pages[m], memory_order_relaxed);
}

static void show_compression(struct gw_sender *s, const struct channel *c)
{
	GW_LOCKED(&s->lock);
	s->method = c->packed.compress.method;
	memcpy(s->why, c->packed.compress.reason, sizeof(s->why));
}

static int send_batch(struct gw_sender *s, struct channel *c)
{
	struct gw_batch *b = &c->batch;
	int r = gw_rate_take(&s->rate, b->wire_bytes, &c->wait);

	if (r == 0)
		r = gw_batch_write(&c->batch, &s->ram[c->batch.region], c->fd, &c->no_sendfile, &c->wait);
	if (r < 0)
		return r;
	count(s, b);
	if (gw_meter_sent(&c->meter, c->fd, &c->packed, b) && c->index == 0)
		show_compression(s, c);
	return 0;
}

static bool stopped(struct gw_sender *s)
{
	GW_LOCKED(&s->lock);
	return s->quit || s->error;
}

static_assert(GW_SENDER_PIECE_PAGES % GW_WIRE_STRIPE_PAGES == 0, "a stripe would be in two pieces");

static int send_range(struct gw_sender *s, struct channel *c, struct gw_encode_cursor *cursor)
{
	while (gw_encode_packed_next(&c->packed, cursor, &c->batch)) {
		int r = stopped(s) ? -ECANCELED : gw_fault("source-pass-middle");

		if (r == 0)
			r = send_batch(s, c);
		if (r < 0)
			return r;
	}
	return 0;
}

static int send_in_pieces(struct gw_sender *s, struct channel *c, struct gw_encode_cursor *cursor)
{
	uint64_t n_pages = cursor->ram->n_pages;
	size_t first, n;

	while (gw_bitmap_next_run(cursor->pages, cursor->end, n_pages, 1, &first, &n)) {
		int r;

		cursor->at = first / GW_SENDER_PIECE_PAGES * GW_SENDER_PIECE_PAGES;
		cursor->end = GW_MIN(cursor->at + GW_SENDER_PIECE_PAGES, n_pages);
		r = s->before_piece(s->before_arg, cursor->region, cursor->at, cursor->end - cursor->at);
		if (r == 0)
			r = send_range(s, c, cursor);
		if (r < 0)
			return r;
	}
	return 0;
}

static int send_pass(struct gw_sender *s, struct channel *c, uint32_t pass, const struct gw_bitmap *bitmaps, bool in_pieces)
{
	gw_meter_begin(&c->meter);
	for (unsigned i = 0; i < s->n_regions; i++) {
		struct gw_encode_cursor cursor = {
			.ram = &s->ram[i], .pages = &bitmaps[i], .region = i, .pass = pass,
			.channel = c->index, .channels = s->n_channels,
		};
		int r = in_pieces ? send_in_pieces(s, c, &cursor) : send_range(s, c, &cursor);

		if (r < 0)
			return r;
	}
	gw_encode_barrier(&c->batch, pass);
	return send_batch(s, c);
}

static void *channel_thread(void *arg)
{
	struct channel *c = arg;
	struct gw_sender *s = c->sender;
	uint32_t seen = 0;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		const struct gw_bitmap *bitmaps;
		bool in_pieces;
		int r;

		while (s->pass == seen && !s->quit)
			pthread_cond_wait(&s->go, &s->lock);
		if (s->quit)
			break;
		seen = s->pass;
		bitmaps = s->bitmaps;
		in_pieces = s->in_pieces;
		pthread_mutex_unlock(&s->lock);
		r = send_pass(s, c, seen, bitmaps, in_pieces);
		pthread_mutex_lock(&s->lock);
		if (r < 0 && !s->error)
			s->error = r;
		if (--s->busy == 0)
			pthread_cond_signal(&s->done);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static int start_threads(struct gw_sender *s, const struct gw_sender_config *config)
{
	const int *fds = config->channel_fds;
	int r = 0;

	for (; s->n_started < s->n_channels && r == 0; s->n_started += r == 0) {
		struct channel *c = &s->channels[s->n_started];

		c->sender = s;
		c->index = s->n_started;
		c->fd = fds[c->index];
		c->wait = s->wait;
		c->wait.waited_ns = &c->meter.blocked_ns;
		r = gw_encode_packed_init(&c->packed, config->compress, config->delta_cache_bytes, s->n_channels);
		if (gw_meter_no_link(c->fd))
			gw_compress_no_link(&c->packed.compress);
		if (r == 0)
			r = gw_thread_start(&c->thread, NULL, channel_thread, c);
		if (r < 0)
			gw_encode_packed_done(&c->packed);
	}
	show_compression(s, &s->channels[0]);
	return r;
}

int gw_sender_new(const struct gw_sender_config *config, struct gw_sender **ret, struct gw_error *err)
{
	struct gw_sender *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return gw_error_set(err, ENOMEM, "out of memory");
	s->ram = config->ram;
	s->n_regions = config->n_regions;
	s->n_channels = config->n_channels;
	s->wait = config->wait;
	s->before_piece = config->before_piece;
	s->before_arg = config->before_arg;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->go, NULL);
	pthread_cond_init(&s->done, NULL);
	gw_rate_init(&s->rate, config->bandwidth_Bps, config->shared, config->weight);
	s->channels = calloc(s->n_channels, sizeof(*s->channels));
	r = s->channels ? start_threads(s, config) : -ENOMEM;
	if (r < 0) {
		gw_sender_free(s);
		return gw_error_set_errno(err, r, "cannot start the sending threads");
	}
	*ret = s;
	return 0;
}

void gw_sender_begin(struct gw_sender *s, uint32_t pass, const struct gw_bitmap *pages, bool in_pieces)
{
	gw_sender_progress(s, &s->before);
	GW_LOCKED(&s->lock);
	s->bitmaps = pages;
	s->in_pieces = in_pieces && s->before_piece;
	s->pass = pass;
	s->busy = s->n_channels;
	pthread_cond_broadcast(&s->go);
}

void gw_sender_await(struct gw_sender *s, uint64_t pages)
{
	uint64_t awaited = s->before.pages + pages;

	GW_LOCKED(&s->lock);
	atomic_store(&s->awaited, awaited);
	while (s->busy && !s->error && atomic_load(&s->pages) < awaited)
		pthread_cond_wait(&s->done, &s->lock);
	atomic_store(&s->awaited, 0);
}

int gw_sender_finish(struct gw_sender *s, struct gw_sender_stats *ret, struct gw_error *err)
{
	struct gw_sender_stats after;

	{
		GW_LOCKED(&s->lock);
		while (s->busy)
			pthread_cond_wait(&s->done, &s->lock);
		if (s->error == -ECANCELED)
			return gw_error_set(err, s->error, "cancelled");
		if (s->error)
			return gw_error_set_errno(err, s->error, "connection to the other host lost while sending memory");
	}
	gw_sender_progress(s, &after);
	after.pages -= s->before.pages;
	after.zero_pages -= s->before.zero_pages;
	after.wire_bytes -= s->before.wire_bytes;
	after.delta_pages -= s->before.delta_pages;
	for (unsigned m = 0; m < GW_COMPRESS_METHODS; m++)
		after.packed_pages[m] -= s->before.packed_pages[m];
	*ret = after;
	return 0;
}

int gw_sender_pass(struct gw_sender *s, uint32_t pass, const struct gw_bitmap *pages, struct gw_sender_stats *ret,
                   struct gw_error *err)
{
	gw_sender_begin(s, pass, pages, false);
	return gw_sender_finish(s, ret, err);
}

void gw_sender_progress(struct gw_sender *s, struct gw_sender_stats *ret)
{
	*ret = (struct gw_sender_stats){
		.pages = atomic_load_explicit(&s->pages, memory_order_relaxed),
		.zero_pages = atomic_load_explicit(&s->zero_pages, memory_order_relaxed),
		.wire_bytes = atomic_load_explicit(&s->wire_bytes, memory_order_relaxed),
		.delta_pages = atomic_load_explicit(&s->delta_pages, memory_order_relaxed),
	};
	for (unsigned m = 0; m < GW_COMPRESS_METHODS; m++)
		ret->packed_pages[m] = atomic_load_explicit(&s->packed_pages[m], memory_order_relaxed);
}

enum gw_compress_method gw_sender_compression(struct gw_sender *s, char ret_why[GW_SENDER_WHY_MAX])
{
	GW_LOCKED(&s->lock);
	memcpy(ret_why, s->why, sizeof(s->why));
	return s->method;
}

void gw_sender_uncap(struct gw_sender *s)
{
	gw_rate_lift(&s->rate); /* between passes: no thread reads it now */
}

void gw_sender_free(struct gw_sender *s)
{
	if (!s)
		return;
	{
		GW_LOCKED(&s->lock);
		s->quit = true;
		pthread_cond_broadcast(&s->go);
	}
	for (unsigned i = 0; i < s->n_started; i++)
		pthread_join(s->channels[i].thread, NULL);
	for (unsigned i = 0; i < s->n_started; i++)
		gw_encode_packed_done(&s->channels[i].packed);
	gw_rate_done(&s->rate);
	pthread_cond_destroy(&s->go);
	pthread_cond_destroy(&s->done);
	pthread_mutex_destroy(&s->lock);
	free(s->channels);
	free(s);
}
