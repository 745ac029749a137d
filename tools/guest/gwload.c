/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The load inside a test guest: dirties memory at a rate, checks it, and sends a heartbeat out. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "beat.h"
#include "pattern.h"

#define NS_PER_S 1000000000ull
#define STEP_NS 2000000ull     /* pacing: writes are made in small groups this far apart */
#define CATCH_UP_NS 50000000ull /* of time lost (paused, starved) no more than this is made up for */
#define BATCH_PAGES 64u
#define RATE_MAX UINT64_MAX
#define THREADS_MAX 16
#define SEED 0x60d171ull
#define PORT_WAIT_NS (10 * NS_PER_S)

enum pattern { PATTERN_UNIFORM, PATTERN_SEQ, PATTERN_HOT };

struct options {
	uint64_t size_bytes;
	uint64_t hot_bytes; /* writes stay below this; PATTERN_HOT: fifteen of sixteen do */
	uint64_t rate_Bps;
	uint64_t sweep_Bps;
	enum pattern pattern;
	unsigned threads;
	const char *heartbeat; /* name of a virtio-serial port, NULL: none */
};

/* One thread's share of the region. */
struct worker {
	/* Set before the thread starts. */
	const struct options *opt;
	uint64_t first_page; /* number that the share's first page has in the whole region */
	uint64_t pages;
	uint64_t hot_pages;
	volatile uint64_t *base;
	uint32_t *gen; /* expected generation of each page */

	/* Local to the thread. */
	uint64_t random;
	uint64_t next_seq;
	uint64_t next_sweep;

	/* Written by the thread, read by the heartbeat. */
	_Alignas(64) atomic_uint_fast64_t dirtied;
	atomic_uint_fast64_t checked;
	atomic_uint_fast32_t errors;
};

