/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The target's data flow: channels -> apply -> RAM file, one thread a channel.
 *
 * A thread touches only pages on its channel's stripes (checked by the codec), so RAM and the touched bitmaps, whose
 * stripes are whole words, need no lock. The page counts are compared with what the source says it sent.
 *
 * Pages of a post-copy (OWED batches) may come on any channel; memory/demand decides page by page whether they are
 * wanted. The channel behind the last one is the demand channel: requests go out on it, and their answers come in.
 */
#include "pipeline/target.h"

#include <endian.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "memory/apply.h"

#define DEMAND_SEND_NS GW_NS_PER_S /* 16 bytes that are not taken for so long: the link is lost */

static_assert(GW_WIRE_STRIPE_PAGES % 64 == 0, "channels would share words of the touched bitmaps");

struct channel {
	/* set before the thread starts */
	struct gw_receiver *receiver;
	unsigned index;
	int fd;
	bool started;
	pthread_t thread;
	/* thread-local */
	struct gw_wire_run runs[GW_WIRE_RUNS_MAX];
	struct iovec iov[GW_WIRE_BATCH_PAGES_MAX + 1];
	uint8_t *scratch; /* NULL without post-copy */
	struct gw_apply_packed packed;
	/* protected by the receiver's demand_lock */
	bool welcomed; /* requests may go out */
	/* protected by the receiver's lock */
	uint32_t passed; /* last barrier seen */
};

struct gw_receiver {
	/* set before the threads start */
	struct gw_wire_ram ram;
	const struct gw_ram *rams;
	struct gw_demand *demand;
	struct gw_wait wait; /* cancel_fd: stop_fd */
	struct channel *channels;
	int stop_fd, notify_fd;
	gw_arrived_fn *arrived; /* or NULL */
	void *arrived_arg;

	/* each channel its own stripes */
	struct gw_bitmap touched[GW_ARRAY_SIZE(((struct gw_wire_ram *)0)->region_pages)];

	atomic_uint_fast64_t pages, zero_pages, wire_bytes;

	pthread_mutex_t demand_lock; /* requests of several threads do not mix */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* protected by lock */
	struct gw_error error; /* first failure */
};

static void note_failure(struct gw_receiver *r, const struct gw_error *why)
{
	GW_LOCKED(&r->lock);
	if (!r->error.code)
		r->error = *why;
	pthread_cond_broadcast(&r->changed);
	if (r->notify_fd >= 0)
		eventfd_write(r->notify_fd, 1);
}

void gw_receiver_break(struct gw_receiver *r, const struct gw_error *why)
{
	note_failure(r, why);
}

static void note_barrier(struct gw_receiver *r, struct channel *c, uint32_t pass)
{
	GW_LOCKED(&r->lock);
	c->passed = pass;
	pthread_cond_broadcast(&r->changed);
}

static void count(struct gw_receiver *r, const struct gw_wire_batch *b, const struct gw_wire_run *runs)
{
	uint64_t pages = 0, zero = 0;

	for (unsigned i = 0; b->kind == GW_WIRE_BATCH_PAGES && i < b->n_runs; i++) {
		pages += runs[i].n_pages;
		if (runs[i].kind == GW_WIRE_RUN_ZERO)
			zero += runs[i].n_pages;
	}
	atomic_fetch_add_explicit(&r->pages, pages, memory_order_relaxed);
	atomic_fetch_add_explicit(&r->zero_pages, zero, memory_order_relaxed);
	atomic_fetch_add_explicit(&r->wire_bytes, sizeof(*b) + b->n_runs * sizeof(*runs) + b->payload_bytes,
	                          memory_order_relaxed);
}

static int io_failed(int e, struct gw_error *err)
{
	if (e == -ETIMEDOUT)
		return gw_error_set(err, e, "no memory arrived from the source for too long");
	return gw_error_set_errno(err, e, "a data channel from the source broke");
}

