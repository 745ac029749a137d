/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host daemon: its table of VMs, taking them over at start, and noticing when one ends. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "control/host_internal.h"
#include "memory/demand.h"
#include "control/thp.h"
#include "memory/huge.h"

struct gw_host_vm *gw_host_find_vm(struct gw_host *h, const char *name)
{
	for (struct gw_host_vm *v = h->vms; v; v = v->next)
		if (!strcmp(v->name, name))
			return v;
	return NULL;
}

static void free_vm(struct gw_host_vm *v)
{
	if (v->vm)
		v->vm->ops->free(v->vm);
	gw_journal_free(v->journal);
	gw_vm_def_free(v->def);
	free(v);
}

static int copy_definition(const struct gw_vm_def *def, struct gw_vm_def **ret, struct gw_error *err)
{
	gw_autofree char *text = NULL;
	int r = gw_vm_def_format(def, &text);

	if (r < 0)
		return gw_error_set_errno(err, r, "cannot keep the definition");
	return gw_vm_def_parse(text, ret, err);
}

int gw_host_add_vm(struct gw_host *h, const struct gw_vm_def *def, struct gw_host_vm **ret, struct gw_error *err)
{
	struct gw_host_vm *v;
	char path[600];
	bool fresh;
	int r;

	if (gw_host_find_vm(h, def->name))
		return gw_error_set(err, EEXIST, "host %s already has a VM named '%s'", h->config->name, def->name);
	v = calloc(1, sizeof(*v));
	if (!v)
		return gw_error_set(err, ENOMEM, "out of memory");
	snprintf(v->name, sizeof(v->name), "%s", def->name);
	snprintf(v->dir, sizeof(v->dir), "%s/vms/%s", h->config->state_dir, def->name);
	snprintf(path, sizeof(path), "%s/journal", v->dir);
	fresh = access(v->dir, F_OK) < 0;
	r = copy_definition(def, &v->def, err);
	if (r == 0) {
		r = gw_mkdir_p(v->dir, 0700);
		if (r < 0)
			gw_error_set_errno(err, r, "cannot create %s", v->dir);
	}
	if (r == 0)
		r = gw_journal_open(path, &v->journal, &v->record, err);
	if (r < 0) {
		if (fresh)
			(void)gw_remove_tree(v->dir);
		free_vm(v);
		return r;
	}
	v->started = gw_wallclock_s();
	v->next = h->vms;
	h->vms = v;
	*ret = v;
	return 0;
}

void gw_host_drop_vm(struct gw_host *h, struct gw_host_vm *v, bool forget)
{
	for (struct gw_host_vm **p = &h->vms; *p; p = &(*p)->next) {
		if (*p == v) {
			*p = v->next;
			break;
		}
	}
	while (v->pins)
		pthread_cond_wait(&h->changed, &h->lock);
	if (forget) {
		int r = gw_remove_tree(v->dir);

		if (r < 0)
			gw_log_error(v->name, "cannot remove %s: %s", v->dir, strerror(-r));
	}
	free_vm(v);
}

int gw_host_save_definition(struct gw_host_vm *v, struct gw_error *err)
{
	gw_autofree char *text = NULL;
	char path[600];
	int r = gw_vm_def_format(v->def, &text);

	snprintf(path, sizeof(path), "%s/definition.ini", v->dir);
	if (r == 0)
		r = gw_write_file_durable(path, text, strlen(text), 0600);
	return r < 0 ? gw_error_set_errno(err, r, "cannot store %s", path) : 0;
}

/* VMs that end. */

void gw_host_watch_vm(struct gw_host *h, struct gw_host_vm *v)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLONESHOT, .data.fd = gw_qemu_pidfd(v->vm) };

	if (epoll_ctl(h->watch_fd, EPOLL_CTL_ADD, e.data.fd, &e) < 0 && errno != EEXIST)
		gw_log_error(v->name, "cannot watch the VM's process: %s", strerror(errno));
}

int gw_host_watch_fd(struct gw_host *h)
{
	return h->watch_fd;
}

void gw_host_states_path(const struct gw_host *h, const struct gw_host_vm *v, char *ret, size_t len)
{
	snprintf(ret, len, "%s/%s/page-states", h->qemu.run_dir, v->name);
}

void gw_host_note_ended(struct gw_host_vm *v)
{
	gw_log_warning(v->name, "the VM's process has ended");
	snprintf(v->note, sizeof(v->note),
	         "its process has ended (the guest powered off, or see %s/qemu.log); 'godwit stop %s' clears it away",
	         gw_qemu_run_dir(v->vm), v->name);
}

