/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sections and keys of a VM definition, and how the text of each value becomes a field. */
#include "hypervisor/definition_keys.h"

#include <ctype.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/units.h"

#define PATH_MAX_CHARS 1023
#define WORD_MAX_CHARS 255
#define CPUS_MAX 255
#define MEMORY_MIN_BYTES GW_MIB
#define MEMORY_MAX_BYTES (16 * 1024 * GW_GIB)
#define MEMORY_STEP_BYTES (8 * GW_KIB) /* QEMU rounds to this */

const char *const gw_accel_names[] = { "auto", "kvm", "tcg", NULL };
const char *const gw_backing_names[] = { "auto", "4k", "thp", "hugetlb", NULL };

static bool all_in(const char *text, const char *more)
{
	for (; *text; text++)
		if (!isalnum((unsigned char)*text) && !strchr(more, *text))
			return false;
	return true;
}

bool gw_def_is_name(const char *text, size_t max)
{
	return isalnum((unsigned char)text[0]) && strlen(text) <= max && all_in(text, "_.-");
}

static int find(const char *const *names, const char *value)
{
	for (int i = 0; names[i]; i++)
		if (strcmp(names[i], value) == 0)
			return i;
	return -EINVAL;
}

static int refuse(const char **why, const char *text)
{
	*why = text;
	return -EINVAL;
}

static int copy(void *field, const char *value)
{
	char *text = strdup(value);

	if (!text)
		return -ENOMEM;
	*(char **)field = text;
	return 0;
}

static int set_name(void *field, const char *value, const char **why)
{
	if (!gw_def_is_name(value, GW_VM_NAME_MAX))
		return refuse(why, "is not a VM name (up to 63 of a-z A-Z 0-9 _ . - after a letter or digit)");
	memcpy(field, value, strlen(value) + 1);
	return 0;
}

