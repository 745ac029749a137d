/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The API's server: routes, errors, event streams, and clients that misbehave. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "control/routes.h"
#include "http_world.h"

#define STEP_NS (20 * GW_NS_PER_MS)
#define LONG_NS (20 * GW_NS_PER_S)

static int setup(void **state)
{
	static struct http_world w;

	http_world_init(&w, NULL, STEP_NS);
	*state = &w;
	return 0;
}

/* Little room and short patience, so that the limits are reached within a test. */
static int setup_tight(void **state)
{
	static struct http_world w;
	const struct gw_http_limits limits = { .connections = 4, .streams = 2, .body_bytes = 4096,
		                               .request_ns = 400 * GW_NS_PER_MS, .answer_ns = GW_NS_PER_S };

	http_world_init(&w, &limits, STEP_NS);
	*state = &w;
	return 0;
}

static int teardown(void **state)
{
	http_world_done(*state);
	return 0;
}

/* One call; `body` is JSON text or NULL. Returns the result of gw_http_call. */
static int call(struct http_world *w, const char *method, const char *path, const char *body,
                struct gw_http_answer *ret, struct gw_error *err)
{
	json_t *json = body ? json_loads(body, 0, NULL) : NULL;
	int r;

	*err = GW_ERROR_INIT;
	assert_true(!body || json);
	r = gw_http_call(w->client, method, path, json, LONG_NS, ret, err);
	json_decref(json);
	return r;
}

static void refused(struct http_world *w, const char *method, const char *path, const char *body,
                    unsigned status, int code, const char *part)
{
	struct gw_http_answer answer;
	struct gw_error err;

	assert_int_equal(call(w, method, path, body, &answer, &err), -code);
	assert_int_equal(answer.status, status);
	assert_non_null(strstr(err.text, part));
	assert_null(answer.json);
}

static json_t *accepted(struct http_world *w, const char *method, const char *path, const char *body,
                        unsigned status)
{
	struct gw_http_answer answer;
	struct gw_error err;

	assert_int_equal(call(w, method, path, body, &answer, &err), 0);
	assert_int_equal(answer.status, status);
	return answer.json;
}

static void text_is(json_t *object, const char *key, const char *text)
{
	assert_string_equal(json_string_value(json_object_get(object, key)), text);
}

/* Starts a migration of web1 and puts the job's path, with `tail`, into buf. */
static void migrate(struct http_world *w, const char *to, char *buf, size_t len, const char *tail)
{
	char body[64];
	json_t *job;

	snprintf(body, sizeof(body), "{\"to\": \"%s\"}", to);
	job = accepted(w, "POST", "/v1/vms/web1/migrate", body, 202);
	snprintf(buf, len, "/v1/jobs/%s%s", json_string_value(json_object_get(job, "id")), tail);
	json_decref(job);
}

static void every_route_answers_with_its_object(void **state)
{
	struct http_world *w = *state;
	char path[64];
	json_t *json;

	json = accepted(w, "GET", "/v1/host", NULL, 200);
	text_is(json, "name", "alpha");
	json_decref(json);
	json = accepted(w, "GET", "/v1/vms", NULL, 200);
	assert_int_equal(json_array_size(json), 2);
	json_decref(json);
	json = accepted(w, "POST", "/v1/vms", "{\"definition\": \"[vm]\\nname = new1\\n\"}", 201);
	text_is(json, "name", "new1");
	json_decref(json);
	json = accepted(w, "GET", "/v1/vms/web1", NULL, 200);
	text_is(json, "state", "running");
	json_decref(json);
	assert_null(accepted(w, "DELETE", "/v1/vms/db1?force=true&timeout_ns=5000000000", NULL, 204));
	migrate(w, "slow", path, sizeof(path), "");
	json = accepted(w, "GET", path, NULL, 200);
	text_is(json, "vm", "web1");
	json_decref(json);
	json = accepted(w, "GET", "/v1/jobs", NULL, 200);
	assert_int_equal(json_array_size(json), 1);
	json_decref(json);
	strcat(path, "/cancel");
	json = accepted(w, "POST", path, NULL, 200);
	text_is(json, "state", "cancelled");
	json_decref(json);
	migrate(w, "stuck", path, sizeof(path), "/cancel");
	json = accepted(w, "POST", path, NULL, 202);
	text_is(json, "state", "undoing");
	json_decref(json);
	json = accepted(w, "POST", "/v1/vms/web1/migrate", "{\"to\": \"beta\", \"dry_run\": true}", 200);
	assert_true(json_is_true(json_object_get(json, "possible")));
	json_decref(json);
}

