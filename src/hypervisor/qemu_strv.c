/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Growing argument vectors. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/qemu_internal.h"

void gw_strv_done(struct gw_strv *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->v[i]);
	free(s->v);
	*s = (struct gw_strv){ .v = NULL };
}

void gw_strv_add(struct gw_strv *s, const char *fmt, ...)
{
	char **v = realloc(s->v, (s->n + 2) * sizeof(*v));
	char *text;
	va_list ap;
	int r;

	if (!v) {
		s->failed = true;
		return;
	}
	s->v = v;
	v[s->n] = NULL;
	va_start(ap, fmt);
	r = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (r < 0) {
		s->failed = true;
		return;
	}
	v[s->n++] = text;
	v[s->n] = NULL;
}

char *gw_qemu_escape(const char *text)
{
	char *escaped = malloc(2 * strlen(text) + 1);
	char *to = escaped;

	if (!escaped)
		return NULL;
	for (; *text; text++) {
		*to++ = *text;
		if (*text == ',')
			*to++ = ',';
	}
	*to = 0;
	return escaped;
}
