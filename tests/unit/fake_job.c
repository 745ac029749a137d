/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The scripts of the fake host: a Job as a function of the steps that it has taken. */
#include <assert.h>
#include <string.h>

#include "base/cleanup.h"
#include "fake_host.h"

struct act {
	const char *state, *step;
	unsigned pass;
	bool final;
	const char *vm_is, *error;
	bool timed_out;
};

static const struct act to_beta[] = {
	{ "preparing", "waiting for the target", 0, false, "here" },
	{ "copying", "pass 1", 1, false, "here" },
	{ "copying", "pass 1", 1, false, "here" },
	{ "copying", "pass 2", 2, false, "here" },
	{ "copying", "pass 3", 3, false, "here" },
	{ "switching", "device state", 3, false, "here" },
	{ "committed", "clean-up", 3, false, "there" },
	{ "done", "clean-up", 3, true, "there" },
};
static const struct act to_slow[] = {
	{ "preparing", "waiting for the target", 0, false, "here" },
	{ "copying", "pass 1", 1, false, "here" },
};
static const struct act to_fails[] = {
	{ "preparing", "waiting for the target", 0, false, "here" },
	{ "copying", "pass 1", 1, false, "here" },
	{ "failed", "", 1, true, "here",
	  "the connection to fails was lost in pass 1: Connection reset by peer" },
};
static const struct act to_limbo[] = {
	{ "switching", "device state", 1, false, "here" },
	{ "unknown", "", 1, true, "unknown", "limbo answers no more after READY" },
};
static const struct act to_expires[] = {
	{ "copying", "pass 1", 1, false, "here" },
	{ "failed", "", 1, true, "here", "not decided within 2 s", true },
};

static const struct {
	const char *to;
	const struct act *acts;
	unsigned n;
} scripts[] = {
	{ "beta", to_beta, GW_ARRAY_SIZE(to_beta) },
	{ "late", to_beta, GW_ARRAY_SIZE(to_beta) },
	{ "slow", to_slow, GW_ARRAY_SIZE(to_slow) },
	{ "stuck", to_slow, GW_ARRAY_SIZE(to_slow) },
	{ "fails", to_fails, GW_ARRAY_SIZE(to_fails) },
	{ "limbo", to_limbo, GW_ARRAY_SIZE(to_limbo) },
	{ "expires", to_expires, GW_ARRAY_SIZE(to_expires) },
};

static json_t *make_progress(unsigned pass, unsigned steps)
{
	json_t *p = json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:i, s:s}", "pass", pass, "ram_bytes",
	                      (json_int_t)4 << 30, "transferred_bytes", ((json_int_t)steps << 28) + 12345,
	                      "pass_done_bytes", (json_int_t)(steps % 4) << 20, "pass_total_bytes",
	                      (json_int_t)4 << 20, "remaining_bytes", (json_int_t)310 << 20, "rate_Bps",
	                      (json_int_t)812000000, "dirty_rate_Bps", (json_int_t)95000000,
	                      "plan", "copy", "throttle_percent", 0, "decision", pass > 1 ? "copy once more" : "");

	assert(p);
	json_object_set_new(p, "predicted_downtime_ns",
	                    pass > 1 ? json_integer(38 * GW_NS_PER_MS) : json_null());
	json_object_set_new(p, "eta_ns", pass > 1 ? json_integer(4 * GW_NS_PER_S) : json_null());
	return p;
}

