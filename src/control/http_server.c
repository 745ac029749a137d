/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The REST API over a unix socket, with libmicrohttpd.
 *
 * Theory of operation
 *
 * Connections are accepted by http_connections.c and handed to libmicrohttpd, which gives each a thread of
 * its own. Its time-out only sees silence, so a client that sends a byte now and then could hold a
 * connection for ever; therefore every connection also has a deadline: by which the request must have
 * arrived whole, then by which the answer must have been fetched. While a host function runs, and while an
 * event stream is open, there is no deadline.
 */
#include "control/http_server.h"

#include <microhttpd.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/http_connections.h"
#include "control/http_stream.h"
#include "control/routes.h"

struct gw_http_server {
	/* set before threads start */
	struct gw_host *host;
	struct gw_http_limits limits;
	struct MHD_Daemon *daemon;
	struct gw_connections *connections;

	atomic_bool stopping;
	atomic_uint streams;
};

/* One request while it is being received. Used by its connection's thread only. */
struct incoming {
	const struct gw_route *route; /* NULL: none, see status */
	unsigned status;
	char allow[64];
	char arg[GW_ROUTE_ARG_MAX + 1];
	char *body;
	size_t body_len;
	bool too_big;
};

/* An open event stream, owned by its libmicrohttpd response. */
struct streaming {
	struct gw_http_server *server;
	struct gw_stream *stream;
};

static void set_deadline(struct gw_http_server *s, struct MHD_Connection *mc, gw_time_ns in_ns)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mc, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	gw_connections_deadline(s->connections, info ? info->socket_context : NULL, in_ns);
}

static void on_connection(void *cls, struct MHD_Connection *mc, void **socket_context,
                          enum MHD_ConnectionNotificationCode what)
{
	struct gw_http_server *s = cls;
	const union MHD_ConnectionInfo *info;

	if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
		gw_connections_close(s->connections, *socket_context);
		*socket_context = NULL;
		return;
	}
	info = MHD_get_connection_info(mc, MHD_CONNECTION_INFO_CONNECTION_FD);
	if (info)
		*socket_context =
			gw_connections_open(s->connections, info->connect_fd, s->limits.request_ns);
}

static void on_completed(void *cls, struct MHD_Connection *mc, void **req_cls,
                         enum MHD_RequestTerminationCode how)
{
	struct gw_http_server *s = cls;
	struct incoming *in = *req_cls;

	if (in) {
		free(in->body);
		free(in);
		*req_cls = NULL;
	}
	set_deadline(s, mc, s->limits.request_ns); /* for the next request on this connection */
}

static unsigned idle_s(const struct gw_http_server *s)
{
	return (unsigned)GW_MAX(1, s->limits.answer_ns / GW_NS_PER_S);
}

static enum MHD_Result queue(struct MHD_Connection *mc, unsigned status, struct MHD_Response *response,
                             const char *type, const char *allow)
{
	enum MHD_Result r;

	if (!response)
		return MHD_NO;
	if (type)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	if (allow && *allow)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, allow);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	r = MHD_queue_response(mc, status, response);
	MHD_destroy_response(response);
	return r;
}

/* Takes `json` over. */
static enum MHD_Result answer_json(struct gw_http_server *s, struct MHD_Connection *mc, unsigned status,
                                   json_t *json, const char *allow)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	bool failed = json && !text;
	size_t len = text ? strlen(text) : 0;

	json_decref(json);
	if (failed)
		return MHD_NO;
	set_deadline(s, mc, s->limits.answer_ns);
	return queue(mc, status, MHD_create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE),
	             text ? "application/json" : NULL, allow);
}

static enum MHD_Result answer_error(struct gw_http_server *s, struct MHD_Connection *mc, unsigned status,
                                    const struct gw_error *err, const char *allow)
{
	json_t *json = gw_error_to_json(err);

	return json ? answer_json(s, mc, status, json, allow) : MHD_NO;
}

static bool stream_stopping(void *ctx)
{
	return ((struct gw_http_server *)ctx)->stopping;
}

static ssize_t stream_read(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct streaming *st = cls;
	ssize_t n = gw_stream_read(st->stream, buf, max);

	if (n == 0)
		return MHD_CONTENT_READER_END_OF_STREAM;
	return n < 0 ? MHD_CONTENT_READER_END_WITH_ERROR : n;
}

