/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The canonical INI text of a VM definition. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/definition.h"
#include "hypervisor/definition_keys.h"

struct out {
	FILE *file;
	int failed;
};

/* Would the parser give this value back? */
static bool survives(const char *value)
{
	size_t len = strlen(value);

	if (!len || strchr(" \t;", value[0]) || strchr(" \t", value[len - 1]))
		return false;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)value[i] < ' ' ? value[i] != '\t' :
		    value[i] == ';' && strchr(" \t", value[i - 1]))
			return false;
	return true;
}

static void put(struct out *o, const char *key, const char *value)
{
	if (!value)
		return;
	if (!survives(value))
		o->failed = -EINVAL;
	fprintf(o->file, "%s = %s\n", key, value);
}

static void put_vm(struct out *o, const struct gw_vm_def *def)
{
	fprintf(o->file, "[vm]\n");
	put(o, "name", def->name);
	put(o, "uuid", def->uuid);
	fprintf(o->file, "memory = %" PRIu64 "K\n", def->memory_bytes / 1024);
	fprintf(o->file, "cpus = %u\n", def->cpus);
	put(o, "cpu", def->cpu_model);
	put(o, "machine", def->machine);
	put(o, "accel", gw_accel_names[def->accel]);
	put(o, "pages", gw_backing_names[def->backing]);
	put(o, "balloon", def->balloon ? "yes" : NULL); /* an older release at the target does not know it */
	put(o, "firmware", def->firmware);
	if (def->kernel) {
		fprintf(o->file, "\n[boot]\n");
		put(o, "kernel", def->kernel);
		put(o, "initrd", def->initrd);
		put(o, "append", def->append);
	}
}

static void put_parts(struct out *o, const struct gw_vm_def *def)
{
	for (unsigned i = 0; i < def->n_disks; i++) {
		fprintf(o->file, "\n[disk %u]\n", i);
		put(o, "path", def->disks[i].path);
		put(o, "format", def->disks[i].format);
		put(o, "cache", def->disks[i].cache);
		put(o, "readonly", def->disks[i].readonly ? "yes" : "no");
	}
	for (unsigned i = 0; i < def->n_nics; i++) {
		fprintf(o->file, "\n[nic %u]\n", i);
		put(o, "mac", def->nics[i].mac);
		put(o, "bridge", def->nics[i].bridge);
		put(o, "tap", def->nics[i].tap);
		put(o, "model", def->nics[i].model);
	}
	for (unsigned i = 0; i < def->n_channels; i++)
		fprintf(o->file, "\n[channel %s]\n", def->channels[i].name);
	if (def->n_extra_args)
		fprintf(o->file, "\n[qemu]\n");
	for (unsigned i = 0; i < def->n_extra_args; i++)
		put(o, "arg", def->extra_args[i]);
}

int gw_vm_def_format(const struct gw_vm_def *def, char **ret_text)
{
	char *text = NULL;
	size_t len = 0;
	struct out o = { .file = open_memstream(&text, &len) };

	if (!o.file)
		return -ENOMEM;
	put_vm(&o, def);
	put_parts(&o, def);
	if (fclose(o.file) != 0 && !o.failed)
		o.failed = -ENOMEM;
	if (!o.failed && len > GW_DEFINITION_TEXT_MAX)
		o.failed = -E2BIG;
	if (o.failed) {
		free(text);
		return o.failed;
	}
	*ret_text = text;
	return 0;
}
