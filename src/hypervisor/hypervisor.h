/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the migration drivers need of a VMM. The engine and the pipelines never name QEMU.
 *
 * Contract of all operations: callable from any thread, one operation per VM at a time unless said
 * otherwise; 0 or a negative errno with `err` filled; every wait ends at its deadline or with the
 * VMM's death (-ESRCH). QEMU's implementation is hypervisor/qemu.h.
 */
#ifndef GW_HYPERVISOR_HYPERVISOR_H
#define GW_HYPERVISOR_HYPERVISOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"
#include "base/error.h"

#define GW_RAM_REGIONS_MAX 8

/* A piece of guest RAM that is backed by a file mapped shared by the VMM. */
struct gw_ram_region {
	char name[32];            /* same on source and target */
	char path[256];           /* backing file */
	uint64_t size_bytes;
	uint64_t page_size_bytes; /* of the backing: 4096 (shmem, THP too) or the hugetlb page size */
	uint64_t hva;             /* address of the mapping in the VMM's process; 0 when not known */
};

struct gw_hva_range {
	uint64_t hva, len;
};

enum gw_vm_status {
	GW_VM_RUNNING,     /* vCPUs run */
	GW_VM_PAUSED,      /* whole, vCPUs stopped; resume() makes it run */
	GW_VM_INCOMING,    /* waits for device state; cannot run */
	GW_VM_SAVED,       /* paused, device state was saved; resume() makes it run here again */
	GW_VM_SHUTDOWN,    /* the guest powered off; process still there */
	GW_VM_FAILED,      /* internal error, guest panicked, I/O error */
	GW_VM_DEAD,        /* process gone */
};

const char *gw_vm_status_name(enum gw_vm_status s);

struct gw_vm; /* one VM instance in a VMM process */

struct gw_hypervisor_ops {
	const char *name; /* "qemu" */

	int (*status)(struct gw_vm *vm, enum gw_vm_status *ret, struct gw_error *err);
	pid_t (*pid)(struct gw_vm *vm);

	/* Regions with hva filled in; *ret_n <= GW_RAM_REGIONS_MAX.
	 * -EOPNOTSUPP when RAM is not a shared named file. */
	int (*ram)(struct gw_vm *vm, struct gw_ram_region *ret, unsigned *ret_n, struct gw_error *err);

	/* A fresh userfaultfd of the VMM's address space; UFFDIO_API not yet called. Caller closes. */
	int (*userfaultfd)(struct gw_vm *vm, int *ret_fd, struct gw_error *err);

	/* For post-copy: as userfaultfd, but the VMM's process keeps it open too until drop: a thread that touches a
	 * missing page waits for it even when every other process is gone. *ret_fresh false: made by an earlier call,
	 * with UFFDIO_API done and ranges registered. */
	int (*keep_userfaultfd)(struct gw_vm *vm, int *ret_fd, bool *ret_fresh, struct gw_error *err);
	int (*drop_userfaultfd)(struct gw_vm *vm, struct gw_error *err);
	/* Takes ranges of RAM (hva, whole pages) out of the VMM's page tables; contents stay in the file. */
	int (*unmap_pages)(struct gw_vm *vm, const struct gw_hva_range *ranges, size_t n, struct gw_error *err);
	/* Has the VMM's own process populate the page tables for [hva, hva+len) for writing. -ECANCELED once cancel_fd
	 * (-1: none) is readable; what was asked for may still be done then. */
	int (*populate)(struct gw_vm *vm, uint64_t hva, uint64_t len, int cancel_fd, struct gw_error *err);
	/* The same for many ranges whose pages are in their file already, more cheaply. */
	int (*populate_ranges)(struct gw_vm *vm, const struct gw_hva_range *ranges, size_t n, int cancel_fd,
	                       struct gw_error *err);

	/* Until *ret_fd is closed (also by the caller's death) the VMM throws no page of guest RAM away, whatever its
	 * balloon asks for. -EOPNOTSUPP when it was started without the means. */
	int (*hold_discards)(struct gw_vm *vm, int *ret_fd, struct gw_error *err);

	/* The vCPUs run for (100 - percent) % of the time only, until they are paused, until 0 is given, or until this
	 * process ends, however it ends. */
	int (*throttle)(struct gw_vm *vm, unsigned percent, struct gw_error *err);

	/* Returns when the vCPUs stand still and the VMM writes no RAM on the guest's behalf any more. */
	int (*pause)(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err);
	/* Returns when the VMM has confirmed that the vCPUs run. */
	int (*resume)(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err);

	/* Before the pause: passes the VMM the descriptor that the next save_begin(-1) will write to, so that this
	 * costs no downtime. */
	int (*save_prepare)(struct gw_vm *vm, int fd, gw_time_ns deadline, struct gw_error *err);
	/* Paused VM: has the VMM write its device state (everything but shared RAM) to fd (-1: the one prepared); returns
	 * when it has begun. Does not close fd (but the VMM's copy is closed: the reader sees EOF).
	 * A reader must drain fd concurrently. fd should be a socket: on a pipe that nobody reads a
	 * cancelled save cannot end before its reading end is closed. */
	int (*save_begin)(struct gw_vm *vm, int fd, gw_time_ns deadline, struct gw_error *err);
	/* Returns when the VMM reports the state complete. Not called after save_begin(): cancel_save() must be. */
	int (*save_wait)(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err);
	/* From any thread: ends a save that was begun and waits until the VMM says that it has ended.
	 * 0 when nothing was running. After it, resume() is allowed. */
	int (*cancel_save)(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err);

	/* Incoming VM: has the VMM read device state from fd. Returns at once; before the data exists. */
	int (*load_begin)(struct gw_vm *vm, int fd, struct gw_error *err);
	/* Returns when the state is loaded whole and the VM is paused and ready to resume. */
	int (*load_wait)(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err);

	/* Tells the network where the VM's MAC addresses now live (N11). */
	int (*announce)(struct gw_vm *vm, struct gw_error *err);

	/* From any thread, beside any other operation: how long the VMM has owed an answer, to whom ever; 0 when it has
	 * answered everything. */
	gw_time_ns (*silence)(struct gw_vm *vm);

	/* From any thread, beside any other operation: ends the VMM's process at once, and by that every wait for it. What it
	 * leaves is removed by destroy(). */
	void (*kill)(struct gw_vm *vm);

	/* Ends the VMM (politely, then by SIGKILL) and removes everything it left: RAM files, sockets,
	 * run folder. Idempotent. The object stays valid. */
	int (*destroy)(struct gw_vm *vm, struct gw_error *err);

	/* Frees the object; a live VMM goes on running, and can be adopted again. NULL allowed. */
	void (*free)(struct gw_vm *vm);
};

/* Every implementation puts this first into its own struct. */
struct gw_vm {
	const struct gw_hypervisor_ops *ops;
};

#endif
