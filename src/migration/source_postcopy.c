/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Post-copy at the source (N6, N7, N8): the list of owed pages, serving them, and making a lost link again.
 *
 * From the stop on nobody writes RAM here. What is owed is told to the target before the device state; its demands are
 * served from then on; the background push begins with COMMIT, as what comes before needs the CPUs. After COMMIT the
 * image here is kept until the target says COMPLETE: a lost link is made again, and the target then names what it lacks,
 * so that nothing depends on what this side remembers (a restarted daemon serves just as well).
 */
#include <endian.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/units.h"
#include "migration/source_internal.h"
#include "transport/peer.h"

#define LAST_WORD_NS (300 * GW_NS_PER_MS)

static struct gw_wire_ram wire_ram(const struct gw_out *o)
{
	struct gw_wire_ram ram = { .n_regions = o->n_regions, .channels = o->config.channels, .postcopy = true };

	for (unsigned i = 0; i < o->n_regions; i++)
		ram.region_pages[i] = o->ram[i].n_pages;
	return ram;
}

/* Of a large page nothing can be used before all of it is there. */
static void whole_pages(struct gw_out *o)
{
	for (unsigned i = 0; i < o->n_regions; i++) {
		uint64_t unit = o->ram[i].page_size_bytes >> GW_PAGE_SHIFT;
		size_t at = 0, first, n;

		while (unit > 1 && gw_bitmap_next_run(&o->pending[i], at, o->ram[i].n_pages, SIZE_MAX, &first, &n)) {
			at = gw_round_up(first + n, unit);
			gw_bitmap_set_range(&o->pending[i], first / unit * unit, at - first / unit * unit);
		}
	}
}

static int send_bitmap(struct gw_out *o, uint32_t region, uint64_t first, uint32_t n, struct gw_error *err)
{
	size_t bytes = (n + 7) / 8, len = sizeof(struct gw_wire_owed) + bytes;
	gw_autofree struct gw_wire_owed *frame = NULL;
	size_t run, n_run;

	if (!gw_bitmap_next_run(&o->pending[region], first, first + n, n, &run, &n_run))
		return 0;
	frame = malloc(len);
	if (!frame)
		return gw_error_set(err, ENOMEM, "out of memory");
	*frame = (struct gw_wire_owed){ htole32(region), htole32(n), htole64(first) };
	memcpy(frame + 1, &o->pending[region].words[first / 64], bytes); /* x86-64: words are bytes in this order */
	return gw_peer_send(o->control_fd, GW_WIRE_OWED, frame, len, &o->wait, err);
}

int gw_out_send_owed(struct gw_out *o, struct gw_error *err)
{
	uint64_t pages = 0;
	int r = 0;

	whole_pages(o);
	for (uint32_t i = 0; i < o->n_regions; i++) {
		uint64_t n_pages = o->ram[i].n_pages;

		pages += gw_bitmap_count(&o->pending[i]);
		for (uint64_t at = 0; at < n_pages && r == 0; at += GW_WIRE_OWED_PAGES_MAX)
			r = send_bitmap(o, i, at, (uint32_t)GW_MIN(n_pages - at, GW_WIRE_OWED_PAGES_MAX), err);
	}
	o->owed_pages = pages;
	GW_LOCKED(&o->lock);
	o->report.postcopy.owed_bytes = pages << GW_PAGE_SHIFT;
	return r;
}

static unsigned stripe_heat(void *arg, uint32_t region, uint64_t first_page)
{
	struct gw_out *o = arg;

	return gw_heat_stripe(&o->heat[region], first_page / GW_HEAT_STRIPE_PAGES);
}

static_assert(GW_HEAT_STRIPE_PAGES == GW_WIRE_STRIPE_PAGES, "the push goes by the heat of its stripes");

int gw_out_begin_push(struct gw_out *o, struct gw_error *err)
{
	struct gw_wire_ram ram = wire_ram(o);
	struct gw_push_config config = {
		.channel_fds = o->channel_fds, .n_channels = o->config.channels, .ram = o->ram, .wire_ram = &ram,
		.owed = o->pending, .heat = stripe_heat, .heat_arg = o, .bandwidth_Bps = o->config.bandwidth_Bps,
		.shared = o->config.shared, .weight = o->config.weight, .idle_ns = o->config.idle_timeout_ns,
		.notify_fd = o->cancel_fd,
	};
	struct gw_push *push;
	int r = gw_push_new(&config, &push, err);

	if (r < 0)
		return r;
	GW_LOCKED(&o->lock);
	o->push = push;
	o->push_began = gw_now_ns();
	return 0;
}

/* A new link. */

static void lose_link(struct gw_out *o)
{
	gw_out_close_links(o);
	if (o->control_fd >= 0)
		close(gw_steal_fd(&o->control_fd));
}

static int receive_owed(struct gw_out *o, uint64_t owed, struct gw_error *err)
{
	struct gw_wire_ram ram = wire_ram(o);
	uint64_t named = 0;

	for (unsigned i = 0; i < o->n_regions; i++)
		gw_bitmap_clear_range(&o->pending[i], 0, o->ram[i].n_pages);
	while (named < owed) {
		gw_autofree char *body = NULL;
		struct gw_wire_owed *head;
		struct gw_wire_frame f;
		int r = gw_peer_expect(o->control_fd, GW_WIRE_OWED, &f, &body, &o->wait_decided, err);

		head = (struct gw_wire_owed *)body;
		if (r == 0)
			r = gw_wire_owed_check(head, f.length, &ram, err);
		if (r < 0)
			return r;
		for (uint32_t i = 0; i < head->n_pages; i++)
			if (((uint8_t *)(head + 1))[i / 8] >> i % 8 & 1) {
				gw_bitmap_set_range(&o->pending[head->region], head->first_page + i, 1);
				named++;
			}
	}
	return 0;
}

