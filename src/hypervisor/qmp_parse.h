/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes of a QMP connection to messages: lines in any pieces, with a size limit. No I/O. */
#ifndef GW_HYPERVISOR_QMP_PARSE_H
#define GW_HYPERVISOR_QMP_PARSE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_QMP_LINE_MAX (8u << 20)
#define GW_QMP_EVENT_NAME_MAX 64

enum gw_qmp_kind {
	GW_QMP_GREETING, /* body: the "QMP" object */
	GW_QMP_RETURN,   /* body: the value of "return" */
	GW_QMP_ERROR,    /* body: the "error" object; `desc` points into it */
	GW_QMP_EVENT,    /* body: the "data" object, NULL when there is none */
};

struct gw_qmp_message {
	enum gw_qmp_kind kind;
	bool has_id;
	uint64_t id;
	char event[GW_QMP_EVENT_NAME_MAX];
	const char *desc;
	json_t *body;
};

/* One line without its end. -EBADMSG when it is not a QMP message. Free with gw_qmp_message_done. */
int gw_qmp_parse_line(const char *line, size_t len, struct gw_qmp_message *ret);
void gw_qmp_message_done(struct gw_qmp_message *m);

struct gw_qmp_parser {
	char *line;
	size_t len, capacity;
	size_t line_max;
};

void gw_qmp_parser_init(struct gw_qmp_parser *p, size_t line_max);
void gw_qmp_parser_done(struct gw_qmp_parser *p);

/* Called for each whole message, in order; it may take m->body by setting it to NULL. */
typedef void gw_qmp_message_fn(void *userdata, struct gw_qmp_message *m);

/* 0, -EMSGSIZE for a line above the limit, -EBADMSG for garbage, -ENOMEM; after an error the parser
 * must not be fed again. */
int gw_qmp_parser_feed(struct gw_qmp_parser *p, const char *bytes, size_t len, gw_qmp_message_fn *fn,
                       void *userdata);

#endif
