/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Outgoing migrations: the request, the preflight, the job's thread. */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "base/units.h"
#include "control/host_internal.h"
#include "wire/codec.h"

#define CHANNELS_DEFAULT 2
#define BANDWIDTH_MIN_Bps (1u << 20)
#define DELTA_CACHE_PART 20 /* of the VM's memory at most */

struct job_run {
	struct gw_host *host;
	struct gw_job *job;
	struct gw_host_vm *vm;
	struct gw_out *out;
};

/* The request. */

static json_int_t integer(const json_t *request, const char *key, json_int_t preset)
{
	const json_t *v = json_object_get(request, key);

	return json_is_integer(v) ? json_integer_value(v) : preset;
}

static int parse_threshold(const char *text, struct gw_convergence_params *p, struct gw_error *err)
{
	double percent;
	char sign, rest;

	if (!text || !strcmp(text, "adaptive"))
		return 0;
	if (sscanf(text, "%lf%c%c", &percent, &sign, &rest) == 2 && sign == '%' && percent > 0 && percent <= 100) {
		p->threshold = GW_THRESHOLD_RELATIVE;
		p->threshold_fraction = percent / 100;
		return 0;
	}
	if (gw_parse_size(text, &p->threshold_bytes) == 0 && p->threshold_bytes > 0) {
		p->threshold = GW_THRESHOLD_ABSOLUTE;
		return 0;
	}
	return gw_error_set(err, EINVAL, "threshold: '%s' is none of adaptive, a size (8M) or a percentage of RAM (1%%)",
	                    text);
}

static int word_index(const char *key, const char *text, const char *const *words, size_t n, struct gw_error *err)
{
	if (!text)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (!strcmp(text, words[i]))
			return (int)i;
	return gw_error_set(err, EINVAL, "%s: '%s' is not known (write %s or %s)", key, text, words[0], words[1]);
}

/* Memory is compared before the commit, which with post-copy comes before the memory does. */
static int parse_verify(const json_t *request, struct gw_out_config *c, struct gw_error *err)
{
	enum gw_mode *mode = &c->convergence.mode;

	c->verify = json_is_true(json_object_get(request, "verify"));
	if (!c->verify)
		return 0;
	if (*mode == GW_MODE_POSTCOPY || *mode == GW_MODE_HYBRID)
		return gw_error_set(err, EINVAL, "verify: memory cannot be compared before the switch in mode %s, where it follows "
		                    "after it (use mode auto or pre-copy)", gw_mode_name(*mode));
	*mode = GW_MODE_PRECOPY;
	return 0;
}

