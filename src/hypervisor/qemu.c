/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting a QEMU, and finding one again that an earlier daemon started. */
#include "hypervisor/qemu.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "hypervisor/qemu_internal.h"
#include "hypervisor/unix_socket.h"

static int set_path(char *ret, size_t len, const char *run_dir, const char *name, struct gw_error *err)
{
	int n = snprintf(ret, len, "%s/%s", run_dir, name);

	if (n < 0 || (size_t)n >= len)
		return gw_error_set(err, -ENAMETOOLONG, "path %s/%s is too long", run_dir, name);
	return gw_unix_check_path(ret, err);
}

static int object_new(const struct gw_qemu_host *host, const struct gw_vm_def *def, struct gw_qemu **ret,
                      struct gw_error *err)
{
	struct gw_qemu *q = calloc(1, sizeof(*q));
	int r;

	if (!q)
		return gw_error_set(err, -ENOMEM, "out of memory");
	q->vm.ops = &gw_qemu_ops;
	q->pidfd = -1;
	q->log_fd = -1;
	memcpy(q->name, def->name, sizeof(q->name));
	pthread_mutex_init(&q->connect_lock, NULL);
	pthread_mutex_init(&q->lock, NULL);
	gw_cond_init(&q->gate_left);
	r = gw_qemu_run_path(host, def->name, q->run_dir, sizeof(q->run_dir), err);
	if (r == 0)
		r = set_path(q->qmp_socket, sizeof(q->qmp_socket), q->run_dir, "qmp.sock", err);
	if (r == 0)
		r = set_path(q->shim_socket, sizeof(q->shim_socket), q->run_dir, "shim.sock", err);
	if (r < 0) {
		q->vm.ops->free(&q->vm);
		return r;
	}
	*ret = q;
	return 0;
}

static int check_channel_paths(const struct gw_vm_def *def, const char *run_dir, struct gw_error *err)
{
	int r = 0;

	for (unsigned i = 0; i < def->n_channels && r == 0; i++) {
		char name[GW_VM_NAME_MAX + 16], path[2 * GW_QEMU_PATH_MAX];

		snprintf(name, sizeof(name), "channel-%s.sock", def->channels[i].name);
		r = set_path(path, sizeof(path), run_dir, name, err);
	}
	return r;
}

/* ---- start ---- */

/* A run folder of that name: of a live VM it is refused, of a dead one it is removed. The RAM file
 * stays: it may have been prepared for this start. */
static int make_run_dir(struct gw_qemu *q, struct gw_error *err)
{
	struct gw_qemu_record old = { .pid = 0 };
	gw_autofd int pidfd = -1;
	int r = gw_qemu_record_read(q->run_dir, &old, NULL);

	if (r == 0 && gw_qemu_find_process(q->run_dir, &old, &pidfd) == 0) {
		gw_qemu_record_done(&old);
		return gw_error_set(err, -EEXIST, "VM %s runs on this host already", q->name);
	}
	r = gw_qemu_remove_files(q->run_dir, r == 0 ? &old : NULL, false, err);
	gw_qemu_record_done(&old);
	if (r < 0)
		return r;
	r = gw_mkdir_p(q->run_dir, 0700);
	return r < 0 ? gw_error_set_errno(err, r, "cannot make run folder %s", q->run_dir) : 0;
}

static int make_ram(struct gw_qemu *q, struct gw_error *err)
{
	const char *path = q->rec.ram_path;
	gw_autofd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct statfs fs;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return gw_error_set_errno(err, errno, "cannot make the RAM file %s", path);
	if (!S_ISREG(st.st_mode) || (st.st_size && (uint64_t)st.st_size != q->rec.memory_bytes))
		return gw_error_set(err, -EEXIST, "RAM file %s is there with another size", path);
	if (fstatfs(fd, &fs) < 0)
		return gw_error_set_errno(err, errno, "cannot look at the file system of %s", path);
	q->rec.page_size_bytes = fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)fs.f_bsize : 4096;
	if (q->rec.memory_bytes % q->rec.page_size_bytes)
		return gw_error_set(err, -EINVAL, "the VM's memory is no multiple of the page size of %s",
		                    path);
	if (ftruncate(fd, (off_t)q->rec.memory_bytes) < 0)
		return gw_error_set_errno(err, errno, "cannot give the RAM file %s its size", path);
	return 0;
}

static int make_taps(struct gw_qemu *q, const struct gw_vm_def *def, struct gw_error *err)
{
	int r = 0;

	for (unsigned i = 0; i < def->n_nics && r == 0; i++)
		if (def->nics[i].bridge)
			r = gw_tap_create(def->nics[i].tap, def->nics[i].bridge, q->rec.taps[i], err);
	return r;
}

static int open_log(struct gw_qemu *q, struct gw_error *err)
{
	char path[GW_QEMU_PATH_MAX + 16];

	snprintf(path, sizeof(path), "%s/qemu.log", q->run_dir);
	q->log_fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	return q->log_fd < 0 ? gw_error_set_errno(err, errno, "cannot make %s", path) : 0;
}

static void note_command(struct gw_qemu *q, const struct gw_strv *argv)
{
	json_decref(q->rec.argv);
	q->rec.argv = json_array();
	for (size_t i = 0; i < argv->n; i++)
		json_array_append_new(q->rec.argv, json_string(argv->v[i]));
}

/* The record goes to disk before QEMU runs (so that nothing can be left that it does not name) and
 * again with the pid. The QMP socket listens before QEMU runs: connecting needs no retries. */
static int run_qemu(struct gw_qemu *q, const struct gw_qemu_host *host, const struct gw_strv *argv,
                    struct gw_error *err)
{
	int listen_fd = -1;
	int r = gw_qemu_record_write(q->run_dir, &q->rec, err);

