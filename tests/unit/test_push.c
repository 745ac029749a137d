/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Serving a guest that has left: this process's own memory is the source's, socket pairs are the channels. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <endian.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "pipeline/push.h"

#define STRIPES 8u
#define PAGES (STRIPES * GW_WIRE_STRIPE_PAGES)
#define SIZE (PAGES * 4096ull)
#define CHANNELS_MAX 2u

struct world {
	char path[64];
	struct gw_ram ram;
	struct gw_bitmap owed;
	struct gw_wire_ram wire;
	unsigned channels;
	int near[CHANNELS_MAX + 1], far[CHANNELS_MAX + 1], notify_fd;
	struct gw_push *push;
	unsigned arrived[PAGES]; /* how often */
};

static const struct gw_wait soon = { .cancel_fd = -1, .idle_ns = 10 * GW_NS_PER_S };

/* Every seventh page is zeros. */
static uint64_t first_word(uint64_t page)
{
	return page % 7 ? page | 1ull << 40 : 0;
}

static void world_init(struct world *w, unsigned channels)
{
	struct gw_error err = GW_ERROR_INIT;

	memset(w, 0, sizeof(*w));
	snprintf(w->path, sizeof(w->path), "/dev/shm/gw-test-push-%d", getpid());
	unlink(w->path);
	assert_int_equal(gw_ram_create(w->path, SIZE, 4096, &err), 0);
	assert_int_equal(gw_ram_map(&w->ram, w->path, SIZE, 4096, true, &err), 0);
	for (uint64_t i = 0; i < PAGES; i++)
		if (first_word(i))
			*(uint64_t *)(void *)(w->ram.base + i * 4096) = first_word(i);
	assert_int_equal(gw_bitmap_init(&w->owed, PAGES), 0);
	w->wire = (struct gw_wire_ram){ .n_regions = 1, .region_pages = { PAGES }, .channels = channels, .postcopy = true };
	w->channels = channels;
	w->notify_fd = eventfd(0, EFD_CLOEXEC);
	for (unsigned i = 0; i <= channels; i++) {
		int pair[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
		w->near[i] = pair[0];
		w->far[i] = pair[1];
	}
}

static void start(struct world *w, unsigned (*heat)(void *, uint32_t, uint64_t))
{
	struct gw_push_config c = {
		.channel_fds = w->near, .n_channels = w->channels, .ram = &w->ram, .wire_ram = &w->wire, .owed = &w->owed,
		.heat = heat, .idle_ns = 10 * GW_NS_PER_S, .notify_fd = w->notify_fd,
	};
	struct gw_error err = GW_ERROR_INIT;

	if (gw_push_new(&c, &w->push, &err) < 0)
		fail_msg("%s", gw_error_text(&err));
}

static void world_done(struct world *w)
{
	gw_push_free(w->push);
	for (unsigned i = 0; i <= w->channels; i++) {
		close(w->near[i]);
		close(w->far[i]);
	}
	close(w->notify_fd);
	gw_bitmap_done(&w->owed);
	gw_ram_unmap(&w->ram);
	unlink(w->path);
}

static uint64_t left(struct world *w)
{
	struct gw_push_stats s;

	gw_push_stats(w->push, &s);
	return s.left_pages;
}

static void ask(struct world *w, uint32_t region, uint64_t page, uint32_t n)
{
	struct gw_wire_demand d = { htole32(region), htole32(n), htole64(page) };

	assert_int_equal(gw_write_full(w->far[w->channels], &d, sizeof(d), &soon), 0);
}

static void check_contents(int fd, const struct gw_wire_run *run)
{
	for (uint64_t page = run->first_page; page < run->first_page + run->n_pages; page++) {
		uint64_t words[512] = { 0 };

		if (run->kind == GW_WIRE_RUN_RAW)
			assert_int_equal(gw_read_full(fd, words, sizeof(words), &soon), 0);
		assert_int_equal(words[0], first_word(page));
		assert_int_equal(words[511], 0);
	}
}

/* Reads a batch as a target would; its first page. */
static uint64_t take_batch(struct world *w, unsigned channel, uint64_t *ret_pages)
{
	struct gw_wire_run runs[GW_WIRE_RUNS_MAX];
	struct gw_error err = GW_ERROR_INIT;
	struct gw_wire_batch b;
	uint64_t pages = 0;

	assert_int_equal(gw_read_full(w->far[channel], &b, sizeof(b), &soon), 0);
	if (gw_wire_batch_check(&b, &w->wire, &err) < 0)
		fail_msg("%s", gw_error_text(&err));
	assert_int_equal(b.kind, GW_WIRE_BATCH_OWED);
	assert_int_equal(gw_read_full(w->far[channel], runs, b.n_runs * sizeof(runs[0]), &soon), 0);
	if (gw_wire_runs_check(runs, &b, &w->wire, channel, &err) < 0)
		fail_msg("%s", gw_error_text(&err));
	for (unsigned i = 0; i < b.n_runs; i++) {
		check_contents(w->far[channel], &runs[i]);
		pages += runs[i].n_pages;
		for (uint64_t page = runs[i].first_page; page < runs[i].first_page + runs[i].n_pages; page++)
			w->arrived[page]++;
	}
	if (ret_pages)
		*ret_pages = pages;
	return runs[0].first_page;
}

static bool anything_on(int fd)
{
	return poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0) > 0;
}

