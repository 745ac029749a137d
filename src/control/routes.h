/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The API's table of routes: which method and path calls which function of the host. */
#ifndef GW_CONTROL_ROUTES_H
#define GW_CONTROL_ROUTES_H

#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"
#include "control/fields.h"
#include "control/host.h"

#define GW_ROUTE_ARG_MAX 255

struct gw_request {
	const char *arg;     /* what stands in the place of the path's {name}; "" when it has none */
	const json_t *query; /* object: parameters after '?', checked and typed as the route says */
	const json_t *body;  /* object, checked as the route says; NULL for routes without a body */
};

struct gw_reply {
	unsigned status; /* preset to 200 */
	json_t *json;    /* new reference, or NULL for no body */
};

struct gw_route {
	const char *method;
	const char *path;             /* "/v1/vms/{vm}/migrate": at most one {name} */
	const struct gw_field *query; /* NULL: takes none */
	const struct gw_field *body;  /* NULL: takes none */
	bool events;                  /* answers with the stream of job `arg`; `run` only checks */
	int (*run)(struct gw_host *host, const struct gw_request *req, struct gw_reply *reply,
	           struct gw_error *err);
};

/* Ends with a NULL method. */
extern const struct gw_route gw_routes[];

/* Finds the route and copies its argument to `ret_arg` (GW_ROUTE_ARG_MAX + 1 bytes). NULL with *ret_status
 * 404, or 405 and *ret_allow (64 bytes: "GET, POST") when the path exists with other methods. */
const struct gw_route *gw_route_find(const char *method, const char *path, char *ret_arg,
                                     unsigned *ret_status, char *ret_allow);

/* HTTP status for a negative errno of the host. */
unsigned gw_status_of_error(int code);

/* An Error object: {"error": {"code": "enoent", "text": ...}}. New reference. */
json_t *gw_error_to_json(const struct gw_error *err);

/* Turns the texts of `query` into the types of `fields`, and checks them. */
int gw_query_check(const struct gw_field *fields, json_t *query, struct gw_error *err);

#endif