static void the_hosts_errors_become_status_and_sentence(void **state)
{
	struct http_world *w = *state;
	char path[64];

	refused(w, "GET", "/v1/vms/web9", NULL, 404, ENOENT, "there is no VM called 'web9'");
	refused(w, "GET", "/v1/jobs/m-77", NULL, 404, ENOENT, "no job 'm-77'");
	refused(w, "GET", "/v1/jobs/m-77/events", NULL, 404, ENOENT, "no job 'm-77'");
	refused(w, "POST", "/v1/vms", "{\"definition\": \"x\"}", 400, EINVAL, "line 1: the VM has no name");
	refused(w, "DELETE", "/v1/vms/db1?timeout_ns=0", NULL, 422, ETIMEDOUT, "did not power off");
	migrate(w, "late", path, sizeof(path), "/cancel");
	refused(w, "POST", path, NULL, 409, EALREADY, "already decided");
	refused(w, "DELETE", "/v1/vms/web1", NULL, 409, EBUSY, "is being migrated");
}

static void what_is_not_there_is_404_and_a_wrong_method_405(void **state)
{
	struct http_world *w = *state;
	char buf[1024];
	gw_autofd int fd = http_world_connect(w->path);
	const char *text =
		"PUT /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

	refused(w, "GET", "/", NULL, 404, ENOENT, "nothing at /");
	refused(w, "GET", "/v1/vms/", NULL, 404, ENOENT, "nothing at");
	refused(w, "GET", "/v1/vms/a/b", NULL, 404, ENOENT, "nothing at");
	refused(w, "GET", "/v1/vms/..", NULL, 404, ENOENT, "there is no VM called '..'");
	refused(w, "GET", "/v1/vms/%2e%2e%2fhost", NULL, 404, ENOENT, "nothing at");
	refused(w, "DELETE", "/v1/host", NULL, 405, EOPNOTSUPP, "takes GET, not DELETE");
	assert_true(http_world_send(fd, text, strlen(text)));
	assert_true(http_world_read(fd, buf, sizeof(buf), NULL, LONG_NS));
	assert_non_null(strstr(buf, "HTTP/1.1 405"));
	assert_non_null(strstr(buf, "Allow: GET, POST"));
}

static void a_slip_in_a_request_is_refused_and_named(void **state)
{
	static const struct {
		const char *body, *part;
	} slips[] = {
		{ "{}", "the field 'to' is missing" },
		{ "{\"to\": \"beta\", \"verfy\": true}", "there is no field 'verfy'" },
		{ "{\"to\": 7}", "'to' must be a text" },
		{ "{\"to\": \"\"}", "'to' must be 1 to 255 characters long" },
		{ "{\"to\": \"beta\", \"channels\": 0}", "'channels' must be from 1 to 64, not 0" },
		{ "{\"to\": \"beta\", \"channels\": 65}", "'channels' must be from 1 to 64, not 65" },
		{ "{\"to\": \"beta\", \"channels\": 1.5}", "'channels' must be a whole number" },
		{ "{\"to\": \"beta\", \"bandwidth_Bps\": -1}", "'bandwidth_Bps' must be from 0" },
		{ "{\"to\": \"beta\", \"verify\": \"yes\"}", "'verify' must be true or false" },
		{ "{\"to\": \"beta\", \"on_stall\": \"itch\"}", "'on_stall' must be one of throttle|switch|stay" },
		{ "{\"to\": \"beta\", \"on_stall\": \"\"}", "'on_stall' must be one of throttle|switch|stay" },
		{ "[1]", "must be a JSON object" },
	};
	struct http_world *w = *state;
	json_t *jobs;
	size_t i;

	for (i = 0; i < GW_ARRAY_SIZE(slips); i++)
		refused(w, "POST", "/v1/vms/web1/migrate", slips[i].body, 400, EINVAL, slips[i].part);
	refused(w, "DELETE", "/v1/vms/db1?force=maybe", NULL, 400, EINVAL, "'force' cannot be 'maybe'");
	refused(w, "DELETE", "/v1/vms/db1?timeout_ns=1s", NULL, 400, EINVAL, "'timeout_ns' cannot be '1s'");
	refused(w, "DELETE", "/v1/vms/db1?fource=1", NULL, 400, EINVAL, "there is no field 'fource'");
	refused(w, "GET", "/v1/vms?x=1", NULL, 400, EINVAL, "there is no field 'x'");
	refused(w, "POST", "/v1/jobs/m-1/cancel", "{}", 400, EINVAL, "takes no body");
	jobs = accepted(w, "GET", "/v1/jobs", NULL, 200);
	assert_int_equal(json_array_size(jobs), 0);
	json_decref(jobs);
	json_decref(accepted(w, "GET", "/v1/vms/db1", NULL, 200));
}

