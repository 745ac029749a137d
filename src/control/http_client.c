/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calling the REST API over a unix socket, with libcurl.
 *
 * Every transfer runs in a multi handle of its own, so that waiting for it also waits for the wake
 * descriptor, and a call can be made from within another transfer's callback.
 */
#include "control/http_client.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "control/sse.h"

struct gw_http_client {
	char *socket_path;
	int wake_fd;
};

/* One transfer. */
struct transfer {
	struct gw_http_client *client;
	CURL *easy;
	CURLM *multi;
	char reason[CURL_ERROR_SIZE];
	struct curl_slist *headers;
	char *body; /* of the answer */
	size_t body_len;
	gw_time_ns heard_at; /* when the last byte came, or the start */

	struct gw_sse *sse; /* event streams only; fed when the status is 200 */
	int stop;           /* what the event callback returned */
};

int gw_http_client_new(const char *socket_path, int wake_fd, struct gw_http_client **ret)
{
	struct gw_http_client *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->wake_fd = wake_fd;
	c->socket_path = strdup(socket_path);
	if (!c->socket_path || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
		free(c->socket_path);
		free(c);
		return -ENOMEM;
	}
	*ret = c;
	return 0;
}

void gw_http_client_free(struct gw_http_client *c)
{
	if (!c)
		return;
	curl_global_cleanup();
	free(c->socket_path);
	free(c);
}

static void transfer_done(struct transfer *t)
{
	if (t->multi && t->easy)
		curl_multi_remove_handle(t->multi, t->easy);
	curl_easy_cleanup(t->easy);
	if (t->multi)
		curl_multi_cleanup(t->multi);
	curl_slist_free_all(t->headers);
	gw_sse_free(t->sse);
	free(t->body);
}

static unsigned status_of(const struct transfer *t)
{
	long status = 0;

	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
	return (unsigned)status;
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	size_t len = size * n;
	char *body;

	t->heard_at = gw_now_ns();
	if (t->sse && status_of(t) == 200) {
		t->stop = gw_sse_feed(t->sse, data, len);
		return t->stop ? 0 : len;
	}
	if (t->body_len + len > GW_HTTP_ANSWER_MAX)
		return 0;
	body = realloc(t->body, t->body_len + len + 1);
	if (!body)
		return 0;
	memcpy(body + t->body_len, data, len);
	t->body = body;
	t->body_len += len;
	return len;
}

static int transfer_init(struct transfer *t, struct gw_http_client *c, const char *method, const char *path)
{
	gw_autofree char *url = NULL;

	*t = (struct transfer){ .client = c, .easy = curl_easy_init(), .multi = curl_multi_init() };
	if (!t->easy || !t->multi || asprintf(&url, "http://localhost%s", path) < 0)
		return -ENOMEM;
	if (curl_easy_setopt(t->easy, CURLOPT_URL, url) ||
	    curl_easy_setopt(t->easy, CURLOPT_UNIX_SOCKET_PATH, c->socket_path))
		return -EINVAL;
	curl_easy_setopt(t->easy, CURLOPT_PROXY, "");
	curl_easy_setopt(t->easy, CURLOPT_PATH_AS_IS, 1L); /* a VM called ".." is not the folder above */
	curl_easy_setopt(t->easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(t->easy, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(t->easy, CURLOPT_CONNECTTIMEOUT_MS,
	                 (long)(GW_HTTP_CONNECT_TIMEOUT_NS / GW_NS_PER_MS));
	curl_easy_setopt(t->easy, CURLOPT_ERRORBUFFER, t->reason);
	curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, t);
	return 0;
}

static int add_body(struct transfer *t, const json_t *body)
{
	gw_autofree char *text = json_dumps(body, JSON_COMPACT);

	if (!text)
		return -ENOMEM;
	t->headers = curl_slist_append(t->headers, "Content-Type: application/json");
	/* Without this libcurl waits a second for a "100 Continue". */
	t->headers = curl_slist_append(t->headers, "Expect:");
	curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
	curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(text));
	return curl_easy_setopt(t->easy, CURLOPT_COPYPOSTFIELDS, text) ? -ENOMEM : 0;
}

