/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checking what a client sent against a table of fields. */
#include "control/fields.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "engine/convergence.h"

#define DAY_NS (24 * 3600 * GW_NS_PER_S)

const struct gw_field gw_migrate_fields[] = {
	{ "to", GW_FIELD_TEXT, .required = true, .min = 1, .max = 255 },
	{ "mode", GW_FIELD_TEXT, .choices = GW_MODE_WORDS },
	{ "max_downtime_ns", GW_FIELD_INTEGER, .min = 1, .max = DAY_NS },
	{ "bandwidth_Bps", GW_FIELD_INTEGER, .min = 0, .max = INT64_MAX },
	{ "weight", GW_FIELD_INTEGER, .min = 1, .max = 1000 },
	{ "channels", GW_FIELD_INTEGER, .min = 1, .max = 64 },
	{ "threshold", GW_FIELD_TEXT, .min = 1, .max = 32 },
	{ "on_stall", GW_FIELD_TEXT, .choices = "throttle|switch|stay" },
	{ "max_passes", GW_FIELD_INTEGER, .min = 1, .max = 1000000 },
	{ "hybrid_passes", GW_FIELD_INTEGER, .min = 1, .max = 1000 },
	{ "timeout_ns", GW_FIELD_INTEGER, .min = 1, .max = 365 * DAY_NS },
	{ "verify", GW_FIELD_BOOL },
	{ "dry_run", GW_FIELD_BOOL },
	{ "compress", GW_FIELD_TEXT, .choices = "auto|off|lz4|zstd" },
	{ "tracing", GW_FIELD_TEXT, .choices = "auto|async|sync" },
	{ "reason", GW_FIELD_TEXT, .min = 0, .max = 1000 },
	{ NULL },
};

bool gw_choice_has(const char *choices, const char *word)
{
	size_t len = strlen(word);
	const char *at = choices;

	while (len > 0 && (at = strstr(at, word))) {
		if ((at == choices || at[-1] == '|') && (at[len] == '|' || at[len] == '\0'))
			return true;
		at += len;
	}
	return false;
}

static const struct gw_field *find(const struct gw_field *fields, const char *name)
{
	for (; fields->name; fields++)
		if (!strcmp(fields->name, name))
			return fields;
	return NULL;
}

static int check_text(const struct gw_field *f, const json_t *value, struct gw_error *err)
{
	json_int_t len = (json_int_t)json_string_length(value);

	if (!json_is_string(value))
		return gw_error_set(err, EINVAL, "'%s' must be a text", f->name);
	if (f->choices && !gw_choice_has(f->choices, json_string_value(value)))
		return gw_error_set(err, EINVAL, "'%s' must be one of %s, not '%.40s'", f->name, f->choices,
		                    json_string_value(value));
	if (!f->choices && (len < f->min || len > f->max))
		return gw_error_set(err, EINVAL,
		                    "'%s' must be %" JSON_INTEGER_FORMAT " to %" JSON_INTEGER_FORMAT
		                    " characters long, not %" JSON_INTEGER_FORMAT,
		                    f->name, f->min, f->max, len);
	return 0;
}

static int check_integer(const struct gw_field *f, const json_t *value, struct gw_error *err)
{
	json_int_t v = json_integer_value(value);

	if (!json_is_integer(value))
		return gw_error_set(err, EINVAL, "'%s' must be a whole number", f->name);
	if (v < f->min || v > f->max)
		return gw_error_set(err, EINVAL,
		                    "'%s' must be from %" JSON_INTEGER_FORMAT " to %" JSON_INTEGER_FORMAT
		                    ", not %" JSON_INTEGER_FORMAT,
		                    f->name, f->min, f->max, v);
	return 0;
}

static int check_one(const struct gw_field *f, const json_t *value, struct gw_error *err)
{
	switch (f->type) {
	case GW_FIELD_TEXT:
		return check_text(f, value, err);
	case GW_FIELD_INTEGER:
		return check_integer(f, value, err);
	case GW_FIELD_BOOL:
		return json_is_boolean(value) ? 0 :
			gw_error_set(err, EINVAL, "'%s' must be true or false", f->name);
	}
	return gw_error_set(err, EINVAL, "'%s' cannot be checked", f->name);
}

int gw_fields_check(const struct gw_field *fields, const json_t *object, struct gw_error *err)
{
	const struct gw_field *f;
	json_t *value;
	const char *key;

	/* The iterator functions take no const; nothing is changed through the pointer. */
	json_object_foreach((json_t *)object, key, value) {
		int r;

		f = find(fields, key);
		if (!f)
			return gw_error_set(err, EINVAL, "there is no field '%.60s'", key);
		r = check_one(f, value, err);
		if (r < 0)
			return r;
	}
	for (f = fields; f->name; f++)
		if (f->required && !json_object_get(object, f->name))
			return gw_error_set(err, EINVAL, "the field '%s' is missing", f->name);
	return 0;
}
