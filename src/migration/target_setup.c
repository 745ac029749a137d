/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Setting up the target's side: RAM files populated ahead, the VM made and waiting, PREPARED. */
#include <endian.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "migration/target_internal.h"
#include "transport/peer.h"
#include "transport/tcp.h"

static int bad_prepare(const char *what, struct gw_error *err)
{
	return gw_error_set(err, EPROTO, "PREPARE message from the other host is malformed (%s)", what);
}

static int parse_regions(struct gw_in *in, struct gw_error *err)
{
	const json_t *regions = json_object_get(in->prepare, "regions");
	json_int_t channels = json_integer_value(json_object_get(in->prepare, "channels"));
	size_t n = json_array_size(regions);

	if (n == 0 || n > GW_RAM_REGIONS_MAX)
		return bad_prepare("regions", err);
	if (channels < 1 || channels > GW_WIRE_CHANNELS_MAX)
		return bad_prepare("channels", err);
	in->wire_ram = (struct gw_wire_ram){ .n_regions = (uint32_t)n, .channels = (uint32_t)channels,
	                                      .features = in->config.features };
	for (size_t i = 0; i < n; i++) {
		json_int_t size = json_integer_value(json_object_get(json_array_get(regions, i), "size_bytes"));
		json_int_t page = json_integer_value(json_object_get(json_array_get(regions, i), "page_size_bytes"));

		if (size <= 0 || (uint64_t)size > GW_WIRE_RAM_MAX_BYTES || size % GW_PAGE_BYTES ||
		    (page != GW_PAGE_BYTES && page != (2 << 20) && page != (1 << 30)))
			return bad_prepare("regions", err);
		in->wire_ram.region_pages[i] = (uint64_t)size >> GW_PAGE_SHIFT;
		in->ram[i].page_size_bytes = (uint64_t)page;
	}
	return 0;
}

static int parse_source(struct gw_in *in, struct gw_error *err)
{
	const char *source = json_string_value(json_object_get(in->prepare, "source"));
	const char *vm = json_string_value(json_object_get(in->prepare, "vm"));
	json_int_t port = json_integer_value(json_object_get(in->prepare, "source_port"));
	json_int_t epoch = json_integer_value(json_object_get(in->prepare, "epoch"));

	if (!source || strlen(source) >= sizeof(in->source_name) || !vm || strlen(vm) >= sizeof(in->vm_name) || !*vm)
		return bad_prepare("names", err);
	if (port <= 0 || port > 65535 || epoch < 0)
		return bad_prepare("source_port, epoch", err);
	snprintf(in->source_name, sizeof(in->source_name), "%s", source);
	snprintf(in->vm_name, sizeof(in->vm_name), "%s", vm);
	in->epoch = (uint64_t)epoch;
	gw_tcp_peer_name(in->control_fd, (uint16_t)port, in->source_address, sizeof(in->source_address));
	return 0;
}

static int receive_layout(struct gw_in *in, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = in->wake_fd, .idle_ns = in->config.idle_timeout_ns };
	struct gw_wire_frame f;
	char *body = NULL;
	int r = gw_peer_expect(in->control_fd, GW_WIRE_LAYOUT, &f, &body, &w, err);

	if (r < 0)
		return r;
	in->layout = (struct gw_wire_extent *)body;
	in->n_layout = f.length / sizeof(*in->layout);
	return gw_wire_extents_check(in->layout, in->n_layout, &in->wire_ram, err);
}

static int make_ram(struct gw_in *in, struct gw_in_place *place, struct gw_error *err)
{
	for (unsigned i = 0; i < in->wire_ram.n_regions; i++) {
		uint64_t size = in->wire_ram.region_pages[i] << GW_PAGE_SHIFT, page = in->ram[i].page_size_bytes;
		int r = gw_ram_create(place->ram_path[i], size, page, err);

		if (r == 0)
			r = gw_ram_map(&in->ram[i], place->ram_path[i], size, page, true, err);
		if (r < 0)
			return r;
	}
	return gw_fault("target-ram-created");
}

static int record_incoming(struct gw_in *in, struct gw_error *err)
{
	struct gw_record rec = { .state = GW_RECORD_INCOMING, .epoch = in->epoch, .migration = in->config.id };

	snprintf(rec.peer_name, sizeof(rec.peer_name), "%s", in->source_name);
	snprintf(rec.peer_address, sizeof(rec.peer_address), "%s", in->source_address);
	return gw_journal_write(in->journal, &rec, err);
}

static int begin_load(struct gw_in *in, struct gw_error *err)
{
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return gw_error_set_errno(err, errno, "cannot make a socket for the device state");
	in->load_fd = pair[0];
	r = in->vm->ops->load_begin(in->vm, pair[1], err);
	close(pair[1]);
	return r;
}

