/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Discards of guest memory that are not carried out while a client asks so. */
#ifndef GW_SHIM_DISCARD_H
#define GW_SHIM_DISCARD_H

#include <stdbool.h>
#include <stdint.h>

enum gw_discard_kind { GW_DISCARD_NONE, GW_DISCARD_MEMORY, GW_DISCARD_FILE };

/* From now on discards of memory [a, a+b) or of the file with st_dev a and st_ino b are skipped, for `owner`.
 * -ENOSPC when too many are held. In force for all that begin later; those under way end soon: gw_discard_quiet(). */
int gw_discard_hold(unsigned owner, enum gw_discard_kind kind, uint64_t a, uint64_t b);
bool gw_discard_quiet(void);
/* What the calling thread itself discards is never skipped. */
void gw_discard_exempt_thread(void);
bool gw_discard_holds(unsigned owner);
void gw_discard_release(unsigned owner);

#endif