static struct worker workers[THREADS_MAX];

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void sleep_until(uint64_t t_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(t_ns / NS_PER_S), .tv_nsec = (long)(t_ns % NS_PER_S) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

static void die(const char *what)
{
	fprintf(stderr, "gwload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void note_error(struct worker *w, uint64_t page, int word)
{
	volatile uint64_t *p = w->base + page * GW_PAGE_WORDS;

	if (atomic_fetch_add_explicit(&w->errors, 1, memory_order_relaxed) < 8)
		fprintf(stderr, "gwload: BROKEN page %llu word %d generation %u: found %016llx\n",
		        (unsigned long long)(w->first_page + page), word, w->gen[page],
		        (unsigned long long)p[word]);
}

static uint64_t next_random(struct worker *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random;
}

/* A number below n, which is at most 2^32. */
static uint64_t scale(uint64_t random, uint64_t n)
{
	return (random >> 32) * n >> 32;
}

static uint64_t pick_page(struct worker *w)
{
	uint64_t r;

	switch (w->opt->pattern) {
	case PATTERN_SEQ:
		if (w->next_seq >= w->hot_pages)
			w->next_seq = 0;
		return w->next_seq++;
	case PATTERN_HOT:
		r = next_random(w);
		return scale(r, r & 15 ? w->hot_pages : w->pages);
	case PATTERN_UNIFORM:
		break;
	}
	return scale(next_random(w), w->hot_pages);
}

static void dirty_pages(struct worker *w, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		uint64_t page = pick_page(w);
		uint64_t key = gw_pattern_key(SEED, w->first_page + page);
		volatile uint64_t *p = w->base + page * GW_PAGE_WORDS;
		int bad = gw_pattern_check_quick(p, key, w->gen[page]);

		if (bad >= 0)
			note_error(w, page, bad);
		gw_pattern_write(p, key, ++w->gen[page]);
	}
	atomic_fetch_add_explicit(&w->dirtied, n, memory_order_relaxed);
}

static void sweep_pages(struct worker *w, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		uint64_t page = w->next_sweep;
		uint64_t key = gw_pattern_key(SEED, w->first_page + page);
		int bad = gw_pattern_check(w->base + page * GW_PAGE_WORDS, key, w->gen[page]);

		if (bad >= 0)
			note_error(w, page, bad);
		w->next_sweep = page + 1 < w->pages ? page + 1 : 0;
	}
	atomic_fetch_add_explicit(&w->checked, n, memory_order_relaxed);
}

/* Pages that are due at a rate, as time goes by. */
struct pace {
	uint64_t page_ns; /* time per page; 0: none are ever due */
	uint64_t paid_ns; /* time up to which pages were handed out */
};

static void pace_start(struct pace *p, uint64_t rate_Bps, uint64_t now)
{
	p->page_ns = rate_Bps ? GW_PAGE_BYTES * NS_PER_S / rate_Bps : 0;
	if (rate_Bps && !p->page_ns)
		p->page_ns = 1;
	p->paid_ns = now;
}

static uint64_t pace_due(struct pace *p, uint64_t now)
{
	uint64_t n;

	if (!p->page_ns)
		return 0;
	if (now - p->paid_ns > CATCH_UP_NS)
		p->paid_ns = now - CATCH_UP_NS;
	n = (now - p->paid_ns) / p->page_ns;
	p->paid_ns += n * p->page_ns;
	return n;
}

static uint64_t share(uint64_t rate_Bps, unsigned threads)
{
	return rate_Bps / threads;
}

static void run_unthrottled(struct worker *w, struct pace *sweep)
{
	for (;;) {
		dirty_pages(w, BATCH_PAGES);
		for (uint64_t due = pace_due(sweep, now_ns()); due > 0; due--)
			sweep_pages(w, 1);
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct pace writes, sweep;
	uint64_t next = now_ns();

	pace_start(&sweep, share(w->opt->sweep_Bps, w->opt->threads), next);
	if (w->opt->rate_Bps == RATE_MAX)
		run_unthrottled(w, &sweep);
	pace_start(&writes, share(w->opt->rate_Bps, w->opt->threads), next);
	for (;;) {
		uint64_t due = pace_due(&writes, now_ns());

		for (; due >= BATCH_PAGES; due -= BATCH_PAGES)
			dirty_pages(w, BATCH_PAGES);
		dirty_pages(w, (unsigned)due);
		for (due = pace_due(&sweep, now_ns()); due > 0; due--)
			sweep_pages(w, 1);
		next += STEP_NS;
		if (next < now_ns())
			next = now_ns();
		sleep_until(next);
	}
	return NULL;
}

/* /dev node of the virtio-serial port with this name, or -1. No udev is needed. */
static int open_port(const char *name)
{
	DIR *dir = opendir("/sys/class/virtio-ports");
	struct dirent *e;
	int fd = -1;

	while (dir && fd < 0 && (e = readdir(dir))) {
		char path[320], found[128] = "";
		FILE *f;

		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", e->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (fgets(found, sizeof(found), f))
			found[strcspn(found, "\n")] = '\0';
		fclose(f);
		if (strcmp(found, name) != 0)
			continue;
		snprintf(path, sizeof(path), "/dev/%s", e->d_name);
		fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	}
	if (dir)
		closedir(dir);
	return fd;
}

static int wait_for_port(const char *name)
{
	uint64_t end = now_ns() + PORT_WAIT_NS;

	for (;;) {
		int fd = open_port(name);

		if (fd >= 0)
			return fd;
		if (now_ns() > end) {
			fprintf(stderr, "gwload: there is no virtio-serial port named '%s'\n", name);
			exit(1);
		}
		sleep_until(now_ns() + NS_PER_S / 50);
	}
}

static void beat_now(const struct options *opt, int fd, uint32_t seq)
{
	struct gw_beat b = { .magic = GW_BEAT_MAGIC, .seq = seq, .guest_ns = now_ns() };

	for (unsigned i = 0; i < opt->threads; i++) {
		b.pages_dirtied += atomic_load_explicit(&workers[i].dirtied, memory_order_relaxed);
		b.errors += (uint32_t)atomic_load_explicit(&workers[i].errors, memory_order_relaxed);
		b.pages_checked += (uint32_t)atomic_load_explicit(&workers[i].checked, memory_order_relaxed);
	}
	/* A full or closed port drops the record: seq shows it. The driver takes a record whole or not. */
	(void)!write(fd, &b, sizeof(b));
}

/* Runs for ever. A period that was slept through is counted in seq, not sent late. */
static void heartbeat(const struct options *opt, int fd)
{
	struct sched_param fifo = { .sched_priority = 50 };
	uint64_t start = now_ns();
	uint64_t seq = 0;

	if (sched_setscheduler(0, SCHED_FIFO, &fifo))
		perror("gwload: SCHED_FIFO");
	for (;;) {
		uint64_t periods = (now_ns() - start) / GW_BEAT_PERIOD_NS;

		seq = periods > seq ? periods : seq + 1;
		sleep_until(start + seq * GW_BEAT_PERIOD_NS);
		beat_now(opt, fd, (uint32_t)seq);
	}
}

static void prepare_workers(const struct options *opt)
{
	uint64_t pages = opt->size_bytes / GW_PAGE_BYTES / opt->threads;
	uint64_t hot = opt->hot_bytes / GW_PAGE_BYTES / opt->threads;

	for (unsigned i = 0; i < opt->threads; i++) {
		struct worker *w = &workers[i];

		w->opt = opt;
		w->pages = pages;
		w->hot_pages = hot && hot < pages ? hot : pages;
		w->first_page = i * pages;
		w->random = gw_pattern_key(~SEED, i) | 1;
		w->base = mmap(NULL, pages * GW_PAGE_BYTES, PROT_READ | PROT_WRITE,
		               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (w->base == MAP_FAILED)
			die("cannot map the region");
		w->gen = calloc(pages, sizeof(*w->gen));
		if (!w->gen)
			die("cannot allocate the generations");
		for (uint64_t p = 0; p < pages; p++)
			gw_pattern_fill(w->base + p * GW_PAGE_WORDS, gw_pattern_key(SEED, w->first_page + p));
	}
}

/* "64K", "256M", "1G": powers of `unit` (1024 for sizes, 1000 for rates). */
static bool parse_number(const char *text, uint64_t unit, uint64_t *ret)
{
	static const char suffixes[] = "KMG";
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno || end == text)
		return false;
	if (*end) {
		const char *s = strchr(suffixes, *end);

		if (!s || end[1])
			return false;
		for (; s >= suffixes; s--)
			n *= unit;
	}
	*ret = n;
	return true;
}

static bool parse_pattern(const char *text, enum pattern *ret)
{
	static const char *const names[] = { "uniform", "seq", "hot" };

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(text, names[i])) {
			*ret = (enum pattern)i;
			return true;
		}
	return false;
}

static bool parse_option(int c, const char *arg, struct options *opt)
{
	uint64_t n = 0;

	switch (c) {
	case 's':
		return parse_number(arg, 1024, &opt->size_bytes) && opt->size_bytes >= GW_PAGE_BYTES * THREADS_MAX;
	case 'h':
		return parse_number(arg, 1024, &opt->hot_bytes) && opt->hot_bytes >= GW_PAGE_BYTES;
	case 'r':
		if (!strcmp(arg, "max")) {
			opt->rate_Bps = RATE_MAX;
			return true;
		}
		return parse_number(arg, 1000, &opt->rate_Bps);
	case 'w':
		return parse_number(arg, 1000, &opt->sweep_Bps);
	case 'p':
		return parse_pattern(arg, &opt->pattern);
	case 't':
		if (!parse_number(arg, 1000, &n) || n < 1 || n > THREADS_MAX)
			return false;
		opt->threads = (unsigned)n;
		return true;
	case 'b':
		opt->heartbeat = arg;
		return true;
	case 'k':
		gw_pattern_slot_bits = GW_PATTERN_PACKABLE;
		return true;
	default:
		return false;
	}
}

static const char usage[] =
	"usage: gwload [--size 256M] [--pattern uniform|seq|hot] [--rate 100M|max|0] [--hot SIZE]\n"
	"              [--sweep 32M] [--threads N] [--heartbeat PORT] [--packable]\n"
	"Fills SIZE bytes with data that it can check, dirties whole pages of it at RATE (bytes per second,\n"
	"M is 10^6), checks each page before it is written again and all pages in turn at the sweep rate.\n"
	"With --hot, writes stay in the first part; pattern hot sends one in sixteen to the whole region.\n"
	"--packable fills with data that compresses to about a third, instead of random data.\n"
	"PORT names the virtio-serial port that gets a record every millisecond (see beat.h).\n";

int main(int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "size", required_argument, NULL, 's' },      { "pattern", required_argument, NULL, 'p' },
		{ "rate", required_argument, NULL, 'r' },      { "hot", required_argument, NULL, 'h' },
		{ "sweep", required_argument, NULL, 'w' },     { "threads", required_argument, NULL, 't' },
		{ "heartbeat", required_argument, NULL, 'b' }, { "packable", no_argument, NULL, 'k' },
		{ NULL, 0, NULL, 0 },
	};
	static struct options opt = { .size_bytes = 64 << 20, .sweep_Bps = 32000000, .threads = 1 };
	int c, fd = -1;

	while ((c = getopt_long(argc, argv, "", longopts, NULL)) != -1)
		if (!parse_option(c, optarg, &opt)) {
			fputs(usage, stderr);
			return 2;
		}
	if (optind < argc) {
		fputs(usage, stderr);
		return 2;
	}
	if (opt.heartbeat)
		fd = wait_for_port(opt.heartbeat);
	prepare_workers(&opt);
	printf("gwload: ready\n");
	fflush(stdout);
	for (unsigned i = 0; i < opt.threads; i++) {
		pthread_t t;

		errno = pthread_create(&t, NULL, worker_main, &workers[i]);
		if (errno)
			die("cannot start a thread");
	}
	if (fd >= 0)
		heartbeat(&opt, fd);
	for (;;)
		pause();
}
