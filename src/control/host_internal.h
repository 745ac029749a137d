/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host daemon's insides, shared by host*.c.
 *
 * One lock guards the tables. Whoever works on a VM for long marks it (`busy`) under the lock and works without it.
 * Order of locks: the host's, then a migration's own.
 */
#ifndef GW_CONTROL_HOST_INTERNAL_H
#define GW_CONTROL_HOST_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/io.h"
#include "control/config.h"
#include "control/host.h"
#include "control/host_daemon.h"
#include "hypervisor/qemu.h"
#include "migration/source.h"
#include "migration/target.h"

enum gw_busy {
	GW_IDLE_VM,
	GW_BUSY_STARTING,
	GW_BUSY_STOPPING,
	GW_BUSY_OUTGOING,
	GW_BUSY_INCOMING,
	GW_BUSY_FETCHING, /* runs here, and memory still follows from where it came from */
};

struct gw_host_vm {
	/* set when made */
	char name[GW_VM_NAME_MAX + 1];
	char dir[512]; /* state folder */
	struct gw_vm_def *def;

	/* protected by the host's lock */
	enum gw_busy busy;
	bool ended;              /* its process is gone */
	bool owed_unserved;      /* memory is owed to it, and could not be taken up again: nobody may hear that it is whole */
	unsigned pins;           /* somebody talks to `vm` without the lock: drop waits */
	struct gw_vm *vm;        /* NULL while starting, or when its process was not there any more */
	struct gw_journal *journal;
	struct gw_record record; /* newest */
	char job[24];            /* the active migration */
	struct gw_in *in;
	double started;
	char note[300];
	struct gw_host_vm *next;
};

/* An incoming migration that other connections may be about: alive while somebody uses it. */
struct gw_host_in {
	struct gw_in *in;
	unsigned users; /* protected by the host's lock */
	struct gw_host_in *next;
};

#define GW_JOB_ID_MAX 24

struct gw_job {
	char id[GW_JOB_ID_MAX];
	/* protected by the host's lock */
	struct gw_out *out;  /* NULL once final */
	struct gw_host_vm *vm; /* ditto */
	char vm_name[GW_VM_NAME_MAX + 1];
	char peer[128];
	json_t *request;
	double created, finished;
	char error[GW_ERROR_TEXT_MAX];
	bool cancelled, timed_out;
	bool vm_ended; /* the VM's process died: it runs nowhere */
	uint64_t seq;
	uint64_t shown_bytes; /* progress at the last tick */
	const char *shown_step; /* ditto */
	json_t *final;       /* Job as it ended */
	gw_time_ns deadline; /* then it is cancelled; GW_TIME_NEVER for none */
	struct gw_job *next;
};

struct gw_host {
	const struct gw_config *config;
	struct gw_qemu_host qemu;
	char *own_thp; /* mounted by us */
	uint16_t port; /* that others reach us at */
	bool incomplete; /* some VM's record could not be read at start: what is not known here may have been committed */
	int watch_fd;  /* epoll of the VMs' pidfds */
	struct gw_bandwidth bandwidth; /* of all outgoing migrations */
	atomic_uint connections;
	atomic_bool stopping;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* jobs and threads */
	/* protected by lock */
	struct gw_host_vm *vms;
	struct gw_job *jobs; /* newest first */
	struct gw_host_in *ins;
	unsigned n_jobs, n_threads;
};

/* host.c; lock held unless said otherwise */
struct gw_host_vm *gw_host_find_vm(struct gw_host *h, const char *name);
int gw_host_add_vm(struct gw_host *h, const struct gw_vm_def *def, struct gw_host_vm **ret, struct gw_error *err);
/* Takes it out of the table, frees it, and removes its state folder when `forget`. */
void gw_host_drop_vm(struct gw_host *h, struct gw_host_vm *v, bool forget);
void gw_host_watch_vm(struct gw_host *h, struct gw_host_vm *v);
int gw_host_save_definition(struct gw_host_vm *v, struct gw_error *err); /* lock not held */
/* Where the states of its pages are kept while they are owed: in its run folder. */
void gw_host_states_path(const struct gw_host *h, const struct gw_host_vm *v, char *ret, size_t len);
void gw_host_note_ended(struct gw_host_vm *v);
/* In the background: the huge mappings that tracing or post-copy has taken apart, where its RAM has huge pages. */
void gw_host_restore_huge(struct gw_host_vm *v);
/* Runs fn(arg) in a detached thread that the host's stop waits for. Lock not held. */
int gw_host_thread(struct gw_host *h, void *(*fn)(void *), void *arg);
void gw_host_thread_ended(struct gw_host *h);

/* host_jobs.c */
struct gw_job *gw_host_find_job(struct gw_host *h, const char *id);
void gw_job_id(const struct gw_wire_id *migration, char ret[GW_JOB_ID_MAX]);
struct gw_job *gw_host_add_job(struct gw_host *h, const char *id, const char *vm, const char *peer,
                               const json_t *request);
void gw_host_job_changed(struct gw_host *h, struct gw_job *j);
json_t *gw_host_job_json(struct gw_job *j);
void gw_host_job_end(struct gw_host *h, struct gw_job *j); /* makes it final, stores it */
void gw_host_job_store(struct gw_host *h, struct gw_job *j);
void gw_host_load_jobs(struct gw_host *h);
void gw_host_free_jobs(struct gw_host *h);

/* host_migrate.c: a migration found in the journal (lock not held) */
int gw_host_resume_outgoing(struct gw_host *h, struct gw_host_vm *v, enum gw_source_event ev, struct gw_error *err);
/* host_incoming.c: ditto */
int gw_host_resume_incoming(struct gw_host *h, struct gw_host_vm *v, enum gw_target_event ev, struct gw_error *err);
/* The incoming migration of that id, alive until it is released, or NULL. */
struct gw_host_in *gw_host_acquire_in(struct gw_host *h, const struct gw_wire_id *id);
void gw_host_release_in(struct gw_host *h, struct gw_host_in *e);
/* A connection that carries PREFLIGHT, or PREPARE and all that follows. Takes the fd. */
void gw_host_serve_control(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w);

#endif