	if (r == 0)
		r = gw_unix_listen(q->qmp_socket, &listen_fd, err);
	if (r < 0)
		return r;
	r = gw_qemu_spawn(host, argv->v, listen_fd, q->log_fd, q->shim_socket, &q->rec.pid, &q->pidfd, err);
	if (r == 0) {
		r = gw_qemu_start_time(q->rec.pid, &q->rec.start_time);
		r = r == -ESRCH ? 0 : r; /* dead already: the connection will tell */
		r = r < 0 ? gw_error_set(err, r, "cannot read the start time of pid %d", (int)q->rec.pid) :
		    gw_qemu_record_write(q->run_dir, &q->rec, err);
	}
	close(listen_fd); /* QEMU's copy is the only one: if it dies, a connection ends */
	return r;
}

static int launch(struct gw_qemu *q, const struct gw_qemu_host *host, const struct gw_qemu_start *how,
                  struct gw_error *err)
{
	struct gw_strv argv = { .v = NULL };
	int r = make_ram(q, err);

	if (r < 0)
		q->rec.ram_path[0] = 0; /* not ours to remove */
	else
		r = make_taps(q, how->def, err);
	if (r == 0)
		r = open_log(q, err);
	if (r == 0)
		r = gw_qemu_command(host, how->def, how->incoming, q->run_dir, &q->rec, &argv, err);
	if (r < 0)
		return r;
	note_command(q, &argv);
	r = run_qemu(q, host, &argv, err);
	gw_strv_done(&argv);
	return r;
}

/* Keeps the text of `err`. */
static void undo(struct gw_qemu *q)
{
	if (q->pidfd >= 0)
		gw_qemu_end_process(q->pidfd, false, NULL);
	gw_qemu_remove_files(q->run_dir, &q->rec, true, NULL);
}

int gw_qemu_launch(const struct gw_qemu_host *host, const struct gw_qemu_start *how, struct gw_vm **ret,
                   struct gw_error *err)
{
	struct gw_qemu *q;
	int r;

	if (how->def->accel == GW_ACCEL_AUTO || !how->def->cpu_model)
		return gw_error_set(err, -EINVAL, "VM %s: its definition was not resolved for this host",
		                    how->def->name);
	r = object_new(host, how->def, &q, err);
	if (r < 0)
		return r;
	q->rec.incoming = how->incoming;
	q->rec.memory_bytes = how->def->memory_bytes;
	r = gw_qemu_ram_path(host, how->def, q->rec.ram_path, sizeof(q->rec.ram_path), err);
	if (r == 0)
		r = check_channel_paths(how->def, q->run_dir, err);
	if (r == 0)
		r = make_run_dir(q, err);
	if (r == 0) {
		r = launch(q, host, how, err);
		if (r < 0)
			undo(q);
	}
	if (r < 0) {
		q->vm.ops->free(&q->vm);
		return r;
	}
	*ret = &q->vm;
	return 0;
}

int gw_qemu_await(struct gw_vm *vm, gw_time_ns deadline, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct gw_qmp *qmp;
	int r = gw_qmp_connect(q->qmp_socket, deadline, &qmp, err);

	if (r < 0)
		return gw_qemu_explain(q, r, "QEMU did not start", err);
	{
		GW_LOCKED(&q->lock);
		q->qmp = qmp;
	}
	r = gw_qemu_configure(q, deadline, err);
	if (r == 0 && !q->rec.incoming)
		r = gw_qemu_resume(vm, deadline, err);
	return r;
}

int gw_qemu_start(const struct gw_qemu_host *host, const struct gw_qemu_start *how,
                  gw_time_ns deadline, struct gw_vm **ret, struct gw_error *err)
{
	struct gw_vm *vm;
	int r = gw_qemu_launch(host, how, &vm, err);

	if (r < 0)
		return r;
	r = gw_qemu_await(vm, deadline, err);
	if (r < 0) {
		undo(gw_qemu_of(vm));
		vm->ops->free(vm);
		return r;
	}
	*ret = vm;
	return 0;
}

/* ---- adopt ---- */

static int adopt(struct gw_qemu *q, struct gw_error *err)
{
	char path[GW_QEMU_PATH_MAX + 16];
	int r = gw_qemu_record_read(q->run_dir, &q->rec, err);

	if (r == -ENOENT)
		return gw_error_set(err, -ESRCH, "VM %s: there is no QEMU of it on this host", q->name);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%s/qemu.log", q->run_dir);
	q->log_fd = open(path, O_RDWR | O_CLOEXEC);
	r = gw_qemu_find_process(q->run_dir, &q->rec, &q->pidfd);
	if (r < 0) {
		char words[768];

		gw_qemu_last_words(-1, q->log_fd, words, sizeof(words));
		return gw_error_set(err, r, "VM %s: its QEMU has ended%s", q->name, words);
	}
	return gw_qemu_record_write(q->run_dir, &q->rec, err);
}

/* The earlier daemon may have died before this. While a migration is under way QEMU refuses, and it can
 * only be under way when it was done. A QEMU that does not answer is adopted all the same: it can be
 * destroyed, and later operations connect again. */
static void configure_again(struct gw_qemu *q)
{
	gw_qemu_configure(q, gw_deadline_in(GW_QEMU_ANSWER_NS), NULL);
}

int gw_qemu_adopt(const struct gw_qemu_host *host, const struct gw_vm_def *def, struct gw_vm **ret,
                  struct gw_error *err)
{
	struct gw_qemu *q;
	int r = object_new(host, def, &q, err);

	if (r < 0)
		return r;
	r = adopt(q, err);
	if (r < 0) {
		q->vm.ops->free(&q->vm);
		return r;
	}
	configure_again(q);
	*ret = &q->vm;
	return 0;
}
