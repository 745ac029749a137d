/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The API's client against servers that are absent, silent, dying or talk nonsense; its event parser. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "control/sse.h"
#include "http_world.h"

#define LONG_NS (20 * GW_NS_PER_S)

/* A server that accepts one client, reads its request, answers with fixed bytes and closes or stays silent.
 */
struct parrot {
	char folder[64], path[96];
	int listen_fd;
	const char *answer;
	bool silent; /* holds the connection after the answer */
	int hold;    /* the connection that is held */
	pthread_t thread;
};

static void *parrot_main(void *arg)
{
	struct parrot *p = arg;
	int fd = accept(p->listen_fd, NULL, NULL);
	char buf[4096];

	assert_true(fd >= 0);
	http_world_read(fd, buf, sizeof(buf), "\r\n\r\n", LONG_NS);
	http_world_send(fd, p->answer, strlen(p->answer));
	if (p->silent)
		p->hold = fd;
	else
		close(fd);
	return NULL;
}

static struct gw_http_client *parrot_start(struct parrot *p, const char *answer, bool silent, int wake_fd)
{
	struct gw_http_client *client = NULL;

	*p = (struct parrot){ .answer = answer, .silent = silent, .hold = -1 };
	strcpy(p->folder, "/tmp/gw-http-XXXXXX");
	assert_non_null(mkdtemp(p->folder));
	snprintf(p->path, sizeof(p->path), "%s/api.sock", p->folder);
	p->listen_fd = http_world_listen(p->path);
	assert_int_equal(pthread_create(&p->thread, NULL, parrot_main, p), 0);
	assert_int_equal(gw_http_client_new(p->path, wake_fd, &client), 0);
	return client;
}

static void parrot_stop(struct parrot *p, struct gw_http_client *client)
{
	gw_http_client_free(client);
	pthread_join(p->thread, NULL);
	gw_cleanup_fd(&p->hold);
	close(p->listen_fd);
	unlink(p->path);
	rmdir(p->folder);
}

static int get(struct gw_http_client *c, gw_time_ns timeout, struct gw_http_answer *answer,
               struct gw_error *err)
{
	*err = GW_ERROR_INIT;
	return gw_http_call(c, "GET", "/v1/vms", NULL, timeout, answer, err);
}

static int count_events(void *ctx, const json_t *data)
{
	++*(unsigned *)ctx;
	return 0;
}

static void an_absent_daemon_is_said_to_be_absent_with_advice(void **state)
{
	char folder[] = "/tmp/gw-http-XXXXXX", path[64], longest[200];
	struct gw_http_client *client;
	struct gw_http_answer answer;
	struct gw_error err;
	int fd;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/api.sock", folder);
	assert_int_equal(gw_http_client_new(path, -1, &client), 0);
	assert_int_equal(get(client, LONG_NS, &answer, &err), -ENOTCONN);
	assert_non_null(strstr(err.text, "there is no socket /tmp/gw-http"));
	assert_int_equal(answer.status, 0);
	fd = http_world_listen(path);
	close(fd); /* the file stays, nobody listens */
	assert_int_equal(get(client, LONG_NS, &answer, &err), -ENOTCONN);
	assert_non_null(strstr(err.text, "nobody answers at /tmp/gw-http"));
	gw_http_client_free(client);
	memset(longest, 'x', sizeof(longest) - 1);
	longest[0] = '/';
	longest[sizeof(longest) - 1] = '\0';
	assert_int_equal(gw_http_client_new(longest, -1, &client), 0);
	assert_int_equal(get(client, LONG_NS, &answer, &err), -ENOTCONN);
	assert_non_null(strstr(err.text, "File name too long"));
	gw_http_client_free(client);
	unlink(path);
	rmdir(folder);
}

static void a_daemon_that_does_not_answer_is_a_time_out(void **state)
{
	struct gw_http_answer answer;
	struct gw_error err;
	struct parrot p;
	struct gw_http_client *client = parrot_start(&p, "", true, -1);
	gw_time_ns began = gw_now_ns();

	assert_int_equal(get(client, 300 * GW_NS_PER_MS, &answer, &err), -ETIMEDOUT);
	assert_int_equal(answer.status, 0);
	assert_in_range(gw_now_ns() - began, 300 * GW_NS_PER_MS, 3 * GW_NS_PER_S);
	parrot_stop(&p, client);
}

static void a_wait_ends_when_the_wake_descriptor_is_readable(void **state)
{
	struct gw_http_answer answer;
	struct gw_error err;
	struct parrot p;
	gw_autofd int wake = eventfd(0, 0);
	struct gw_http_client *client = parrot_start(&p, "", true, wake);

	eventfd_write(wake, 1);
	assert_int_equal(get(client, LONG_NS, &answer, &err), -EINTR);
	parrot_stop(&p, client);
}

static void nonsense_for_an_answer_is_an_error(void **state)
{
	static const struct {
		const char *bytes;
		int code;
	} nonsense[] = {
		{ "", ECONNRESET },
		{ "220 mail.example ESMTP\r\n", EPROTO },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1", ECONNRESET },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", EPROTO },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", EPROTO },
		{ "HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\nhello", EPROTO },
		{ "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", EPROTO },
		{ "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
		  EPROTO },
	};
	size_t i;

	for (i = 0; i < GW_ARRAY_SIZE(nonsense); i++) {
		struct gw_http_answer answer;
		struct gw_error err;
		struct parrot p;
		struct gw_http_client *client = parrot_start(&p, nonsense[i].bytes, false, -1);

		assert_int_equal(get(client, LONG_NS, &answer, &err), -nonsense[i].code);
		assert_true(err.text[0]);
		assert_null(answer.json);
		parrot_stop(&p, client);
	}
}

