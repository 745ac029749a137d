/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parser of a server-sent event stream whose data are JSON (as the HTML standard defines it). */
#include "control/sse.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct buffer {
	char *bytes;
	size_t len;
};

struct gw_sse {
	int (*event)(void *ctx, const json_t *data);
	void *ctx;
	struct buffer line; /* begun, no end seen */
	struct buffer data; /* of the event that is being received, lines joined */
	bool after_cr;      /* a LF that follows belongs to the line end already seen */
};

int gw_sse_new(int (*event)(void *ctx, const json_t *data), void *ctx, struct gw_sse **ret)
{
	struct gw_sse *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->event = event;
	s->ctx = ctx;
	*ret = s;
	return 0;
}

void gw_sse_free(struct gw_sse *s)
{
	if (!s)
		return;
	free(s->line.bytes);
	free(s->data.bytes);
	free(s);
}

static int append(struct buffer *b, const char *bytes, size_t len)
{
	char *grown;

	if (b->len + len > GW_SSE_EVENT_MAX)
		return -EPROTO;
	grown = realloc(b->bytes, b->len + len + 1);
	if (!grown)
		return -ENOMEM;
	memcpy(grown + b->len, bytes, len);
	b->bytes = grown;
	b->len += len;
	return 0;
}

static int dispatch(struct gw_sse *s)
{
	json_t *json;
	int r;

	if (s->data.len == 0)
		return 0;
	json = json_loadb(s->data.bytes, s->data.len, 0, NULL);
	s->data.len = 0;
	if (!json)
		return -EPROTO;
	r = s->event(s->ctx, json);
	json_decref(json);
	return r;
}

static int end_line(struct gw_sse *s)
{
	const char *line = s->line.bytes;
	size_t len = s->line.len;

	s->line.len = 0;
	if (len == 0)
		return dispatch(s);
	if (len < 5 || memcmp(line, "data:", 5))
		return 0; /* a comment, or a field that says nothing to us */
	line += 5;
	len -= 5;
	if (len > 0 && *line == ' ') {
		line++;
		len--;
	}
	if (s->data.len > 0 && append(&s->data, "\n", 1) < 0)
		return -ENOMEM;
	return append(&s->data, line, len);
}

int gw_sse_feed(struct gw_sse *s, const char *data, size_t len)
{
	size_t at = 0;
	int r = 0;

	while (at < len && r == 0) {
		size_t n = 0;

		if (s->after_cr && data[at] == '\n')
			at++;
		s->after_cr = false;
		while (at + n < len && data[at + n] != '\n' && data[at + n] != '\r')
			n++;
		r = n > 0 ? append(&s->line, data + at, n) : 0;
		at += n;
		if (r < 0 || at == len)
			break;
		s->after_cr = data[at] == '\r';
		at++;
		r = end_line(s);
	}
	return r;
}
