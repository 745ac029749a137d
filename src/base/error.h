/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one error idiom: a negative errno for code, one sentence for people.
 *
 * Functions return 0 or a negative errno. Where a user must be told more, they also take a
 * `struct gw_error *` (may be NULL) and fill it where the cause is known. Library code never logs an
 * error that it returns. The text is one sentence without a full stop, saying what failed, why, and
 * what was wanted: "cannot open /x: No such file or directory (needed for the RAM of vm1)".
 */
#ifndef GW_BASE_ERROR_H
#define GW_BASE_ERROR_H

#include <errno.h>

#define GW_ERROR_TEXT_MAX 1024

struct gw_error {
	int code;                     /* negative errno, 0 while no error is set */
	char text[GW_ERROR_TEXT_MAX]; /* NUL-terminated, cut when too long */
};

#define GW_ERROR_INIT ((struct gw_error){ .code = 0 })

/* Sets code and text; `code` may be given as errno or -errno. Returns the negative errno, never 0. */
int gw_error_set(struct gw_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Like gw_error_set, with ": <strerror(code)>" appended. */
int gw_error_set_errno(struct gw_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "<fmt>: " before the text that is there. Returns err's code. */
int gw_error_prefix(struct gw_error *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Text to show: err's own, or strerror(code) when no text was set. Never NULL. */
const char *gw_error_text(const struct gw_error *err);

#endif
