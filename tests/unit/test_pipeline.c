/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tracing and both pipelines on this process's own memory: a writer thread is the guest, and what arrives must be
 * equal byte for byte once it has stopped. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "memory/kernel_compat.h"
#include "memory/trace.h"
#include "pipeline/source.h"
#include "pipeline/target.h"

#define SIZE (64ull << 20)
#define PAGES (SIZE / 4096)

struct world {
	char source_path[64], target_path[64];
	uint8_t *guest; /* the mapping that is traced, as QEMU's would be */
	struct gw_ram source, target;
	struct gw_bitmap pending;
	struct gw_wire_ram wire;
	struct gw_trace *trace;
	/* passes in pieces: written in an announced piece; to be sent in the next pass; announced */
	struct gw_bitmap found, owed, looked;
	unsigned long looks;
	pthread_mutex_t look_lock;
	pthread_t writer;
	atomic_bool writer_stop;
	atomic_ulong writes;
};

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	return *s ^= *s << 17;
}

static void *write_at_random(void *arg)
{
	struct world *w = arg;
	uint64_t seed = 88172645463325252ull;

	while (!atomic_load(&w->writer_stop)) {
		/* Every other time one of a few hot pages, which differences are for. */
		uint64_t r = next_random(&seed), page = r >> 8 & 1 ? r % 64 : r % PAGES;
		uint64_t *p = (uint64_t *)(w->guest + page * 4096);

		if (r >> 60 == 0)
			memset(p, 0, 4096); /* back to zeros: the zero path must overwrite */
		else
			p[(r >> 32) % 512] = r;
		atomic_fetch_add(&w->writes, 1);
		if (atomic_load(&w->writes) % 64 == 0)
			usleep(100);
	}
	return NULL;
}

static int open_uffd(void *arg, int *ret_fd, struct gw_error *err)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	(void)arg;
	if (fd < 0)
		return gw_error_set_errno(err, errno, "userfaultfd");
	*ret_fd = fd;
	return 0;
}

static void world_init(struct world *w, unsigned channels)
{
	struct gw_error err = GW_ERROR_INIT;

	memset(w, 0, sizeof(*w));
	snprintf(w->source_path, sizeof(w->source_path), "/dev/shm/gw-test-%d-s", getpid());
	snprintf(w->target_path, sizeof(w->target_path), "/dev/shm/gw-test-%d-t", getpid());
	unlink(w->source_path);
	unlink(w->target_path);
	assert_int_equal(gw_ram_create(w->source_path, SIZE, 4096, &err), 0);
	assert_int_equal(gw_ram_create(w->target_path, SIZE, 4096, &err), 0);
	assert_int_equal(gw_ram_map(&w->source, w->source_path, SIZE, 4096, false, &err), 0);
	assert_int_equal(gw_ram_map(&w->target, w->target_path, SIZE, 4096, true, &err), 0);
	w->guest = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, open(w->source_path, O_RDWR), 0);
	assert_ptr_not_equal(w->guest, MAP_FAILED);
	assert_int_equal(gw_bitmap_init(&w->pending, PAGES), 0);
	assert_int_equal(gw_bitmap_init(&w->found, PAGES), 0);
	assert_int_equal(gw_bitmap_init(&w->owed, PAGES), 0);
	assert_int_equal(gw_bitmap_init(&w->looked, PAGES / GW_SENDER_PIECE_PAGES), 0);
	pthread_mutex_init(&w->look_lock, NULL);
	w->wire = (struct gw_wire_ram){ .n_regions = 1, .region_pages = { PAGES }, .channels = channels,
	                                .features = GW_WIRE_FEATURE_PACKED };
	/* A half full memory: content, zero pages that are allocated, and holes. */
	for (size_t i = 0; i < PAGES / 2; i++)
		w->guest[i * 4096 + i % 4096] = i % 7 ? (uint8_t)(i | 1) : 0;
}

