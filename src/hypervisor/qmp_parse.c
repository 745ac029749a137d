/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes of a QMP connection to messages. */
#include "hypervisor/qmp_parse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

static bool take(const json_t *object, const char *key, struct gw_qmp_message *m, enum gw_qmp_kind kind)
{
	json_t *value = json_object_get(object, key);

	if (!value)
		return false;
	m->kind = kind;
	m->body = json_incref(value);
	return true;
}

static int take_event(const json_t *object, struct gw_qmp_message *m)
{
	const char *name = json_string_value(json_object_get(object, "event"));
	json_t *data = json_object_get(object, "data");

	if (!name || !*name || strlen(name) >= sizeof(m->event) || (data && !json_is_object(data)))
		return -EBADMSG;
	m->kind = GW_QMP_EVENT;
	memcpy(m->event, name, strlen(name) + 1);
	m->body = json_incref(data);
	return 0;
}

static int classify(const json_t *object, struct gw_qmp_message *m)
{
	json_t *id = json_object_get(object, "id");

	if (json_is_number(id) && json_number_value(id) >= 0 && json_number_value(id) < 0x1p53) {
		m->has_id = true;
		m->id = (uint64_t)json_number_value(id);
	}
	if (take(object, "return", m, GW_QMP_RETURN))
		return 0;
	if (take(object, "error", m, GW_QMP_ERROR)) {
		m->desc = json_string_value(json_object_get(m->body, "desc"));
		return m->desc ? 0 : -EBADMSG;
	}
	if (json_object_get(object, "event"))
		return take_event(object, m);
	return take(object, "QMP", m, GW_QMP_GREETING) ? 0 : -EBADMSG;
}

/* QEMU's integers are of 64 bits without a sign, jansson's have one: a line with one that does not fit
 * is read with all its integers as reals. */
static json_t *load(const char *line, size_t len)
{
	json_error_t error;
	json_t *object = json_loadb(line, len, 0, &error);

	if (!object && json_error_code(&error) == json_error_numeric_overflow)
		object = json_loadb(line, len, JSON_DECODE_INT_AS_REAL, NULL);
	return object;
}

int gw_qmp_parse_line(const char *line, size_t len, struct gw_qmp_message *ret)
{
	struct gw_qmp_message m = { .kind = GW_QMP_GREETING };
	json_t *object = load(line, len);
	int r;

	if (!json_is_object(object)) {
		json_decref(object);
		return -EBADMSG;
	}
	r = classify(object, &m);
	json_decref(object);
	if (r < 0) {
		json_decref(m.body);
		return r;
	}
	*ret = m;
	return 0;
}

void gw_qmp_message_done(struct gw_qmp_message *m)
{
	json_decref(m->body);
	m->body = NULL;
	m->desc = NULL;
}

void gw_qmp_parser_init(struct gw_qmp_parser *p, size_t line_max)
{
	*p = (struct gw_qmp_parser){ .line_max = line_max };
}

void gw_qmp_parser_done(struct gw_qmp_parser *p)
{
	free(p->line);
	*p = (struct gw_qmp_parser){ .line = NULL };
}

static int append(struct gw_qmp_parser *p, const char *bytes, size_t len)
{
	if (len > p->line_max - p->len)
		return -EMSGSIZE;
	if (p->len + len > p->capacity) {
		size_t capacity = GW_MIN(GW_MAX(2 * (p->len + len), (size_t)4096), p->line_max);
		char *line = realloc(p->line, capacity);

		if (!line)
			return -ENOMEM;
		p->line = line;
		p->capacity = capacity;
	}
	if (len)
		memcpy(p->line + p->len, bytes, len);
	p->len += len;
	return 0;
}

static int finish_line(struct gw_qmp_parser *p, gw_qmp_message_fn *fn, void *userdata)
{
	struct gw_qmp_message m;
	int r;

	if (p->len && p->line[p->len - 1] == '\r')
		p->len--;
	if (p->len == 0)
		return 0;
	r = gw_qmp_parse_line(p->line, p->len, &m);
	p->len = 0;
	if (r < 0)
		return r;
	fn(userdata, &m);
	gw_qmp_message_done(&m);
	return 0;
}

int gw_qmp_parser_feed(struct gw_qmp_parser *p, const char *bytes, size_t len, gw_qmp_message_fn *fn,
                       void *userdata)
{
	while (len) {
		const char *end = memchr(bytes, '\n', len);
		size_t piece = end ? (size_t)(end - bytes) : len;
		int r = append(p, bytes, piece);

		if (r == 0 && end)
			r = finish_line(p, fn, userdata);
		if (r < 0)
			return r;
		piece += end ? 1 : 0;
		bytes += piece;
		len -= piece;
	}
	return 0;
}
