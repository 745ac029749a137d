/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A target that runs before its memory is whole: the theory, the page states and their file, the life of a demand. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "memory/demand_internal.h"
#include "memory/kernel_compat.h"

/* Theory of operation
 *
 * Goal: the VMM's process never sees a page that is not final and whole; whoever touches one waits until it is.
 *
 * RAM is a file that this process and the VMM both map. The VMM's mapping is registered with a userfaultfd for MISSING
 * and MINOR faults: a page that is not in its page tables is reported to us, whether the file has it (perhaps stale, from
 * a pass of pre-copy) or not, and the toucher sleeps. We fill the file through our own mapping and only then put the page
 * into the VMM's page tables (UFFDIO_CONTINUE), which wakes it. MISSING alone would show half-filled pages: the file has
 * the page from its first byte on.
 *
 * A state per page, in a file of its own so that a daemon that dies in the middle finds them again:
 *   ABSENT    owed; nobody waits for it. Not in the VMM's page tables.
 *   WANTED    owed; somebody waits, and the source was asked.
 *   FILLING   one thread writes it, the one whose compare-and-swap made it FILLING. A fault waits for that thread.
 *   COMPLETE  final. Never written here again: the guest may have. In the page tables, or put there on a fault.
 * Only the filler moves FILLING on: to COMPLETE, or back to WANTED when the connection broke (nobody may have asked for it
 * while it was FILLING, so it is asked for again). A restarted daemon turns FILLING to WANTED: what was written of it was
 * seen by nobody.
 *
 * Invariants
 *  - COMPLETE is set before CONTINUE. So a fault that is read after it finds COMPLETE, and is answered by a CONTINUE of its
 *    own; one that was read before it waits for the filler's, which comes after.
 *  - EEXIST from CONTINUE says that the page is mapped already: the sleeper may have been queued after that, so it is woken.
 *  - The fault thread waits for nothing but the userfaultfd: not for the VMM, and for the source's socket only as long as
 *    16 bytes take to be buffered.
 *  - After a restart faults that the dead daemon had read are reported again, because all sleepers are woken once.
 *  - The end is closing the userfaultfd here and in the VMM, which wakes everybody; never only UFFDIO_UNREGISTER, which can
 *    leave a thread asleep for ever.
 *
 * The unit is the page of the backing: with hugetlbfs a large page, of which parts are refused.
 */

#define STATES_MAGIC 0x31454741505747ull /* "GWPAGE1" */
#define HUGE_PAGES 512u

struct gw_demand_states {
	uint64_t magic;
	uint64_t n_pages; /* of all regions */
	uint64_t loaded;
	uint8_t pad[4096 - 24];
};

void gw_demand_owe(struct gw_demand *d, uint32_t region, uint64_t first, uint64_t n)
{
	struct gw_demand_ram *r = &d->regions[region];

	first -= first % r->unit_pages;
	for (uint64_t page = first; page < first + n; page += r->unit_pages) {
		if (atomic_load_explicit(&r->states[page], memory_order_relaxed) != GW_PAGE_COMPLETE)
			continue;
		atomic_store_explicit(&r->states[page], GW_PAGE_ABSENT, memory_order_relaxed);
		atomic_fetch_add(&d->left, r->unit_pages);
	}
}

bool gw_demand_is_owed(const struct gw_demand *d, uint32_t region, uint64_t page)
{
	const struct gw_demand_ram *r = &d->regions[region];

	return atomic_load(&r->states[page - page % r->unit_pages]) != GW_PAGE_COMPLETE;
}

uint64_t gw_demand_left(const struct gw_demand *d)
{
	return atomic_load(&d->left);
}

bool gw_demand_holds_owed(const struct gw_demand_ram *r, uint64_t first, uint64_t end)
{
	for (uint64_t p = first; p < end; p += r->unit_pages)
		if (atomic_load_explicit(&r->states[p], memory_order_relaxed) != GW_PAGE_COMPLETE)
			return true;
	return false;
}

