/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ownership record of one VM on this host (X1): who may run it, durable before anybody is told.
 *
 * A small file of fixed slots that is written in a ring, each record with a sequence number and a checksum, each
 * write followed by fdatasync: a torn or lost write leaves the record before it. The file is allocated when it
 * is made, so that a write in the guest's downtime touches one block and no file-system metadata.
 */
#ifndef GW_MIGRATION_JOURNAL_H
#define GW_MIGRATION_JOURNAL_H

#include <stdint.h>

#include "base/error.h"
#include "wire/wire.h"

enum gw_record_state {
	GW_RECORD_NONE,
	GW_RECORD_RUNNING,   /* this host owns the VM */
	GW_RECORD_MIGRATING, /* source, undecided */
	GW_RECORD_COMMITTED, /* source: given away; never runs here again */
	GW_RECORD_ABORTED,   /* source: stays; owned at the new epoch, to be resumed if it is not running */
	GW_RECORD_INCOMING,  /* target: a copy is here, the decision is the source's */
	GW_RECORD_STATES
};

struct gw_record {
	enum gw_record_state state;
	uint64_t epoch; /* of the owner: +1 with every decision */
	struct gw_wire_id migration;
	char peer_name[128];
	char peer_address[304]; /* where the other host's daemon answers */
};

struct gw_journal;

const char *gw_record_state_name(enum gw_record_state s);

/* Opens the journal, making it when there is none; *ret_last is the newest good record (state NONE if none). */
int gw_journal_open(const char *path, struct gw_journal **ret, struct gw_record *ret_last, struct gw_error *err);

/* Appends and makes durable. On failure the outcome on disk is unknown. */
int gw_journal_write(struct gw_journal *j, const struct gw_record *rec, struct gw_error *err);

void gw_journal_free(struct gw_journal *j);

#endif
