/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest RAM as the engine's process sees it: mapping, holes, first touch, digests. */
#include "memory/ram.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "memory/kernel_compat.h"

#define POPULATE_PIECE_PAGES 1024 /* 4 MiB: stop is looked at often, the call's cost is lost in it */

int gw_ram_map(struct gw_ram *ram, const char *path, uint64_t size_bytes, uint64_t page_size_bytes,
               bool writable, struct gw_error *err)
{
	gw_autofd int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	void *p;

	if (fd < 0 || fstat(fd, &st) < 0)
		return gw_error_set_errno(err, errno, "cannot open guest RAM %s", path);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < size_bytes ||
	    (uint64_t)st.st_size > gw_round_up(size_bytes, GW_MAX(page_size_bytes, 2u << 20)))
		return gw_error_set(err, EINVAL, "guest RAM %s is %" PRIu64 " bytes long, expected %" PRIu64, path,
		                    (uint64_t)st.st_size, size_bytes);
	if (size_bytes % GW_PAGE_BYTES || size_bytes == 0)
		return gw_error_set(err, EINVAL, "guest RAM %s is not a whole number of pages", path);
	p = mmap(NULL, gw_round_up(size_bytes, page_size_bytes), PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED,
	         fd, 0);
	if (p == MAP_FAILED)
		return gw_error_set_errno(err, errno, "cannot map guest RAM %s", path);
	*ram = (struct gw_ram){
		.base = p, .size_bytes = size_bytes, .n_pages = size_bytes >> GW_PAGE_SHIFT,
		.page_size_bytes = page_size_bytes, .writable = writable,
	};
	ram->fd = gw_steal_fd(&fd);
	return 0;
}

void gw_ram_unmap(struct gw_ram *ram)
{
	if (!ram->base)
		return;
	munmap(ram->base, gw_round_up(ram->size_bytes, ram->page_size_bytes));
	close(ram->fd);
	*ram = (struct gw_ram){ .fd = -1 };
}

int gw_ram_create(const char *path, uint64_t size_bytes, uint64_t page_size_bytes, struct gw_error *err)
{
	gw_autofd int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return gw_error_set_errno(err, errno, "cannot create guest RAM %s", path);
	if (ftruncate(fd, (off_t)gw_round_up(size_bytes, page_size_bytes)) < 0) {
		int r = gw_error_set_errno(err, errno, "cannot size guest RAM %s to %" PRIu64 " bytes", path, size_bytes);

		unlink(path);
		return r;
	}
	return 0;
}

int gw_ram_find_data(const struct gw_ram *ram, struct gw_bitmap *into, struct gw_error *err)
{
	off_t end = (off_t)ram->size_bytes, at = 0;

	while (at < end) {
		off_t data = lseek(ram->fd, at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			break;
		hole = lseek(ram->fd, data, SEEK_HOLE);
		if (hole < 0)
			break;
		gw_bitmap_set_range(into, (size_t)data >> GW_PAGE_SHIFT,
		                    (size_t)((hole + GW_PAGE_BYTES - 1) >> GW_PAGE_SHIFT) -
		                            ((size_t)data >> GW_PAGE_SHIFT));
		at = hole;
	}
	if (at < end) /* a file system without SEEK_DATA: take everything */
		gw_bitmap_set_range(into, 0, ram->n_pages);
	return 0;
}

static int populate_piece(uint8_t *at, size_t len, size_t step)
{
	if (madvise(at, len, MADV_POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	/* Before Linux 5.14. Adding nothing keeps what may be there already. */
	for (size_t o = 0; o < len; o += step)
		__atomic_fetch_add(at + o, 0, __ATOMIC_RELAXED);
	return 0;
}

int gw_ram_populate(const struct gw_ram *ram, uint64_t first_page, uint64_t n_pages, const atomic_bool *stop,
                    struct gw_error *err)
{
	uint64_t end = first_page + n_pages;

	while (first_page < end && !atomic_load_explicit(stop, memory_order_relaxed)) {
		uint64_t n = GW_MIN(end - first_page, POPULATE_PIECE_PAGES);
		uint8_t *at = ram->base + (first_page << GW_PAGE_SHIFT);
		int r;

		at -= ((first_page << GW_PAGE_SHIFT) % ram->page_size_bytes);
		r = populate_piece(at, gw_round_up(n << GW_PAGE_SHIFT, ram->page_size_bytes), GW_PAGE_BYTES);
		if (r < 0)
			return gw_error_set_errno(err, r == -EFAULT ? ENOMEM : r, "cannot allocate guest RAM");
		first_page += n;
	}
	return 0;
}

/* The data at or after `at`: [*data, *hole). A file system that cannot tell (hugetlbfs) has data everywhere. */
static int next_extent(int fd, off_t at, off_t *data, off_t *hole)
{
	*data = lseek(fd, at, SEEK_DATA);
	*hole = INT64_MAX;
	if (*data >= 0) {
		*hole = lseek(fd, *data, SEEK_HOLE);
		return *hole < 0 ? -errno : 0;
	}
	if (errno != ENXIO && errno != EINVAL)
		return -errno;
	*data = errno == ENXIO ? INT64_MAX : at;
	return 0;
}

/* Pages of the block that lie in the hole [at, ...): fed to the hash as zeros. */
static int digest_block(const struct gw_ram *ram, uint64_t first, uint64_t n, XXH3_state_t *state)
{
	static const uint8_t zeros[GW_PAGE_BYTES];
	off_t data = -1, hole = -1;

	XXH3_128bits_reset(state);
	for (uint64_t p = first; p < first + n; p++) {
		off_t at = (off_t)(p << GW_PAGE_SHIFT);

		if (hole <= at) { /* beyond the known data extent: find the next */
			int r = next_extent(ram->fd, at, &data, &hole);

			if (r < 0)
				return r;
		}
		XXH3_128bits_update(state, at < data ? zeros : ram->base + at, GW_PAGE_BYTES);
	}
	return 0;
}

int gw_ram_digests(const struct gw_ram *ram, uint64_t first_page, uint32_t block_pages, uint32_t n_blocks,
                   struct gw_wire_digest *ret, struct gw_error *err)
{
	XXH3_state_t state;

	for (uint32_t i = 0; i < n_blocks; i++) {
		uint64_t first = first_page + (uint64_t)i * block_pages;
		XXH128_hash_t h;
		int r;

		if (first >= ram->n_pages)
			return gw_error_set(err, EINVAL, "digest of memory that does not exist");
		r = digest_block(ram, first, GW_MIN(block_pages, ram->n_pages - first), &state);
		if (r < 0)
			return gw_error_set_errno(err, r, "cannot look for holes in guest RAM");
		h = XXH3_128bits_digest(&state);
		ret[i] = (struct gw_wire_digest){ .low = h.low64, .high = h.high64 };
	}
	return 0;
}
