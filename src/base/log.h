/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Log lines to standard error: "LEVEL object: message", with sd-daemon's <N> prefixes under systemd. */
#ifndef GW_BASE_LOG_H
#define GW_BASE_LOG_H

enum gw_log_level {
	GW_LOG_ERROR = 3, /* numbers are syslog's */
	GW_LOG_WARNING = 4,
	GW_LOG_INFO = 6,
	GW_LOG_DEBUG = 7,
};

/* Before any thread starts. Default GW_LOG_INFO; GODWIT_LOG=debug in the environment raises it. */
void gw_log_init(enum gw_log_level max_level);

/* `object` names what the line is about ("vm web1", "migration m-1a2b", NULL for the program). */
void gw_log(enum gw_log_level level, const char *object, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define gw_log_error(object, ...) gw_log(GW_LOG_ERROR, object, __VA_ARGS__)
#define gw_log_warning(object, ...) gw_log(GW_LOG_WARNING, object, __VA_ARGS__)
#define gw_log_info(object, ...) gw_log(GW_LOG_INFO, object, __VA_ARGS__)
#define gw_log_debug(object, ...) gw_log(GW_LOG_DEBUG, object, __VA_ARGS__)

#endif