static void test_demands_before_the_background(void **state)
{
	struct world w;
	uint64_t pages;

	world_init(&w, 2);
	gw_bitmap_set_range(&w.owed, 0, PAGES);
	start(&w, NULL);
	ask(&w, 0, 1000, 1);
	assert_int_equal(take_batch(&w, 2, &pages), 992); /* the block around it */
	assert_int_equal(pages, 16);
	assert_int_equal(left(&w), PAGES - 16);
	ask(&w, 0, 1001, 1); /* sent, which says nothing about whether it has arrived */
	assert_int_equal(take_batch(&w, 2, &pages), 1001);
	assert_int_equal(pages, 1);
	assert_int_equal(left(&w), PAGES - 16);
	assert_false(anything_on(w.far[0]) || anything_on(w.far[1]));
	world_done(&w);
}

static void test_only_owed_neighbours(void **state)
{
	struct world w;
	uint64_t pages;

	world_init(&w, 1);
	gw_bitmap_set_range(&w.owed, 65, 3);
	gw_bitmap_set_range(&w.owed, 80, 1);
	start(&w, NULL);
	ask(&w, 0, 66, 1);
	assert_int_equal(take_batch(&w, 1, &pages), 65);
	assert_int_equal(pages, 3);
	assert_int_equal(left(&w), 1);
	world_done(&w);
}

static void test_every_owed_page_is_sent(void **state)
{
	uint64_t seed = 88172645463325252ull;
	struct pollfd p[3];
	struct world w;

	world_init(&w, 2);
	for (unsigned i = 0; i < 40; i++) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		gw_bitmap_set_range(&w.owed, (seed >> 33) % (PAGES - 100), 1 + (seed >> 20) % 90);
	}
	gw_bitmap_set_range(&w.owed, PAGES - 1, 1);
	start(&w, NULL);
	for (unsigned i = 0; i < 3; i++)
		p[i] = (struct pollfd){ .fd = w.far[i], .events = POLLIN };
	ask(&w, 0, 100, 1); /* among the rest */
	gw_push_background(w.push);
	for (bool complete = false; !complete;) {
		assert_true(poll(p, 3, 10000) > 0);
		for (unsigned i = 0; i < 3; i++)
			if (p[i].revents)
				take_batch(&w, i, NULL);
		complete = w.arrived[100] > 0;
		for (unsigned page = 0; page < PAGES; page++)
			complete &= w.arrived[page] > 0 || !gw_bitmap_test(&w.owed, page);
	}
	assert_int_equal(left(&w), 0);
	for (unsigned page = 0; page < PAGES; page++)
		if (page != 100) /* may come twice */
			assert_int_equal(w.arrived[page], gw_bitmap_test(&w.owed, page) ? 1 : 0);
	assert_int_equal(gw_push_error(w.push, NULL), 0);
	world_done(&w);
}

static unsigned heat_of(void *arg, uint32_t region, uint64_t first)
{
	static const unsigned heats[STRIPES] = { 3, 9, 1, 7, 0, 0, 8, 2 };

	return heats[first / GW_WIRE_STRIPE_PAGES];
}

static void assert_order(struct world *w, const uint64_t *stripes, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		for (uint64_t at = 0, pages; at < GW_WIRE_STRIPE_PAGES; at += pages) {
			uint64_t first = take_batch(w, 0, &pages);

			assert_int_equal(first / GW_WIRE_STRIPE_PAGES, stripes[i]);
		}
}