static int unreachable(const struct transfer *t, struct gw_error *err)
{
	const char *path = t->client->socket_path;
	long os_errno = 0;

	curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &os_errno);
	if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		os_errno = ENAMETOOLONG; /* libcurl says that it cannot resolve the host */
	switch (os_errno) {
	case ENOENT:
		return gw_error_set(err, ENOTCONN,
		                    "cannot reach godwitd: there is no socket %s (is godwitd running? else "
		                    "name its socket with --socket)", path);
	case EACCES:
	case EPERM:
		return gw_error_set(
			err, ENOTCONN,
			"cannot reach godwitd: no permission for %s (run as root or as a member "
			"of the socket's group)",
			path);
	case ECONNREFUSED:
		return gw_error_set(err, ENOTCONN,
		                    "cannot reach godwitd: nobody answers at %s (start it with 'systemctl "
		                    "start godwitd')", path);
	default:
		return gw_error_set(err, ENOTCONN, "cannot reach godwitd at %s: %s (is godwitd running?)",
		                    path, os_errno ? strerror((int)os_errno) : t->reason);
	}
}

static int broken(const struct transfer *t, CURLcode code, struct gw_error *err)
{
	const char *why = t->reason[0] ? t->reason : curl_easy_strerror(code);

	switch (code) {
	case CURLE_COULDNT_CONNECT:
	case CURLE_COULDNT_RESOLVE_HOST:
		return unreachable(t, err);
	case CURLE_OPERATION_TIMEDOUT: /* only the time-out for connecting is libcurl's */
		return gw_error_set(err, ENOTCONN, "cannot reach godwitd at %s: it does not accept "
		                    "connections (is it stopped, or overloaded?)", t->client->socket_path);
	case CURLE_WRITE_ERROR:
		return gw_error_set(err, EPROTO, "the daemon's answer is larger than %d MiB",
		                    GW_HTTP_ANSWER_MAX >> 20);
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_WEIRD_SERVER_REPLY:
		return gw_error_set(err, EPROTO, "what answers at %s is not godwitd: %s",
		                    t->client->socket_path, why);
	default:
		return gw_error_set(err, ECONNRESET, "the connection to godwitd broke off: %s", why);
	}
}

/* Takes the result of a finished transfer; true when it is finished. */
static bool finished(struct transfer *t, CURLcode *ret)
{
	CURLMsg *msg;
	int left;

	while ((msg = curl_multi_info_read(t->multi, &left))) {
		if (msg->msg == CURLMSG_DONE) {
			*ret = msg->data.result;
			return true;
		}
	}
	return false;
}

static int timed_out(gw_time_ns waited, struct gw_error *err)
{
	return gw_error_set(err, ETIMEDOUT, "godwitd did not answer within %.1f s", (double)waited / 1e9);
}

/* Runs the transfer until it ends, `deadline`, `silence` without a byte, or the wake descriptor. */
static int run(struct transfer *t, gw_time_ns deadline, gw_time_ns silence, struct gw_error *err)
{
	gw_time_ns began = gw_now_ns();
	CURLcode code;
	int running;

	if (curl_multi_add_handle(t->multi, t->easy) != CURLM_OK)
		return gw_error_set(err, ENOMEM, "no memory for a call to godwitd");
	t->heard_at = began;
	for (;;) {
		struct curl_waitfd wake = { .fd = t->client->wake_fd, .events = CURL_WAIT_POLLIN };
		gw_time_ns until, now;
		int wait_ms;

		if (curl_multi_perform(t->multi, &running) != CURLM_OK)
			return gw_error_set(err, EIO, "a call to godwitd failed within libcurl");
		if (finished(t, &code))
			break;
		until = silence == GW_TIME_NEVER ? deadline : GW_MIN(deadline, t->heard_at + silence);
		now = gw_now_ns();
		if (now >= until)
			return timed_out(now - (silence == GW_TIME_NEVER ? began : t->heard_at), err);
		wait_ms = until == GW_TIME_NEVER ? 60000 : GW_MIN(gw_poll_ms(until), 60000);
		curl_multi_poll(t->multi, wake.fd >= 0 ? &wake : NULL, wake.fd >= 0, wait_ms, NULL);
		if (wake.fd >= 0 && wake.revents & CURL_WAIT_POLLIN)
			return gw_error_set(err, EINTR, "interrupted");
	}
	if (t->stop)
		return t->stop;
	return code == CURLE_OK ? 0 : broken(t, code, err);
}

