/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Units, errors, clocks and fault points. */
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/units.h"

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 }, { "4096", 4096 }, { "1B", 1 }, { "8K", 8192 }, { "8k", 8192 }, { "512M", 512ull << 20 },
		{ "512 MiB", 512ull << 20 }, { "1.5G", 3ull << 29 }, { "2T", 2ull << 40 }, { "64TiB", 64ull << 40 },
	};
	static const char *const bad[] = { "", "M", "-1", "+1", " 1", "1 M B", "1MB", "12Mi", "0x10", "1p3", "nan",
		                           "inf", "1,5G", "1G ", "4096 4096" };
	uint64_t v;

	for (size_t i = 0; i < GW_ARRAY_SIZE(good); i++) {
		if (gw_parse_size(good[i].text, &v) < 0 || v != good[i].bytes)
			fail_msg("'%s' should be %llu bytes", good[i].text, (unsigned long long)good[i].bytes);
	}
	for (size_t i = 0; i < GW_ARRAY_SIZE(bad); i++) {
		v = 77;
		if (gw_parse_size(bad[i], &v) != -EINVAL || v != 77)
			fail_msg("'%s' should not be a size", bad[i]);
	}
	assert_int_equal(gw_parse_size("99999999999T", &v), -ERANGE);
	assert_int_equal(gw_parse_size("1e999", &v), -ERANGE);
	assert_int_equal(v, 77);
}

static void test_rates(void **state)
{
	static const struct {
		const char *text;
		uint64_t Bps;
	} good[] = {
		{ "0", 0 }, { "none", 0 }, { "Unlimited", 0 }, { "1Gbps", 125000000 }, { "800Mbps", 100000000 },
		{ "8bps", 1 }, { "100MB/s", 100000000 }, { "1GiB/s", 1ull << 30 }, { "1.5 kB/s", 1500 },
	};
	static const char *const bad[] = { "", "100", "1G", "1Gb", "fast", "-1Gbps", "100MB", "10/s" };
	uint64_t v;

	for (size_t i = 0; i < GW_ARRAY_SIZE(good); i++) {
		if (gw_parse_rate(good[i].text, &v) < 0 || v != good[i].Bps)
			fail_msg("'%s' should be %llu bytes a second", good[i].text, (unsigned long long)good[i].Bps);
	}
	for (size_t i = 0; i < GW_ARRAY_SIZE(bad); i++)
		if (gw_parse_rate(bad[i], &v) != -EINVAL)
			fail_msg("'%s' should not be a rate", bad[i]);
}

static void test_durations(void **state)
{
	static const struct {
		const char *text;
		gw_time_ns ns;
	} good[] = {
		{ "0s", 0 }, { "300us", 300000 }, { "50ms", 50000000 }, { "2s", 2000000000 }, { "1m", 60000000000 },
		{ "1.5 h", 5400000000000 }, { "7ns", 7 },
	};
	static const char *const bad[] = { "", "50", "ms", "50 m s", "-1s", "1d", "1e-9" };
	gw_time_ns v;

	for (size_t i = 0; i < GW_ARRAY_SIZE(good); i++) {
		if (gw_parse_duration(good[i].text, &v) < 0 || v != good[i].ns)
			fail_msg("'%s' should be %lld ns", good[i].text, (long long)good[i].ns);
	}
	for (size_t i = 0; i < GW_ARRAY_SIZE(bad); i++)
		if (gw_parse_duration(bad[i], &v) != -EINVAL)
			fail_msg("'%s' should not be a duration", bad[i]);
	assert_int_equal(gw_parse_duration("9999999999h", &v), -ERANGE);
}

static void test_formats(void **state)
{
	char buf[32];

	assert_string_equal(gw_format_size(buf, sizeof(buf), 0), "0 B");
	assert_string_equal(gw_format_size(buf, sizeof(buf), 1023), "1023 B");
	assert_string_equal(gw_format_size(buf, sizeof(buf), 1536), "1.50 KiB");
	assert_string_equal(gw_format_size(buf, sizeof(buf), 512ull << 20), "512 MiB");
	assert_string_equal(gw_format_size(buf, sizeof(buf), 12ull << 30), "12.0 GiB");
	assert_string_equal(gw_format_rate(buf, sizeof(buf), 118000000), "118 MB/s");
	assert_string_equal(gw_format_duration(buf, sizeof(buf), 999), "1 us");
	assert_string_equal(gw_format_duration(buf, sizeof(buf), 3210000), "3.21 ms");
	assert_string_equal(gw_format_duration(buf, sizeof(buf), 90 * GW_NS_PER_S), "90.00 s");
	assert_string_equal(gw_format_duration(buf, sizeof(buf), 3600 * GW_NS_PER_S), "60.0 min");
	assert_string_equal(gw_format_duration(buf, sizeof(buf), -1), "-");
	assert_string_equal(gw_format_size(buf, 4, 512ull << 20), "512"); /* cut, not overrun */
}