static void test_the_hottest_first(void **state)
{
	static const uint64_t order[] = { 1, 6, 3, 0, 7, 2, 4, 5 };
	struct world w;

	world_init(&w, 1);
	gw_bitmap_set_range(&w.owed, 0, PAGES);
	start(&w, heat_of);
	gw_push_background(w.push);
	assert_order(&w, order, STRIPES);
	world_done(&w);
}

static void test_a_demand_moves_its_stripe_to_the_front(void **state)
{
	static const uint64_t order[] = { 5, 1, 6, 3, 0, 7, 2 };
	struct gw_push_stats s = { 0 };
	struct world w;
	uint64_t pages;

	world_init(&w, 1);
	gw_bitmap_set_range(&w.owed, 0, PAGES);
	start(&w, heat_of);
	ask(&w, 0, 4 * GW_WIRE_STRIPE_PAGES, 1);
	take_batch(&w, 1, &pages);
	while (s.demands == 0) /* counted just before its stripe is moved; the next demand is read after that */
		gw_push_stats(w.push, &s);
	ask(&w, 0, 4 * GW_WIRE_STRIPE_PAGES, 1);
	take_batch(&w, 1, NULL);
	gw_push_background(w.push);
	/* What is left of the stripe that was touched, then the one after it. */
	for (uint64_t at = pages; at < GW_WIRE_STRIPE_PAGES; at += pages)
		assert_int_equal(take_batch(&w, 0, &pages) / GW_WIRE_STRIPE_PAGES, 4);
	assert_order(&w, order, GW_ARRAY_SIZE(order));
	for (gw_time_ns until = gw_now_ns() + 10 * GW_NS_PER_S; s.pages < PAGES + 1 && gw_now_ns() < until;)
		gw_push_stats(w.push, &s); /* counted after they were sent */
	assert_int_equal(s.demands, 2);
	assert_int_equal(s.demanded_pages, 17);
	assert_int_equal(s.pages, PAGES + 1);
	world_done(&w);
}

static void test_impossible_demands_are_refused(void **state)
{
	static const struct {
		uint32_t region;
		uint64_t page;
		uint32_t n;
	} bad[] = { { 1, 0, 1 }, { 0, PAGES, 1 }, { 0, PAGES - 1, 2 }, { 0, UINT64_MAX, 2 }, { 0, 0, 0 }, { 0, 0, 513 } };

	for (unsigned i = 0; i < GW_ARRAY_SIZE(bad); i++) {
		struct gw_error err = GW_ERROR_INIT;
		struct world w;
		eventfd_t n;

		world_init(&w, 1);
		gw_bitmap_set_range(&w.owed, 0, PAGES);
		start(&w, NULL);
		ask(&w, bad[i].region, bad[i].page, bad[i].n);
		assert_int_equal(eventfd_read(w.notify_fd, &n), 0); /* waits until it is noticed */
		assert_int_equal(gw_push_error(w.push, &err), -EPROTO);
		assert_non_null(strstr(err.text, "does not exist"));
		assert_false(anything_on(w.far[0]) || anything_on(w.far[1]));
		world_done(&w);
	}
}

static void test_a_lost_channel_is_noticed(void **state)
{
	for (unsigned channel = 0; channel < 2; channel++) {
		struct world w;
		eventfd_t n;

		world_init(&w, 1);
		gw_bitmap_set_range(&w.owed, 0, PAGES);
		start(&w, NULL);
		shutdown(w.far[channel], SHUT_RDWR);
		gw_push_background(w.push);
		assert_int_equal(eventfd_read(w.notify_fd, &n), 0);
		assert_true(gw_push_error(w.push, NULL) < 0);
		world_done(&w);
	}
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N7 demands are answered before the background, with their neighbours", test_demands_before_the_background),
		TEST("N7 neighbours that are not owed stay", test_only_owed_neighbours),
		TEST("N7 every owed page is sent, and no other", test_every_owed_page_is_sent),
		TEST("N7 the hottest stripes go first", test_the_hottest_first),
		TEST("N7 a demand moves its stripe to the front", test_a_demand_moves_its_stripe_to_the_front),
		TEST("N7 demands for memory that does not exist are refused", test_impossible_demands_are_refused),
		TEST("N7 a lost channel is noticed", test_a_lost_channel_is_noticed),
	};

	return cmocka_run_group_tests_name("push", tests, NULL, NULL);
}
