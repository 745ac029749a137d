/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sections and keys of a VM definition, and how the text of each value becomes a field. */
#ifndef GW_HYPERVISOR_DEFINITION_KEYS_H
#define GW_HYPERVISOR_DEFINITION_KEYS_H

#include <stddef.h>

#include "hypervisor/definition.h"

/* A setter stores `value` (not empty) at `field`. On failure it returns a negative errno and `why`
 * completes the sentence "'VALUE' ...". Text fields still hold NULL when they are set. */
typedef int gw_def_set_fn(void *field, const char *value, const char **why);

struct gw_def_key {
	const char *name; /* NULL ends the table */
	gw_def_set_fn *set;
	size_t offset;    /* of the field in the section's object */
};

enum gw_def_section_kind {
	GW_DEF_VM, GW_DEF_BOOT, GW_DEF_DISK, GW_DEF_NIC, GW_DEF_CHANNEL, GW_DEF_QEMU, GW_DEF_SECTIONS,
};

struct gw_def_section {
	const char *name;
	bool named;       /* "[disk NAME]"; otherwise "[vm]" */
	unsigned max;     /* how many of a named section */
	const struct gw_def_key *keys;
};

extern const struct gw_def_section gw_def_sections[GW_DEF_SECTIONS];

/* [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most `max` characters: safe in file and socket names. */
bool gw_def_is_name(const char *text, size_t max);

extern const char *const gw_accel_names[];   /* by enum gw_accel, NULL-terminated */
extern const char *const gw_backing_names[]; /* by enum gw_backing, NULL-terminated */

#endif
