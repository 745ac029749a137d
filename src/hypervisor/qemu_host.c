/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a definition needs of this host: paths, resolved choices, reasons why it cannot run here. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/units.h"
#include "hypervisor/definition_keys.h"
#include "hypervisor/qemu_internal.h"

/* ---- places ---- */

int gw_qemu_run_path(const struct gw_qemu_host *host, const char *name, char *ret, size_t len,
                     struct gw_error *err)
{
	int n = snprintf(ret, len, "%s/%s", host->run_dir, name);

	if (n < 0 || (size_t)n >= len)
		return gw_error_set(err, -ENAMETOOLONG, "run folder %s is too long", host->run_dir);
	return 0;
}

static const char *backing_dir(const struct gw_qemu_host *host, enum gw_backing backing)
{
	switch (backing) {
	case GW_BACKING_THP:
		return host->thp_dir;
	case GW_BACKING_HUGETLB:
		return host->hugetlb_dir;
	default:
		return host->ram_dir;
	}
}

/* Two daemons on one host may share the tmpfs: their run folders tell their files apart. */
static uint32_t hash(const char *text)
{
	uint32_t h = 2166136261u;

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 16777619u;
	return h;
}

int gw_qemu_ram_path(const struct gw_qemu_host *host, const struct gw_vm_def *def, char *ret,
                     size_t len, struct gw_error *err)
{
	const char *dir = backing_dir(host, def->backing);
	int n;

	if (!dir)
		return gw_error_set(err, -EOPNOTSUPP, "this host has no place for pages = %s",
		                    gw_backing_names[def->backing]);
	n = snprintf(ret, len, "%s/godwit-%08x-%s.ram", dir, hash(host->run_dir), def->name);
	if (n < 0 || (size_t)n >= len || n >= GW_QEMU_PATH_MAX)
		return gw_error_set(err, -ENAMETOOLONG, "the path of the RAM file in %s is too long", dir);
	return 0;
}

int gw_qemu_remove_files(const char *run_dir, const struct gw_qemu_record *rec, bool ram,
                         struct gw_error *err)
{
	int r;

	for (unsigned i = 0; rec && i < GW_VM_NICS_MAX; i++) {
		if (!rec->taps[i][0])
			continue;
		r = gw_tap_remove(rec->taps[i]);
		if (r < 0)
			return gw_error_set_errno(err, r, "cannot remove tap interface %s", rec->taps[i]);
	}
	if (rec && ram && rec->ram_path[0] && unlink(rec->ram_path) < 0 && errno != ENOENT)
		return gw_error_set_errno(err, errno, "cannot remove RAM file %s", rec->ram_path);
	r = gw_remove_tree(run_dir); /* last: it holds the record of the rest */
	return r < 0 ? gw_error_set_errno(err, r, "cannot remove run folder %s", run_dir) : 0;
}

int gw_qemu_sweep(const struct gw_qemu_host *host, const struct gw_vm_def *def, struct gw_error *err)
{
	struct gw_qemu_record rec = { .pid = 0 };
	gw_autofd int pidfd = -1;
	char run_dir[GW_QEMU_PATH_MAX];
	int r = gw_qemu_run_path(host, def->name, run_dir, sizeof(run_dir), err);

	if (r < 0)
		return r;
	r = gw_qemu_record_read(run_dir, &rec, NULL);
	if (r == 0 && gw_qemu_find_process(run_dir, &rec, &pidfd) == 0) {
		gw_qemu_record_done(&rec);
		return gw_error_set(err, -EBUSY, "VM %s is not dead: its QEMU runs as pid %d", def->name,
		                    (int)rec.pid);
	}
	if (r < 0) { /* no record, or a damaged one: the name of the RAM file follows from the definition */
		rec = (struct gw_qemu_record){ .pid = 0 };
		gw_qemu_ram_path(host, def, rec.ram_path, sizeof(rec.ram_path), NULL);
	}
	r = gw_qemu_remove_files(run_dir, &rec, true, err);
	gw_qemu_record_done(&rec);
	return r;
}

/* ---- reasons ---- */

struct reasons {
	json_t *list; /* NULL: only the first is kept */
	struct gw_error *err;
	int first;
};

__attribute__((format(printf, 3, 4)))
static void add_reason(struct reasons *r, int code, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (r->list)
		json_array_append_new(r->list, json_string(text));
	if (!r->first)
		r->first = gw_error_set(r->err, code, "%s", text);
}

