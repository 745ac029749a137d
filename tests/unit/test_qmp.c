/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The QMP client against a scripted peer on a socket pair, and its parser byte by byte. */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "base/cleanup.h"
#include "hypervisor/qmp.h"
#include "hypervisor/qmp_parse.h"

static const char greeting[] = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";

/* ---- the parser ---- */

struct seen {
	unsigned n;
	enum gw_qmp_kind kinds[16];
	char last_event[GW_QMP_EVENT_NAME_MAX];
	uint64_t last_id;
};

static void note(void *userdata, struct gw_qmp_message *m)
{
	struct seen *s = userdata;

	assert_true(s->n < GW_ARRAY_SIZE(s->kinds));
	s->kinds[s->n++] = m->kind;
	memcpy(s->last_event, m->event, sizeof(s->last_event));
	s->last_id = m->has_id ? m->id : 0;
}

static void lines_arrive_in_any_pieces(void **state)
{
	static const char text[] = "{\"QMP\":{}}\r\n\r\n{\"return\":{},\"id\":7}\n"
	                           "{\"event\":\"STOP\",\"timestamp\":{}}\r\n{\"error\":{\"desc\":\"no\"},\"id\":8}\n";

	for (size_t piece = 1; piece < sizeof(text); piece++) {
		struct gw_qmp_parser p;
		struct seen s = { .n = 0 };

		gw_qmp_parser_init(&p, 1024);
		for (size_t at = 0; at < sizeof(text) - 1; at += piece)
			assert_int_equal(gw_qmp_parser_feed(&p, text + at,
			                                    GW_MIN(piece, sizeof(text) - 1 - at), note, &s), 0);
		assert_int_equal(s.n, 4);
		assert_int_equal(s.kinds[0], GW_QMP_GREETING);
		assert_int_equal(s.kinds[1], GW_QMP_RETURN);
		assert_int_equal(s.kinds[2], GW_QMP_EVENT);
		assert_int_equal(s.kinds[3], GW_QMP_ERROR);
		assert_int_equal(s.last_id, 8);
		gw_qmp_parser_done(&p);
	}
}

static void what_is_not_qmp_is_refused(void **state)
{
	static const char *const bad[] = {
		"hello", "[]", "7", "{}", "{\"id\":1}", "{\"return\":{}", "{\"error\":{}}", "{\"event\":7}",
		"{\"event\":\"\"}", "{\"event\":\"X\",\"data\":[]}", "{\"error\":\"x\"}",
		"{\"event\":\"EVENT_WITH_A_NAME_THAT_IS_MUCH_LONGER_THAN_ANY_THAT_QEMU_HAS_EVER_HAD\"}",
	};
	struct gw_qmp_message m;

	for (size_t i = 0; i < GW_ARRAY_SIZE(bad); i++)
		assert_int_equal(gw_qmp_parse_line(bad[i], strlen(bad[i]), &m), -EBADMSG);
}

static void a_line_above_the_limit_is_refused_before_it_is_stored(void **state)
{
	struct gw_qmp_parser p;
	char piece[64];
	struct seen s = { .n = 0 };
	int r = 0, fed = 0;

	memset(piece, ' ', sizeof(piece));
	gw_qmp_parser_init(&p, 1024);
	while (r == 0 && ++fed < 100)
		r = gw_qmp_parser_feed(&p, piece, sizeof(piece), note, &s);
	assert_int_equal(r, -EMSGSIZE);
	assert_int_equal(fed, 1024 / 64 + 1);
	assert_true(p.capacity <= 1024);
	gw_qmp_parser_done(&p);
}

static void integers_without_a_sign_do_not_end_the_connection(void **state)
{
	static const char line[] = "{\"return\": {\"ucode-rev\": 18446744073709551615}, \"id\": 3}";
	struct gw_qmp_message m;

	assert_int_equal(gw_qmp_parse_line(line, strlen(line), &m), 0);
	assert_true(m.has_id);
	assert_int_equal(m.id, 3);
	gw_qmp_message_done(&m);
}

/* ---- the client ---- */

struct peer {
	int fd;      /* our end */
	struct gw_qmp *qmp;
	pthread_t thread;
	void (*script)(struct peer *p);
	int passed_fd;
	int result;
};

static gw_time_ns soon(void)
{
	return gw_deadline_in(10 * GW_NS_PER_S);
}

