/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TCP between hosts: connecting with a deadline, listening, and the options every socket here has. */
#ifndef GW_TRANSPORT_TCP_H
#define GW_TRANSPORT_TCP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/io.h"

#define GW_ADDRESS_MAX 300

/* -EINVAL, with a sentence, for what can be no host's address: as below, with a port that is not 1 to 65535. Nothing
 * is looked up. */
int gw_tcp_check_address(const char *address, struct gw_error *err);

/* "host", "host:port", "[v6]:port". `default_port` where none is given. Cancellation through w; w->idle_ns
 * bounds the whole attempt. Returns a connected, non-blocking, close-on-exec socket in *ret_fd. */
int gw_tcp_connect(const char *address, uint16_t default_port, const struct gw_wait *w, int *ret_fd,
                   struct gw_error *err);

/* A listening socket on "address:port" (port 0: any). */
int gw_tcp_listen(const char *address, uint16_t default_port, int *ret_fd, struct gw_error *err);

/* The next connection, with the options set; -EAGAIN when there is none. */
int gw_tcp_accept(int listen_fd, int *ret_fd);

/* "10.0.0.1:7700" of the peer, or of the own end; `port` replaces the peer's when not 0. */
void gw_tcp_peer_name(int fd, uint16_t port, char *ret, size_t len);
void gw_tcp_own_name(int fd, char *ret, size_t len);

#endif
