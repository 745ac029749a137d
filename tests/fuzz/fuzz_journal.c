/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any bytes as slots of an ownership record: it opens, reads only whole records, and takes a newer one. */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/cleanup.h"
#include "migration/journal.h"
#include "replay.h"

#define SLOT_BYTES 4096
#define SLOTS 16
#define SUM_AT 480 /* where a slot's checksum lies: over all before it */
#define SEQUENCE_AT 8

static void demand(bool good)
{
	if (!good)
		abort();
}

/* One piece of the input: which slot, whether its checksum is to be right, then the slot's bytes. */
struct piece {
	uint8_t slot, flags;
	uint8_t bytes[SUM_AT + 8];
};

static void place(int fd, const uint8_t *data, size_t size)
{
	struct piece p = { 0 };

	memcpy(&p, data, GW_MIN(size, sizeof(p)));
	if (p.flags & 1) {
		uint64_t sum;

		memset(p.bytes + SEQUENCE_AT + 6, 0, 2); /* nobody writes 2^48 records */
		sum = XXH3_64bits(p.bytes, SUM_AT);
		memcpy(p.bytes + SUM_AT, &sum, sizeof(sum));
	}
	demand(pwrite(fd, p.bytes, sizeof(p.bytes), (off_t)(p.slot % SLOTS) * SLOT_BYTES) == sizeof(p.bytes));
}

static void make_file(const char *path, const uint8_t *data, size_t size)
{
	gw_autofd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	demand(fd >= 0);
	if (size == 0)
		return;
	for (size_t at = 1; at < size; at += sizeof(struct piece))
		place(fd, data + at, size - at);
	/* Mostly whole, sometimes cut short or too long. */
	demand(ftruncate(fd, data[0] < 250 ? SLOTS * SLOT_BYTES : data[0] * 300) == 0);
}

static void open_journal(const char *path, struct gw_journal **ret, struct gw_record *last)
{
	memset(last, 0xee, sizeof(*last));
	demand(gw_journal_open(path, ret, last, NULL) == 0);
	demand(last->state < GW_RECORD_STATES);
	demand(memchr(last->peer_name, 0, sizeof(last->peer_name)) != NULL);
	demand(memchr(last->peer_address, 0, sizeof(last->peer_address)) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gw_record mine = { .state = GW_RECORD_RUNNING, .epoch = 77, .peer_name = "beta" }, last;
	struct gw_journal *j;
	char path[64];

	snprintf(path, sizeof(path), "/dev/shm/gw-fuzz-journal-%d", (int)getpid());
	make_file(path, data, size);
	open_journal(path, &j, &last);
	demand(gw_journal_write(j, &mine, NULL) == 0);
	gw_journal_free(j);
	open_journal(path, &j, &last);
	demand(last.state == mine.state && last.epoch == mine.epoch && !strcmp(last.peer_name, mine.peer_name));
	demand(!last.peer_address[0] && !memcmp(&last.migration, &mine.migration, sizeof(mine.migration)));
	gw_journal_free(j);
	unlink(path);
	return 0;
}
