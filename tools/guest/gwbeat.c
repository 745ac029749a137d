/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Receives the heartbeats of a guest from one or more unix sockets and writes them, timed, to a file.
 *
 * A socket that does not exist yet, or whose end went away, is tried again every RETRY_NS: the target's
 * socket is connected before the guest runs there, and a guest that comes back is heard again.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "beat.h"

#define SOURCES_MAX 16
#define RETRY_NS 2000000L
#define BUFFER_BYTES 65536u

struct source {
	const char *path;
	int fd; /* -1: not connected */
	uint32_t connects;
	uint64_t beats;
	uint64_t stray_bytes; /* skipped to find the next record */
	size_t fill;
	uint8_t buffer[BUFFER_BYTES];
};

struct gauge {
	struct source sources[SOURCES_MAX];
	unsigned n;
	int epoll, timer, signals, out;
	bool timer_runs;
};

/* What epoll gives back for the fds that are not sources. */
enum { EVENT_TIMER = SOURCES_MAX, EVENT_SIGNAL };

static void die(const char *what)
{
	fprintf(stderr, "gwbeat: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void watch(const struct gauge *g, int fd, uint32_t tag)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u32 = tag };

	if (epoll_ctl(g->epoll, EPOLL_CTL_ADD, fd, &ev))
		die("epoll_ctl");
}

static bool try_connect(struct gauge *g, unsigned i)
{
	struct source *s = &g->sources[i];
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	strcpy(to.sun_path, s->path); /* its length was checked at start */
	if (connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		close(fd);
		return false;
	}
	s->fd = fd;
	s->fill = 0;
	s->connects++;
	watch(g, fd, i);
	return true;
}

/* The timer runs only while some socket is missing. */
static void connect_missing(struct gauge *g)
{
	struct itimerspec every = { 0 };
	bool missing = false;

	for (unsigned i = 0; i < g->n; i++)
		if (g->sources[i].fd < 0 && !try_connect(g, i))
			missing = true;
	if (missing == g->timer_runs)
		return;
	if (missing)
		every.it_value.tv_nsec = every.it_interval.tv_nsec = RETRY_NS;
	if (timerfd_settime(g->timer, 0, &every, NULL))
		die("timerfd_settime");
	g->timer_runs = missing;
}

/* Takes whole records from the front of the buffer; returns how many bytes were used. */
static size_t take_records(struct gauge *g, unsigned i, uint64_t arrived_ns)
{
	struct source *s = &g->sources[i];
	static struct gw_beat_arrival batch[BUFFER_BYTES / sizeof(struct gw_beat)];
	size_t at = 0, n = 0;

	while (s->fill - at >= sizeof(struct gw_beat)) {
		struct gw_beat_arrival *a = &batch[n];

		memcpy(&a->beat, s->buffer + at, sizeof(a->beat));
		if (a->beat.magic != GW_BEAT_MAGIC) {
			s->stray_bytes++;
			at++;
			continue;
		}
		a->host_ns = arrived_ns;
		a->source = i;
		a->connects = s->connects;
		at += sizeof(a->beat);
		n++;
	}
	if (n && write(g->out, batch, n * sizeof(batch[0])) != (ssize_t)(n * sizeof(batch[0])))
		die("cannot write the trace");
	s->beats += n;
	return at;
}

static void read_source(struct gauge *g, unsigned i)
{
	struct source *s = &g->sources[i];
	ssize_t len = read(s->fd, s->buffer + s->fill, sizeof(s->buffer) - s->fill);
	uint64_t arrived_ns = now_ns();
	size_t used;

	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (len <= 0) {
		close(s->fd);
		s->fd = -1;
		connect_missing(g);
		return;
	}
	s->fill += (size_t)len;
	used = take_records(g, i, arrived_ns);
	s->fill -= used;
	memmove(s->buffer, s->buffer + used, s->fill);
}

/* Late timestamps would read as gaps of the guest. */
static void become_prompt(void)
{
	struct sched_param fifo = { .sched_priority = 60 };

	if (mlockall(MCL_CURRENT | MCL_FUTURE) || sched_setscheduler(0, SCHED_FIFO, &fifo))
		fprintf(stderr, "gwbeat: no real-time priority (%s): times are less exact\n", strerror(errno));
}

static void gauge_init(struct gauge *g, const char *out, char **paths, unsigned n)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	g->out = open(out, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	if (g->out < 0)
		die(out);
	g->epoll = epoll_create1(EPOLL_CLOEXEC);
	g->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	g->signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (g->epoll < 0 || g->timer < 0 || g->signals < 0)
		die("cannot set up");
	watch(g, g->timer, EVENT_TIMER);
	watch(g, g->signals, EVENT_SIGNAL);
	g->n = n;
	for (unsigned i = 0; i < n; i++) {
		g->sources[i].path = paths[i];
		g->sources[i].fd = -1;
	}
}

static void gauge_run(struct gauge *g)
{
	for (;;) {
		struct epoll_event ev[SOURCES_MAX];
		int n = epoll_wait(g->epoll, ev, SOURCES_MAX, -1);

		for (int i = 0; i < n; i++) {
			uint32_t tag = ev[i].data.u32;
			uint64_t ticks;

			if (tag == EVENT_SIGNAL)
				return;
			if (tag == EVENT_TIMER) {
				(void)!read(g->timer, &ticks, sizeof(ticks));
				connect_missing(g);
			} else {
				read_source(g, tag);
			}
		}
	}
}

static void print_summary(const struct gauge *g)
{
	printf("{\"sources\": [");
	for (unsigned i = 0; i < g->n; i++)
		printf("%s{\"path\": \"%s\", \"beats\": %llu, \"connects\": %u, \"stray_bytes\": %llu}",
		       i ? ", " : "", g->sources[i].path, (unsigned long long)g->sources[i].beats,
		       g->sources[i].connects, (unsigned long long)g->sources[i].stray_bytes);
	printf("]}\n");
}

int main(int argc, char **argv)
{
	static struct gauge g;

	if (argc < 3 || argc - 2 > SOURCES_MAX) {
		fprintf(stderr,
		        "usage: gwbeat TRACE SOCKET...\n"
		        "Writes a record (see beat.h) for each heartbeat to TRACE until SIGTERM or SIGINT.\n");
		return 2;
	}
	for (int i = 2; i < argc; i++)
		if (strlen(argv[i]) >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
			fprintf(stderr, "gwbeat: %s: too long for a socket\n", argv[i]);
			return 2;
		}
	gauge_init(&g, argv[1], argv + 2, (unsigned)argc - 2);
	become_prompt();
	connect_missing(&g);
	gauge_run(&g);
	print_summary(&g);
	return 0;
}