static int parse_limits(const json_t *request, struct gw_out_config *c, struct gw_error *err)
{
	static const char *const stalls[] = { "throttle", "switch", "stay" };
	static const char *const tracings[] = { "auto", "async", "sync" };
	json_int_t downtime, bandwidth, channels, passes;
	static const char *const packings[] = { "auto", "off", "lz4", "zstd" }; /* as enum gw_compress_policy */
	const char *mode = json_string_value(json_object_get(request, "mode"));
	int stall, tracing, packing;

	gw_convergence_defaults(&c->convergence);
	downtime = integer(request, "max_downtime_ns", c->convergence.max_downtime_ns);
	bandwidth = integer(request, "bandwidth_Bps", 0);
	channels = integer(request, "channels", CHANNELS_DEFAULT);
	passes = integer(request, "max_passes", c->convergence.max_passes);
	stall = word_index("on_stall", json_string_value(json_object_get(request, "on_stall")), stalls, 3, err);
	tracing = word_index("tracing", json_string_value(json_object_get(request, "tracing")), tracings, 3, err);
	packing = word_index("compress", json_string_value(json_object_get(request, "compress")), packings, 4, err);
	if (stall < 0 || tracing < 0 || packing < 0)
		return -EINVAL;
	if (mode && gw_mode_parse(mode, &c->convergence.mode) < 0)
		return gw_error_set(err, EINVAL, "mode: '%s' is none of %s", mode, GW_MODE_WORDS);
	if (downtime <= 0 || downtime > 60 * GW_NS_PER_S)
		return gw_error_set(err, EINVAL, "max-downtime must be above 0 and at most 60s");
	if (bandwidth != 0 && bandwidth < BANDWIDTH_MIN_Bps)
		return gw_error_set(err, EINVAL, "bandwidth must be at least 1MiB/s (or 0 for no limit)");
	if (channels < 1 || channels > GW_WIRE_CHANNELS_MAX)
		return gw_error_set(err, EINVAL, "channels must be 1 to %u", GW_WIRE_CHANNELS_MAX);
	if (passes < 1 || passes > 100000)
		return gw_error_set(err, EINVAL, "max-passes must be 1 to 100000");
	c->convergence.max_downtime_ns = downtime;
	c->convergence.max_passes = (unsigned)passes;
	c->convergence.hybrid_passes = (unsigned)integer(request, "hybrid_passes", c->convergence.hybrid_passes);
	c->convergence.throttle_allowed = stall == 0;
	c->convergence.stall = stall == 2 ? GW_STALL_STAY : GW_STALL_SWITCH;
	c->bandwidth_Bps = (uint64_t)bandwidth;
	c->weight = (unsigned)integer(request, "weight", GW_WEIGHT_DEFAULT);
	c->channels = (unsigned)channels;
	c->tracing = (enum gw_trace_mode)tracing;
	c->compress = (enum gw_compress_policy)packing;
	if (parse_verify(request, c, err) < 0)
		return -EINVAL;
	return parse_threshold(json_string_value(json_object_get(request, "threshold")), &c->convergence, err);
}

static int prepare_json(struct gw_host_vm *v, json_t **ret, struct gw_error *err)
{
	gw_autofree char *text = NULL;
	json_t *facts = NULL;
	int r = gw_qemu_facts(v->vm, &facts, err);

	if (r < 0)
		return r;
	r = gw_vm_def_format(v->def, &text);
	if (r < 0) {
		json_decref(facts);
		return gw_error_set_errno(err, r, "cannot pass the definition on");
	}
	*ret = json_pack("{s:s, s:s, s:o}", "vm", v->name, "definition", text, "facts", facts);
	return *ret ? 0 : gw_error_set(err, ENOMEM, "out of memory");
}

/* The job's thread. */

static void on_changed(void *arg)
{
	struct job_run *run = arg;

	GW_LOCKED(&run->host->lock);
	gw_host_job_changed(run->host, run->job);
}

static void note_outcome(struct job_run *run, int r, const struct gw_error *err)
{
	struct gw_job *j = run->job;

	j->error[0] = 0;
	if (r == 0)
		return;
	if (err->code == -ETIME)
		j->timed_out = true;
	j->vm_ended = !run->vm->vm || gw_wait_fd(gw_qemu_pidfd(run->vm->vm), POLLIN,
	                                         &(struct gw_wait){ .cancel_fd = -1, .idle_ns = 0 }) == 0;
	if (j->timed_out)
		snprintf(j->error, sizeof(j->error), "not finished within its time-out");
	else if (!j->cancelled)
		snprintf(j->error, sizeof(j->error), "%s", gw_error_text(err));
}

static void log_outcome(const struct job_run *run, int r, enum gw_source_state state)
{
	if (r == 0)
		gw_log_info(run->vm->name, "job %s: runs on %s now", run->job->id, run->job->peer);
	else
		gw_log_warning(run->vm->name, "job %s: %s; %s", run->job->id,
		               run->job->cancelled ? "cancelled" : run->job->error,
		               state == GW_SOURCE_UNKNOWN ? "the VM is paused, nobody guesses" : "the VM stays here");
}

/* Makes the outcome known; the lock is held. */
static void publish(struct job_run *run, int r, const struct gw_error *err, enum gw_source_state state)
{
	note_outcome(run, r, err);
	log_outcome(run, r, state);
	json_decref(run->job->final); /* of an earlier UNKNOWN */
	run->job->final = NULL;
	gw_host_job_end(run->host, run->job);
}

