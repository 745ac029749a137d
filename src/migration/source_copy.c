/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pre-copy (N3, N4): pass after pass over the pages written meanwhile, until the policy says switch. */
#include <poll.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/units.h"
#include "memory/huge.h"
#include "migration/source_internal.h"
#include "transport/peer.h"

#define WINDOW_SHARE 8                   /* the look before the end of a pass leaves so little of it */
#define LOOK_MIN_NS (50 * GW_NS_PER_MS) /* ... and does not come sooner than this */

static int open_uffd(void *arg, int *ret_fd, struct gw_error *err)
{
	struct gw_vm *vm = arg;

	return vm->ops->userfaultfd(vm, ret_fd, err);
}

/* A VMM that was started by an older release lacks the means; then only the balloon's guest is at risk, and it may
 * have none. */
static int hold_discards(struct gw_out *o, struct gw_error *err)
{
	struct gw_error why = GW_ERROR_INIT;
	struct gw_vm *vm = o->config.vm;
	int r = vm->ops->hold_discards(vm, &o->hold_fd, &why);

	if (r == -EOPNOTSUPP)
		gw_log_warning(o->config.vm_name, "%s", why.text);
	else if (r < 0)
		return gw_error_set(err, r, "%s", why.text);
	return 0;
}

int gw_out_start_tracing(struct gw_out *o, struct gw_error *err)
{
	struct gw_trace_range ranges[GW_RAM_REGIONS_MAX];
	uint64_t huge, all_huge = 0;
	int r = hold_discards(o, err);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < o->n_regions; i++)
		if (gw_huge_mapped(o->config.vm->ops->pid(o->config.vm), o->regions[i].hva,
		                   gw_round_up(o->regions[i].size_bytes, o->regions[i].page_size_bytes), &huge) == 0)
			all_huge += huge;
	for (unsigned i = 0; i < o->n_regions; i++)
		ranges[i] = (struct gw_trace_range){
			.hva = o->regions[i].hva,
			.size_bytes = gw_round_up(o->regions[i].size_bytes, o->regions[i].page_size_bytes),
			.page_size_bytes = o->regions[i].page_size_bytes,
		};
	r = gw_trace_new(o->config.vm->ops->pid(o->config.vm), open_uffd, o->config.vm, o->config.tracing, ranges,
	                 o->n_regions, &o->trace, err);
	if (r < 0)
		return r;
	GW_LOCKED(&o->lock);
	o->report.tracing = gw_trace_mode_name(o->trace);
	o->report.huge_before_bytes = all_huge;
	return 0;
}

/* Everything that was ever touched, looked for after tracing is armed: what appears later is traced. */
static int first_pages(struct gw_out *o, struct gw_error *err)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < o->n_regions; i++) {
		int r = gw_ram_find_data(&o->ram[i], &o->pending[i], err);

		if (r < 0)
			return r;
		pages += gw_bitmap_count(&o->pending[i]);
	}
	o->config.convergence.ram_used_bytes = pages << GW_PAGE_SHIFT;
	GW_LOCKED(&o->lock);
	o->report.ram_used_bytes = o->progress.ram_used_bytes = pages << GW_PAGE_SHIFT;
	return 0;
}

static int start_sender(struct gw_out *o, struct gw_error *err)
{
	struct gw_sender_config config = {
		.channel_fds = o->channel_fds,
		.n_channels = o->config.channels,
		.ram = o->ram,
		.n_regions = o->n_regions,
		.bandwidth_Bps = o->config.bandwidth_Bps,
		.shared = o->config.shared,
		.weight = o->config.weight,
		.compress = o->features & GW_WIRE_FEATURE_PACKED ? o->config.compress : GW_COMPRESS_NEVER,
		.delta_cache_bytes = o->config.delta_cache_bytes,
		.before_piece = gw_out_before_piece,
		.before_arg = o,
		.wait = o->wait,
	};

	return gw_sender_new(&config, &o->sender, err);
}

static void count_owed(const struct gw_out *o, struct gw_pass_stats *s)
{
	uint64_t all = 0, hot = 0;

	for (unsigned i = 0; i < o->n_regions; i++) {
		all += gw_bitmap_count(&o->pending[i]);
		hot += gw_bitmap_count_both(&o->pending[i], &o->heat[i].high);
	}
	s->left_bytes = all << GW_PAGE_SHIFT;
	s->hot_bytes = hot << GW_PAGE_SHIFT;
}

/* Returns how many pages are on their way; with `defer` hot ones stay in o->pending. */
static uint64_t begin_pass(struct gw_out *o, bool defer, bool guest_runs)
{
	uint64_t pages = 0;
	bool in_pieces;

	for (unsigned i = 0; i < o->n_regions; i++) {
		gw_bitmap_move(&o->sending[i], &o->pending[i], defer ? &o->heat[i].high : NULL);
		pages += gw_bitmap_count(&o->sending[i]);
	}
	{
		GW_LOCKED(&o->lock);
		o->sender_live = true;
		gw_sender_progress(o->sender, &o->pass_base);
		o->pass_began = gw_now_ns();
		o->progress.pass = ++o->pass;
		o->progress.pass_total_bytes = pages << GW_PAGE_SHIFT;
	}
	in_pieces = gw_out_looks_before_pieces(o, guest_runs ? pages : 0);
	gw_sender_begin(o->sender, o->pass, o->sending, in_pieces);
	return pages;
}

