/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Takes the place of the C library's madvise() and fallocate(), and skips discards of guest memory on request.
 *
 * Theory of operation
 *
 * A balloon, or a guest that reports its free pages, makes the VMM throw pages away: a hole in the file where the page
 * was. A write tracer sees no write there, so that a page which was sent already would stay at the target as it was
 * while it reads as zeros at the source. Skipping is always allowed: whoever discards has promised that the contents
 * do not matter, and gets the memory back by the next discard after the migration.
 *
 * Invariants
 *  - What is not a discard of held memory goes to the kernel unchanged: a disk image's hole is data, not advice.
 *  - Counted in before looking at what is held, counted out after the system call: once the count was seen at zero
 *    after a hold was entered, no discard of that memory is under way.
 */
#undef _FILE_OFFSET_BITS /* with it the C library would rename what is defined here */
#include "shim/discard.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HOLDS_MAX 16
#define EXPORTED __attribute__((visibility("default")))

/* Entered and taken out by the library's thread alone; `kind` is what publishes an entry. */
static struct {
	atomic_int kind;
	atomic_uint owner;
	atomic_ullong a, b;
} holds[HOLDS_MAX];
static atomic_uint under_way;
static __thread bool exempt; /* the library's own thread knows what it does */

int gw_discard_hold(unsigned owner, enum gw_discard_kind kind, uint64_t a, uint64_t b)
{
	for (unsigned i = 0; i < HOLDS_MAX; i++) {
		if (holds[i].kind != GW_DISCARD_NONE)
			continue;
		holds[i].owner = owner;
		holds[i].a = a;
		holds[i].b = b;
		holds[i].kind = kind;
		return 0;
	}
	return -ENOSPC;
}

void gw_discard_exempt_thread(void)
{
	exempt = true;
}

bool gw_discard_quiet(void)
{
	return under_way == 0;
}

bool gw_discard_holds(unsigned owner)
{
	for (unsigned i = 0; i < HOLDS_MAX; i++)
		if (holds[i].kind != GW_DISCARD_NONE && holds[i].owner == owner)
			return true;
	return false;
}

void gw_discard_release(unsigned owner)
{
	for (unsigned i = 0; i < HOLDS_MAX; i++)
		if (holds[i].owner == owner)
			holds[i].kind = GW_DISCARD_NONE;
}

static bool memory_held(uint64_t from, uint64_t to)
{
	for (unsigned i = 0; i < HOLDS_MAX; i++)
		if (holds[i].kind == GW_DISCARD_MEMORY && from < holds[i].a + holds[i].b && to > holds[i].a)
			return true;
	return false;
}

static bool file_held(int fd)
{
	struct stat st;
	bool known = false;

	for (unsigned i = 0; i < HOLDS_MAX; i++) {
		if (holds[i].kind != GW_DISCARD_FILE)
			continue;
		if (!known && fstat(fd, &st) < 0)
			return false;
		known = true;
		if (holds[i].a == st.st_dev && holds[i].b == st.st_ino)
			return true;
	}
	return false;
}

EXPORTED int madvise(void *address, size_t length, int advice)
{
	bool discard = advice == MADV_DONTNEED || advice == MADV_REMOVE || advice == MADV_FREE;
	int r = 0;

	if (!discard || exempt)
		return (int)syscall(SYS_madvise, address, length, advice);
	under_way++;
	if (!memory_held((uintptr_t)address, (uintptr_t)address + length))
		r = (int)syscall(SYS_madvise, address, length, advice);
	under_way--;
	return r;
}

static int punch(int fd, int mode, off_t offset, off_t length)
{
	int r = 0;

	under_way++;
	if (!file_held(fd))
		r = (int)syscall(SYS_fallocate, fd, mode, offset, length);
	under_way--;
	return r;
}

EXPORTED int fallocate(int fd, int mode, off_t offset, off_t length)
{
	return mode & FALLOC_FL_PUNCH_HOLE ? punch(fd, mode, offset, length) :
	                                     (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

/* The name under which programs built for large files call it; on 64 bits the same function. */
EXPORTED int fallocate64(int fd, int mode, off_t offset, off_t length) __attribute__((alias("fallocate")));
