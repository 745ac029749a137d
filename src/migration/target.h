/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The target's side of one migration: drives the handover machine; the daemon lends it the host through hooks. */
#ifndef GW_MIGRATION_TARGET_H
#define GW_MIGRATION_TARGET_H

#include <jansson.h>
#include <stdbool.h>

#include "engine/handover.h"
#include "hypervisor/hypervisor.h"
#include "migration/journal.h"
#include "wire/wire.h"

struct gw_in;

/* Where things of this VM go on this host. */
struct gw_in_place {
	struct gw_journal *journal; /* owned by the daemon, alive until `gone` or `running` */
	char ram_path[GW_RAM_REGIONS_MAX][256];
	char states_path[256]; /* for the states of pages in a post-copy; goes with the VM's run folder */
};

/* Called from gw_in_run()'s thread, in this order; `gone` or `whole` ends it. */
struct gw_in_hooks {
	/* Checks PREPARE against this host, reserves the VM's name, makes its folder. */
	int (*reserve)(void *arg, struct gw_in *in, const json_t *prepare, struct gw_in_place *ret,
	               struct gw_error *err);
	/* Starts the VM paused and waiting, on the RAM files that are there by now. The daemon owns it. Returns at once: the
	 * VM can be killed and destroyed, and nothing else before await() has returned. */
	int (*start)(void *arg, struct gw_in *in, struct gw_vm **ret, struct gw_error *err);
	/* Until it answers; checks that it is what PREPARE asks for. Ends early when the VM is killed. */
	int (*await)(void *arg, struct gw_in *in, const json_t *prepare, struct gw_error *err);
	/* It runs here, and the record says so. Memory may still be owed. */
	void (*running)(void *arg, struct gw_in *in, uint64_t epoch);
	/* Nothing is owed (any more): the VM is the daemon's, as any other. */
	void (*whole)(void *arg, struct gw_in *in);
	/* Nothing of it is to be left. Also after a failed reserve or start. */
	void (*gone)(void *arg, struct gw_in *in, const char *why);
};

struct gw_in_config {
	struct gw_wire_id id;
	uint32_t features; /* that both hosts have */
	const struct gw_in_hooks *hooks;
	void *hooks_arg;
	gw_time_ns switch_timeout_ns, idle_timeout_ns;
};

/* For a control connection whose hello was welcomed; takes the fd. */
int gw_in_new(const struct gw_in_config *config, int control_fd, struct gw_in **ret, struct gw_error *err);

/* For an incoming VM found after a restart of the daemon: `vm` NULL when its process is gone. */
int gw_in_new_restarted(const struct gw_in_config *config, const char *vm_name, struct gw_vm *vm,
                        struct gw_journal *journal, const struct gw_record *record, enum gw_target_event ev,
                        struct gw_in **ret, struct gw_error *err);

/* After gw_in_new_restarted(), for a VM to which pages are owed: faults are answered from here on. Needs no word of the
 * VMM, which may itself be waiting for a page. */
int gw_in_restore_postcopy(struct gw_in *in, const char *states_path, struct gw_error *err);

/* Runs to the end: the VM runs here (0), or nothing of it is left (negative errno). `prepare` is the first frame's
 * body (NULL after a restart). */
int gw_in_run(struct gw_in *in, const json_t *prepare, struct gw_error *err);

/* Other threads. A data channel, which is to be welcomed next, and that said; takes the fd. -EACCES when the token is not
 * this migration's. */
int gw_in_add_channel(struct gw_in *in, const struct gw_wire_hello *hello, int fd, struct gw_error *err);
void gw_in_welcomed(struct gw_in *in, const struct gw_wire_hello *hello);

/* The source tells (COMMIT, ABORT) or asks (WAIT); returns the type of frame to answer with, and the pages that are
 * owed to say in it. */
uint32_t gw_in_tell(struct gw_in *in, uint32_t answer, gw_time_ns timeout, uint64_t *ret_owed_pages);

/* A welcomed control connection in place of the lost one of a post-copy; takes the fd, or returns false: there is none. */
bool gw_in_recover(struct gw_in *in, int fd);

/* The guest came by post-copy: its mappings were made page by page. For the hooks. */
bool gw_in_was_owed(const struct gw_in *in);

/* Pages that are still owed. */
uint64_t gw_in_owed_pages(struct gw_in *in);

/* The VM's process ended, or the daemon stops. */
void gw_in_post(struct gw_in *in, enum gw_target_event ev);
/* For the daemon's exit: ends gw_in_run. A copy that the source may count on (READY was said) is left as it is, without
 * any decision; any other is removed, and the source told so. */
void gw_in_stop(struct gw_in *in);

/* An operator's word that the host `fenced`, the source, can run nothing any more: decides for a whole copy here that
 * waits for its decision, and returns when it runs. -EBUSY when that host answers, or the copy does not wait; -EINVAL when
 * it came from another host; -EILSEQ when it is not whole, or memory is owed to it. From any thread. */
int gw_in_resolve(struct gw_in *in, const char *fenced, struct gw_error *err);

enum gw_target_state gw_in_state(struct gw_in *in);
const struct gw_wire_id *gw_in_id(const struct gw_in *in);
const char *gw_in_vm_name(const struct gw_in *in);

void gw_in_free(struct gw_in *in);

#endif