static void test_errors(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	char longer[GW_ERROR_TEXT_MAX * 2];

	assert_int_equal(gw_error_set(&err, ENOENT, "no %s", "thing"), -ENOENT);
	assert_int_equal(err.code, -ENOENT);
	assert_string_equal(gw_error_text(&err), "no thing");
	assert_int_equal(gw_error_set(&err, -EPERM, "x"), -EPERM);
	assert_int_equal(gw_error_set(&err, 0, "x"), -EIO); /* an error is never 0 */
	assert_int_equal(gw_error_set(NULL, EBUSY, "nobody reads it"), -EBUSY);
	assert_int_equal(gw_error_set_errno(&err, -ENOSPC, "cannot write %d", 7), -ENOSPC);
	assert_string_equal(err.text, "cannot write 7: No space left on device");
	assert_int_equal(gw_error_prefix(&err, "vm %s", "web1"), -ENOSPC);
	assert_string_equal(err.text, "vm web1: cannot write 7: No space left on device");
	err = (struct gw_error){ .code = -EAGAIN };
	assert_string_equal(gw_error_text(&err), strerror(EAGAIN));
	memset(longer, 'a', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	gw_error_set_errno(&err, EIO, "%s", longer);
	assert_int_equal(strlen(err.text), GW_ERROR_TEXT_MAX - 1);
	gw_error_prefix(&err, "%s", longer);
	assert_int_equal(strlen(err.text), GW_ERROR_TEXT_MAX - 1);
	assert_int_equal(gw_error_set_errno(NULL, 0, "x"), -EIO);
	assert_int_equal(gw_error_prefix(NULL, "x"), -EIO);
}

static void test_clock(void **state)
{
	gw_time_ns before = gw_now_ns(), soon = gw_deadline_in(GW_NS_PER_S);

	assert_true(soon >= before + GW_NS_PER_S);
	assert_true(gw_poll_ms(soon) > 900 && gw_poll_ms(soon) <= 1000);
	assert_int_equal(gw_poll_ms(before - 1), 0);
	assert_int_equal(gw_poll_ms(GW_TIME_NEVER), -1);
	assert_int_equal(gw_poll_ms(GW_TIME_NEVER - 1), INT_MAX);
	assert_true(gw_deadline_in(GW_TIME_NEVER) == GW_TIME_NEVER);
	assert_true(gw_deadline_in(GW_TIME_NEVER - 1) == GW_TIME_NEVER);
	/* A remainder below a millisecond is rounded up: no spinning with a time-out of 0. */
	assert_int_equal(gw_poll_ms(gw_deadline_in(GW_NS_PER_MS / 2)), 1);
	gw_sleep_ns(-1);
	before = gw_now_ns();
	gw_sleep_ns(2 * GW_NS_PER_MS);
	assert_true(gw_now_ns() - before >= 2 * GW_NS_PER_MS);
}

/* The points are armed once in a process: each case has its own. What `act` returns is the exit code. */
static int in_child(const char *faults, int (*act)(void))
{
	pid_t pid;
	int status;

	if (faults)
		setenv("GODWIT_FAULTS", faults, 1);
	else
		unsetenv("GODWIT_FAULTS");
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(act());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	unsetenv("GODWIT_FAULTS");
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int act_init(void)
{
	struct gw_error err = GW_ERROR_INIT;
	int r = gw_fault_init(&err);

	return r == 0 ? 0 : r == -EINVAL && strstr(err.text, "GODWIT_FAULTS: ") == err.text ? 1 : 2;
}

struct meeting {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool come;
};

static void *come(void *arg)
{
	struct meeting *m = arg;

	GW_LOCKED(&m->lock);
	m->come = true;
	pthread_cond_broadcast(&m->changed);
	return NULL;
}

static void test_cond_wait(void **state)
{
	struct meeting m = { .lock = PTHREAD_MUTEX_INITIALIZER };
	gw_time_ns deadline;
	pthread_t thread;
	int r = 0;

	gw_cond_init(&m.changed);
	{
		GW_LOCKED(&m.lock);
		deadline = gw_deadline_in(20 * GW_NS_PER_MS);
		while (r == 0)
			r = gw_cond_wait(&m.changed, &m.lock, deadline);
		assert_int_equal(r, -ETIMEDOUT);
		assert_true(gw_now_ns() >= deadline);
		assert_int_equal(gw_cond_wait(&m.changed, &m.lock, deadline), -ETIMEDOUT);
		assert_int_equal(gw_thread_start(&thread, NULL, come, &m), 0);
		while (!m.come)
			assert_int_equal(gw_cond_wait(&m.changed, &m.lock, GW_TIME_NEVER), 0);
	}
	assert_int_equal(pthread_join(thread, NULL), 0);
	pthread_cond_destroy(&m.changed);
}

static void test_fault_parsing(void **state)
{
	static const char *const good[] = {
		"", "journal-write=error", "journal-write=error:ENOSPC", "source-stopped=crash",
		"source-pass-begin=delay:0,journal-write=error,source-stopped=crash", "target-loaded=hold:/tmp/x",
	};
	static const char *const bad[] = {
		"journal-write", "nosuch=crash", "journal-write=", "journal-write=explode", "journal-write=delay",
		"journal-write=hold", "journal-write=error,nosuch=error", "=crash", "journal-write=error:EWHAT",
		"journal-write=delay:soon", "journal-write=delay:-1", "journal-write=delay:1s", "journal-write=crash:now",
	};

	assert_int_equal(in_child(NULL, act_init), 0);
	for (size_t i = 0; i < GW_ARRAY_SIZE(good); i++)
		if (in_child(good[i], act_init) != 0)
			fail_msg("'%s' should be good", good[i]);
	for (size_t i = 0; i < GW_ARRAY_SIZE(bad); i++)
		if (in_child(bad[i], act_init) != 1)
			fail_msg("'%s' should be refused", bad[i]);
}

static int act_unknown(void)
{
	struct gw_error err = GW_ERROR_INIT;

	gw_fault_init(&err);
	for (const char *const *n = gw_fault_names(); *n; n++)
		if (!strstr(err.text, *n))
			return 1;
	return strstr(err.text, "nosuch") ? 0 : 2;
}

static int act_errors(void)
{
	if (gw_fault_init(NULL) < 0)
		return 1;
	for (int i = 0; i < 3; i++)
		if (gw_fault("journal-write") != -ENOSPC)
			return 2; /* every time */
	if (gw_fault("source-stopped") != -EIO || gw_fault("target-loaded") != 0)
		return 3;
	return 0;
}

static int act_unarmed(void)
{
	return gw_fault_init(NULL) == 0 && gw_fault("journal-write") == 0 ? 0 : 1;
}

static int act_crash(void)
{
	return gw_fault_init(NULL) < 0 ? 1 : gw_fault("source-stopped") ? 2 : 3;
}

static int act_delay(void)
{
	gw_time_ns t0 = gw_now_ns();

	if (gw_fault_init(NULL) < 0 || gw_fault("source-stopped") != 0)
		return 1;
	return gw_now_ns() - t0 >= 30 * GW_NS_PER_MS ? 0 : 2;
}

static void test_fault_actions(void **state)
{
	assert_int_equal(in_child("nosuch=crash", act_unknown), 0);
	assert_int_equal(in_child("journal-write=error:ENOSPC,source-stopped=error", act_errors), 0);
	assert_int_equal(in_child(NULL, act_unarmed), 0);
	assert_int_equal(in_child("source-stopped=crash", act_crash), 128 + SIGKILL);
	assert_int_equal(in_child("source-stopped=delay:30", act_delay), 0);
}

static char hold_path[64];

static int act_hold(void)
{
	return gw_fault_init(NULL) == 0 && gw_fault("source-stopped") == 0 ? 0 : 1;
}

static int act_hold_released(void)
{
	char file[96];
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(act_hold());
	snprintf(file, sizeof(file), "%s.reached", hold_path);
	while (access(file, F_OK) < 0)
		gw_sleep_ns(GW_NS_PER_MS);
	if (waitpid(pid, &status, WNOHANG) != 0)
		return 1; /* did not wait */
	snprintf(file, sizeof(file), "%s.go", hold_path);
	fclose(fopen(file, "w"));
	return waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 2;
}

static void test_fault_hold(void **state)
{
	char dir[] = "/tmp/gw-test-base-XXXXXX", faults[128], file[96];

	assert_non_null(mkdtemp(dir));
	snprintf(hold_path, sizeof(hold_path), "%s/hold", dir);
	snprintf(faults, sizeof(faults), "source-stopped=hold:%s", hold_path);
	assert_int_equal(in_child(faults, act_hold_released), 0);
	snprintf(file, sizeof(file), "%s.reached", hold_path);
	assert_int_equal(unlink(file), 0);
	snprintf(file, sizeof(file), "%s.go", hold_path);
	assert_int_equal(unlink(file), 0);
	assert_int_equal(rmdir(dir), 0);
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("sizes as people write them; nothing else is taken for one", test_sizes),
		TEST("rates in bits are powers of 1000, bare numbers are refused", test_rates),
		TEST("durations need their unit", test_durations),
		TEST("formatted values keep three digits and never overrun", test_formats),
		TEST("an error has a code that is never 0 and one sentence, cut when too long", test_errors),
		TEST("deadlines saturate, and what is left is rounded up", test_clock),
		TEST("a wait on a condition ends when it is signalled, and not before its deadline", test_cond_wait),
		TEST("fault points are parsed strictly", test_fault_parsing),
		TEST("fault points crash, fail every time, delay, and do nothing unarmed", test_fault_actions),
		TEST("a held fault point tells that it was reached and waits to be let go", test_fault_hold),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
