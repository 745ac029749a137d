/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Filling struct gw_error. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int normalised(int code)
{
	if (code == 0)
		return -EIO;
	return code > 0 ? -code : code;
}

int gw_error_set(struct gw_error *err, int code, const char *fmt, ...)
{
	va_list ap;

	code = normalised(code);
	if (!err)
		return code;
	err->code = code;
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	return code;
}

int gw_error_set_errno(struct gw_error *err, int code, const char *fmt, ...)
{
	va_list ap;
	int n;

	code = normalised(code);
	if (!err)
		return code;
	err->code = code;
	va_start(ap, fmt);
	n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(err->text))
		snprintf(err->text + n, sizeof(err->text) - n, ": %s", strerror(-code));
	return code;
}

int gw_error_prefix(struct gw_error *err, const char *fmt, ...)
{
	char old[GW_ERROR_TEXT_MAX];
	va_list ap;
	int n;

	if (!err)
		return -EIO;
	memcpy(old, gw_error_text(err), strnlen(gw_error_text(err), sizeof(old) - 1) + 1);
	old[sizeof(old) - 1] = 0;
	va_start(ap, fmt);
	n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(err->text))
		snprintf(err->text + n, sizeof(err->text) - n, ": %s", old);
	return err->code;
}

const char *gw_error_text(const struct gw_error *err)
{
	if (err->text[0])
		return err->text;
	return strerror(-err->code);
}