static void say(struct peer *p, const char *text)
{
	assert_int_equal(send(p->fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Reads one command line; returns its id. A descriptor that comes with it is kept. */
static uint64_t hear(struct peer *p, char *ret, size_t size)
{
	size_t len = 0;
	const char *id;

	for (;;) {
		union {
			char buf[CMSG_SPACE(sizeof(int))];
			struct cmsghdr align;
		} control;
		struct iovec iov = { ret + len, 1 };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf,
		                      .msg_controllen = sizeof(control.buf) };
		struct cmsghdr *h;

		if (recvmsg(p->fd, &msg, 0) != 1)
			return 0;
		h = CMSG_FIRSTHDR(&msg);
		if (h && len == 0)
			memcpy(&p->passed_fd, CMSG_DATA(h), sizeof(int));
		if (ret[len] == '\n')
			break;
		assert_true(++len < size);
	}
	ret[len] = 0;
	id = strstr(ret, "\"id\":");
	assert_non_null(id);
	return strtoull(id + 5, NULL, 10);
}

static uint64_t hear_command(struct peer *p, const char *name)
{
	char line[1024];
	uint64_t id = hear(p, line, sizeof(line));

	if (id)
		assert_non_null(strstr(line, name));
	return id;
}

static void reply(struct peer *p, uint64_t id, const char *what)
{
	char text[512];

	snprintf(text, sizeof(text), "{%s, \"id\": %llu}\r\n", what, (unsigned long long)id);
	say(p, text);
}

static void *run_script(void *arg)
{
	struct peer *p = arg;

	say(p, greeting);
	reply(p, hear_command(p, "qmp_capabilities"), "\"return\": {}");
	p->script(p);
	return NULL;
}

static void open_with(struct peer *p, void (*script)(struct peer *))
{
	int pair[2];

	*p = (struct peer){ .script = script, .passed_fd = -1 };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	p->fd = pair[0];
	assert_int_equal(pthread_create(&p->thread, NULL, run_script, p), 0);
	assert_int_equal(gw_qmp_open(pair[1], soon(), &p->qmp, NULL), 0);
}

static void finish(struct peer *p)
{
	gw_qmp_unref(p->qmp);
	pthread_join(p->thread, NULL);
	if (p->fd >= 0)
		close(p->fd);
	if (p->passed_fd >= 0)
		close(p->passed_fd);
}

static void reply_backwards(struct peer *p)
{
	uint64_t a = hear_command(p, "first"), b = hear_command(p, "second");

	say(p, "{\"event\": \"NICE\", \"timestamp\": {}}\n");
	reply(p, 4711, "\"return\": 1");
	reply(p, b, "\"return\": \"b\"");
	reply(p, a, "\"return\": \"a\"");
}

static void replies_are_matched_by_id_not_by_order(void **state)
{
	struct gw_qmp_call calls[] = { { .command = "first" }, { .command = "second" } };
	struct peer p;

	open_with(&p, reply_backwards);
	assert_int_equal(gw_qmp_run(p.qmp, calls, 2, -1, soon(), NULL), 0);
	assert_string_equal(json_string_value(calls[0].reply), "a");
	assert_string_equal(json_string_value(calls[1].reply), "b");
	assert_int_equal(gw_qmp_events(p.qmp), 1);
	json_decref(calls[0].reply);
	json_decref(calls[1].reply);
	finish(&p);
}

static void refuse_second(struct peer *p)
{
	uint64_t a = hear_command(p, "first"), b = hear_command(p, "second");

	reply(p, a, "\"return\": {}");
	reply(p, b, "\"error\": {\"class\": \"GenericError\", \"desc\": \"the moon is full\"}");
}

static void qemus_own_words_reach_the_caller(void **state)
{
	struct gw_qmp_call calls[] = { { .command = "first" }, { .command = "second" } };
	struct gw_error err = GW_ERROR_INIT;
	struct peer p;

	open_with(&p, refuse_second);
	assert_int_equal(gw_qmp_run(p.qmp, calls, 2, -1, soon(), &err), -EREMOTEIO);
	assert_string_equal(err.text, "QEMU refused second: the moon is full");
	assert_null(calls[0].reply);
	finish(&p);
}

static void die_at_second_command(struct peer *p)
{
	hear_command(p, "first");
	say(p, "{\"event\": \"HEARD\", \"timestamp\": {}}\n");
	hear_command(p, "second");
	shutdown(p->fd, SHUT_RDWR);
	close(p->fd);
	p->fd = -1;
}

struct waiter {
	struct gw_qmp *qmp;
	const char *command; /* NULL: waits for an event */
	int result;
	gw_time_ns ended;
};

static bool never(void *userdata, const struct gw_qmp_event *e)
{
	return false;
}

static bool any(void *userdata, const struct gw_qmp_event *e)
{
	return true;
}

static void *wait_thread(void *arg)
{
	struct waiter *w = arg;

	w->result = w->command ? gw_qmp_command(w->qmp, w->command, NULL, soon(), NULL, NULL) :
	            gw_qmp_wait_event(w->qmp, 0, never, NULL, soon(), NULL);
	w->ended = gw_now_ns();
	return NULL;
}

static void every_waiter_ends_at_once_when_qemu_dies(void **state)
{
	struct waiter event = { .command = NULL }, command = { .command = "first" };
	struct gw_error err = GW_ERROR_INIT;
	pthread_t a, b;
	struct peer p;
	gw_time_ns began;

	open_with(&p, die_at_second_command);
	event.qmp = command.qmp = p.qmp;
	pthread_create(&a, NULL, wait_thread, &event);
	pthread_create(&b, NULL, wait_thread, &command);
	assert_int_equal(gw_qmp_wait_event(p.qmp, 0, any, NULL, soon(), &err), 0); /* "first" was heard */
	began = gw_now_ns();
	assert_int_equal(gw_qmp_command(p.qmp, "second", NULL, soon(), NULL, &err), -ESRCH);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	assert_int_equal(event.result, -ESRCH);
	assert_int_equal(command.result, -ESRCH);
	assert_true(event.ended - began < GW_NS_PER_S);
	assert_int_equal(gw_qmp_command(p.qmp, "later", NULL, soon(), NULL, &err), -ESRCH);
	finish(&p);
}

static void talk_nonsense(struct peer *p)
{
	hear_command(p, "first");
	say(p, "I am not a QEMU\n");
}

static void a_peer_that_does_not_speak_qmp_is_left(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	struct peer p;

	open_with(&p, talk_nonsense);
	assert_int_equal(gw_qmp_command(p.qmp, "first", NULL, soon(), NULL, &err), -ESRCH);
	assert_non_null(strstr(err.text, "not QMP"));
	finish(&p);
}

static void answer_late(struct peer *p)
{
	uint64_t first = hear_command(p, "first"), second = hear_command(p, "second");

	reply(p, first, "\"return\": \"late\"");
	reply(p, second, "\"return\": \"in time\"");
}

static void a_reply_after_its_deadline_is_nobodys(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	json_t *answer = NULL;
	struct peer p;

	open_with(&p, answer_late);
	assert_int_equal(gw_qmp_command(p.qmp, "first", NULL, gw_deadline_in(GW_NS_PER_MS), NULL, &err),
	                 -ETIMEDOUT);
	assert_int_equal(gw_qmp_command(p.qmp, "second", NULL, soon(), &answer, &err), 0);
	assert_string_equal(json_string_value(answer), "in time");
	json_decref(answer);
	finish(&p);
}

static void send_events(struct peer *p)
{
	uint64_t id = hear_command(p, "go");

	say(p, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}, \"timestamp\": {}}\n");
	say(p, "{\"event\": \"STOP\", \"timestamp\": {}}\n{\"event\": \"MIGRATION\", \"data\": {\"status\": ");
	say(p, "\"completed\"}, \"timestamp\": {}}\n");
	reply(p, id, "\"return\": {}");
}

static bool is_status(void *userdata, const struct gw_qmp_event *e)
{
	const char *status = json_string_value(json_object_get(e->data, "status"));

	return strcmp(e->name, "MIGRATION") == 0 && status && strcmp(status, userdata) == 0;
}

static void an_event_counts_only_after_the_moment_asked_for(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	struct peer p;
	uint64_t before;

	open_with(&p, send_events);
	before = gw_qmp_events(p.qmp);
	assert_int_equal(gw_qmp_command(p.qmp, "go", NULL, soon(), NULL, &err), 0);
	assert_int_equal(gw_qmp_wait_event(p.qmp, before, is_status, "completed", soon(), &err), 0);
	assert_int_equal(gw_qmp_wait_event(p.qmp, before, is_status, "failed", 0, &err), -ETIMEDOUT);
	assert_int_equal(gw_qmp_wait_event(p.qmp, gw_qmp_events(p.qmp), is_status, "completed", 0, &err),
	                 -ETIMEDOUT);
	finish(&p);
}

static void flood(struct peer *p)
{
	uint64_t id = hear_command(p, "go");

	for (int i = 0; i < 1000; i++)
		say(p, "{\"event\": \"RTC_CHANGE\", \"data\": {\"offset\": 1}, \"timestamp\": {}}\n");
	reply(p, id, "\"return\": {}");
}

static void events_that_are_no_longer_kept_are_an_error_not_a_wait(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	struct peer p;

	open_with(&p, flood);
	assert_int_equal(gw_qmp_command(p.qmp, "go", NULL, soon(), NULL, &err), 0);
	assert_int_equal(gw_qmp_wait_event(p.qmp, 0, is_status, "x", soon(), &err), -EOVERFLOW);
	finish(&p);
}

static void take_fd(struct peer *p)
{
	uint64_t a = hear_command(p, "getfd"), b = hear_command(p, "migrate");

	reply(p, a, "\"return\": {}");
	reply(p, b, "\"return\": {}");
}

static void a_descriptor_comes_with_the_first_byte_of_its_command(void **state)
{
	struct gw_qmp_call calls[] = {
		{ .command = "getfd", .arguments = json_pack("{s:s}", "fdname", "s") },
		{ .command = "migrate", .arguments = json_pack("{s:s}", "uri", "fd:s") },
	};
	struct stat sent, got;
	struct peer p;
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	open_with(&p, take_fd);
	assert_int_equal(gw_qmp_run(p.qmp, calls, 2, ends[1], soon(), NULL), 0);
	assert_true(p.passed_fd >= 0);
	fstat(ends[1], &sent);
	fstat(p.passed_fd, &got);
	assert_int_equal(sent.st_ino, got.st_ino);
	json_decref(calls[0].reply);
	json_decref(calls[1].reply);
	finish(&p);
	close(ends[0]);
	close(ends[1]);
}

static void answer_all(struct peer *p)
{
	char line[256], text[64];
	uint64_t id;

	while ((id = hear(p, line, sizeof(line)))) {
		snprintf(text, sizeof(text), "\"return\": %llu", (unsigned long long)id);
		reply(p, id, text);
	}
}

static void *ask_often(void *arg)
{
	struct waiter *w = arg;

	for (int i = 0; i < 100 && w->result == 0; i++) {
		json_t *answer = NULL;

		w->result = gw_qmp_command(w->qmp, "ask", NULL, soon(), &answer, NULL);
		json_decref(answer);
	}
	return NULL;
}

static void many_threads_ask_at_once(void **state)
{
	struct waiter w[8];
	pthread_t threads[8];
	struct peer p;

	open_with(&p, answer_all);
	for (int i = 0; i < 8; i++) {
		w[i] = (struct waiter){ .qmp = p.qmp };
		pthread_create(&threads[i], NULL, ask_often, &w[i]);
	}
	for (int i = 0; i < 8; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(w[i].result, 0);
	}
	finish(&p);
}

static void a_peer_that_does_not_greet_is_not_waited_for_past_the_deadline(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_qmp *qmp;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(gw_qmp_open(pair[1], gw_deadline_in(20 * GW_NS_PER_MS), &qmp, &err), -ETIMEDOUT);
	close(pair[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_arrive_in_any_pieces),
		cmocka_unit_test(what_is_not_qmp_is_refused),
		cmocka_unit_test(a_line_above_the_limit_is_refused_before_it_is_stored),
		cmocka_unit_test(integers_without_a_sign_do_not_end_the_connection),
		cmocka_unit_test(replies_are_matched_by_id_not_by_order),
		cmocka_unit_test(qemus_own_words_reach_the_caller),
		cmocka_unit_test(every_waiter_ends_at_once_when_qemu_dies),
		cmocka_unit_test(a_peer_that_does_not_speak_qmp_is_left),
		cmocka_unit_test(a_reply_after_its_deadline_is_nobodys),
		cmocka_unit_test(an_event_counts_only_after_the_moment_asked_for),
		cmocka_unit_test(events_that_are_no_longer_kept_are_an_error_not_a_wait),
		cmocka_unit_test(a_descriptor_comes_with_the_first_byte_of_its_command),
		cmocka_unit_test(many_threads_ask_at_once),
		cmocka_unit_test(a_peer_that_does_not_greet_is_not_waited_for_past_the_deadline),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