static void one_ended(struct gw_host_vm *v)
{
	v->ended = true;
	switch (v->busy) {
	case GW_IDLE_VM:
		gw_host_note_ended(v);
		break;
	case GW_BUSY_INCOMING:
	case GW_BUSY_FETCHING:
		if (v->in)
			gw_in_post(v->in, GW_TARGET_EV_FAILED);
		break;
	case GW_BUSY_OUTGOING: /* told by gw_host_vm_ended, which can find the job */
	case GW_BUSY_STARTING:
	case GW_BUSY_STOPPING:
		break;
	}
}

void gw_host_vm_ended(struct gw_host *h)
{
	struct epoll_event e[16];
	int n = epoll_wait(h->watch_fd, e, GW_ARRAY_SIZE(e), 0);

	GW_LOCKED(&h->lock);
	for (int i = 0; i < n; i++) {
		for (struct gw_host_vm *v = h->vms; v; v = v->next) {
			struct gw_job *j;

			if (!v->vm || gw_qemu_pidfd(v->vm) != e[i].data.fd)
				continue;
			one_ended(v);
			j = v->busy == GW_BUSY_OUTGOING ? gw_host_find_job(h, v->job) : NULL;
			if (j && j->out)
				gw_out_post(j->out, GW_SOURCE_EV_VM_LOST);
		}
	}
}

/* Taking over after a restart. */

#define ANY (-1)

static const struct {
	enum gw_record_state record;
	bool alive;
	int status; /* when alive: an enum gw_vm_status, of which GW_VM_DEAD stands for one that does not answer, or ANY */
	enum { TAKE, OUTGOING, INCOMING } how;
	int event;
} takeover[] = {
	{ GW_RECORD_MIGRATING, true, ANY, OUTGOING, GW_SOURCE_EV_RESTARTED_BEGIN },
	{ GW_RECORD_MIGRATING, false, ANY, OUTGOING, GW_SOURCE_EV_RESTARTED_LOST },
	{ GW_RECORD_COMMITTED, true, ANY, OUTGOING, GW_SOURCE_EV_RESTARTED_COMMIT },
	{ GW_RECORD_COMMITTED, false, ANY, OUTGOING, GW_SOURCE_EV_RESTARTED_COMMIT },
	{ GW_RECORD_ABORTED, true, GW_VM_PAUSED, OUTGOING, GW_SOURCE_EV_RESTARTED_ABORT },
	{ GW_RECORD_ABORTED, true, GW_VM_SAVED, OUTGOING, GW_SOURCE_EV_RESTARTED_ABORT },
	{ GW_RECORD_ABORTED, true, GW_VM_DEAD, OUTGOING, GW_SOURCE_EV_RESTARTED_ABORT },
	{ GW_RECORD_INCOMING, true, GW_VM_PAUSED, INCOMING, GW_TARGET_EV_RESTARTED },
	{ GW_RECORD_INCOMING, true, GW_VM_RUNNING, INCOMING, GW_TARGET_EV_RESTARTED_RUNNING },
	{ GW_RECORD_INCOMING, true, ANY, INCOMING, GW_TARGET_EV_RESTARTED_PART },
	{ GW_RECORD_INCOMING, false, ANY, INCOMING, GW_TARGET_EV_RESTARTED_PART },
};

static int take_over_migration(struct gw_host *h, struct gw_host_vm *v, enum gw_vm_status status, struct gw_error *err)
{
	for (size_t i = 0; i < GW_ARRAY_SIZE(takeover); i++) {
		if (takeover[i].record != v->record.state || takeover[i].alive != (v->vm != NULL))
			continue;
		if (takeover[i].status != ANY && takeover[i].status != (int)status)
			continue;
		if (takeover[i].how == OUTGOING)
			return gw_host_resume_outgoing(h, v, (enum gw_source_event)takeover[i].event, err);
		return gw_host_resume_incoming(h, v, (enum gw_target_event)takeover[i].event, err);
	}
	return 0;
}

/* A VM whose memory was not whole when the daemon ended: its VMM may wait for a page, and can be asked nothing before
 * faults are answered again. False when it is none of those. */
static bool take_over_owed(struct gw_host *h, struct gw_host_vm *v)
{
	bool runs = v->record.state == GW_RECORD_RUNNING;
	struct gw_error err = GW_ERROR_INIT;
	char path[256];

	gw_host_states_path(h, v, path, sizeof(path));
	if (!v->vm || (!runs && v->record.state != GW_RECORD_INCOMING) || !gw_demand_was_loaded(path))
		return false;
	gw_log_info(v->name, "taken over: record %s, epoch %lu, memory is still owed to it",
	            gw_record_state_name(v->record.state), (unsigned long)v->record.epoch);
	if (gw_host_resume_incoming(h, v, runs ? GW_TARGET_EV_RESTARTED_RUNNING_OWING : GW_TARGET_EV_RESTARTED_OWING,
	                            &err) < 0) {
		gw_log_error(v->name, "%s", gw_error_text(&err));
		GW_LOCKED(&h->lock);
		v->owed_unserved = true;
		v->busy = GW_BUSY_FETCHING;
		snprintf(v->note, sizeof(v->note), "%.250s; restart godwitd to try again", gw_error_text(&err));
	}
	return true;
}

