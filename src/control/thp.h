/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon's own tmpfs with huge pages, for where the operator names none. */
#ifndef GW_CONTROL_THP_H
#define GW_CONTROL_THP_H

/* Mounts it at `ram_dir`/thp, no larger than the file system that ram_dir is in; one that an earlier daemon left there
 * is kept and gets that size. Returns its path (the caller frees it), or NULL: then pages = thp is refused, and nothing
 * else. */
char *gw_thp_mount(const char *ram_dir);

/* Unmounts it when nothing is in it; the kernel refuses while a VM has it mapped. */
void gw_thp_unmount(const char *path);

#endif
