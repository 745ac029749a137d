/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading JSON objects whose fields may be missing. */
#ifndef GW_CONTROL_JSON_H
#define GW_CONTROL_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* "" when it is missing or no text. */
static inline const char *gw_json_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

/* `missing` when it is missing or no number. */
static inline int64_t gw_json_int(const json_t *object, const char *key, int64_t missing)
{
	const json_t *v = json_object_get(object, key);

	if (json_is_real(v))
		return (int64_t)json_real_value(v);
	return json_is_integer(v) ? json_integer_value(v) : missing;
}

static inline double gw_json_real(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static inline bool gw_json_bool(const json_t *object, const char *key)
{
	return json_is_true(json_object_get(object, key));
}

#endif
