/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The API's table of routes. docs/openapi.yaml is its description and is tested against it. */
#include "control/routes.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define STOP_TIMEOUT_DEFAULT_NS (60 * GW_NS_PER_S)
#define DEFINITION_TEXT_MAX 65536

static int host_info(struct gw_host *host, const struct gw_request *req, struct gw_reply *reply,
                     struct gw_error *err)
{
	return gw_host_info(host, &reply->json, err);
}

static int vm_list(struct gw_host *host, const struct gw_request *req, struct gw_reply *reply,
                   struct gw_error *err)
{
	return gw_host_vm_list(host, &reply->json, err);
}

static int vm_start(struct gw_host *host, const struct gw_request *req, struct gw_reply *reply,
                    struct gw_error *err)
{
	reply->status = 201;
	return gw_host_vm_start(host, json_string_value(json_object_get(req->body, "definition")),
	                        &reply->json, err);
}

static int vm_show(struct gw_host *host, const struct gw_request *req, struct gw_reply *reply,
                   struct gw_error *err)
{
	return gw_host_vm_show(host, req->arg, &reply->json, err);
}

static int vm_stop(struct gw_host *host, const struct gw_request *req, struct gw_reply *reply,
                   struct gw_error *err)
{
	const json_t *timeout = json_object_get(req->query, "timeout_ns");

	reply->status = 204;
	return gw_host_vm_stop(host, req->arg, json_is_true(json_object_get(req->query, "force")),
	                       timeout ? json_integer_value(timeout) : STOP_TIMEOUT_DEFAULT_NS, err);
}

static int vm_migrate(struct gw_host *host, const struct gw_request *req, struct gw_reply *reply,
                      struct gw_error *err)
{
	reply->status = json_is_true(json_object_get(req->body, "dry_run")) ? 200 : 202;
	return gw_host_migrate(host, req->arg, req->body, &reply->json, err);
}

static int vm_resolve(struct gw_host *host, const struct gw_request *req, struct gw_reply *reply,
                      struct gw_error *err)
{
	return gw_host_vm_resolve(host, req->arg, json_string_value(json_object_get(req->body, "fenced")), &reply->json,
	                          err);
}

static int job_list(struct gw_host *host, const struct gw_request *req, struct gw_reply *reply,
                    struct gw_error *err)
{
	return gw_host_job_list(host, &reply->json, err);
}

static int job_show(struct gw_host *host, const struct gw_request *req, struct gw_reply *reply,
                    struct gw_error *err)
{
	return gw_host_job_show(host, req->arg, &reply->json, err);
}

static int job_cancel(struct gw_host *host, const struct gw_request *req, struct gw_reply *reply,
                      struct gw_error *err)
{
	int r = gw_host_job_cancel(host, req->arg, err);

	if (r == 0)
		r = gw_host_job_show(host, req->arg, &reply->json, err);
	if (r == 0 && !json_is_true(json_object_get(reply->json, "final")))
		reply->status = 202;
	return r;
}

static const struct gw_field start_fields[] = {
	{ "definition", GW_FIELD_TEXT, .required = true, .min = 1, .max = DEFINITION_TEXT_MAX },
	{ NULL },
};

static const struct gw_field resolve_fields[] = {
	{ "fenced", GW_FIELD_TEXT, .required = true, .min = 1, .max = 127 },
	{ NULL },
};

static const struct gw_field stop_query[] = {
	{ "force", GW_FIELD_BOOL },
	{ "timeout_ns", GW_FIELD_INTEGER, .min = 0, .max = 24 * 3600 * GW_NS_PER_S },
	{ NULL },
};

const struct gw_route gw_routes[] = {
	{ "GET", "/v1/host", .run = host_info },
	{ "GET", "/v1/vms", .run = vm_list },
	{ "POST", "/v1/vms", .body = start_fields, .run = vm_start },
	{ "GET", "/v1/vms/{vm}", .run = vm_show },
	{ "DELETE", "/v1/vms/{vm}", .query = stop_query, .run = vm_stop },
	{ "POST", "/v1/vms/{vm}/migrate", .body = gw_migrate_fields, .run = vm_migrate },
	{ "POST", "/v1/vms/{vm}/resolve", .body = resolve_fields, .run = vm_resolve },
	{ "GET", "/v1/jobs", .run = job_list },
	{ "GET", "/v1/jobs/{job}", .run = job_show },
	{ "POST", "/v1/jobs/{job}/cancel", .run = job_cancel },
	{ "GET", "/v1/jobs/{job}/events", .events = true, .run = job_show },
	{ NULL },
};

