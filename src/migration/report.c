/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reports and progress as JSON. */
#include "migration/report.h"

#include "base/cleanup.h"
#include "wire/wire.h"

void gw_phase_add(struct gw_phases *p, const char *name, gw_time_ns ns)
{
	if (p->n < GW_REPORT_PHASES_MAX)
		p->list[p->n++] = (struct gw_phase){ name, ns };
}

static json_t *phases_json(const struct gw_phases *p)
{
	json_t *a = json_array();

	for (unsigned i = 0; i < p->n; i++)
		json_array_append_new(a, json_pack("{s:s, s:I}", "name", p->list[i].name, "ns", (json_int_t)p->list[i].ns));
	return a;
}

static uint64_t per_second(uint64_t amount, gw_time_ns ns)
{
	return ns > 0 ? (uint64_t)((double)amount * 1e9 / (double)ns) : 0;
}

/* What packing and differences have spared; headers count against it. */
static json_int_t saved_bytes(const struct gw_pass_stats *s)
{
	uint64_t whole = (s->pages - s->zero_pages) * GW_WIRE_PAGE_BYTES;

	return whole > s->wire_bytes ? (json_int_t)(whole - s->wire_bytes) : 0;
}

static json_t *pass_json(const struct gw_pass_stats *s, const struct gw_decision *d)
{
	return json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:i, s:s}", "pass",
	                 (int)s->pass, "pages", (json_int_t)s->pages, "zero_pages", (json_int_t)s->zero_pages, "delta_pages",
	                 (json_int_t)s->delta_pages, "packed_pages", (json_int_t)s->packed_pages, "saved_bytes",
	                 saved_bytes(s), "compression", s->compression ? s->compression : "off", "wire_bytes",
	                 (json_int_t)s->wire_bytes, "duration_ns", (json_int_t)s->duration_ns, "scan_ns",
	                 (json_int_t)s->scan_ns, "rate_Bps", (json_int_t)per_second(s->wire_bytes, s->duration_ns),
	                 "left_bytes", (json_int_t)s->left_bytes, "dirty_rate_Bps", (json_int_t)d->dirty_rate_Bps,
	                 "hot_bytes", (json_int_t)s->hot_bytes, "plan", gw_plan_name(d->plan), "throttle_percent",
	                 (int)d->throttle_percent, "decision", d->reason);
}

static json_t *verify_json(const struct gw_report *r)
{
	if (!r->verified)
		return json_null();
	return json_pack("{s:I, s:b, s:I, s:I}", "pages", (json_int_t)r->verify_pages, "equal", r->verify_equal,
	                 "different_pages", (json_int_t)r->verify_different_pages, "duration_ns",
	                 (json_int_t)r->verify_ns);
}

static json_t *postcopy_json(const struct gw_report *r)
{
	if (!r->postcopy.owed_bytes)
		return json_null();
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i}", "owed_bytes", (json_int_t)r->postcopy.owed_bytes,
	                 "wire_bytes", (json_int_t)r->postcopy.wire_bytes, "demanded", (json_int_t)r->postcopy.demanded,
	                 "demanded_bytes", (json_int_t)r->postcopy.demanded_bytes, "fault_p50_ns",
	                 (json_int_t)r->postcopy.fault_p50_ns, "fault_p99_ns", (json_int_t)r->postcopy.fault_p99_ns,
	                 "fault_max_ns", (json_int_t)r->postcopy.fault_max_ns, "duration_ns",
	                 (json_int_t)r->postcopy.duration_ns, "links_made_again", (int)r->postcopy.links_made_again);
}

static json_t *compression_json(const struct gw_report *r)
{
	const struct gw_pass_stats *s = &r->sent;

	if (!r->compression)
		return json_null();
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "method", r->compression, "reason", r->compression_why,
	                 "raw_pages", (json_int_t)(s->pages - s->zero_pages - s->delta_pages - s->packed_pages),
	                 "zero_pages", (json_int_t)s->zero_pages, "delta_pages", (json_int_t)s->delta_pages,
	                 "packed_pages", (json_int_t)s->packed_pages, "saved_bytes", saved_bytes(s));
}

json_t *gw_report_json(const struct gw_report *r)
{
	unsigned listed = GW_MIN(r->n_passes, GW_REPORT_PASSES_MAX);
	json_t *passes = json_array();

	for (unsigned i = 0; i < listed; i++)
		json_array_append_new(passes, pass_json(&r->passes[i], &r->decisions[i]));
	return json_pack("{s:I, s:I, s:I, s:I, s:i, s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:s}", "total_ns",
	                 (json_int_t)((r->finished ? r->finished : gw_now_ns()) - r->started), "downtime_ns",
	                 (json_int_t)r->downtime_ns, "wire_bytes", (json_int_t)r->wire_bytes, "ram_bytes",
	                 (json_int_t)r->ram_used_bytes, "channels", (int)r->channels, "tracing",
	                 r->tracing ? r->tracing : "", "populate_ns", (json_int_t)r->populate_ns, "huge",
	                 json_pack("{s:I, s:I}", "before_bytes", (json_int_t)r->huge_before_bytes, "after_bytes",
	                           (json_int_t)r->huge_after_bytes),
	                 "setup", phases_json(&r->setup), "passes", passes, "downtime",
	                 phases_json(&r->downtime), "cleanup", phases_json(&r->cleanup), "postcopy", postcopy_json(r), "verify",
	                 verify_json(r), "compression", compression_json(r), "decision", r->why, "mode",
	                 r->mode == GW_MODE_AUTO ? "" : gw_mode_name(r->mode));
}

static json_t *time_or_null(gw_time_ns ns)
{
	return ns == GW_TIME_NEVER ? json_null() : json_integer(ns);
}

json_t *gw_progress_json(const struct gw_progress *p)
{
	uint64_t left = p->pass_total_bytes > p->pass_done_bytes ? p->pass_total_bytes - p->pass_done_bytes : 0;

	return json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:s, s:i, s:s}", "pass", (int)p->pass, "ram_bytes",
	                 (json_int_t)p->ram_used_bytes, "transferred_bytes", (json_int_t)p->transferred_bytes,
	                 "pass_done_bytes", (json_int_t)p->pass_done_bytes, "pass_total_bytes",
	                 (json_int_t)p->pass_total_bytes, "remaining_bytes", (json_int_t)left, "rate_Bps",
	                 (json_int_t)p->rate_Bps, "dirty_rate_Bps", (json_int_t)p->dirty_rate_Bps,
	                 "predicted_downtime_ns", time_or_null(p->predicted_downtime_ns), "eta_ns",
	                 time_or_null(p->eta_ns), "plan", gw_plan_name(p->plan), "throttle_percent",
	                 (int)p->throttle_percent, "decision", p->decision);
}
