/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Jobs and their post-mortem as text for people (X4). */
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/units.h"
#include "control/json.h"
#include "control/render.h"
#include "control/render_progress.h"
#include "control/table.h"

static const char *size_of(char *buf, size_t len, const json_t *object, const char *key)
{
	return gw_format_size(buf, len, (uint64_t)gw_json_int(object, key, 0));
}

static const char *duration_of(char *buf, size_t len, const json_t *object, const char *key)
{
	return gw_format_duration(buf, len, gw_json_int(object, key, -1));
}

/* The columns of the passes. */
enum cell { NUMBER, SIZE, DURATION, RATE, TEXT };

static const struct pass_column {
	struct gw_column column;
	const char *key;
	enum cell cell;
	bool sum;         /* what left over or dirtied in each does not add up */
	bool packed_only; /* only of interest where something was packed */
} pass_columns[] = {
	{ { "PASS", true }, "pass", NUMBER },
	{ { "PAGES", true }, "pages", NUMBER, .sum = true },
	{ { "ZERO", true }, "zero_pages", NUMBER, .sum = true },
	{ { "PACKED", true }, "packed_pages", NUMBER, .sum = true, .packed_only = true },
	{ { "DELTA", true }, "delta_pages", NUMBER, .sum = true, .packed_only = true },
	{ { "BYTES", true }, "wire_bytes", SIZE, .sum = true },
	{ { "SAVED", true }, "saved_bytes", SIZE, .sum = true, .packed_only = true },
	{ { "TIME", true }, "duration_ns", DURATION, .sum = true },
	{ { "SCAN", true }, "scan_ns", DURATION, .sum = true },
	{ { "RATE", true }, "rate_Bps", RATE },
	{ { "LEFT", true }, "left_bytes", SIZE },
	{ { "DIRTY RATE", true }, "dirty_rate_Bps", RATE },
	{ { "DECISION", false }, "decision", TEXT },
};

static void number_cell(struct gw_table *t, enum cell cell, int64_t v)
{
	char buf[32];

	switch (cell) {
	case SIZE:
		gw_table_cell(t, "%s", gw_format_size(buf, sizeof(buf), (uint64_t)v));
		break;
	case DURATION:
		gw_table_cell(t, "%s", gw_format_duration(buf, sizeof(buf), v));
		break;
	case RATE:
		gw_table_cell(t, "%s", gw_format_rate(buf, sizeof(buf), (uint64_t)v));
		break;
	default:
		gw_table_cell(t, "%lld", (long long)v);
	}
}

static int64_t sum_of(const json_t *passes, const char *key)
{
	int64_t sum = 0;
	size_t i;
	json_t *p;

	json_array_foreach(passes, i, p)
		sum += gw_json_int(p, key, 0);
	return sum;
}

static void fill_passes(struct gw_table *t, const json_t *passes, const struct pass_column *const *columns, size_t n)
{
	size_t i, k;
	json_t *p;

	json_array_foreach(passes, i, p)
		for (k = 0; k < n; k++) {
			if (columns[k]->cell == TEXT)
				gw_table_cell(t, "%s", gw_json_text(p, columns[k]->key));
			else
				number_cell(t, columns[k]->cell,
				            gw_json_int(p, columns[k]->key,
				                        k == 0 ? (int64_t)i + 1 : columns[k]->cell == DURATION ? -1 : 0));
		}
	gw_table_cell(t, "all");
	for (k = 1; k < n; k++) {
		if (columns[k]->sum)
			number_cell(t, columns[k]->cell, sum_of(passes, columns[k]->key));
		else
			gw_table_cell(t, " ");
	}
}

static void print_passes(FILE *out, const json_t *report)
{
	const json_t *passes = json_object_get(report, "passes");
	bool packed = sum_of(passes, "packed_pages") + sum_of(passes, "delta_pages") > 0;
	struct gw_column titles[GW_ARRAY_SIZE(pass_columns)];
	const struct pass_column *columns[GW_ARRAY_SIZE(pass_columns)];
	struct gw_table *t;
	size_t n = 0;

	if (json_array_size(passes) == 0)
		return;
	for (size_t k = 0; k < GW_ARRAY_SIZE(pass_columns); k++) {
		if (pass_columns[k].packed_only && !packed)
			continue;
		columns[n] = &pass_columns[k];
		titles[n++] = pass_columns[k].column;
	}
	t = gw_table_new(titles, n);
	if (!t)
		return;
	fill_passes(t, passes, columns, n);
	gw_table_print(t, out, 2);
	gw_table_free(t);
}

/* How pages were packed, or why they were not. */
static void print_compression(FILE *out, const json_t *c)
{
	char saved[32], text[256];

	if (!json_is_object(c))
		return;
	fprintf(out, "  Packing at the end: %s", gw_clean_text(text, sizeof(text), gw_json_text(c, "method")));
	if (*gw_json_text(c, "reason"))
		fprintf(out, " (%s)", gw_clean_text(text, sizeof(text), gw_json_text(c, "reason")));
	if (gw_json_int(c, "packed_pages", 0) + gw_json_int(c, "delta_pages", 0) > 0)
		fprintf(out, "; %lld pages packed, %lld as differences, %lld raw, %s saved",
		        (long long)gw_json_int(c, "packed_pages", 0), (long long)gw_json_int(c, "delta_pages", 0),
		        (long long)gw_json_int(c, "raw_pages", 0), size_of(saved, sizeof(saved), c, "saved_bytes"));
	putc('\n', out);
}