static int replace(char **field, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

static bool has_cpu(const struct gw_qemu_caps *caps, const char *model)
{
	size_t len = strcspn(model, ",");
	const json_t *name;
	size_t i;

	json_array_foreach(caps->cpus, i, name)
		if (strlen(json_string_value(name)) == len &&
		    strncmp(json_string_value(name), model, len) == 0)
			return true;
	return false;
}

static void resolve_cpu(const struct gw_qemu_host *host, struct gw_vm_def *def, struct reasons *r)
{
	if (def->accel == GW_ACCEL_AUTO)
		def->accel = host->caps.kvm ? GW_ACCEL_KVM : GW_ACCEL_TCG;
	if (def->accel == GW_ACCEL_KVM && !host->caps.kvm)
		add_reason(r, -ENODEV, "this host cannot run accel = kvm (/dev/kvm does not open or QEMU "
		           "is built without it)");
	if (!def->cpu_model && replace(&def->cpu_model, def->accel == GW_ACCEL_KVM ? "host" : "max") < 0)
		add_reason(r, -ENOMEM, "out of memory");
	else if (def->accel == GW_ACCEL_TCG && strcmp(def->cpu_model, "host") == 0)
		add_reason(r, -EINVAL, "cpu = host needs accel = kvm");
	else if (!has_cpu(&host->caps, def->cpu_model))
		add_reason(r, -ENOTSUP, "CPU model %s is not known to QEMU %u.%u.%u of this host",
		           def->cpu_model, host->caps.version_major, host->caps.version_minor,
		           host->caps.version_micro);
}

static void resolve_machine(const struct gw_qemu_host *host, struct gw_vm_def *def, struct reasons *r)
{
	const char *name = json_string_value(json_object_get(host->caps.machines, def->machine));

	if (!name)
		add_reason(r, -ENOTSUP, "machine type %s is not known to QEMU %u.%u.%u of this host",
		           def->machine, host->caps.version_major, host->caps.version_minor,
		           host->caps.version_micro);
	else if (replace(&def->machine, name) < 0)
		add_reason(r, -ENOMEM, "out of memory");
}

static uint64_t memory_available(void)
{
	gw_autofree char *text = NULL;
	const char *line;
	size_t len;

	if (gw_read_file("/proc/meminfo", 65536, &text, &len) < 0)
		return UINT64_MAX;
	line = strstr(text, "MemAvailable:");
	return line ? strtoull(line + strlen("MemAvailable:"), NULL, 10) * GW_KIB : UINT64_MAX;
}

static void resolve_backing(const struct gw_qemu_host *host, struct gw_vm_def *def)
{
	if (def->backing == GW_BACKING_AUTO)
		def->backing = host->thp_dir ? GW_BACKING_THP : GW_BACKING_4K;
}

static void check_memory(const struct gw_qemu_host *host, const struct gw_vm_def *def, struct reasons *r)
{
	const char *dir = backing_dir(host, def->backing);
	char wanted[32], there[32];
	struct statfs fs;
	uint64_t left;

	if (!dir) {
		add_reason(r, -EOPNOTSUPP, "this host has no place for pages = %s",
		           gw_backing_names[def->backing]);
		return;
	}
	if (statfs(dir, &fs) < 0) {
		add_reason(r, errno, "folder %s for the VM's memory: %s", dir, strerror(errno));
		return;
	}
	left = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
	if (def->backing == GW_BACKING_HUGETLB && def->memory_bytes % (uint64_t)fs.f_bsize)
		add_reason(r, -EINVAL, "memory is no multiple of this host's huge pages (%" PRIu64 " bytes)",
		           (uint64_t)fs.f_bsize);
	if (def->backing != GW_BACKING_HUGETLB) /* those are reserved, and not counted as available */
		left = GW_MIN(left, memory_available());
	if (fs.f_blocks && left < def->memory_bytes) /* a tmpfs without a limit has no blocks */
		add_reason(r, -ENOMEM, "the VM needs %s of memory, this host has %s left in %s",
		           gw_format_size(wanted, sizeof(wanted), def->memory_bytes),
		           gw_format_size(there, sizeof(there), left), dir);
	else if (!fs.f_blocks && memory_available() < def->memory_bytes)
		add_reason(r, -ENOMEM, "the VM needs %s of memory, this host has %s left",
		           gw_format_size(wanted, sizeof(wanted), def->memory_bytes),
		           gw_format_size(there, sizeof(there), memory_available()));
}

static void check_file(const char *what, const char *path, int mode, struct reasons *r)
{
	if (path && access(path, mode) < 0)
		add_reason(r, errno, "%s %s: %s", what, path, strerror(errno));
}

static void check_resources(const struct gw_vm_def *def, struct reasons *r)
{
	check_file("firmware", def->firmware, R_OK, r);
	check_file("kernel", def->kernel, R_OK, r);
	check_file("initrd", def->initrd, R_OK, r);
	for (unsigned i = 0; i < def->n_disks; i++)
		check_file("disk", def->disks[i].path, def->disks[i].readonly ? R_OK : R_OK | W_OK, r);
	for (unsigned i = 0; i < def->n_nics; i++)
		if (def->nics[i].bridge && !gw_bridge_exists(def->nics[i].bridge))
			add_reason(r, -ENODEV, "there is no bridge %s on this host", def->nics[i].bridge);
}

int gw_qemu_resolve(const struct gw_qemu_host *host, struct gw_vm_def *def, json_t *reasons,
                    struct gw_error *err)
{
	struct reasons r = { .list = reasons, .err = err };

	resolve_machine(host, def, &r);
	resolve_cpu(host, def, &r);
	resolve_backing(host, def);
	check_memory(host, def, &r);
	check_resources(def, &r);
	return r.first;
}