static void errors_map_to_statuses_as_documented(void **state)
{
	assert_int_equal(gw_status_of_error(-EINVAL), 400);
	assert_int_equal(gw_status_of_error(-ENOENT), 404);
	assert_int_equal(gw_status_of_error(-EBUSY), 409);
	assert_int_equal(gw_status_of_error(-EEXIST), 409);
	assert_int_equal(gw_status_of_error(-EHOSTUNREACH), 422);
	assert_int_equal(gw_status_of_error(-ENOTSUP), 422);
	assert_int_equal(gw_status_of_error(-ESRCH), 422); /* a QEMU that ended: not the caller's slip */
	assert_int_equal(gw_status_of_error(-EIO), 500);
}

/* What a follower of a job has seen. */
struct seen {
	char states[256]; /* joined by blanks, repetitions left out */
	char last[32];
	unsigned events, stop_after;
	bool final;
};

static int on_event(void *ctx, const json_t *job)
{
	struct seen *s = ctx;
	const char *now = json_string_value(json_object_get(job, "state"));

	s->events++;
	s->final = json_is_true(json_object_get(job, "final"));
	if (strcmp(s->last, now)) {
		snprintf(s->last, sizeof(s->last), "%s", now);
		strcat(strcat(s->states, s->states[0] ? " " : ""), now);
	}
	return s->stop_after && s->events >= s->stop_after;
}

static int follow(struct http_world *w, const char *path, struct seen *s, struct gw_error *err)
{
	unsigned status;

	return gw_http_events(w->client, path, LONG_NS, on_event, s, &status, err);
}

static void a_stream_shows_every_state_and_ends_with_the_final_one(void **state)
{
	struct http_world *w = *state;
	struct gw_error err = GW_ERROR_INIT;
	struct seen s = { 0 };
	char path[64];

	migrate(w, "beta", path, sizeof(path), "/events");
	assert_int_equal(follow(w, path, &s, &err), 0);
	assert_true(s.final);
	assert_non_null(strstr(s.states, "copying switching committed done"));
	/* Again, of a job that has ended: its last state and no more. */
	s = (struct seen){ 0 };
	assert_int_equal(follow(w, path, &s, &err), 0);
	assert_int_equal(s.events, 1);
	assert_string_equal(s.states, "done");
}

struct toucher {
	struct http_world *w;
	char id[32];
};

static void *touch_for_a_second(void *arg)
{
	struct toucher *t = arg;
	int i;

	for (i = 0; i < 200; i++) {
		fake_host_touch(t->w->host, t->id);
		gw_sleep_ns(5 * GW_NS_PER_MS);
	}
	return NULL;
}

