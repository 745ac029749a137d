/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The API's words about VMs and the host: start, list, show, stop. */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "control/host_internal.h"

#define START_TIMEOUT_NS (30 * GW_NS_PER_S)

static const char *const accel_names[] = { "auto", "kvm", "tcg" };
static const char *const backing_names[] = { "auto", "4k", "thp", "hugetlb" };

static const char *const busy_words[] = {
	[GW_BUSY_STARTING] = "starting",
	[GW_BUSY_OUTGOING] = "migrating",
	[GW_BUSY_INCOMING] = "incoming",
	[GW_BUSY_FETCHING] = "running",
};

static const char *const status_words[] = {
	[GW_VM_RUNNING] = "running", [GW_VM_PAUSED] = "paused",     [GW_VM_INCOMING] = "incoming",
	[GW_VM_SAVED] = "paused",    [GW_VM_SHUTDOWN] = "shutdown", [GW_VM_FAILED] = "failed",
	[GW_VM_DEAD] = "dead",
};

static const char *state_word(const struct gw_host_vm *v, enum gw_vm_status status)
{
	if (v->busy < GW_ARRAY_SIZE(busy_words) && busy_words[v->busy])
		return busy_words[v->busy];
	return v->ended || !v->vm ? "dead" : status_words[status];
}

/* What QEMU says, asked without the lock (it may hang); the VM is pinned meanwhile. */
static enum gw_vm_status ask_status(struct gw_host *h, struct gw_host_vm *v)
{
	enum gw_vm_status status = GW_VM_DEAD;

	if (!v->vm || v->ended || v->busy != GW_IDLE_VM)
		return status;
	v->pins++;
	pthread_mutex_unlock(&h->lock);
	if (v->vm->ops->status(v->vm, &status, NULL) < 0)
		status = GW_VM_FAILED;
	pthread_mutex_lock(&h->lock);
	v->pins--;
	pthread_cond_broadcast(&h->changed);
	return status;
}

/* Lock held. Before any answer of ask_status() is used the VM must be looked up again: it may have been dropped. */
static json_t *vm_json(const struct gw_host_vm *v, enum gw_vm_status status)
{
	const char *run = v->vm ? gw_qemu_run_dir(v->vm) : "";
	json_t *channels = json_object(), *j;
	char path[600];

	for (unsigned i = 0; v->vm && i < v->def->n_channels; i++) {
		snprintf(path, sizeof(path), "%s/channel-%s.sock", run, v->def->channels[i].name);
		json_object_set_new(channels, v->def->channels[i].name, json_string(path));
	}
	snprintf(path, sizeof(path), "%s/console.sock", run);
	j = json_pack("{s:s, s:s, s:s, s:I, s:i, s:s, s:s, s:s, s:i, s:I, s:s, s:s, s:o, s:f, s:s}", "name", v->name, "uuid",
	              v->def->uuid, "state", state_word(v, status), "memory_bytes", (json_int_t)v->def->memory_bytes, "cpus",
	              (int)v->def->cpus, "accel", accel_names[v->def->accel], "machine",
	              v->def->machine ? v->def->machine : "", "backing", backing_names[v->def->backing], "pid",
	              v->vm && !v->ended ? (int)v->vm->ops->pid(v->vm) : 0, "epoch", (json_int_t)v->record.epoch, "run_dir",
	              run, "console", v->vm ? path : "", "channels", channels, "started", v->started, "note", v->note);
	if (v->busy == GW_BUSY_FETCHING && v->in)
		json_object_set_new(j, "owed_bytes", json_integer((json_int_t)gw_in_owed_pages(v->in) << 12));
	json_object_set_new(j, "job", v->job[0] ? json_string(v->job) : json_null());
	return j;
}

int gw_host_vm_list(struct gw_host *h, json_t **ret, struct gw_error *err)
{
	json_t *a = json_array();
	char (*names)[GW_VM_NAME_MAX + 1] = NULL;
	size_t n = 0;

	GW_LOCKED(&h->lock);
	for (struct gw_host_vm *v = h->vms; v; v = v->next)
		n++;
	names = calloc(n + 1, sizeof(*names));
	n = 0;
	for (struct gw_host_vm *v = h->vms; v && names; v = v->next)
		memcpy(names[n++], v->name, sizeof(v->name));
	while (n--) { /* the table may change while one is asked */
		struct gw_host_vm *v = gw_host_find_vm(h, names[n]);
		enum gw_vm_status status = v ? ask_status(h, v) : GW_VM_DEAD;

		v = gw_host_find_vm(h, names[n]);
		if (v)
			json_array_append_new(a, vm_json(v, status));
	}
	free(names);
	*ret = a;
	return 0;
}