static void world_done(struct world *w)
{
	munmap(w->guest, SIZE);
	gw_ram_unmap(&w->source);
	gw_ram_unmap(&w->target);
	gw_bitmap_done(&w->pending);
	gw_bitmap_done(&w->found);
	gw_bitmap_done(&w->owed);
	gw_bitmap_done(&w->looked);
	pthread_mutex_destroy(&w->look_lock);
	unlink(w->source_path);
	unlink(w->target_path);
}

/* As the source of a migration does it: what was written before its piece is read need not be sent again. */
static int look_at_piece(void *arg, uint32_t region, uint64_t first, uint64_t n)
{
	struct gw_error err = GW_ERROR_INIT;
	struct world *w = arg;

	GW_LOCKED(&w->look_lock);
	if (gw_bitmap_test(&w->looked, first / GW_SENDER_PIECE_PAGES))
		return 0;
	assert_int_equal(gw_trace_collect_part(w->trace, region, first, n, &w->found, &err), 0);
	gw_bitmap_add_except(&w->owed, &w->found, &w->pending, first, n);
	gw_bitmap_set_range(&w->looked, first / GW_SENDER_PIECE_PAGES, 1);
	w->looks++;
	return 0;
}

static void one_pass(struct world *w, struct gw_sender *s, uint32_t pass, bool in_pieces)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_sender_stats stats;
	int r;

	if (pass > 1) {
		gw_bitmap_clear_range(&w->pending, 0, PAGES);
		gw_bitmap_move(&w->pending, &w->owed, NULL);
		assert_int_equal(gw_trace_collect(w->trace, 0, false, &w->pending, &err), 0);
	}
	gw_bitmap_clear_range(&w->found, 0, PAGES);
	gw_bitmap_clear_range(&w->looked, 0, PAGES / GW_SENDER_PIECE_PAGES);
	gw_sender_begin(s, pass, &w->pending, in_pieces);
	r = gw_sender_finish(s, &stats, &err);
	if (r < 0)
		fail_msg("pass %u: %s", pass, gw_error_text(&err));
	assert_int_equal(stats.pages, gw_bitmap_count(&w->pending));
}

static void move_while_written(enum gw_trace_mode mode, unsigned channels, enum gw_compress_policy compress,
                               uint64_t cache_bytes, bool in_pieces)
{
	struct gw_error err = GW_ERROR_INIT;
	struct world w;
	struct gw_sender *s = NULL;
	struct gw_receiver *r = NULL;
	struct gw_trace_range range;
	struct gw_receiver_stats got;
	struct gw_sender_stats sent;
	struct gw_wait wait = { .cancel_fd = -1, .idle_ns = 5 * GW_NS_PER_S };
	int fds[8], pair[2];
	uint32_t pass;

	world_init(&w, channels);
	range = (struct gw_trace_range){ (uintptr_t)w.guest, SIZE, 4096 };
	assert_int_equal(pthread_create(&w.writer, NULL, write_at_random, &w), 0);
	if (gw_trace_new(getpid(), open_uffd, NULL, mode, &range, 1, &w.trace, &err) < 0)
		fail_msg("%s", gw_error_text(&err));
	assert_int_equal(gw_ram_find_data(&w.source, &w.pending, &err), 0);
	assert_true(gw_bitmap_count(&w.pending) >= PAGES / 2);

	assert_int_equal(gw_receiver_new(&w.wire, &w.target, NULL, 5 * GW_NS_PER_S, -1, &r, &err), 0);
	for (unsigned i = 0; i < channels; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
		fds[i] = pair[0];
		assert_int_equal(gw_receiver_add_channel(r, i, pair[1], &err), 0);
	}
	struct gw_sender_config config = {
		.channel_fds = fds, .n_channels = channels, .ram = &w.source, .n_regions = 1, .wait = wait,
		.compress = compress, .delta_cache_bytes = cache_bytes, .before_piece = look_at_piece, .before_arg = &w,
	};
	assert_int_equal(gw_sender_new(&config, &s, &err), 0);
	for (pass = 1; pass <= 8; pass++) {
		while (atomic_load(&w.writes) < 16 * pass) /* however busy the machine is, each pass finds something */
			usleep(100);
		one_pass(&w, s, pass, in_pieces);
	}
	assert_int_equal(w.looks > 0, in_pieces);
	atomic_store(&w.writer_stop, true);
	pthread_join(w.writer, NULL);
	one_pass(&w, s, pass, false);
	assert_int_equal(gw_receiver_wait(r, pass, &wait, &err), 0);

	assert_memory_equal(w.source.base, w.target.base, SIZE);
	gw_sender_progress(s, &sent);
	gw_receiver_progress(r, &got);
	assert_int_equal(sent.pages, got.pages);
	assert_int_equal(sent.wire_bytes, got.wire_bytes);
	if (compress >= GW_COMPRESS_ALWAYS_LZ4) {
		assert_int_equal(sent.delta_pages > 0, cache_bytes > 0);
		assert_true(sent.packed_pages[GW_COMPRESS_LZ4] + sent.packed_pages[GW_COMPRESS_ZSTD_1] > PAGES / 4);
	}

	/* Nothing was written since: nothing may be found. */
	gw_bitmap_clear_range(&w.pending, 0, PAGES);
	assert_int_equal(gw_trace_collect(w.trace, 0, false, &w.pending, &err), 0);
	assert_int_equal(gw_bitmap_count(&w.pending), 0);

	gw_sender_free(s);
	gw_receiver_free(r);
	gw_trace_free(w.trace);
	for (unsigned i = 0; i < channels; i++)
		close(fds[i]);
	world_done(&w);
}

