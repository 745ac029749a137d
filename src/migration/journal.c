/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ownership record of one VM on this host: a ring of checksummed slots. */
#include "migration/journal.h"

#include <endian.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/fault.h"

#define SLOT_BYTES 4096
#define SLOTS 16
#define MAGIC 0x314c4e524a574700ull /* "\0GWJRNL1" */

/* On disk, little-endian. */
struct slot {
	uint64_t magic, sequence;
	uint32_t state, reserved;
	uint64_t epoch;
	struct gw_wire_id migration;
	char peer_name[128];
	char peer_address[304];
	uint64_t checksum; /* XXH3-64 of all before it */
} __attribute__((packed));
static_assert(sizeof(struct slot) <= SLOT_BYTES, "journal slot");

struct gw_journal {
	int fd;
	uint64_t next_sequence;
	char *path;
};

static const char *const state_names[GW_RECORD_STATES] = {
	[GW_RECORD_NONE] = "none",           [GW_RECORD_RUNNING] = "running",
	[GW_RECORD_MIGRATING] = "migrating", [GW_RECORD_COMMITTED] = "committed",
	[GW_RECORD_ABORTED] = "aborted",     [GW_RECORD_INCOMING] = "incoming",
};

const char *gw_record_state_name(enum gw_record_state s)
{
	return s < GW_RECORD_STATES ? state_names[s] : "?";
}

static uint64_t checksum(const struct slot *s)
{
	return XXH3_64bits(s, offsetof(struct slot, checksum));
}

static bool slot_good(const struct slot *s)
{
	return le64toh(s->magic) == MAGIC && le64toh(s->checksum) == checksum(s) &&
	       le32toh(s->state) < GW_RECORD_STATES && le64toh(s->sequence) > 0;
}

static void slot_decode(const struct slot *s, struct gw_record *rec)
{
	*rec = (struct gw_record){
		.state = (enum gw_record_state)le32toh(s->state),
		.epoch = le64toh(s->epoch),
		.migration = s->migration,
	};
	memcpy(rec->peer_name, s->peer_name, sizeof(rec->peer_name) - 1);
	memcpy(rec->peer_address, s->peer_address, sizeof(rec->peer_address) - 1);
}

static void slot_encode(const struct gw_record *rec, uint64_t sequence, struct slot *s)
{
	*s = (struct slot){
		.magic = htole64(MAGIC),
		.sequence = htole64(sequence),
		.state = htole32((uint32_t)rec->state),
		.epoch = htole64(rec->epoch),
		.migration = rec->migration,
	};
	memcpy(s->peer_name, rec->peer_name, strnlen(rec->peer_name, sizeof(s->peer_name) - 1));
	memcpy(s->peer_address, rec->peer_address, strnlen(rec->peer_address, sizeof(s->peer_address) - 1));
	s->checksum = htole64(checksum(s));
}

static int read_newest(struct gw_journal *j, struct gw_record *ret)
{
	struct slot s;

	*ret = (struct gw_record){ .state = GW_RECORD_NONE };
	for (unsigned i = 0; i < SLOTS; i++) {
		ssize_t n = pread(j->fd, &s, sizeof(s), (off_t)i * SLOT_BYTES);

		if (n < 0)
			return -errno;
		if (n < (ssize_t)sizeof(s) || !slot_good(&s) || le64toh(s.sequence) < j->next_sequence)
			continue;
		slot_decode(&s, ret);
		j->next_sequence = le64toh(s.sequence) + 1;
	}
	return 0;
}

/* Blocks are written once with zeros: later writes then need no allocation. */
static int allocate(int fd)
{
	static const char zeros[SLOT_BYTES];

	for (unsigned i = 0; i < SLOTS; i++)
		if (pwrite(fd, zeros, sizeof(zeros), (off_t)i * SLOT_BYTES) != sizeof(zeros))
			return errno ? -errno : -ENOSPC;
	return fsync(fd) < 0 ? -errno : 0;
}

int gw_journal_open(const char *path, struct gw_journal **ret, struct gw_record *ret_last, struct gw_error *err)
{
	struct gw_journal *j = calloc(1, sizeof(*j));
	struct stat st;
	int r = 0;

	if (!j)
		return gw_error_set(err, ENOMEM, "out of memory");
	j->next_sequence = 1;
	j->path = strdup(path);
	j->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (j->fd < 0 || fstat(j->fd, &st) < 0)
		r = -errno;
	else if (st.st_size < (off_t)SLOTS * SLOT_BYTES)
		r = allocate(j->fd);
	if (r == 0)
		r = read_newest(j, ret_last);
	if (r < 0) {
		gw_journal_free(j);
		return gw_error_set_errno(err, r, "cannot open the ownership record %s", path);
	}
	*ret = j;
	return 0;
}

int gw_journal_write(struct gw_journal *j, const struct gw_record *rec, struct gw_error *err)
{
	struct slot s;
	off_t at = (off_t)(j->next_sequence % SLOTS) * SLOT_BYTES;
	ssize_t n;
	int r = gw_fault(rec->state == GW_RECORD_COMMITTED ? "journal-commit" :
	                 rec->state == GW_RECORD_ABORTED   ? "journal-abort" :
	                                                     "journal-write");

	slot_encode(rec, j->next_sequence++, &s);
	if (r == 0) {
		n = pwrite(j->fd, &s, sizeof(s), at);
		if (n != (ssize_t)sizeof(s))
			r = n < 0 ? -errno : -ENOSPC;
		else if (fdatasync(j->fd) < 0)
			r = -errno;
	}
	if (r < 0)
		return gw_error_set_errno(err, r, "cannot write the ownership record %s", j->path);
	return 0;
}

void gw_journal_free(struct gw_journal *j)
{
	if (!j)
		return;
	if (j->fd >= 0)
		close(j->fd);
	free(j->path);
	free(j);
}
