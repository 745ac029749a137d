/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Incoming migrations: what they are checked for, the VM that is made for them, and taking one up after a restart. */
#include <endian.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "control/host_internal.h"
#include "transport/peer.h"
#include "wire/wire.h"

#define START_TIMEOUT_NS (30 * GW_NS_PER_S)

struct in_run {
	struct gw_host *host;
	struct gw_in *in;
};

/* The registry of incoming migrations. */

struct gw_host_in *gw_host_acquire_in(struct gw_host *h, const struct gw_wire_id *id)
{
	GW_LOCKED(&h->lock);
	for (struct gw_host_in *e = h->ins; e; e = e->next) {
		if (!memcmp(gw_in_id(e->in), id, sizeof(*id))) {
			e->users++;
			return e;
		}
	}
	return NULL;
}

void gw_host_release_in(struct gw_host *h, struct gw_host_in *e)
{
	GW_LOCKED(&h->lock);
	e->users--;
	pthread_cond_broadcast(&h->changed);
}

static struct gw_host_in *register_in(struct gw_host *h, struct gw_in *in)
{
	struct gw_host_in *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	GW_LOCKED(&h->lock);
	e->in = in;
	e->next = h->ins;
	h->ins = e;
	if (atomic_load(&h->stopping))
		gw_in_stop(in);
	return e;
}

static void unregister_in(struct gw_host *h, struct gw_host_in *e)
{
	GW_LOCKED(&h->lock);
	for (struct gw_host_in **p = &h->ins; *p; p = &(*p)->next) {
		if (*p == e) {
			*p = e->next;
			break;
		}
	}
	while (e->users)
		pthread_cond_wait(&h->changed, &h->lock);
	free(e);
}

/* What an incoming migration needs of the host. */

static int version_check(struct gw_host *h, const json_t *prepare, struct gw_error *err)
{
	const json_t *version = json_object_get(json_object_get(prepare, "facts"), "qemu_version");
	unsigned major = (unsigned)json_integer_value(json_array_get(version, 0));
	unsigned minor = (unsigned)json_integer_value(json_array_get(version, 1));
	unsigned have = h->qemu.caps.version_major, have_minor = h->qemu.caps.version_minor;

	if (major > have || (major == have && minor > have_minor))
		return gw_error_set(err, ENOTSUP,
		                    "host %s has QEMU %u.%u, older than the %u.%u that the VM runs on (upgrade the target's "
		                    "QEMU)",
		                    h->config->name, have, have_minor, major, minor);
	return 0;
}

static int parse_prepare(const json_t *prepare, struct gw_vm_def **ret, struct gw_error *err)
{
	const char *text = json_string_value(json_object_get(prepare, "definition"));
	const char *name = json_string_value(json_object_get(prepare, "vm"));
	int r;

	if (!text || !name)
		return gw_error_set(err, EPROTO, "PREPARE message from the other host is malformed (definition, vm)");
	r = gw_vm_def_parse(text, ret, err);
	if (r < 0)
		return gw_error_prefix(err, "the definition that came from the other host");
	if (!strcmp((*ret)->name, name))
		return 0;
	gw_vm_def_free(gw_steal(ret));
	return gw_error_set(err, EPROTO, "PREPARE message from the other host is malformed (two names)");
}

static int set_up(struct gw_host *h, struct gw_in *in, const struct gw_vm_def *def, struct gw_in_place *ret,
                  struct gw_error *err)
{
	struct gw_host_vm *v = NULL;
	int r;

	{
		GW_LOCKED(&h->lock);
		r = gw_host_add_vm(h, def, &v, err);
		if (r < 0)
			return r;
		v->busy = GW_BUSY_INCOMING;
		v->in = in;
	}
	(void)gw_qemu_sweep(&h->qemu, v->def, NULL); /* what an earlier life may have left */
	ret->journal = v->journal;
	gw_host_states_path(h, v, ret->states_path, sizeof(ret->states_path));
	r = gw_host_save_definition(v, err);
	if (r == 0)
		r = gw_qemu_ram_path(&h->qemu, v->def, ret->ram_path[0], sizeof(ret->ram_path[0]), err);
	if (r < 0) {
		GW_LOCKED(&h->lock);
		gw_host_drop_vm(h, v, true);
	}
	return r;
}

static int hook_reserve(void *arg, struct gw_in *in, const json_t *prepare, struct gw_in_place *ret,
                        struct gw_error *err)
{
	struct gw_host *h = arg;
	struct gw_vm_def *def = NULL;
	int r = parse_prepare(prepare, &def, err);

	if (r < 0)
		return r;
	{
		GW_LOCKED(&h->lock);
		if (gw_host_find_vm(h, def->name))
			r = gw_error_set(err, EEXIST, "host %s already has a VM named '%s'", h->config->name, def->name);
	}
	if (r == 0)
		r = version_check(h, prepare, err);
	if (r == 0) {
		r = gw_qemu_resolve(&h->qemu, def, NULL, err);
		if (r < 0)
			gw_error_prefix(err, "host %s cannot run it", h->config->name);
	}
	if (r == 0)
		r = set_up(h, in, def, ret, err);
	gw_vm_def_free(def);
	return r;
}

