/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A host without QEMU: VMs and jobs in memory, for tests of the API and the command line. */
#include "fake_host.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

#define JOBS_MAX 64

struct fake {
	char id[32], to[64];
	json_t *request; /* NULL: was resumed */
	bool verify, cancelled;
	unsigned steps, touches;
	uint64_t seq;
};

struct gw_host {
	gw_time_ns step_ns;
	const char *console;
	pthread_t player;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* a job changed, or stopping */
	/* protected by lock */
	bool stopping, db1_gone;
	struct fake jobs[JOBS_MAX];
	unsigned n_jobs, n_waiters;
};

static json_t *job_json(const struct fake *j)
{
	json_t *job = fake_job(j->id, j->to, j->steps, j->verify), *progress;

	assert(job);
	if (j->request)
		json_object_set(job, "request", j->request);
	if (j->cancelled && !strcmp(j->to, "stuck")) {
		json_object_set_new(job, "state", json_string("undoing"));
		json_object_set_new(job, "step", json_string("waits for the VM's QEMU, which does not answer"));
	} else if (j->cancelled) {
		json_object_set_new(job, "state", json_string("cancelled"));
		json_object_set_new(job, "final", json_true());
		json_object_set_new(job, "finished", json_real(1763672657.5));
	}
	progress = json_object_get(job, "progress");
	json_object_set_new(
		progress, "transferred_bytes",
		json_integer(json_integer_value(json_object_get(progress, "transferred_bytes")) +
	                     j->touches));
	return job;
}

static bool is_final(const struct fake *j)
{
	json_t *job = job_json(j);
	bool final = json_is_true(json_object_get(job, "final"));

	json_decref(job);
	return final;
}

static void wait_ns(struct gw_host *h, gw_time_ns ns)
{
	(void)gw_cond_wait(&h->changed, &h->lock, gw_deadline_in(ns));
}

static void *player_main(void *arg)
{
	struct gw_host *h = arg;
	gw_time_ns next = gw_deadline_in(h->step_ns);
	unsigned i;
	GW_LOCKED(&h->lock);

	while (!h->stopping) {
		gw_time_ns now = gw_now_ns();

		if (now < next) {
			wait_ns(h, next - now);
			continue;
		}
		next = now + h->step_ns;
		for (i = 0; i < h->n_jobs; i++) {
			if (is_final(&h->jobs[i]))
				continue;
			h->jobs[i].steps++;
			h->jobs[i].seq++;
		}
		pthread_cond_broadcast(&h->changed);
	}
	return NULL;
}

struct gw_host *fake_host_new(gw_time_ns step_ns, const char *console)
{
	struct gw_host *h = calloc(1, sizeof(*h));

	assert(h);
	h->step_ns = step_ns;
	h->console = console;
	pthread_mutex_init(&h->lock, NULL);
	gw_cond_init(&h->changed);
	assert(pthread_create(&h->player, NULL, player_main, h) == 0);
	return h;
}

