/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host daemon as its main program sees it: made, fed with connections, stopped. */
#ifndef GW_CONTROL_HOST_DAEMON_H
#define GW_CONTROL_HOST_DAEMON_H

#include "control/config.h"
#include "control/host.h"

/* Probes QEMU, makes the folders, takes over the VMs and migrations found in the state folder. `port`: where other hosts
 * reach us. config outlives the host. */
int gw_host_new(const struct gw_config *config, uint16_t port, struct gw_host **ret, struct gw_error *err);

/* Readable when gw_host_vm_ended() has something to do. */
int gw_host_watch_fd(struct gw_host *h);
void gw_host_vm_ended(struct gw_host *h);

/* Once a second or so: cancels jobs whose time is over. */
void gw_host_tick(struct gw_host *h);

/* A connection from another host; takes the fd. Returns at once. */
void gw_host_connection(struct gw_host *h, int fd);

/* Cancels what can be cancelled, waits for it, leaves VMs running. */
void gw_host_stop(struct gw_host *h);
void gw_host_free(struct gw_host *h);

#endif
