/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whole reads and writes with deadlines and cancellation, descriptors over sockets, durable files, trees. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"

#define SHORT_NS (20 * GW_NS_PER_MS)

struct fixture {
	char dir[64];
	int pair[2];
	int cancel_fd;
	struct gw_wait wait; /* may be cancelled, and is over after SHORT_NS */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/gw-test-io-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, f->pair), 0);
	f->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f->wait = (struct gw_wait){ .cancel_fd = f->cancel_fd, .idle_ns = SHORT_NS };
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 2; i++)
		if (f->pair[i] >= 0)
			close(f->pair[i]);
	close(f->cancel_fd);
	assert_int_equal(gw_remove_tree(f->dir), 0);
	assert_int_not_equal(access(f->dir, F_OK), 0);
	free(f);
	return 0;
}

static const char *path_of(const struct fixture *f, const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	return path;
}

static void test_time_out(void **state)
{
	struct fixture *f = *state;
	gw_time_ns t0 = gw_now_ns();
	char buf[8];

	assert_int_equal(write(f->pair[1], "abc", 3), 3);
	assert_int_equal(gw_read_full(f->pair[0], buf, sizeof(buf), &f->wait), -ETIMEDOUT);
	assert_true(gw_now_ns() - t0 >= SHORT_NS);
}

/* One byte at a time, each within the time: the limit is on standing still, not on the whole. */
static void *drip(void *arg)
{
	for (int i = 0; i < 8; i++) {
		gw_sleep_ns(SHORT_NS / 2);
		assert_int_equal(write(*(int *)arg, "x", 1), 1);
	}
	return NULL;
}

static void test_progress_extends_the_time(void **state)
{
	struct fixture *f = *state;
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = 100 * SHORT_NS };
	pthread_t thread;
	char buf[8];

	assert_int_equal(pthread_create(&thread, NULL, drip, &f->pair[1]), 0);
	assert_int_equal(gw_read_full(f->pair[0], buf, sizeof(buf), &w), 0);
	pthread_join(thread, NULL);
	assert_memory_equal(buf, "xxxxxxxx", 8);
}

static void *cancel_soon(void *arg)
{
	gw_sleep_ns(SHORT_NS);
	eventfd_write(*(int *)arg, 1);
	return NULL;
}

static void test_cancel(void **state)
{
	struct fixture *f = *state;
	gw_autofree char *much = calloc(1, 8u << 20);
	struct gw_wait w = { .cancel_fd = f->cancel_fd, .idle_ns = GW_TIME_NEVER };
	pthread_t thread;
	eventfd_t ignored;
	char buf[8];

	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &f->cancel_fd), 0);
	assert_int_equal(gw_read_full(f->pair[0], buf, sizeof(buf), &w), -ECANCELED);
	pthread_join(thread, NULL);
	/* It stays cancelled until the event is taken back, for writers too. */
	assert_int_equal(gw_write_full(f->pair[0], much, 8u << 20, &w), -ECANCELED);
	eventfd_read(f->cancel_fd, &ignored);
	w.idle_ns = SHORT_NS;
	assert_int_equal(gw_write_full(f->pair[0], much, 8u << 20, &w), -ETIMEDOUT);
}

static void test_peer_closes(void **state)
{
	struct fixture *f = *state;
	char buf[8];

	assert_int_equal(write(f->pair[1], "abc", 3), 3);
	close(gw_steal_fd(&f->pair[1]));
	assert_int_equal(gw_read_full(f->pair[0], buf, sizeof(buf), &f->wait), -ECONNRESET);
	assert_int_equal(gw_write_full(f->pair[0], buf, sizeof(buf), &f->wait), -EPIPE); /* and no SIGPIPE */
	assert_int_equal(gw_read_full(f->pair[0], buf, 0, &f->wait), 0); /* nothing needs no peer */
	assert_int_equal(gw_wait_fd(f->pair[0], POLLIN, &f->wait), 0); /* a hang-up counts as ready */
	assert_int_equal(gw_wait_fd(9999, POLLIN, &f->wait), -EBADF);
}

struct sink {
	int fd;
	size_t len;
	unsigned char *data;
};