/* The VM is no longer the migration's; the lock is held. */
static void let_go(struct job_run *run, enum gw_source_state state)
{
	struct gw_host_vm *v = run->vm;

	v->busy = GW_IDLE_VM;
	v->job[0] = 0;
	v->record = (struct gw_record){ .state = GW_RECORD_ABORTED, .epoch = v->record.epoch + 1 };
	if (state == GW_SOURCE_DONE) {
		run->job->vm = NULL;
		gw_host_drop_vm(run->host, v, true);
	} else if (v->ended && !v->note[0]) {
		snprintf(v->note, sizeof(v->note), "its process ended during migration %s; 'godwit stop %s' clears it away",
		         run->job->id, v->name);
	}
}

/* A process that was gone when this daemon started left its files. Freeing RAM takes long: without the lock. */
static void sweep_dead(struct job_run *run)
{
	struct gw_error err = GW_ERROR_INIT;

	if (!run->vm->vm && gw_qemu_sweep(&run->host->qemu, run->vm->def, &err) < 0)
		gw_log_error(run->vm->name, "removing what is left of it: %s", gw_error_text(&err));
}

static void *job_thread(void *arg)
{
	struct job_run *run = arg;
	struct gw_host *h = run->host;
	enum gw_source_state state;

	do {
		struct gw_error err = GW_ERROR_INIT;
		int r = gw_out_run(run->out, &err);
		bool ended;

		/* Not by the code: that may be the other host's. */
		state = gw_out_state(run->out);
		ended = state == GW_SOURCE_DONE || state == GW_SOURCE_ABORTED || state == GW_SOURCE_UNKNOWN;
		if (state == GW_SOURCE_DONE)
			sweep_dead(run);
		GW_LOCKED(&h->lock);
		if (ended)
			publish(run, r, &err, state);
		if (!ended || (state == GW_SOURCE_UNKNOWN && atomic_load(&h->stopping)))
			break; /* the journal tells the next start */
		if (state != GW_SOURCE_UNKNOWN)
			let_go(run, state);
	} while (state == GW_SOURCE_UNKNOWN && (gw_sleep_ns(GW_NS_PER_S), true));
	{
		GW_LOCKED(&h->lock);
		run->job->out = NULL;
		run->job->vm = NULL;
		gw_host_job_changed(h, run->job);
	}
	gw_out_free(run->out);
	free(run);
	return NULL;
}

/* Lock held; v->busy is OUTGOING. Makes job and thread for `out`'s config. */
static int launch(struct gw_host *h, struct gw_host_vm *v, struct gw_out_config *c, const json_t *request,
                  enum gw_source_event first, struct gw_job **ret, struct gw_error *err)
{
	struct job_run *run = calloc(1, sizeof(*run));
	json_int_t timeout = integer(request, "timeout_ns", 0);
	char id[GW_JOB_ID_MAX];
	int r;

	if (!run)
		return gw_error_set(err, ENOMEM, "out of memory");
	c->deadline = gw_deadline_in(timeout > 0 ? timeout : GW_TIME_NEVER);
	c->changed = on_changed;
	c->changed_arg = run;
	r = gw_out_new_restarted(c, first, &run->out, err);
	if (r < 0) {
		free(run);
		return r;
	}
	gw_job_id(&c->id, id);
	run->host = h;
	run->vm = v;
	run->job = gw_host_add_job(h, id, v->name, c->target_name, request);
	run->job->out = run->out;
	run->job->vm = v;
	run->job->deadline = c->deadline;
	snprintf(v->job, sizeof(v->job), "%s", id);
	*ret = run->job;
	pthread_mutex_unlock(&h->lock);
	gw_host_job_store(h, run->job); /* so that it can be found after a restart */
	r = gw_host_thread(h, job_thread, run);
	pthread_mutex_lock(&h->lock);
	if (r < 0) {
		run->job->out = NULL;
		snprintf(run->job->error, sizeof(run->job->error), "cannot start a thread");
		gw_host_job_end(h, run->job);
		gw_out_free(run->out);
		free(run);
		return gw_error_set_errno(err, r, "cannot start a thread");
	}
	return 0;
}

