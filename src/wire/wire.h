/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The only bytes that cross hosts; docs/wire.md describes the same in prose.
 *
 * Every integer is little-endian; every struct is packed and has its size asserted. Nothing here is used
 * at run time except to be encoded and decoded by codec.c. A connection starts with Hello/Welcome, whatever
 * it is for; then a control connection carries Frames and a data channel carries Batches.
 *
 * Limits are checked before anything is allocated or written: a peer that breaks one is told so in an
 * error frame where possible, and the connection ends.
 */
#ifndef GW_WIRE_WIRE_H
#define GW_WIRE_WIRE_H

#include <assert.h>
#include <stdint.h>

#define GW_WIRE_PORT 7700
#define GW_WIRE_MAGIC "GODWIT\r\n" /* shows text-mode mangling at once */
#define GW_WIRE_MAGIC_LEN 8

#define GW_WIRE_VERSION_MIN 1
#define GW_WIRE_VERSION_MAX 1

/* Features are offered by the connecting side; the answer is the subset that both have. */
#define GW_WIRE_FEATURE_VERIFY 0x1u /* VERIFY / DIGESTS frames */
#define GW_WIRE_FEATURE_PACKED 0x2u /* run kinds LZ4, ZSTD and DELTA */
#define GW_WIRE_FEATURE_POSTCOPY 0x4u /* OWED batches and frames, COMPLETE, ROLE_RECOVER, the demand channel */
#define GW_WIRE_FEATURES (GW_WIRE_FEATURE_VERIFY | GW_WIRE_FEATURE_PACKED | GW_WIRE_FEATURE_POSTCOPY)

#define GW_WIRE_CHANNELS_MAX 64u
#define GW_WIRE_PAGE_BYTES 4096u
#define GW_WIRE_PAGE_SHIFT 12
/* A page belongs to channel (page / STRIPE) % channels for the whole migration (never overtaken). */
#define GW_WIRE_STRIPE_PAGES 512u
#define GW_WIRE_RUNS_MAX 256u
#define GW_WIRE_BATCH_PAGES_MAX 1024u   /* of payload */
#define GW_WIRE_RUN_PAGES_MAX (1u << 20) /* zero runs may be long */
#define GW_WIRE_PACKED_PAGES_MAX 16u     /* of a packed run: its length fits in 16 bits */
#define GW_WIRE_PACKED_BATCH_MAX (1u << 20) /* bytes of all packed runs of a batch */
#define GW_WIRE_TEXT_MAX 900u
#define GW_WIRE_JSON_MAX (256u * 1024)
#define GW_WIRE_STATE_CHUNK_MAX (256u * 1024)
#define GW_WIRE_STATE_TOTAL_MAX (256u * 1024 * 1024)
#define GW_WIRE_EXTENTS_MAX 16384u
#define GW_WIRE_DIGESTS_MAX 8192u
#define GW_WIRE_OWED_PAGES_MAX (1u << 20) /* in one OWED frame: 4 GiB of RAM, 128 KiB of bitmap */
#define GW_WIRE_DEMAND_PAGES_MAX 512u     /* in one demand: a large page */
#define GW_WIRE_RAM_MAX_BYTES (64ull << 40)

struct gw_wire_id {
	uint8_t bytes[16]; /* a migration, random */
} __attribute__((packed));

/* What a connection is for. */
enum gw_wire_role {
	GW_WIRE_ROLE_CONTROL = 1, /* source -> target: one migration's control, or a preflight question */
	GW_WIRE_ROLE_DATA = 2,    /* source -> target: one data channel */
	GW_WIRE_ROLE_ASK = 3,     /* target -> source: what was decided about this migration? */
	GW_WIRE_ROLE_TELL = 4,    /* source -> target: it was decided; is the guest running? */
	GW_WIRE_ROLE_RECOVER = 5, /* source -> target: a new control connection of a post-copy whose link was lost */
};

struct gw_wire_hello {
	uint8_t magic[GW_WIRE_MAGIC_LEN];
	uint16_t version_min, version_max;
	uint32_t features;
	uint8_t role;
	uint8_t reserved0;
	uint16_t channel; /* ROLE_DATA: which one */
	uint32_t reserved1;
	struct gw_wire_id migration;
	uint8_t token[16]; /* ROLE_DATA: from PREPARED */
	uint8_t reserved2[8];
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_hello) == 64, "wire");