static void a_stream_of_a_busy_job_has_at_most_five_events_a_second(void **state)
{
	struct http_world *w = *state;
	struct gw_error err = GW_ERROR_INIT;
	struct toucher t = { .w = w };
	struct seen s = { .stop_after = 6 };
	char path[64];
	pthread_t thread;
	gw_time_ns began;

	migrate(w, "slow", path, sizeof(path), "");
	snprintf(t.id, sizeof(t.id), "%s", strrchr(path, '/') + 1);
	strcat(path, "/events");
	gw_sleep_ns(3 *
	            STEP_NS); /* past the change from preparing to copying, which is an event of its own */
	assert_int_equal(pthread_create(&thread, NULL, touch_for_a_second, &t), 0);
	began = gw_now_ns();
	assert_int_equal(follow(w, path, &s, &err), 1);
	pthread_join(thread, NULL);
	assert_true(gw_now_ns() - began >= 5 * 190 * GW_NS_PER_MS); /* six events have five gaps */
}

/* Whether so many threads wait in the host within five seconds: between two waits of one there is a moment
 * without. */
static bool waiters_become(struct gw_host *h, unsigned n)
{
	gw_time_ns until = gw_deadline_in(5 * GW_NS_PER_S);

	while (fake_host_waiters(h) != n && gw_now_ns() < until)
		gw_sleep_ns(10 * GW_NS_PER_MS);
	return fake_host_waiters(h) == n;
}

static void a_quiet_stream_is_kept_alive_and_notices_that_its_client_is_gone(void **state)
{
	static struct http_world w;
	char path[64], request[160], buf[8192];
	int fd;

	http_world_init(&w, NULL, 3600 * GW_NS_PER_S);
	migrate(&w, "slow", path, sizeof(path), "/events");
	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
	fd = http_world_connect(w.path);
	assert_true(http_world_send(fd, request, strlen(request)));
	assert_true(http_world_read(fd, buf, sizeof(buf), "event: job\ndata: {", LONG_NS));
	assert_true(http_world_read(fd, buf, sizeof(buf), ": keepalive\n\n", 3 * GW_NS_PER_S));
	assert_true(waiters_become(w.host, 1));
	close(fd);
	assert_true(waiters_become(w.host, 0));
	gw_sleep_ns(50 * GW_NS_PER_MS); /* it was not such a moment */
	assert_int_equal(fake_host_waiters(w.host), 0);
	http_world_done(&w);
}

static void shutting_down_does_not_wait_for_open_streams(void **state)
{
	static struct http_world w;
	gw_time_ns began;
	char path[64], request[160], buf[8192];
	int fds[3];
	size_t i;

	http_world_init(&w, NULL, 3600 * GW_NS_PER_S);
	migrate(&w, "slow", path, sizeof(path), "/events");
	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
	for (i = 0; i < GW_ARRAY_SIZE(fds); i++) {
		fds[i] = http_world_connect(w.path);
		assert_true(http_world_send(fds[i], request, strlen(request)));
		assert_true(http_world_read(fds[i], buf, sizeof(buf), "event: job", LONG_NS));
	}
	began = gw_now_ns();
	gw_http_server_free(w.server);
	assert_true(gw_now_ns() - began < 3 * GW_NS_PER_S);
	w.server = NULL;
	for (i = 0; i < GW_ARRAY_SIZE(fds); i++)
		close(fds[i]);
	http_world_done(&w);
}

struct follower {
	struct http_world *w;
	char path[64];
	struct seen seen;
	int r;
};

static void *follower_main(void *arg)
{
	struct follower *f = arg;
	struct gw_http_client *client = NULL;
	struct gw_error err = GW_ERROR_INIT;
	unsigned status;

	f->r = gw_http_client_new(f->w->path, -1, &client);
	if (f->r == 0)
		f->r = gw_http_events(client, f->path, LONG_NS, on_event, &f->seen, &status, &err);
	gw_http_client_free(client);
	return NULL;
}

static void two_clients_follow_two_jobs_while_a_third_asks(void **state)
{
	struct http_world *w = *state;
	struct follower f[2] = { { .w = w }, { .w = w } };
	pthread_t threads[2];
	size_t i;

	for (i = 0; i < 2; i++) {
		migrate(w, i ? "fails" : "beta", f[i].path, sizeof(f[i].path), "/events");
		assert_int_equal(pthread_create(&threads[i], NULL, follower_main, &f[i]), 0);
	}
	for (i = 0; i < 20; i++)
		json_decref(accepted(w, "GET", "/v1/vms", NULL, 200));
	for (i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(f[i].r, 0);
		assert_true(f[i].seen.final);
	}
	assert_string_equal(f[0].seen.last, "done");
	assert_string_equal(f[1].seen.last, "failed");
}

