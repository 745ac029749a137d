/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connections from other hosts: incoming migrations and their data channels, and questions about decisions. */
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

#define CONNECTIONS_MAX 256
#define GREETING_NS (5 * GW_NS_PER_S)
#define START_TIMEOUT_NS (30 * GW_NS_PER_S)

struct connection {
	struct gw_host *host;
	int fd;
};

struct in_run {
	struct gw_host *host;
	struct gw_in *in;
};

/* The registry of incoming migrations. */

static struct gw_host_in *acquire_in(struct gw_host *h, const struct gw_wire_id *id)
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

static void release_in(struct gw_host *h, struct gw_host_in *e)
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

/* Roles. */

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

static void serve_control(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w)
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

static void serve_data(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w)
{
	struct gw_host_in *e = acquire_in(h, &hello->migration);
	struct gw_error err = GW_ERROR_INIT;
	gw_autofd int answer_fd = dup(fd); /* the channel owns fd from add_channel on */

	if (!e) {
		close(fd);
		gw_error_set(&err, ENOENT, "no migration here awaits this data channel");
		gw_peer_refuse(answer_fd, &err, w);
		return;
	}
	if (gw_in_add_channel(e->in, hello, fd, &err) < 0)
		gw_peer_refuse(answer_fd, &err, w);
	else if (gw_peer_welcome(answer_fd, hello, w) == 0)
		gw_in_welcomed(e->in, hello);
	release_in(h, e);
}

static enum gw_answer answer_for(struct gw_host *h, const struct gw_wire_id *id, struct gw_job **ret_job,
                                 uint64_t *ret_epoch)
{
	*ret_job = NULL;
	for (struct gw_job *j = h->jobs; j; j = j->next) {
		if (j->out && !memcmp(gw_out_id(j->out), id, sizeof(*id))) {
			*ret_job = j;
			*ret_epoch = j->vm ? j->vm->record.epoch + 1 : 0;
			return gw_out_answer(j->out);
		}
	}
	/* Not known (any more): a COMMIT is never forgotten before the target's own record is durable. Unless a record could
	 * not be read: then nobody guesses. */
	return h->incomplete ? GW_ANSWER_WAIT : gw_source_answer(NULL);
}

static void serve_ask(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w)
{
	static const uint32_t values[] = {
		[GW_ANSWER_WAIT] = GW_WIRE_ANSWER_WAIT,
		[GW_ANSWER_COMMIT] = GW_WIRE_ANSWER_COMMIT,
		[GW_ANSWER_ABORT] = GW_WIRE_ANSWER_ABORT,
	};
	struct gw_wait patient = { .cancel_fd = -1, .idle_ns = 20 * GW_NS_PER_S };
	struct gw_wire_answer body = { 0 };
	gw_autofree char *reply = NULL;
	struct gw_wire_frame f;
	enum gw_answer answer;
	struct gw_job *job;
	uint64_t epoch = 0;

	{
		GW_LOCKED(&h->lock);
		answer = answer_for(h, &hello->migration, &job, &epoch);
		if (job && hello->channel)
			gw_out_post(job->out, GW_SOURCE_EV_READY);
	}
	body.answer = htole32(values[answer]);
	body.epoch = htole64(epoch);
	if (gw_peer_welcome(fd, hello, w) == 0 &&
	    gw_peer_send(fd, GW_WIRE_ANSWER, &body, sizeof(body), w, NULL) == 0 && answer == GW_ANSWER_COMMIT &&
	    gw_peer_recv(fd, &f, &reply, &patient, NULL) == 0 && f.type == GW_WIRE_RUNNING) {
		GW_LOCKED(&h->lock);
		(void)answer_for(h, &hello->migration, &job, &epoch);
		if (job)
			gw_out_post(job->out, ((struct gw_wire_running *)reply)->owed_pages ? GW_SOURCE_EV_RUNNING_OWED :
			                                                                      GW_SOURCE_EV_RUNNING);
	}
	close(fd);
}

enum ownership { OWNS_NOTHING, OWNS_WHOLE, OWNS_OWED };

/* Of a VM whose migration is over here, or could not be taken up again. */
static enum ownership owns(struct gw_host *h, const struct gw_wire_id *id)
{
	GW_LOCKED(&h->lock);
	for (struct gw_host_vm *v = h->vms; v; v = v->next) {
		if (memcmp(&v->record.migration, id, sizeof(*id)))
			continue;
		if (v->owed_unserved)
			return OWNS_OWED;
		if (v->record.state == GW_RECORD_RUNNING)
			return OWNS_WHOLE;
	}
	return OWNS_NOTHING;
}

