/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Write tracing of this process's own memory (V1): every size of chunk, discards, huge pages split and made whole. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "memory/huge.h"
#include "memory/kernel_compat.h"
#include "memory/trace_internal.h"

#define SIZE (64ull << 20)
#define PAGES (SIZE / 4096)
#define WORDS 512
#define CHUNKS (SIZE / GW_HUGE_BYTES)
#define NEVER_COLD (3600 * GW_NS_PER_S)

struct memory {
	char dir[64], path[96];
	int fd;
	uint8_t *base;       /* the mapping that is traced, at a 2 MiB boundary */
	uint8_t *copy;       /* what would be at the target */
	struct gw_bitmap dirty;
	struct gw_trace *trace;
};

static int open_uffd(void *arg, int *ret_fd, struct gw_error *err)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	(void)arg;
	if (fd < 0)
		return gw_error_set_errno(err, errno, "userfaultfd");
	*ret_fd = fd;
	return 0;
}

static void memory_init(struct memory *m, bool huge)
{
	uint8_t *room;

	memset(m, 0, sizeof(*m));
	snprintf(m->dir, sizeof(m->dir), "/dev/shm/gw-test-trace-XXXXXX");
	assert_non_null(mkdtemp(m->dir));
	if (huge && mount("tmpfs", m->dir, "tmpfs", 0, "huge=always") < 0)
		fail_msg("cannot mount a tmpfs with huge pages: %s", strerror(errno));
	snprintf(m->path, sizeof(m->path), "%s/ram", m->dir);
	m->fd = open(m->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(m->fd >= 0);
	assert_int_equal(ftruncate(m->fd, SIZE), 0);
	room = mmap(NULL, SIZE + GW_HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(room, MAP_FAILED);
	room += -(uintptr_t)room % GW_HUGE_BYTES;
	m->base = mmap(room, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, m->fd, 0);
	assert_ptr_equal(m->base, room);
	m->copy = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(m->copy, MAP_FAILED);
	assert_int_equal(gw_bitmap_init(&m->dirty, PAGES), 0);
	for (size_t i = 0; i < PAGES; i++)
		m->base[i * 4096] = (uint8_t)i;
}

static void memory_done(struct memory *m)
{
	gw_trace_free(m->trace);
	munmap(m->base, SIZE);
	munmap(m->copy, SIZE);
	close(m->fd);
	gw_bitmap_done(&m->dirty);
	unlink(m->path);
	umount2(m->dir, MNT_DETACH);
	assert_int_equal(rmdir(m->dir), 0);
}

static void begin(struct memory *m, enum gw_trace_mode mode, uint64_t chunk_bytes)
{
	struct gw_trace_range range = { (uintptr_t)m->base, SIZE, 4096, chunk_bytes };
	struct gw_error err = GW_ERROR_INIT;

	if (gw_trace_new(getpid(), open_uffd, NULL, mode, &range, 1, &m->trace, &err) < 0)
		fail_msg("%s", gw_error_text(&err));
	memcpy(m->copy, m->base, SIZE); /* the first pass */
}

/* Adds what was written, merged or not, and copies it as a pass would. Returns the pages. */
static size_t pass(struct memory *m)
{
	struct gw_error err = GW_ERROR_INIT;
	size_t at = 0, first, n, pages;

	gw_bitmap_clear_range(&m->dirty, 0, PAGES);
	if (gw_trace_merge(m->trace, 0, &m->dirty, &err) < 0 ||
	    gw_trace_collect(m->trace, 0, false, &m->dirty, &err) < 0)
		fail_msg("%s", gw_error_text(&err));
	pages = gw_bitmap_count(&m->dirty);
	while (gw_bitmap_next_run(&m->dirty, at, PAGES, PAGES, &first, &n)) {
		memcpy(m->copy + first * 4096, m->base + first * 4096, n * 4096);
		at = first + n;
	}
	return pages;
}

static uint64_t mapped_huge(struct memory *m)
{
	uint64_t bytes = 0;

	assert_int_equal(gw_huge_mapped(getpid(), (uintptr_t)m->base, SIZE, &bytes), 0);
	return bytes;
}

/* ---- writers ---- */

struct writer {
	struct memory *m;
	pthread_t thread;
	atomic_bool stop;
	atomic_ulong writes;
	bool discards;        /* beside writes: MADV_DONTNEED and holes */
	size_t span_pages;    /* the first so many pages */
	uint8_t holes[PAGES]; /* 1: the last thing done to the page was a hole in the file */
};

static void *write_at_random(void *arg)
{
	struct writer *w = arg;
	uint64_t s = 88172645463325252ull;

	for (unsigned long n = 1; !atomic_load(&w->stop); n++) {
		size_t page;
		uint8_t *at;

		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		page = (s >> 20) % w->span_pages;
		at = w->m->base + page * 4096;
		if (w->discards && n % 8 == 0) {
			bool hole = s & 1;

			assert_int_equal(madvise(at, 4096, hole ? MADV_REMOVE : MADV_DONTNEED), 0);
			w->holes[page] |= hole;
		} else {
			((uint64_t *)at)[(s >> 3) % WORDS] = s;
			w->holes[page] = 0;
		}
		atomic_store(&w->writes, n);
		if (n % 64 == 0)
			usleep(100);
	}
	return NULL;
}

static struct writer *writer_new(struct memory *m, size_t span_pages, bool discards)
{
	struct writer *w = calloc(1, sizeof(*w));

	w->m = m;
	w->span_pages = span_pages;
	w->discards = discards;
	assert_int_equal(pthread_create(&w->thread, NULL, write_at_random, w), 0);
	return w;
}

static void writer_join(struct writer *w)
{
	atomic_store(&w->stop, true);
	pthread_join(w->thread, NULL);
}

/* Passes beside a writer, then one when it has stopped: the copy is what the memory is. */
static void copy_while_written(struct memory *m, size_t span_pages, bool discards, unsigned passes)
{
	struct writer *w = writer_new(m, span_pages, discards);
	size_t different = 0, compared = 0;

	for (unsigned i = 0; i < passes; i++) {
		unsigned long until = atomic_load(&w->writes) + 300;

		while (atomic_load(&w->writes) < until)
			usleep(200);
		pass(m);
	}
	writer_join(w);
	pass(m);
	for (size_t i = 0; i < PAGES; i++) {
		if (w->holes[i])
			continue;
		compared++;
		different += memcmp(m->base + i * 4096, m->copy + i * 4096, 4096) != 0;
	}
	assert_int_equal(different, 0);
	assert_true(compared > PAGES / 2);
	m->trace->merge_idle_ns = NEVER_COLD;
	assert_int_equal(pass(m), 0); /* and nothing is found that was not written */
	free(w);
}

static void V1_every_way_and_chunk_size_reports_each_write(void **state)
{
	static const struct {
		enum gw_trace_mode mode;
		uint64_t chunk_bytes;
	} ways[] = {
		{ GW_TRACE_ASYNC, 0 },        { GW_TRACE_SYNC, 0 },         { GW_TRACE_SYNC, 4096 },
		{ GW_TRACE_SYNC, 2ull << 20 }, { GW_TRACE_SYNC, 1ull << 30 },
	};

	for (size_t huge = 0; huge < 2; huge++)
		for (size_t i = 0; i < GW_ARRAY_SIZE(ways); i++) {
			struct memory m;

			memory_init(&m, huge);
			begin(&m, ways[i].mode, ways[i].chunk_bytes);
			copy_while_written(&m, PAGES, false, 10);
			memory_done(&m);
		}
}

static void V1_a_part_is_collected_alone(void **state)
{
	enum gw_trace_mode modes[] = { GW_TRACE_ASYNC, GW_TRACE_SYNC };
	struct gw_error err = GW_ERROR_INIT;
	struct memory m;

	for (size_t i = 0; i < GW_ARRAY_SIZE(modes); i++) {
		memory_init(&m, false);
		begin(&m, modes[i], 4096);
		m.base[100 * 4096] ^= 1;
		m.base[1023 * 4096] ^= 1;
		m.base[1024 * 4096] ^= 1;
		m.base[2047 * 4096] ^= 1;
		m.base[2048 * 4096] ^= 1;
		assert_int_equal(gw_trace_collect_part(m.trace, 0, 1024, 1024, &m.dirty, &err), 0);
		assert_int_equal(gw_bitmap_count(&m.dirty), 2);
		assert_true(gw_bitmap_test(&m.dirty, 1024) && gw_bitmap_test(&m.dirty, 2047));
		m.base[1024 * 4096] ^= 1; /* armed again */
		gw_bitmap_clear_range(&m.dirty, 0, PAGES);
		assert_int_equal(gw_trace_collect(m.trace, 0, false, &m.dirty, &err), 0);
		assert_int_equal(gw_bitmap_count(&m.dirty), 4);
		assert_true(gw_bitmap_test(&m.dirty, 1024) && !gw_bitmap_test(&m.dirty, 2047));
		/* Beyond the end there is nothing. */
		assert_int_equal(gw_trace_collect_part(m.trace, 0, PAGES - 512, 4096, &m.dirty, &err), 0);
		memory_done(&m);
	}
}

static void V1_discards_beside_writes_lose_no_write(void **state)
{
	static const enum gw_trace_mode modes[] = { GW_TRACE_ASYNC, GW_TRACE_SYNC };

	for (size_t huge = 0; huge < 2; huge++)
		for (size_t i = 0; i < GW_ARRAY_SIZE(modes); i++) {
			struct memory m;

			memory_init(&m, huge);
			begin(&m, modes[i], 0);
			copy_while_written(&m, PAGES, true, 10);
			memory_done(&m);
		}
}

static void V1_one_write_to_a_cold_huge_page_is_refined_to_one_page(void **state)
{
	static const enum gw_trace_mode modes[] = { GW_TRACE_ASYNC, GW_TRACE_SYNC };

	for (size_t i = 0; i < GW_ARRAY_SIZE(modes); i++) {
		struct memory m;

		memory_init(&m, true);
		begin(&m, modes[i], 0);
		assert_int_equal(pass(&m), 0);
		m.base[5 * GW_HUGE_BYTES + 4096] ^= 1;
		assert_int_equal(pass(&m), GW_HUGE_PAGES); /* coarse: it was not known before */
		m.base[5 * GW_HUGE_BYTES + 4096] ^= 1;
		m.base[5 * GW_HUGE_BYTES + 9 * 4096] ^= 1;
		assert_int_equal(pass(&m), 2);
		assert_true(gw_bitmap_test(&m.dirty, 5 * GW_HUGE_PAGES + 1));
		assert_true(gw_bitmap_test(&m.dirty, 5 * GW_HUGE_PAGES + 9));
		memory_done(&m);
	}
}

static void V1_only_written_huge_mappings_are_split_by_asynchronous_tracing(void **state)
{
	struct memory m;

	memory_init(&m, true);
	assert_int_equal(mapped_huge(&m), SIZE);
	begin(&m, GW_TRACE_ASYNC, 0);
	m.base[0] ^= 1;
	m.base[7 * GW_HUGE_BYTES] ^= 1;
	pass(&m);
	assert_int_equal(mapped_huge(&m), SIZE - 2 * GW_HUGE_BYTES);
	memory_done(&m);
}

static void V1_huge_mappings_are_the_same_after_tracing_has_ended(void **state)
{
	static const enum gw_trace_mode modes[] = { GW_TRACE_ASYNC, GW_TRACE_SYNC };

	for (size_t i = 0; i < GW_ARRAY_SIZE(modes); i++) {
		gw_time_ns deadline = gw_deadline_in(20 * GW_NS_PER_S);
		struct gw_bitmap huge;
		struct memory m;
		uint64_t before, during;

		memory_init(&m, true);
		before = mapped_huge(&m);
		assert_int_equal(before, SIZE);
		begin(&m, modes[i], 0);
		for (size_t chunk = 0; chunk < CHUNKS; chunk += 2)
			m.base[chunk * GW_HUGE_BYTES] ^= 1;
		pass(&m);
		during = mapped_huge(&m);
		assert_true(during <= before / 2);
		/* What the guest gave back stays given back. */
		assert_int_equal(madvise(m.base + 3 * GW_HUGE_BYTES, GW_HUGE_BYTES, MADV_REMOVE), 0);
		huge = gw_trace_take_huge(m.trace, 0);
		gw_trace_free(m.trace);
		m.trace = NULL;
		assert_int_equal(gw_huge_restore(getpid(), m.fd, (uintptr_t)m.base, &huge), 0);
		while (mapped_huge(&m) < before - GW_HUGE_BYTES && gw_now_ns() < deadline)
			usleep(2000);
		assert_int_equal(mapped_huge(&m), before - GW_HUGE_BYTES);
		assert_true(lseek(m.fd, 3 * GW_HUGE_BYTES, SEEK_HOLE) == 3 * (off_t)GW_HUGE_BYTES);
		memory_done(&m);
	}
}

static void V1_cold_huge_pages_are_made_whole_while_tracing_goes_on(void **state)
{
	struct memory m;
	uint64_t split;

	memory_init(&m, true);
	begin(&m, GW_TRACE_ASYNC, 0);
	for (size_t chunk = 0; chunk < 8; chunk++)
		m.base[chunk * GW_HUGE_BYTES] ^= 1;
	pass(&m);
	split = mapped_huge(&m);
	assert_int_equal(split, SIZE - 8 * GW_HUGE_BYTES);
	m.trace->merge_idle_ns = NEVER_COLD;
	m.trace->merge_every_ns = 0;
	assert_int_equal(pass(&m), 0);
	assert_int_equal(mapped_huge(&m), split);
	m.trace->merge_idle_ns = 0;
	assert_int_equal(pass(&m) % GW_HUGE_PAGES, 0); /* whole ones, a few at a time */
	assert_true(mapped_huge(&m) > split);
	while (mapped_huge(&m) < SIZE)
		pass(&m);
	/* They are traced as before: coarse first, then by the page. */
	assert_int_equal(pass(&m), 0);
	m.base[3 * GW_HUGE_BYTES] ^= 1;
	m.trace->merge_idle_ns = NEVER_COLD;
	assert_int_equal(pass(&m), GW_HUGE_PAGES);
	m.base[3 * GW_HUGE_BYTES] ^= 1;
	assert_int_equal(pass(&m), 1);
	memory_done(&m);
}

static void V1_no_write_is_lost_while_pages_are_made_whole(void **state)
{
	struct memory m;

	memory_init(&m, true);
	begin(&m, GW_TRACE_ASYNC, 0);
	m.trace->merge_idle_ns = 0; /* all the time, also what is hot */
	m.trace->merge_every_ns = 0;
	copy_while_written(&m, 16 * GW_HUGE_PAGES, false, 40);
	memory_done(&m);
}

/* ---- stalls ---- */

/* For how long threads of this process (the writer, and who answers it) were runnable and did not run: schedstat's second
 * number. What the machine's other work explains says nothing about tracing, and is taken off a stall. */
static gw_time_ns runnable_ns(void)
{
	gw_autodir DIR *tasks = opendir("/proc/self/task");
	gw_time_ns sum = 0;
	struct dirent *e;

	while ((e = readdir(tasks))) {
		unsigned long long ran = 0, waited = 0;
		char path[320];
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/task/%s/schedstat", e->d_name);
		f = e->d_name[0] == '.' ? NULL : fopen(path, "re");
		if (!f)
			continue;
		if (fscanf(f, "%llu %llu", &ran, &waited) == 2)
			sum += (gw_time_ns)waited;
		fclose(f);
	}
	return sum;
}

struct staller {
	struct memory *m;
	pthread_t thread;
	atomic_bool stop;
	atomic_ulong writes;
	atomic_llong worst; /* since it was last taken */
};

static void *write_and_look_at_the_clock(void *arg)
{
	struct staller *s = arg;
	uint64_t r = 88172645463325252ull;
	gw_time_ns waited = runnable_ns(), t0 = gw_now_ns();

	while (!atomic_load(&s->stop)) {
		gw_time_ns t1;

		r ^= r << 13;
		r ^= r >> 7;
		r ^= r << 17;
		s->m->base[(r >> 20) % PAGES * 4096] ^= 1;
		t1 = gw_now_ns();
		if (t1 - t0 > GW_NS_PER_MS) {
			gw_time_ns now = runnable_ns(), stall = t1 - t0 - (now - waited);

			if (stall > atomic_load(&s->worst))
				atomic_store(&s->worst, stall);
			waited = now;
			t1 = gw_now_ns();
		}
		atomic_fetch_add(&s->writes, 1);
		t0 = t1;
	}
	return NULL;
}

static int compare_times(const void *a, const void *b)
{
	gw_time_ns x = *(const gw_time_ns *)a, y = *(const gw_time_ns *)b;

	return (x > y) - (x < y);
}

#define TURNS 15

/* The median over several turns of the worst stall in each: what tracing does it does every time, other work on the
 * machine does not. */
static gw_time_ns typical_worst_stall(struct staller *s, void (*turn)(struct memory *m))
{
	gw_time_ns worst[TURNS];

	for (size_t i = 0; i < TURNS; i++) {
		unsigned long until;

		atomic_store(&s->worst, 0);
		turn(s->m);
		until = atomic_load(&s->writes) + 100;
		while (atomic_load(&s->writes) < until) /* what it was held up by is over */
			usleep(100);
		worst[i] = atomic_load(&s->worst);
	}
	qsort(worst, TURNS, sizeof(worst[0]), compare_times);
	return worst[TURNS / 2];
}

static void collect_once(struct memory *m)
{
	struct gw_error err = GW_ERROR_INIT;

	usleep(3000); /* it writes meanwhile, so that there is something to collect */
	gw_bitmap_clear_range(&m->dirty, 0, PAGES);
	assert_int_equal(gw_trace_collect(m->trace, 0, false, &m->dirty, &err), 0);
}

static void begin_and_end(struct memory *m, enum gw_trace_mode mode)
{
	struct gw_trace_range range = { (uintptr_t)m->base, SIZE, 4096, 0 };
	struct gw_error err = GW_ERROR_INIT;
	struct gw_trace *t = NULL;

	assert_int_equal(gw_trace_new(getpid(), open_uffd, NULL, mode, &range, 1, &t, &err), 0);
	usleep(1000);
	gw_trace_free(t);
}

static void begin_and_end_async(struct memory *m)
{
	begin_and_end(m, GW_TRACE_ASYNC);
}

static void begin_and_end_sync(struct memory *m)
{
	begin_and_end(m, GW_TRACE_SYNC);
}

/* What must be found: a range that is protected while nobody answers, for 30 ms. */
static void protect_and_let_wait(struct memory *m)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM };
	struct uffdio_register reg = { .range = { (uintptr_t)m->base, SIZE }, .mode = UFFDIO_REGISTER_MODE_WP };
	struct uffdio_writeprotect wp = { .range = reg.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	struct gw_error err = GW_ERROR_INIT;
	int fd = -1;

	assert_int_equal(open_uffd(NULL, &fd, &err), 0);
	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
	assert_int_equal(ioctl(fd, UFFDIO_WRITEPROTECT, &wp), 0);
	usleep(30000);
	close(fd); /* wakes the writer */
}

static bool stalls_are_short(struct staller *s, enum gw_trace_mode mode, const char *what)
{
	struct gw_trace_range range = { (uintptr_t)s->m->base, SIZE, 4096, 0 };
	struct gw_error err = GW_ERROR_INIT;
	gw_time_ns arming = typical_worst_stall(s, mode == GW_TRACE_ASYNC ? begin_and_end_async : begin_and_end_sync);
	gw_time_ns collecting;

	assert_int_equal(gw_trace_new(getpid(), open_uffd, NULL, mode, &range, 1, &s->m->trace, &err), 0);
	collecting = typical_worst_stall(s, collect_once);
	gw_trace_free(gw_steal(&s->m->trace));
	print_message("%s: a writer stands still for %.2f ms while it is armed, %.2f ms while it is collected\n", what,
	              (double)arming / GW_NS_PER_MS, (double)collecting / GW_NS_PER_MS);
	return arming <= 5 * GW_NS_PER_MS && collecting <= 5 * GW_NS_PER_MS;
}

/* A machine that is busy for seconds on end may spoil a median, but not each time. */
static bool sometimes_short(struct staller *s, enum gw_trace_mode mode, const char *what)
{
	for (unsigned tries = 0; tries < 3; tries++)
		if (stalls_are_short(s, mode, what))
			return true;
	return false;
}

static void V1_tracing_never_stalls_a_writer_for_5_ms(void **state)
{
	for (size_t huge = 0; huge < 2; huge++) {
		struct memory m;
		struct staller s = { .m = &m };
		bool seen, async, sync;

		memory_init(&m, huge);
		assert_int_equal(pthread_create(&s.thread, NULL, write_and_look_at_the_clock, &s), 0);
		seen = typical_worst_stall(&s, protect_and_let_wait) > 15 * GW_NS_PER_MS;
		async = sometimes_short(&s, GW_TRACE_ASYNC, huge ? "async, huge pages" : "async, 4K pages");
		sync = sometimes_short(&s, GW_TRACE_SYNC, huge ? "sync, huge pages" : "sync, 4K pages");
		atomic_store(&s.stop, true);
		pthread_join(s.thread, NULL); /* before anything can fail: it writes to memory that goes away */
		memory_done(&m);
		assert_true(seen); /* the gauge sees stalls */
		assert_true(async);
		assert_true(sync);
	}
}

/* ---- the chunks' rules ---- */

static uint64_t opened(struct gw_chunks *c, uint64_t at)
{
	uint64_t offset, len;

	gw_chunks_fault(c, at, &offset, &len);
	assert_true(offset <= at && at < offset + len && offset + len <= c->size_bytes);
	return len;
}

static void V1_chunks_are_fine_where_memory_is_written_and_whole_where_it_is_cold(void **state)
{
	struct gw_trace_range range = { 0, 9 * GW_HUGE_BYTES + (1 << 20), 4096, 0 };
	struct gw_chunks c;

	assert_int_equal(gw_chunks_init(&c, &range), 0);
	assert_int_equal(opened(&c, 4096), GW_HUGE_BYTES);
	assert_int_equal(opened(&c, range.size_bytes - 1), 1 << 20); /* cut at the end */
	gw_chunks_adapt(&c, 0, c.n_blocks);
	for (int i = 0; i < 100; i++) /* hot */
		assert_int_equal(opened(&c, (uint64_t)i * 4096), 4096);
	gw_chunks_adapt(&c, 0, c.n_blocks);
	assert_int_equal(opened(&c, 4096), 64 << 10);
	gw_chunks_adapt(&c, 0, c.n_blocks);
	assert_int_equal(opened(&c, 4096), 4096); /* calmer */
	for (int i = 0; i < 10; i++)
		gw_chunks_adapt(&c, 0, c.n_blocks);
	assert_int_equal(opened(&c, 4096), GW_HUGE_BYTES);
	gw_chunks_done(&c);

	range = (struct gw_trace_range){ 0, 4ull << 30, 1ull << 30, 0 };
	assert_int_equal(gw_chunks_init(&c, &range), 0);
	assert_int_equal(opened(&c, 3ull << 30), 1ull << 30); /* never below the page */
	gw_chunks_done(&c);
}

int main(void)
{
	/* What is mounted here goes with this process. */
	if (geteuid() == 0 && (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0))
		return 2;

	const struct CMUnitTest tests[] = {
		cmocka_unit_test(V1_every_way_and_chunk_size_reports_each_write),
		cmocka_unit_test(V1_a_part_is_collected_alone),
		cmocka_unit_test(V1_discards_beside_writes_lose_no_write),
		cmocka_unit_test(V1_one_write_to_a_cold_huge_page_is_refined_to_one_page),
		cmocka_unit_test(V1_only_written_huge_mappings_are_split_by_asynchronous_tracing),
		cmocka_unit_test(V1_huge_mappings_are_the_same_after_tracing_has_ended),
		cmocka_unit_test(V1_cold_huge_pages_are_made_whole_while_tracing_goes_on),
		cmocka_unit_test(V1_no_write_is_lost_while_pages_are_made_whole),
		cmocka_unit_test(V1_tracing_never_stalls_a_writer_for_5_ms),
		cmocka_unit_test(V1_chunks_are_fine_where_memory_is_written_and_whole_where_it_is_cold),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
