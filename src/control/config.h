/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwitd's configuration: defaults, the file, then the command line. */
#ifndef GW_CONTROL_CONFIG_H
#define GW_CONTROL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/error.h"

#define GW_CONFIG_HOSTS_MAX 1024

struct gw_config_host {
	char *name, *address;
};

struct gw_config {
	char *name;      /* of this host; default: the machine's host name */
	char *listen;    /* address:port for other hosts; default 127.0.0.1:7700 */
	char *socket;    /* the API's unix socket */
	char *state_dir; /* durable */
	char *run_dir, *ram_dir, *thp_dir, *hugetlb_dir;
	char *qemu, *shim;
	uint64_t migration_bandwidth_Bps; /* of all outgoing migrations together; 0: no limit */
	uint64_t delta_cache_bytes; /* for differences, a migration at most */
	gw_time_ns prepare_timeout_ns, switch_timeout_ns, idle_timeout_ns;
	struct gw_config_host *hosts;
	unsigned n_hosts;
};

void gw_config_init(struct gw_config *c);
void gw_config_done(struct gw_config *c);

/* Reads the INI file at `path`; a missing file is an error unless `optional`. Names line and key of what is wrong. */
int gw_config_read(struct gw_config *c, const char *path, bool optional, struct gw_error *err);

/* Sets one key of section [godwitd] as the file would: "listen", "0.0.0.0:7700". */
int gw_config_set(struct gw_config *c, const char *key, const char *value, struct gw_error *err);

/* Fills what was left out. */
int gw_config_finish(struct gw_config *c, struct gw_error *err);

/* Address of a host by name; `to` itself when it looks like an address (has a '.' or ':' or is "localhost").
 * -ENOENT with the known names, -EINVAL for what can be no address. The result lives as long as c and `to`. */
int gw_config_address(const struct gw_config *c, const char *to, const char **ret, struct gw_error *err);

#endif