static struct gw_host_vm *find_of(struct gw_host *h, struct gw_in *in)
{
	for (struct gw_host_vm *v = h->vms; v; v = v->next)
		if (v->in == in)
			return v;
	return NULL;
}

static struct gw_host_vm *locked_find_of(struct gw_host *h, struct gw_in *in)
{
	GW_LOCKED(&h->lock);
	return find_of(h, in);
}

static int hook_start(void *arg, struct gw_in *in, struct gw_vm **ret, struct gw_error *err)
{
	struct gw_host *h = arg;
	struct gw_host_vm *v = locked_find_of(h, in);
	struct gw_qemu_start how = { .def = v->def, .incoming = true };
	int r = gw_qemu_launch(&h->qemu, &how, ret, err);

	if (r < 0)
		return r;
	GW_LOCKED(&h->lock);
	v->vm = *ret;
	gw_host_watch_vm(h, v);
	return 0;
}

static int hook_await(void *arg, struct gw_in *in, const json_t *prepare, struct gw_error *err)
{
	struct gw_host *h = arg;
	struct gw_host_vm *v = locked_find_of(h, in);
	struct gw_ram_region regions[GW_RAM_REGIONS_MAX];
	json_t *facts = NULL;
	unsigned n;
	int r = gw_qemu_await(v->vm, gw_deadline_in(START_TIMEOUT_NS), err);

	if (r == 0)
		r = v->vm->ops->ram(v->vm, regions, &n, err); /* it must be the file that the pages will go to */
	if (r == 0)
		r = gw_qemu_facts(v->vm, &facts, err);
	if (r == 0)
		r = gw_qemu_facts_compatible(json_object_get(prepare, "facts"), facts, err);
	json_decref(facts);
	return r;
}

static void hook_running(void *arg, struct gw_in *in, uint64_t epoch)
{
	struct gw_host *h = arg;
	struct gw_host_vm *v;

	GW_LOCKED(&h->lock);
	v = find_of(h, in);
	v->busy = GW_BUSY_FETCHING;
	v->note[0] = 0;
	v->started = gw_wallclock_s();
	v->record = (struct gw_record){ .state = GW_RECORD_RUNNING, .epoch = epoch, .migration = *gw_in_id(in) };
	gw_log_info(v->name, "runs here now, epoch %lu", (unsigned long)epoch);
}

static void hook_whole(void *arg, struct gw_in *in)
{
	struct gw_host *h = arg;
	struct gw_host_vm *v;

	GW_LOCKED(&h->lock);
	v = find_of(h, in);
	v->in = NULL;
	v->busy = GW_IDLE_VM;
	if (gw_in_was_owed(in))
		gw_host_restore_huge(v);
	if (v->ended)
		gw_host_note_ended(v);
	pthread_cond_broadcast(&h->changed);
}

static void hook_gone(void *arg, struct gw_in *in, const char *why)
{
	struct gw_host *h = arg;
	struct gw_error err = GW_ERROR_INIT;
	struct gw_host_vm *v = locked_find_of(h, in);

	/* Its process is gone; what was made before there was one goes too. */
	if (v->vm && v->vm->ops->destroy(v->vm, &err) < 0)
		gw_log_error(v->name, "removing what arrived: %s", gw_error_text(&err));
	if (gw_qemu_sweep(&h->qemu, v->def, &err) < 0)
		gw_log_error(v->name, "removing what arrived: %s", gw_error_text(&err));
	GW_LOCKED(&h->lock);
	gw_log_warning(v->name, "the incoming migration ended: %s; nothing of it is left here", why);
	gw_host_drop_vm(h, v, true);
}

static const struct gw_in_hooks hooks = {
	.reserve = hook_reserve,
	.start = hook_start,
	.await = hook_await,
	.running = hook_running,
	.whole = hook_whole,
	.gone = hook_gone,
};

static struct gw_in_config in_config(struct gw_host *h, const struct gw_wire_id *id)
{
	return (struct gw_in_config){
		.id = *id,
		.hooks = &hooks,
		.hooks_arg = h,
		.switch_timeout_ns = h->config->switch_timeout_ns,
		.idle_timeout_ns = h->config->idle_timeout_ns,
	};
}

static void run_registered(struct gw_host *h, struct gw_in *in, const json_t *prepare)
{
	struct gw_host_in *entry = register_in(h, in);
	struct gw_error err = GW_ERROR_INIT;

	if (!entry)
		return;
	if (gw_in_run(in, prepare, &err) < 0)
		gw_log_warning(gw_in_vm_name(in), "not received: %s", gw_error_text(&err));
	{
		struct gw_host_vm *v;

		GW_LOCKED(&h->lock);
		v = find_of(h, in); /* still there when the daemon stops in the middle */
		if (v)
			v->in = NULL;
	}
	unregister_in(h, entry);
}

