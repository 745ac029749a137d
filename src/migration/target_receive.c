/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The target receives (RAM by its channels, device state by the control connection), checks that nothing is missing,
 * loads, and answers for what it holds. */
#include <endian.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "migration/target_internal.h"
#include "transport/peer.h"

#define POPULATE_PATIENCE_NS (500 * GW_NS_PER_MS)
#define LAST_PATIENCE_NS (20 * GW_NS_PER_MS) /* in the guest's downtime: a fault for each page costs no more */

static int add_state(struct gw_in *in, const char *body, size_t len, struct gw_error *err)
{
	if (len > GW_WIRE_STATE_TOTAL_MAX - in->state_bytes)
		return gw_error_set(err, EFBIG, "the device state is larger than %u MiB", GW_WIRE_STATE_TOTAL_MAX >> 20);
	if (in->state_bytes + len > in->state_room) {
		size_t room = GW_MAX(in->state_room * 2, in->state_bytes + len + (1u << 20));
		char *bigger = realloc(in->state, room);

		if (!bigger)
			return gw_error_set(err, ENOMEM, "out of memory");
		in->state = bigger;
		in->state_room = room;
	}
	memcpy(in->state + in->state_bytes, body, len);
	in->state_bytes += len;
	return 0;
}

/* SENT: waits for the last barrier of every channel, and compares what came with what was sent. */
static int complete(struct gw_in *in, const char *body, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = in->wake_fd, .idle_ns = in->config.switch_timeout_ns };
	struct gw_receiver_stats got;
	struct gw_wire_sent sent;
	int r;

	memcpy(&sent, body, sizeof(sent));
	r = gw_receiver_wait(in->receiver, le32toh(sent.pass), &w, err);
	if (r < 0)
		return r;
	in->ram_wait_ns = gw_now_ns() - in->switch_began;
	gw_receiver_progress(in->receiver, &got);
	if (got.pages != le64toh(sent.pages))
		return gw_error_set(err, EPROTO, "%" PRIu64 " memory pages arrived, %" PRIu64 " were sent", got.pages,
		                    le64toh(sent.pages));
	if (in->state_bytes != le64toh(sent.state_bytes) ||
	    XXH3_64bits(in->state, in->state_bytes) != le64toh(sent.state_digest))
		return gw_error_set(err, EPROTO, "the device state did not arrive whole");
	gw_in_wait_populated(in, LAST_PATIENCE_NS);
	return gw_fault("target-all-received");
}

/* PASS: answered once that pass is in RAM and the page tables are populated (or that takes too long). */
static int catch_up(struct gw_in *in, const char *body, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = in->wake_fd, .idle_ns = in->config.idle_timeout_ns };
	struct gw_wire_pass pass;
	int r;

	memcpy(&pass, body, sizeof(pass));
	r = gw_receiver_wait(in->receiver, le32toh(pass.pass), &w, err);
	if (r < 0)
		return r;
	gw_in_wait_populated(in, POPULATE_PATIENCE_NS);
	return gw_peer_send(in->control_fd, GW_WIRE_PASS, &pass, sizeof(pass), &in->wait, err);
}

/* One frame. 1 when everything is here; -ESTALE when the source aborted. */
static int handle_frame(struct gw_in *in, const struct gw_wire_frame *f, const char *body, struct gw_error *err)
{
	int r;

	switch (f->type) {
	case GW_WIRE_PASS:
		return catch_up(in, body, err);
	case GW_WIRE_SWITCH:
		in->switch_began = gw_now_ns();
		gw_in_hurry_populating(in);
		return 0;
	case GW_WIRE_STATE:
		return add_state(in, body, f->length, err);
	case GW_WIRE_SENT:
		r = complete(in, body, err);
		return r < 0 ? r : 1;
	case GW_WIRE_ABORT:
	case GW_WIRE_FAILED:
		gw_peer_failure(f, body, err);
		return -ESTALE;
	default:
		return gw_error_set(err, EPROTO, "%s message at the wrong time", gw_wire_frame_name(f->type));
	}
}

int gw_in_receive(struct gw_in *in, struct gw_error *err)
{
	int r = 0;

	while (r == 0) {
		gw_autofree char *body = NULL;
		struct gw_wire_frame f;

		r = gw_peer_recv(in->control_fd, &f, &body, &in->wait, err);
		if (r == -ECANCELED && gw_in_populate_failed(in, err) < 0)
			return err->code;
		if (r == 0)
			r = handle_frame(in, &f, body, err);
	}
	return r < 0 ? r : 0;
}

int gw_in_load(struct gw_in *in, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = in->config.switch_timeout_ns };
	gw_time_ns t0 = gw_now_ns();
	int r = gw_fault("target-load-begin");

	if (r < 0)
		return gw_error_set_errno(err, r, "loading the device state");
	r = gw_write_full(in->load_fd, in->state, in->state_bytes, &w);
	close(gw_steal_fd(&in->load_fd));
	if (r < 0 && r != -EPIPE && r != -ECONNRESET)
		return gw_error_set_errno(err, r, "cannot pass the device state on");
	/* When it closed its end early, it says itself what it did not like. */
	r = in->vm->ops->load_wait(in->vm, gw_deadline_in(in->config.switch_timeout_ns), err);
	in->load_ns = gw_now_ns() - t0;
	return r < 0 ? r : gw_fault("target-loaded");
}

int gw_in_send_ready(struct gw_in *in, int fd, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = in->config.switch_timeout_ns };
	struct gw_wire_ready body = {
		.ram_wait_ns = htole64((uint64_t)in->ram_wait_ns),
		.load_ns = htole64((uint64_t)in->load_ns),
	};
	uint64_t huge_bytes;
	gw_time_ns populate_ns;

	gw_in_populated(in, &populate_ns, &huge_bytes);
	body.populate_ns = htole64((uint64_t)populate_ns);
	body.huge_bytes = htole64(huge_bytes);
	return gw_peer_send(fd, GW_WIRE_READY, &body, sizeof(body), &w, err);
}

int gw_in_answer_verify(struct gw_in *in, const char *body, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = in->config.switch_timeout_ns };
	gw_autofree struct gw_wire_digest *d = NULL;
	struct gw_wire_verify v;
	int r;

	memcpy(&v, body, sizeof(v));
	r = gw_wire_verify_check(&v, &in->wire_ram, err);
	if (r < 0)
		return r;
	d = calloc(v.n_blocks, sizeof(*d));
	if (!d)
		return gw_error_set(err, ENOMEM, "out of memory");
	r = gw_ram_digests(&in->ram[v.region], v.first_page, v.block_pages, v.n_blocks, d, err);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < v.n_blocks; i++)
		d[i] = (struct gw_wire_digest){ .low = htole64(d[i].low), .high = htole64(d[i].high) };
	return gw_peer_send(in->control_fd, GW_WIRE_DIGESTS, d, v.n_blocks * sizeof(*d), &w, err);
}
