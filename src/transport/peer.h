/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A connection to the other host: hello and welcome, then control frames. */
#ifndef GW_TRANSPORT_PEER_H
#define GW_TRANSPORT_PEER_H

#include <jansson.h>
#include <stdint.h>

#include "base/error.h"
#include "base/io.h"
#include "wire/codec.h"

/* Sends the hello and checks the welcome. err carries the other side's words when it refuses. */
int gw_peer_hello(int fd, const struct gw_wire_hello *hello, uint32_t *ret_features, const struct gw_wait *w,
                  struct gw_error *err);

/* Reads a hello and checks it; on refusal the refusal has been sent. gw_peer_welcome() or gw_peer_refuse()
 * must answer a good one. */
int gw_peer_read_hello(int fd, struct gw_wire_hello *ret, const struct gw_wait *w, struct gw_error *err);
int gw_peer_welcome(int fd, const struct gw_wire_hello *hello, const struct gw_wait *w);
void gw_peer_refuse(int fd, const struct gw_error *why, const struct gw_wait *w);

/* One frame. Sending is one system call where the socket takes it. */
int gw_peer_send(int fd, uint32_t type, const void *body, size_t len, const struct gw_wait *w,
                 struct gw_error *err);
int gw_peer_send_json(int fd, uint32_t type, const json_t *body, const struct gw_wait *w,
                      struct gw_error *err);
/* FAILED with err's code and text. Best effort. */
void gw_peer_send_failed(int fd, const struct gw_error *why, const struct gw_wait *w);

/* Reads one frame; *ret_body is allocated (NUL-terminated behind ret->length), caller frees.
 * A FAILED or ABORT frame is returned as any other. */
int gw_peer_recv(int fd, struct gw_wire_frame *ret, char **ret_body, const struct gw_wait *w,
                 struct gw_error *err);

/* Reads one frame, which must be of `type`; FAILED and ABORT become errors with the peer's words. */
int gw_peer_expect(int fd, uint32_t type, struct gw_wire_frame *ret, char **ret_body, const struct gw_wait *w,
                   struct gw_error *err);
int gw_peer_expect_json(int fd, uint32_t type, json_t **ret, const struct gw_wait *w, struct gw_error *err);

/* Turns a FAILED or ABORT frame into err; returns its code. */
int gw_peer_failure(const struct gw_wire_frame *f, const char *body, struct gw_error *err);

#endif