void gw_host_restore_huge(struct gw_host_vm *v)
{
	struct gw_ram_region regions[GW_RAM_REGIONS_MAX];
	unsigned n = 0;

	if (v->ended || v->def->backing != GW_BACKING_THP ||
	    v->vm->ops->ram(v->vm, regions, &n, NULL) < 0)
		return;
	for (unsigned i = 0; i < n; i++) {
		gw_autofd int fd = open(regions[i].path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		struct gw_bitmap all = { .words = NULL };

		if (fd < 0 || gw_bitmap_init(&all, regions[i].size_bytes / GW_HUGE_BYTES) < 0)
			continue;
		gw_bitmap_set_range(&all, 0, all.nbits);
		(void)gw_huge_restore(v->vm->ops->pid(v->vm), fd, regions[i].hva, &all);
	}
}

static void take_over(struct gw_host *h, struct gw_host_vm *v)
{
	enum gw_vm_status status = GW_VM_DEAD;
	struct gw_error err = GW_ERROR_INIT;
	int r = gw_qemu_adopt(&h->qemu, v->def, &v->vm, &err);

	if (v->vm)
		gw_host_watch_vm(h, v);
	if (take_over_owed(h, v))
		return;
	/* A daemon that died while it traced a guest has left its huge mappings split. */
	if (v->vm && v->record.state == GW_RECORD_MIGRATING)
		gw_host_restore_huge(v);
	if (r == 0)
		gw_qemu_configure_adopted(v->vm);
	if (r == 0 && gw_qemu_connected(v->vm)) /* one that does not answer holds up the others long enough as it is */
		r = v->vm->ops->status(v->vm, &status, &err);
	if (v->record.state == GW_RECORD_NONE) { /* never got to run: nothing to lose */
		gw_qemu_sweep(&h->qemu, v->def, NULL);
		GW_LOCKED(&h->lock);
		gw_host_drop_vm(h, v, true);
		return;
	}
	if (!v->vm) {
		v->ended = true;
		snprintf(v->note, sizeof(v->note), "its process was gone when godwitd started: %.200s", gw_error_text(&err));
	}
	gw_log_info(v->name, "taken over: record %s, epoch %lu, %s", gw_record_state_name(v->record.state),
	            (unsigned long)v->record.epoch, v->vm ? gw_vm_status_name(status) : "process gone");
	if (take_over_migration(h, v, status, &err) < 0)
		gw_log_error(v->name, "%s", gw_error_text(&err));
}

static int load_one(struct gw_host *h, const char *name, struct gw_error *err)
{
	gw_autofree char *text = NULL;
	struct gw_vm_def *def = NULL;
	struct gw_host_vm *v = NULL;
	char path[600];
	int r;

	snprintf(path, sizeof(path), "%s/vms/%s/definition.ini", h->config->state_dir, name);
	r = gw_read_file(path, GW_DEFINITION_TEXT_MAX, &text, NULL);
	if (r < 0)
		return gw_error_set_errno(err, r, "cannot read %s", path);
	r = gw_vm_def_parse(text, &def, err);
	if (r < 0)
		return gw_error_prefix(err, "%s", path);
	{
		GW_LOCKED(&h->lock);
		r = gw_host_add_vm(h, def, &v, err);
	}
	gw_vm_def_free(def);
	if (r < 0)
		return r;
	take_over(h, v);
	return 0;
}

static void load_vms(struct gw_host *h)
{
	char path[600];
	gw_autodir DIR *d = NULL;
	struct dirent *e;

	snprintf(path, sizeof(path), "%s/vms", h->config->state_dir);
	d = opendir(path);
	if (!d)
		h->incomplete = true;
	while (d && (e = readdir(d))) {
		struct gw_error err = GW_ERROR_INIT;

		if (e->d_name[0] != '.' && load_one(h, e->d_name, &err) < 0) {
			h->incomplete = true;
			gw_log_error(e->d_name, "not taken over: %s", gw_error_text(&err));
		}
	}
}

/* Threads. */

struct thread_start {
	struct gw_host *host;
	void *(*fn)(void *);
	void *arg;
};

static void *thread_main(void *arg)
{
	struct thread_start s = *(struct thread_start *)arg;

	free(arg);
	s.fn(s.arg);
	gw_host_thread_ended(s.host);
	return NULL;
}

int gw_host_thread(struct gw_host *h, void *(*fn)(void *), void *arg)
{
	struct thread_start *s = malloc(sizeof(*s));
	pthread_attr_t attr;
	pthread_t t;
	int r;

	if (!s)
		return -ENOMEM;
	*s = (struct thread_start){ h, fn, arg };
	{
		GW_LOCKED(&h->lock);
		h->n_threads++;
	}
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 1u << 20);
	r = gw_thread_start(&t, &attr, thread_main, s);
	pthread_attr_destroy(&attr);
	if (r) {
		free(s);
		gw_host_thread_ended(h);
	}
	return r;
}

