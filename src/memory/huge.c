/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Huge mappings of another process: how many there are, where, and making them anew (V1, V5). */
#include "memory/huge.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "memory/kernel_compat.h"

#define VEC_LEN 512
#define SCAN_BYTES (1ull << 30)         /* in one call: a fraction of a millisecond */
#define ROUNDS 5                        /* of a restore: pages may be pinned for a moment */
#define ROUND_PAUSE_NS (200 * GW_NS_PER_MS)
#define BREATH_CHUNKS 64                /* 128 MiB, then a pause: the guest's faults come first */

/* The fields of smaps that count what is mapped by more than page tables of 4 KiB. */
static uint64_t huge_kib(const char *line)
{
	static const char *const keys[] = { "ShmemPmdMapped:", "FilePmdMapped:", "AnonHugePages:", "Shared_Hugetlb:",
		                            "Private_Hugetlb:" };

	for (size_t i = 0; i < GW_ARRAY_SIZE(keys); i++)
		if (strncmp(line, keys[i], strlen(keys[i])) == 0)
			return strtoull(line + strlen(keys[i]), NULL, 10);
	return 0;
}

int gw_huge_find(pid_t pid, uint64_t hva, uint64_t size_bytes, struct gw_bitmap *into)
{
	struct page_region vec[VEC_LEN];
	uint64_t at = hva, end = hva + size_bytes;
	gw_autofd int fd = -1;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (at < end) {
		struct pm_scan_arg q = {
			.size = sizeof(q), .start = at, .end = GW_MIN(at + SCAN_BYTES, end),
			.vec = (uintptr_t)vec, .vec_len = VEC_LEN,
			.category_mask = PAGE_IS_HUGE | PAGE_IS_PRESENT, .return_mask = PAGE_IS_HUGE,
		};
		int n = ioctl(fd, PAGEMAP_SCAN, &q);

		if (n < 0)
			return errno == ENOTTY || errno == EINVAL ? -EOPNOTSUPP : -errno;
		for (int i = 0; i < n; i++)
			gw_bitmap_set_range(into, (vec[i].start - hva) / GW_HUGE_BYTES,
			                    (vec[i].end - vec[i].start) / GW_HUGE_BYTES);
		at = q.walk_end > at ? q.walk_end : q.end;
	}
	return 0;
}

/* Looks at every page and its users: slow for small ones. */
static int mapped_by_smaps(pid_t pid, uint64_t hva, uint64_t size_bytes, uint64_t *ret_bytes)
{
	gw_autofree char *line = NULL;
	gw_autofile FILE *smaps = NULL;
	size_t room = 0;
	uint64_t bytes = 0;
	bool inside = false;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	smaps = fopen(path, "re");
	if (!smaps)
		return -errno;
	while (getline(&line, &room, smaps) > 0) {
		uint64_t start, end;

		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
			inside = start >= hva && end <= hva + size_bytes;
		else if (inside)
			bytes += huge_kib(line) * 1024;
	}
	*ret_bytes = bytes;
	return 0;
}

int gw_huge_mapped(pid_t pid, uint64_t hva, uint64_t size_bytes, uint64_t *ret_bytes)
{
	struct gw_bitmap chunks = { .words = NULL };
	int r = gw_bitmap_init(&chunks, size_bytes / GW_HUGE_BYTES);

	if (r == 0)
		r = gw_huge_find(pid, hva, size_bytes, &chunks);
	if (r == 0)
		*ret_bytes = gw_bitmap_count(&chunks) * GW_HUGE_BYTES;
	gw_bitmap_done(&chunks);
	return r == -EOPNOTSUPP ? mapped_by_smaps(pid, hva, size_bytes, ret_bytes) : r;
}

int gw_huge_collapse(int pidfd, uint64_t hva)
{
	struct iovec iov = { (void *)(uintptr_t)hva, GW_HUGE_BYTES };

	return syscall(SYS_process_madvise, pidfd, &iov, 1, MADV_COLLAPSE, 0) < 0 ? -errno : 0;
}

/* The thread's own. */
struct restore {
	int pidfd, file_fd;
	uint64_t hva;
	struct gw_bitmap chunks; /* still to be done */
};

static void restore_free(struct restore *r)
{
	if (r->pidfd >= 0)
		close(r->pidfd);
	if (r->file_fd >= 0)
		close(r->file_fd);
	gw_bitmap_done(&r->chunks);
	free(r);
}

/* Gathering a hole would fill it, with memory that the guest had given back. */
static bool has_hole(int fd, size_t chunk)
{
	off_t at = (off_t)(chunk * GW_HUGE_BYTES), hole = lseek(fd, at, SEEK_HOLE);

	return hole >= 0 && hole < at + (off_t)GW_HUGE_BYTES;
}

/* false when the process is gone. */
static bool restore_round(struct restore *r)
{
	size_t chunk, n, since_breath = 0;

	for (size_t at = 0; gw_bitmap_next_run(&r->chunks, at, r->chunks.nbits, 1, &chunk, &n); at = chunk + 1) {
		int e = has_hole(r->file_fd, chunk) ? 0 : gw_huge_collapse(r->pidfd, r->hva + chunk * GW_HUGE_BYTES);

		if (e == -ESRCH)
			return false;
		if (e == 0)
			gw_bitmap_clear_range(&r->chunks, chunk, 1);
		if (++since_breath % BREATH_CHUNKS == 0)
			gw_sleep_ns(GW_NS_PER_MS);
	}
	return true;
}

static void *restore_thread(void *arg)
{
	struct restore *r = arg;

	gw_thread_background();
	for (unsigned i = 0; i < ROUNDS && restore_round(r) && gw_bitmap_count(&r->chunks); i++)
		gw_sleep_ns(ROUND_PAUSE_NS);
	restore_free(r);
	return NULL;
}

int gw_huge_restore(pid_t pid, int file_fd, uint64_t hva, struct gw_bitmap *chunks)
{
	struct restore *r = calloc(1, sizeof(*r));
	pthread_attr_t attr;
	pthread_t thread;
	int e;

	if (!r) {
		gw_bitmap_done(chunks);
		return -ENOMEM;
	}
	r->hva = hva;
	r->chunks = *chunks;
	*chunks = (struct gw_bitmap){ .words = NULL };
	r->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	r->file_fd = fcntl(file_fd, F_DUPFD_CLOEXEC, 0);
	if (r->pidfd < 0 || r->file_fd < 0) {
		e = -errno;
		restore_free(r);
		return e;
	}
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	e = gw_thread_start(&thread, &attr, restore_thread, r);
	pthread_attr_destroy(&attr);
	if (e < 0)
		restore_free(r);
	return e;
}