static void N3_written_pages_arrive_async_one_channel(void **state)
{
	move_while_written(GW_TRACE_ASYNC, 1, GW_COMPRESS_AUTO, 1 << 20, false);
}

static void N3_written_pages_arrive_async_four_channels(void **state)
{
	move_while_written(GW_TRACE_ASYNC, 4, GW_COMPRESS_NEVER, 0, false);
}

static void V1_written_pages_arrive_with_the_sync_fallback(void **state)
{
	move_while_written(GW_TRACE_SYNC, 2, GW_COMPRESS_AUTO, 0, false);
}

static void N3_written_pages_arrive_by_lz4_and_differences(void **state)
{
	move_while_written(GW_TRACE_ASYNC, 2, GW_COMPRESS_ALWAYS_LZ4, 4 << 20, false);
}

static void N3_written_pages_arrive_by_zstd_and_a_cache_too_small(void **state)
{
	move_while_written(GW_TRACE_ASYNC, 1, GW_COMPRESS_ALWAYS_ZSTD, 32 * 4096, false);
}

static void N3_written_pages_arrive_by_zstd_without_a_cache(void **state)
{
	move_while_written(GW_TRACE_ASYNC, 4, GW_COMPRESS_ALWAYS_ZSTD, 0, false);
}

static void N3_pages_written_before_their_piece_is_read_arrive_async(void **state)
{
	move_while_written(GW_TRACE_ASYNC, 4, GW_COMPRESS_NEVER, 0, true);
}

static void N3_pages_written_before_their_piece_is_read_arrive_sync(void **state)
{
	move_while_written(GW_TRACE_SYNC, 2, GW_COMPRESS_ALWAYS_LZ4, 4 << 20, true);
}

static void N3_a_page_punched_out_is_sent_again(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	struct world w;
	struct gw_trace *t = NULL;
	struct gw_trace_range range;

	world_init(&w, 1);
	range = (struct gw_trace_range){ (uintptr_t)w.guest, SIZE, 4096 };
	assert_int_equal(gw_trace_new(getpid(), open_uffd, NULL, GW_TRACE_ASYNC, &range, 1, &t, &err), 0);
	w.guest[5 * 4096] = 1;
	/* What a balloon does: the page goes, and with it the kernel's note that it was written. */
	assert_int_equal(madvise(w.guest + 5 * 4096, 4096, MADV_REMOVE), 0);
	w.guest[9 * 4096] = 1;
	assert_int_equal(gw_trace_collect(t, 0, false, &w.pending, &err), 0);
	assert_true(gw_bitmap_test(&w.pending, 5));
	assert_true(gw_bitmap_test(&w.pending, 9));
	assert_int_equal(gw_bitmap_count(&w.pending), 2);
	gw_trace_free(t);
	world_done(&w);
}