static void stream_end(void *cls)
{
	struct streaming *st = cls;

	st->server->streams--;
	gw_stream_free(st->stream);
	free(st);
}

static enum MHD_Result answer_events(struct gw_http_server *s, struct MHD_Connection *mc, const char *job)
{
	struct gw_error err = GW_ERROR_INIT;
	struct MHD_Response *response = NULL;
	struct streaming *st;

	if (atomic_fetch_add(&s->streams, 1) >= s->limits.streams) {
		s->streams--;
		gw_error_set(&err, EAGAIN,
		             "%u event streams are open, which is the most this daemon serves",
		             s->limits.streams);
		return answer_error(s, mc, 503, &err, NULL);
	}
	st = calloc(1, sizeof(*st));
	if (st && gw_stream_new(s->host, job, stream_stopping, s, &st->stream) == 0) {
		st->server = s;
		response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, stream_read, st,
		                                             stream_end);
	}
	if (!response) {
		if (st)
			gw_stream_free(st->stream);
		free(st);
		s->streams--;
		return MHD_NO;
	}
	set_deadline(s, mc, GW_TIME_NEVER);
	return queue(mc, 200, response, "text/event-stream", NULL);
}

static enum MHD_Result collect_query(void *cls, enum MHD_ValueKind kind, const char *key, const char *value)
{
	json_t *text = json_string(value ? value : "");

	return text && json_object_set_new(cls, key, text) == 0 ? MHD_YES : MHD_NO;
}

/* The request's parameters and body, checked. *ret_query and *ret_body are new references or NULL. */
static int parse(struct MHD_Connection *mc, const struct incoming *in, json_t **ret_query,
                 json_t **ret_body, struct gw_error *err)
{
	json_error_t where;
	int r;

	*ret_body = NULL;
	*ret_query = json_object();
	if (!*ret_query)
		return -ENOMEM;
	if (MHD_get_connection_values(mc, MHD_GET_ARGUMENT_KIND, collect_query, *ret_query) < 0)
		return gw_error_set(err, EINVAL, "the parameters of the request cannot be read");
	r = gw_query_check(in->route->query, *ret_query, err);
	if (r < 0)
		return r;
	if (!in->route->body)
		return in->body_len == 0 ? 0 : gw_error_set(err, EINVAL, "%s %s takes no body",
		                                            in->route->method, in->route->path);
	*ret_body = json_loadb(in->body ? in->body : "", in->body_len, JSON_REJECT_DUPLICATES, &where);
	if (!*ret_body)
		return gw_error_set(err, EINVAL, "the body is not JSON: line %d: %s", where.line,
		                    where.text);
	if (!json_is_object(*ret_body))
		return gw_error_set(err, EINVAL, "the body must be a JSON object");
	return gw_fields_check(in->route->body, *ret_body, err);
}

static enum MHD_Result run(struct gw_http_server *s, struct MHD_Connection *mc, const struct incoming *in)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_reply reply = { .status = 200 };
	json_t *query = NULL, *body = NULL;
	int r = parse(mc, in, &query, &body, &err);

	if (r == 0) {
		struct gw_request req = { .arg = in->arg, .query = query, .body = body };

		/* The host may take its time: silence on the connection is its doing, not the client's. */
		MHD_set_connection_option(mc, MHD_CONNECTION_OPTION_TIMEOUT, 0U);
		r = in->route->run(s->host, &req, &reply, &err);
		MHD_set_connection_option(mc, MHD_CONNECTION_OPTION_TIMEOUT, idle_s(s));
	}
	json_decref(query);
	json_decref(body);
	if (r < 0) {
		err.code = r;
		json_decref(reply.json);
		return answer_error(s, mc, gw_status_of_error(r), &err, NULL);
	}
	if (!in->route->events)
		return answer_json(s, mc, reply.status, reply.json, NULL);
	json_decref(reply.json);
	return answer_events(s, mc, in->arg);
}

static enum MHD_Result refuse(struct gw_http_server *s, struct MHD_Connection *mc,
                              const struct incoming *in, const char *method, const char *url)
{
	struct gw_error err = GW_ERROR_INIT;

	if (in->too_big) {
		gw_error_set(&err, EMSGSIZE, "the body of the request is larger than %zu bytes",
		             s->limits.body_bytes);
		return answer_error(s, mc, 413, &err, NULL);
	}
	if (in->status == 405)
		gw_error_set(&err, EOPNOTSUPP, "%.100s takes %s, not %.20s", url, in->allow, method);
	else
		gw_error_set(&err, ENOENT, "there is nothing at %.100s", url);
	return answer_error(s, mc, in->status, &err, in->allow);
}

