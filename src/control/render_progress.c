/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A running job, shown as it goes. */
#include "control/render_progress.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "control/json.h"
#include "control/table.h"

#define WIDTH_DEFAULT 80
#define BAR_MIN 10
#define BAR_MAX 30
#define PART_MAX 64

/* What can be said about a job that copies, the most important first. */
enum part { PART_LEFT, PART_DOWNTIME, PART_ETA, PART_RATE, PART_DIRTY, PART_SENT, N_PARTS };

/* Fills the texts of all parts; "" for what is not known. */
static void fill_parts(char parts[N_PARTS][PART_MAX], const json_t *progress)
{
	static const struct {
		enum part part;
		const char *key, *format;
		const char *(*text)(char *buf, size_t len, uint64_t v);
	} amounts[] = {
		{ PART_SENT, "transferred_bytes", "%s sent", gw_format_size },
		{ PART_LEFT, "remaining_bytes", "%s left", gw_format_size },
		{ PART_RATE, "rate_Bps", "%s", gw_format_rate },
		{ PART_DIRTY, "dirty_rate_Bps", "dirty %s", gw_format_rate },
	};
	static const struct {
		enum part part;
		const char *key, *format;
	} times[] = {
		{ PART_DOWNTIME, "predicted_downtime_ns", "downtime %s" },
		{ PART_ETA, "eta_ns", "ETA %s" },
	};
	char text[32];
	size_t i;

	memset(parts, 0, N_PARTS * sizeof(parts[0]));
	for (i = 0; i < GW_ARRAY_SIZE(amounts); i++) {
		int64_t v = gw_json_int(progress, amounts[i].key, -1);

		if (v >= 0)
			snprintf(parts[amounts[i].part], PART_MAX, amounts[i].format,
			         amounts[i].text(text, sizeof(text), (uint64_t)v));
	}
	for (i = 0; i < GW_ARRAY_SIZE(times); i++) {
		int64_t v = gw_json_int(progress, times[i].key, -1);

		if (v >= 0)
			snprintf(parts[times[i].part], PART_MAX, times[i].format,
			         gw_format_duration(text, sizeof(text), v));
	}
}

/* "copying pass 2", "copying pass 7, VM slowed by 60 %", "preparing (waiting for the target)", or "done". */
static void fill_head(char *buf, size_t len, const json_t *job)
{
	const json_t *progress = json_object_get(job, "progress");
	int64_t pass = gw_json_int(progress, "pass", 0), slowed = gw_json_int(progress, "throttle_percent", 0);
	char state[32], step[128];

	gw_clean_text(state, sizeof(state), gw_json_text(job, "state"));
	gw_clean_text(step, sizeof(step), gw_json_text(job, "step"));
	if (!strcmp(state, "copying") && pass > 0 && slowed > 0)
		snprintf(buf, len, "%s pass %lld, VM slowed by %lld %%", state, (long long)pass, (long long)slowed);
	else if (!strcmp(state, "copying") && pass > 0)
		snprintf(buf, len, "%s pass %lld", state, (long long)pass);
	else if (step[0] && strcmp(step, state) && !gw_json_bool(job, "final"))
		snprintf(buf, len, "%s (%s)", state, step);
	else
		snprintf(buf, len, "%s", state);
}

/* Before the switch, or after it. */
static bool copies(const json_t *job)
{
	const char *state = gw_json_text(job, "state");

	return !strcmp(state, "copying") || !strcmp(state, "post-copy");
}

const char *gw_progress_text(char *buf, size_t len, const json_t *job)
{
	static const enum part order[] = { PART_SENT,  PART_LEFT,     PART_RATE,
		                           PART_DIRTY, PART_DOWNTIME, PART_ETA };
	char parts[N_PARTS][PART_MAX];
	bool first = true;
	size_t at, i;

	fill_head(buf, len, job);
	if (!copies(job))
		return buf;
	fill_parts(parts, json_object_get(job, "progress"));
	for (i = 0; i < GW_ARRAY_SIZE(order); i++) {
		if (!parts[order[i]][0])
			continue;
		at = strlen(buf);
		snprintf(buf + at, len - at, "%s%s%s", first ? ": " : ", ",
		         order[i] == PART_DOWNTIME ? "predicted " : "", parts[order[i]]);
		first = false;
	}
	return buf;
}

/* Share of the pass that is done, 0..1; -1 when not known. */
static double share(const json_t *progress)
{
	double total = gw_json_real(progress, "pass_total_bytes");
	double done = gw_json_real(progress, "pass_done_bytes");

	return total <= 0 ? -1 : GW_MAX(0.0, GW_MIN(1.0, done / total));
}

static void draw_bar(char *buf, size_t len, double part, unsigned width)
{
	unsigned full = (unsigned)(part * width), i;
	size_t at = (size_t)snprintf(buf, len, " [");

	for (i = 0; i < width && at + 1 < len; i++)
		buf[at++] = i < full ? '#' : '.';
	snprintf(buf + at, len - at, "] %3.0f%%", part * 100);
}

