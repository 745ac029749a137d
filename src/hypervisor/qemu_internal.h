/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the QEMU adapter share. */
#ifndef GW_HYPERVISOR_QEMU_INTERNAL_H
#define GW_HYPERVISOR_QEMU_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "hypervisor/qemu.h"
#include "hypervisor/qmp.h"

#define GW_QEMU_PATH_MAX 256
#define GW_QEMU_QMP_FD 3                      /* the number at which QEMU finds its QMP socket */
#define GW_QEMU_ANSWER_NS (5 * GW_NS_PER_S)   /* for commands whose caller gives no deadline */

/* ---- qemu_strv.c: argument vectors ---- */

struct gw_strv {
	char **v; /* NULL-terminated once n > 0 */
	size_t n;
	bool failed; /* memory ran out: v is of no use */
};

void gw_strv_done(struct gw_strv *s);
void gw_strv_add(struct gw_strv *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* `text` with its commas doubled, as QEMU's option syntax wants. NULL when memory ran out. */
char *gw_qemu_escape(const char *text);

/* ---- qemu_record.c: RUN/qemu.json, which lets a later daemon find everything again ---- */

struct gw_qemu_record {
	pid_t pid;            /* 0: written before QEMU was started */
	uint64_t start_time;  /* field 22 of /proc/PID/stat */
	bool incoming;
	uint64_t memory_bytes;
	uint64_t page_size_bytes;
	char ram_path[GW_QEMU_PATH_MAX];
	char taps[GW_VM_NICS_MAX][16]; /* "" where there is none */
	json_t *argv;         /* the command line; NULL when not known */
};

int gw_qemu_record_write(const char *run_dir, const struct gw_qemu_record *rec, struct gw_error *err);
/* -ENOENT when there is none. */
int gw_qemu_record_read(const char *run_dir, struct gw_qemu_record *ret, struct gw_error *err);
void gw_qemu_record_done(struct gw_qemu_record *rec);

/* ---- qemu_process.c ---- */

/* Runs argv[0] in a session of its own, with stdin empty, stdout and stderr to log_fd, qmp_fd as
 * GW_QEMU_QMP_FD and nothing else open. shim_socket NULL: without the preloaded library. */
int gw_qemu_spawn(const struct gw_qemu_host *host, char *const argv[], int qmp_fd, int log_fd,
                  const char *shim_socket, pid_t *ret_pid, int *ret_pidfd, struct gw_error *err);

/* -ESRCH for a process that is gone or a zombie. */
int gw_qemu_start_time(pid_t pid, uint64_t *ret);

/* A pidfd of the process of `rec`, or -ESRCH when that process is gone. Updates pid and start_time
 * when the record was written before QEMU was started. */
int gw_qemu_find_process(const char *run_dir, struct gw_qemu_record *rec, int *ret_pidfd);

bool gw_qemu_pidfd_ended(int pidfd);

/* Ends the process: SIGTERM first unless `asked` already, SIGKILL after 2 s. Reaps it when it is ours. */
int gw_qemu_end_process(int pidfd, bool asked, struct gw_error *err);

/* How it ended and QEMU's last words in the log, as ": killed by signal 9; <words>", or "". */
void gw_qemu_last_words(int pidfd, int log_fd, char *ret, size_t len);

/* ---- qemu_tap.c ---- */

/* Makes a persistent tap interface, up, in `bridge`; `name` NULL or "": a free name is chosen. */
int gw_tap_create(const char *name, const char *bridge, char ret_name[16], struct gw_error *err);
int gw_tap_remove(const char *name); /* missing is fine */
bool gw_bridge_exists(const char *name);

/* ---- qemu_command.c ---- */

/* The whole command line of a resolved definition. */
int gw_qemu_command(const struct gw_qemu_host *host, const struct gw_vm_def *def, bool incoming,
                    const char *run_dir, const struct gw_qemu_record *rec, struct gw_strv *ret,
                    struct gw_error *err);

/* ---- qemu_host.c ---- */

int gw_qemu_run_path(const struct gw_qemu_host *host, const char *name, char *ret, size_t len,
                     struct gw_error *err);
/* Removes everything that `rec` names and the run folder itself. */
int gw_qemu_remove_files(const char *run_dir, const struct gw_qemu_record *rec, bool ram,
                         struct gw_error *err);

/* ---- the VM object: qemu.c makes it, qemu_ops.c and qemu_state.c work on it ---- */

struct gw_qemu {
	struct gw_vm vm; /* first */

	/* Set before the object is handed out. */
	char name[GW_VM_NAME_MAX + 1];
	char run_dir[GW_QEMU_PATH_MAX];
	char shim_socket[GW_QEMU_PATH_MAX];
	char qmp_socket[GW_QEMU_PATH_MAX];
	struct gw_qemu_record rec;
	int pidfd;
	int log_fd; /* for last words, also after the file is gone; or -1 */

	pthread_mutex_t connect_lock; /* one at a time connects; taken before `lock` */

	pthread_mutex_t lock;
	pthread_cond_t gate_left;
	/* Protected by lock. */
	struct gw_qmp *qmp; /* NULL or dead: connect again */
	bool destroyed;
	bool gate_taken;    /* a save is being begun or cancelled */
	unsigned n_asking;  /* operations that wait for QEMU */
	gw_time_ns asked_at; /* the first thing that it was asked since it last answered; 0: it has answered */

	atomic_bool loaded;     /* device state is known to be in: resume() may run it */
	atomic_bool load_begun;
	atomic_bool saving, cancel_wanted;
	struct gw_throttle *throttle; /* the operation's that is under way */
	uint64_t load_since, save_since; /* event numbers at load_begin() and save_begin() */
};

static inline struct gw_qemu *gw_qemu_of(struct gw_vm *vm)
{
	return (struct gw_qemu *)vm;
}

extern const struct gw_hypervisor_ops gw_qemu_ops;

/* Around what waits for QEMU, for silence(). `r` is what came of it (-ETIMEDOUT: no answer), and is returned. */
void gw_qemu_ask_begin(struct gw_qemu *q);
int gw_qemu_ask_end(struct gw_qemu *q, int r);

/* The live connection, made again when needed. Caller unrefs. -ESRCH when the process is gone. */
int gw_qemu_qmp(struct gw_qemu *q, gw_time_ns deadline, struct gw_qmp **ret, struct gw_error *err);

/* Runs calls on the connection; a death is explained with QEMU's last words. */
int gw_qemu_run(struct gw_qemu *q, struct gw_qmp_call *calls, unsigned n, int fd, gw_time_ns deadline,
                struct gw_error *err);

/* Adds the VM's name, and QEMU's last words when `code` is -ESRCH, to the text that is there. */
int gw_qemu_explain(struct gw_qemu *q, int code, const char *what, struct gw_error *err);

int gw_qemu_runstate(struct gw_qemu *q, gw_time_ns deadline, char *ret, size_t len,
                     struct gw_error *err);

/* qemu_state.c: the operations on device state and vCPUs. */
int gw_qemu_throttle(struct gw_vm *vm, unsigned percent, struct gw_error *err); /* qemu_throttle.c */
int gw_qemu_pause(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err);
int gw_qemu_resume(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err);
int gw_qemu_save_prepare(struct gw_vm *vm, int fd, gw_time_ns deadline, struct gw_error *err);
int gw_qemu_save_begin(struct gw_vm *vm, int fd, gw_time_ns deadline, struct gw_error *err);
int gw_qemu_save_wait(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err);
int gw_qemu_cancel_save(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err);
int gw_qemu_load_begin(struct gw_vm *vm, int fd, struct gw_error *err);
int gw_qemu_load_wait(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err);
/* Capabilities and parameters that the operations above need; right after start. */
int gw_qemu_configure(struct gw_qemu *q, gw_time_ns deadline, struct gw_error *err);

#endif
