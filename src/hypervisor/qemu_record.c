/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* RUN/qemu.json: what a later daemon needs to find a running QEMU, or to clean up after a dead one. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "hypervisor/qemu_internal.h"

#define RECORD_MAX_BYTES (1u << 20)
#define RECORD_VERSION 1

static void boot_id(char *ret, size_t len)
{
	gw_autofree char *text = NULL;
	size_t n = 0;

	ret[0] = 0;
	if (gw_read_file("/proc/sys/kernel/random/boot_id", 128, &text, &n) == 0)
		snprintf(ret, len, "%.*s", (int)strcspn(text, "\n"), text);
}

int gw_qemu_record_write(const char *run_dir, const struct gw_qemu_record *rec, struct gw_error *err)
{
	gw_autofree char *text = NULL;
	char path[GW_QEMU_PATH_MAX + 16], boot[64];
	json_t *taps = json_array();
	json_t *object;
	int r;

	for (unsigned i = 0; i < GW_VM_NICS_MAX; i++)
		json_array_append_new(taps, json_string(rec->taps[i]));
	boot_id(boot, sizeof(boot));
	object = json_pack("{s:i, s:s, s:I, s:I, s:b, s:I, s:I, s:s, s:o, s:O*}", "version", RECORD_VERSION,
	                   "boot_id", boot, "pid", (json_int_t)rec->pid,
	                   "start_time", (json_int_t)rec->start_time, "incoming", (int)rec->incoming,
	                   "memory_bytes", (json_int_t)rec->memory_bytes,
	                   "page_size_bytes", (json_int_t)rec->page_size_bytes,
	                   "ram_path", rec->ram_path, "taps", taps, "argv", rec->argv);
	text = object ? json_dumps(object, JSON_INDENT(1)) : NULL;
	json_decref(object);
	snprintf(path, sizeof(path), "%s/qemu.json", run_dir);
	r = text ? gw_write_file_durable(path, text, strlen(text), 0600) : -ENOMEM;
	return r < 0 ? gw_error_set_errno(err, r, "cannot write %s", path) : 0;
}

static int unpack(const json_t *object, struct gw_qemu_record *rec)
{
	json_int_t pid, start_time, memory, page_size;
	const char *boot, *ram;
	char boot_now[64];
	json_t *taps, *argv = NULL;
	int version, incoming;

	if (json_unpack((json_t *)object, "{s:i, s:s, s:I, s:I, s:b, s:I, s:I, s:s, s:o, s?o}",
	                "version", &version, "boot_id", &boot, "pid", &pid, "start_time", &start_time,
	                "incoming", &incoming, "memory_bytes", &memory, "page_size_bytes", &page_size,
	                "ram_path", &ram, "taps", &taps, "argv", &argv) < 0 ||
	    version != RECORD_VERSION || strlen(ram) >= sizeof(rec->ram_path) || pid < 0 || pid > INT32_MAX)
		return -EBADMSG;
	*rec = (struct gw_qemu_record){ .pid = (pid_t)pid, .start_time = (uint64_t)start_time,
	                                .incoming = incoming, .memory_bytes = (uint64_t)memory,
	                                .page_size_bytes = (uint64_t)page_size };
	memcpy(rec->ram_path, ram, strlen(ram) + 1);
	for (unsigned i = 0; i < GW_VM_NICS_MAX; i++) {
		const char *tap = json_string_value(json_array_get(taps, i));

		snprintf(rec->taps[i], sizeof(rec->taps[i]), "%s", tap ? tap : "");
	}
	boot_id(boot_now, sizeof(boot_now));
	if (strcmp(boot, boot_now) != 0) /* pids of another boot mean nothing */
		rec->pid = -1;
	rec->argv = json_incref(argv);
	return 0;
}

int gw_qemu_record_read(const char *run_dir, struct gw_qemu_record *ret, struct gw_error *err)
{
	gw_autofree char *text = NULL;
	char path[GW_QEMU_PATH_MAX + 16];
	json_t *object;
	size_t len;
	int r;

	snprintf(path, sizeof(path), "%s/qemu.json", run_dir);
	r = gw_read_file(path, RECORD_MAX_BYTES, &text, &len);
	if (r < 0)
		return gw_error_set_errno(err, r, "cannot read %s", path);
	object = json_loadb(text, len, 0, NULL);
	r = object ? unpack(object, ret) : -EBADMSG;
	json_decref(object);
	return r < 0 ? gw_error_set(err, r, "%s is damaged", path) : 0;
}

void gw_qemu_record_done(struct gw_qemu_record *rec)
{
	json_decref(rec->argv);
	rec->argv = NULL;
}