static int no_such_vm(const char *name, struct gw_error *err)
{
	return gw_error_set(err, ENOENT, "there is no VM named '%s' on this host ('godwit list' shows those there are)", name);
}

int gw_host_vm_show(struct gw_host *h, const char *name, json_t **ret, struct gw_error *err)
{
	enum gw_vm_status status;
	struct gw_host_vm *v;

	GW_LOCKED(&h->lock);
	v = gw_host_find_vm(h, name);
	if (!v)
		return no_such_vm(name, err);
	status = ask_status(h, v);
	v = gw_host_find_vm(h, name);
	if (!v)
		return no_such_vm(name, err);
	*ret = vm_json(v, status);
	return 0;
}

static uint64_t meminfo_bytes(const char *key)
{
	gw_autofree char *text = NULL;
	unsigned long kib = 0;
	char *at;

	if (gw_read_file("/proc/meminfo", 65536, &text, NULL) < 0)
		return 0;
	at = strstr(text, key);
	if (at)
		sscanf(at + strlen(key), ": %lu", &kib);
	return (uint64_t)kib * 1024;
}

int gw_host_info(struct gw_host *h, json_t **ret, struct gw_error *err)
{
	json_t *hosts = json_object();
	int vms = 0, active = 0;
	char version[64];

	snprintf(version, sizeof(version), "%u.%u.%u", h->qemu.caps.version_major, h->qemu.caps.version_minor,
	         h->qemu.caps.version_micro);
	for (unsigned i = 0; i < h->config->n_hosts; i++)
		json_object_set_new(hosts, h->config->hosts[i].name, json_string(h->config->hosts[i].address));
	GW_LOCKED(&h->lock);
	for (struct gw_host_vm *v = h->vms; v; v = v->next)
		vms++;
	for (struct gw_job *j = h->jobs; j; j = j->next)
		active += !j->final;
	*ret = json_pack("{s:s, s:s, s:s, s:b, s:s, s:I, s:I, s:o, s:i, s:i}", "name", h->config->name, "version", GW_VERSION,
	                 "qemu_version", version, "kvm", h->qemu.caps.kvm, "listen", h->config->listen, "memory_bytes",
	                 (json_int_t)meminfo_bytes("MemTotal"), "memory_available_bytes",
	                 (json_int_t)meminfo_bytes("MemAvailable"), "hosts", hosts, "vms", vms, "jobs_active", active);
	return 0;
}

/* Starting. */

/* From here on gw_host_stop() can end the wait for it. */
static void publish(struct gw_host *h, struct gw_host_vm *v, struct gw_vm *vm)
{
	GW_LOCKED(&h->lock);
	v->vm = vm;
	if (atomic_load(&h->stopping))
		vm->ops->kill(vm);
}

static int start_reserved(struct gw_host *h, struct gw_host_vm *v, struct gw_error *err)
{
	struct gw_record rec = { .state = GW_RECORD_RUNNING, .epoch = 1 };
	struct gw_qemu_start how = { .def = v->def };
	struct gw_vm *vm = NULL;
	int r = gw_host_save_definition(v, err);

	if (r == 0)
		r = gw_journal_write(v->journal, &rec, err);
	if (r == 0)
		r = gw_qemu_launch(&h->qemu, &how, &vm, err);
	if (r < 0)
		return r;
	publish(h, v, vm);
	r = gw_qemu_await(vm, gw_deadline_in(START_TIMEOUT_NS), err);
	if (r == 0)
		v->record = rec;
	else if (vm->ops->destroy(vm, NULL) < 0)
		gw_log_error(v->name, "its QEMU, pid %d, does not end", (int)vm->ops->pid(vm));
	return r;
}

