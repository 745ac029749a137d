/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A running job, shown as it goes: a line redrawn on a terminal, time-stamped lines elsewhere, or JSON. */
#ifndef GW_CONTROL_RENDER_PROGRESS_H
#define GW_CONTROL_RENDER_PROGRESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/clock.h"

enum gw_progress_mode {
	GW_PROGRESS_PLAIN,    /* at a change of state or pass, else at most one line per second */
	GW_PROGRESS_TERMINAL, /* one line, redrawn in place */
	GW_PROGRESS_JSON,     /* each Job as one line of JSON */
};

struct gw_progress_view {
	FILE *out;
	enum gw_progress_mode mode;
	bool line_open;      /* a line without its end stands on the terminal */
	char state[32];      /* of the last update shown */
	int64_t pass;
	gw_time_ns shown_at; /* monotonic; 0: never */
};

void gw_progress_view_init(struct gw_progress_view *p, FILE *out, enum gw_progress_mode mode);

/* `width`: columns of the terminal, 0 for not known. `now`: monotonic. */
void gw_progress_view_update(struct gw_progress_view *p, const json_t *job, unsigned width, gw_time_ns now);

/* Prints a sentence without tearing the line apart. Not shown in JSON mode. */
void gw_progress_view_note(struct gw_progress_view *p, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Removes the open line from the terminal, so that other output can follow. */
void gw_progress_view_clear(struct gw_progress_view *p);

/* "copying pass 2: 1.20 GiB sent, 310 MiB left, ...". Returns buf. */
const char *gw_progress_text(char *buf, size_t len, const json_t *job);

/* The same with a bar, at most `width` columns wide. Returns buf. */
const char *gw_progress_bar(char *buf, size_t len, const json_t *job, unsigned width);

#endif
