/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ownership record on disk: what is read back after crashes, torn writes and writes that fail (X1). */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/io.h"
#include "migration/journal.h"

/* What journal.c lays down: docs/handover.md. */
#define SLOT_BYTES 4096
#define SLOTS 16

struct fixture {
	char dir[64], path[96];
	struct gw_journal *journal;
	struct gw_record last;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/gw-test-journal-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/journal", f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	gw_journal_free(f->journal);
	assert_int_equal(gw_remove_tree(f->dir), 0);
	free(f);
	return 0;
}

static void reopen(struct fixture *f)
{
	struct gw_error err = GW_ERROR_INIT;

	gw_journal_free(gw_steal(&f->journal));
	memset(&f->last, 0xee, sizeof(f->last));
	if (gw_journal_open(f->path, &f->journal, &f->last, &err) < 0)
		fail_msg("%s", err.text);
}

/* Record number n, different in every field from its neighbours. */
static struct gw_record record(unsigned n)
{
	struct gw_record rec = { .state = (enum gw_record_state)(1 + n % (GW_RECORD_STATES - 1)), .epoch = 1000 + n };

	memset(rec.migration.bytes, (int)n, sizeof(rec.migration.bytes));
	snprintf(rec.peer_name, sizeof(rec.peer_name), "host%u", n);
	snprintf(rec.peer_address, sizeof(rec.peer_address), "10.0.0.%u:7700", n);
	return rec;
}

static void append(struct fixture *f, unsigned from, unsigned to)
{
	for (unsigned n = from; n <= to; n++) {
		struct gw_record rec = record(n);

		assert_int_equal(gw_journal_write(f->journal, &rec, NULL), 0);
	}
}

static void assert_last(struct fixture *f, unsigned n)
{
	struct gw_record want = record(n);

	if (f->last.epoch != want.epoch)
		fail_msg("the newest record is that of epoch %llu, wanted %llu", (unsigned long long)f->last.epoch,
		         (unsigned long long)want.epoch);
	assert_int_equal(f->last.state, want.state);
	assert_memory_equal(&f->last.migration, &want.migration, sizeof(want.migration));
	assert_string_equal(f->last.peer_name, want.peer_name);
	assert_string_equal(f->last.peer_address, want.peer_address);
}

/* The n-th write since the file was made lies in slot n % SLOTS. */
static void damage(struct fixture *f, unsigned n, off_t offset, const void *data, size_t len)
{
	gw_autofd int fd = open(f->path, O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, len, (off_t)(n % SLOTS) * SLOT_BYTES + offset), len);
}

static void test_empty(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	reopen(f);
	assert_int_equal(f->last.state, GW_RECORD_NONE);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_true(st.st_size >= SLOTS * SLOT_BYTES);
	assert_true(st.st_blocks * 512 >= SLOTS * SLOT_BYTES); /* allocated: a write changes no metadata */
	reopen(f);
	assert_int_equal(f->last.state, GW_RECORD_NONE);
}

static void test_append(void **state)
{
	struct fixture *f = *state;

	reopen(f);
	for (unsigned n = 1; n <= 5; n++) {
		append(f, n, n);
		reopen(f);
		assert_last(f, n);
	}
}

static void test_ring(void **state)
{
	struct fixture *f = *state;
	struct stat before, after;

	reopen(f);
	assert_int_equal(stat(f->path, &before), 0);
	for (unsigned n = 1; n <= 3 * SLOTS + 5; n++) {
		append(f, n, n);
		if (n % 7 == 0 || n % SLOTS <= 1) {
			reopen(f);
			assert_last(f, n);
		}
	}
	reopen(f);
	assert_last(f, 3 * SLOTS + 5);
	assert_int_equal(stat(f->path, &after), 0);
	assert_int_equal(before.st_size, after.st_size);
	assert_int_equal(before.st_blocks, after.st_blocks);
}

static void test_torn(void **state)
{
	static const size_t torn_at[] = { 0, 1, 8, 16, 20, 24, 32, 48, 100, 300, 479 };

	for (size_t i = 0; i < GW_ARRAY_SIZE(torn_at); i++) {
		struct fixture *f = *state;
		gw_autofree char *text = NULL, *before = NULL;
		size_t len;

		unlink(f->path);
		reopen(f);
		append(f, 1, SLOTS + 3);
		assert_int_equal(gw_read_file(f->path, 1u << 20, &before, &len), 0);
		append(f, SLOTS + 4, SLOTS + 4);
		assert_int_equal(gw_read_file(f->path, 1u << 20, &text, &len), 0);
		/* The write reached the disk up to torn_at; behind it the slot's older contents stand. */
		damage(f, SLOTS + 4, (off_t)torn_at[i], before + 4 * SLOT_BYTES + torn_at[i], SLOT_BYTES - torn_at[i]);
		reopen(f);
		assert_last(f, SLOTS + 3);
		/* And the next one is newer than all, whatever the torn slot held. */
		append(f, 50, 50);
		reopen(f);
		assert_last(f, 50);
	}
}

