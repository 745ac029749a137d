/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Hosts, VMs and jobs as text for people. */
#include "control/render.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/units.h"
#include "control/json.h"
#include "control/table.h"

#define LEFT(title) { title, false }
#define RIGHT(title) { title, true }

const char *gw_render_time(char *buf, size_t len, double wallclock_s)
{
	time_t t = (time_t)wallclock_s;
	struct tm tm;

	buf[0] = '\0';
	if (wallclock_s > 0 && localtime_r(&t, &tm))
		strftime(buf, len, "%Y-%m-%d %H:%M:%S", &tm);
	return buf;
}

void gw_render_pair(FILE *out, const char *what, const char *fmt, ...)
{
	char text[2048], clean[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (text[0])
		fprintf(out, "%-18s%s\n", what, gw_clean_text(clean, sizeof(clean), text));
}

/* A size when it is there, else nothing. */
static void pair_size(FILE *out, const char *what, const json_t *object, const char *key)
{
	char buf[32];

	if (json_is_number(json_object_get(object, key)))
		gw_render_pair(out, what, "%s",
		               gw_format_size(buf, sizeof(buf), (uint64_t)gw_json_int(object, key, 0)));
}

static void pair_number(FILE *out, const char *what, const json_t *object, const char *key)
{
	if (json_is_number(json_object_get(object, key)))
		gw_render_pair(out, what, "%lld", (long long)gw_json_int(object, key, 0));
}

static void pair_time(FILE *out, const char *what, const json_t *object, const char *key)
{
	char buf[32];

	gw_render_pair(out, what, "%s", gw_render_time(buf, sizeof(buf), gw_json_real(object, key)));
}

void gw_render_host(FILE *out, const json_t *host)
{
	json_t *hosts = json_object_get(host, "hosts"), *address;
	const char *name;

	gw_render_pair(out, "name", "%s", gw_json_text(host, "name"));
	gw_render_pair(out, "version", "%s", gw_json_text(host, "version"));
	gw_render_pair(out, "qemu", "%s", gw_json_text(host, "qemu_version"));
	if (json_object_get(host, "kvm"))
		gw_render_pair(out, "kvm", "%s", gw_json_bool(host, "kvm") ? "yes" : "no");
	gw_render_pair(out, "listens on", "%s", gw_json_text(host, "listen"));
	pair_size(out, "memory", host, "memory_bytes");
	pair_size(out, "memory available", host, "memory_available_bytes");
	pair_number(out, "vms", host, "vms");
	pair_number(out, "active jobs", host, "jobs_active");
	json_object_foreach(hosts, name, address)
		gw_render_pair(out, "knows host", "%s at %s", name, json_string_value(address));
}

void gw_render_vm_list(FILE *out, const json_t *vms)
{
	static const struct gw_column columns[] = {
		LEFT("NAME"),  LEFT("STATE"),     RIGHT("MEMORY"), RIGHT("CPUS"),
		LEFT("ACCEL"), LEFT("MIGRATION"), LEFT("STARTED"), LEFT("NOTE"),
	};
	struct gw_table *t = gw_table_new(columns, GW_ARRAY_SIZE(columns));
	char buf[32];
	size_t i;
	json_t *vm;

	if (!t)
		return;
	json_array_foreach(vms, i, vm) {
		gw_table_cell(t, "%s", gw_json_text(vm, "name"));
		gw_table_cell(t, "%s", gw_json_text(vm, "state"));
		gw_table_cell(t, "%s", gw_format_size(buf, sizeof(buf),
		                                      (uint64_t)gw_json_int(vm, "memory_bytes", 0)));
		gw_table_cell(t, "%lld", (long long)gw_json_int(vm, "cpus", 0));
		gw_table_cell(t, "%s", gw_json_text(vm, "accel"));
		gw_table_cell(t, "%s", gw_json_text(vm, "job"));
		gw_table_cell(t, "%s", gw_render_time(buf, sizeof(buf), gw_json_real(vm, "started")));
		gw_table_cell(t, "%s", gw_json_text(vm, "note"));
	}
	gw_table_print(t, out, 0);
	gw_table_free(t);
}

void gw_render_vm(FILE *out, const json_t *vm)
{
	static const struct {
		const char *what, *key;
	} texts[] = {
		{ "name", "name" }, { "state", "state" }, { "note", "note" }, { "migration", "job" },
		{ "uuid", "uuid" }, { "accelerator", "accel" }, { "machine", "machine" },
		{ "memory pages", "backing" }, { "run folder", "run_dir" }, { "console", "console" },
	};
	json_t *channels = json_object_get(vm, "channels"), *path;
	const char *name;
	size_t i;

	for (i = 0; i < GW_ARRAY_SIZE(texts); i++)
		gw_render_pair(out, texts[i].what, "%s", gw_json_text(vm, texts[i].key));
	json_object_foreach(channels, name, path)
		gw_render_pair(out, "channel", "%s at %s", name, json_string_value(path));
	pair_size(out, "memory", vm, "memory_bytes");
	if (json_object_get(vm, "owed_bytes"))
		pair_size(out, "still to follow", vm, "owed_bytes");
	pair_number(out, "cpus", vm, "cpus");
	pair_number(out, "qemu process", vm, "pid");
	pair_number(out, "ownership epoch", vm, "epoch");
	pair_time(out, "started", vm, "started");
}

void gw_render_job_list(FILE *out, const json_t *jobs)
{
	static const struct gw_column columns[] = {
		LEFT("JOB"), LEFT("KIND"), LEFT("VM"), LEFT("PEER"), LEFT("STATE"), LEFT("CREATED"),
		RIGHT("TOTAL"), RIGHT("DOWNTIME"), LEFT("STEP"),
	};
	struct gw_table *t = gw_table_new(columns, GW_ARRAY_SIZE(columns));
	gw_time_ns down;
	char buf[32];
	size_t i;
	json_t *job;

	if (!t)
		return;
	json_array_foreach(jobs, i, job) {
		const json_t *report = json_object_get(job, "report");
		static const char *const texts[] = { "id", "kind", "vm", "peer", "state" };
		size_t k;

		for (k = 0; k < GW_ARRAY_SIZE(texts); k++)
			gw_table_cell(t, "%s", gw_json_text(job, texts[k]));
		gw_table_cell(t, "%s", gw_render_time(buf, sizeof(buf), gw_json_real(job, "created")));
		gw_table_cell(t, "%s",
		              gw_format_duration(buf, sizeof(buf), gw_json_int(report, "total_ns", -1)));
		down = gw_json_int(report, "downtime_ns", 0); /* 0: it was never stopped */
		gw_table_cell(t, "%s", gw_format_duration(buf, sizeof(buf), down > 0 ? down : -1));
		gw_table_cell(t, "%s", gw_json_text(job, gw_json_bool(job, "final") ? "error" : "step"));
	}
	gw_table_print(t, out, 0);
	gw_table_free(t);
}

void gw_render_dry_run(FILE *out, const char *vm, const char *to, const json_t *dry_run)
{
	const json_t *reasons = json_object_get(dry_run, "reasons");
	const json_t *p = json_object_get(dry_run, "prediction");
	char size[32], rate[32], total[32], text[GW_ERROR_TEXT_MAX];
	size_t i;
	json_t *reason;

	fprintf(out, "%s %s to %s\n", vm, gw_json_bool(dry_run, "possible") ? "can move" : "cannot move",
	        to);
	json_array_foreach(reasons, i, reason) {
		const char *why = json_is_string(reason) ? json_string_value(reason) : "?";

		fprintf(out, "  - %s\n", gw_clean_text(text, sizeof(text), why));
	}
	if (json_object_size(p) == 0)
		return;
	fprintf(out, "prediction: %s of memory in use",
	        gw_format_size(size, sizeof(size), (uint64_t)gw_json_int(p, "ram_used_bytes", 0)));
	if (gw_json_int(p, "bandwidth_Bps", 0) > 0)
		fprintf(out, " at %s, about %s in all\n",
		        gw_format_rate(rate, sizeof(rate), (uint64_t)gw_json_int(p, "bandwidth_Bps", 0)),
		        gw_format_duration(total, sizeof(total), gw_json_int(p, "total_ns", -1)));
	else
		fprintf(out, "; how fast it moves is not known before the first time\n");
}
