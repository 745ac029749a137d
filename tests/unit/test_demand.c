/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fetching missing pages on this process's own memory: one mapping of a file is the VMM's, where readers wait; the other
 * is the daemon's, where pages arrive. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "memory/demand_internal.h"
#include "memory/huge.h"
#include "memory/kernel_compat.h"

#define SIZE (16ull << 20)
#define PAGES (SIZE / 4096)
#define WORDS 512
#define SOON_NS (20 * GW_NS_PER_S)
#define STALE 0x1111111111111111ull
#define FINAL 0x2222222222222222ull

struct world {
	char ram_path[64], states_path[64];
	uint64_t *vmm; /* registered, at a 2 MiB boundary */
	struct gw_ram ram;
	struct gw_demand *demand;
	int kept_fd; /* the copy that the VMM's process keeps */

	pthread_mutex_t lock;
	/* protected by lock */
	uint64_t wanted[64]; /* pages that were asked for, the newest last */
	unsigned n_wanted, n_complete;
};

struct reader {
	struct world *world;
	uint64_t page;
	uint64_t seen[WORDS];
	atomic_bool done;
	pthread_t thread;
};

static void on_want(void *arg, const struct gw_wire_demand *d)
{
	struct world *w = arg;

	GW_LOCKED(&w->lock);
	w->wanted[w->n_wanted++ % GW_ARRAY_SIZE(w->wanted)] = d->first_page;
}

static void on_complete(void *arg)
{
	struct world *w = arg;

	GW_LOCKED(&w->lock);
	w->n_complete++;
}

static unsigned n_wanted(struct world *w)
{
	GW_LOCKED(&w->lock);
	return w->n_wanted;
}

static unsigned n_complete(struct world *w)
{
	GW_LOCKED(&w->lock);
	return w->n_complete;
}