static void X2_digests_tell_one_changed_bit_and_leave_holes_alone(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	struct world w;
	struct gw_wire_digest a[PAGES / 512], b[PAGES / 512];
	size_t before, after;

	world_init(&w, 1);
	gw_ram_find_data(&w.source, &w.pending, &err);
	before = gw_bitmap_count(&w.pending);
	assert_int_equal(gw_ram_digests(&w.source, 0, 512, PAGES / 512, a, &err), 0);
	w.guest[123 * 4096 + 77] ^= 4;
	assert_int_equal(gw_ram_digests(&w.source, 0, 512, PAGES / 512, b, &err), 0);
	assert_memory_not_equal(&a[0], &b[0], sizeof(a[0]));
	assert_memory_equal(&a[1], &b[1], sizeof(a) - sizeof(a[0]));
	/* The upper half are holes: all alike, and still holes. */
	assert_memory_equal(&a[PAGES / 1024], &a[PAGES / 512 - 1], sizeof(a[0]));
	gw_bitmap_clear_range(&w.pending, 0, PAGES);
	gw_ram_find_data(&w.source, &w.pending, &err);
	after = gw_bitmap_count(&w.pending);
	assert_int_equal(before, after);
	world_done(&w);
}

static void N3_a_full_bandwidth_cap_is_kept(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	struct world w;
	struct gw_sender *s;
	struct gw_receiver *r;
	struct gw_sender_stats stats;
	struct gw_wait wait = { .cancel_fd = -1, .idle_ns = 5 * GW_NS_PER_S };
	int pair[2];
	gw_time_ns t0;

	world_init(&w, 1);
	memset(w.guest, 0x5a, 20 << 20);
	gw_bitmap_set_range(&w.pending, 0, (20 << 20) / 4096);
	assert_int_equal(gw_receiver_new(&w.wire, &w.target, NULL, 5 * GW_NS_PER_S, -1, &r, &err), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(gw_receiver_add_channel(r, 0, pair[1], &err), 0);
	struct gw_sender_config config = { .channel_fds = pair, .n_channels = 1, .ram = &w.source, .n_regions = 1,
		                           .bandwidth_Bps = 100 << 20, .compress = GW_COMPRESS_NEVER, .wait = wait };
	assert_int_equal(gw_sender_new(&config, &s, &err), 0);
	t0 = gw_now_ns();
	gw_sender_begin(s, 1, &w.pending, false);
	gw_sender_await(s, 2560);
	gw_sender_progress(s, &stats);
	assert_true(stats.pages >= 2560 && stats.pages < 5120); /* half of them, and not all yet */
	gw_sender_await(s, 1 << 20); /* more than there are: until the end */
	assert_int_equal(gw_sender_finish(s, &stats, &err), 0);
	assert_int_equal(stats.pages, 5120);
	/* 20 MiB at 100 MiB/s; the first batch goes at once. */
	assert_true(gw_now_ns() - t0 > 130 * GW_NS_PER_MS);
	gw_sender_free(s);
	gw_receiver_free(r);
	close(pair[0]);
	world_done(&w);
}

static void N6_a_batch_outside_of_the_channel_is_refused(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	struct world w;
	struct gw_receiver *r;
	struct gw_wait wait = { .cancel_fd = -1, .idle_ns = 5 * GW_NS_PER_S };
	int pair[2];
	struct {
		struct gw_wire_batch b;
		struct gw_wire_run run;
	} __attribute__((packed)) bad = {
		.b = { GW_WIRE_BATCH_MAGIC, GW_WIRE_BATCH_PAGES, 1, 0, 1, 4096 },
		.run = { .first_page = 512, .n_pages = 1 }, /* channel 1's */
	};

	world_init(&w, 2);
	assert_int_equal(gw_receiver_new(&w.wire, &w.target, NULL, 5 * GW_NS_PER_S, -1, &r, &err), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(gw_receiver_add_channel(r, 0, pair[1], &err), 0);
	assert_int_equal(write(pair[0], &bad, sizeof(bad)), sizeof(bad));
	assert_int_equal(gw_receiver_wait(r, 1, &wait, &err), -EPROTO);
	gw_receiver_free(r);
	close(pair[0]);
	world_done(&w);
}

static void N6_a_damaged_packed_run_ends_the_channel_with_words(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	struct world w;
	struct gw_receiver *r;
	struct gw_wait wait = { .cancel_fd = -1, .idle_ns = 5 * GW_NS_PER_S };
	int pair[2];
	struct {
		struct gw_wire_batch b;
		struct gw_wire_run run;
		uint8_t payload[100];
	} __attribute__((packed)) bad = {
		.b = { GW_WIRE_BATCH_MAGIC, GW_WIRE_BATCH_PAGES, 1, 0, 1, 100 },
		.run = { .first_page = 3, .n_pages = 2, .kind = GW_WIRE_RUN_LZ4, .packed_bytes = 100 },
	};

	world_init(&w, 1);
	memset(w.target.base + 5 * 4096, 0x77, 4096);
	assert_int_equal(gw_receiver_new(&w.wire, &w.target, NULL, 5 * GW_NS_PER_S, -1, &r, &err), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(gw_receiver_add_channel(r, 0, pair[1], &err), 0);
	assert_int_equal(write(pair[0], &bad, sizeof(bad)), sizeof(bad));
	assert_int_equal(gw_receiver_wait(r, 1, &wait, &err), -EPROTO);
	assert_non_null(strstr(gw_error_text(&err), "does not unpack"));
	assert_int_equal(w.target.base[5 * 4096], 0x77); /* the page behind the run */
	gw_receiver_free(r);
	close(pair[0]);
	world_done(&w);
}

static void N1_a_pass_ends_at_once_when_cancelled(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	struct world w;
	struct gw_sender *s;
	struct gw_sender_stats stats;
	int pair[2], cancel = eventfd(1, EFD_CLOEXEC);
	struct gw_wait wait = { .cancel_fd = cancel, .idle_ns = GW_TIME_NEVER };

	world_init(&w, 1);
	memset(w.guest, 0x5a, SIZE);
	gw_bitmap_set_range(&w.pending, 0, PAGES);
	/* Nobody reads: the socket fills, and only the cancellation can end the wait. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	struct gw_sender_config config = { .channel_fds = pair, .n_channels = 1, .ram = &w.source, .n_regions = 1,
		                           .wait = wait };
	assert_int_equal(gw_sender_new(&config, &s, &err), 0);
	assert_int_equal(gw_sender_pass(s, 1, &w.pending, &stats, &err), -ECANCELED);
	gw_sender_free(s);
	close(pair[0]);
	close(pair[1]);
	close(cancel);
	world_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(N3_written_pages_arrive_async_one_channel),
		cmocka_unit_test(N3_written_pages_arrive_async_four_channels),
		cmocka_unit_test(V1_written_pages_arrive_with_the_sync_fallback),
		cmocka_unit_test(N3_written_pages_arrive_by_lz4_and_differences),
		cmocka_unit_test(N3_written_pages_arrive_by_zstd_and_a_cache_too_small),
		cmocka_unit_test(N3_written_pages_arrive_by_zstd_without_a_cache),
		cmocka_unit_test(N3_pages_written_before_their_piece_is_read_arrive_async),
		cmocka_unit_test(N3_pages_written_before_their_piece_is_read_arrive_sync),
		cmocka_unit_test(N3_a_page_punched_out_is_sent_again),
		cmocka_unit_test(X2_digests_tell_one_changed_bit_and_leave_holes_alone),
		cmocka_unit_test(N3_a_full_bandwidth_cap_is_kept),
		cmocka_unit_test(N6_a_batch_outside_of_the_channel_is_refused),
		cmocka_unit_test(N6_a_damaged_packed_run_ends_the_channel_with_words),
		cmocka_unit_test(N1_a_pass_ends_at_once_when_cancelled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
