/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Named fault points, for tests of what happens when something dies at exactly this place.
 *
 * GODWIT_FAULTS in the environment arms them: "name=action[:argument][,name=action...]".
 *   crash         SIGKILL to the own process
 *   error[:ERRNO] gw_fault() returns -ERRNO (default EIO), every time
 *   delay:MS      sleeps MS milliseconds
 *   hold:PATH     creates PATH.reached, then waits until PATH.go exists (at most 60 s)
 * Unarmed points cost one load. Every name in use stands in the table in fault.c; an unknown name in
 * the variable is a start-up error.
 */
#ifndef GW_BASE_FAULT_H
#define GW_BASE_FAULT_H

#include "base/error.h"

/* Parses GODWIT_FAULTS. Once, before threads. -EINVAL with the list of known names in err. */
int gw_fault_init(struct gw_error *err);

/* 0, or the negative errno that is to be treated as if the next step had failed. */
int gw_fault(const char *name);

/* Names of all points, NULL-terminated, for tests and documentation. */
const char *const *gw_fault_names(void);

#endif