void gw_out_begin_pass(struct gw_out *o)
{
	(void)begin_pass(o, false, false);
}

int gw_out_finish_pass(struct gw_out *o, struct gw_sender_stats *ret, struct gw_error *err)
{
	int r = gw_sender_finish(o->sender, ret, err);

	for (unsigned i = 0; i < o->n_regions; i++)
		gw_bitmap_clear_range(&o->sending[i], 0, o->ram[i].n_pages);
	if (r < 0 && o->piece_failure.code)
		return gw_error_set(err, o->piece_failure.code, "%s", gw_error_text(&o->piece_failure));
	return r;
}

void gw_out_fill_stats(struct gw_pass_stats *s, const struct gw_sender_stats *sent)
{
	enum gw_compress_method most = GW_COMPRESS_OFF;

	s->pages = sent->pages;
	s->zero_pages = sent->zero_pages;
	s->wire_bytes = sent->wire_bytes;
	s->delta_pages = sent->delta_pages;
	s->packed_pages = 0;
	for (enum gw_compress_method m = GW_COMPRESS_LZ4; m < GW_COMPRESS_METHODS; m++) {
		s->packed_pages += sent->packed_pages[m];
		if (sent->packed_pages[m] > sent->packed_pages[most])
			most = m;
	}
	s->compression = most == GW_COMPRESS_OFF ? NULL : gw_compress_method_name(most);
}

static void note_pass(struct gw_out *o, const struct gw_pass_stats *s, const struct gw_decision *d)
{
	{
		GW_LOCKED(&o->lock);
		if (o->report.n_passes < GW_REPORT_PASSES_MAX) {
			o->report.passes[o->report.n_passes] = *s;
			o->report.decisions[o->report.n_passes] = *d;
		}
		o->report.n_passes++;
		memcpy(o->report.why, d->reason, sizeof(o->report.why));
		o->progress.dirty_rate_Bps = d->dirty_rate_Bps;
		o->progress.predicted_downtime_ns = d->predicted_downtime_ns;
		o->progress.eta_ns = d->eta_ns;
		o->progress.plan = d->plan;
		memcpy(o->progress.decision, d->reason, sizeof(o->progress.decision));
		if (s->duration_ns > 0)
			o->progress.rate_Bps = (uint64_t)((double)s->wire_bytes * 1e9 / (double)s->duration_ns);
	}
	gw_log_debug(o->config.vm_name, "pass %u: %lu pages, %lu bytes left: %s", s->pass, (unsigned long)s->pages,
	             (unsigned long)s->left_bytes, d->reason);
	if (o->config.changed)
		o->config.changed(o->config.changed_arg);
}

/* Where copying goes on for long; what is merged is sent once more, and is part of what is left. */
static int merge_cold(struct gw_out *o, struct gw_error *err)
{
	int r = 0;

	for (unsigned i = 0; i < o->n_regions && r == 0; i++)
		r = gw_trace_merge(o->trace, i, &o->pending[i], err);
	return r;
}

/* The first pass is long, and what was written in it at any time says little about how fast the guest writes. A look
 * shortly before its end makes a short window of the rest, and tells which pages are hot. Moves *began on. */
static int look_near_end(struct gw_out *o, uint64_t pages, gw_time_ns *began, struct gw_error *err)
{
	uint64_t ignored;
	gw_time_ns now;

	gw_sender_await(o->sender, pages - pages / WINDOW_SHARE);
	now = gw_now_ns();
	if (now - *began < LOOK_MIN_NS)
		return 0;
	*began = now;
	return gw_out_look(o, &ignored, err);
}

/* One pass; the window's figures belong to the part of it after the last look before its end. */
static int send_and_look(struct gw_out *o, bool defer, struct gw_pass_stats *s, struct gw_sender_stats *sent,
                         struct gw_error *err)
{
	gw_time_ns window_began = gw_now_ns(), t;
	uint64_t pages = begin_pass(o, defer, true);
	int r = o->pass == 1 ? look_near_end(o, pages, &window_began, err) : 0;
	int r2 = gw_out_finish_pass(o, sent, r < 0 ? NULL : err);

	if (r < 0 || r2 < 0)
		return r < 0 ? r : r2;
	t = gw_now_ns();
	(void)gw_fault("source-pass-end");
	r = merge_cold(o, err);
	if (r == 0)
		r = gw_out_look(o, &s->window_bytes, err);
	if (r < 0)
		return r;
	s->scan_ns = gw_now_ns() - t;
	s->window_ns = gw_now_ns() - window_began;
	count_owed(o, s);
	return 0;
}

