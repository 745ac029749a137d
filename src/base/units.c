/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes, rates and durations as people write them. */
#include "base/units.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"

struct unit {
	const char *name;
	double factor;
};

static const struct unit size_units[] = {
	{ "", 1 },           { "B", 1 },
	{ "K", GW_KIB },     { "KiB", GW_KIB },
	{ "M", GW_MIB },     { "MiB", GW_MIB },
	{ "G", GW_GIB },     { "GiB", GW_GIB },
	{ "T", 1024.0 * GW_GIB }, { "TiB", 1024.0 * GW_GIB },
};

/* Bits are powers of 1000, as network people count; bytes with an i are powers of 1024. */
static const struct unit rate_units[] = {
	{ "bps", 1 / 8.0 },    { "Kbps", 1e3 / 8 },     { "Mbps", 1e6 / 8 },    { "Gbps", 1e9 / 8 },
	{ "B/s", 1 },          { "kB/s", 1e3 },         { "MB/s", 1e6 },        { "GB/s", 1e9 },
	{ "KiB/s", GW_KIB },   { "MiB/s", GW_MIB },     { "GiB/s", GW_GIB },
};

static const struct unit duration_units[] = {
	{ "ns", 1 },  { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 }, { "m", 60e9 }, { "min", 60e9 }, { "h", 3600e9 },
};

static int parse(const char *text, const struct unit *units, size_t n, uint64_t *ret)
{
	double value;
	char *end;
	size_t i;

	if (!isdigit((unsigned char)text[0]) || strlen(text) > 32 || strpbrk(text, "xX") == text + 1)
		return -EINVAL;
	errno = 0;
	value = strtod(text, &end);
	if (errno || !isfinite(value))
		return -ERANGE;
	while (*end == ' ')
		end++;
	for (i = 0; i < n; i++) {
		if (strcasecmp(end, units[i].name))
			continue;
		value *= units[i].factor;
		if (value >= 9.2e18)
			return -ERANGE;
		*ret = (uint64_t)(value + 0.5);
		return 0;
	}
	return -EINVAL;
}

int gw_parse_size(const char *text, uint64_t *ret_bytes)
{
	return parse(text, size_units, GW_ARRAY_SIZE(size_units), ret_bytes);
}

int gw_parse_rate(const char *text, uint64_t *ret_Bps)
{
	if (!strcmp(text, "0") || !strcasecmp(text, "none") || !strcasecmp(text, "unlimited")) {
		*ret_Bps = 0;
		return 0;
	}
	return parse(text, rate_units, GW_ARRAY_SIZE(rate_units), ret_Bps);
}

int gw_parse_duration(const char *text, gw_time_ns *ret_ns)
{
	uint64_t v = 0;
	int r = parse(text, duration_units, GW_ARRAY_SIZE(duration_units), &v);

	if (r == 0)
		*ret_ns = (gw_time_ns)v;
	return r;
}

static const char *format(char *buf, size_t len, double value, double step, const char *const *names,
                          size_t n)
{
	size_t i = 0;

	while (value >= step && i + 1 < n) {
		value /= step;
		i++;
	}
	if (i == 0)
		snprintf(buf, len, "%.0f %s", value, names[i]);
	else
		snprintf(buf, len, value < 10 ? "%.2f %s" : value < 100 ? "%.1f %s" : "%.0f %s", value, names[i]);
	return buf;
}

const char *gw_format_size(char *buf, size_t len, uint64_t bytes)
{
	static const char *const names[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };

	return format(buf, len, (double)bytes, 1024, names, GW_ARRAY_SIZE(names));
}

const char *gw_format_rate(char *buf, size_t len, uint64_t Bps)
{
	static const char *const names[] = { "B/s", "kB/s", "MB/s", "GB/s", "TB/s" };

	return format(buf, len, (double)Bps, 1000, names, GW_ARRAY_SIZE(names));
}

const char *gw_format_duration(char *buf, size_t len, gw_time_ns ns)
{
	if (ns < 0)
		snprintf(buf, len, "-");
	else if (ns < GW_NS_PER_MS)
		snprintf(buf, len, "%.0f us", (double)ns / 1e3);
	else if (ns < GW_NS_PER_S)
		snprintf(buf, len, "%.2f ms", (double)ns / 1e6);
	else if (ns < 120 * GW_NS_PER_S)
		snprintf(buf, len, "%.2f s", (double)ns / 1e9);
	else
		snprintf(buf, len, "%.1f min", (double)ns / 60e9);
	return buf;
}
