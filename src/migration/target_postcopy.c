/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Post-copy at the target (N6, N7, N8): pages that are owed when the guest starts to run, and links that break meanwhile.
 *
 * The demand (memory/demand.c) lives from PREPARE until the last page is in; links come and go. While there is none the
 * guest's threads that touch a missing page wait, and nothing is thrown away. The source makes the new link, as it is the
 * one that keeps an image only for that; what lacks is told to it then, so that it needs no memory of what it had sent.
 */
#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "migration/target_internal.h"
#include "transport/peer.h"

#define STALE_RANGES_MAX 1024u /* unmapped in one go; more adjoining ones are made one */
#define CHANNELS_AFTER_RESTART 2u

static void on_want(void *arg, const struct gw_wire_demand *d)
{
	struct gw_in *in = arg;

	GW_LOCKED(&in->link_lock);
	if (in->receiver)
		gw_receiver_demand(in->receiver, d);
}

/* Only wakes: whether a state has use for it is looked up there, as it may come while the state is loaded. */
static void on_complete(void *arg)
{
	struct gw_in *in = arg;

	eventfd_write(in->wake_fd, 1);
}

static int new_demand(struct gw_in *in, int uffd, bool fresh, struct gw_error *err)
{
	struct gw_ram_region regions[GW_RAM_REGIONS_MAX];
	struct gw_demand_region where[GW_RAM_REGIONS_MAX];
	struct gw_demand_config config = { .uffd = uffd, .fresh = fresh, .regions = where,
		                           .states_path = in->states_path, .want = on_want,
		                           .complete = on_complete, .arg = in };
	int r = in->vm->ops->ram(in->vm, regions, &config.n_regions, err);

	if (r < 0) {
		close(uffd);
		return r;
	}
	for (unsigned i = 0; i < config.n_regions; i++)
		where[i] = (struct gw_demand_region){ &in->ram[i], regions[i].hva };
	return gw_demand_new(&config, &in->demand, err);
}

int gw_in_offer_postcopy(struct gw_in *in, struct gw_error *err)
{
	bool fresh;
	int uffd, r;

	for (unsigned i = 0; i < in->wire_ram.n_regions; i++)
		if (in->ram[i].page_size_bytes > (GW_WIRE_DEMAND_PAGES_MAX << GW_PAGE_SHIFT))
			return gw_error_set(err, EOPNOTSUPP, "pages of 1 GiB take too long to be fetched one by one");
	r = in->vm->ops->keep_userfaultfd(in->vm, &uffd, &fresh, err);
	if (r == 0)
		r = new_demand(in, uffd, fresh, err);
	if (r < 0)
		return r;
	in->wire_ram.postcopy = true;
	return 0;
}

/* SWITCH: nothing may populate the VMM's page tables from here on, and its first touch of a page is reported. */
int gw_in_arm(struct gw_in *in, struct gw_error *err)
{
	bool fresh;
	int fd, r;

	if (!in->demand)
		return gw_error_set(err, EPROTO, "the source switches to post-copy, which was not agreed on");
	gw_in_halt_populating(in);
	/* Any answer of the VMM's process says that it is done with what it was asked for before. */
	r = in->vm->ops->keep_userfaultfd(in->vm, &fd, &fresh, err);
	if (r < 0)
		return r;
	close(fd);
	/* A page that the balloon gives back would come again, from the source; started without the means it has no balloon. */
	r = in->vm->ops->hold_discards(in->vm, &in->hold_fd, err);
	if (r == 0 || r == -EOPNOTSUPP)
		r = gw_demand_arm(in->demand, err);
	in->armed = r == 0;
	return r;
}

int gw_in_owed(struct gw_in *in, char *body, size_t len, struct gw_error *err)
{
	struct gw_wire_owed *o = (struct gw_wire_owed *)body;
	const uint8_t *bits = (uint8_t *)(o + 1);
	int r = gw_wire_owed_check(o, len, &in->wire_ram, err);

	if (r < 0)
		return r;
	if (!in->armed)
		return gw_error_set(err, EPROTO, "OWED message at the wrong time");
	for (uint32_t i = 0; i < o->n_pages; i++) {
		if (i % 8 == 0 && !bits[i / 8]) {
			i += 7;
			continue;
		}
		if (bits[i / 8] >> i % 8 & 1) {
			gw_demand_owe(in->demand, o->region, o->first_page + i, 1);
			in->announced_owed++;
		}
	}
	return 0;
}

/* What pre-copy brought and the guest has written since is in the VMM's page tables: it must go before anything there
 * touches memory. */
