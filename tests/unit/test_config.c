/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwitd's configuration: what a file may say, and what it is told when it is wrong. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "control/config.h"

struct fixture {
	char dir[64], path[96];
	struct gw_config config;
	struct gw_error err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/gw-test-config-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/godwitd.conf", f->dir);
	gw_config_init(&f->config);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	gw_config_done(&f->config);
	assert_int_equal(gw_remove_tree(f->dir), 0);
	free(f);
	return 0;
}

static int read_text(struct fixture *f, const char *text)
{
	f->err = GW_ERROR_INIT;
	assert_int_equal(gw_write_file_durable(f->path, text, strlen(text), 0600), 0);
	return gw_config_read(&f->config, f->path, false, &f->err);
}

static void test_rates(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(f->config.migration_bandwidth_Bps, 0);
	assert_int_equal(read_text(f, "[godwitd]\nmigration_bandwidth = 8Gbps\n"), 0);
	assert_int_equal(f->config.migration_bandwidth_Bps, 1000000000);
	assert_int_equal(read_text(f, "[godwitd]\nmigration_bandwidth = none\n"), 0);
	assert_int_equal(f->config.migration_bandwidth_Bps, 0);
	assert_true(read_text(f, "[godwitd]\nmigration_bandwidth = 8\n") < 0);
	assert_true(read_text(f, "[godwitd]\nmigration_bandwidth = 10KB/s\n") < 0);
	assert_non_null(strstr(f->err.text, "'10KB/s' is no rate of 1MiB/s or more"));
}

static void test_defaults(void **state)
{
	struct fixture *f = *state;
	struct gw_config *c = &f->config;

	assert_string_equal(c->listen, "127.0.0.1:7700");
	assert_string_equal(c->socket, "/run/godwit/godwitd.sock");
	assert_string_equal(c->state_dir, "/var/lib/godwit");
	assert_string_equal(c->run_dir, "/run/godwit");
	assert_string_equal(c->ram_dir, "/dev/shm/godwit");
	assert_string_equal(c->qemu, "qemu-system-x86_64");
	assert_null(c->thp_dir);
	assert_null(c->hugetlb_dir);
	assert_true(c->prepare_timeout_ns == 30 * GW_NS_PER_S);
	assert_true(c->switch_timeout_ns == 10 * GW_NS_PER_S);
	assert_true(c->idle_timeout_ns == 10 * GW_NS_PER_S);
	assert_int_equal(c->delta_cache_bytes, 32 << 20);
	assert_int_equal(c->n_hosts, 0);
}

static void test_file(void **state)
{
	struct fixture *f = *state;
	struct gw_config *c = &f->config;

	assert_int_equal(read_text(f, "# a comment\n"
	                              "[godwitd]\n"
	                              "name = alpha\n"
	                              "listen=10.0.0.1:7700 ; where the others come\n"
	                              "idle_timeout = 500ms\n"
	                              "thp_dir = /mnt/thp\n"
	                              "delta_cache = 0\n"
	                              "\n"
	                              "[hosts]\n"
	                              "beta = 10.0.0.2\n"
	                              "gamma = [fd00::3]:7701\n"),
	                 0);
	assert_string_equal(c->name, "alpha");
	assert_string_equal(c->listen, "10.0.0.1:7700");
	assert_string_equal(c->thp_dir, "/mnt/thp");
	assert_int_equal(c->delta_cache_bytes, 0);
	assert_true(c->idle_timeout_ns == 500 * GW_NS_PER_MS);
	assert_string_equal(c->state_dir, "/var/lib/godwit"); /* untouched */
	assert_int_equal(c->n_hosts, 2);
	assert_string_equal(c->hosts[1].name, "gamma");
	assert_string_equal(c->hosts[1].address, "[fd00::3]:7701");
	/* The command line comes after the file. */
	assert_int_equal(gw_config_set(c, "name", "other", &f->err), 0);
	assert_string_equal(c->name, "other");
}

static void test_faults_in_file(void **state)
{
	static const struct {
		const char *text, *line, *word;
	} rows[] = {
		{ "[godwitd]\nname = a\nlisen = 1.2.3.4\n", "line 3", "lisen" },
		{ "[godwitd]\nidle_timeout = 10\n", "line 2", "idle_timeout" },
		{ "[godwitd]\nprepare_timeout = 0s\n", "line 2", "'0s'" },
		{ "[godwitd]\nswitch_timeout = -1s\n", "line 2", "'-1s'" },
		{ "[godwitd]\ndelta_cache = much\n", "line 2", "'much' is not a size" },
		{ "[godwit]\nname = a\n", "line 2", "[godwit]" },
		{ "name = a\n", "line 1", "section" },
		{ "[godwitd]\nnot a line\n", "line 2", "key = value" },
		{ "[hosts]\nbeta = 10.0.0.2:99999\n", "line 2", "65535" },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < GW_ARRAY_SIZE(rows); i++) {
		assert_int_equal(read_text(f, rows[i].text), -EINVAL);
		if (!strstr(f->err.text, rows[i].line) || !strstr(f->err.text, rows[i].word) ||
		    !strstr(f->err.text, f->path))
			fail_msg("'%s' does not name %s, %s and the file", f->err.text, rows[i].line, rows[i].word);
	}
}