static int make_vm(struct gw_in *in, struct gw_error *err)
{
	const struct gw_in_hooks *hooks = in->config.hooks;
	struct gw_vm *vm = NULL;
	int r = hooks->start(in->config.hooks_arg, in, &vm, err);

	if (r < 0)
		return r;
	{
		GW_LOCKED(&in->lock);
		in->vm = vm;
		if (in->given_up)
			vm->ops->kill(vm);
	}
	r = hooks->await(in->config.hooks_arg, in, in->prepare, err);
	if (r == 0)
		r = gw_fault("target-vm-started");
	return r < 0 ? r : begin_load(in, err);
}

int gw_in_create(struct gw_in *in, struct gw_error *err)
{
	struct gw_in_place place = { 0 };
	struct gw_in_guard guard;
	int r = gw_fault("target-prepare-received");

	if (r == 0)
		r = parse_source(in, err);
	if (r == 0)
		r = parse_regions(in, err);
	if (r == 0)
		r = receive_layout(in, err);
	if (r < 0)
		return r;
	r = in->config.hooks->reserve(in->config.hooks_arg, in, in->prepare, &place, err);
	if (r < 0)
		return r;
	in->reserved = true;
	in->journal = place.journal;
	r = record_incoming(in, err);
	if (r == 0)
		r = make_ram(in, &place, err);
	if (r == 0)
		r = gw_in_guard_begin(&guard, in, GW_IN_GUARD_MAKING, err);
	if (r < 0)
		return r;
	gw_in_start_populating(in);
	r = make_vm(in, err);
	if (r == 0 && json_is_true(json_object_get(in->prepare, "postcopy"))) {
		struct gw_error why = GW_ERROR_INIT;

		snprintf(in->states_path, sizeof(in->states_path), "%s", place.states_path);
		if (gw_in_offer_postcopy(in, &why) < 0)
			gw_log_info(in->vm_name, "no post-copy: %s", gw_error_text(&why));
	}
	r = gw_in_guard_end(&guard, r, err);
	if (r == 0)
		gw_in_populate_vmm(in, in->vm);
	return r;
}

int gw_in_open_receiver(struct gw_in *in, char ret_token[GW_WIRE_ID_TEXT], struct gw_error *err)
{
	struct gw_receiver *receiver = NULL;
	struct gw_wire_id token;
	int r = gw_wire_id_random(&token);

	if (r < 0)
		return gw_error_set_errno(err, r, "no random numbers");
	r = gw_receiver_new(&in->wire_ram, in->ram, in->demand, in->config.idle_timeout_ns, in->wake_fd, &receiver, err);
	if (r < 0)
		return r;
	if (in->populate)
		gw_receiver_on_arrival(receiver, gw_in_arrived, in->populate);
	gw_wire_id_format(&token, ret_token);
	GW_LOCKED(&in->lock);
	GW_LOCKED(&in->link_lock);
	in->receiver = receiver;
	memcpy(in->token, token.bytes, sizeof(in->token));
	in->token_valid = true;
	return 0;
}

void gw_in_close_receiver(struct gw_in *in)
{
	struct gw_receiver *receiver;

	{
		GW_LOCKED(&in->lock);
		GW_LOCKED(&in->link_lock);
		receiver = gw_steal(&in->receiver);
		in->token_valid = false;
	}
	gw_receiver_free(receiver);
}

int gw_in_send_prepared(struct gw_in *in, struct gw_error *err)
{
	char token[GW_WIRE_ID_TEXT];
	json_t *j;
	int r = gw_in_open_receiver(in, token, err);

	if (r < 0)
		return r;
	j = json_pack("{s:s, s:b}", "token", token, "postcopy", in->demand != NULL);
	r = gw_peer_send_json(in->control_fd, GW_WIRE_PREPARED, j, &in->wait, err);
	json_decref(j);
	return r;
}

void gw_in_release(struct gw_in *in)
{
	gw_in_end_postcopy(in, false);
	gw_in_close_receiver(in); /* its threads tell what arrived */
	gw_in_stop_populating(in);
	for (unsigned i = 0; i < GW_RAM_REGIONS_MAX; i++)
		gw_ram_unmap(&in->ram[i]);
	if (in->load_fd >= 0)
		close(gw_steal_fd(&in->load_fd));
	if (in->control_fd >= 0)
		close(gw_steal_fd(&in->control_fd));
	if (in->ask_fd >= 0)
		close(gw_steal_fd(&in->ask_fd));
	{
		GW_LOCKED(&in->lock);
		if (in->recover_fd >= 0)
			close(gw_steal_fd(&in->recover_fd));
	}
	free(gw_steal(&in->state));
	in->state_bytes = in->state_room = 0;
}
