/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes, rates and durations as people write them. */
#ifndef GW_BASE_UNITS_H
#define GW_BASE_UNITS_H

#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

#define GW_KIB 1024ULL
#define GW_MIB (1024ULL * GW_KIB)
#define GW_GIB (1024ULL * GW_MIB)

static inline uint64_t gw_round_up(uint64_t v, uint64_t to)
{
	return (v + to - 1) / to * to;
}

/* All parsers: 0 and *ret set, or -EINVAL / -ERANGE with *ret untouched. The whole text must match. */

/* "4096", "8K", "512M", "1G", "2T": bytes, powers of 1024; KiB/MiB/GiB/TiB also accepted. */
int gw_parse_size(const char *text, uint64_t *ret_bytes);

/* "1Gbps", "800Mbps" (bits, powers of 1000) or "100MB/s", "1GiB/s" (bytes): bytes per second.
 * "0", "none" and "unlimited" give 0, which means no limit. */
int gw_parse_rate(const char *text, uint64_t *ret_Bps);

/* "50ms", "2s", "300us", "1m": nanoseconds. A number without a unit is refused. */
int gw_parse_duration(const char *text, gw_time_ns *ret_ns);

/* Formatters write into buf and return it: "1.5 GiB", "118 MB/s", "3.21 ms". */
const char *gw_format_size(char *buf, size_t len, uint64_t bytes);
const char *gw_format_rate(char *buf, size_t len, uint64_t Bps);
const char *gw_format_duration(char *buf, size_t len, gw_time_ns ns);

#endif