static void phase_row(struct gw_table *t, const char *name, gw_time_ns ns, gw_time_ns whole)
{
	gw_table_cell(t, "%s", name);
	gw_table_cell(t, "%.3f", (double)ns / GW_NS_PER_MS);
	gw_table_cell(t, "%.1f", whole > 0 ? 100.0 * (double)ns / (double)whole : 0.0);
}

/* A list of phases. `whole` is what they should add up to: the rest is shown as "other"; -1: their sum. */
static void print_phases(FILE *out, const char *title, const json_t *phases, gw_time_ns whole)
{
	static const struct gw_column columns[] = { { "PHASE", false }, { "ms", true }, { "%", true } };
	struct gw_table *t = gw_table_new(columns, GW_ARRAY_SIZE(columns));
	gw_time_ns sum = 0;
	char buf[32];
	size_t i;
	json_t *p;

	if (!t)
		return;
	json_array_foreach(phases, i, p)
		sum += gw_json_int(p, "ns", 0);
	if (json_array_size(phases) > 0 || whole > 0) {
		whole = whole < 0 ? sum : whole;
		json_array_foreach(phases, i, p)
			phase_row(t, gw_json_text(p, "name"), gw_json_int(p, "ns", 0), whole);
		if (whole != sum)
			phase_row(t, "other", whole - sum, whole); /* what no phase explains */
		phase_row(t, "total", whole, whole);
		fprintf(out, "\n%s: %s\n", title, gw_format_duration(buf, sizeof(buf), whole));
		gw_table_print(t, out, 2);
	}
	gw_table_free(t);
}

static void print_verify(FILE *out, const json_t *v)
{
	char buf[32];

	if (!json_is_object(v))
		return;
	if (gw_json_bool(v, "equal"))
		fprintf(out, "\nVerified: %lld pages are equal on both sides",
		        (long long)gw_json_int(v, "pages", 0));
	else
		fprintf(out, "\nVERIFICATION FAILED: %lld of %lld pages differ",
		        (long long)gw_json_int(v, "different_pages", 0),
		        (long long)gw_json_int(v, "pages", 0));
	fprintf(out, " (compared in %s)\n", duration_of(buf, sizeof(buf), v, "duration_ns"));
}

/* How long the target ran on memory that was still at the source, and what that cost the guest (N12). */
static void print_postcopy(FILE *out, const json_t *p)
{
	char owed[32], demanded[32], took[32], median[32], p99[32], most[32];

	if (!json_is_object(p))
		return;
	fprintf(out, "\nPost-copy: %s were owed at the switch; the target depended on the source for %s\n",
	        size_of(owed, sizeof(owed), p, "owed_bytes"), duration_of(took, sizeof(took), p, "duration_ns"));
	fprintf(out, "  %lld page faults waited for the source (%s with what lay around): median %s, 99 %% within %s, at most %s\n",
	        (long long)gw_json_int(p, "demanded", 0), size_of(demanded, sizeof(demanded), p, "demanded_bytes"),
	        duration_of(median, sizeof(median), p, "fault_p50_ns"), duration_of(p99, sizeof(p99), p, "fault_p99_ns"),
	        duration_of(most, sizeof(most), p, "fault_max_ns"));
	if (gw_json_int(p, "links_made_again", 0) > 0)
		fprintf(out, "  The link was lost and made again %lld times\n", (long long)gw_json_int(p, "links_made_again", 0));
}

static void print_page_tables(FILE *out, const json_t *report)
{
	const json_t *huge = json_object_get(report, "huge");
	char took[32], before[32], after[32];

	if (gw_json_int(report, "populate_ns", 0) <= 0)
		return;
	fprintf(out, "\nPage tables at the target: populated in %s, most of it while memory arrived",
	        duration_of(took, sizeof(took), report, "populate_ns"));
	if (gw_json_int(huge, "before_bytes", 0) > 0 || gw_json_int(huge, "after_bytes", 0) > 0)
		fprintf(out, "; huge mappings: %s at the source, %s at the target",
		        size_of(before, sizeof(before), huge, "before_bytes"),
		        size_of(after, sizeof(after), huge, "after_bytes"));
	putc('\n', out);
}

