/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The gw_hypervisor operations of QEMU that are not about device state. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "hypervisor/qemu_internal.h"
#include "hypervisor/shim_client.h"
#include "hypervisor/throttle.h"
#include "hypervisor/unix_socket.h"

#define POPULATE_BASE_NS (5 * GW_NS_PER_S)
#define ENDING_NS (200 * GW_NS_PER_MS)
#define POPULATE_GIB_NS (2 * GW_NS_PER_S)

/* ---- waiting for QEMU ---- */

void gw_qemu_ask_begin(struct gw_qemu *q)
{
	GW_LOCKED(&q->lock);

	q->n_asking++;
	if (!q->asked_at)
		q->asked_at = gw_now_ns();
}

int gw_qemu_ask_end(struct gw_qemu *q, int r)
{
	GW_LOCKED(&q->lock);

	q->n_asking--;
	if (r != -ETIMEDOUT)
		q->asked_at = q->n_asking ? gw_now_ns() : 0;
	return r;
}

static gw_time_ns op_silence(struct gw_vm *vm)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	GW_LOCKED(&q->lock);

	return q->asked_at ? gw_now_ns() - q->asked_at : 0;
}

/* ---- the connection ---- */

int gw_qemu_explain(struct gw_qemu *q, int code, const char *what, struct gw_error *err)
{
	bool lost = code == -ESRCH || code == -ECONNRESET || code == -ECONNREFUSED || code == -EPIPE;
	char words[768] = "";

	/* Connections end a moment before the process does. */
	if (gw_unix_wait(q->pidfd, POLLIN, lost ? gw_deadline_in(ENDING_NS) : 0) < 0) {
		gw_error_prefix(err, "VM %s: %s", q->name, what);
		return code;
	}
	gw_qemu_last_words(q->pidfd, q->log_fd, words, sizeof(words));
	return gw_error_set(err, -ESRCH, "VM %s: %s: its QEMU ended%s", q->name, what, words);
}

static struct gw_qmp *live_connection(struct gw_qemu *q)
{
	GW_LOCKED(&q->lock);

	return q->qmp && !gw_qmp_dead(q->qmp) ? gw_qmp_ref(q->qmp) : NULL;
}

static void keep_connection(struct gw_qemu *q, struct gw_qmp *qmp)
{
	struct gw_qmp *old;

	pthread_mutex_lock(&q->lock);
	old = q->qmp;
	q->qmp = gw_qmp_ref(qmp);
	pthread_mutex_unlock(&q->lock);
	gw_qmp_unref(old);
}

int gw_qemu_qmp(struct gw_qemu *q, gw_time_ns deadline, struct gw_qmp **ret, struct gw_error *err)
{
	struct gw_qmp *qmp = live_connection(q);
	int r;

	if (!qmp) {
		GW_LOCKED(&q->connect_lock);

		if (gw_qemu_pidfd_ended(q->pidfd))
			return gw_qemu_explain(q, -ESRCH, "cannot be asked", err);
		qmp = live_connection(q);
		if (!qmp) {
			deadline = GW_MIN(deadline, gw_deadline_in(GW_QEMU_ANSWER_NS));
			r = gw_qmp_connect(q->qmp_socket, deadline, &qmp, err);
			if (r < 0)
				return gw_qemu_explain(q, r, "QEMU cannot be asked", err);
			keep_connection(q, qmp);
		}
	}
	*ret = qmp;
	return 0;
}

static int run_calls(struct gw_qemu *q, struct gw_qmp_call *calls, unsigned n, int fd, gw_time_ns deadline,
                     struct gw_error *err)
{
	struct gw_qmp *qmp;
	int r = gw_qemu_qmp(q, deadline, &qmp, err);

	if (r < 0) {
		for (unsigned i = 0; i < n; i++)
			json_decref(calls[i].arguments);
		return r;
	}
	r = gw_qmp_run(qmp, calls, n, fd, deadline, err);
	gw_qmp_unref(qmp);
	if (r == -ESRCH)
		return gw_qemu_explain(q, r, calls[0].command, err);
	if (r < 0)
		gw_error_prefix(err, "VM %s", q->name);
	return r;
}

int gw_qemu_run(struct gw_qemu *q, struct gw_qmp_call *calls, unsigned n, int fd, gw_time_ns deadline,
                struct gw_error *err)
{
	gw_qemu_ask_begin(q);
	return gw_qemu_ask_end(q, run_calls(q, calls, n, fd, deadline, err));
}

