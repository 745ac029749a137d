/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Log lines to standard error. */
#include "base/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Set before threads start, read-only afterwards. */
static enum gw_log_level log_max_level = GW_LOG_INFO;
static bool log_under_journal;

void gw_log_init(enum gw_log_level max_level)
{
	const char *env = getenv("GODWIT_LOG");

	log_max_level = env && !strcmp(env, "debug") ? GW_LOG_DEBUG : max_level;
	log_under_journal = getenv("JOURNAL_STREAM") != NULL;
}

static const char *level_word(enum gw_log_level level)
{
	switch (level) {
	case GW_LOG_ERROR:
		return "error";
	case GW_LOG_WARNING:
		return "warning";
	case GW_LOG_INFO:
		return "info";
	case GW_LOG_DEBUG:
		return "debug";
	}
	return "?";
}

static int print_head(char *line, size_t len, enum gw_log_level level, const char *object)
{
	struct timespec ts;
	struct tm tm;
	int n;

	if (log_under_journal) {
		n = snprintf(line, len, "<%d>", level);
	} else {
		clock_gettime(CLOCK_REALTIME, &ts);
		localtime_r(&ts.tv_sec, &tm);
		n = snprintf(line, len, "%02d:%02d:%02d.%03ld %-7s ", tm.tm_hour, tm.tm_min, tm.tm_sec,
		             ts.tv_nsec / 1000000, level_word(level));
	}
	if (object)
		n += snprintf(line + n, len - n, "%s: ", object);
	return n;
}

void gw_log(enum gw_log_level level, const char *object, const char *fmt, ...)
{
	char line[2048];
	va_list ap;
	int n, m;

	if (level > log_max_level)
		return;
	n = print_head(line, sizeof(line) - 1, level, object);
	if (n < 0 || (size_t)n >= sizeof(line) - 1)
		n = 0;
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - 1 - n, fmt, ap);
	va_end(ap);
	if (m < 0)
		return;
	n = (size_t)n + (size_t)m >= sizeof(line) - 1 ? (int)sizeof(line) - 2 : n + m;
	line[n++] = '\n';
	/* One write, so that lines of several threads never mix. */
	if (write(STDERR_FILENO, line, n) < 0)
		return;
}