void gw_render_report(FILE *out, const json_t *report)
{
	char ram[32], wire[32], text[512];

	if (!json_is_object(report))
		return;
	fprintf(out, "Copying: %s in use, %s on the wire", size_of(ram, sizeof(ram), report, "ram_bytes"),
	        size_of(wire, sizeof(wire), report, "wire_bytes"));
	if (gw_json_int(report, "channels", 0) > 0)
		fprintf(out, ", %lld channel%s", (long long)gw_json_int(report, "channels", 0),
		        gw_json_int(report, "channels", 0) == 1 ? "" : "s");
	if (*gw_json_text(report, "tracing"))
		fprintf(out, ", %s write tracing",
		        gw_clean_text(text, sizeof(text), gw_json_text(report, "tracing")));
	if (*gw_json_text(report, "mode"))
		fprintf(out, ", %s", gw_clean_text(text, sizeof(text), gw_json_text(report, "mode")));
	putc('\n', out);
	print_passes(out, report);
	if (*gw_json_text(report, "decision"))
		fprintf(out, "  Switched because: %s\n",
		        gw_clean_text(text, sizeof(text), gw_json_text(report, "decision")));
	print_compression(out, json_object_get(report, "compression"));
	print_phases(out, "Downtime", json_object_get(report, "downtime"),
	             gw_json_int(report, "downtime_ns", -1));
	print_phases(out, "Set-up", json_object_get(report, "setup"), -1);
	print_phases(out, "Clean-up", json_object_get(report, "cleanup"), -1);
	print_page_tables(out, report);
	print_postcopy(out, json_object_get(report, "postcopy"));
	print_verify(out, json_object_get(report, "verify"));
	if (gw_json_int(report, "total_ns", -1) >= 0)
		fprintf(out, "\nTotal: %s\n", duration_of(text, sizeof(text), report, "total_ns"));
}

const char *gw_outcome_sentence(char *buf, size_t len, const json_t *job)
{
	const json_t *report = json_object_get(job, "report");
	const char *state = gw_json_text(job, "state"), *where = gw_json_text(job, "vm_is");
	bool in = !strcmp(gw_json_text(job, "kind"), "migrate-in");
	const char *not_moved = in ? "did not come from" : "did not move to";
	char vm[128], peer[256], error[GW_ERROR_TEXT_MAX], ran[300] = "", took[96] = "";
	char total[32], down[32];

	gw_clean_text(vm, sizeof(vm), gw_json_text(job, "vm"));
	gw_clean_text(peer, sizeof(peer), gw_json_text(job, "peer"));
	gw_clean_text(error, sizeof(error), gw_json_text(job, "error"));
	if (!strcmp(where, "here"))
		snprintf(ran, sizeof(ran), "; it runs here");
	else if (!strcmp(where, "there"))
		snprintf(ran, sizeof(ran), "; it runs on %s", peer);
	else if (!strcmp(where, "nowhere"))
		snprintf(ran, sizeof(ran), "; its process has ended");
	if (gw_json_int(report, "total_ns", -1) >= 0)
		snprintf(took, sizeof(took), " in %s, downtime %s",
		         duration_of(total, sizeof(total), report, "total_ns"),
		         duration_of(down, sizeof(down), report, "downtime_ns"));
	if (!strcmp(state, "done"))
		snprintf(buf, len, "%s %s %s%s", vm, in ? "came from" : "moved to", peer, took);
	else if (!strcmp(state, "unknown"))
		snprintf(buf, len,
		         "%s is paused and nobody knows yet whether it is to run here or on %s%s%s", vm,
		         peer, error[0] ? ": " : "", error);
	else if (!strcmp(state, "cancelled"))
		snprintf(buf, len, "%s %s %s: cancelled%s", vm, not_moved, peer, ran);
	else
		snprintf(buf, len, "%s %s %s: %s%s", vm, not_moved, peer, error[0] ? error : "failed", ran);
	return buf;
}

void gw_render_outcome(FILE *out, const json_t *job)
{
	char buf[GW_ERROR_TEXT_MAX + 512];

	fprintf(out, "%s\n", gw_outcome_sentence(buf, sizeof(buf), job));
	if (json_is_object(json_object_get(job, "report"))) {
		putc('\n', out);
		gw_render_report(out, json_object_get(job, "report"));
	}
}

void gw_render_job(FILE *out, const json_t *job)
{
	static const struct {
		const char *what, *key;
	} texts[] = {
		{ "job", "id" }, { "kind", "kind" }, { "vm", "vm" }, { "other host", "peer" },
		{ "mode", "mode" }, { "state", "state" }, { "step", "step" }, { "reason", "reason" }, { "error", "error" },
		{ "the vm runs", "vm_is" },
	};
	char buf[512];
	size_t i;

	for (i = 0; i < GW_ARRAY_SIZE(texts); i++)
		gw_render_pair(out, texts[i].what, "%s", gw_json_text(job, texts[i].key));
	gw_render_pair(out, "created", "%s",
	               gw_render_time(buf, sizeof(buf), gw_json_real(job, "created")));
	gw_render_pair(out, "finished", "%s",
	               gw_render_time(buf, sizeof(buf), gw_json_real(job, "finished")));
	if (!gw_json_bool(job, "final")) {
		gw_render_pair(out, "progress", "%s", gw_progress_text(buf, sizeof(buf), job));
		return;
	}
	putc('\n', out);
	gw_render_outcome(out, job);
}
