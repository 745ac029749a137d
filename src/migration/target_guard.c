/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The target's guard: listens while the running thread waits for the VMM, which may hang.
 *
 * While the VM is made, and while it loads, nobody reads what the source says. The guard's thread listens instead. When
 * there is nobody left to do it for, it kills the VMM, which by contract ends every wait for it.
 */
#include <endian.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "migration/target_internal.h"
#include "transport/peer.h"

/* Loading: a lost connection is no reason to give up. Everything is here, and soon this may be the only whole copy. */
static bool is_abort(int fd)
{
	struct gw_wire_frame f;

	return recv(fd, &f, sizeof(f), MSG_PEEK | MSG_DONTWAIT) == (ssize_t)sizeof(f) &&
	       le32toh(f.type) == GW_WIRE_ABORT;
}

static void *listen_for_the_end(void *arg)
{
	struct gw_in_guard *g = arg;
	struct gw_in *in = g->in;
	struct pollfd p[] = {
		{ .fd = g->end_fd, .events = POLLIN },
		{ .fd = in->control_fd, .events = POLLIN },
		{ .fd = g->what == GW_IN_GUARD_MAKING ? in->wake_fd : -1, .events = POLLIN },
	};

	while (poll(p, GW_ARRAY_SIZE(p), -1) < 0 && errno == EINTR)
		;
	if (p[0].revents || (g->what == GW_IN_GUARD_LOADING && !is_abort(in->control_fd)))
		return NULL;
	GW_LOCKED(&in->lock);
	in->given_up = true;
	if (in->vm)
		in->vm->ops->kill(in->vm);
	return NULL;
}

int gw_in_guard_begin(struct gw_in_guard *g, struct gw_in *in, enum gw_in_guarded what, struct gw_error *err)
{
	int r;

	*g = (struct gw_in_guard){ .in = in, .what = what, .end_fd = eventfd(0, EFD_CLOEXEC) };
	r = g->end_fd < 0 ? -errno : gw_thread_start(&g->thread, NULL, listen_for_the_end, g);
	if (r < 0) {
		gw_cleanup_fd(&g->end_fd);
		return gw_error_set_errno(err, r, "cannot watch over the VM on the target");
	}
	return 0;
}

/* What the source has said before its turn, or how its connection ended. */
static int early_word(struct gw_in *in, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = 300 * GW_NS_PER_MS };
	gw_autofree char *body = NULL;
	struct gw_wire_frame f;
	int r = gw_peer_recv(in->control_fd, &f, &body, &w, err);

	if (r < 0)
		return r;
	if (f.type != GW_WIRE_ABORT && f.type != GW_WIRE_FAILED)
		return gw_error_set(err, EPROTO, "%s message at the wrong time", gw_wire_frame_name(f.type));
	gw_peer_failure(&f, body, err);
	return -ESTALE;
}

int gw_in_guard_end(struct gw_in_guard *g, int r, struct gw_error *err)
{
	struct gw_wait now = { .cancel_fd = -1, .idle_ns = 0 };
	struct gw_in *in = g->in;

	eventfd_write(g->end_fd, 1);
	pthread_join(g->thread, NULL);
	close(g->end_fd);
	{
		GW_LOCKED(&in->lock);
		if (!in->given_up)
			return r;
		if (in->stop)
			return gw_error_set(err, ESHUTDOWN, "the daemon of the target is stopping");
		if (in->n_events && in->events[0] != GW_TARGET_EV_FAILED)
			return gw_error_set(err, ECANCELED, "the source says that the migration was undone");
	}
	if (gw_in_populate_failed(in, err) < 0)
		return err->code;
	if (gw_wait_fd(in->control_fd, POLLIN, &now) == 0)
		return early_word(in, err);
	return r < 0 ? r : gw_error_set(err, ESRCH, "the VM's process on the target ended");
}
