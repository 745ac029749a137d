/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One job's progress as the text of a server-sent event stream. */
#include "control/http_stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "control/routes.h"

#define STOPPING_PAUSE_NS (20 * GW_NS_PER_MS)

struct gw_stream {
	struct gw_host *host;
	char job[GW_ROUTE_ARG_MAX + 1];
	bool (*stopping)(void *ctx);
	void *ctx;

	uint64_t seq;
	char state[32];        /* of the event sent last */
	gw_time_ns sent_at;    /* when that was */
	bool ended;            /* the final event was made, or the job is gone */

	char *text;            /* not delivered yet */
	size_t len, at;
};

int gw_stream_new(struct gw_host *host, const char *job, bool (*stopping)(void *ctx), void *ctx,
                  struct gw_stream **ret)
{
	struct gw_stream *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->host = host;
	s->stopping = stopping;
	s->ctx = ctx;
	snprintf(s->job, sizeof(s->job), "%s", job);
	*ret = s;
	return 0;
}

void gw_stream_free(struct gw_stream *s)
{
	if (!s)
		return;
	free(s->text);
	free(s);
}

static int put(struct gw_stream *s, const char *text)
{
	free(s->text);
	s->text = strdup(text);
	s->len = s->text ? strlen(s->text) : 0;
	s->at = 0;
	return s->text ? 0 : -ENOMEM;
}

static int put_event(struct gw_stream *s, const json_t *job)
{
	gw_autofree char *data = json_dumps(job, JSON_COMPACT);
	char *text = NULL;
	int n = data ? asprintf(&text, "event: job\ndata: %s\n\n", data) : -1;
	const char *state = json_string_value(json_object_get(job, "state"));

	if (n < 0)
		return -ENOMEM;
	free(s->text);
	s->text = text;
	s->len = (size_t)n;
	s->at = 0;
	s->sent_at = gw_now_ns();
	snprintf(s->state, sizeof(s->state), "%s", state ? state : "");
	s->ended = json_is_true(json_object_get(job, "final"));
	return 0;
}

static bool state_changed(const struct gw_stream *s, const json_t *job)
{
	const char *state = json_string_value(json_object_get(job, "state"));

	return json_is_true(json_object_get(job, "final")) || strcmp(s->state, state ? state : "");
}

/* Waits for the next text. A change that comes too soon after the last event is held back until the
 * interval is over or the state changes, and then sent in its newest form. */
static int next(struct gw_stream *s)
{
	gw_time_ns quiet_until = gw_now_ns() + GW_STREAM_KEEPALIVE_NS;
	json_t *held = NULL;
	int r;

	while (!s->stopping(s->ctx)) {
		gw_time_ns now = gw_now_ns();
		gw_time_ns until = held ? s->sent_at + GW_STREAM_INTERVAL_NS : quiet_until;
		struct gw_error err = GW_ERROR_INIT;
		uint64_t seq = s->seq;
		json_t *job = NULL;

		if (now >= until) {
			r = held ? put_event(s, held) : put(s, ": keepalive\n\n");
			json_decref(held);
			return r;
		}
		r = gw_host_job_wait(s->host, s->job, &s->seq, until - now, &job, &err);
		if (r < 0 && r != -ETIMEDOUT) {
			json_decref(held);
			json_decref(job);
			return r;
		}
		if (!job || (s->seq == seq && seq != 0)) {
			json_decref(job);
			/* A host that is being stopped does not let anybody wait. */
			if (gw_now_ns() < until)
				gw_sleep_ns(STOPPING_PAUSE_NS);
			continue;
		}
		json_decref(held);
		held = job;
		if (s->sent_at == 0 || state_changed(s, job)) {
			r = put_event(s, job);
			json_decref(job);
			return r;
		}
	}
	json_decref(held);
	s->ended = true;
	return 0;
}

ssize_t gw_stream_read(struct gw_stream *s, char *buf, size_t max)
{
	size_t n;
	int r;

	if (s->at == s->len) {
		s->at = s->len = 0;
		if (s->ended)
			return 0;
		r = next(s);
		if (r < 0)
			return r;
		if (s->len == 0)
			return 0;
	}
	n = GW_MIN(s->len - s->at, max);
	memcpy(buf, s->text + s->at, n);
	s->at += n;
	return (ssize_t)n;
}