/* First call for a request: headers are here, the body is not. */
static enum MHD_Result begin(struct gw_http_server *s, struct MHD_Connection *mc, const char *method,
                             const char *url, void **req_cls)
{
	const char *length =
		MHD_lookup_connection_value(mc, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
	struct incoming *in = calloc(1, sizeof(*in));

	if (!in)
		return MHD_NO;
	*req_cls = in;
	in->route = gw_route_find(method, url, in->arg, &in->status, in->allow);
	in->too_big = length && strtoull(length, NULL, 10) > s->limits.body_bytes;
	/* Answered before the body is read, so that nobody sends a gigabyte in vain. */
	return in->too_big ? refuse(s, mc, in, method, url) : MHD_YES;
}

static enum MHD_Result gather(struct gw_http_server *s, struct incoming *in, const char *data, size_t *len)
{
	char *body;

	if (in->body_len + *len > s->limits.body_bytes)
		in->too_big = true; /* the rest is thrown away; the deadline bounds how much that can be */
	if (!in->too_big) {
		body = realloc(in->body, in->body_len + *len);
		if (!body)
			return MHD_NO;
		memcpy(body + in->body_len, data, *len);
		in->body = body;
		in->body_len += *len;
	}
	*len = 0;
	return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mc, const char *url, const char *method,
                                  const char *version, const char *upload, size_t *upload_len,
                                  void **req_cls)
{
	struct gw_http_server *s = cls;
	struct incoming *in = *req_cls;

	if (!in)
		return begin(s, mc, method, url, req_cls);
	if (*upload_len > 0)
		return gather(s, in, upload, upload_len);
	set_deadline(s, mc, GW_TIME_NEVER);
	if (in->too_big || !in->route)
		return refuse(s, mc, in, method, url);
	return run(s, mc, in);
}

static void on_mhd_log(void *cls, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static void on_mhd_log(void *cls, const char *fmt, va_list ap)
{
	char line[512];

	vsnprintf(line, sizeof(line), fmt, ap);
	line[strcspn(line, "\r\n")] = '\0';
	gw_log_debug("api", "%s", line);
}

/* Hands an accepted descriptor to libmicrohttpd, which closes it in any case. */
static int on_accepted(void *ctx, int fd)
{
	struct gw_http_server *s = ctx;
	const struct sockaddr_un peer = { .sun_family = AF_UNIX };

	if (MHD_add_connection(s->daemon, fd, (const struct sockaddr *)&peer, sizeof(peer)) == MHD_YES)
		return 0;
	return -EIO;
}

static struct MHD_Daemon *start_daemon(struct gw_http_server *s)
{
	return MHD_start_daemon(
		MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
			MHD_USE_ITC | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG,
		0, NULL, NULL, on_request, s,
		MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, s,
		/* More than are let in: a connection counts here a little longer than there. */
		MHD_OPTION_CONNECTION_LIMIT, s->limits.connections + 8,
		MHD_OPTION_CONNECTION_TIMEOUT, idle_s(s),
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(64 << 10),
		MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
		MHD_OPTION_END);
}

int gw_http_server_new(int listen_fd, struct gw_host *host, const struct gw_http_limits *limits,
                       struct gw_http_server **ret, struct gw_error *err)
{
	struct gw_http_server *s = calloc(1, sizeof(*s));
	int r;

	if (s) {
		s->host = host;
		s->limits = limits ? *limits : GW_HTTP_LIMITS_DEFAULT;
		s->daemon = start_daemon(s);
	}
	if (!s || !s->daemon) {
		close(listen_fd);
		free(s);
		return gw_error_set(err, ENOMEM, "cannot serve the API: libmicrohttpd does not start");
	}
	r = gw_connections_new(listen_fd, s->limits.connections, on_accepted, s, &s->connections, err);
	if (r == 0)
		r = gw_connections_start(s->connections, err);
	if (r < 0) {
		gw_http_server_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void gw_http_server_free(struct gw_http_server *s)
{
	if (!s)
		return;
	s->stopping = true;
	if (s->connections)
		gw_connections_stop(s->connections);
	MHD_stop_daemon(s->daemon);
	gw_connections_free(s->connections);
	free(s);
}