static void reply_told(struct gw_host *h, int fd, uint32_t type, uint64_t owed_pages, const struct gw_wait *w)
{
	struct gw_wire_running running = { .owed_pages = htole64(owed_pages) };
	struct gw_wire_ready ready = { .owed_pages = htole64(owed_pages) };
	struct gw_error err;

	switch (type) {
	case GW_WIRE_RUNNING:
		(void)gw_peer_send(fd, type, &running, sizeof(running), w, NULL);
		break;
	case GW_WIRE_READY:
		(void)gw_peer_send(fd, type, &ready, sizeof(ready), w, NULL);
		break;
	case GW_WIRE_FAILED:
		gw_error_set(&err, ENOENT, "host %s holds no whole copy of this migration", h->config->name);
		gw_peer_send_failed(fd, &err, w);
		break;
	}
}

/* 0: no answer, which is asked for again. */
static const uint32_t of_ownership[] = {
	[OWNS_NOTHING] = GW_WIRE_FAILED,
	[OWNS_WHOLE] = GW_WIRE_RUNNING,
	[OWNS_OWED] = 0,
};

static void serve_tell(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w)
{
	struct gw_host_in *e;
	struct gw_wire_answer told;
	struct gw_wire_frame f;
	gw_autofree char *body = NULL;
	uint64_t owed_pages = 0;
	uint32_t type = 0;

	if (gw_peer_welcome(fd, hello, w) == 0 && gw_peer_expect(fd, GW_WIRE_ANSWER, &f, &body, w, NULL) == 0) {
		memcpy(&told, body, sizeof(told));
		e = acquire_in(h, &hello->migration);
		if (e) {
			type = gw_in_tell(e->in, le32toh(told.answer), 4 * GW_NS_PER_S, &owed_pages);
			release_in(h, e);
		} else {
			type = of_ownership[owns(h, &hello->migration)];
		}
		reply_told(h, fd, type, owed_pages, w);
	}
	close(fd);
}

/* The migration of which nothing is owed any more: the source may have missed that. */
static void reply_complete(int fd, const struct gw_wait *w)
{
	struct gw_wire_complete complete = { 0 };
	json_t *j = json_pack("{s:s, s:i, s:i}", "token", "00000000000000000000000000000000", "channels", 1, "owed_pages", 0);

	if (gw_peer_send_json(fd, GW_WIRE_RECOVER, j, w, NULL) == 0)
		(void)gw_peer_send(fd, GW_WIRE_COMPLETE, &complete, sizeof(complete), w, NULL);
	json_decref(j);
}

static void serve_recover(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w)
{
	struct gw_host_in *e = acquire_in(h, &hello->migration);
	struct gw_error err;

	if (gw_peer_welcome(fd, hello, w) < 0) {
		close(fd);
	} else if (e && gw_in_recover(e->in, fd)) {
		; /* taken */
	} else if (!e && owns(h, &hello->migration) == OWNS_WHOLE) {
		reply_complete(fd, w);
		close(fd);
	} else if (!e && owns(h, &hello->migration) == OWNS_OWED) {
		close(fd);
	} else {
		gw_error_set(&err, ENOENT, "host %s knows of no memory that this migration owes", h->config->name);
		gw_peer_send_failed(fd, &err, w);
		close(fd);
	}
	if (e)
		release_in(h, e);
}

/* Each takes the fd. */
static void (*const roles[])(struct gw_host *h, int fd, const struct gw_wire_hello *hello, const struct gw_wait *w) = {
	[GW_WIRE_ROLE_CONTROL] = serve_control,
	[GW_WIRE_ROLE_DATA] = serve_data,
	[GW_WIRE_ROLE_ASK] = serve_ask,
	[GW_WIRE_ROLE_TELL] = serve_tell,
	[GW_WIRE_ROLE_RECOVER] = serve_recover,
};

static void *serve_connection(void *arg)
{
	struct connection c = *(struct connection *)arg;
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = GREETING_NS };
	struct gw_error err = GW_ERROR_INIT;
	struct gw_wire_hello hello;

	free(arg);
	if (gw_peer_read_hello(c.fd, &hello, &w, &err) < 0) {
		gw_log_debug(NULL, "a connection was refused: %s", gw_error_text(&err));
		close(c.fd);
	} else {
		roles[hello.role](c.host, c.fd, &hello, &w);
	}
	atomic_fetch_sub(&c.host->connections, 1);
	return NULL;
}

void gw_host_connection(struct gw_host *h, int fd)
{
	struct connection *c = malloc(sizeof(*c));

	if (!c || atomic_load(&h->connections) >= CONNECTIONS_MAX || atomic_load(&h->stopping)) {
		free(c);
		close(fd);
		return;
	}
	*c = (struct connection){ h, fd };
	atomic_fetch_add(&h->connections, 1);
	if (gw_host_thread(h, serve_connection, c) < 0) {
		atomic_fetch_sub(&h->connections, 1);
		free(c);
		close(fd);
	}
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