uint64_t gw_demand_chunk_end(const struct gw_demand_ram *r, uint64_t page)
{
	uint64_t offset = (r->where.hva >> GW_PAGE_SHIFT) % HUGE_PAGES;

	return GW_MIN((page + offset) / HUGE_PAGES * HUGE_PAGES + HUGE_PAGES - offset, r->where.ram->n_pages);
}

bool gw_demand_next_stale(struct gw_demand *d, uint32_t region, uint64_t *page, uint64_t *ret_hva, uint64_t *ret_len)
{
	struct gw_demand_ram *r = &d->regions[region];
	uint64_t n = r->where.ram->n_pages, first = *page, end;

	while (first < n && !gw_demand_holds_owed(r, first, gw_demand_chunk_end(r, first)))
		first = gw_demand_chunk_end(r, first);
	for (end = first; end < n && gw_demand_holds_owed(r, end, gw_demand_chunk_end(r, end));)
		end = gw_demand_chunk_end(r, end);
	*page = end;
	*ret_hva = r->where.hva + (first << GW_PAGE_SHIFT);
	*ret_len = (end - first) << GW_PAGE_SHIFT;
	return first < n;
}

/* Life. */

static int open_states(struct gw_demand *d, struct gw_error *err)
{
	const char *path = d->config.states_path;
	gw_autofd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	uint64_t n_pages = 0;
	struct stat st;
	void *p;

	for (unsigned i = 0; i < d->config.n_regions; i++)
		n_pages += d->config.regions[i].ram->n_pages;
	d->file_bytes = sizeof(struct gw_demand_states) + n_pages;
	if (fd < 0 || fstat(fd, &st) < 0)
		return gw_error_set_errno(err, errno, "cannot open %s (needed for the states of the VM's pages)", path);
	if (st.st_size == 0) { /* allocated now: a full disk must not end in SIGBUS later */
		int r = posix_fallocate(fd, 0, (off_t)d->file_bytes);

		if (r)
			return gw_error_set_errno(err, r, "cannot make %s (needed for the states of the VM's pages)", path);
	} else if ((size_t)st.st_size != d->file_bytes) {
		return gw_error_set(err, EINVAL, "%s does not fit the VM's memory", path);
	}
	p = mmap(NULL, d->file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return gw_error_set_errno(err, errno, "cannot map %s", path);
	d->file = p;
	if (d->file->magic == 0)
		*d->file = (struct gw_demand_states){ .magic = STATES_MAGIC, .n_pages = n_pages };
	else if (d->file->magic != STATES_MAGIC || d->file->n_pages != n_pages)
		return gw_error_set(err, EINVAL, "%s does not fit the VM's memory", path);
	return 0;
}

/* What an earlier daemon left: half-filled pages were seen by nobody. */
static void count_states(struct gw_demand *d)
{
	_Atomic uint8_t *states = (_Atomic uint8_t *)(d->file + 1);

	for (unsigned i = 0; i < d->config.n_regions; i++) {
		struct gw_demand_ram *r = &d->regions[i];

		r->where = d->config.regions[i];
		r->unit_pages = r->where.ram->page_size_bytes >> GW_PAGE_SHIFT;
		r->states = states;
		states += r->where.ram->n_pages;
		for (uint64_t page = 0; page < r->where.ram->n_pages; page += r->unit_pages) {
			if (r->states[page] == GW_PAGE_FILLING)
				r->states[page] = GW_PAGE_WANTED;
			if (r->states[page] != GW_PAGE_COMPLETE)
				atomic_fetch_add(&d->left, r->unit_pages);
		}
	}
}

static int handshake(struct gw_demand *d, struct gw_error *err)
{
	struct uffdio_api api = { .api = UFFD_API };

	for (unsigned i = 0; i < d->config.n_regions; i++)
		api.features |= d->config.regions[i].ram->page_size_bytes > GW_PAGE_BYTES ?
		                        UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS :
		                        UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM;
	if (d->config.fresh && ioctl(d->config.uffd, UFFDIO_API, &api) < 0)
		return gw_error_set_errno(err, errno == EINVAL ? EOPNOTSUPP : errno,
		                          "this kernel cannot fetch missing pages of guest RAM on demand");
	return gw_set_nonblock(d->config.uffd);
}

int gw_demand_new(const struct gw_demand_config *config, struct gw_demand **ret, struct gw_error *err)
{
	struct gw_demand *d = calloc(1, sizeof(*d));
	int r = 0;

	if (!d) {
		close(config->uffd);
		return gw_error_set(err, ENOMEM, "out of memory");
	}
	d->config = *config;
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->started_cond, NULL);
	for (unsigned i = 0; i < GW_DEMAND_WAITERS; i++)
		d->waiters[i].page = UINT64_MAX;
	d->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (d->stop_fd < 0 || config->n_regions > GW_ARRAY_SIZE(d->regions))
		r = gw_error_set(err, EINVAL, "cannot set up fetching of missing pages");
	if (r == 0)
		r = handshake(d, err);
	if (r == 0)
		r = open_states(d, err);
	if (r < 0) {
		gw_demand_free(d);
		return r;
	}
	count_states(d);
	*ret = d;
	return 0;
}