/* Control connections. */

static void answer_preflight(struct gw_host *h, int fd, const json_t *prepare, const struct gw_wait *w)
{
	struct gw_error err = GW_ERROR_INIT;
	json_t *reasons = json_array(), *verdict;
	struct gw_vm_def *def = NULL;

	if (parse_prepare(prepare, &def, &err) < 0) {
		json_array_append_new(reasons, json_string(err.text));
	} else {
		{
			GW_LOCKED(&h->lock);
			if (gw_host_find_vm(h, def->name))
				json_array_append_new(reasons, json_sprintf("host %s already has a VM named '%s'",
				                                            h->config->name, def->name));
		}
		if (version_check(h, prepare, &err) < 0)
			json_array_append_new(reasons, json_string(err.text));
		(void)gw_qemu_resolve(&h->qemu, def, reasons, NULL);
	}
	gw_vm_def_free(def);
	verdict = json_pack("{s:o}", "reasons", reasons);
	(void)gw_peer_send_json(fd, GW_WIRE_VERDICT, verdict, w, NULL);
	json_decref(verdict);
}

void gw_host_serve_control(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w)
{
	struct gw_in_config config = in_config(h, &hello->migration);
	struct gw_error err = GW_ERROR_INIT;
	gw_autofree char *body = NULL;
	struct gw_in *in = NULL;
	struct gw_wire_frame f;
	json_t *prepare = NULL;

	config.features = le32toh(hello->features) & GW_WIRE_FEATURES;
	if (gw_peer_welcome(fd, hello, w) < 0 || gw_peer_recv(fd, &f, &body, w, &err) < 0) {
		close(fd);
		return;
	}
	if (f.type == GW_WIRE_PREPARE || f.type == GW_WIRE_PREFLIGHT)
		prepare = json_loadb(body, f.length, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(prepare)) {
		gw_error_set(&err, EPROTO, "%s message where a well-formed PREPARE was due", gw_wire_frame_name(f.type));
		gw_peer_send_failed(fd, &err, w);
		close(fd);
	} else if (f.type == GW_WIRE_PREFLIGHT) {
		answer_preflight(h, fd, prepare, w);
		close(fd);
	} else if (gw_in_new(&config, fd, &in, &err) == 0) {
		run_registered(h, in, prepare);
		gw_in_free(in);
	}
	json_decref(prepare);
}

/* After a restart. */

static void *resumed_thread(void *arg)
{
	struct in_run run = *(struct in_run *)arg;

	free(arg);
	run_registered(run.host, run.in, NULL);
	gw_in_free(run.in);
	return NULL;
}

int gw_host_resume_incoming(struct gw_host *h, struct gw_host_vm *v, enum gw_target_event ev, struct gw_error *err)
{
	struct gw_in_config config = in_config(h, &v->record.migration);
	struct in_run *run = calloc(1, sizeof(*run));
	int r;

	if (!run)
		return gw_error_set(err, ENOMEM, "out of memory");
	r = gw_in_new_restarted(&config, v->name, v->vm, v->journal, &v->record, ev, &run->in, err);
	if (r < 0) {
		free(run);
		return r;
	}
	run->host = h;
	if (ev == GW_TARGET_EV_RESTARTED_OWING || ev == GW_TARGET_EV_RESTARTED_RUNNING_OWING) {
		char path[256];

		gw_host_states_path(h, v, path, sizeof(path));
		r = gw_in_restore_postcopy(run->in, path, err);
		if (r < 0) {
			gw_in_free(run->in);
			free(run);
			return gw_error_prefix(err, "memory is still owed to VM %s, which waits for it", v->name);
		}
	}
	{
		GW_LOCKED(&h->lock);
		v->busy = ev == GW_TARGET_EV_RESTARTED_RUNNING_OWING ? GW_BUSY_FETCHING : GW_BUSY_INCOMING;
		v->in = run->in;
	}
	r = gw_host_thread(h, resumed_thread, run);
	return r < 0 ? gw_error_set_errno(err, r, "cannot start a thread") : 0;
}

/* An operator decides. */

int gw_host_vm_resolve(struct gw_host *h, const char *name, const char *fenced, json_t **ret, struct gw_error *err)
{
	struct gw_host_in *e = NULL;
	struct gw_wire_id id;
	bool arriving;
	struct gw_host_vm *v;
	int r;

	{
		GW_LOCKED(&h->lock);
		v = gw_host_find_vm(h, name);
		if (!v)
			return gw_error_set(err, ENOENT, "there is no VM named '%s' on this host", name);
		arriving = v->in != NULL;
		if (arriving)
			id = *gw_in_id(v->in);
	}
	if (arriving)
		e = gw_host_acquire_in(h, &id);
	if (!e)
		return gw_error_set(err, EBUSY, "VM '%s' is not arriving here: there is nothing to decide", name);
	r = gw_in_resolve(e->in, fenced, err);
	gw_host_release_in(h, e);
	return r < 0 ? r : gw_host_vm_show(h, name, ret, err);
}