static void streams_beyond_the_limit_are_turned_away_and_commands_still_work(void **state)
{
	struct http_world *w = *state;
	struct gw_error err = GW_ERROR_INIT;
	struct seen s = { 0 };
	char path[64], request[160], buf[8192];
	unsigned status;
	int fds[2];
	size_t i;

	migrate(w, "slow", path, sizeof(path), "/events");
	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
	for (i = 0; i < 2; i++) {
		fds[i] = http_world_connect(w->path);
		assert_true(http_world_send(fds[i], request, strlen(request)));
		assert_true(http_world_read(fds[i], buf, sizeof(buf), "event: job", LONG_NS));
	}
	assert_int_equal(gw_http_events(w->client, path, LONG_NS, on_event, &s, &status, &err), -EAGAIN);
	assert_int_equal(status, 503);
	json_decref(accepted(w, "GET", "/v1/vms", NULL, 200));
	close(fds[0]);
	close(fds[1]);
}

static void garbage_is_answered_or_cut_off_and_the_server_lives(void **state)
{
	static const char *const garbage[] = {
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "GET\r\n\r\n", "\r\n\r\n\r\n\r\n",
		"GET /v1/vms HTTP/9.9\r\nHost: x\r\n\r\n", "GET /v1/vms HTTP/1.1\r\n\r\n",
		"POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
		"POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
		"POST /v1/vms HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{\"defi",
		"GET /v1/vms/%00%ff HTTP/1.1\r\nHost: x\r\n\r\n", "{\"execute\": \"qmp_capabilities\"}\n",
	};
	struct http_world *w = *state;
	char buf[4096];
	size_t i;

	for (i = 0; i < GW_ARRAY_SIZE(garbage); i++) {
		gw_autofd int fd = http_world_connect(w->path);

		http_world_send(fd, garbage[i], strlen(garbage[i]));
		/* Closed by the server within its patience, whatever it said before. */
		assert_true(http_world_read(fd, buf, sizeof(buf), NULL, 3 * GW_NS_PER_S));
		assert_null(strstr(buf, "HTTP/1.1 500"));
	}
	json_decref(accepted(w, "GET", "/v1/vms", NULL, 200));
}

static void a_body_that_is_no_json_is_a_400(void **state)
{
	static const char *const bodies[] = { "{\"to\": ", "", "{\"to\":\"beta\"} x",
		                              "{\"to\":\"a\",\"to\":\"b\"}", "{\"to\":\"\xff\xfe\"}" };
	struct http_world *w = *state;
	char request[512], buf[4096];
	size_t i;

	for (i = 0; i < GW_ARRAY_SIZE(bodies); i++) {
		gw_autofd int fd = http_world_connect(w->path);

		snprintf(request, sizeof(request),
		         "POST /v1/vms/web1/migrate HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
		         strlen(bodies[i]), bodies[i]);
		assert_true(http_world_send(fd, request, strlen(request)));
		assert_true(
			http_world_read(fd, buf, sizeof(buf), "\"error\":{\"code\":\"einval\"", LONG_NS));
		assert_non_null(strstr(buf, "HTTP/1.1 400"));
	}
}