static json_t *make_report(bool verify)
{
	json_t *r = json_pack(
		"{s:I, s:I, s:I, s:I, s:i, s:s, s:[{s:s, s:I}, {s:s, s:I}],"
		" s:[{s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:s}, {s:i, s:i, s:i, s:I, s:I, s:I, "
	        "s:I, s:I, s:I, s:s}],"
		" s:[{s:s, s:I}, {s:s, s:I}, {s:s, s:I}, {s:s, s:I}], s:[{s:s, s:I}], s:s, s:s}",
		"total_ns", 12300 * GW_NS_PER_MS, "downtime_ns", 40 * GW_NS_PER_MS, "wire_bytes",
		(json_int_t)4628000000, "ram_bytes", (json_int_t)4 << 30, "channels", 2, "tracing", "async",
		"setup", "name", "prepare the target", "ns", 700 * GW_NS_PER_MS, "name", "connect", "ns",
		GW_NS_PER_MS, "passes", "pass", 1, "pages", 1048576, "zero_pages", 120000, "wire_bytes",
		(json_int_t)3801088000, "duration_ns", 3210 * GW_NS_PER_MS, "scan_ns", 900 * GW_NS_PER_US,
		"rate_Bps", (json_int_t)1184000000, "left_bytes", (json_int_t)310 << 20, "dirty_rate_Bps",
		(json_int_t)101000000, "decision", "copy once more", "pass", 2, "pages", 79360,
		"zero_pages", 0, "wire_bytes", (json_int_t)325058560, "duration_ns", 280 * GW_NS_PER_MS,
		"scan_ns", 900 * GW_NS_PER_US, "rate_Bps", (json_int_t)1160000000, "left_bytes",
		(json_int_t)8 << 20, "dirty_rate_Bps", (json_int_t)30000000, "decision", "fits the budget",
		"downtime", "name", "stop", "ns", 600 * GW_NS_PER_US, "name", "last pages", "ns",
		20 * GW_NS_PER_MS, "name", "device state", "ns", 14 * GW_NS_PER_MS, "name", "resume", "ns",
		3400 * GW_NS_PER_US, "cleanup", "name", "remove the source", "ns", 30 * GW_NS_PER_MS,
		"decision", "8.00 MiB fit 50 ms", "mode", "pre-copy");
	json_t *p;
	size_t i;

	assert(r);
	json_object_set_new(r, "populate_ns", json_integer(118 * GW_NS_PER_MS));
	json_object_set_new(r, "huge", json_pack("{s:I, s:I}", "before_bytes", (json_int_t)4 << 30, "after_bytes",
	                                         (json_int_t)4 << 30));
	json_array_foreach(json_object_get(r, "passes"), i, p) {
		json_object_set_new(p, "hot_bytes", json_integer(1 << 20));
		json_object_set_new(p, "plan", json_string("copy"));
		json_object_set_new(p, "throttle_percent", json_integer(0));
		json_object_update_new(p, json_pack("{s:i, s:i, s:i, s:s}", "delta_pages", 0, "packed_pages", 0, "saved_bytes",
		                                    0, "compression", "off"));
	}
	json_object_set_new(r, "compression",
	                    json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i}", "method", "off", "reason",
	                              "the link is not what limits", "raw_pages", 1007936, "zero_pages", 120000,
	                              "delta_pages", 0, "packed_pages", 0, "saved_bytes", 0));
	json_object_set_new(r, "verify",
	                    verify ? json_pack("{s:i, s:b, s:i, s:I}", "pages", 1048576, "equal", 1,
	                                       "different_pages", 0, "duration_ns", 1200 * GW_NS_PER_MS) :
	                             json_null());
	return r;
}

static json_t *make_postcopy(void)
{
	return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "owed_bytes", 512 << 20, "wire_bytes", 520 << 20,
	                 "demanded", 1234, "demanded_bytes", 19 << 20, "fault_p50_ns", 90000, "fault_p99_ns", 2500000,
	                 "fault_max_ns", 7000000, "duration_ns", 480000000, "links_made_again", 0);
}

json_t *fake_job(const char *id, const char *to, unsigned steps, bool verify)
{
	const struct act *a = NULL;
	json_t *job;
	size_t i;

	for (i = 0; i < GW_ARRAY_SIZE(scripts); i++)
		if (!strcmp(scripts[i].to, to))
			a = &scripts[i].acts[GW_MIN(steps, scripts[i].n - 1)];
	if (!a)
		return NULL;
	job = json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:s, s:s, s:f, s:o, s:{s:s}, s:s, s:o, s:s}", "id", id,
	                "kind", "migrate-out", "vm", "web1", "peer", to, "state", a->state, "final",
	                a->final, "step", a->step, "reason", "a test", "created", 1763672645.25, "finished",
	                a->final ? json_real(1763672657.5) : json_null(), "request", "to", to, "vm_is",
	                a->vm_is, "progress", make_progress(a->pass, steps), "mode", "auto");
	assert(job);
	if (a->error)
		json_object_set_new(job, "error", json_string(a->error));
	if (a->timed_out)
		json_object_set_new(job, "timed_out", json_true());
	if (a->final) {
		json_object_set_new(job, "report", make_report(verify));
		json_object_set_new(json_object_get(job, "report"), "postcopy",
		                    strcmp(to, "limbo") ? json_null() : make_postcopy());
	}
	return job;
}
