/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source's data flow of a post-copy: demands first, the rest in the background.
 *
 * RAM here is final, so any channel may carry any page, and a page that travels twice arrives equal; the target throws the
 * second one away. `remaining` holds what nobody has begun to send; whoever takes a bit out of it sends that page. A demand
 * is answered even when its page was taken already: it may wait in a background channel behind a lot.
 *
 * The background begins a moment after the guest: what the guest touches first, one page after the other, would each wait
 * behind what the background has put on the link. It goes stripe by stripe, the hottest first; a demand moves its stripe and the one after it to the front,
 * because what was touched is likely to be touched around.
 */
#include "pipeline/push.h"

#include <endian.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "memory/encode.h"
#include "pipeline/rate.h"
#include "pipeline/write.h"

#define UNIT_PAGES 64u        /* sent at once: a fault on one of them waits for all */
#define UNIT_WORDS_MAX 8u     /* a large page of 2 MiB */
#define NEIGHBOUR_PAGES 16u   /* the aligned block around a demanded page goes along */
#define URGENT_MAX 64u        /* stripes that demands moved to the front */
#define FIRST_MOMENTS_NS (60 * GW_NS_PER_MS) /* the guest's demands have the link to themselves */
#define STRIPE_WORDS (GW_WIRE_STRIPE_PAGES / 64u)

struct stripe {
	uint32_t region;
	uint32_t heat;
	uint64_t first_page;
};

struct worker {
	/* set before the thread starts */
	struct gw_push *push;
	int fd;
	pthread_t thread;
	/* thread-local */
	struct gw_batch batch;
	bool no_sendfile;
};

struct gw_push {
	/* set before the threads start */
	struct gw_wire_ram wire_ram;
	const struct gw_ram *ram;
	struct gw_wait wait;
	int notify_fd;
	struct gw_rate rate;
	struct worker *workers; /* n_background, then the one for demands */
	unsigned n_background, n_started;
	struct stripe *stripes; /* hottest first */
	size_t n_stripes;

	_Atomic uint64_t *remaining[GW_ARRAY_SIZE(((struct gw_wire_ram *)0)->region_pages)];
	atomic_uint_fast64_t left, pages, wire_bytes, demands, demanded_pages;
	atomic_bool quit;

	pthread_mutex_t lock;
	pthread_cond_t go;
	/* protected by lock */
	bool background;
	gw_time_ns background_from;
	size_t next_stripe;
	struct stripe urgent[URGENT_MAX]; /* a stack: the newest first */
	unsigned n_urgent;
	struct gw_error error;
};

static uint64_t unit_pages(const struct gw_push *p, uint32_t region)
{
	return GW_MAX(UNIT_PAGES, p->ram[region].page_size_bytes >> GW_PAGE_SHIFT);
}

static bool is_large(const struct gw_push *p, uint32_t region)
{
	return p->ram[region].page_size_bytes > GW_PAGE_BYTES;
}

static void note_failure(struct gw_push *p, int code, const char *what)
{
	GW_LOCKED(&p->lock);
	if (!p->error.code)
		gw_error_set_errno(&p->error, code, "%s", what);
	eventfd_write(p->notify_fd, 1);
}

static int send_batch(struct gw_push *p, struct worker *w)
{
	struct gw_batch *b = &w->batch;
	int r = gw_batch_write(b, &p->ram[b->region], w->fd, &w->no_sendfile, &p->wait);

	if (r < 0)
		return r;
	atomic_fetch_add_explicit(&p->pages, b->pages, memory_order_relaxed);
	atomic_fetch_add_explicit(&p->wire_bytes, b->wire_bytes, memory_order_relaxed);
	return 0;
}

/* Takes the words of one unit; false when all of it was taken before. */
static bool take_unit(struct gw_push *p, uint32_t region, uint64_t first, uint64_t n_pages, uint64_t *words)
{
	uint64_t taken = 0;

	for (uint64_t i = 0; i < n_pages / 64; i++) {
		words[i] = atomic_exchange_explicit(&p->remaining[region][first / 64 + i], 0, memory_order_relaxed);
		taken += (uint64_t)__builtin_popcountll(words[i]);
	}
	atomic_fetch_sub_explicit(&p->left, taken, memory_order_relaxed);
	return taken > 0;
}

/* The background. */

/* The stripe to send next; waits until the background may go. */
static bool next_stripe(struct gw_push *p, struct stripe *ret)
{
	GW_LOCKED(&p->lock);
	while (!p->background && !atomic_load(&p->quit))
		pthread_cond_wait(&p->go, &p->lock);
	while (gw_now_ns() < p->background_from && !atomic_load(&p->quit))
		(void)gw_cond_wait(&p->go, &p->lock, p->background_from);
	if (p->n_urgent)
		*ret = p->urgent[--p->n_urgent];
	else if (p->next_stripe < p->n_stripes)
		*ret = p->stripes[p->next_stripe++];
	else
		return false;
	return !atomic_load(&p->quit);
}