static void fill_config(struct gw_host *h, struct gw_host_vm *v, struct gw_out_config *c)
{
	c->vm_name = v->name;
	c->vm = v->vm;
	c->journal = v->journal;
	c->epoch = v->record.epoch;
	c->self_name = h->config->name;
	c->self_port = h->port;
	c->shared = &h->bandwidth;
	c->delta_cache_bytes = GW_MIN(h->config->delta_cache_bytes, v->def->memory_bytes / DELTA_CACHE_PART);
	c->prepare_timeout_ns = h->config->prepare_timeout_ns;
	c->switch_timeout_ns = h->config->switch_timeout_ns;
	c->idle_timeout_ns = h->config->idle_timeout_ns;
}

static int check_movable(struct gw_host_vm *v, struct gw_error *err)
{
	enum gw_vm_status status;
	struct gw_ram_region regions[GW_RAM_REGIONS_MAX];
	unsigned n;
	int r;

	if (!v->vm || v->ended)
		return gw_error_set(err, EBUSY, "VM '%s' has ended and cannot be moved", v->name);
	r = v->vm->ops->status(v->vm, &status, err);
	if (r < 0)
		return r;
	if (status != GW_VM_RUNNING)
		return gw_error_set(err, EBUSY, "VM '%s' is not running (%s)", v->name, gw_vm_status_name(status));
	return v->vm->ops->ram(v->vm, regions, &n, err);
}

/* Preflight. */

static uint64_t ram_in_use(struct gw_host_vm *v)
{
	struct gw_ram_region regions[GW_RAM_REGIONS_MAX];
	uint64_t bytes = 0;
	struct stat st;
	unsigned n = 0;

	if (!v->vm || v->vm->ops->ram(v->vm, regions, &n, NULL) < 0)
		return 0;
	for (unsigned i = 0; i < n; i++)
		if (stat(regions[i].path, &st) == 0)
			bytes += (uint64_t)st.st_blocks * 512;
	return bytes;
}

/* What the link to this peer carried the last time; 0 when it never did. Lock held. */
static uint64_t last_rate(struct gw_host *h, const char *peer)
{
	for (struct gw_job *j = h->jobs; j; j = j->next) {
		const json_t *report = json_object_get(j->final, "report");
		json_int_t rate = json_integer_value(
			json_object_get(json_array_get(json_object_get(report, "passes"), 0), "rate_Bps"));

		if (!strcmp(j->peer, peer) && rate > 0)
			return (uint64_t)rate;
	}
	return 0;
}

static json_t *prediction(struct gw_host *h, struct gw_host_vm *v, const char *peer, uint64_t cap)
{
	uint64_t used = ram_in_use(v), rate = last_rate(h, peer);

	if (cap && (!rate || cap < rate))
		rate = cap;
	return json_pack("{s:I, s:I, s:I}", "ram_used_bytes", (json_int_t)used, "bandwidth_Bps", (json_int_t)rate, "total_ns",
	                 rate ? (json_int_t)((double)used * 1e9 / (double)rate) : (json_int_t)0);
}

static int dry_run(struct gw_host *h, struct gw_host_vm *v, const char *to, const char *address,
                   const struct gw_out_config *c, json_t **ret)
{
	json_t *reasons = json_array(), *prepare = NULL, *theirs = NULL, *o;
	struct gw_error err = GW_ERROR_INIT;

	if (check_movable(v, &err) < 0)
		json_array_append_new(reasons, json_string(err.text));
	else if (prepare_json(v, &prepare, &err) < 0)
		json_array_append_new(reasons, json_string(err.text));
	if (prepare) {
		if (gw_out_preflight(address, prepare, 10 * GW_NS_PER_S, &theirs, &err) < 0)
			json_array_append_new(reasons, json_sprintf("host %s: %s", to, gw_error_text(&err)));
		else
			json_array_extend(reasons, theirs);
	}
	o = json_pack("{s:b, s:o}", "possible", json_array_size(reasons) == 0, "reasons", reasons);
	{
		GW_LOCKED(&h->lock);
		json_object_set_new(o, "prediction", prediction(h, v, to, c->bandwidth_Bps));
	}
	json_decref(prepare);
	json_decref(theirs);
	*ret = o;
	return 0;
}

