/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of the QEMU adapter stand on: two hosts' folders, a guest in firmware, clean-up after each.
 *
 * The guest counts in a register, writes the count over 64 KiB of RAM at 0x20000 and prints a dot to
 * the serial port every 65536 rounds: progress is seen from outside in the RAM file and on the console.
 */
#ifndef GW_TESTS_QEMU_WORLD_H
#define GW_TESTS_QEMU_WORLD_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/clock.h"
#include "base/error.h"
#include "hypervisor/qemu.h"

#define GUEST_COUNTER 0x20000

struct fixture {
	char dir[64], ram_dir[64];
	struct gw_qemu_host source, target;
};

extern struct gw_error err; /* of the newest call; threads have their own */
#define OK(call) fail_on((call), &err)

void fail_on(int r, const struct gw_error *e);
gw_time_ns soon(void);
char *text_of(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int setup(void **state);

/* Changes the number of reserved huge pages by `more`. */
bool reserve_huge_pages(int more);
int after_each(void **state);
int teardown(void **state);

/* Returns when it has stopped: from then on it answers nothing. */
void stop_process(pid_t pid);
struct gw_vm_def *define(const struct fixture *f, const char *name, const char *more);
struct gw_vm *start(const struct gw_qemu_host *h, const struct gw_vm_def *def, bool incoming);
enum gw_vm_status status(struct gw_vm *vm);
struct gw_ram_region ram(struct gw_vm *vm);
void *map_ram(const struct gw_ram_region *r);

/* Waits for guest output: proof that the guest runs, with no clock involved. */
void wait_for_dots(struct gw_vm *vm, unsigned n);
void end(struct gw_vm *vm);
bool exists(const char *path);

#endif