/* Which parts fit behind `used` columns, taken in order of importance; counts their columns into *used. */
static unsigned choose_parts(char parts[N_PARTS][PART_MAX], size_t *used, size_t width)
{
	unsigned chosen = 0, i;

	for (i = 0; i < N_PARTS; i++) {
		size_t w = gw_text_width(parts[i]) + 2;

		if (!parts[i][0] || *used + w > width)
			continue;
		*used += w;
		chosen |= 1u << i;
	}
	return chosen;
}

/* Columns that a line never shrinks below without being cut. */
static void cut(char *buf, unsigned width)
{
	size_t columns = 0, i;

	for (i = 0; buf[i]; i++) {
		columns += ((unsigned char)buf[i] & 0xc0) != 0x80;
		if (columns > width) {
			buf[i] = '\0';
			return;
		}
	}
}

const char *gw_progress_bar(char *buf, size_t len, const json_t *job, unsigned width)
{
	static const enum part order[] = { PART_SENT,  PART_LEFT,     PART_RATE,
		                           PART_DIRTY, PART_DOWNTIME, PART_ETA };
	const json_t *progress = json_object_get(job, "progress");
	const size_t frame = strlen(" [] 100%");
	double part = copies(job) ? share(progress) : -1;
	char parts[N_PARTS][PART_MAX];
	size_t used, at, i;
	unsigned chosen;

	fill_head(buf, len, job);
	if (copies(job)) {
		fill_parts(parts, progress);
		used = gw_text_width(buf) + (part >= 0 ? frame + BAR_MIN : 0);
		chosen = choose_parts(parts, &used, width);
		at = strlen(buf);
		if (part >= 0 && used <= width)
			draw_bar(buf + at, len - at, part,
			         (unsigned)GW_MIN(BAR_MAX, BAR_MIN + width - used));
		for (i = 0; i < GW_ARRAY_SIZE(order); i++) {
			at = strlen(buf);
			if (chosen & 1u << order[i])
				snprintf(buf + at, len - at, "  %s", parts[order[i]]);
		}
	}
	cut(buf, width);
	return buf;
}

void gw_progress_view_init(struct gw_progress_view *p, FILE *out, enum gw_progress_mode mode)
{
	*p = (struct gw_progress_view){ .out = out, .mode = mode, .pass = -1 };
}

void gw_progress_view_clear(struct gw_progress_view *p)
{
	if (p->line_open)
		fputs("\r\033[K", p->out);
	p->line_open = false;
	fflush(p->out);
}

static void stamp(FILE *out)
{
	time_t now = time(NULL);
	struct tm tm;
	char buf[16] = "";

	if (localtime_r(&now, &tm))
		strftime(buf, sizeof(buf), "%H:%M:%S ", &tm);
	fputs(buf, out);
}

void gw_progress_view_note(struct gw_progress_view *p, const char *fmt, ...)
{
	va_list ap;

	if (p->mode == GW_PROGRESS_JSON)
		return;
	gw_progress_view_clear(p);
	if (p->mode == GW_PROGRESS_PLAIN)
		stamp(p->out);
	va_start(ap, fmt);
	vfprintf(p->out, fmt, ap);
	va_end(ap);
	putc('\n', p->out);
	fflush(p->out);
}

static void update_plain(struct gw_progress_view *p, const json_t *job, gw_time_ns now)
{
	int64_t pass = gw_json_int(json_object_get(job, "progress"), "pass", 0);
	bool changed = strcmp(p->state, gw_json_text(job, "state")) || pass != p->pass;
	char buf[512];

	if (!changed && p->shown_at && now - p->shown_at < GW_NS_PER_S)
		return;
	stamp(p->out);
	fprintf(p->out, "%s\n", gw_progress_text(buf, sizeof(buf), job));
	snprintf(p->state, sizeof(p->state), "%s", gw_json_text(job, "state"));
	p->pass = pass;
	p->shown_at = now;
}

void gw_progress_view_update(struct gw_progress_view *p, const json_t *job, unsigned width, gw_time_ns now)
{
	char buf[1024];

	switch (p->mode) {
	case GW_PROGRESS_JSON:
		json_dumpf(job, p->out, JSON_COMPACT);
		putc('\n', p->out);
		break;
	case GW_PROGRESS_PLAIN:
		update_plain(p, job, now);
		break;
	case GW_PROGRESS_TERMINAL:
		/* The last column stays free: a character there makes some terminals begin a new line. */
		width = width ? width : WIDTH_DEFAULT;
		fprintf(p->out, "\r%s\033[K", gw_progress_bar(buf, sizeof(buf), job, width - 1));
		p->line_open = true;
		break;
	}
	fflush(p->out);
}