static void test_unknown_key_names_the_known(void **state)
{
	static const char *const keys[] = { "name", "listen", "socket", "state_dir", "run_dir", "ram_dir", "thp_dir",
		                            "hugetlb_dir", "qemu", "shim", "prepare_timeout", "switch_timeout",
		                            "idle_timeout", "delta_cache" };
	struct fixture *f = *state;

	assert_int_equal(gw_config_set(&f->config, "nosuch", "x", &f->err), -EINVAL);
	for (size_t i = 0; i < GW_ARRAY_SIZE(keys); i++) {
		assert_non_null(strstr(f->err.text, keys[i]));
		assert_int_equal(gw_config_set(&f->config, keys[i], strcmp(keys[i], "delta_cache") ? "5s" : "5M", NULL), 0);
	}
}

static void test_missing_file(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(gw_config_read(&f->config, f->path, true, &f->err), 0);
	assert_int_equal(gw_config_read(&f->config, f->path, false, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.text, f->path));
}

static void test_addresses(void **state)
{
	struct fixture *f = *state;
	const char *address = NULL;

	assert_int_equal(gw_config_address(&f->config, "beta", &address, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.text, "[hosts]"));
	assert_int_equal(read_text(f, "[hosts]\nbeta = 10.0.0.2\nlocalhost = 10.0.0.9\n"), 0);
	assert_int_equal(gw_config_address(&f->config, "beta", &address, &f->err), 0);
	assert_string_equal(address, "10.0.0.2");
	assert_int_equal(gw_config_address(&f->config, "localhost", &address, &f->err), 0);
	assert_string_equal(address, "10.0.0.9"); /* a name in the list wins */
	assert_int_equal(gw_config_address(&f->config, "192.0.2.1:7701", &address, &f->err), 0);
	assert_string_equal(address, "192.0.2.1:7701");
	assert_int_equal(gw_config_address(&f->config, "[fd00::1]", &address, &f->err), 0);
	assert_int_equal(gw_config_address(&f->config, "host.example", &address, &f->err), 0);
	assert_int_equal(gw_config_address(&f->config, "gamma", &address, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.text, "gamma"));
	assert_non_null(strstr(f->err.text, "beta"));
}

static void test_bad_addresses(void **state)
{
	static const char *const bad[] = { "b:99999", "b:0", "b:", "b:x", "b:-1", "b:80x", "[fd00::1]:65536", ":7700" };
	struct fixture *f = *state;
	const char *address = NULL;

	for (size_t i = 0; i < GW_ARRAY_SIZE(bad); i++) {
		assert_int_equal(gw_config_address(&f->config, bad[i], &address, &f->err), -EINVAL);
		assert_non_null(strstr(f->err.text, bad[i]));
		assert_null(address);
	}
}

static void test_finish(void **state)
{
	struct fixture *f = *state;
	struct gw_config *c = &f->config;
	char long_name[200];

	assert_int_equal(gw_config_set(c, "shim", "/nonexistent/shim.so", NULL), 0);
	assert_int_equal(gw_config_finish(c, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.text, "/nonexistent/shim.so"));
	assert_int_equal(gw_config_set(c, "shim", "/proc/self/exe", NULL), 0);
	assert_int_equal(gw_config_finish(c, &f->err), 0);
	assert_true(c->name && *c->name); /* the machine's */
	memset(long_name, 'n', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = 0;
	assert_int_equal(gw_config_set(c, "name", long_name, NULL), 0);
	assert_int_equal(gw_config_finish(c, &f->err), -EINVAL);
}

static void test_many_hosts(void **state)
{
	struct fixture *f = *state;
	gw_autofree char *text = malloc(32 * (GW_CONFIG_HOSTS_MAX + 2));
	size_t len = (size_t)sprintf(text, "[hosts]\n");

	for (unsigned i = 0; i < GW_CONFIG_HOSTS_MAX; i++)
		len += (size_t)sprintf(text + len, "host%u = 10.0.0.1\n", i);
	assert_int_equal(read_text(f, text), 0);
	assert_int_equal(f->config.n_hosts, GW_CONFIG_HOSTS_MAX);
	assert_int_equal(read_text(f, "[hosts]\none-more = 10.0.0.1\n"), -EINVAL);
	assert_non_null(strstr(f->err.text, "too many hosts"));
	assert_int_equal(f->config.n_hosts, GW_CONFIG_HOSTS_MAX);
}

#define TEST(text, fn) { text, fn, setup, teardown, NULL }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("defaults are those of the manual", test_defaults),
		TEST("N4 the bandwidth of all migrations is a rate, or none", test_rates),
		TEST("a file sets what it names and nothing else", test_file),
		TEST("a fault is told with file, line and key", test_faults_in_file),
		TEST("an unknown key is told which ones there are", test_unknown_key_names_the_known),
		TEST("a file that is missing is an error only when it was asked for", test_missing_file),
		TEST("N1 a host is found by its name, an address is taken as it is", test_addresses),
		TEST("N1 what can be no address is refused by its looks", test_bad_addresses),
		TEST("what was left out is filled in, and checked", test_finish),
		TEST("the number of hosts is limited", test_many_hosts),
	};

	return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