static int receive_batch(struct gw_receiver *r, struct channel *c, struct gw_error *err)
{
	struct gw_wire_batch b;
	/* With post-copy a channel may have nothing to carry for long. */
	struct gw_wait patient = { .cancel_fd = r->stop_fd, .idle_ns = GW_TIME_NEVER };
	int e = gw_read_full(c->fd, &b, sizeof(b), r->demand ? &patient : &r->wait);

	if (e < 0)
		return io_failed(e, err);
	e = gw_wire_batch_check(&b, &r->ram, err);
	if (e < 0)
		return e;
	if (b.kind == GW_WIRE_BATCH_BARRIER) {
		atomic_fetch_add_explicit(&r->wire_bytes, sizeof(b), memory_order_relaxed);
		note_barrier(r, c, b.pass);
		return 0;
	}
	e = gw_read_full(c->fd, c->runs, b.n_runs * sizeof(c->runs[0]), &r->wait);
	if (e < 0)
		return io_failed(e, err);
	e = gw_wire_runs_check(c->runs, &b, &r->ram, c->index, err);
	if (e < 0)
		return e;
	e = gw_fault(b.kind == GW_WIRE_BATCH_OWED ? "target-owed-arrives" : "target-pass-middle");
	if (e < 0)
		return gw_error_set_errno(err, e, "cannot store guest memory");
	if (b.kind == GW_WIRE_BATCH_OWED) {
		e = gw_demand_receive(r->demand, &b, c->runs, c->iov, c->scratch, c->fd, &r->wait, err);
		if (e == 0)
			count(r, &b, c->runs);
		return e;
	}
	e = gw_apply_batch(&b, c->runs, &r->rams[b.region], &r->touched[b.region], &c->packed, c->fd, &r->wait, err);
	if (e < 0)
		return err->code == e ? e : io_failed(e, err);
	for (unsigned i = 0; i < b.n_runs && r->arrived; i++)
		r->arrived(r->arrived_arg, b.region, c->runs[i].first_page, c->runs[i].n_pages);
	count(r, &b, c->runs);
	return 0;
}

static void *channel_thread(void *arg)
{
	struct channel *c = arg;
	struct gw_error err = GW_ERROR_INIT;

	if (c->index == c->receiver->ram.channels) /* what a vCPU waits for comes here */
		gw_thread_urgent();
	while (receive_batch(c->receiver, c, &err) == 0)
		;
	note_failure(c->receiver, &err);
	return NULL;
}

static unsigned all_channels(const struct gw_receiver *r)
{
	return r->ram.channels + (r->demand ? 1 : 0);
}

int gw_receiver_new(const struct gw_wire_ram *ram, const struct gw_ram *rams, struct gw_demand *demand, gw_time_ns idle_ns,
                    int notify_fd, struct gw_receiver **ret, struct gw_error *err)
{
	struct gw_receiver *r = calloc(1, sizeof(*r));
	bool ok;

	if (!r)
		return gw_error_set(err, ENOMEM, "out of memory");
	r->ram = *ram;
	r->rams = rams;
	r->demand = demand;
	pthread_mutex_init(&r->lock, NULL);
	pthread_mutex_init(&r->demand_lock, NULL);
	gw_cond_init(&r->changed);
	r->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->notify_fd = notify_fd;
	r->wait = (struct gw_wait){ .cancel_fd = r->stop_fd, .idle_ns = idle_ns };
	r->channels = calloc(all_channels(r), sizeof(*r->channels));
	ok = r->channels && r->stop_fd >= 0;
	for (unsigned i = 0; ok && i < ram->n_regions; i++)
		ok = gw_bitmap_init(&r->touched[i], ram->region_pages[i]) == 0;
	if (!ok) {
		gw_receiver_free(r);
		return gw_error_set(err, ENOMEM, "out of memory");
	}
	*ret = r;
	return 0;
}

void gw_receiver_on_arrival(struct gw_receiver *r, gw_arrived_fn *fn, void *arg)
{
	r->arrived = fn;
	r->arrived_arg = arg;
}

