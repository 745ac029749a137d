/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwitd's configuration: defaults, the file, then the command line. */
#include "control/config.h"

#include <ini.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "transport/tcp.h"

#define RATE_MIN_Bps (1u << 20)

enum kind { TEXT, DURATION, RATE, SIZE };

static const struct {
	const char *key;
	enum kind kind;
	size_t offset;
	const char *preset; /* NULL: none, or found out by gw_config_finish */
} keys[] = {
	{ "name", TEXT, offsetof(struct gw_config, name), NULL },
	{ "listen", TEXT, offsetof(struct gw_config, listen), "127.0.0.1:7700" },
	{ "socket", TEXT, offsetof(struct gw_config, socket), "/run/godwit/godwitd.sock" },
	{ "state_dir", TEXT, offsetof(struct gw_config, state_dir), "/var/lib/godwit" },
	{ "run_dir", TEXT, offsetof(struct gw_config, run_dir), "/run/godwit" },
	{ "ram_dir", TEXT, offsetof(struct gw_config, ram_dir), "/dev/shm/godwit" },
	{ "thp_dir", TEXT, offsetof(struct gw_config, thp_dir), NULL },
	{ "hugetlb_dir", TEXT, offsetof(struct gw_config, hugetlb_dir), NULL },
	{ "qemu", TEXT, offsetof(struct gw_config, qemu), "qemu-system-x86_64" },
	{ "shim", TEXT, offsetof(struct gw_config, shim), NULL },
	{ "migration_bandwidth", RATE, offsetof(struct gw_config, migration_bandwidth_Bps), "none" },
	{ "delta_cache", SIZE, offsetof(struct gw_config, delta_cache_bytes), "32M" },
	{ "prepare_timeout", DURATION, offsetof(struct gw_config, prepare_timeout_ns), "30s" },
	{ "switch_timeout", DURATION, offsetof(struct gw_config, switch_timeout_ns), "10s" },
	{ "idle_timeout", DURATION, offsetof(struct gw_config, idle_timeout_ns), "10s" },
};

static int out_of_memory(struct gw_error *err)
{
	return gw_error_set(err, ENOMEM, "out of memory");
}

static int set_rate(uint64_t *field, const char *key, const char *value, struct gw_error *err)
{
	uint64_t Bps;

	if (gw_parse_rate(value, &Bps) < 0 || (Bps != 0 && Bps < RATE_MIN_Bps))
		return gw_error_set(err, EINVAL, "%s: '%s' is no rate of 1MiB/s or more (write 1Gbps, 100MB/s or none)", key,
		                    value);
	*field = Bps;
	return 0;
}

static int set_key(struct gw_config *c, size_t i, const char *value, struct gw_error *err)
{
	char *field = (char *)c + keys[i].offset;

	if (keys[i].kind == DURATION) {
		gw_time_ns ns;

		if (gw_parse_duration(value, &ns) < 0 || ns <= 0)
			return gw_error_set(err, EINVAL, "%s: '%s' is not a duration (write 10s or 500ms)", keys[i].key,
			                    value);
		*(gw_time_ns *)field = ns;
		return 0;
	}
	if (keys[i].kind == RATE)
		return set_rate((uint64_t *)field, keys[i].key, value, err);
	if (keys[i].kind == SIZE) {
		uint64_t bytes;

		if (gw_parse_size(value, &bytes) < 0)
			return gw_error_set(err, EINVAL, "%s: '%s' is not a size (write 32M, or 0 for none)", keys[i].key, value);
		*(uint64_t *)field = bytes;
		return 0;
	}
	free(*(char **)field);
	*(char **)field = strdup(value);
	return *(char **)field ? 0 : out_of_memory(err);
}

void gw_config_init(struct gw_config *c)
{
	*c = (struct gw_config){ 0 };
	for (size_t i = 0; i < GW_ARRAY_SIZE(keys); i++)
		if (keys[i].preset)
			(void)set_key(c, i, keys[i].preset, NULL);
}

void gw_config_done(struct gw_config *c)
{
	for (size_t i = 0; i < GW_ARRAY_SIZE(keys); i++)
		if (keys[i].kind == TEXT)
			free(*(char **)((char *)c + keys[i].offset));
	for (unsigned i = 0; i < c->n_hosts; i++) {
		free(c->hosts[i].name);
		free(c->hosts[i].address);
	}
	free(c->hosts);
	*c = (struct gw_config){ 0 };
}

int gw_config_set(struct gw_config *c, const char *key, const char *value, struct gw_error *err)
{
	char known[300] = "";

	for (size_t i = 0; i < GW_ARRAY_SIZE(keys); i++) {
		if (!strcmp(keys[i].key, key))
			return set_key(c, i, value, err);
		strcat(known, i ? ", " : "");
		strcat(known, keys[i].key);
	}
	return gw_error_set(err, EINVAL, "unknown key '%s' (known: %s)", key, known);
}