static int errno_of(const char *name)
{
	int code;

	for (code = 1; name && code < 256; code++) {
		const char *known = strerrorname_np(code);

		if (known && !strcasecmp(known, name))
			return code;
	}
	return EIO;
}

static int refused(unsigned status, const json_t *json, struct gw_error *err)
{
	const json_t *error = json_object_get(json, "error");
	const char *text = json_string_value(json_object_get(error, "text"));

	if (!text)
		return gw_error_set(err, EPROTO, "godwitd answered with status %u and no explanation",
		                    status);
	return gw_error_set(err, errno_of(json_string_value(json_object_get(error, "code"))), "%s", text);
}

/* Sorts out a whole answer. */
static int understand(const struct transfer *t, struct gw_http_answer *ret, struct gw_error *err)
{
	ret->status = status_of(t);
	if (t->body_len > 0)
		ret->json = json_loadb(t->body, t->body_len, JSON_DECODE_ANY, NULL);
	if (ret->status >= 300 || ret->status < 200) {
		int r = refused(ret->status, ret->json, err);

		json_decref(ret->json);
		ret->json = NULL;
		return r;
	}
	if (!ret->json && ret->status != 204)
		return gw_error_set(err, EPROTO, "godwitd's answer is not JSON (is %s its socket?)",
		                    t->client->socket_path);
	return 0;
}

int gw_http_call(struct gw_http_client *c, const char *method, const char *path, const json_t *body,
                 gw_time_ns timeout, struct gw_http_answer *ret, struct gw_error *err)
{
	struct transfer t;
	int r;

	*ret = (struct gw_http_answer){ 0 };
	r = transfer_init(&t, c, method, path);
	if (r == 0 && body)
		r = add_body(&t, body);
	if (r < 0)
		gw_error_set_errno(err, r, "cannot call godwitd at %s", c->socket_path);
	else
		r = run(&t, gw_deadline_in(timeout), GW_TIME_NEVER, err);
	if (r == 0)
		r = understand(&t, ret, err);
	transfer_done(&t);
	return r;
}

int gw_http_events(struct gw_http_client *c, const char *path, gw_time_ns silence,
                   int (*event)(void *ctx, const json_t *data), void *ctx, unsigned *ret_status,
                   struct gw_error *err)
{
	struct gw_http_answer answer = { 0 };
	struct transfer t;
	int r;

	*ret_status = 0;
	r = transfer_init(&t, c, "GET", path);
	if (r == 0)
		r = gw_sse_new(event, ctx, &t.sse);
	if (r < 0)
		gw_error_set_errno(err, r, "cannot call godwitd at %s", c->socket_path);
	else
		r = run(&t, GW_TIME_NEVER, silence, err);
	if (t.easy)
		*ret_status = status_of(&t);
	if (t.stop < 0)
		r = gw_error_set(err, t.stop, "what answers at %s does not send godwitd's events",
		                 c->socket_path);
	if (r == 0 && *ret_status != 200) {
		r = understand(&t, &answer, err);
		json_decref(answer.json);
		if (r == 0)
			r = gw_error_set(err, EPROTO, "godwitd answered with status %u, not with events",
			                 *ret_status);
	}
	transfer_done(&t);
	return r;
}

char *gw_http_path(const char *head, const char *arg, const char *tail)
{
	char *escaped = curl_easy_escape(NULL, arg, 0);
	char *path = NULL;

	if (escaped && asprintf(&path, "%s%s%s", head, escaped, tail) < 0)
		path = NULL;
	curl_free(escaped);
	return path;
}