static int one_pass(struct gw_out *o, struct gw_decision *ret, struct gw_error *err)
{
	struct gw_pass_stats s = { 0 };
	struct gw_sender_stats sent;
	gw_time_ns began = gw_now_ns();
	int r = gw_fault("source-pass-begin");

	if (r == 0)
		r = send_and_look(o, ret->plan == GW_PLAN_DEFER, &s, &sent, err);
	if (r < 0)
		return r;
	s.pass = o->pass;
	gw_out_fill_stats(&s, &sent);
	s.duration_ns = gw_now_ns() - began;
	gw_convergence_decide(&o->convergence, &s, ret);
	note_pass(o, &s, ret);
	return 0;
}

static void note_throttle(struct gw_out *o, unsigned percent)
{
	o->throttle_percent = percent;
	GW_LOCKED(&o->lock);
	o->progress.throttle_percent = percent;
}

void gw_out_unthrottle(struct gw_out *o)
{
	if (o->throttle_percent)
		(void)o->config.vm->ops->throttle(o->config.vm, 0, NULL);
	note_throttle(o, 0);
}

/* Slows the guest down. Where that cannot be done the policy is told so, and has to think of something else. */
static void throttle(struct gw_out *o, unsigned percent)
{
	struct gw_error why = GW_ERROR_INIT;

	if (percent == o->throttle_percent)
		return;
	if (o->config.vm->ops->throttle(o->config.vm, percent, &why) == 0) {
		note_throttle(o, percent);
		return;
	}
	gw_log_warning(o->config.vm_name, "%s", gw_error_text(&why));
	gw_convergence_no_throttle(&o->convergence);
	gw_out_unthrottle(o);
}

static int still_wanted(struct gw_out *o, struct gw_error *err)
{
	enum gw_vm_status status;
	int r = gw_wait_fd(o->control_fd, POLLIN, &(struct gw_wait){ .cancel_fd = o->cancel_fd, .idle_ns = 0 });

	if (r == -ECANCELED)
		return gw_error_set(err, r, "cancelled");
	if (r == 0) { /* the target says something before its turn: it can only be that it failed */
		struct gw_wire_frame f;
		gw_autofree char *body = NULL;

		return gw_peer_expect(o->control_fd, GW_WIRE_FRAME_TYPES, &f, &body, &o->wait, err);
	}
	r = o->config.vm->ops->status(o->config.vm, &status, err);
	if (r < 0)
		return r;
	if (status != GW_VM_RUNNING)
		return gw_error_set(err, ECANCELED, "the guest stopped running by itself (%s)", gw_vm_status_name(status));
	return 0;
}

static int check_mode(struct gw_out *o, struct gw_error *err)
{
	const struct gw_convergence_params *p = &o->config.convergence;

	if (p->postcopy_possible || (p->mode != GW_MODE_POSTCOPY && p->mode != GW_MODE_HYBRID))
		return 0;
	return gw_error_set(err, EOPNOTSUPP, "mode %s was asked for, but the two hosts cannot do post-copy together",
	                    gw_mode_name(p->mode));
}

/* The last word of the policy, and what became of the migration by it. */
static void note_outcome(struct gw_out *o, const struct gw_decision *d)
{
	o->postcopy = d->verdict == GW_VERDICT_POSTCOPY;
	GW_LOCKED(&o->lock);
	memcpy(o->report.why, d->reason, sizeof(o->report.why));
	o->report.mode = !o->postcopy ? GW_MODE_PRECOPY : o->pass == 0 ? GW_MODE_POSTCOPY : GW_MODE_HYBRID;
}

int gw_out_copy(struct gw_out *o, struct gw_error *err)
{
	struct gw_decision d = { .verdict = GW_VERDICT_PASS };
	uint64_t ignored;
	int r = check_mode(o, err);

	if (r == 0)
		r = gw_fault("source-tracing-armed");
	/* What was written while the target got ready: huge pages among it are split by this, so that the first pass
	 * already knows the busy regions page by page. All of it is sent in the first pass anyway. */
	if (r == 0)
		r = gw_out_look(o, &ignored, err);
	if (r == 0)
		r = first_pages(o, err);
	if (r == 0)
		r = start_sender(o, err);
	gw_convergence_init(&o->convergence, &o->config.convergence);
	gw_convergence_begin(&o->convergence, &d);
	while (r == 0 && d.verdict == GW_VERDICT_PASS) {
		r = still_wanted(o, err);
		if (r == 0) {
			throttle(o, d.throttle_percent);
			r = one_pass(o, &d, err);
		}
	}
	if (r < 0 || d.verdict == GW_VERDICT_GIVE_UP)
		gw_out_unthrottle(o); /* otherwise the pause does, so that the guest does not write much before it */
	if (r == 0 && d.verdict == GW_VERDICT_GIVE_UP)
		r = gw_error_set(err, EBUSY, "the guest writes memory faster than it can be copied, and was asked to stay: %s",
		                 d.reason);
	if (r == 0)
		note_outcome(o, &d);
	return r;
}