struct gw_wire_welcome {
	uint8_t magic[GW_WIRE_MAGIC_LEN];
	uint16_t version; /* chosen; 0 when refused */
	uint16_t text_length; /* of the text that follows when refused, <= GW_WIRE_TEXT_MAX */
	uint32_t features;
	int32_t result; /* 0 or a negative errno */
	uint32_t reserved;
	uint8_t reserved2[8];
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_welcome) == 32, "wire");

/* Control frames. Each has its row in gw_wire_frame_table. */
enum gw_wire_frame_type {
	GW_WIRE_PREPARE = 1,   /* S->T JSON: create this VM */
	GW_WIRE_PREPARED = 2,  /* T->S JSON: created, waiting; token for the data channels */
	GW_WIRE_PREFLIGHT = 3, /* S->T JSON: as PREPARE, but only say what would stand in the way */
	GW_WIRE_VERDICT = 4,   /* T->S JSON: reasons */
	GW_WIRE_LAYOUT = 5,    /* S->T extents of RAM that hold data, to be populated ahead */
	GW_WIRE_PASS = 6,      /* S->T is this pass in RAM? T->S the same, once it is and page tables are populated */
	GW_WIRE_SWITCH = 7,    /* S->T the guest is stopped; last pages and state follow */
	GW_WIRE_STATE = 8,     /* S->T a piece of device state */
	GW_WIRE_SENT = 9,      /* S->T everything was sent: SENT(M) */
	GW_WIRE_READY = 10,    /* T->S everything arrived and is loaded: READY(M); repeated when asked */
	GW_WIRE_VERIFY = 11,   /* S->T send digests of these blocks */
	GW_WIRE_DIGESTS = 12,  /* T->S */
	GW_WIRE_COMMIT = 13,   /* S->T the decision: run */
	GW_WIRE_RUNNING = 14,  /* T->S runs, and is recorded as the owner */
	GW_WIRE_ABORT = 15,    /* S->T the decision: discard; text */
	GW_WIRE_FAILED = 16,   /* either: cannot go on; code and text */
	GW_WIRE_ANSWER = 17,   /* S->T on ROLE_ASK and ROLE_TELL; as WAIT on a control connection: still READY? */
	GW_WIRE_OWED = 18,     /* either: pages that the target lacks (S->T at the switch, T->S after a lost link) */
	GW_WIRE_COMPLETE = 19, /* T->S the target lacks nothing any more: the source may free its copy */
	GW_WIRE_RECOVER = 20,  /* T->S JSON, first on ROLE_RECOVER: token for new data channels, pages owed; OWED follow */
	GW_WIRE_FRAME_TYPES
};

struct gw_wire_frame {
	uint32_t type;
	uint32_t length; /* of the body, <= the row's limit */
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_frame) == 8, "wire");

struct gw_wire_frame_row {
	const char *name;
	uint32_t min_length, max_length;
};
extern const struct gw_wire_frame_row gw_wire_frame_table[GW_WIRE_FRAME_TYPES];

struct gw_wire_extent {
	uint32_t region;
	uint32_t n_pages;
	uint64_t first_page;
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_extent) == 16, "wire");

struct gw_wire_pass {
	uint32_t pass;
	uint32_t owing; /* SWITCH: 1 when pages will be owed, and OWED frames follow; else 0 */
	uint64_t pages;
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_pass) == 16, "wire");

struct gw_wire_sent {
	uint32_t pass;         /* the last pass: its barrier closes every channel */
	uint32_t reserved;
	uint64_t pages;        /* page records sent in the whole migration, over all channels */
	uint64_t state_bytes;
	uint64_t state_digest; /* XXH3-64 of the device state */
	uint64_t owed_pages;   /* named in OWED frames since SWITCH: they follow by post-copy; 0 without it */
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_sent) == 40, "wire");

struct gw_wire_ready {
	uint64_t ram_wait_ns; /* from SWITCH until the last page was in */
	uint64_t load_ns;     /* loading the device state */
	uint64_t populate_ns; /* page tables before resume, all of it (most before the pause) */
	uint64_t huge_bytes;  /* of guest RAM, mapped by huge mappings in the VMM; 0 also when not known */
	uint64_t owed_pages;  /* that the target still lacks: READY, as long as the source can serve them */
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_ready) == 40, "wire");

