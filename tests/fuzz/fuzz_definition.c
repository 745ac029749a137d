/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any text as a VM definition: what is accepted must come back the same from its canonical form. */
#include <stdlib.h>
#include <string.h>

#include "hypervisor/definition.h"
#include "replay.h"

static void check_round_trip(const struct gw_vm_def *def)
{
	struct gw_vm_def *again = NULL;
	char *text = NULL, *text_again = NULL;
	int r = gw_vm_def_format(def, &text);

	if (r == -E2BIG) /* the canonical form of a text near the limit may be longer */
		return;
	if (r < 0 || gw_vm_def_parse(text, &again, NULL) < 0 || gw_vm_def_format(again, &text_again) < 0 ||
	    strcmp(text, text_again) != 0)
		abort();
	gw_vm_def_free(again);
	free(text);
	free(text_again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_vm_def *def = NULL;
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	if (size)
		memcpy(text, data, size);
	text[size] = 0;
	if (gw_vm_def_parse(text, &def, &err) == 0)
		check_round_trip(def);
	else if (!err.text[0])
		abort(); /* refused without a word */
	gw_vm_def_free(def);
	free(text);
	return 0;
}