static int add_host(struct gw_config *c, const char *name, const char *address, struct gw_error *err)
{
	struct gw_config_host *more;

	if (gw_tcp_check_address(address, err) < 0)
		return gw_error_prefix(err, "host %s", name);
	if (c->n_hosts == GW_CONFIG_HOSTS_MAX)
		return gw_error_set(err, E2BIG, "too many hosts (at most %d)", GW_CONFIG_HOSTS_MAX);
	more = realloc(c->hosts, (c->n_hosts + 1) * sizeof(*more));
	if (!more)
		return out_of_memory(err);
	c->hosts = more;
	c->hosts[c->n_hosts] = (struct gw_config_host){ strdup(name), strdup(address) };
	c->n_hosts++;
	return c->hosts[c->n_hosts - 1].name && c->hosts[c->n_hosts - 1].address ? 0 : out_of_memory(err);
}

struct reading {
	struct gw_config *config;
	struct gw_error error;
};

static int on_line(void *arg, const char *section, const char *name, const char *value)
{
	struct reading *r = arg;

	if (!strcmp(section, "godwitd"))
		return gw_config_set(r->config, name, value, &r->error) == 0;
	if (!strcmp(section, "hosts"))
		return add_host(r->config, name, value, &r->error) == 0;
	gw_error_set(&r->error, EINVAL, "unknown section [%s] (known: [godwitd], [hosts])", section);
	return 0;
}

int gw_config_read(struct gw_config *c, const char *path, bool optional, struct gw_error *err)
{
	struct reading r = { .config = c };
	int line;

	if (optional && access(path, F_OK) < 0 && errno == ENOENT)
		return 0;
	line = ini_parse(path, on_line, &r);
	if (line == 0)
		return 0;
	if (line < 0)
		return gw_error_set_errno(err, errno, "cannot read the configuration %s", path);
	return gw_error_set(err, EINVAL, "%s, line %d: %s", path, line,
	                    r.error.code ? r.error.text : "this is not key = value");
}

/* The shim that was built or installed with this program. */
static char *find_shim(void)
{
	static const char *const places[] = { "../shim/libgodwit-shim.so", "../lib/godwit/libgodwit-shim.so",
		                              "../lib/x86_64-linux-gnu/godwit/libgodwit-shim.so",
		                              "../lib/x86_64-linux-gnu/libgodwit-shim.so", "../lib/libgodwit-shim.so" };
	char self[PATH_MAX], path[2 * PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n < 0)
		return NULL;
	self[n] = 0;
	slash = strrchr(self, '/');
	if (slash)
		*slash = 0;
	for (size_t i = 0; i < GW_ARRAY_SIZE(places); i++) {
		snprintf(path, sizeof(path), "%s/%s", self, places[i]);
		if (access(path, R_OK) == 0)
			return realpath(path, NULL);
	}
	return NULL;
}

int gw_config_finish(struct gw_config *c, struct gw_error *err)
{
	char name[HOST_NAME_MAX + 1] = "";

	if (!c->name) {
		gethostname(name, sizeof(name) - 1);
		c->name = strdup(*name ? name : "localhost");
	}
	if (!c->name)
		return out_of_memory(err);
	if (strlen(c->name) > 100)
		return gw_error_set(err, EINVAL, "name: '%s' is too long", c->name);
	if (!c->shim)
		c->shim = find_shim();
	if (!c->shim)
		return gw_error_set(err, ENOENT, "libgodwit-shim.so not found; say where it is with --shim or shim=");
	if (access(c->shim, R_OK) < 0)
		return gw_error_set_errno(err, errno, "shim %s", c->shim);
	return 0;
}

int gw_config_address(const struct gw_config *c, const char *to, const char **ret, struct gw_error *err)
{
	char known[500] = "";

	for (unsigned i = 0; i < c->n_hosts; i++) {
		if (!strcmp(c->hosts[i].name, to)) {
			*ret = c->hosts[i].address;
			return 0;
		}
		if (strlen(known) + strlen(c->hosts[i].name) + 3 < sizeof(known)) {
			strcat(known, *known ? ", " : "");
			strcat(known, c->hosts[i].name);
		}
	}
	if (strpbrk(to, ".:") || !strcmp(to, "localhost")) {
		int r = gw_tcp_check_address(to, err);

		if (r == 0)
			*ret = to;
		return r;
	}
	return gw_error_set(err, ENOENT, "unknown host '%s' (known: %s; an address works too)", to,
	                    *known ? known : "none, see [hosts] in godwitd.conf");
}