int gw_receiver_add_channel(struct gw_receiver *r, unsigned index, int fd, struct gw_error *err)
{
	struct channel *c;
	int e;

	if (index >= all_channels(r) || r->channels[index].started) {
		close(fd);
		return gw_error_set(err, index < all_channels(r) ? EEXIST : EINVAL,
		                    "data channel %u is not one that is awaited", index);
	}
	c = &r->channels[index];
	c->receiver = r;
	c->index = index;
	c->fd = fd;
	c->scratch = r->demand ? malloc(GW_DEMAND_SCRATCH) : NULL;
	e = r->demand && !c->scratch ? -ENOMEM : gw_thread_start(&c->thread, NULL, channel_thread, c);
	if (e < 0) {
		close(fd);
		return gw_error_set_errno(err, e, "cannot start a receiving thread");
	}
	c->started = true;
	return 0;
}

void gw_receiver_welcomed(struct gw_receiver *r, unsigned index)
{
	if (!r->demand || index != r->ram.channels)
		return;
	{
		GW_LOCKED(&r->demand_lock);
		r->channels[index].welcomed = r->channels[index].started;
	}
	gw_demand_want_again(r->demand);
}

void gw_receiver_demand(struct gw_receiver *r, const struct gw_wire_demand *d)
{
	struct gw_wire_demand wire = { .region = htole32(d->region), .n_pages = htole32(d->n_pages),
		                       .first_page = htole64(d->first_page) };
	struct channel *c = &r->channels[r->ram.channels];
	struct gw_wait w = { .cancel_fd = r->stop_fd, .idle_ns = DEMAND_SEND_NS };

	GW_LOCKED(&r->demand_lock);
	if (c->welcomed && gw_write_full(c->fd, &wire, sizeof(wire), &w) < 0)
		shutdown(c->fd, SHUT_RDWR); /* its thread finds out and reports it */
}

static bool all_passed(const struct gw_receiver *r, uint32_t pass)
{
	for (unsigned i = 0; i < r->ram.channels; i++)
		if (r->channels[i].passed < pass)
			return false;
	return true;
}

int gw_receiver_wait(struct gw_receiver *r, uint32_t pass, const struct gw_wait *w, struct gw_error *err)
{
	gw_time_ns deadline = gw_deadline_in(w->idle_ns);

	GW_LOCKED(&r->lock);
	while (!all_passed(r, pass)) {
		if (r->error.code)
			return gw_error_set(err, r->error.code, "%s", r->error.text);
		if (gw_now_ns() >= deadline)
			return gw_error_set(err, ETIMEDOUT, "the last memory pages did not arrive in time");
		(void)gw_cond_wait(&r->changed, &r->lock, deadline);
	}
	return 0;
}

int gw_receiver_error(struct gw_receiver *r, struct gw_error *err)
{
	GW_LOCKED(&r->lock);
	if (!r->error.code)
		return 0;
	return gw_error_set(err, r->error.code, "%s", r->error.text);
}

void gw_receiver_progress(struct gw_receiver *r, struct gw_receiver_stats *ret)
{
	*ret = (struct gw_receiver_stats){
		.pages = atomic_load_explicit(&r->pages, memory_order_relaxed),
		.zero_pages = atomic_load_explicit(&r->zero_pages, memory_order_relaxed),
		.wire_bytes = atomic_load_explicit(&r->wire_bytes, memory_order_relaxed),
	};
}

void gw_receiver_free(struct gw_receiver *r)
{
	if (!r)
		return;
	if (r->stop_fd >= 0)
		eventfd_write(r->stop_fd, 1);
	for (unsigned i = 0; r->channels && i < all_channels(r); i++) {
		if (r->channels[i].started) {
			shutdown(r->channels[i].fd, SHUT_RDWR);
			pthread_join(r->channels[i].thread, NULL);
			close(r->channels[i].fd);
		}
		free(r->channels[i].scratch);
		gw_apply_packed_done(&r->channels[i].packed);
	}
	for (unsigned i = 0; i < r->ram.n_regions; i++)
		gw_bitmap_done(&r->touched[i]);
	if (r->stop_fd >= 0)
		close(r->stop_fd);
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	pthread_mutex_destroy(&r->demand_lock);
	free(r->channels);
	free(r);
}