bool gw_qemu_connected(struct gw_vm *vm)
{
	struct gw_qmp *qmp = live_connection(gw_qemu_of(vm));

	gw_qmp_unref(qmp);
	return qmp != NULL;
}

/* ---- status ---- */

static const struct {
	const char *runstate;
	enum gw_vm_status status;
} statuses[] = {
	{ "running", GW_VM_RUNNING },         { "paused", GW_VM_PAUSED },
	{ "prelaunch", GW_VM_PAUSED },        { "inmigrate", GW_VM_INCOMING },
	{ "postmigrate", GW_VM_SAVED },       { "finish-migrate", GW_VM_SAVED },
	{ "save-vm", GW_VM_PAUSED },          { "restore-vm", GW_VM_PAUSED },
	{ "suspended", GW_VM_PAUSED },        { "debug", GW_VM_PAUSED },
	{ "shutdown", GW_VM_SHUTDOWN },       { "internal-error", GW_VM_FAILED },
	{ "io-error", GW_VM_FAILED },         { "guest-panicked", GW_VM_FAILED },
	{ "watchdog", GW_VM_FAILED },
};

int gw_qemu_runstate(struct gw_qemu *q, gw_time_ns deadline, char *ret, size_t len, struct gw_error *err)
{
	struct gw_qmp_call call = { .command = "query-status" };
	const char *status;
	int r = gw_qemu_run(q, &call, 1, -1, deadline, err);

	if (r < 0)
		return r;
	status = json_string_value(json_object_get(call.reply, "status"));
	snprintf(ret, len, "%s", status ? status : "unknown");
	json_decref(call.reply);
	return 0;
}

static int op_status(struct gw_vm *vm, enum gw_vm_status *ret, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	char state[32];
	int r;

	if (gw_qemu_pidfd_ended(q->pidfd)) {
		*ret = GW_VM_DEAD;
		return 0;
	}
	r = gw_qemu_runstate(q, gw_deadline_in(GW_QEMU_ANSWER_NS), state, sizeof(state), err);
	if (r == -ESRCH) {
		*ret = GW_VM_DEAD;
		return 0;
	}
	if (r < 0)
		return r;
	for (unsigned i = 0; i < GW_ARRAY_SIZE(statuses); i++)
		if (strcmp(statuses[i].runstate, state) == 0) {
			*ret = statuses[i].status;
			if (*ret == GW_VM_SAVED && q->saving)
				*ret = GW_VM_PAUSED;
			return 0;
		}
	return gw_error_set(err, -EPROTO, "VM %s: QEMU is in a state that is not known: %s", q->name, state);
}

const char *gw_vm_status_name(enum gw_vm_status s)
{
	static const char *const names[] = {
		[GW_VM_RUNNING] = "running", [GW_VM_PAUSED] = "paused", [GW_VM_INCOMING] = "incoming",
		[GW_VM_SAVED] = "saved", [GW_VM_SHUTDOWN] = "shutdown", [GW_VM_FAILED] = "failed",
		[GW_VM_DEAD] = "dead",
	};

	return (unsigned)s < GW_ARRAY_SIZE(names) ? names[s] : "unknown";
}

static pid_t op_pid(struct gw_vm *vm)
{
	return gw_qemu_of(vm)->rec.pid;
}

/* ---- memory ---- */

struct mapping {
	uint64_t start, end, offset;
	bool shared;
};

/* One line of /proc/PID/maps if it maps `path` from the beginning of the name to its end. */
static bool parse_mapping(const char *line, const char *path, struct mapping *ret)
{
	char perms[5];
	int at = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*s %*s %n", &ret->start, &ret->end,
	           perms, &ret->offset, &at) < 4 || !at)
		return false;
	ret->shared = perms[3] == 's';
	return strncmp(line + at, path, strlen(path)) == 0 && line[at + (int)strlen(path)] == '\n';
}

/* The kernel splits a mapping where its flags differ: the pieces must join to the whole file. */
static int find_mapping(pid_t pid, const char *path, uint64_t size, uint64_t *ret_hva)
{
	char name[64];
	gw_autofile FILE *maps = NULL;
	gw_autofree char *line = NULL;
	size_t capacity = 0;
	uint64_t base = 0, done = 0;

	snprintf(name, sizeof(name), "/proc/%d/maps", (int)pid);
	maps = fopen(name, "re");
	if (!maps)
		return -errno;
	while (done < size && getline(&line, &capacity, maps) > 0) {
		struct mapping m;

		if (!parse_mapping(line, path, &m))
			continue;
		if (m.offset == 0) {
			base = m.start;
			done = 0;
		}
		if (!m.shared)
			return -EOPNOTSUPP;
		if (m.offset != done || m.start != base + done)
			return -EOPNOTSUPP;
		done += m.end - m.start;
	}
	if (done < size)
		return -EOPNOTSUPP;
	*ret_hva = base;
	return 0;
}