int gw_host_vm_start(struct gw_host *h, const char *definition, json_t **ret, struct gw_error *err)
{
	struct gw_vm_def *def = NULL;
	struct gw_host_vm *v = NULL;
	int r = gw_vm_def_parse(definition, &def, err);

	if (r < 0)
		return r;
	{
		GW_LOCKED(&h->lock);
		if (gw_host_find_vm(h, def->name))
			r = gw_error_set(err, EEXIST, "this host already has a VM named '%s'", def->name);
	}
	if (r == 0)
		r = gw_qemu_resolve(&h->qemu, def, NULL, err);
	if (r == 0) {
		GW_LOCKED(&h->lock);
		r = gw_host_add_vm(h, def, &v, err);
		if (r == 0)
			v->busy = GW_BUSY_STARTING;
	}
	gw_vm_def_free(def);
	if (r < 0)
		return r;
	r = start_reserved(h, v, err);
	GW_LOCKED(&h->lock);
	if (r < 0) {
		gw_host_drop_vm(h, v, true);
		return r;
	}
	v->busy = GW_IDLE_VM;
	gw_host_watch_vm(h, v);
	gw_log_info(v->name, "started, pid %d", (int)v->vm->ops->pid(v->vm));
	*ret = vm_json(v, GW_VM_RUNNING);
	return 0;
}

/* Stopping. */

static int busy_error(const struct gw_host_vm *v, struct gw_error *err)
{
	if (v->busy == GW_BUSY_OUTGOING)
		return gw_error_set(err, EBUSY, "VM '%s' is migrating ('godwit cancel %s' ends that)", v->name, v->job);
	if (v->busy == GW_BUSY_INCOMING)
		return gw_error_set(err, EBUSY, "VM '%s' is arriving from another host", v->name);
	if (v->busy == GW_BUSY_FETCHING)
		return gw_error_set(err, EBUSY, "memory of VM '%s' still follows from the host it came from (--force ends it)",
		                    v->name);
	return gw_error_set(err, EBUSY, "VM '%s' is being %s", v->name,
	                    v->busy == GW_BUSY_STARTING ? "started" : "stopped");
}

static int power_off(struct gw_host_vm *v, gw_time_ns timeout, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = timeout };
	int r = gw_qemu_powerdown(v->vm, err);

	if (r < 0)
		return r;
	if (gw_wait_fd(gw_qemu_pidfd(v->vm), POLLIN, &w) == -ETIMEDOUT)
		return gw_error_set(err, ETIMEDOUT, "the guest did not power off in time; it goes on running (--force ends it)");
	return 0;
}

/* The end of its process is the end of its migration too, which tells the source and lets go of the VM; then it is like
 * any other whose process has ended. Lock held, let go meanwhile. */
static int end_fetching(struct gw_host *h, struct gw_host_vm *v, const char *name, struct gw_error *err)
{
	gw_time_ns deadline = gw_deadline_in(10 * GW_NS_PER_S);
	int r;

	v->pins++;
	pthread_mutex_unlock(&h->lock);
	r = v->vm->ops->destroy(v->vm, err);
	pthread_mutex_lock(&h->lock);
	v->pins--;
	pthread_cond_broadcast(&h->changed);
	while (r == 0 && (v = gw_host_find_vm(h, name)) && v->busy == GW_BUSY_FETCHING)
		if (gw_cond_wait(&h->changed, &h->lock, deadline) < 0)
			return gw_error_set(err, ETIMEDOUT, "VM '%s' is ended, but its migration does not end", name);
	if (r < 0 || !v)
		return r;
	gw_log_info(v->name, "stopped");
	gw_host_drop_vm(h, v, true);
	return 0;
}

int gw_host_vm_stop(struct gw_host *h, const char *name, bool force, gw_time_ns timeout, struct gw_error *err)
{
	struct gw_host_vm *v;
	int r = 0;

	{
		GW_LOCKED(&h->lock);
		v = gw_host_find_vm(h, name);
		if (!v)
			return no_such_vm(name, err);
		if (v->busy == GW_BUSY_FETCHING && force)
			return end_fetching(h, v, name, err);
		if (v->busy != GW_IDLE_VM)
			return busy_error(v, err);
		v->busy = GW_BUSY_STOPPING;
	}
	if (v->vm && !v->ended && !force)
		r = power_off(v, timeout, err);
	if (r == 0)
		r = v->vm ? v->vm->ops->destroy(v->vm, err) : gw_qemu_sweep(&h->qemu, v->def, err);
	GW_LOCKED(&h->lock);
	if (r < 0) {
		v->busy = GW_IDLE_VM;
		return r;
	}
	gw_log_info(v->name, "stopped");
	gw_host_drop_vm(h, v, true);
	return 0;
}
