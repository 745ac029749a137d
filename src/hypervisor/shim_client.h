/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Asks the library that is preloaded into the VMM; one connection per call, callable from any thread. */
#ifndef GW_HYPERVISOR_SHIM_CLIENT_H
#define GW_HYPERVISOR_SHIM_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/error.h"
#include "hypervisor/hypervisor.h"

/* 0 when a library of our protocol version answers at `path`, -EPROTO for another version. */
int gw_shim_hello(const char *path, gw_time_ns deadline, struct gw_error *err);

/* A fresh userfaultfd of the VMM's address space; UFFDIO_API not yet called. Caller closes. */
int gw_shim_userfaultfd(const char *path, gw_time_ns deadline, int *ret_fd, struct gw_error *err);

/* The userfaultfd of which the VMM's process keeps a copy (GW_SHIM_KEEP_USERFAULTFD). Caller closes its own.
 * *ret_fresh: it was made just now, and UFFDIO_API was not called. */
int gw_shim_keep_userfaultfd(const char *path, gw_time_ns deadline, int *ret_fd, bool *ret_fresh,
                             struct gw_error *err);
int gw_shim_drop_userfaultfd(const char *path, gw_time_ns deadline, struct gw_error *err);

/* Takes the ranges, which must lie in shared file mappings, out of the VMM's page tables; one connection for all. */
int gw_shim_unmap_pages(const char *path, const struct gw_hva_range *ranges, size_t n, gw_time_ns deadline,
                        struct gw_error *err);

/* Populates the VMM's page tables of [hva, hva+len) for writing. -ECANCELED once cancel_fd (-1: none) is readable. */
int gw_shim_populate(const char *path, uint64_t hva, uint64_t len, gw_time_ns deadline, int cancel_fd,
                     struct gw_error *err);

/* The same for many ranges of shared memory, over one connection; cheapest where the pages are in the file already. */
int gw_shim_populate_ranges(const char *path, const struct gw_hva_range *ranges, size_t n, gw_time_ns deadline,
                            int cancel_fd, struct gw_error *err);

/* Until *ret_fd is closed discards of [hva, hva+len) and of the file (`dev`, `ino`) are skipped. -EOPNOTSUPP when the
 * library is older than this. */
int gw_shim_hold_discards(const char *path, uint64_t hva, uint64_t len, uint64_t dev, uint64_t ino,
                          gw_time_ns deadline, int *ret_fd, struct gw_error *err);

#endif
