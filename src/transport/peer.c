/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A connection to the other host: hello and welcome, then control frames. */
#include "transport/peer.h"

#include <endian.h>
#include <string.h>

#include "base/cleanup.h"

static int io_error(int r, const char *doing, struct gw_error *err)
{
	switch (r) {
	case -ECANCELED:
		return gw_error_set(err, r, "cancelled");
	case -ETIMEDOUT:
		return gw_error_set(err, r, "the other host did not answer in time (%s)", doing);
	case -ECONNRESET:
	case -EPIPE:
		return gw_error_set(err, -ECONNRESET, "the other host closed the connection (%s)", doing);
	default:
		return gw_error_set_errno(err, r, "connection to the other host lost (%s)", doing);
	}
}

int gw_peer_hello(int fd, const struct gw_wire_hello *hello, uint32_t *ret_features, const struct gw_wait *w,
                  struct gw_error *err)
{
	struct gw_wire_welcome welcome;
	char text[GW_WIRE_TEXT_MAX + 1];
	uint32_t len;
	int r = gw_write_full(fd, hello, sizeof(*hello), w);

	if (r == 0)
		r = gw_read_full(fd, &welcome, sizeof(welcome), w);
	if (r < 0)
		return io_error(r, "greeting", err);
	r = gw_wire_welcome_check(&welcome, &len, err);
	if (r == 0 && ret_features) /* of those that were offered */
		*ret_features = le32toh(welcome.features) & le32toh(hello->features);
	if (r == 0 || len == 0)
		return r;
	if (gw_read_full(fd, text, len, w) == 0) {
		text[len] = 0;
		gw_error_set(err, r, "%s", text);
	}
	return r;
}

void gw_peer_refuse(int fd, const struct gw_error *why, const struct gw_wait *w)
{
	struct gw_wire_welcome welcome = { .result = (int32_t)htole32((uint32_t)why->code) };
	size_t len = strnlen(gw_error_text(why), GW_WIRE_TEXT_MAX);
	struct iovec iov[2] = { { &welcome, sizeof(welcome) }, { (void *)gw_error_text(why), len } };

	memcpy(welcome.magic, GW_WIRE_MAGIC, GW_WIRE_MAGIC_LEN);
	welcome.text_length = htole16((uint16_t)len);
	(void)gw_writev_full(fd, iov, 2, w);
}

int gw_peer_read_hello(int fd, struct gw_wire_hello *ret, const struct gw_wait *w, struct gw_error *err)
{
	struct gw_wire_welcome welcome;
	struct gw_error why = GW_ERROR_INIT;
	int r = gw_read_full(fd, ret, sizeof(*ret), w);

	if (r < 0)
		return io_error(r, "greeting", err);
	r = gw_wire_hello_check(ret, &welcome, &why);
	if (r < 0) {
		gw_peer_refuse(fd, &why, w);
		return gw_error_set(err, r, "%s", why.text);
	}
	return 0;
}

int gw_peer_welcome(int fd, const struct gw_wire_hello *hello, const struct gw_wait *w)
{
	struct gw_wire_welcome welcome;
	int r = gw_wire_hello_check(hello, &welcome, NULL);

	return r < 0 ? r : gw_write_full(fd, &welcome, sizeof(welcome), w);
}

int gw_peer_send(int fd, uint32_t type, const void *body, size_t len, const struct gw_wait *w,
                 struct gw_error *err)
{
	struct gw_wire_frame f = { .type = htole32(type), .length = htole32((uint32_t)len) };
	struct iovec iov[2] = { { &f, sizeof(f) }, { (void *)body, len } };
	int r;

	if (len > gw_wire_frame_table[type].max_length)
		return gw_error_set(err, EMSGSIZE, "%s message of %zu bytes is too large", gw_wire_frame_name(type), len);
	r = gw_writev_full(fd, iov, len ? 2 : 1, w);
	return r < 0 ? io_error(r, gw_wire_frame_name(type), err) : 0;
}

int gw_peer_send_json(int fd, uint32_t type, const json_t *body, const struct gw_wait *w, struct gw_error *err)
{
	gw_autofree char *text = json_dumps(body, JSON_COMPACT);

	if (!text)
		return gw_error_set(err, ENOMEM, "out of memory");
	return gw_peer_send(fd, type, text, strlen(text), w, err);
}

void gw_peer_send_failed(int fd, const struct gw_error *why, const struct gw_wait *w)
{
	char body[sizeof(struct gw_wire_failed) + GW_WIRE_TEXT_MAX];
	struct gw_wire_failed head = { .code = (int32_t)htole32((uint32_t)why->code) };
	size_t len = strnlen(gw_error_text(why), GW_WIRE_TEXT_MAX);

	memcpy(body, &head, sizeof(head));
	memcpy(body + sizeof(head), gw_error_text(why), len);
	(void)gw_peer_send(fd, GW_WIRE_FAILED, body, sizeof(head) + len, w, NULL);
}

int gw_peer_recv(int fd, struct gw_wire_frame *ret, char **ret_body, const struct gw_wait *w,
                 struct gw_error *err)
{
	gw_autofree char *body = NULL;
	int r = gw_read_full(fd, ret, sizeof(*ret), w);

	if (r < 0)
		return io_error(r, "waiting for a message", err);
	r = gw_wire_frame_check(ret, err);
	if (r < 0)
		return r;
	body = malloc(ret->length + 1);
	if (!body)
		return gw_error_set(err, ENOMEM, "out of memory");
	r = gw_read_full(fd, body, ret->length, w);
	if (r < 0)
		return io_error(r, gw_wire_frame_name(ret->type), err);
	body[ret->length] = 0;
	*ret_body = gw_steal(&body);
	return 0;
}

int gw_peer_failure(const struct gw_wire_frame *f, const char *body, struct gw_error *err)
{
	struct gw_wire_failed head;
	int32_t code;

	if (f->type == GW_WIRE_ABORT)
		return gw_error_set(err, ECANCELED, "%s", f->length ? body : "the other host gave up");
	memcpy(&head, body, sizeof(head));
	code = (int32_t)le32toh((uint32_t)head.code);
	return gw_error_set(err, code < 0 && code > -4096 ? code : -EIO, "%s", body + sizeof(head));
}

int gw_peer_expect(int fd, uint32_t type, struct gw_wire_frame *ret, char **ret_body, const struct gw_wait *w,
                   struct gw_error *err)
{
	gw_autofree char *body = NULL;
	int r = gw_peer_recv(fd, ret, &body, w, err);

	if (r < 0)
		return r;
	if (ret->type == GW_WIRE_FAILED || ret->type == GW_WIRE_ABORT)
		return gw_peer_failure(ret, body, err);
	if (ret->type != type)
		return gw_error_set(err, EPROTO, "the other host sent %s where %s was due", gw_wire_frame_name(ret->type),
		                    gw_wire_frame_name(type));
	*ret_body = gw_steal(&body);
	return 0;
}

int gw_peer_expect_json(int fd, uint32_t type, json_t **ret, const struct gw_wait *w, struct gw_error *err)
{
	gw_autofree char *body = NULL;
	struct gw_wire_frame f;
	json_error_t je;
	json_t *j;
	int r = gw_peer_expect(fd, type, &f, &body, w, err);

	if (r < 0)
		return r;
	j = json_loadb(body, f.length, JSON_REJECT_DUPLICATES, &je);
	if (!json_is_object(j)) {
		json_decref(j);
		return gw_error_set(err, EPROTO, "%s message from the other host is not a JSON object (%s)",
		                    gw_wire_frame_name(type), je.text);
	}
	*ret = j;
	return 0;
}