static int send_stripe(struct gw_push *p, struct worker *w, const struct stripe *s)
{
	uint64_t unit = unit_pages(p, s->region), end = s->first_page + GW_WIRE_STRIPE_PAGES;
	uint64_t words[UNIT_WORDS_MAX];
	int r = 0;

	for (uint64_t at = s->first_page; at < end && r == 0 && !atomic_load(&p->quit); at += unit) {
		if (at >= p->wire_ram.region_pages[s->region] || !take_unit(p, s->region, at, unit, words))
			continue;
		gw_encode_owed(&w->batch, &p->ram[s->region], s->region, at, words, (unsigned)(unit / 64),
		               is_large(p, s->region));
		r = gw_rate_take(&p->rate, w->batch.wire_bytes, &p->wait);
		if (r == 0)
			r = send_batch(p, w);
	}
	return r;
}

static void *background_thread(void *arg)
{
	struct worker *w = arg;
	struct gw_push *p = w->push;
	struct stripe s;
	int r = 0;

	while (r == 0 && next_stripe(p, &s))
		r = send_stripe(p, w, &s);
	if (r < 0)
		note_failure(p, r, "connection to the other host lost while memory follows the guest");
	return NULL;
}

/* Demands. */

static void make_urgent(struct gw_push *p, uint32_t region, uint64_t page)
{
	uint64_t first = page / GW_WIRE_STRIPE_PAGES * GW_WIRE_STRIPE_PAGES;

	GW_LOCKED(&p->lock);
	if (p->n_urgent + 2 > URGENT_MAX) { /* the oldest are the least telling */
		memmove(p->urgent, p->urgent + 2, (URGENT_MAX - 2) * sizeof(p->urgent[0]));
		p->n_urgent -= 2;
	}
	if (first + GW_WIRE_STRIPE_PAGES < p->wire_ram.region_pages[region])
		p->urgent[p->n_urgent++] = (struct stripe){ region, 0, first + GW_WIRE_STRIPE_PAGES };
	p->urgent[p->n_urgent++] = (struct stripe){ region, 0, first };
}

/* The demanded page, and of the block around it what nobody has sent. */
static void take_demanded(struct gw_push *p, const struct gw_wire_demand *d, uint64_t *base, uint64_t *words,
                          unsigned *n_words)
{
	uint64_t unit = unit_pages(p, d->region), in_word = d->first_page % 64, block, taken;

	*base = d->first_page / unit * unit;
	*n_words = (unsigned)(unit / 64);
	if (is_large(p, d->region)) {
		(void)take_unit(p, d->region, *base, unit, words);
		memset(words, 0xff, unit / 8);
		return;
	}
	block = ((1ull << NEIGHBOUR_PAGES) - 1) << in_word / NEIGHBOUR_PAGES * NEIGHBOUR_PAGES;
	taken = atomic_fetch_and_explicit(&p->remaining[d->region][*base / 64], ~block, memory_order_relaxed) & block;
	atomic_fetch_sub_explicit(&p->left, (uint64_t)__builtin_popcountll(taken), memory_order_relaxed);
	words[0] = taken | 1ull << in_word;
}

static int serve_demand(struct gw_push *p, struct worker *w, const struct gw_wire_demand *d)
{
	uint64_t words[UNIT_WORDS_MAX], base;
	unsigned n_words;
	int r;

	take_demanded(p, d, &base, words, &n_words);
	gw_encode_owed(&w->batch, &p->ram[d->region], d->region, base, words, n_words, is_large(p, d->region));
	r = send_batch(p, w);
	atomic_fetch_add_explicit(&p->demands, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&p->demanded_pages, w->batch.pages, memory_order_relaxed);
	make_urgent(p, d->region, d->first_page);
	return r;
}

static void *demand_thread(void *arg)
{
	struct worker *w = arg;
	struct gw_push *p = w->push;
	struct gw_wait patient = GW_WAIT_NONE;
	struct gw_error err = GW_ERROR_INIT;
	int r = 0;

	gw_thread_urgent();
	while (r == 0) {
		struct gw_wire_demand d;

		r = gw_read_full(w->fd, &d, sizeof(d), &patient);
		if (r == 0)
			r = gw_wire_demand_check(&d, &p->wire_ram, &err);
		if (r == 0)
			r = serve_demand(p, w, &d);
	}
	if (!atomic_load(&p->quit))
		note_failure(p, r, err.code ? err.text : "connection to the other host lost while it demands memory");
	return NULL;
}

/* Life. */

static int by_heat(const void *a, const void *b)
{
	const struct stripe *x = a, *y = b;

	if (x->heat != y->heat)
		return x->heat > y->heat ? -1 : 1;
	if (x->region != y->region)
		return x->region < y->region ? -1 : 1;
	return x->first_page < y->first_page ? -1 : x->first_page > y->first_page;
}