static int unmap_stale(struct gw_in *in, struct gw_error *err)
{
	gw_autofree struct gw_hva_range *ranges = calloc(STALE_RANGES_MAX, sizeof(*ranges));
	size_t n = 0;

	if (!ranges)
		return gw_error_set(err, ENOMEM, "out of memory");
	for (uint32_t i = 0; i < in->wire_ram.n_regions; i++) {
		struct gw_hva_range range;
		uint64_t page = 0;

		while (gw_demand_next_stale(in->demand, i, &page, &range.hva, &range.len)) {
			if (n == STALE_RANGES_MAX) { /* what lies between two is only mapped again a little later */
				ranges[n - 1].len = range.hva + range.len - ranges[n - 1].hva;
				continue;
			}
			ranges[n++] = range;
		}
		if (n == STALE_RANGES_MAX && i + 1 < in->wire_ram.n_regions) {
			int r = in->vm->ops->unmap_pages(in->vm, ranges, n, err);

			if (r < 0)
				return r;
			n = 0;
		}
	}
	return n ? in->vm->ops->unmap_pages(in->vm, ranges, n, err) : 0;
}

static void *map_complete(void *arg)
{
	struct gw_in *in = arg;

	gw_demand_map_complete(in->demand);
	return NULL;
}

int gw_in_begin_demand(struct gw_in *in, struct gw_error *err)
{
	int r = unmap_stale(in, err);

	if (r == 0)
		r = gw_demand_start(in->demand, err);
	if (r == 0)
		in->mapping = gw_thread_start(&in->map_thread, NULL, map_complete, in) == 0;
	return r;
}

/* The other host's link is gone, or will be. */

bool gw_in_link_broke(struct gw_in *in)
{
	struct gw_error err = GW_ERROR_INIT;

	if (!in->demand || !in->machine.owes || in->control_fd < 0 || !in->receiver || gw_receiver_error(in->receiver, &err) == 0)
		return false;
	gw_log_warning(in->vm_name, "the link to %s, which still has %lu MiB of its memory, is lost: %s", in->source_name,
	               (unsigned long)(gw_demand_left(in->demand) >> 8), gw_error_text(&err));
	close(gw_steal_fd(&in->control_fd));
	return true;
}

bool gw_in_recover(struct gw_in *in, int fd)
{
	GW_LOCKED(&in->lock);
	if (!in->demand || !in->armed)
		return false;
	if (in->recover_fd >= 0)
		close(in->recover_fd);
	in->recover_fd = fd;
	eventfd_write(in->wake_fd, 1);
	return true;
}

static int send_owed(struct gw_in *in, uint32_t region, uint64_t first, uint32_t n, struct gw_error *err)
{
	size_t len = sizeof(struct gw_wire_owed) + (n + 7) / 8;
	gw_autofree struct gw_wire_owed *o = calloc(1, len);
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = in->config.switch_timeout_ns };
	uint8_t *bits = (uint8_t *)(o + 1);
	bool any = false;

	if (!o)
		return gw_error_set(err, ENOMEM, "out of memory");
	for (uint32_t i = 0; i < n; i++)
		if (gw_demand_is_owed(in->demand, region, first + i)) {
			bits[i / 8] |= (uint8_t)(1u << i % 8);
			any = true;
		}
	*o = (struct gw_wire_owed){ htole32(region), htole32(n), htole64(first) };
	return any ? gw_peer_send(in->control_fd, GW_WIRE_OWED, o, len, &w, err) : 0;
}

static int tell_what_lacks(struct gw_in *in, const char *token, struct gw_error *err)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = in->config.switch_timeout_ns };
	json_t *j = json_pack("{s:s, s:i, s:I}", "token", token, "channels", (int)in->wire_ram.channels, "owed_pages",
	                      (json_int_t)gw_demand_left(in->demand));
	int r = gw_peer_send_json(in->control_fd, GW_WIRE_RECOVER, j, &w, err);

	json_decref(j);
	for (uint32_t i = 0; i < in->wire_ram.n_regions && r == 0; i++)
		for (uint64_t at = 0; at < in->wire_ram.region_pages[i] && r == 0; at += GW_WIRE_OWED_PAGES_MAX)
			r = send_owed(in, i, at, (uint32_t)GW_MIN(in->wire_ram.region_pages[i] - at, GW_WIRE_OWED_PAGES_MAX), err);
	return r;
}