void gw_host_thread_ended(struct gw_host *h)
{
	GW_LOCKED(&h->lock);
	h->n_threads--;
	pthread_cond_broadcast(&h->changed);
}

/* Life. */

static int make_folders(struct gw_host *h, struct gw_error *err)
{
	const struct gw_config *c = h->config;
	const char *const dirs[] = { c->state_dir, c->run_dir, c->ram_dir, c->thp_dir, c->hugetlb_dir };
	char path[600];
	int r = 0;

	for (size_t i = 0; i < GW_ARRAY_SIZE(dirs); i++) {
		r = dirs[i] ? gw_mkdir_p(dirs[i], 0700) : 0;
		if (r < 0)
			return gw_error_set_errno(err, r, "cannot create %s", dirs[i]);
	}
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", c->state_dir, i ? "jobs" : "vms");
		r = gw_mkdir_p(path, 0700);
		if (r < 0)
			return gw_error_set_errno(err, r, "cannot create %s", path);
	}
	return 0;
}

int gw_host_new(const struct gw_config *config, uint16_t port, struct gw_host **ret, struct gw_error *err)
{
	struct gw_host *h = calloc(1, sizeof(*h));
	int r;

	if (!h)
		return gw_error_set(err, ENOMEM, "out of memory");
	h->config = config;
	h->port = port;
	h->qemu = (struct gw_qemu_host){
		.binary = config->qemu, .shim = config->shim, .run_dir = config->run_dir,
		.ram_dir = config->ram_dir, .thp_dir = config->thp_dir, .hugetlb_dir = config->hugetlb_dir,
	};
	pthread_mutex_init(&h->lock, NULL);
	gw_bandwidth_init(&h->bandwidth, config->migration_bandwidth_Bps);
	gw_cond_init(&h->changed);
	h->watch_fd = epoll_create1(EPOLL_CLOEXEC);
	r = h->watch_fd < 0 ? gw_error_set_errno(err, errno, "epoll") : make_folders(h, err);
	if (r == 0 && !config->thp_dir)
		h->qemu.thp_dir = h->own_thp = gw_thp_mount(config->ram_dir);
	if (r == 0)
		r = gw_qemu_probe(&h->qemu, err);
	if (r < 0) {
		gw_host_free(h);
		return r;
	}
	gw_host_load_jobs(h);
	load_vms(h);
	*ret = h;
	return 0;
}

void gw_host_stop(struct gw_host *h)
{
	gw_time_ns deadline = gw_deadline_in(20 * GW_NS_PER_S);

	atomic_store(&h->stopping, true);
	GW_LOCKED(&h->lock);
	for (struct gw_job *j = h->jobs; j; j = j->next)
		if (j->out)
			gw_out_stop(j->out);
	for (struct gw_host_in *e = h->ins; e; e = e->next)
		gw_in_stop(e->in);
	for (struct gw_host_vm *v = h->vms; v; v = v->next)
		if (v->busy == GW_BUSY_STARTING && v->vm)
			v->vm->ops->kill(v->vm);
	pthread_cond_broadcast(&h->changed);
	while (h->n_threads && gw_cond_wait(&h->changed, &h->lock, deadline) == 0)
		;
	if (h->n_threads)
		gw_log_warning(NULL, "%u tasks did not end in time; what they do is taken up at the next start", h->n_threads);
}

void gw_host_free(struct gw_host *h)
{
	if (!h)
		return;
	while (h->vms)
		gw_host_drop_vm(h, h->vms, false);
	gw_host_free_jobs(h);
	gw_qemu_caps_done(&h->qemu.caps);
	if (h->own_thp)
		gw_thp_unmount(h->own_thp);
	free(h->own_thp);
	if (h->watch_fd >= 0)
		close(h->watch_fd);
	pthread_cond_destroy(&h->changed);
	gw_bandwidth_done(&h->bandwidth);
	pthread_mutex_destroy(&h->lock);
	free(h);
}
