/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checking what a client sent against a table of fields, so that a slip of the pen is an error. */
#ifndef GW_CONTROL_FIELDS_H
#define GW_CONTROL_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

enum gw_field_type { GW_FIELD_TEXT, GW_FIELD_INTEGER, GW_FIELD_BOOL };

struct gw_field {
	const char *name;
	enum gw_field_type type;
	bool required;
	json_int_t min, max;  /* GW_FIELD_INTEGER: the bounds; GW_FIELD_TEXT: the bounds of its length */
	const char *choices;  /* GW_FIELD_TEXT: "one|two|three", NULL: any */
};

/* The fields of a MigrateRequest; ends with a NULL name. */
extern const struct gw_field gw_migrate_fields[];

/* Whether `word` is one of "one|two|three". */
bool gw_choice_has(const char *choices, const char *word);

/* 0, or -EINVAL with a sentence that names the field: unknown, missing, wrong type, out of bounds. */
int gw_fields_check(const struct gw_field *fields, const json_t *object, struct gw_error *err);

#endif