static int op_ram(struct gw_vm *vm, struct gw_ram_region *ret, unsigned *ret_n, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct gw_ram_region region = { .name = "ram", .size_bytes = q->rec.memory_bytes,
	                                .page_size_bytes = q->rec.page_size_bytes };
	gw_autofree char *real = realpath(q->rec.ram_path, NULL);
	int r;

	if (gw_qemu_pidfd_ended(q->pidfd))
		return gw_qemu_explain(q, -ESRCH, "has no memory", err);
	if (!real)
		return gw_error_set_errno(err, errno, "VM %s: cannot find its RAM file %s", q->name,
		                          q->rec.ram_path);
	memcpy(region.path, q->rec.ram_path, sizeof(region.path));
	r = find_mapping(q->rec.pid, real, region.size_bytes, &region.hva);
	if (r == -EOPNOTSUPP)
		return gw_error_set(err, r, "VM %s: its QEMU (pid %d) does not map %s whole and shared",
		                    q->name, (int)q->rec.pid, real);
	if (r < 0)
		return gw_error_set_errno(err, r, "VM %s: cannot read the memory map of pid %d", q->name,
		                          (int)q->rec.pid);
	*ret = region;
	*ret_n = 1;
	return 0;
}

static int op_userfaultfd(struct gw_vm *vm, int *ret_fd, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r;

	gw_qemu_ask_begin(q);
	r = gw_qemu_ask_end(q, gw_shim_userfaultfd(q->shim_socket, gw_deadline_in(GW_QEMU_ANSWER_NS), ret_fd, err));
	return r < 0 ? gw_qemu_explain(q, r, "cannot trace its memory", err) : 0;
}

static int op_populate(struct gw_vm *vm, uint64_t hva, uint64_t len, int cancel_fd, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	gw_time_ns limit = POPULATE_BASE_NS + (gw_time_ns)(len / GW_GIB) * POPULATE_GIB_NS;
	int r = gw_shim_populate(q->shim_socket, hva, len, gw_deadline_in(limit), cancel_fd, err);

	return r < 0 ? gw_qemu_explain(q, r, "cannot populate its page tables", err) : 0;
}

static int op_keep_userfaultfd(struct gw_vm *vm, int *ret_fd, bool *ret_fresh, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r = gw_shim_keep_userfaultfd(q->shim_socket, gw_deadline_in(GW_QEMU_ANSWER_NS), ret_fd, ret_fresh, err);

	return r < 0 ? gw_qemu_explain(q, r, "cannot have its missing pages fetched", err) : 0;
}

static int op_drop_userfaultfd(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r = gw_shim_drop_userfaultfd(q->shim_socket, gw_deadline_in(GW_QEMU_ANSWER_NS), err);

	return r < 0 ? gw_qemu_explain(q, r, "keeps its userfaultfd", err) : 0;
}

static int op_unmap_pages(struct gw_vm *vm, const struct gw_hva_range *ranges, size_t n, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r = gw_shim_unmap_pages(q->shim_socket, ranges, n, gw_deadline_in(GW_QEMU_ANSWER_NS), err);

	return r < 0 ? gw_qemu_explain(q, r, "cannot let go of stale pages", err) : 0;
}

static int op_populate_ranges(struct gw_vm *vm, const struct gw_hva_range *ranges, size_t n, int cancel_fd,
                              struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	gw_time_ns limit = POPULATE_BASE_NS + (gw_time_ns)(q->rec.memory_bytes / GW_GIB) * POPULATE_GIB_NS;
	int r = gw_shim_populate_ranges(q->shim_socket, ranges, n, gw_deadline_in(limit), cancel_fd, err);

	return r < 0 ? gw_qemu_explain(q, r, "cannot populate its page tables", err) : 0;
}

static int op_hold_discards(struct gw_vm *vm, int *ret_fd, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct gw_ram_region region;
	struct stat st;
	unsigned n;
	int r = op_ram(vm, &region, &n, err);

	if (r < 0)
		return r;
	if (stat(region.path, &st) < 0)
		return gw_error_set_errno(err, errno, "VM %s: cannot look at its RAM file %s", q->name, region.path);
	r = gw_shim_hold_discards(q->shim_socket, region.hva, region.size_bytes, st.st_dev, st.st_ino,
	                          gw_deadline_in(GW_QEMU_ANSWER_NS), ret_fd, err);
	return r < 0 ? gw_qemu_explain(q, r, "may give memory back while it is copied", err) : 0;
}

