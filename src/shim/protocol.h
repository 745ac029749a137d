/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests to the preloaded library, over its unix stream socket; one host, one build, no byte order.
 *
 * A client sends one request and waits for its reply before the next. The connection is dropped at the
 * first malformed request. Only processes of the same user and root are served.
 */
#ifndef GW_SHIM_PROTOCOL_H
#define GW_SHIM_PROTOCOL_H

#include <stdint.h>

#define GW_SHIM_SOCKET_ENV "GODWIT_SHIM_SOCKET"
#define GW_SHIM_MAGIC 0x4d485347u /* "GSHM" */
#define GW_SHIM_VERSION 2u

enum gw_shim_command {
	GW_SHIM_HELLO = 1,          /* value: GW_SHIM_VERSION */
	/* A fresh userfaultfd of this address space rides on the reply as SCM_RIGHTS. It is O_NONBLOCK,
	 * O_CLOEXEC and UFFDIO_API was not called. */
	GW_SHIM_USERFAULTFD = 2,
	/* madvise() over [address, address + length), in pieces. value: bytes done, also on failure.
	 * Ends when the client closes. Must not be asked for a range whose faults wait for a
	 * userfaultfd: the one thread that serves all clients would wait with them. */
	GW_SHIM_POPULATE_WRITE = 3,
	/* As GW_SHIM_USERFAULTFD, but a copy stays open here: while that lives, threads that touch a missing page wait
	 * instead of seeing a wrong one, whatever becomes of the client. Asked again it gives the same one; value: 1
	 * when it was made just now, 0 when it was there before. */
	GW_SHIM_KEEP_USERFAULTFD = 5,
	/* Closes the kept copy. 0 also when there is none. */
	GW_SHIM_DROP_USERFAULTFD = 6,
	/* Takes [address, address + length) out of the page tables; what it maps stays in its file. Refused (-EINVAL) for
	 * anything but a shared file mapping: private memory would be lost. */
	GW_SHIM_UNMAP_PAGES = 7,
	/* As long as this connection lives, discards are skipped: of memory [address, address + length), by madvise();
	 * of the file with st_dev `address` and st_ino `length`, by fallocate(). The reply says that none is under way. */
	GW_SHIM_HOLD_MEMORY = 8,
	GW_SHIM_HOLD_FILE = 9,
	/* As GW_SHIM_POPULATE_WRITE, for shared memory whose pages are in the file: the kernel maps 16 of them a fault and
	 * writable all the same, in a third to a quarter of the time. */
	GW_SHIM_POPULATE_READ = 10,
};

struct gw_shim_request {
	uint32_t magic;
	uint32_t command;
	uint64_t address;
	uint64_t length;
} __attribute__((packed));

struct gw_shim_reply {
	int32_t result; /* 0 or a negative errno */
	uint32_t pad;
	uint64_t value;
} __attribute__((packed));

_Static_assert(sizeof(struct gw_shim_request) == 24, "request size");
_Static_assert(sizeof(struct gw_shim_reply) == 16, "reply size");

#endif