/* API. */

static int find_idle(struct gw_host *h, const char *name, struct gw_host_vm **ret, struct gw_error *err)
{
	struct gw_host_vm *v = gw_host_find_vm(h, name);

	if (!v)
		return gw_error_set(err, ENOENT, "there is no VM named '%s' on this host ('godwit list' shows those there are)",
		                    name);
	if (v->busy == GW_BUSY_OUTGOING)
		return gw_error_set(err, EBUSY, "VM '%s' is being moved already (job %s)", name, v->job);
	if (v->busy == GW_BUSY_FETCHING)
		return gw_error_set(err, EBUSY, "memory of VM '%s' still follows from the host it came from; it can be moved when "
		                    "that is over", name);
	if (v->busy != GW_IDLE_VM)
		return gw_error_set(err, EBUSY, "VM '%s' is being started, stopped or received just now", name);
	*ret = v;
	return 0;
}

static int start_migration(struct gw_host *h, struct gw_host_vm *v, struct gw_out_config *c, const json_t *request,
                           json_t **ret, struct gw_error *err)
{
	json_t *prepare = NULL;
	struct gw_job *job;
	int r = check_movable(v, err);

	if (r == 0)
		r = prepare_json(v, &prepare, err);
	if (r == 0)
		r = gw_wire_id_random(&c->id);
	if (r < 0)
		return r;
	fill_config(h, v, c);
	c->prepare = prepare;
	{
		GW_LOCKED(&h->lock);
		r = launch(h, v, c, request, GW_SOURCE_EV_START, &job, err);
		if (r == 0)
			*ret = gw_host_job_json(job);
	}
	json_decref(prepare);
	return r;
}

int gw_host_migrate(struct gw_host *h, const char *name, const json_t *request, json_t **ret, struct gw_error *err)
{
	const char *to = json_string_value(json_object_get(request, "to"));
	struct gw_out_config c = { 0 };
	struct gw_host_vm *v = NULL;
	int r;

	if (!to || !*to)
		return gw_error_set(err, EINVAL, "say where to: \"to\" is missing");
	r = parse_limits(request, &c, err);
	if (r < 0)
		return r;
	{
		GW_LOCKED(&h->lock);
		r = find_idle(h, name, &v, err);
		if (r == 0 && !strcmp(to, h->config->name))
			r = gw_error_set(err, EINVAL, "VM '%s' is on host %s already", name, to);
		if (r == 0)
			r = gw_config_address(h->config, to, &c.target_address, err);
		if (r < 0)
			return r;
		v->busy = GW_BUSY_OUTGOING;
	}
	c.target_name = to;
	if (json_is_true(json_object_get(request, "dry_run")))
		r = dry_run(h, v, to, c.target_address, &c, ret);
	else
		r = start_migration(h, v, &c, request, ret, err);
	if (r < 0 || json_is_true(json_object_get(request, "dry_run"))) {
		GW_LOCKED(&h->lock);
		v->busy = GW_IDLE_VM;
		v->job[0] = 0;
	}
	return r;
}

int gw_host_resume_outgoing(struct gw_host *h, struct gw_host_vm *v, enum gw_source_event ev, struct gw_error *err)
{
	struct gw_out_config c = {
		.id = v->record.migration,
		.target_name = v->record.peer_name,
		.target_address = v->record.peer_address,
	};
	struct gw_job *job;

	fill_config(h, v, &c);
	if (v->record.state != GW_RECORD_MIGRATING && c.epoch > 0)
		c.epoch--; /* the record has E+1 already */
	GW_LOCKED(&h->lock);
	v->busy = GW_BUSY_OUTGOING;
	return launch(h, v, &c, NULL, ev, &job, err);
}