static void *drain(void *arg)
{
	struct sink *s = arg;
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = 10 * GW_NS_PER_S };

	assert_int_equal(gw_read_full(s->fd, s->data, s->len, &w), 0);
	return NULL;
}

/* More pieces than the kernel takes at once, empty ones among them, through a socket that fills up. */
static void test_long_vectors(void **state)
{
	enum { PIECES = IOV_MAX * 2 + 7, PIECE = 700 };
	struct fixture *f = *state;
	gw_autofree unsigned char *in = calloc(PIECES, PIECE), *out = calloc(PIECES, PIECE);
	gw_autofree struct iovec *iov = calloc(PIECES, sizeof(*iov));
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = 10 * GW_NS_PER_S };
	struct sink sink = { .fd = f->pair[1], .data = out };
	pthread_t thread;

	for (size_t i = 0; i < PIECES; i++) {
		iov[i] = (struct iovec){ in + sink.len, i % 5 == 3 ? 0 : 1 + i % PIECE };
		memset(iov[i].iov_base, (int)i, iov[i].iov_len);
		sink.len += iov[i].iov_len;
	}
	assert_int_equal(pthread_create(&thread, NULL, drain, &sink), 0);
	assert_int_equal(gw_writev_full(f->pair[0], iov, PIECES, &w), 0);
	pthread_join(thread, NULL);
	assert_memory_equal(in, out, sink.len);
}