#define STREAM_HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

static int follow(const char *bytes, bool silent, gw_time_ns silence, unsigned *ret_events)
{
	struct gw_error err = GW_ERROR_INIT;
	unsigned status;
	struct parrot p;
	struct gw_http_client *client = parrot_start(&p, bytes, silent, -1);
	int r;

	*ret_events = 0;
	r = gw_http_events(client, "/v1/jobs/x/events", silence, count_events, ret_events, &status, &err);
	assert_true(r >= 0 || err.text[0]);
	parrot_stop(&p, client);
	return r;
}

static void a_stream_that_breaks_off_or_falls_silent_ends_the_wait(void **state)
{
	const char *chunked =
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nf\r\ndata: {\"a\":1}\n\n\r\n";
	unsigned events;

	/* In the middle of a chunked body: the daemon died. */
	assert_int_equal(follow(chunked, false, LONG_NS, &events), -ECONNRESET);
	assert_int_equal(events, 1);
	assert_int_equal(follow(chunked, true, 300 * GW_NS_PER_MS, &events), -ETIMEDOUT);
	assert_int_equal(events, 1);
	assert_int_equal(follow(STREAM_HEAD "data: {}\n\ndata: {}\n\n", false, LONG_NS, &events), 0);
	assert_int_equal(events, 2);
}

static void a_stream_of_nonsense_is_an_error(void **state)
{
	unsigned events;

	assert_int_equal(follow(STREAM_HEAD "data: {\"a\": \n\n", true, LONG_NS, &events), -EPROTO);
	assert_int_equal(
		follow("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n<html>\n", false, LONG_NS, &events), 0);
	assert_int_equal(events, 0);
}

static int keep_last(void *ctx, const json_t *data)
{
	json_t **last = ctx;

	json_decref(*last);
	*last = json_incref((json_t *)data);
	return json_is_true(json_object_get(data, "stop")) ? 7 : 0;
}

static void events_are_understood_however_they_are_cut(void **state)
{
	static const char text[] =
		": hello\r\n\r\nevent: job\ndata: {\"a\":\ndata:1}\n\nid: 4\r\n\r\ndata: {\"b\": 2}\r\r"
		"data\n\ndata:\n\ndata: {\"c\": [3]}\n\n";
	size_t cut;

	for (cut = 1; cut < sizeof(text) - 1; cut++) {
		json_t *last = NULL;
		struct gw_sse *s;
		size_t at, len = sizeof(text) - 1;

		assert_int_equal(gw_sse_new(keep_last, &last, &s), 0);
		for (at = 0; at < len; at += cut) {
			assert_int_equal(gw_sse_feed(s, text + at, GW_MIN(cut, len - at)), 0);
			if (at <= 50 && at + cut > 50) /* the first event, of two data lines, is over */
				assert_non_null(last);
		}
		assert_int_equal(json_integer_value(json_array_get(json_object_get(last, "c"), 0)), 3);
		json_decref(last);
		gw_sse_free(s);
	}
}

static void the_event_parser_stops_when_told_and_bounds_what_it_keeps(void **state)
{
	json_t *last = NULL;
	char filler[4096];
	struct gw_sse *s;
	int i, r = 0;

	assert_int_equal(gw_sse_new(keep_last, &last, &s), 0);
	assert_int_equal(gw_sse_feed(s, "data: {\"stop\":true}\n\ndata: {}\n\n", 32), 7);
	gw_sse_free(s);
	json_decref(last);
	last = NULL;
	memset(filler, 'x', sizeof(filler));
	assert_int_equal(gw_sse_new(keep_last, &last, &s), 0);
	for (i = 0; i < 2 * (GW_SSE_EVENT_MAX >> 12) && r == 0; i++)
		r = gw_sse_feed(s, filler, sizeof(filler));
	assert_int_equal(r, -EPROTO);
	gw_sse_free(s);
}

static void names_in_paths_are_escaped(void **state)
{
	char *path = gw_http_path("/v1/vms/", "a/b ?#%", "/migrate");

	assert_string_equal(path, "/v1/vms/a%2Fb%20%3F%23%25/migrate");
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_absent_daemon_is_said_to_be_absent_with_advice),
		cmocka_unit_test(a_daemon_that_does_not_answer_is_a_time_out),
		cmocka_unit_test(a_wait_ends_when_the_wake_descriptor_is_readable),
		cmocka_unit_test(nonsense_for_an_answer_is_an_error),
		cmocka_unit_test(a_stream_that_breaks_off_or_falls_silent_ends_the_wait),
		cmocka_unit_test(a_stream_of_nonsense_is_an_error),
		cmocka_unit_test(events_are_understood_however_they_are_cut),
		cmocka_unit_test(the_event_parser_stops_when_told_and_bounds_what_it_keeps),
		cmocka_unit_test(names_in_paths_are_escaped),
	};

	return cmocka_run_group_tests_name("http client", tests, NULL, NULL);
}
