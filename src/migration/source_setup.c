/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Setting up the source's side: connections, PREPARE, the layout; and short talks with a target's daemon. */
#include <endian.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "memory/huge.h"
#include "migration/source_internal.h"
#include "transport/peer.h"
#include "transport/tcp.h"

#define CONNECT_NS (5 * GW_NS_PER_S)

static int connect_and_greet(const char *address, const struct gw_wire_hello *hello, const struct gw_wait *w,
                             int *ret_fd, uint32_t *ret_features, struct gw_error *err)
{
	gw_autofd int fd = -1;
	int r = gw_tcp_connect(address, GW_WIRE_PORT, w, &fd, err);

	if (r == 0)
		r = gw_peer_hello(fd, hello, ret_features, w, err);
	if (r < 0)
		return r;
	*ret_fd = gw_steal_fd(&fd);
	return 0;
}

int gw_out_map_ram(struct gw_out *o, struct gw_error *err)
{
	struct gw_vm *vm = o->config.vm;
	unsigned n = 0;
	int r = vm->ops->ram(vm, o->regions, &n, err);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < n; i++) {
		const struct gw_ram_region *reg = &o->regions[i];

		r = gw_ram_map(&o->ram[i], reg->path, reg->size_bytes, reg->page_size_bytes, false, err);
		if (r < 0)
			return r;
		o->n_regions = i + 1;
		if (gw_bitmap_init(&o->pending[i], o->ram[i].n_pages) < 0 ||
		    gw_bitmap_init(&o->sending[i], o->ram[i].n_pages) < 0 || gw_out_init_looks(o, i) < 0)
			return gw_error_set(err, ENOMEM, "out of memory");
		r = gw_ram_find_data(&o->ram[i], &o->pending[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

static json_t *regions_json(const struct gw_out *o)
{
	json_t *a = json_array();

	for (unsigned i = 0; i < o->n_regions; i++)
		json_array_append_new(a, json_pack("{s:s, s:I, s:I}", "name", o->regions[i].name, "size_bytes",
		                                   (json_int_t)o->regions[i].size_bytes, "page_size_bytes",
		                                   (json_int_t)o->regions[i].page_size_bytes));
	return a;
}

static bool wants_postcopy(const struct gw_out *o)
{
	return o->config.convergence.mode != GW_MODE_PRECOPY && (o->features & GW_WIRE_FEATURE_POSTCOPY);
}

static int send_prepare(struct gw_out *o, struct gw_error *err)
{
	json_t *j = json_deep_copy(o->config.prepare);
	char id[GW_WIRE_ID_TEXT];
	int r;

	gw_wire_id_format(&o->config.id, id);
	json_object_set_new(j, "migration", json_string(id));
	json_object_set_new(j, "epoch", json_integer((json_int_t)o->config.epoch));
	json_object_set_new(j, "source", json_string(o->config.self_name));
	json_object_set_new(j, "source_port", json_integer(o->config.self_port));
	json_object_set_new(j, "channels", json_integer(o->config.channels));
	json_object_set_new(j, "regions", regions_json(o));
	json_object_set_new(j, "postcopy", json_boolean(wants_postcopy(o)));
	json_object_set_new(j, "all_owed", json_boolean(o->config.convergence.mode == GW_MODE_POSTCOPY));
	r = gw_peer_send_json(o->control_fd, GW_WIRE_PREPARE, j, &o->wait, err);
	json_decref(j);
	return r;
}

/* Where RAM holds data, as extents; when there are too many, gaps below 2 MiB are taken along. */
static size_t find_extents(const struct gw_out *o, struct gw_wire_extent *e, size_t max, size_t min_gap)
{
	size_t n = 0;

	for (unsigned i = 0; i < o->n_regions; i++) {
		size_t at = 0, first, len;

		while (gw_bitmap_next_run(&o->pending[i], at, o->ram[i].n_pages, 1u << 30, &first, &len)) {
			struct gw_wire_extent *last = n ? &e[n - 1] : NULL;

			at = first + len;
			if (last && last->region == i && first - (last->first_page + last->n_pages) < min_gap)
				last->n_pages = (uint32_t)(at - last->first_page);
			else if (n == max)
				return SIZE_MAX;
			else
				e[n++] = (struct gw_wire_extent){ .region = i, .n_pages = (uint32_t)len, .first_page = first };
		}
	}
	return n;
}

static int send_layout(struct gw_out *o, struct gw_error *err)
{
	gw_autofree struct gw_wire_extent *e = calloc(GW_WIRE_EXTENTS_MAX, sizeof(*e));
	size_t n = SIZE_MAX;

	if (!e)
		return gw_error_set(err, ENOMEM, "out of memory");
	for (size_t gap = 1; n == SIZE_MAX; gap *= 64)
		n = find_extents(o, e, GW_WIRE_EXTENTS_MAX, gap);
	for (size_t i = 0; i < n; i++)
		e[i] = (struct gw_wire_extent){ .region = htole32(e[i].region),
			                        .n_pages = htole32(e[i].n_pages),
			                        .first_page = htole64(e[i].first_page) };
	return gw_peer_send(o->control_fd, GW_WIRE_LAYOUT, e, n * sizeof(*e), &o->wait, err);
}

int gw_out_connect(struct gw_out *o, enum gw_wire_role role, int *ret_fd, uint32_t *ret_features, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = o->cancel_fd, .idle_ns = CONNECT_NS };
	struct gw_wire_hello hello;

	gw_wire_hello_init(&hello, role, &o->config.id);
	return connect_and_greet(o->config.target_address, &hello, &w, ret_fd, ret_features, err);
}

int gw_out_open_channels(struct gw_out *o, unsigned n, struct gw_error *err)
{
	struct gw_wire_hello hello;

	o->channel_fds = calloc(n, sizeof(*o->channel_fds));
	if (!o->channel_fds)
		return gw_error_set(err, ENOMEM, "out of memory");
	o->n_channel_fds = n;
	for (unsigned i = 0; i < n; i++)
		o->channel_fds[i] = -1;
	gw_wire_hello_init(&hello, GW_WIRE_ROLE_DATA, &o->config.id);
	memcpy(hello.token, o->token, sizeof(hello.token));
	for (unsigned i = 0; i < n; i++) {
		int r;

		hello.channel = htole16((uint16_t)i);
		r = connect_and_greet(o->config.target_address, &hello, &o->wait, &o->channel_fds[i], NULL, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int await_prepared(struct gw_out *o, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = o->cancel_fd, .idle_ns = o->config.prepare_timeout_ns };
	struct gw_wire_id token;
	json_t *reply = NULL;
	const char *text;
	bool postcopy;
	int r = gw_peer_expect_json(o->control_fd, GW_WIRE_PREPARED, &reply, &w, err);

	if (r == -ETIMEDOUT)
		return gw_error_set(err, r, "the target did not get the VM ready within the prepare time-out");
	if (r < 0)
		return r;
	text = json_string_value(json_object_get(reply, "token"));
	r = text ? gw_wire_id_parse(text, &token) : -EINVAL;
	postcopy = json_is_true(json_object_get(reply, "postcopy"));
	json_decref(reply);
	if (r < 0)
		return gw_error_set(err, EPROTO, "PREPARED message from the other host is malformed");
	memcpy(o->token, token.bytes, sizeof(o->token));
	o->config.convergence.postcopy_possible = postcopy && wants_postcopy(o);
	return 0;
}

int gw_out_prepare(struct gw_out *o, struct gw_error *err)
{
	gw_time_ns t0 = gw_now_ns(), t1, t2;
	int r = gw_out_map_ram(o, err);

	if (r < 0)
		return r;
	r = gw_out_connect(o, GW_WIRE_ROLE_CONTROL, &o->control_fd, &o->features, err);
	if (r < 0)
		return r;
	t1 = gw_now_ns();
	gw_out_phase(o, setup, "connect", t1 - t0);
	r = gw_fault("source-connected");
	if (r == 0)
		r = send_prepare(o, err);
	if (r == 0)
		r = send_layout(o, err);
	(void)gw_fault("source-prepare-sent");
	if (r == 0) /* beside the target's work */
		r = gw_out_start_tracing(o, err);
	if (r == 0)
		r = await_prepared(o, err);
	if (r < 0) /* the target's own words, where it had some */
		return r;
	t2 = gw_now_ns();
	gw_out_phase(o, setup, "target creates the VM (tracing armed meanwhile)", t2 - t1);
	(void)gw_fault("source-prepared");
	r = gw_out_open_channels(o, o->config.channels + (o->config.convergence.postcopy_possible ? 1 : 0), err);
	gw_out_phase(o, setup, "data channels", gw_now_ns() - t2);
	return r;
}

/* A guest that stays gets back the huge mappings that tracing has split; once tracing has ended, and not waited for. */
static void end_tracing(struct gw_out *o)
{
	struct gw_bitmap huge[GW_RAM_REGIONS_MAX];

	for (unsigned i = 0; o->trace && i < o->n_regions; i++)
		huge[i] = gw_trace_take_huge(o->trace, i);
	for (unsigned i = 0; o->trace && i < o->n_regions; i++) {
		if (i == 0)
			gw_trace_free(o->trace);
		if (o->given_away || !huge[i].words || !gw_bitmap_count(&huge[i]))
			gw_bitmap_done(&huge[i]);
		else
			(void)gw_huge_restore(o->config.vm->ops->pid(o->config.vm), o->ram[i].fd, o->regions[i].hva, &huge[i]);
	}
	o->trace = NULL;
	if (o->hold_fd >= 0)
		close(gw_steal_fd(&o->hold_fd));
}

void gw_out_close_links(struct gw_out *o)
{
	struct gw_push *push;

	gw_out_unthrottle(o);
	{
		GW_LOCKED(&o->lock);
		push = gw_steal(&o->push);
		if (push) {
			struct gw_push_stats s;

			gw_push_stats(push, &s);
			o->progress.transferred_bytes += s.wire_bytes;
			o->report.wire_bytes += s.wire_bytes;
			o->report.postcopy.wire_bytes += s.wire_bytes;
			o->report.postcopy.demanded_bytes += s.demanded_pages << GW_PAGE_SHIFT;
		}
		if (o->sender_live) {
			struct gw_sender_stats s;

			gw_sender_progress(o->sender, &s);
			o->progress.transferred_bytes += s.wire_bytes;
			o->report.wire_bytes += s.wire_bytes;
			gw_out_fill_stats(&o->report.sent, &s);
			o->report.compression = gw_compress_method_name(gw_sender_compression(o->sender, o->report.compression_why));
			if (!(o->features & GW_WIRE_FEATURE_PACKED))
				snprintf(o->report.compression_why, sizeof(o->report.compression_why),
				         "the other host's version cannot unpack");
			o->sender_live = false;
		}
	}
	gw_push_free(push);
	gw_sender_free(gw_steal(&o->sender));
	for (unsigned i = 0; o->channel_fds && i < o->n_channel_fds; i++)
		if (o->channel_fds[i] >= 0)
			close(o->channel_fds[i]);
	free(gw_steal(&o->channel_fds));
	end_tracing(o);
}

void gw_out_close_pipeline(struct gw_out *o)
{
	gw_out_close_links(o);
	for (unsigned i = 0; i < o->n_regions; i++) {
		gw_ram_unmap(&o->ram[i]);
		gw_bitmap_done(&o->pending[i]);
		gw_bitmap_done(&o->sending[i]);
		gw_out_done_looks(o, i);
	}
	o->n_regions = 0;
}

/* What a frame on a TELL connection means to the source. */
static enum gw_source_event told(uint32_t type, const char *body)
{
	switch (type) {
	case GW_WIRE_RUNNING:
		return ((const struct gw_wire_running *)body)->owed_pages ? GW_SOURCE_EV_RUNNING_OWED : GW_SOURCE_EV_RUNNING;
	case GW_WIRE_READY:
		return ((const struct gw_wire_ready *)body)->owed_pages ? GW_SOURCE_EV_READY_OWING : GW_SOURCE_EV_READY;
	default:
		return GW_SOURCE_EV_TARGET_LOST;
	}
}

int gw_out_tell(struct gw_out *o, uint32_t value, enum gw_source_event *ret, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = 5 * GW_NS_PER_S };
	struct gw_wire_answer a = { .answer = htole32(value), .epoch = htole64(o->config.epoch + 1) };
	struct gw_wire_hello hello;
	struct gw_wire_frame f;
	gw_autofree char *body = NULL;
	gw_autofd int fd = -1;
	int r;

	gw_wire_hello_init(&hello, GW_WIRE_ROLE_TELL, &o->config.id);
	r = connect_and_greet(o->config.target_address, &hello, &w, &fd, NULL, err);
	if (r == 0)
		r = gw_peer_send(fd, GW_WIRE_ANSWER, &a, sizeof(a), &w, err);
	if (r == 0)
		r = gw_peer_recv(fd, &f, &body, &w, err);
	if (r == 0)
		*ret = told(f.type, body);
	return r;
}

int gw_out_preflight(const char *target_address, const json_t *prepare, gw_time_ns timeout, json_t **ret,
                     struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = timeout };
	struct gw_wire_hello hello;
	gw_autofd int fd = -1;
	json_t *verdict = NULL, *reasons;
	int r;

	gw_wire_hello_init(&hello, GW_WIRE_ROLE_CONTROL, NULL);
	r = connect_and_greet(target_address, &hello, &w, &fd, NULL, err);
	if (r == 0)
		r = gw_peer_send_json(fd, GW_WIRE_PREFLIGHT, prepare, &w, err);
	if (r == 0)
		r = gw_peer_expect_json(fd, GW_WIRE_VERDICT, &verdict, &w, err);
	if (r < 0)
		return r;
	reasons = json_object_get(verdict, "reasons");
	if (json_is_array(reasons))
		*ret = json_incref(reasons);
	else
		r = gw_error_set(err, EPROTO, "VERDICT message from the other host is malformed");
	json_decref(verdict);
	return r;
}