/* Whether `path` is an instance of `pattern`; copies what stands for {name}. */
static bool match(const char *pattern, const char *path, char *ret_arg)
{
	const char *open = strchr(pattern, '{');
	size_t head = open ? (size_t)(open - pattern) : strlen(pattern), len;

	ret_arg[0] = '\0';
	if (!open)
		return !strcmp(pattern, path);
	if (strncmp(pattern, path, head))
		return false;
	len = strcspn(path + head, "/");
	if (len == 0 || len > GW_ROUTE_ARG_MAX || strcmp(strchr(open, '}') + 1, path + head + len))
		return false;
	memcpy(ret_arg, path + head, len);
	ret_arg[len] = '\0';
	return true;
}

const struct gw_route *gw_route_find(const char *method, const char *path, char *ret_arg,
                                     unsigned *ret_status, char *ret_allow)
{
	const struct gw_route *r;
	size_t used = 0;

	*ret_status = 404;
	ret_allow[0] = '\0';
	for (r = gw_routes; r->method; r++) {
		if (!match(r->path, path, ret_arg))
			continue;
		if (!strcmp(r->method, method))
			return r;
		*ret_status = 405;
		used += (size_t)snprintf(ret_allow + used, 64 - used, "%s%s", used ? ", " : "", r->method);
	}
	return NULL;
}

unsigned gw_status_of_error(int code)
{
	static const struct {
		int code;
		unsigned status;
	} table[] = {
		{ EINVAL, 400 }, { ERANGE, 400 },      { E2BIG, 400 },     { EMSGSIZE, 413 },
		{ ENOENT, 404 },      { EBUSY, 409 },     { EALREADY, 409 }, { EEXIST, 409 },
		{ EINPROGRESS, 409 }, { ECANCELED, 409 }, { EAGAIN, 503 },   { EIO, 500 },
		{ EFAULT, 500 },      { EBADMSG, 500 },
	};
	size_t i;

	for (i = 0; i < GW_ARRAY_SIZE(table); i++)
		if (table[i].code == abs(code))
			return table[i].status;
	return 422;
}

json_t *gw_error_to_json(const struct gw_error *err)
{
	const char *name = strerrorname_np(abs(err->code));
	char code[32] = "eio";
	json_t *text = json_string(gw_error_text(err)); /* NULL for what is not UTF-8: a strange path */
	size_t i;

	if (name)
		snprintf(code, sizeof(code), "%s", name);
	for (i = 0; code[i]; i++)
		code[i] = (char)tolower((unsigned char)code[i]);
	return json_pack("{s:{s:s, s:o}}", "error", "code", code, "text",
	                 text ? text : json_string("the error names something that is not valid UTF-8"));
}

/* The typed value of one query parameter, or NULL when it is none. */
static json_t *typed(const struct gw_field *f, const char *text)
{
	char *end;
	long long v;

	if (f->type == GW_FIELD_BOOL) {
		if (gw_choice_has("true|1|yes", text) || !*text)
			return json_true();
		return gw_choice_has("false|0|no", text) ? json_false() : NULL;
	}
	if (f->type == GW_FIELD_TEXT)
		return json_string(text);
	errno = 0;
	v = strtoll(text, &end, 10);
	return errno || *end || end == text ? NULL : json_integer(v);
}

int gw_query_check(const struct gw_field *fields, json_t *query, struct gw_error *err)
{
	static const struct gw_field none[] = { { NULL } };
	const struct gw_field *f;

	for (f = fields ? fields : none; f->name; f++) {
		json_t *text = json_object_get(query, f->name);
		json_t *value = text ? typed(f, json_string_value(text)) : NULL;

		if (text && !value)
			return gw_error_set(err, EINVAL, "'%s' cannot be '%.40s'", f->name,
			                    json_string_value(text));
		if (value)
			json_object_set_new(query, f->name, value);
	}
	return gw_fields_check(fields ? fields : none, query, err);
}