struct gw_wire_verify {
	uint32_t region;
	uint32_t block_pages; /* 1..STRIPE */
	uint64_t first_page;
	uint32_t n_blocks;    /* <= DIGESTS_MAX */
	uint32_t reserved;
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_verify) == 24, "wire");

struct gw_wire_digest {
	uint64_t low, high; /* XXH3-128 */
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_digest) == 16, "wire");

struct gw_wire_commit {
	uint64_t epoch; /* E+1, the target's */
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_commit) == 8, "wire");

struct gw_wire_running {
	uint64_t fence_ns;
	uint64_t resume_ns;
	uint64_t record_ns;
	uint64_t owed_pages; /* that the target still lacks; 0: the source may free its copy */
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_running) == 32, "wire");

/* A bitmap follows: bit i (byte i / 8, bit i % 8) is page first_page + i; bits beyond n_pages are clear. */
struct gw_wire_owed {
	uint32_t region;
	uint32_t n_pages; /* <= OWED_PAGES_MAX */
	uint64_t first_page;
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_owed) == 16, "wire");

struct gw_wire_complete {
	uint64_t demanded;     /* faults that had to wait for the source */
	uint64_t fault_p50_ns; /* from the fault to the page in place */
	uint64_t fault_p99_ns;
	uint64_t fault_max_ns;
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_complete) == 32, "wire");

struct gw_wire_failed {
	int32_t code; /* negative errno; text follows */
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_failed) == 4, "wire");

struct gw_wire_answer {
	uint32_t answer; /* enum gw_wire_answer_value */
	uint32_t reserved;
	uint64_t epoch;
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_answer) == 16, "wire");

enum gw_wire_answer_value {
	GW_WIRE_ANSWER_WAIT = 0,
	GW_WIRE_ANSWER_COMMIT = 1,
	GW_WIRE_ANSWER_ABORT = 2,
};

/* Data channels. */
enum gw_wire_batch_kind {
	GW_WIRE_BATCH_PAGES = 1,   /* runs, then their payload in their order */
	GW_WIRE_BATCH_BARRIER = 2, /* end of a pass on this channel */
	/* Post-copy: as PAGES, of final contents, on any channel and on any stripe. A page that is in place at the target
	 * already is read and thrown away: the guest may have written to it. */
	GW_WIRE_BATCH_OWED = 3,
};

/* T->S on the demand channel (the one numbered `channels`), nothing before or between them: these pages first. */
struct gw_wire_demand {
	uint32_t region;
	uint32_t n_pages; /* 1..DEMAND_PAGES_MAX */
	uint64_t first_page;
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_demand) == 16, "wire");

enum gw_wire_run_kind {
	GW_WIRE_RUN_RAW = 0,   /* the pages themselves */
	GW_WIRE_RUN_ZERO = 1,  /* nothing */
	/* Packed; only with FEATURE_PACKED. packed_bytes that unpack to exactly n_pages pages. */
	GW_WIRE_RUN_LZ4 = 2,   /* one LZ4 block */
	GW_WIRE_RUN_ZSTD = 3,  /* one zstd frame */
	GW_WIRE_RUN_DELTA = 4, /* one LZ4 block of what differs (exclusive or) from the version sent before */
	GW_WIRE_RUN_KINDS
};

struct gw_wire_batch {
	uint32_t magic; /* GW_WIRE_BATCH_MAGIC: a stream out of step shows at once */
	uint16_t kind;
	uint16_t n_runs;
	uint32_t region;
	uint32_t pass;
	uint64_t payload_bytes; /* sum over the runs */
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_batch) == 24, "wire");
#define GW_WIRE_BATCH_MAGIC 0x54425747u /* "GWBT" */

struct gw_wire_run {
	uint64_t first_page;
	uint32_t n_pages;
	uint16_t kind;
	uint16_t packed_bytes; /* of a packed run, less than its pages; 0 for others */
} __attribute__((packed));
static_assert(sizeof(struct gw_wire_run) == 16, "wire");

#endif
