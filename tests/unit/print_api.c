/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Prints the table of routes and one of each object of the fake host, for test_openapi.py to compare with
 * docs/openapi.yaml. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "control/routes.h"
#include "fake_host.h"

static json_t *field_json(const struct gw_field *f)
{
	static const char *const types[] = { "string", "integer", "boolean" };

	return json_pack("{s:s, s:s, s:b, s:s?}", "name", f->name, "type", types[f->type], "required",
	                 f->required, "choices", f->choices);
}

static json_t *fields_json(const struct gw_field *f)
{
	json_t *all = json_array();

	for (; f && f->name; f++)
		json_array_append_new(all, field_json(f));
	return all;
}

static json_t *routes_json(void)
{
	json_t *all = json_array();
	const struct gw_route *r;

	for (r = gw_routes; r->method; r++)
		json_array_append_new(all, json_pack("{s:s, s:s, s:o, s:o, s:b, s:b}", "method", r->method,
		                                     "path", r->path, "query", fields_json(r->query),
		                                     "body", fields_json(r->body), "has_body",
		                                     r->body != NULL, "events", r->events));
	return all;
}

static json_t *objects_json(void)
{
	static const char *const targets[] = { "beta", "slow", "fails", "limbo", "expires" };
	struct gw_host *host = fake_host_new(3600 * GW_NS_PER_S, "/run/x/console.sock");
	struct gw_error err = GW_ERROR_INIT;
	json_t *info, *vms, *dry_run, *request = json_pack("{s:s, s:b}", "to", "nowhere", "dry_run", 1);
	json_t *jobs = json_array();
	unsigned steps;
	size_t i;

	assert(gw_host_info(host, &info, &err) == 0 && gw_host_vm_list(host, &vms, &err) == 0 &&
	       gw_host_migrate(host, "web1", request, &dry_run, &err) == 0);
	json_decref(request);
	for (i = 0; i < GW_ARRAY_SIZE(targets); i++)
		for (steps = 0; steps < 10; steps++)
			json_array_append_new(jobs, fake_job("m-1", targets[i], steps, steps % 2));
	fake_host_free(host);
	gw_error_set(&err, ENOENT, "there is no such thing");
	return json_pack("{s:[o], s:o, s:o, s:[o], s:[o]}", "Host", info, "Vm", vms, "Job", jobs, "DryRun",
	                 dry_run, "Error", gw_error_to_json(&err));
}

int main(void)
{
	json_t *all = json_pack("{s:o, s:o}", "routes", routes_json(), "objects", objects_json());

	assert(all);
	json_dumpf(all, stdout, JSON_INDENT(1));
	json_decref(all);
	return ferror(stdout) != 0;
}
