/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Unmodified QEMU (7.2 to 10.0) as a gw_hypervisor: start, adopt, and what the host offers. */
#ifndef GW_HYPERVISOR_QEMU_H
#define GW_HYPERVISOR_QEMU_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "hypervisor/definition.h"
#include "hypervisor/hypervisor.h"

/* What this host's QEMU can do, asked once of a QEMU with no machine. */
struct gw_qemu_caps {
	unsigned version_major, version_minor, version_micro;
	bool kvm;        /* /dev/kvm opens and QEMU has the accelerator */
	json_t *machines; /* object: name or alias -> canonical versioned name */
	json_t *cpus;     /* array of CPU model names */
};

struct gw_qemu_host {
	char *binary;      /* path or name of qemu-system-x86_64 */
	char *shim;        /* path of libgodwit-shim.so */
	char *run_dir;     /* per-VM run folders live in here (0700); sockets, log */
	char *ram_dir;     /* tmpfs for 4k RAM files */
	char *thp_dir;     /* tmpfs with huge=, NULL: none */
	char *hugetlb_dir; /* hugetlbfs mount, NULL: none */
	struct gw_qemu_caps caps;
};

/* Runs the binary once and fills caps. Text of the error names the binary and what to do. */
int gw_qemu_probe(struct gw_qemu_host *host, struct gw_error *err);
void gw_qemu_caps_done(struct gw_qemu_caps *caps);

struct gw_qemu_start {
	const struct gw_vm_def *def;
	bool incoming;    /* paused, waiting for device state (-incoming defer); else runs at once */
	/* RAM file: created (sparse, 0600) when missing, used as it is when present. */
};

/* Path of the RAM file that start() will use, so that it can be created and populated before. */
int gw_qemu_ram_path(const struct gw_qemu_host *host, const struct gw_vm_def *def, char *ret,
                     size_t len, struct gw_error *err);

/* Resolves accel=auto, the machine alias and the CPU model of `def` for this host, in place, and checks
 * that the host can run it (memory free, accel, machine, files readable). Every reason it cannot is
 * one string appended to `reasons` (a JSON array; may be NULL: then the first is returned in err). */
int gw_qemu_resolve(const struct gw_qemu_host *host, struct gw_vm_def *def, json_t *reasons,
                    struct gw_error *err);

/* Starts QEMU in its own session (it outlives the daemon) and does not wait for it: until gw_qemu_await() has returned
 * only kill, destroy and free may be called. Nothing is left behind on failure. */
int gw_qemu_launch(const struct gw_qemu_host *host, const struct gw_qemu_start *how, struct gw_vm **ret,
                   struct gw_error *err);

/* Returns when QMP answers, and the guest runs unless it is to wait for device state. The text of a failure carries
 * QEMU's own last words; then the VM is to be destroyed and freed. Ends early when it is killed. */
int gw_qemu_await(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err);

/* Both. Nothing is left behind on failure. */
int gw_qemu_start(const struct gw_qemu_host *host, const struct gw_qemu_start *how,
                  gw_time_ns deadline, struct gw_vm **ret, struct gw_error *err);

/* Finds a QEMU started earlier by this daemon, from the files in its run folder. It is not asked anything: it may be
 * waiting for a page.
 * -ESRCH when it is gone (pid and start time are compared); then gw_qemu_sweep() removes the rest. */
int gw_qemu_adopt(const struct gw_qemu_host *host, const struct gw_vm_def *def, struct gw_vm **ret,
                  struct gw_error *err);

/* Of an adopted one, as soon as it can answer: the earlier daemon may have died before it had set what migrations need. */
void gw_qemu_configure_adopted(struct gw_vm *vm);

/* Whether there is a QMP connection, without waiting: after gw_qemu_configure_adopted(), whether QEMU answered. */
bool gw_qemu_connected(struct gw_vm *vm);

/* Removes what a dead VM `name` left (run folder, RAM files). */
int gw_qemu_sweep(const struct gw_qemu_host *host, const struct gw_vm_def *def, struct gw_error *err);

/* A pidfd that becomes readable when the process ends. Owned by the VM. */
int gw_qemu_pidfd(struct gw_vm *vm);

/* Run folder of the VM: console.sock, channel-NAME.sock, qemu.log. */
const char *gw_qemu_run_dir(struct gw_vm *vm);

/* Facts compared between source and target before anything is copied (X3): QEMU version, machine,
 * accel, CPU model and its expanded properties. New reference. */
int gw_qemu_facts(struct gw_vm *vm, json_t **ret, struct gw_error *err);

/* Compares the source's facts with a prepared target VM's. -ENOTSUP and one sentence on mismatch. */
int gw_qemu_facts_compatible(const json_t *source, const json_t *target, struct gw_error *err);

/* Asks the guest to power off (ACPI). */
int gw_qemu_powerdown(struct gw_vm *vm, struct gw_error *err);

#endif