/* ---- the rest ---- */

static int simple(struct gw_qemu *q, const char *command, json_t *arguments, struct gw_error *err)
{
	struct gw_qmp_call call = { .command = command, .arguments = arguments };
	int r = gw_qemu_run(q, &call, 1, -1, gw_deadline_in(GW_QEMU_ANSWER_NS), err);

	if (r == 0)
		json_decref(call.reply);
	return r;
}

static int op_announce(struct gw_vm *vm, struct gw_error *err)
{
	return simple(gw_qemu_of(vm), "announce-self",
	              json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds", 5, "step", 100),
	              err);
}

int gw_qemu_powerdown(struct gw_vm *vm, struct gw_error *err)
{
	return simple(gw_qemu_of(vm), "system_powerdown", NULL, err);
}

int gw_qemu_pidfd(struct gw_vm *vm)
{
	return gw_qemu_of(vm)->pidfd;
}

const char *gw_qemu_run_dir(struct gw_vm *vm)
{
	return gw_qemu_of(vm)->run_dir;
}

/* Its memory is freed while it ends, which takes long and must not take a core from a guest that has just begun to run
 * elsewhere on this host or beside it. */
static void lower_priority(pid_t pid)
{
	char path[64];
	gw_autodir DIR *d = NULL;
	struct dirent *e;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.')
			(void)setpriority(PRIO_PROCESS, (id_t)atoi(e->d_name), GW_BACKGROUND_NICE);
}

static void op_kill(struct gw_vm *vm)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	lower_priority(q->rec.pid);
	pidfd_send_signal(q->pidfd, SIGKILL, NULL, 0);
}

static int op_destroy(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct gw_qmp *qmp;
	bool asked = false;
	int r;

	pthread_mutex_lock(&q->lock);
	if (q->destroyed) { /* the name may belong to another VM by now */
		pthread_mutex_unlock(&q->lock);
		return 0;
	}
	pthread_mutex_unlock(&q->lock);
	lower_priority(q->rec.pid);
	qmp = live_connection(q);
	if (qmp)
		asked = gw_qmp_post(qmp, "quit") == 0;
	gw_qmp_unref(qmp);
	r = gw_qemu_end_process(q->pidfd, asked, err);
	if (r == 0)
		r = gw_qemu_remove_files(q->run_dir, &q->rec, true, err);
	if (r < 0) {
		gw_error_prefix(err, "VM %s", q->name);
		return r;
	}
	pthread_mutex_lock(&q->lock);
	q->destroyed = true;
	pthread_mutex_unlock(&q->lock);
	return 0;
}

static void op_free(struct gw_vm *vm)
{
	struct gw_qemu *q = vm ? gw_qemu_of(vm) : NULL;

	if (!q)
		return;
	gw_throttle_free(q->throttle);
	gw_qmp_unref(q->qmp);
	if (q->pidfd >= 0) {
		siginfo_t info;

		if (gw_qemu_pidfd_ended(q->pidfd))
			waitid(P_PIDFD, (id_t)q->pidfd, &info, WEXITED | WNOHANG);
		close(q->pidfd);
	}
	if (q->log_fd >= 0)
		close(q->log_fd);
	gw_qemu_record_done(&q->rec);
	pthread_mutex_destroy(&q->connect_lock);
	pthread_cond_destroy(&q->gate_left);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

const struct gw_hypervisor_ops gw_qemu_ops = {
	.name = "qemu",
	.status = op_status,
	.pid = op_pid,
	.throttle = gw_qemu_throttle,
	.ram = op_ram,
	.userfaultfd = op_userfaultfd,
	.keep_userfaultfd = op_keep_userfaultfd,
	.drop_userfaultfd = op_drop_userfaultfd,
	.unmap_pages = op_unmap_pages,
	.populate = op_populate,
	.populate_ranges = op_populate_ranges,
	.hold_discards = op_hold_discards,
	.pause = gw_qemu_pause,
	.resume = gw_qemu_resume,
	.save_prepare = gw_qemu_save_prepare,
	.save_begin = gw_qemu_save_begin,
	.save_wait = gw_qemu_save_wait,
	.cancel_save = gw_qemu_cancel_save,
	.load_begin = gw_qemu_load_begin,
	.load_wait = gw_qemu_load_wait,
	.announce = op_announce,
	.silence = op_silence,
	.kill = op_kill,
	.destroy = op_destroy,
	.free = op_free,
};
