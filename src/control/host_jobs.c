/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Jobs: the table, their JSON, waiting for changes, and the store that outlives the daemon. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "control/host_internal.h"

#define JOBS_KEPT 200
#define TICK_NS (200 * GW_NS_PER_MS) /* progress of a running pass is looked at so often */
#define SILENT_NS (500 * GW_NS_PER_MS) /* a VMM that says nothing for so long is named as the reason */
#define CANCEL_NS (800 * GW_NS_PER_MS) /* a cancel is answered by then */

/* What people are told of the machine's states. */
static const struct {
	const char *state, *vm_is;
} words[GW_SOURCE_STATE_COUNT] = {
	[GW_SOURCE_IDLE] = { "preparing", "here" },     [GW_SOURCE_BEGIN] = { "preparing", "here" },
	[GW_SOURCE_PREPARE] = { "preparing", "here" },  [GW_SOURCE_COPY] = { "copying", "here" },
	[GW_SOURCE_STOP] = { "switching", "here" },     [GW_SOURCE_SENT] = { "switching", "here" },
	[GW_SOURCE_COMMIT] = { "switching", "unknown" }, [GW_SOURCE_COMMITTED] = { "committed", "there" },
	[GW_SOURCE_SERVING] = { "committed", "there" }, [GW_SOURCE_DONE] = { "done", "there" },
	[GW_SOURCE_ABORT] = { "undoing", "here" },
	[GW_SOURCE_ABORTED] = { "failed", "here" },     [GW_SOURCE_UNKNOWN] = { "unknown", "unknown" },
};

void gw_job_id(const struct gw_wire_id *migration, char ret[GW_JOB_ID_MAX])
{
	snprintf(ret, GW_JOB_ID_MAX, "m-%02x%02x%02x%02x%02x", migration->bytes[0], migration->bytes[1],
	         migration->bytes[2], migration->bytes[3], migration->bytes[4]);
}

struct gw_job *gw_host_find_job(struct gw_host *h, const char *id)
{
	for (struct gw_job *j = h->jobs; j; j = j->next)
		if (!strcmp(j->id, id))
			return j;
	return NULL;
}

static void free_job(struct gw_job *j)
{
	json_decref(j->request);
	json_decref(j->final);
	free(j);
}

static void job_path(const struct gw_host *h, const char *id, char *path, size_t len)
{
	snprintf(path, len, "%s/jobs/%s.json", h->config->state_dir, id);
}

/* The oldest final jobs beyond JOBS_KEPT go. */
static void trim(struct gw_host *h)
{
	unsigned n = 0;

	for (struct gw_job **p = &h->jobs; *p;) {
		struct gw_job *j = *p;
		char path[600];

		if (++n <= JOBS_KEPT || !j->final) {
			p = &j->next;
			continue;
		}
		*p = j->next;
		job_path(h, j->id, path, sizeof(path));
		unlink(path);
		free_job(j);
	}
}

struct gw_job *gw_host_add_job(struct gw_host *h, const char *id, const char *vm, const char *peer,
                               const json_t *request)
{
	struct gw_job *j = gw_host_find_job(h, id);
	bool known = j != NULL;

	if (!j)
		j = calloc(1, sizeof(*j));
	if (!j)
		return NULL;
	snprintf(j->id, sizeof(j->id), "%s", id);
	snprintf(j->vm_name, sizeof(j->vm_name), "%s", vm);
	snprintf(j->peer, sizeof(j->peer), "%s", peer);
	if (!known) {
		j->request = request ? json_deep_copy(request) : json_object();
		j->created = gw_wallclock_s();
		j->next = h->jobs;
		h->jobs = j;
		trim(h);
	}
	json_decref(j->final); /* one that is taken up again */
	j->final = NULL;
	j->seq++;
	return j;
}

void gw_host_job_changed(struct gw_host *h, struct gw_job *j)
{
	j->seq++;
	pthread_cond_broadcast(&h->changed);
}

/* Static text. */
static const char *step_text(struct gw_job *j)
{
	struct gw_vm *vm = j->vm ? j->vm->vm : NULL;

	if (vm && vm->ops->silence(vm) >= SILENT_NS)
		return "waits for the VM's QEMU, which does not answer";
	return gw_out_step_text(j->out);
}