static void test_pipes_and_files(void **state)
{
	struct fixture *f = *state;
	gw_autofd int fd = open(path_of(f, "file"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	char buf[8] = "";
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(gw_set_nonblock(p[0]), 0);
	assert_int_equal(gw_read_full(p[0], buf, 1, &f->wait), -ETIMEDOUT);
	assert_int_equal(gw_write_full(p[1], "1234567", 8, &f->wait), 0);
	assert_int_equal(gw_read_full(p[0], buf, 8, &f->wait), 0);
	assert_string_equal(buf, "1234567");
	close(p[0]);
	close(p[1]);
	assert_int_equal(gw_write_full(fd, "abcdefgh", 8, &f->wait), 0);
	assert_int_equal(lseek(fd, 4, SEEK_SET), 4);
	assert_int_equal(gw_read_full(fd, buf, 8, &f->wait), -ECONNRESET); /* the file ends early */
	assert_int_equal(gw_set_nonblock(-1), -EBADF);
}

static void test_descriptors(void **state)
{
	struct fixture *f = *state;
	gw_autofd int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct stat a, b;
	int got = -1;

	assert_int_equal(gw_recv_fd(f->pair[1], &got, &f->wait), -ETIMEDOUT);
	assert_int_equal(gw_send_fd(f->pair[0], fd), 0);
	assert_int_equal(gw_recv_fd(f->pair[1], &got, &f->wait), 0);
	assert_true(got >= 0 && got != fd);
	assert_true(fstat(fd, &a) == 0 && fstat(got, &b) == 0 && a.st_rdev == b.st_rdev);
	assert_true(fcntl(got, F_GETFD) & FD_CLOEXEC);
	close(got);
	got = -5;
	assert_int_equal(write(f->pair[0], "x", 1), 1); /* a byte without a descriptor */
	assert_int_equal(gw_recv_fd(f->pair[1], &got, &f->wait), -EPROTO);
	close(gw_steal_fd(&f->pair[0]));
	assert_int_equal(gw_recv_fd(f->pair[1], &got, &f->wait), -ECONNRESET);
	assert_int_equal(got, -5);
}

static void test_durable_files(void **state)
{
	struct fixture *f = *state;
	gw_autofree char *text = NULL, *untouched = NULL;
	const char *path = path_of(f, "record");
	struct stat st;
	size_t len = 0;

	assert_int_equal(gw_write_file_durable(path, "first", 5, 0640), 0);
	assert_int_equal(gw_write_file_durable(path, "second\0x", 8, 0640), 0);
	assert_int_equal(gw_read_file(path, 8, &text, &len), 0);
	assert_int_equal(len, 8);
	assert_memory_equal(text, "second\0x", 9); /* and the NUL behind it */
	assert_int_equal(gw_read_file(path, 7, &untouched, NULL), -EFBIG);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(access(path_of(f, "record.new"), F_OK), -1);
	assert_int_equal(gw_read_file(path_of(f, "none"), 10, &untouched, NULL), -ENOENT);
	assert_null(untouched);
	assert_int_equal(gw_write_file_durable(path_of(f, "no/folder"), "x", 1, 0600), -ENOENT);
}

/* What cannot be replaced stays, and no temporary file is left. */
static void test_durable_failure(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mkdir(path_of(f, "folder"), 0700), 0);
	assert_int_equal(mkdir(path_of(f, "folder/in"), 0700), 0);
	assert_int_equal(gw_write_file_durable(path_of(f, "folder"), "x", 1, 0600), -EISDIR);
	assert_int_equal(access(path_of(f, "folder.new"), F_OK), -1);
	assert_int_equal(symlink("/dev/null", path_of(f, "trap.new")), 0);
	assert_int_equal(gw_write_file_durable(path_of(f, "trap"), "x", 1, 0600), -ELOOP);
}

static void test_large_file(void **state)
{
	struct fixture *f = *state;
	gw_autofree char *data = malloc(100001), *back = NULL;
	size_t len;

	for (int i = 0; i < 100001; i++)
		data[i] = (char)(i * 7);
	assert_int_equal(gw_write_file_durable(path_of(f, "large"), data, 100001, 0600), 0);
	assert_int_equal(gw_read_file(path_of(f, "large"), 100001, &back, &len), 0);
	assert_int_equal(len, 100001);
	assert_memory_equal(data, back, len);
}

static void test_trees(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	assert_int_equal(gw_mkdir_p(path_of(f, "a/b/c"), 0700), 0);
	assert_int_equal(gw_mkdir_p(path_of(f, "a/b/c"), 0700), 0);
	assert_int_equal(stat(path_of(f, "a/b/c"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(gw_write_file_durable(path_of(f, "a/b/file"), "x", 1, 0600), 0);
	assert_int_equal(gw_mkdir_p(path_of(f, "a/b/file"), 0700), -ENOTDIR);
	assert_int_equal(gw_mkdir_p(path_of(f, "a/b/file/c"), 0700), -ENOTDIR);
	/* A link out of the tree goes; what it points to stays. */
	assert_int_equal(mkdir(path_of(f, "outside"), 0700), 0);
	assert_int_equal(gw_write_file_durable(path_of(f, "outside/kept"), "x", 1, 0600), 0);
	assert_int_equal(symlink("../../outside", path_of(f, "a/b/link")), 0);
	assert_int_equal(gw_remove_tree(path_of(f, "a")), 0);
	assert_int_equal(access(path_of(f, "a"), F_OK), -1);
	assert_int_equal(access(path_of(f, "outside/kept"), F_OK), 0);
	assert_int_equal(symlink("outside", path_of(f, "link")), 0);
	assert_int_equal(gw_remove_tree(path_of(f, "link")), 0);
	assert_int_equal(access(path_of(f, "outside/kept"), F_OK), 0);
	assert_int_equal(gw_remove_tree(path_of(f, "never/was")), 0);
}

#define TEST(text, fn) { text, fn, setup, teardown, NULL }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("a read that gets no further ends after the idle time", test_time_out),
		TEST("the idle time begins anew with every byte", test_progress_extends_the_time),
		TEST("N1 a cancel ends a blocked read and a blocked write at once", test_cancel),
		TEST("a peer that closes is an error, not a signal", test_peer_closes),
		TEST("vectors longer than IOV_MAX arrive whole through a full socket", test_long_vectors),
		TEST("pipes and files are read and written as sockets are", test_pipes_and_files),
		TEST("a descriptor crosses a socket, close-on-exec", test_descriptors),
		TEST("X1 a durable file is replaced as a whole", test_durable_files),
		TEST("X1 a replacement that fails leaves nothing behind and follows no link", test_durable_failure),
		TEST("a file longer than one buffer is read whole", test_large_file),
		TEST("N9 a tree is removed without following links", test_trees),
	};

	return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}