int gw_demand_arm(struct gw_demand *d, struct gw_error *err)
{
	for (unsigned i = 0; i < d->config.n_regions; i++) {
		const struct gw_ram *ram = d->regions[i].where.ram;
		struct uffdio_register reg = {
			.range = { d->regions[i].where.hva, gw_round_up(ram->size_bytes, ram->page_size_bytes) },
			.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
		};

		if (ioctl(d->config.uffd, UFFDIO_REGISTER, &reg) < 0)
			return gw_error_set_errno(err, errno, "cannot watch for missing pages of the VM's RAM at %" PRIx64,
			                          (uint64_t)reg.range.start);
	}
	return 0;
}

int gw_demand_start(struct gw_demand *d, struct gw_error *err)
{
	int r;

	{
		GW_LOCKED(&d->lock);
		r = gw_thread_start(&d->thread, NULL, gw_demand_fault_thread, d);
		if (r < 0)
			return gw_error_set_errno(err, r, "cannot start the thread that answers page faults");
		d->started = true;
		pthread_cond_broadcast(&d->started_cond);
	}
	if (d->config.fresh)
		return 0;
	for (unsigned i = 0; i < d->config.n_regions; i++)
		gw_demand_wake(d, d->regions[i].where.hva, gw_round_up(d->regions[i].where.ram->size_bytes,
		                                             d->regions[i].where.ram->page_size_bytes));
	return 0;
}

void gw_demand_mark_loaded(struct gw_demand *d)
{
	d->file->loaded = 1;
}

bool gw_demand_was_loaded(const char *path)
{
	gw_autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct gw_demand_states head;

	return fd >= 0 && read(fd, &head, sizeof(head)) == sizeof(head) && head.magic == STATES_MAGIC && head.loaded;
}

void gw_demand_cancel(struct gw_demand *d)
{
	GW_LOCKED(&d->lock);
	atomic_store(&d->stop, true);
	pthread_cond_broadcast(&d->started_cond);
}

void gw_demand_free(struct gw_demand *d)
{
	bool started;

	if (!d)
		return;
	gw_demand_cancel(d);
	{
		GW_LOCKED(&d->lock);
		started = d->started;
	}
	if (started) {
		eventfd_write(d->stop_fd, 1);
		pthread_join(d->thread, NULL);
	}
	if (d->file)
		munmap(d->file, d->file_bytes);
	if (d->stop_fd >= 0)
		close(d->stop_fd);
	close(d->config.uffd);
	pthread_cond_destroy(&d->started_cond);
	pthread_mutex_destroy(&d->lock);
	free(d);
}
