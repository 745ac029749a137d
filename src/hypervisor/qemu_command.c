/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A resolved VM definition to QEMU's command line.
 *
 * Source and target build the same devices in the same order, so that their addresses agree; whatever
 * travels in the device state must not depend on anything that is not in the definition.
 */
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "hypervisor/definition_keys.h"
#include "hypervisor/qemu_internal.h"

#define TWO_ARGS(s, option, ...)                \
	do {                                    \
		gw_strv_add(s, "%s", option);   \
		gw_strv_add(s, __VA_ARGS__);    \
	} while (0)

/* For paths: NULL stays NULL, and a failure to escape is a failure of the whole. */
static char *escape(struct gw_strv *s, const char *text)
{
	char *escaped = gw_qemu_escape(text);

	if (!escaped)
		s->failed = true;
	return escaped;
}

static void add_path(struct gw_strv *s, const char *option, const char *path)
{
	if (path)
		TWO_ARGS(s, option, "%s", path);
}

static void add_machine(struct gw_strv *s, const struct gw_vm_def *def, const struct gw_qemu_record *rec)
{
	gw_autofree char *ram = escape(s, rec->ram_path);
	/* Without an alignment of 2 MiB the mapping lands off a huge page boundary. */
	uint64_t align = GW_MAX(rec->page_size_bytes, 2 * GW_MIB);

	TWO_ARGS(s, "-machine", "%s,accel=%s,memory-backend=ram,usb=off,dump-guest-core=off", def->machine,
	         gw_accel_names[def->accel]);
	TWO_ARGS(s, "-cpu", "%s", def->cpu_model);
	TWO_ARGS(s, "-smp", "%u", def->cpus);
	TWO_ARGS(s, "-m", "%" PRIu64 "k", def->memory_bytes / 1024);
	TWO_ARGS(s, "-object",
	         "memory-backend-file,id=ram,size=%" PRIu64 ",mem-path=%s,share=on,align=%" PRIu64
	         ",prealloc=off,dump=off", def->memory_bytes, ram, align);
	add_path(s, "-bios", def->firmware);
	add_path(s, "-kernel", def->kernel);
	add_path(s, "-initrd", def->initrd);
	if (def->append)
		TWO_ARGS(s, "-append", "%s", def->append);
}

static void add_console(struct gw_strv *s, const char *run)
{
	TWO_ARGS(s, "-chardev",
	         "socket,id=console,path=%s/console.sock,server=on,wait=off,logfile=%s/console.log,"
	         "logappend=on", run, run);
	TWO_ARGS(s, "-serial", "chardev:console");
}

static void add_channels(struct gw_strv *s, const struct gw_vm_def *def, const char *run)
{
	if (def->n_channels)
		/* Only as many ports as there are: each costs two queues, and every queue time when vCPUs stop and go on. */
		TWO_ARGS(s, "-device", "virtio-serial-pci,id=channels,max_ports=%u", def->n_channels + 1);
	for (unsigned i = 0; i < def->n_channels; i++) {
		const char *name = def->channels[i].name;

		TWO_ARGS(s, "-chardev", "socket,id=channel%u,path=%s/channel-%s.sock,server=on,wait=off", i,
		         run, name);
		TWO_ARGS(s, "-device", "virtserialport,bus=channels.0,nr=%u,chardev=channel%u,name=%s",
		         i + 1, i, name);
	}
}

static void add_disks(struct gw_strv *s, const struct gw_vm_def *def)
{
	for (unsigned i = 0; i < def->n_disks; i++) {
		const struct gw_disk_def *d = &def->disks[i];
		gw_autofree char *path = escape(s, d->path);

		TWO_ARGS(s, "-drive", "if=none,id=disk%u,file=%s,format=%s,cache=%s,read-only=%s", i, path,
		         d->format, d->cache, d->readonly ? "on" : "off");
		TWO_ARGS(s, "-device", "virtio-blk-pci,id=vdisk%u,drive=disk%u", i, i);
	}
}

static void add_nics(struct gw_strv *s, const struct gw_vm_def *def, const struct gw_qemu_record *rec)
{
	/* The card's boot ROM is RAM of QEMU's own and would travel with every device state: only a VM
	 * that can boot from nothing else has it. */
	bool boots_otherwise = def->n_disks || def->kernel;

	for (unsigned i = 0; i < def->n_nics; i++) {
		const struct gw_nic_def *n = &def->nics[i];

		if (n->bridge)
			TWO_ARGS(s, "-netdev", "tap,id=net%u,ifname=%s,script=no,downscript=no", i,
			         rec->taps[i]);
		else
			TWO_ARGS(s, "-netdev", "user,id=net%u", i);
		TWO_ARGS(s, "-device", "%s,id=nic%u,netdev=net%u,mac=%s%s", n->model, i, i, n->mac,
		         boots_otherwise ? ",romfile=" : "");
	}
}

int gw_qemu_command(const struct gw_qemu_host *host, const struct gw_vm_def *def, bool incoming,
                    const char *run_dir, const struct gw_qemu_record *rec, struct gw_strv *ret,
                    struct gw_error *err)
{
	struct gw_strv s = { .v = NULL };
	gw_autofree char *run = escape(&s, run_dir);

	gw_strv_add(&s, "%s", host->binary);
	TWO_ARGS(&s, "-name", "guest=%s,process=godwit-%s,debug-threads=on", def->name, def->name);
	TWO_ARGS(&s, "-uuid", "%s", def->uuid);
	gw_strv_add(&s, "-nodefaults");
	gw_strv_add(&s, "-no-user-config");
	TWO_ARGS(&s, "-display", "none");
	TWO_ARGS(&s, "-vga", "none");
	TWO_ARGS(&s, "-rtc", "base=utc");
	TWO_ARGS(&s, "-pidfile", "%s/qemu.pid", run_dir);
	TWO_ARGS(&s, "-chardev", "socket,id=qmp,fd=%d,server=on,wait=off", GW_QEMU_QMP_FD);
	TWO_ARGS(&s, "-mon", "chardev=qmp,mode=control");
	add_machine(&s, def, rec);
	add_console(&s, run);
	add_channels(&s, def, run);
	add_disks(&s, def);
	add_nics(&s, def, rec);
	if (def->balloon)
		TWO_ARGS(&s, "-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on");
	gw_strv_add(&s, "-S");
	if (incoming)
		TWO_ARGS(&s, "-incoming", "defer");
	for (unsigned i = 0; i < def->n_extra_args; i++)
		gw_strv_add(&s, "%s", def->extra_args[i]);
	if (s.failed) {
		gw_strv_done(&s);
		return gw_error_set(err, -ENOMEM, "out of memory");
	}
	*ret = s;
	return 0;
}