#define WAIT_FOR(condition)                                                          \
	do {                                                                         \
		gw_time_ns until_ = gw_now_ns() + SOON_NS;                           \
		while (!(condition)) {                                               \
			if (gw_now_ns() > until_)                                    \
				fail_msg("line %d: never: %s", __LINE__, #condition); \
			sched_yield();                                               \
		}                                                                    \
	} while (0)

static struct gw_demand_stats stats_of(struct world *w)
{
	struct gw_demand_stats s;

	gw_demand_stats(w->demand, &s);
	return s;
}

static void open_demand(struct world *w, bool fresh)
{
	struct gw_demand_region region = { &w->ram, (uintptr_t)w->vmm };
	struct gw_demand_config c = {
		.uffd = fcntl(w->kept_fd, F_DUPFD_CLOEXEC, 3), .fresh = fresh, .regions = &region, .n_regions = 1,
		.states_path = w->states_path, .want = on_want, .complete = on_complete, .arg = w,
	};
	struct gw_error err = GW_ERROR_INIT;

	if (gw_demand_new(&c, &w->demand, &err) < 0)
		fail_msg("%s", gw_error_text(&err));
}

/* Before gw_demand_arm: the file has stale contents of pages [0, n_stale), the rest of it are holes. */
static void world_init(struct world *w, uint64_t page_size_bytes, uint64_t n_stale)
{
	struct gw_error err = GW_ERROR_INIT;
	uint8_t *room;

	memset(w, 0, sizeof(*w));
	pthread_mutex_init(&w->lock, NULL);
	snprintf(w->ram_path, sizeof(w->ram_path), "/dev/shm/gw-test-demand-%d", getpid());
	snprintf(w->states_path, sizeof(w->states_path), "/dev/shm/gw-test-states-%d", getpid());
	unlink(w->ram_path);
	unlink(w->states_path);
	assert_int_equal(gw_ram_create(w->ram_path, SIZE, 4096, &err), 0);
	assert_int_equal(gw_ram_map(&w->ram, w->ram_path, SIZE, 4096, true, &err), 0);
	w->ram.page_size_bytes = page_size_bytes; /* as far as the states of pages are concerned */
	room = mmap(NULL, SIZE + GW_HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(room, MAP_FAILED);
	room += -(uintptr_t)room % GW_HUGE_BYTES;
	w->vmm = mmap(room, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, w->ram.fd, 0);
	assert_ptr_equal(w->vmm, room);
	for (uint64_t i = 0; i < n_stale * WORDS; i++)
		((uint64_t *)(void *)w->ram.base)[i] = STALE;
	w->kept_fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	assert_true(w->kept_fd >= 0);
	open_demand(w, true);
}

static void arm_and_start(struct world *w)
{
	struct gw_error err = GW_ERROR_INIT;

	if (gw_demand_arm(w->demand, &err) < 0 || gw_demand_start(w->demand, &err) < 0)
		fail_msg("%s", gw_error_text(&err));
}

static void world_done(struct world *w)
{
	close(w->kept_fd);
	gw_demand_free(w->demand);
	munmap(w->vmm, SIZE);
	gw_ram_unmap(&w->ram);
	unlink(w->ram_path);
	unlink(w->states_path);
	pthread_mutex_destroy(&w->lock);
}

/* Readers: threads of the VMM. */

static void *read_page(void *arg)
{
	struct reader *r = arg;

	for (unsigned i = 0; i < WORDS; i++)
		r->seen[i] = __atomic_load_n(&r->world->vmm[r->page * WORDS + i], __ATOMIC_RELAXED);
	atomic_store(&r->done, true);
	return NULL;
}

static void begin_reading(struct reader *r, struct world *w, uint64_t page)
{
	memset(r, 0, sizeof(*r));
	r->world = w;
	r->page = page;
	assert_int_equal(pthread_create(&r->thread, NULL, read_page, r), 0);
}

static void assert_saw(struct reader *r, uint64_t word)
{
	WAIT_FOR(atomic_load(&r->done));
	pthread_join(r->thread, NULL);
	for (unsigned i = 0; i < WORDS; i++)
		if (r->seen[i] != word)
			fail_msg("page %lu, word %u: %lx", (unsigned long)r->page, i, (unsigned long)r->seen[i]);
}

/* Pages that arrive. */

/* Runs of ascending pages; the payload is what the socket gives. */
static int receive(struct world *w, const struct gw_wire_run *runs, unsigned n, int fd)
{
	struct gw_wire_batch b = { .kind = GW_WIRE_BATCH_OWED, .n_runs = (uint16_t)n };
	struct gw_wait wait = { .cancel_fd = -1, .idle_ns = SOON_NS };
	gw_autofree struct iovec *iov = calloc(GW_WIRE_BATCH_PAGES_MAX + 1, sizeof(*iov));
	gw_autofree uint8_t *scratch = malloc(GW_DEMAND_SCRATCH);
	struct gw_error err = GW_ERROR_INIT;

	return gw_demand_receive(w->demand, &b, runs, iov, scratch, fd, &wait, &err);
}

static void make_pair(int pair[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
}

static void fill_page(uint64_t page[WORDS], uint64_t word)
{
	for (unsigned i = 0; i < WORDS; i++)
		page[i] = word;
}

static int deliver(struct world *w, uint64_t page, uint64_t word)
{
	struct gw_wire_run run = { .first_page = page, .n_pages = 1, .kind = GW_WIRE_RUN_RAW };
	uint64_t contents[WORDS];
	int pair[2], r;

	make_pair(pair);
	fill_page(contents, word);
	assert_int_equal(write(pair[0], contents, sizeof(contents)), sizeof(contents));
	r = receive(w, &run, 1, pair[1]);
	close(pair[0]);
	close(pair[1]);
	return r;
}

static int deliver_zeros(struct world *w, uint64_t first, uint32_t n)
{
	struct gw_wire_run run = { .first_page = first, .n_pages = n, .kind = GW_WIRE_RUN_ZERO };

	return receive(w, &run, 1, -1);
}

/* Another thread receives a page whose payload comes piece by piece. */
struct delivery {
	struct world *world;
	struct gw_wire_run run;
	int pair[2];
	int result;
	pthread_t thread;
};

static void *deliver_slowly(void *arg)
{
	struct delivery *d = arg;

	d->result = receive(d->world, &d->run, 1, d->pair[1]);
	return NULL;
}

static void begin_delivery(struct delivery *d, struct world *w, uint64_t page, uint32_t n, uint64_t word)
{
	uint64_t contents[WORDS], first = STALE;

	fill_page(contents, word);
	*d = (struct delivery){ .world = w, .run = { .first_page = page, .n_pages = n, .kind = GW_WIRE_RUN_RAW } };
	make_pair(d->pair);
	assert_int_equal(pthread_create(&d->thread, NULL, deliver_slowly, d), 0);
	assert_int_equal(write(d->pair[0], contents, sizeof(contents) / 2), sizeof(contents) / 2);
	WAIT_FOR(pread(w->ram.fd, &first, sizeof(first), (off_t)page * 4096) == sizeof(first) && first == word); /* half is there */
}

static int end_delivery(struct delivery *d, uint64_t word, bool whole)
{
	uint64_t contents[WORDS];

	fill_page(contents, word);
	if (whole)
		assert_int_equal(write(d->pair[0], contents, sizeof(contents) / 2), sizeof(contents) / 2);
	close(d->pair[0]);
	pthread_join(d->thread, NULL);
	close(d->pair[1]);
	return d->result;
}

/* Tests. */

static void test_only_final_contents_are_seen(void **state)
{
	struct world w;
	struct reader early, late, beside;
	struct delivery d;

	world_init(&w, 4096, 100);
	gw_demand_owe(w.demand, 0, 7, 1);
	gw_demand_owe(w.demand, 0, 7, 1); /* named twice, counted once */
	assert_int_equal(gw_demand_left(w.demand), 1);
	arm_and_start(&w);
	begin_reading(&early, &w, 7);
	WAIT_FOR(n_wanted(&w) == 1);
	assert_int_equal(w.wanted[0], 7);
	begin_delivery(&d, &w, 7, 1, FINAL);
	begin_reading(&late, &w, 7);
	WAIT_FOR(stats_of(&w).faults == 2);
	begin_reading(&beside, &w, 8); /* complete, and not in the page tables */
	assert_saw(&beside, STALE);
	assert_false(atomic_load(&early.done));
	assert_false(atomic_load(&late.done));
	assert_int_equal(n_complete(&w), 0);
	assert_int_equal(end_delivery(&d, FINAL, true), 0);
	assert_saw(&early, FINAL);
	assert_saw(&late, FINAL);
	assert_int_equal(gw_demand_left(w.demand), 0);
	assert_int_equal(n_complete(&w), 1);
	assert_int_equal(stats_of(&w).demanded, 1);
	assert_true(stats_of(&w).max_ns > 0);
	world_done(&w);
}

static void test_stale_pages_leave_the_page_tables(void **state)
{
	uint64_t page = 0, hva, len;
	struct reader r;
	struct world w;

	world_init(&w, 4096, 2000);
	assert_int_equal(w.vmm[600 * WORDS], STALE); /* mapped by the VMM, as populating did */
	assert_int_equal(w.vmm[1100 * WORDS], STALE);
	assert_int_equal(gw_demand_arm(w.demand, NULL), 0);
	gw_demand_owe(w.demand, 0, 600, 1);
	assert_true(gw_demand_next_stale(w.demand, 0, &page, &hva, &len));
	assert_int_equal(hva, (uintptr_t)w.vmm + GW_HUGE_BYTES); /* whole entries of 2 MiB, and no others */
	assert_int_equal(len, GW_HUGE_BYTES);
	assert_false(gw_demand_next_stale(w.demand, 0, &page, &hva, &len));
	assert_int_equal(madvise((uint8_t *)w.vmm + GW_HUGE_BYTES, GW_HUGE_BYTES, MADV_DONTNEED), 0);
	assert_int_equal(gw_demand_start(w.demand, NULL), 0);
	begin_reading(&r, &w, 600);
	WAIT_FOR(n_wanted(&w) == 1);
	gw_demand_map_complete(w.demand); /* its neighbours are whole, it is not */
	assert_int_equal(w.vmm[601 * WORDS], STALE);
	assert_false(atomic_load(&r.done));
	assert_int_equal(deliver(&w, 600, FINAL), 0);
	assert_saw(&r, FINAL);
	assert_int_equal(w.vmm[1100 * WORDS], STALE);
	assert_int_equal(stats_of(&w).faults, 1);
	world_done(&w);
}

static void test_zero_runs(void **state)
{
	struct reader r[2];
	struct world w;

	world_init(&w, 4096, 64);
	gw_demand_owe(w.demand, 0, 10, 20);
	arm_and_start(&w);
	begin_reading(&r[0], &w, 12);
	begin_reading(&r[1], &w, 29);
	WAIT_FOR(n_wanted(&w) == 2);
	assert_int_equal(deliver_zeros(&w, 0, 64), 0); /* more than what is owed */
	assert_saw(&r[0], 0);
	assert_saw(&r[1], 0);
	for (unsigned page = 0; page < 64; page++)
		assert_int_equal(w.vmm[page * WORDS + 5], page >= 10 && page < 30 ? 0 : STALE);
	assert_int_equal(gw_demand_left(w.demand), 0);
	assert_int_equal(stats_of(&w).thrown_away_pages, 44);
	world_done(&w);
}

static void test_a_complete_page_is_never_overwritten(void **state)
{
	struct gw_wire_run runs[2] = { { .first_page = 1, .n_pages = 3, .kind = GW_WIRE_RUN_RAW } };
	uint64_t contents[3][WORDS];
	struct world w;
	int pair[2];

	world_init(&w, 4096, 64);
	gw_demand_owe(w.demand, 0, 1, 3);
	arm_and_start(&w);
	assert_int_equal(deliver(&w, 2, FINAL), 0);
	w.vmm[2 * WORDS] = 0x33; /* the guest's own */
	assert_int_equal(deliver(&w, 2, 0x44), 0);
	assert_int_equal(deliver_zeros(&w, 2, 1), 0);
	assert_int_equal(w.vmm[2 * WORDS], 0x33);
	assert_int_equal(w.vmm[2 * WORDS + 1], FINAL);
	/* Between two that lack: its part of the payload goes nowhere, theirs to their places. */
	make_pair(pair);
	for (unsigned i = 0; i < 3; i++)
		fill_page(contents[i], 0x50 + i);
	assert_int_equal(write(pair[0], contents, sizeof(contents)), sizeof(contents));
	assert_int_equal(receive(&w, runs, 1, pair[1]), 0);
	assert_int_equal(w.vmm[1 * WORDS + 511], 0x50);
	assert_int_equal(w.vmm[2 * WORDS], 0x33);
	assert_int_equal(w.vmm[3 * WORDS + 511], 0x52);
	assert_int_equal(stats_of(&w).thrown_away_pages, 3);
	assert_int_equal(n_complete(&w), 1);
	close(pair[0]);
	close(pair[1]);
	world_done(&w);
}

static void test_a_broken_read_gives_pages_back(void **state)
{
	struct reader early, late;
	struct delivery d;
	struct world w;

	world_init(&w, 4096, 64);
	gw_demand_owe(w.demand, 0, 20, 2);
	arm_and_start(&w);
	begin_reading(&early, &w, 20);
	WAIT_FOR(n_wanted(&w) == 1);
	begin_delivery(&d, &w, 20, 2, 0x77);
	begin_reading(&late, &w, 21); /* touched while it is being filled: nobody asked for it */
	WAIT_FOR(stats_of(&w).faults == 2);
	assert_true(end_delivery(&d, 0x77, false) < 0);
	assert_int_equal(gw_demand_left(w.demand), 2);
	assert_int_equal(n_wanted(&w), 1);
	gw_demand_want_again(w.demand);
	assert_int_equal(n_wanted(&w), 3);
	assert_int_equal(w.wanted[1], 20);
	assert_int_equal(w.wanted[2], 21);
	assert_false(atomic_load(&early.done));
	assert_false(atomic_load(&late.done));
	assert_int_equal(deliver(&w, 20, FINAL), 0);
	assert_int_equal(deliver(&w, 21, FINAL), 0);
	assert_saw(&early, FINAL);
	assert_saw(&late, FINAL);
	world_done(&w);
}

static void test_a_restarted_daemon_goes_on(void **state)
{
	struct reader asked, filled, complete;
	struct world w;

	world_init(&w, 4096, 64);
	gw_demand_owe(w.demand, 0, 30, 4);
	arm_and_start(&w);
	assert_false(gw_demand_was_loaded(w.states_path));
	gw_demand_mark_loaded(w.demand);
	begin_reading(&asked, &w, 30);
	WAIT_FOR(n_wanted(&w) == 1);
	assert_int_equal(deliver(&w, 33, FINAL), 0);
	atomic_store(&w.demand->regions[0].states[31], GW_PAGE_FILLING); /* it dies while it fills */
	gw_demand_free(w.demand);
	begin_reading(&filled, &w, 31);   /* waits for nobody at all */
	begin_reading(&complete, &w, 40); /* never owed, and nobody is there to map it */
	assert_true(gw_demand_was_loaded(w.states_path));
	open_demand(&w, false);
	assert_int_equal(gw_demand_left(w.demand), 3);
	assert_true(gw_demand_is_owed(w.demand, 0, 31));
	assert_false(gw_demand_is_owed(w.demand, 0, 33));
	assert_int_equal(atomic_load(&w.demand->regions[0].states[31]), GW_PAGE_WANTED);
	assert_int_equal(gw_demand_start(w.demand, NULL), 0);
	assert_saw(&complete, STALE);
	gw_demand_want_again(w.demand);
	assert_int_equal(n_wanted(&w), 3);
	assert_int_equal(w.wanted[1], 30);
	assert_int_equal(w.wanted[2], 31);
	assert_false(atomic_load(&asked.done));
	assert_false(atomic_load(&filled.done));
	for (unsigned page = 30; page < 33; page++)
		assert_int_equal(deliver(&w, page, FINAL), 0);
	assert_saw(&asked, FINAL);
	assert_saw(&filled, FINAL);
	assert_int_equal(n_complete(&w), 1);
	world_done(&w);
}

static void test_a_states_file_of_other_memory_is_refused(void **state)
{
	struct gw_demand_region region;
	struct gw_demand_config c = { .fresh = false, .regions = &region, .n_regions = 1 };
	struct gw_demand *d = NULL;
	struct gw_ram half;
	struct world w;

	world_init(&w, 4096, 0);
	half = w.ram;
	half.n_pages /= 2;
	half.size_bytes /= 2;
	region = (struct gw_demand_region){ &half, (uintptr_t)w.vmm };
	c.uffd = fcntl(w.kept_fd, F_DUPFD_CLOEXEC, 3);
	c.states_path = w.states_path;
	assert_int_equal(gw_demand_new(&c, &d, NULL), -EINVAL);
	world_done(&w);
}

static void test_holes_are_zeros(void **state)
{
	struct reader r;
	struct world w;

	world_init(&w, 4096, 64);
	gw_demand_owe(w.demand, 0, 0, 1);
	arm_and_start(&w);
	begin_reading(&r, &w, 3000);
	assert_saw(&r, 0);
	w.vmm[3001 * WORDS] = 5; /* and can be written to */
	assert_int_equal(w.vmm[3001 * WORDS + 1], 0);
	assert_int_equal(n_wanted(&w), 0);
	assert_int_equal(gw_demand_left(w.demand), 1);
	world_done(&w);
}

static void test_parts_of_large_pages_are_refused(void **state)
{
	struct gw_wire_run part = { .first_page = 512, .n_pages = 256, .kind = GW_WIRE_RUN_RAW };
	struct world w;

	/* The states alone need no large page, and no kernel that has any: it is never armed. */
	world_init(&w, GW_HUGE_BYTES, 0);
	gw_demand_owe(w.demand, 0, 700, 1); /* all of the page that it is a part of */
	assert_int_equal(gw_demand_left(w.demand), 512);
	assert_true(gw_demand_is_owed(w.demand, 0, 512));
	assert_true(gw_demand_is_owed(w.demand, 0, 1023));
	assert_false(gw_demand_is_owed(w.demand, 0, 1024));
	assert_int_equal(gw_demand_start(w.demand, NULL), 0);
	assert_int_equal(receive(&w, &part, 1, -1), -EPROTO);
	part.first_page = 513;
	part.n_pages = 512;
	assert_int_equal(receive(&w, &part, 1, -1), -EPROTO);
	part.kind = GW_WIRE_RUN_ZERO;
	assert_int_equal(receive(&w, &part, 1, -1), -EPROTO);
	assert_int_equal(gw_demand_left(w.demand), 512);
	assert_int_equal(deliver_zeros(&w, 512, 512), 0);
	assert_int_equal(gw_demand_left(w.demand), 0);
	assert_int_equal(deliver_zeros(&w, 512, 512), 0);
	assert_int_equal(stats_of(&w).thrown_away_pages, 512);
	world_done(&w);
}

static void *receive_before_the_start(void *arg)
{
	return (void *)(intptr_t)deliver_zeros(arg, 3, 1);
}

static void test_nothing_is_filled_before_the_start(void **state)
{
	pthread_t thread;
	struct world w;
	void *r;

	world_init(&w, 4096, 64);
	gw_demand_owe(w.demand, 0, 3, 1);
	assert_int_equal(gw_demand_arm(w.demand, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, receive_before_the_start, &w), 0);
	gw_demand_cancel(w.demand);
	pthread_join(thread, &r);
	assert_int_equal((intptr_t)r, -ECANCELED);
	assert_int_equal(gw_demand_left(w.demand), 1);
	assert_int_equal(((uint64_t *)(void *)w.ram.base)[3 * WORDS], STALE);
	world_done(&w);
}

/* Everything at once: guest threads that check what they see and write to it, pages that arrive in any order, several
 * times, as contents and as zeros, and broken connections. */

#define STRESS_PAGES 2048u
#define GUESTS 4
#define CHANNELS 3

struct guest {
	struct world *world;
	uint64_t seed;
	uint32_t increments[STRESS_PAGES];
	pthread_t thread;
};

struct channel {
	struct world *world;
	uint64_t seed;
	pthread_t thread;
};

static atomic_uint stress_errors;

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	return *s ^= *s << 17;
}

/* Word 0 counts what guests did; the others are these. Every fifth page is zeros. */
static uint64_t stress_word(uint64_t page, unsigned i)
{
	return page % 5 && i ? (page << 32 | i) : 0;
}

static void *guest_thread(void *arg)
{
	struct guest *g = arg;

	for (unsigned n = 0; n < 3 * STRESS_PAGES; n++) {
		uint64_t page = next_random(&g->seed) % STRESS_PAGES, *at = g->world->vmm + page * WORDS;
		unsigned i = 1 + (unsigned)(next_random(&g->seed) % (WORDS - 1));

		if (n % 3 == 0) {
			__atomic_fetch_add(&at[0], 1, __ATOMIC_RELAXED);
			g->increments[page]++;
		}
		if (__atomic_load_n(&at[i], __ATOMIC_RELAXED) != stress_word(page, i) ||
		    __atomic_load_n(&at[WORDS - 1], __ATOMIC_RELAXED) != stress_word(page, WORDS - 1))
			atomic_fetch_add(&stress_errors, 1);
	}
	return NULL;
}

static void send_some(struct channel *c, int pair[2])
{
	uint64_t first = next_random(&c->seed) % STRESS_PAGES, contents[16 * WORDS];
	struct gw_wire_run run = { .first_page = first };
	bool broken = next_random(&c->seed) % 16 == 0;

	if (first % 5 == 0) {
		run.kind = GW_WIRE_RUN_ZERO;
		run.n_pages = 1;
		(void)receive(c->world, &run, 1, pair[1]);
		return;
	}
	run.n_pages = (uint32_t)GW_MIN(1 + next_random(&c->seed) % 16, STRESS_PAGES - first);
	for (unsigned i = 0; i < run.n_pages * WORDS; i++)
		contents[i] = stress_word(first + i / WORDS, i % WORDS);
	if (broken) {
		int cut[2];

		make_pair(cut);
		(void)!write(cut[0], contents, run.n_pages * 4096u - 1000);
		close(cut[0]);
		(void)receive(c->world, &run, 1, cut[1]);
		close(cut[1]);
		return;
	}
	if (write(pair[0], contents, run.n_pages * 4096u) != (ssize_t)(run.n_pages * 4096u) ||
	    receive(c->world, &run, 1, pair[1]) != 0)
		atomic_fetch_add(&stress_errors, 1);
}

static void *stress_channel(void *arg)
{
	struct channel *c = arg;
	int pair[2];

	make_pair(pair);
	while (gw_demand_left(c->world->demand) > 0)
		send_some(c, pair);
	close(pair[0]);
	close(pair[1]);
	return NULL;
}

static void test_many_threads_any_order(void **state)
{
	const char *text = getenv("GW_SEED");
	uint64_t seed = text ? strtoull(text, NULL, 0) : 88172645463325252ull;
	struct guest *guests = calloc(GUESTS, sizeof(*guests));
	struct channel channels[CHANNELS];
	struct world w;

	world_init(&w, 4096, STRESS_PAGES);
	gw_demand_owe(w.demand, 0, 0, STRESS_PAGES);
	arm_and_start(&w);
	atomic_store(&stress_errors, 0);
	for (unsigned i = 0; i < GUESTS; i++) {
		guests[i].world = &w;
		guests[i].seed = seed + i + 1;
		assert_int_equal(pthread_create(&guests[i].thread, NULL, guest_thread, &guests[i]), 0);
	}
	for (unsigned i = 0; i < CHANNELS; i++) {
		channels[i] = (struct channel){ .world = &w, .seed = seed ^ (i + 1) << 20 };
		assert_int_equal(pthread_create(&channels[i].thread, NULL, stress_channel, &channels[i]), 0);
	}
	for (unsigned i = 0; i < GUESTS; i++)
		pthread_join(guests[i].thread, NULL);
	for (unsigned i = 0; i < CHANNELS; i++)
		pthread_join(channels[i].thread, NULL);
	if (atomic_load(&stress_errors))
		fail_msg("seed %lu: %u errors", (unsigned long)seed, atomic_load(&stress_errors));
	for (uint64_t page = 0; page < STRESS_PAGES; page++) {
		uint64_t written = 0;

		for (unsigned i = 0; i < GUESTS; i++)
			written += guests[i].increments[page];
		if (w.vmm[page * WORDS] != written)
			fail_msg("seed %lu, page %lu: a write of the guest is lost", (unsigned long)seed, (unsigned long)page);
		for (unsigned i = 1; i < WORDS; i++)
			assert_int_equal(w.vmm[page * WORDS + i], stress_word(page, i));
	}
	assert_int_equal(n_complete(&w), 1);
	assert_int_equal(gw_demand_left(w.demand), 0);
	world_done(&w);
	free(guests);
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N7 who touches a page that lacks waits, and sees its final contents only", test_only_final_contents_are_seen),
		TEST("N8 what pre-copy mapped and is stale is not seen", test_stale_pages_leave_the_page_tables),
		TEST("N7 zero runs fill what is owed, and nothing else", test_zero_runs),
		TEST("N7 a complete page is never overwritten", test_a_complete_page_is_never_overwritten),
		TEST("N7 a broken read gives its pages back, and they are asked for again", test_a_broken_read_gives_pages_back),
		TEST("N7 a restarted daemon finds the states of the pages and wakes who waits", test_a_restarted_daemon_goes_on),
		TEST("N7 states of other memory are refused", test_a_states_file_of_other_memory_is_refused),
		TEST("N7 a page that the file does not have is zeros", test_holes_are_zeros),
		TEST("V5 N7 a part of a large page is refused", test_parts_of_large_pages_are_refused),
		TEST("N7 nothing is filled before the start, and a cancel ends the waiting", test_nothing_is_filled_before_the_start),
		TEST("N7 many threads, any order: no write lost, nothing stale", test_many_threads_any_order),
	};

	return cmocka_run_group_tests_name("demand", tests, NULL, NULL);
}