static void a_body_that_is_too_large_is_a_413(void **state)
{
	struct http_world *w = *state;
	char buf[4096], chunk[2048];
	gw_autofd int announced = http_world_connect(w->path), chunked = http_world_connect(w->path);
	const char *head = "POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 4097\r\n\r\n";
	size_t i;

	/* Announced: refused before anything of it is sent. */
	assert_true(http_world_send(announced, head, strlen(head)));
	assert_true(http_world_read(announced, buf, sizeof(buf), "larger than 4096 bytes", LONG_NS));
	assert_non_null(strstr(buf, "HTTP/1.1 413"));
	/* Not announced: refused at its end. */
	head = "POST /v1/vms HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
	assert_true(http_world_send(chunked, head, strlen(head)));
	memset(chunk, ' ', sizeof(chunk));
	for (i = 0; i < 8; i++)
		assert_true(http_world_send(chunked, "800\r\n", 5) &&
		            http_world_send(chunked, chunk, sizeof(chunk)) &&
		            http_world_send(chunked, "\r\n", 2));
	assert_true(http_world_send(chunked, "0\r\n\r\n", 5));
	assert_true(http_world_read(chunked, buf, sizeof(buf), "larger than 4096 bytes", LONG_NS));
	assert_non_null(strstr(buf, "HTTP/1.1 413"));
}

static void a_request_that_trickles_in_is_cut_off(void **state)
{
	struct http_world *w = *state;
	const char *text = "GET /v1/vms HTTP/1.1\r\nHost: x\r\nX-Slow: "
	                   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
	gw_autofd int fd = http_world_connect(w->path);
	gw_time_ns began = gw_now_ns();
	size_t i = 0;

	while (text[i] && http_world_send(fd, text + i, 1)) {
		gw_sleep_ns(50 * GW_NS_PER_MS);
		i++;
	}
	assert_true(text[i] != '\0');
	assert_in_range(gw_now_ns() - began, 300 * GW_NS_PER_MS, 2 * GW_NS_PER_S);
}

static void clients_that_only_hold_connections_do_not_lock_others_out(void **state)
{
	struct http_world *w = *state;
	int fds[12];
	size_t i;

	for (i = 0; i < GW_ARRAY_SIZE(fds); i++)
		fds[i] = http_world_connect(w->path);
	json_decref(accepted(w, "GET", "/v1/vms", NULL, 200));
	for (i = 0; i < GW_ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

static void one_connection_carries_several_requests(void **state)
{
	struct http_world *w = *state;
	const char *text = "GET /v1/host HTTP/1.1\r\nHost: x\r\n\r\n";
	gw_autofd int fd = http_world_connect(w->path);
	char buf[4096];
	int i;

	for (i = 0; i < 3; i++) {
		assert_true(http_world_send(fd, text, strlen(text)));
		assert_true(http_world_read(fd, buf, sizeof(buf), "jobs_active", LONG_NS));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_route_answers_with_its_object, setup, teardown),
		cmocka_unit_test_setup_teardown(the_hosts_errors_become_status_and_sentence, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(what_is_not_there_is_404_and_a_wrong_method_405, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(a_slip_in_a_request_is_refused_and_named, setup, teardown),
		cmocka_unit_test(errors_map_to_statuses_as_documented),
		cmocka_unit_test_setup_teardown(a_stream_shows_every_state_and_ends_with_the_final_one,
		                                setup, teardown),
		cmocka_unit_test_setup_teardown(a_stream_of_a_busy_job_has_at_most_five_events_a_second,
		                                setup, teardown),
		cmocka_unit_test(a_quiet_stream_is_kept_alive_and_notices_that_its_client_is_gone),
		cmocka_unit_test(shutting_down_does_not_wait_for_open_streams),
		cmocka_unit_test_setup_teardown(two_clients_follow_two_jobs_while_a_third_asks, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(
			streams_beyond_the_limit_are_turned_away_and_commands_still_work, setup_tight,
			teardown),
		cmocka_unit_test_setup_teardown(garbage_is_answered_or_cut_off_and_the_server_lives,
		                                setup_tight, teardown),
		cmocka_unit_test_setup_teardown(a_body_that_is_no_json_is_a_400, setup, teardown),
		cmocka_unit_test_setup_teardown(a_body_that_is_too_large_is_a_413, setup_tight, teardown),
		cmocka_unit_test_setup_teardown(a_request_that_trickles_in_is_cut_off, setup_tight,
		                                teardown),
		cmocka_unit_test_setup_teardown(clients_that_only_hold_connections_do_not_lock_others_out,
		                                setup_tight, teardown),
		cmocka_unit_test_setup_teardown(one_connection_carries_several_requests, setup, teardown),
	};

	return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