void fake_host_free(struct gw_host *h)
{
	pthread_mutex_lock(&h->lock);
	h->stopping = true;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
	pthread_join(h->player, NULL);
	while (h->n_jobs > 0)
		json_decref(h->jobs[--h->n_jobs].request);
	pthread_cond_destroy(&h->changed);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

static struct fake *add_job(struct gw_host *h, const char *id, const char *to, bool verify)
{
	struct fake *j = &h->jobs[h->n_jobs];

	assert(h->n_jobs < JOBS_MAX);
	*j = (struct fake){ .seq = 1, .verify = verify };
	h->n_jobs++;
	if (id)
		snprintf(j->id, sizeof(j->id), "%s", id);
	else
		snprintf(j->id, sizeof(j->id), "m-%u", h->n_jobs);
	snprintf(j->to, sizeof(j->to), "%s", to);
	return j;
}

void fake_host_resume(struct gw_host *h, const char *id, const char *to)
{
	GW_LOCKED(&h->lock);

	add_job(h, id, to, false);
}

static struct fake *find_job(struct gw_host *h, const char *id)
{
	unsigned i;

	for (i = 0; i < h->n_jobs; i++)
		if (!strcmp(h->jobs[i].id, id))
			return &h->jobs[i];
	return NULL;
}

void fake_host_touch(struct gw_host *h, const char *id)
{
	GW_LOCKED(&h->lock);
	struct fake *j = find_job(h, id);

	j->touches++;
	j->seq++;
	pthread_cond_broadcast(&h->changed);
}

unsigned fake_host_waiters(struct gw_host *h)
{
	GW_LOCKED(&h->lock);

	return h->n_waiters;
}

int gw_host_info(struct gw_host *h, json_t **ret, struct gw_error *err)
{
	*ret = json_pack("{s:s, s:s, s:s, s:b, s:s, s:I, s:I, s:{s:s, s:s}, s:i, s:i}", "name", "alpha",
	                 "version", GW_VERSION, "qemu_version", "7.2.22", "kvm", 0, "listen",
	                 "127.0.0.1:7700", "memory_bytes", (json_int_t)16 << 30, "memory_available_bytes",
	                 (json_int_t)9 << 30, "hosts", "beta", "127.0.0.2:7700", "slow", "127.0.0.3:7700",
	                 "vms", 2, "jobs_active", 0);
	assert(*ret);
	return 0;
}

static json_t *make_vm(struct gw_host *h, const char *name)
{
	const char *job = NULL;
	unsigned i;
	json_t *vm;

	for (i = 0; i < h->n_jobs && !strcmp(name, "web1"); i++)
		if (!is_final(&h->jobs[i]))
			job = h->jobs[i].id;
	vm = json_pack(
		"{s:s, s:s, s:s, s:I, s:i, s:s, s:s, s:s, s:i, s:i, s:s?, s:s, s:s, s:{s:s}, s:f, s:s}",
		"name", name, "uuid", "6f1d1c1e-0000-4000-8000-000000000001", "state",
		job ? "migrating" : "running", "memory_bytes", (json_int_t)4 << 30, "cpus", 2, "accel",
		"tcg", "machine", "pc-q35-7.2", "backing", "thp", "pid", 4711, "epoch", 3, "job", job,
		"run_dir", "/run/godwit/vm/web1", "console", h->console ? h->console : "", "channels",
		"beat", "/run/godwit/vm/web1/channel-beat.sock", "started", 1763672000.5, "note", "");
	assert(vm);
	if (!strcmp(name, "db1")) /* as if it had just come by post-copy */
		json_object_set_new(vm, "owed_bytes", json_integer(96 << 20));
	return vm;
}

int gw_host_vm_start(struct gw_host *h, const char *definition, json_t **ret, struct gw_error *err)
{
	GW_LOCKED(&h->lock);

	if (!strstr(definition, "name"))
		return gw_error_set(err, EINVAL, "line 1: the VM has no name");
	*ret = make_vm(h, "new1");
	return 0;
}

int gw_host_vm_list(struct gw_host *h, json_t **ret, struct gw_error *err)
{
	GW_LOCKED(&h->lock);

	*ret = json_pack("[o]", make_vm(h, "web1"));
	if (!h->db1_gone)
		json_array_append_new(*ret, make_vm(h, "db1"));
	return 0;
}

static int check_vm(struct gw_host *h, const char *name, struct gw_error *err)
{
	if (!strcmp(name, "web1") || (!strcmp(name, "db1") && !h->db1_gone))
		return 0;
	return gw_error_set(err, ENOENT, "there is no VM called '%s' on this host", name);
}

int gw_host_vm_show(struct gw_host *h, const char *name, json_t **ret, struct gw_error *err)
{
	GW_LOCKED(&h->lock);
	int r = check_vm(h, name, err);

	if (r == 0)
		*ret = make_vm(h, name);
	return r;
}

int gw_host_vm_stop(struct gw_host *h, const char *name, bool force, gw_time_ns timeout,
                    struct gw_error *err)
{
	GW_LOCKED(&h->lock);
	int r = check_vm(h, name, err);
	unsigned i;

	if (r < 0)
		return r;
	for (i = 0; i < h->n_jobs && !strcmp(name, "web1"); i++)
		if (!is_final(&h->jobs[i]))
			return gw_error_set(err, EBUSY, "%s is being migrated by %s", name, h->jobs[i].id);
	if (!force && timeout < GW_NS_PER_S)
		return gw_error_set(err, ETIMEDOUT, "%s did not power off in time", name);
	h->db1_gone = h->db1_gone || !strcmp(name, "db1");
	return 0;
}

int gw_host_vm_resolve(struct gw_host *h, const char *name, const char *fenced, json_t **ret, struct gw_error *err)
{
	GW_LOCKED(&h->lock);
	int r = check_vm(h, name, err);

	if (r == 0 && strcmp(fenced, "b") != 0)
		r = gw_error_set(err, EINVAL, "VM %s came from host b, which alone decides, and not from %s", name, fenced);
	if (r == 0)
		*ret = make_vm(h, name);
	return r;
}

int gw_host_migrate(struct gw_host *h, const char *vm, const json_t *request, json_t **ret,
                    struct gw_error *err)
{
	GW_LOCKED(&h->lock);
	const char *to = json_string_value(json_object_get(request, "to"));
	int r = check_vm(h, vm, err);
	struct fake *job;
	json_t *known;

	if (r < 0)
		return r;
	known = fake_job("m-0", to, 0, false);
	json_decref(known);
	if (json_is_true(json_object_get(request, "dry_run"))) {
		*ret = json_pack("{s:b, s:[], s:{s:I, s:I, s:I}}", "possible", known != NULL, "reasons",
		                 "prediction", "ram_used_bytes", (json_int_t)2 << 30, "bandwidth_Bps",
		                 (json_int_t)800000000, "total_ns", 3 * GW_NS_PER_S);
		if (!known)
			json_array_append_new(json_object_get(*ret, "reasons"),
			                      json_sprintf("no host is called %s", to));
		return 0;
	}
	if (!known)
		return gw_error_set(err, ENOENT, "no host is called '%s'", to);
	job = add_job(h, NULL, to, json_is_true(json_object_get(request, "verify")));
	job->request = json_deep_copy(request);
	*ret = job_json(job);
	pthread_cond_broadcast(&h->changed);
	return 0;
}

int gw_host_job_list(struct gw_host *h, json_t **ret, struct gw_error *err)
{
	GW_LOCKED(&h->lock);
	unsigned i;

	*ret = json_array();
	for (i = 0; i < h->n_jobs; i++)
		json_array_append_new(*ret, job_json(&h->jobs[i]));
	return 0;
}

int gw_host_job_show(struct gw_host *h, const char *id, json_t **ret, struct gw_error *err)
{
	GW_LOCKED(&h->lock);
	struct fake *j = find_job(h, id);

	if (!j)
		return gw_error_set(err, ENOENT, "there is no job '%s'", id);
	*ret = job_json(j);
	return 0;
}

int gw_host_job_cancel(struct gw_host *h, const char *id, struct gw_error *err)
{
	GW_LOCKED(&h->lock);
	struct fake *j = find_job(h, id);

	if (!j)
		return gw_error_set(err, ENOENT, "there is no job '%s'", id);
	if (is_final(j) || !strcmp(j->to, "late"))
		return gw_error_set(err, EALREADY, "%s is already decided", id);
	j->cancelled = true;
	j->seq++;
	pthread_cond_broadcast(&h->changed);
	return 0;
}

int gw_host_job_wait(struct gw_host *h, const char *id, uint64_t *seq, gw_time_ns timeout, json_t **ret,
                     struct gw_error *err)
{
	gw_time_ns until = gw_deadline_in(timeout);
	GW_LOCKED(&h->lock);
	struct fake *j = find_job(h, id);

	if (!j)
		return gw_error_set(err, ENOENT, "there is no job '%s'", id);
	h->n_waiters++;
	while (j->seq == *seq && !h->stopping && gw_now_ns() < until)
		wait_ns(h, until - gw_now_ns());
	h->n_waiters--;
	*seq = j->seq;
	*ret = job_json(j);
	return 0;
}