static const char *state_word(struct gw_job *j, enum gw_source_state s)
{
	if (s == GW_SOURCE_ABORTED && j->cancelled)
		return "cancelled";
	return j->out && gw_out_undoing(j->out) ? words[GW_SOURCE_ABORT].state : words[s].state;
}

static void add_live(struct gw_job *j, json_t *o)
{
	struct gw_progress p = { .predicted_downtime_ns = GW_TIME_NEVER, .eta_ns = GW_TIME_NEVER };
	enum gw_source_state s = GW_SOURCE_ABORTED;

	if (j->out) {
		s = gw_out_state(j->out);
		gw_out_progress(j->out, &p);
		json_object_set_new(o, "step", json_string(step_text(j)));
	}
	json_object_set_new(o, "state", json_string(state_word(j, s)));
	json_object_set_new(o, "vm_is", json_string(j->vm_ended ? "nowhere" : words[s].vm_is));
	json_object_set_new(o, "progress", gw_progress_json(&p));
}

json_t *gw_host_job_json(struct gw_job *j)
{
	const char *reason = json_string_value(json_object_get(j->request, "reason"));
	const char *mode = json_string_value(json_object_get(j->request, "mode"));
	json_t *o;

	if (j->final)
		return json_incref(j->final);
	o = json_pack("{s:s, s:s, s:s, s:s, s:b, s:s, s:s, s:f, s:O, s:s, s:s}", "id", j->id, "kind", "migrate-out", "vm",
	              j->vm_name, "peer", j->peer, "final", 0, "step", "", "reason", reason ? reason : "", "created",
	              j->created, "request", j->request, "error", j->error, "mode", mode ? mode : gw_mode_name(GW_MODE_AUTO));
	json_object_set_new(o, "finished", j->finished > 0 ? json_real(j->finished) : json_null());
	add_live(j, o);
	return o;
}

void gw_host_job_store(struct gw_host *h, struct gw_job *j)
{
	json_t *o = gw_host_job_json(j);
	gw_autofree char *text = json_dumps(o, JSON_INDENT(1));
	char path[600];
	int r = text ? 0 : -ENOMEM;

	json_decref(o);
	job_path(h, j->id, path, sizeof(path));
	if (r == 0)
		r = gw_write_file_durable(path, text, strlen(text), 0600);
	if (r < 0)
		gw_log_warning(j->id, "cannot store the job: %s", strerror(-r));
}

void gw_host_job_end(struct gw_host *h, struct gw_job *j)
{
	struct gw_report report;
	json_t *o;

	j->finished = gw_wallclock_s();
	o = gw_host_job_json(j);
	json_object_set_new(o, "final", json_true());
	if (j->timed_out)
		json_object_set_new(o, "timed_out", json_true());
	if (j->out) {
		gw_out_report(j->out, &report);
		json_object_set_new(o, "report", gw_report_json(&report));
	}
	j->final = o;
	gw_host_job_store(h, j);
	gw_host_job_changed(h, j);
}

/* API. */

static int no_such_job(const char *id, struct gw_error *err)
{
	return gw_error_set(err, ENOENT, "there is no job '%s' ('godwit jobs' shows those there are)", id);
}

int gw_host_job_list(struct gw_host *h, json_t **ret, struct gw_error *err)
{
	json_t *a = json_array();

	GW_LOCKED(&h->lock);
	for (struct gw_job *j = h->jobs; j; j = j->next)
		json_array_insert_new(a, 0, gw_host_job_json(j));
	*ret = a;
	return 0;
}

int gw_host_job_show(struct gw_host *h, const char *id, json_t **ret, struct gw_error *err)
{
	struct gw_job *j;

	GW_LOCKED(&h->lock);
	j = gw_host_find_job(h, id);
	if (!j)
		return no_such_job(id, err);
	*ret = gw_host_job_json(j);
	return 0;
}

/* Bytes that moved count as a change, and so does another step; the lock is held. */
static void tick(struct gw_job *j)
{
	struct gw_progress p;
	const char *step;

	if (!j->out || j->final)
		return;
	gw_out_progress(j->out, &p);
	step = step_text(j);
	if (p.transferred_bytes != j->shown_bytes || step != j->shown_step) {
		j->shown_bytes = p.transferred_bytes;
		j->shown_step = step;
		j->seq++;
	}
}