static int set_uuid(void *field, const char *value, const char **why)
{
	static const char shape[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
	char *uuid = field;

	if (strlen(value) != sizeof(shape) - 1)
		return refuse(why, "is not a UUID");
	for (size_t i = 0; shape[i]; i++)
		if (shape[i] == 'x' ? !isxdigit((unsigned char)value[i]) : value[i] != '-')
			return refuse(why, "is not a UUID");
	for (size_t i = 0; i < sizeof(shape); i++)
		uuid[i] = (char)tolower((unsigned char)value[i]);
	return 0;
}

static int set_memory(void *field, const char *value, const char **why)
{
	uint64_t bytes;

	if (gw_parse_size(value, &bytes) < 0)
		return refuse(why, "is not a size (write 512M or 4G)");
	if (bytes < MEMORY_MIN_BYTES || bytes > MEMORY_MAX_BYTES)
		return refuse(why, "is out of range (1M to 16T)");
	if (bytes % MEMORY_STEP_BYTES)
		return refuse(why, "is not a multiple of 8K");
	*(uint64_t *)field = bytes;
	return 0;
}

static int set_cpus(void *field, const char *value, const char **why)
{
	char *end;
	unsigned long n = strtoul(value, &end, 10);

	if (!isdigit((unsigned char)value[0]) || *end || n < 1 || n > CPUS_MAX)
		return refuse(why, "is not a number from 1 to 255");
	*(unsigned *)field = (unsigned)n;
	return 0;
}

static int set_accel(void *field, const char *value, const char **why)
{
	int i = find(gw_accel_names, value);

	if (i < 0)
		return refuse(why, "is not one of auto, kvm, tcg");
	*(enum gw_accel *)field = (enum gw_accel)i;
	return 0;
}

static int set_backing(void *field, const char *value, const char **why)
{
	int i = find(gw_backing_names, value);

	if (i < 0)
		return refuse(why, "is not one of auto, 4k, thp, hugetlb");
	*(enum gw_backing *)field = (enum gw_backing)i;
	return 0;
}

/* One word of QEMU's own language; a comma would let it carry further options. */
static int set_word(void *field, const char *value, const char **why)
{
	if (strlen(value) > WORD_MAX_CHARS || !all_in(value, "_.-"))
		return refuse(why, "is not a name (a-z A-Z 0-9 _ . -)");
	return copy(field, value);
}

static int set_cpu_model(void *field, const char *value, const char **why)
{
	if (strlen(value) > PATH_MAX_CHARS || !all_in(value, "_.-,+="))
		return refuse(why, "is not a CPU model (write MODEL or MODEL,+feature,-feature)");
	return copy(field, value);
}

static int set_path(void *field, const char *value, const char **why)
{
	if (value[0] != '/' || strlen(value) > PATH_MAX_CHARS)
		return refuse(why, "is not an absolute path of at most 1023 characters");
	return copy(field, value);
}

static int set_text(void *field, const char *value, const char **why)
{
	return copy(field, value);
}

static int set_format(void *field, const char *value, const char **why)
{
	static const char *const formats[] = { "raw", "qcow2", NULL };

	if (find(formats, value) < 0)
		return refuse(why, "is not one of raw, qcow2");
	return copy(field, value);
}

static int set_cache(void *field, const char *value, const char **why)
{
	static const char *const modes[] = { "none", "writeback", "writethrough", "directsync", "unsafe",
	                                     NULL };

	if (find(modes, value) < 0)
		return refuse(why, "is not one of none, writeback, writethrough, directsync, unsafe");
	return copy(field, value);
}

static int set_bool(void *field, const char *value, const char **why)
{
	static const char *const words[] = { "no", "yes", "off", "on", "false", "true", "0", "1", NULL };
	int i = find(words, value);

	if (i < 0)
		return refuse(why, "is not one of yes, no");
	*(bool *)field = i & 1;
	return 0;
}

/* Physical cards have addresses with the local bit clear: those are never given to a VM (N11). */
static int set_mac(void *field, const char *value, const char **why)
{
	static const char shape[] = "xx:xx:xx:xx:xx:xx";
	char mac[sizeof(shape)] = { 0 };

	for (size_t i = 0; i < sizeof(shape) - 1; i++) {
		if (shape[i] == 'x' ? !isxdigit((unsigned char)value[i]) : value[i] != ':')
			return refuse(why, "is not a MAC address (write 52:54:00:12:34:56)");
		mac[i] = (char)tolower((unsigned char)value[i]);
	}
	if (value[sizeof(shape) - 1])
		return refuse(why, "is not a MAC address (write 52:54:00:12:34:56)");
	if ((strtoul(mac, NULL, 16) & 3) != 2)
		return refuse(why, "is not a locally administered unicast address (e.g. 52:54:00:12:34:56)");
	return copy(field, mac);
}

static int set_interface(void *field, const char *value, const char **why)
{
	if (!gw_def_is_name(value, IFNAMSIZ - 1))
		return refuse(why, "is not an interface name (up to 15 of a-z A-Z 0-9 _ . -)");
	return copy(field, value);
}

/* Arguments that would take the VM out of the daemon's hands. */
static bool is_ours(const char *arg)
{
	static const char *const ours[] = { "daemonize", "S", "incoming", "name", "uuid", "pidfile", "preconfig", "m",
		                            "mem-path", "mem-prealloc", "accel", "enable-kvm", "qmp", "monitor" };

	if (*arg != '-')
		return false;
	arg += arg[1] == '-' ? 2 : 1;
	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		if (!strcmp(arg, ours[i]))
			return true;
	return false;
}

static int add_arg(void *field, const char *value, const char **why)
{
	struct gw_vm_def *def = field;
	int r;

	if (is_ours(value))
		return refuse(why, "is an argument that godwitd itself gives or depends on");
	if (def->n_extra_args == GW_VM_EXTRA_ARGS_MAX)
		return refuse(why, "is one too many (at most 64)");
	r = copy(&def->extra_args[def->n_extra_args], value);
	if (r == 0)
		def->n_extra_args++;
	return r;
}

static const struct gw_def_key vm_keys[] = {
	{ "name", set_name, offsetof(struct gw_vm_def, name) },
	{ "uuid", set_uuid, offsetof(struct gw_vm_def, uuid) },
	{ "memory", set_memory, offsetof(struct gw_vm_def, memory_bytes) },
	{ "cpus", set_cpus, offsetof(struct gw_vm_def, cpus) },
	{ "cpu", set_cpu_model, offsetof(struct gw_vm_def, cpu_model) },
	{ "machine", set_word, offsetof(struct gw_vm_def, machine) },
	{ "accel", set_accel, offsetof(struct gw_vm_def, accel) },
	{ "pages", set_backing, offsetof(struct gw_vm_def, backing) },
	{ "balloon", set_bool, offsetof(struct gw_vm_def, balloon) },
	{ "firmware", set_path, offsetof(struct gw_vm_def, firmware) },
	{ NULL },
};

static const struct gw_def_key boot_keys[] = {
	{ "kernel", set_path, offsetof(struct gw_vm_def, kernel) },
	{ "initrd", set_path, offsetof(struct gw_vm_def, initrd) },
	{ "append", set_text, offsetof(struct gw_vm_def, append) },
	{ NULL },
};

static const struct gw_def_key disk_keys[] = {
	{ "path", set_path, offsetof(struct gw_disk_def, path) },
	{ "format", set_format, offsetof(struct gw_disk_def, format) },
	{ "cache", set_cache, offsetof(struct gw_disk_def, cache) },
	{ "readonly", set_bool, offsetof(struct gw_disk_def, readonly) },
	{ NULL },
};

static const struct gw_def_key nic_keys[] = {
	{ "mac", set_mac, offsetof(struct gw_nic_def, mac) },
	{ "bridge", set_interface, offsetof(struct gw_nic_def, bridge) },
	{ "tap", set_interface, offsetof(struct gw_nic_def, tap) },
	{ "model", set_word, offsetof(struct gw_nic_def, model) },
	{ NULL },
};

static const struct gw_def_key channel_keys[] = { { NULL } };

static const struct gw_def_key qemu_keys[] = {
	{ "arg", add_arg, 0 },
	{ NULL },
};

const struct gw_def_section gw_def_sections[GW_DEF_SECTIONS] = {
	[GW_DEF_VM] = { "vm", false, 1, vm_keys },
	[GW_DEF_BOOT] = { "boot", false, 1, boot_keys },
	[GW_DEF_DISK] = { "disk", true, GW_VM_DISKS_MAX, disk_keys },
	[GW_DEF_NIC] = { "nic", true, GW_VM_NICS_MAX, nic_keys },
	[GW_DEF_CHANNEL] = { "channel", true, GW_VM_SERIALS_MAX, channel_keys },
	[GW_DEF_QEMU] = { "qemu", false, 1, qemu_keys },
};
