/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VM definition: what the operator writes (an INI file), parsed and checked. */
#ifndef GW_HYPERVISOR_DEFINITION_H
#define GW_HYPERVISOR_DEFINITION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define GW_VM_NAME_MAX 63
#define GW_DEFINITION_TEXT_MAX 65536
#define GW_VM_DISKS_MAX 8
#define GW_VM_NICS_MAX 8
#define GW_VM_SERIALS_MAX 4
#define GW_VM_EXTRA_ARGS_MAX 64

enum gw_accel { GW_ACCEL_AUTO, GW_ACCEL_KVM, GW_ACCEL_TCG };
/* AUTO becomes THP where the host has a place for it, else 4K, when the VM is started. */
enum gw_backing { GW_BACKING_AUTO, GW_BACKING_4K, GW_BACKING_THP, GW_BACKING_HUGETLB };

struct gw_disk_def {
	char *path;
	char *format; /* "raw", "qcow2" */
	char *cache;  /* QEMU's cache= word, default "none" */
	bool readonly;
};

struct gw_nic_def {
	char *mac;    /* "52:54:00:..." */
	char *bridge; /* Linux bridge that the tap joins; NULL: user networking */
	char *tap;    /* tap interface name, created and removed by the daemon; NULL: chosen */
	char *model;  /* default "virtio-net-pci" */
};

/* A virtio-serial port of the guest, connected to a unix socket in the VM's run folder. */
struct gw_channel_def {
	char *name; /* the guest's /dev/virtio-ports/NAME; the socket is RUN/channel-NAME.sock */
};

struct gw_vm_def {
	char name[GW_VM_NAME_MAX + 1]; /* [a-zA-Z0-9][a-zA-Z0-9_.-]* */
	char uuid[37];                 /* made up when the file has none */
	uint64_t memory_bytes;
	unsigned cpus;
	char *cpu_model;               /* default "max" for TCG, "host" for KVM */
	char *machine;                 /* default "q35"; resolved to the versioned name at start */
	enum gw_accel accel;
	enum gw_backing backing;
	bool balloon;                  /* the guest reports its free pages, which are then not kept nor sent */
	char *firmware;                /* -bios, NULL: QEMU's default */
	char *kernel, *initrd, *append;
	struct gw_disk_def disks[GW_VM_DISKS_MAX];
	unsigned n_disks;
	struct gw_nic_def nics[GW_VM_NICS_MAX];
	unsigned n_nics;
	struct gw_channel_def channels[GW_VM_SERIALS_MAX];
	unsigned n_channels;
	char *extra_args[GW_VM_EXTRA_ARGS_MAX]; /* appended as they are */
	unsigned n_extra_args;
};

/* Parses and checks INI text (hostile: it also arrives from other hosts). Errors name line and key:
 * "line 7: memory: '12Q' is not a size (write 512M or 4G)". Caller frees. */
int gw_vm_def_parse(const char *text, struct gw_vm_def **ret, struct gw_error *err);
void gw_vm_def_free(struct gw_vm_def *def);

/* The canonical INI text of a definition, which parses to an equal one. Caller frees. */
int gw_vm_def_format(const struct gw_vm_def *def, char **ret_text);

#endif