bool gw_in_take_recovery(struct gw_in *in)
{
	struct gw_error err = GW_ERROR_INIT;
	char token[GW_WIRE_ID_TEXT];
	int fd, r;

	{
		GW_LOCKED(&in->lock);
		fd = gw_steal_fd(&in->recover_fd);
	}
	if (fd < 0)
		return false;
	if (!in->demand) {
		close(fd);
		return false;
	}
	gw_in_close_receiver(in); /* its threads give back what they were filling */
	if (in->control_fd >= 0)
		close(in->control_fd);
	in->control_fd = fd;
	r = gw_in_open_receiver(in, token, &err);
	if (r == 0)
		r = tell_what_lacks(in, token, &err);
	if (r < 0) {
		gw_log_warning(in->vm_name, "a new link to %s failed at once: %s", in->source_name, gw_error_text(&err));
		close(gw_steal_fd(&in->control_fd));
		return false;
	}
	gw_log_info(in->vm_name, "a new link to %s: %lu MiB are still there", in->source_name,
	            (unsigned long)(gw_demand_left(in->demand) >> 8));
	return true;
}

/* The end. */

int gw_in_send_complete(struct gw_in *in, int fd)
{
	struct gw_wait w = { .cancel_fd = -1, .idle_ns = 2 * GW_NS_PER_S };
	struct gw_demand_stats s = { 0 };
	struct gw_wire_complete body;

	if (in->demand)
		gw_demand_stats(in->demand, &s);
	body = (struct gw_wire_complete){
		.demanded = htole64(s.demanded), .fault_p50_ns = htole64((uint64_t)s.p50_ns),
		.fault_p99_ns = htole64((uint64_t)s.p99_ns), .fault_max_ns = htole64((uint64_t)s.max_ns),
	};
	return gw_peer_send(fd, GW_WIRE_COMPLETE, &body, sizeof(body), &w, NULL);
}

/* The VMM's process lets go of its userfaultfd; before that its faults are still answered here. */
static void drop_userfaultfd(struct gw_in *in)
{
	enum gw_vm_status status = GW_VM_DEAD;
	struct gw_error err = GW_ERROR_INIT;

	while (in->vm->ops->drop_userfaultfd(in->vm, &err) < 0) {
		if (in->vm->ops->status(in->vm, &status, NULL) == 0 && status == GW_VM_DEAD)
			return;
		gw_log_error(in->vm_name, "its memory is whole, but the end of post-copy fails: %s", gw_error_text(&err));
		gw_sleep_ns(GW_NS_PER_S);
	}
}

/* `whole`: nothing is owed, or wanted. Else only this process lets go: the VMM keeps its threads waiting, the file the
 * states of the pages. */
void gw_in_end_postcopy(struct gw_in *in, bool whole)
{
	struct gw_demand *d = in->demand;

	if (!d)
		return;
	if (whole)
		drop_userfaultfd(in);
	gw_demand_cancel(d);
	if (in->mapping)
		pthread_join(in->map_thread, NULL);
	in->mapping = false;
	gw_in_close_receiver(in);
	{
		GW_LOCKED(&in->lock); /* gw_in_owed_pages() */
		in->demand = NULL;
	}
	gw_demand_free(d);
	gw_cleanup_fd(&in->hold_fd);
	in->hold_fd = -1;
	if (whole)
		unlink(in->states_path);
}

bool gw_in_was_owed(const struct gw_in *in)
{
	return in->armed;
}

uint64_t gw_in_owed_pages(struct gw_in *in)
{
	GW_LOCKED(&in->lock);
	return in->demand ? gw_demand_left(in->demand) : 0;
}

/* After a restart of the daemon. */

static int map_ram_again(struct gw_in *in, struct gw_error *err)
{
	struct gw_ram_region regions[GW_RAM_REGIONS_MAX];
	unsigned n = 0;
	int r = in->vm->ops->ram(in->vm, regions, &n, err);

	for (unsigned i = 0; i < n && r == 0; i++) {
		r = gw_ram_map(&in->ram[i], regions[i].path, regions[i].size_bytes, regions[i].page_size_bytes, true, err);
		in->wire_ram.region_pages[i] = regions[i].size_bytes >> GW_PAGE_SHIFT;
	}
	in->wire_ram.n_regions = n;
	in->wire_ram.channels = CHANNELS_AFTER_RESTART;
	in->wire_ram.postcopy = true;
	return r;
}

int gw_in_restore_postcopy(struct gw_in *in, const char *states_path, struct gw_error *err)
{
	bool fresh;
	int uffd, r = map_ram_again(in, err);

	snprintf(in->states_path, sizeof(in->states_path), "%s", states_path);
	if (r == 0)
		r = in->vm->ops->keep_userfaultfd(in->vm, &uffd, &fresh, err);
	if (r < 0)
		return r;
	if (fresh) { /* nothing keeps it from seeing missing pages: it must not be believed to be whole */
		close(uffd);
		return gw_error_set(err, EIO, "the VM's process has lost its userfaultfd");
	}
	r = new_demand(in, uffd, false, err);
	if (r == 0)
		r = gw_demand_start(in->demand, err);
	in->armed = r == 0;
	return r;
}
