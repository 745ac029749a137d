/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Huge mappings of another process: how many there are, where, and making them anew (V1, V5). */
#ifndef GW_MEMORY_HUGE_H
#define GW_MEMORY_HUGE_H

#include <stdint.h>
#include <sys/types.h>

#include "base/bitmap.h"

#define GW_HUGE_BYTES (2ull << 20)
#define GW_HUGE_PAGES (GW_HUGE_BYTES / 4096)

/* Bytes of [hva, hva+size) that process `pid` maps by huge mappings of whatever kind. 0 or -errno. */
int gw_huge_mapped(pid_t pid, uint64_t hva, uint64_t size_bytes, uint64_t *ret_bytes);

/* Sets the bit of each whole 2 MiB from hva on that is mapped huge. -EOPNOTSUPP before Linux 6.7. */
int gw_huge_find(pid_t pid, uint64_t hva, uint64_t size_bytes, struct gw_bitmap *into);

/* Has the kernel map the 2 MiB at hva huge; cheap where the pages are one piece already. `pidfd` is the process.
 * -EINVAL while a userfaultfd write-protects the range. */
int gw_huge_collapse(int pidfd, uint64_t hva);

/* Makes the huge mappings of `chunks` (2 MiB each, from hva on) anew, in the background, at low priority, piece by
 * piece; what holds holes in the file is left as it is. Takes `chunks` over; `file_fd` is duplicated. Returns at once;
 * the work ends early with the process. 0 or -errno. */
int gw_huge_restore(pid_t pid, int file_fd, uint64_t hva, struct gw_bitmap *chunks);

#endif