static int add_region(struct gw_push *p, uint32_t region, const struct gw_push_config *c)
{
	uint64_t n_pages = c->wire_ram->region_pages[region];
	size_t n_words = (n_pages + GW_WIRE_STRIPE_PAGES - 1) / GW_WIRE_STRIPE_PAGES * STRIPE_WORDS;

	p->remaining[region] = calloc(n_words, sizeof(*p->remaining[region]));
	if (!p->remaining[region])
		return -ENOMEM;
	memcpy((void *)p->remaining[region], c->owed[region].words, (n_pages + 63) / 64 * 8);
	for (uint64_t first = 0; first < n_pages; first += GW_WIRE_STRIPE_PAGES) {
		uint32_t owed = 0;

		for (unsigned i = 0; i < STRIPE_WORDS; i++)
			owed += (uint32_t)__builtin_popcountll(p->remaining[region][first / 64 + i]);
		if (owed)
			p->stripes[p->n_stripes++] = (struct stripe){
				region, c->heat ? c->heat(c->heat_arg, region, first) : owed, first };
		atomic_fetch_add(&p->left, owed);
	}
	return 0;
}

static int order_stripes(struct gw_push *p, const struct gw_push_config *c)
{
	size_t n = 0;
	int r = 0;

	for (uint32_t i = 0; i < c->wire_ram->n_regions; i++)
		n += c->wire_ram->region_pages[i] / GW_WIRE_STRIPE_PAGES + 1;
	p->stripes = calloc(n + 1, sizeof(*p->stripes));
	if (!p->stripes)
		return -ENOMEM;
	for (uint32_t i = 0; i < c->wire_ram->n_regions && r == 0; i++)
		r = add_region(p, i, c);
	qsort(p->stripes, p->n_stripes, sizeof(*p->stripes), by_heat);
	return r;
}

static int start_threads(struct gw_push *p, const struct gw_push_config *c)
{
	int r = 0;

	p->n_background = c->n_channels;
	p->workers = calloc(c->n_channels + 1, sizeof(*p->workers));
	if (!p->workers)
		return -ENOMEM;
	for (; p->n_started <= p->n_background && r == 0; p->n_started += r == 0) {
		struct worker *w = &p->workers[p->n_started];

		w->push = p;
		w->fd = c->channel_fds[p->n_started];
		r = gw_thread_start(&w->thread, NULL, p->n_started < p->n_background ? background_thread : demand_thread, w);
	}
	return r;
}

int gw_push_new(const struct gw_push_config *c, struct gw_push **ret, struct gw_error *err)
{
	struct gw_push *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return gw_error_set(err, ENOMEM, "out of memory");
	p->wire_ram = *c->wire_ram;
	p->ram = c->ram;
	p->wait = (struct gw_wait){ .cancel_fd = -1, .idle_ns = c->idle_ns }; /* the end is a shutdown of the channels */
	p->notify_fd = c->notify_fd;
	gw_rate_init(&p->rate, c->bandwidth_Bps, c->shared, c->weight);
	pthread_mutex_init(&p->lock, NULL);
	gw_cond_init(&p->go);
	r = order_stripes(p, c);
	if (r == 0)
		r = start_threads(p, c);
	if (r < 0) {
		gw_push_free(p);
		return gw_error_set_errno(err, r, "cannot start the threads that serve missing memory");
	}
	*ret = p;
	return 0;
}

void gw_push_background(struct gw_push *p)
{
	GW_LOCKED(&p->lock);
	p->background = true;
	p->background_from = gw_deadline_in(FIRST_MOMENTS_NS);
	pthread_cond_broadcast(&p->go);
}

int gw_push_error(struct gw_push *p, struct gw_error *err)
{
	GW_LOCKED(&p->lock);
	return p->error.code ? gw_error_set(err, p->error.code, "%s", p->error.text) : 0;
}

void gw_push_stats(struct gw_push *p, struct gw_push_stats *ret)
{
	*ret = (struct gw_push_stats){
		.demands = atomic_load_explicit(&p->demands, memory_order_relaxed),
		.demanded_pages = atomic_load_explicit(&p->demanded_pages, memory_order_relaxed),
		.pages = atomic_load_explicit(&p->pages, memory_order_relaxed),
		.wire_bytes = atomic_load_explicit(&p->wire_bytes, memory_order_relaxed),
		.left_pages = atomic_load_explicit(&p->left, memory_order_relaxed),
	};
}

void gw_push_free(struct gw_push *p)
{
	if (!p)
		return;
	{
		GW_LOCKED(&p->lock);
		atomic_store(&p->quit, true);
		pthread_cond_broadcast(&p->go);
	}
	for (unsigned i = 0; i < p->n_started; i++)
		shutdown(p->workers[i].fd, SHUT_RDWR);
	for (unsigned i = 0; i < p->n_started; i++)
		pthread_join(p->workers[i].thread, NULL);
	for (unsigned i = 0; i < p->wire_ram.n_regions; i++)
		free((void *)p->remaining[i]);
	gw_rate_done(&p->rate);
	pthread_cond_destroy(&p->go);
	pthread_mutex_destroy(&p->lock);
	free(p->stripes);
	free(p->workers);
	free(p);
}