static void wait_changed(struct gw_host *h, gw_time_ns until)
{
	(void)gw_cond_wait(&h->changed, &h->lock, GW_MIN(until, gw_deadline_in(TICK_NS)));
}

int gw_host_job_wait(struct gw_host *h, const char *id, uint64_t *seq, gw_time_ns timeout, json_t **ret,
                     struct gw_error *err)
{
	gw_time_ns deadline = gw_deadline_in(timeout);
	struct gw_job *j;

	GW_LOCKED(&h->lock);
	for (;;) {
		j = gw_host_find_job(h, id);
		if (!j)
			return no_such_job(id, err);
		tick(j);
		if (*seq == 0 || j->seq != *seq || gw_now_ns() >= deadline || atomic_load(&h->stopping))
			break;
		wait_changed(h, deadline);
	}
	*seq = j->seq;
	*ret = gw_host_job_json(j);
	return 0;
}

int gw_host_job_cancel(struct gw_host *h, const char *id, struct gw_error *err)
{
	gw_time_ns deadline = gw_deadline_in(CANCEL_NS);
	const char *state;
	struct gw_job *j;

	GW_LOCKED(&h->lock);
	j = gw_host_find_job(h, id);
	if (!j)
		return no_such_job(id, err);
	if (j->final || !j->out || gw_out_cancel(j->out) < 0)
		return gw_error_set(err, EALREADY, "job %s is decided already and cannot be cancelled", id);
	j->cancelled = true;
	while ((j = gw_host_find_job(h, id)) && !j->final && gw_now_ns() < deadline)
		wait_changed(h, deadline);
	state = j && j->final ? json_string_value(json_object_get(j->final, "state")) : "";
	if (!strcmp(state, "done"))
		return gw_error_set(err, EALREADY, "job %s was decided just before; the VM runs at the target", id);
	return 0;
}

void gw_host_tick(struct gw_host *h)
{
	gw_time_ns now = gw_now_ns();

	GW_LOCKED(&h->lock);
	for (struct gw_job *j = h->jobs; j; j = j->next)
		if (!j->final && j->out && now > j->deadline && !j->timed_out && gw_out_cancel(j->out) == 0)
			j->timed_out = true;
}

/* The store. */

static void load_one(struct gw_host *h, const char *path)
{
	json_t *o = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
	const char *id = json_string_value(json_object_get(o, "id"));
	struct gw_job *j = id && strlen(id) < GW_JOB_ID_MAX ? calloc(1, sizeof(*j)) : NULL;

	if (!j) {
		json_decref(o);
		return;
	}
	snprintf(j->id, sizeof(j->id), "%s", id);
	snprintf(j->vm_name, sizeof(j->vm_name), "%s", json_string_value(json_object_get(o, "vm")) ?: "");
	snprintf(j->peer, sizeof(j->peer), "%s", json_string_value(json_object_get(o, "peer")) ?: "");
	j->created = json_number_value(json_object_get(o, "created"));
	j->request = json_object_get(o, "request") ? json_incref(json_object_get(o, "request")) : json_object();
	if (!json_is_true(json_object_get(o, "final"))) {
		/* Not taken up again by the journal: it never got as far as a record. */
		json_object_set_new(o, "final", json_true());
		json_object_set_new(o, "state", json_string("failed"));
		json_object_set_new(o, "vm_is", json_string("here"));
		json_object_set_new(o, "error", json_string("godwitd was restarted during the migration"));
	}
	j->final = o;
	j->seq = 1;
	for (struct gw_job **p = &h->jobs;; p = &(*p)->next) { /* newest first */
		if (!*p || (*p)->created <= j->created) {
			j->next = *p;
			*p = j;
			return;
		}
	}
}

void gw_host_load_jobs(struct gw_host *h)
{
	char dir[600], path[900];
	gw_autodir DIR *d = NULL;
	struct dirent *e;

	snprintf(dir, sizeof(dir), "%s/jobs", h->config->state_dir);
	d = opendir(dir);
	while (d && (e = readdir(d))) {
		size_t n = strlen(e->d_name);

		if (n < 6 || strcmp(e->d_name + n - 5, ".json"))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		load_one(h, path);
	}
	trim(h);
}

void gw_host_free_jobs(struct gw_host *h)
{
	while (h->jobs) {
		struct gw_job *j = h->jobs;

		h->jobs = j->next;
		free_job(j);
	}
}