static void test_every_bit_counts(void **state)
{
	struct fixture *f = *state;
	gw_autofree char *good = NULL;
	size_t len;

	reopen(f);
	append(f, 1, 3);
	assert_int_equal(gw_read_file(f->path, 1u << 20, &good, &len), 0);
	for (off_t at = 0; at < 488; at++) {
		char changed = (char)(good[3 * SLOT_BYTES + at] ^ (1 << at % 8));

		damage(f, 3, at, &changed, 1);
		reopen(f);
		assert_last(f, 2);
		damage(f, 3, at, good + 3 * SLOT_BYTES + at, 1);
	}
	reopen(f);
	assert_last(f, 3);
}

static void test_all_lost(void **state)
{
	struct fixture *f = *state;
	char noise[SLOT_BYTES];

	memset(noise, 0x5a, sizeof(noise));
	reopen(f);
	append(f, 1, 20);
	for (unsigned n = 0; n < SLOTS; n++)
		damage(f, n, 0, noise, sizeof(noise));
	reopen(f);
	assert_int_equal(f->last.state, GW_RECORD_NONE);
	append(f, 7, 7);
	reopen(f);
	assert_last(f, 7);
}

static void test_cannot_open(void **state)
{
	struct fixture *f = *state;
	struct gw_error err = GW_ERROR_INIT;

	assert_int_equal(gw_journal_open("/nonexistent/journal", &f->journal, &f->last, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/journal"));
	assert_int_equal(symlink("/etc/passwd", f->path), 0);
	assert_int_equal(gw_journal_open(f->path, &f->journal, &f->last, &err), -ELOOP);
	assert_null(f->journal);
}

static void test_long_names(void **state)
{
	struct fixture *f = *state;
	struct gw_record rec = record(1);

	memset(rec.peer_name, 'n', sizeof(rec.peer_name));       /* no NUL: cut, never overrun */
	memset(rec.peer_address, 'a', sizeof(rec.peer_address));
	reopen(f);
	assert_int_equal(gw_journal_write(f->journal, &rec, NULL), 0);
	reopen(f);
	assert_int_equal(strlen(f->last.peer_name), sizeof(rec.peer_name) - 1);
	assert_int_equal(strlen(f->last.peer_address), sizeof(rec.peer_address) - 1);
}

/* In a child, since fault points are armed once in a process. */
static int write_under_fault(struct fixture *f)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_record rec = record(9);

	if (gw_fault_init(NULL) < 0 || gw_journal_write(f->journal, &rec, &err) != -ENOSPC)
		return 1;
	return strstr(err.text, f->path) && strstr(err.text, strerror(ENOSPC)) ? 0 : 2;
}

static void test_failing_write(void **state)
{
	struct fixture *f = *state;
	int status;
	pid_t pid;

	reopen(f);
	append(f, 1, 2);
	setenv("GODWIT_FAULTS", "journal-write=error:ENOSPC", 1);
	pid = fork();
	if (pid == 0)
		_exit(write_under_fault(f));
	unsetenv("GODWIT_FAULTS");
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	reopen(f);
	assert_last(f, 2);
}

/* A write that failed may still reach the disk: what is written next must have a slot and a number of its own. */
static void test_after_a_failure(void **state)
{
	struct fixture *f = *state;
	struct rlimit none, before;
	struct gw_record rec = record(3);

	reopen(f);
	append(f, 1, 2);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	none = before;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	assert_int_equal(gw_journal_write(f->journal, &rec, NULL), -EFBIG);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	append(f, 4, 4);
	reopen(f);
	assert_last(f, 4);
	append(f, 5, 5);
	damage(f, 5, 0, "x", 1);
	reopen(f);
	assert_last(f, 4); /* which 5 did not overwrite */
	damage(f, 4, 0, "x", 1);
	reopen(f);
	assert_last(f, 2); /* which neither 3 nor 4 overwrote */
}

static void test_names(void **state)
{
	for (unsigned s = 0; s < GW_RECORD_STATES; s++)
		assert_true(strlen(gw_record_state_name((enum gw_record_state)s)) > 2);
	assert_string_equal(gw_record_state_name(GW_RECORD_STATES), "?");
	gw_journal_free(NULL);
}

#define TEST(text, fn) { text, fn, setup, teardown, NULL }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("X1 a new journal is allocated, private and holds no record", test_empty),
		TEST("X1 what was written last is read back after a restart", test_append),
		TEST("X1 the ring goes round and the file never grows", test_ring),
		TEST("X1 a torn write leaves the record before it, wherever it was torn", test_torn),
		TEST("X1 one changed bit anywhere in a record is noticed", test_every_bit_counts),
		TEST("X1 a journal of garbage holds no record and takes new ones", test_all_lost),
		TEST("a journal that cannot be opened is named", test_cannot_open),
		TEST("names that are too long are cut", test_long_names),
		TEST("X1 a failed write is told and leaves the record before it", test_failing_write),
		TEST("X1 a record that follows a failed write is the newest", test_after_a_failure),
		TEST("every state has a name", test_names),
	};

	return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}