static int parse_recover(struct gw_out *o, const json_t *reply, uint64_t *ret_owed, struct gw_error *err)
{
	const char *token = json_string_value(json_object_get(reply, "token"));
	json_int_t channels = json_integer_value(json_object_get(reply, "channels"));
	json_int_t owed = json_integer_value(json_object_get(reply, "owed_pages"));
	struct gw_wire_id id;

	if (!token || gw_wire_id_parse(token, &id) < 0 || channels < 1 || channels > GW_WIRE_CHANNELS_MAX || owed < 0)
		return gw_error_set(err, EPROTO, "RECOVER message from the other host is malformed");
	memcpy(o->token, id.bytes, sizeof(o->token));
	o->config.channels = (unsigned)channels;
	*ret_owed = (uint64_t)owed;
	return 0;
}

/* Afterwards o->control_fd is the new connection, and what the target lacks is being pushed. -ENOENT when the target
 * knows nothing of this VM. -ENODATA when the image here cannot be read. */
static int recover(struct gw_out *o, struct gw_error *err)
{
	json_t *reply = NULL;
	uint64_t owed = 0;
	int r = 0;

	lose_link(o);
	if (o->n_regions == 0 && (!o->config.vm || gw_out_map_ram(o, NULL) < 0))
		return gw_error_set(err, ENODATA, "the guest's memory on this host is gone");
	r = gw_out_connect(o, GW_WIRE_ROLE_RECOVER, &o->control_fd, NULL, err);
	if (r == 0)
		r = gw_peer_expect_json(o->control_fd, GW_WIRE_RECOVER, &reply, &o->wait_decided, err);
	if (r == 0)
		r = parse_recover(o, reply, &owed, err);
	json_decref(reply);
	if (r == 0)
		r = receive_owed(o, owed, err);
	if (r == 0 && owed) { /* else only its COMPLETE was lost, and comes next */
		r = gw_out_open_channels(o, o->config.channels + 1, err);
		if (r == 0)
			r = gw_out_begin_push(o, err);
	}
	if (r < 0) {
		lose_link(o);
		return r;
	}
	gw_log_info(o->config.vm_name, "a new link to %s, which lacks %lu MiB", o->config.target_name,
	            (unsigned long)(owed >> 8));
	GW_LOCKED(&o->lock);
	o->report.postcopy.links_made_again++;
	if (!o->report.postcopy.owed_bytes) /* a restarted daemon does not know how it began */
		o->report.postcopy.owed_bytes = owed << GW_PAGE_SHIFT;
	return 0;
}

/* Serving. */

static void note_complete(struct gw_out *o, const char *body)
{
	struct gw_wire_complete c;
	struct gw_push_stats push = { 0 };

	memcpy(&c, body, sizeof(c));
	if (o->push)
		gw_push_stats(o->push, &push);
	GW_LOCKED(&o->lock);
	o->report.postcopy.demanded = le64toh(c.demanded);
	o->report.postcopy.fault_p50_ns = (gw_time_ns)le64toh(c.fault_p50_ns);
	o->report.postcopy.fault_p99_ns = (gw_time_ns)le64toh(c.fault_p99_ns);
	o->report.postcopy.fault_max_ns = (gw_time_ns)le64toh(c.fault_max_ns);
	o->report.postcopy.duration_ns = gw_now_ns() - o->target_ran;
}

/* A frame from the target while it is being served. 1: go on. */
static int served_frame(struct gw_out *o, const struct gw_wire_frame *f, const char *body, enum gw_source_event *ret,
                        struct gw_error *err)
{
	if (f->type == GW_WIRE_FAILED)
		return gw_peer_failure(f, body, err);
	if (f->type != GW_WIRE_COMPLETE)
		return 1;
	note_complete(o, body);
	*ret = GW_SOURCE_EV_COMPLETE;
	return 0;
}

/* A channel has ended. The target closes them right after it has said COMPLETE, which then is here, or almost. */
static int channel_ended(struct gw_out *o, enum gw_source_event *ret, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = LAST_WORD_NS };
	gw_autofree char *body = NULL;
	struct gw_wire_frame f;

	if (gw_peer_recv(o->control_fd, &f, &body, &w, NULL) == 0 && served_frame(o, &f, body, ret, err) == 0)
		return 0;
	return gw_push_error(o->push, err);
}

/* One wait on the control connection. 1: go on. */
static int serve_once(struct gw_out *o, enum gw_source_event *ret, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = o->cancel_fd, .idle_ns = GW_TIME_NEVER };
	gw_autofree char *body = NULL;
	struct gw_wire_frame f;
	int r = gw_peer_recv(o->control_fd, &f, &body, &w, err);

	if (r == 0)
		return served_frame(o, &f, body, ret, err);
	if (r != -ECANCELED)
		return r;
	if (o->push && gw_push_error(o->push, NULL) < 0)
		return channel_ended(o, ret, err);
	*ret = gw_out_take_posted(o);
	if (*ret != GW_OUT_NO_EVENT)
		return 0;
	return gw_out_stopping(o) ? 0 : 1;
}

int gw_out_recover(struct gw_out *o, struct gw_error *err)
{
	int r = recover(o, err);

	if (r == 0 && o->push)
		gw_push_background(o->push);
	return r;
}

int gw_out_serve(struct gw_out *o, enum gw_source_event *ret, struct gw_error *err)
{
	int r = 1;

	*ret = GW_OUT_NO_EVENT;
	if (o->control_fd < 0) {
		r = gw_out_recover(o, err);
		if (r < 0)
			return r;
		r = 1;
	}
	while (r > 0)
		r = serve_once(o, ret, err);
	if (r < 0)
		lose_link(o);
	return r;
}
