/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* godwitd: the daemon of one host. Reads its configuration, opens its two doors, and waits for events. */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/io.h"
#include "base/log.h"
#include "control/host_daemon.h"
#include "control/http_server.h"
#include "transport/tcp.h"
#include "wire/wire.h"

#define DEFAULT_CONFIG "/etc/godwit/godwitd.conf"
#define TICK_US 1000000

struct daemon {
	struct gw_config config;
	struct gw_host *host;
	struct gw_http_server *http;
	sd_event *event;
	int listen_fd, lock_fd;
};

enum { OPT_HELP = 1, OPT_VERSION, OPT_CONFIG, OPT_KEY };

static const struct option options[] = {
	{ "help", no_argument, NULL, OPT_HELP },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "config", required_argument, NULL, OPT_CONFIG },
	{ "name", required_argument, NULL, OPT_KEY },
	{ "listen", required_argument, NULL, OPT_KEY },
	{ "socket", required_argument, NULL, OPT_KEY },
	{ "state-dir", required_argument, NULL, OPT_KEY },
	{ "run-dir", required_argument, NULL, OPT_KEY },
	{ "ram-dir", required_argument, NULL, OPT_KEY },
	{ "thp-dir", required_argument, NULL, OPT_KEY },
	{ "hugetlb-dir", required_argument, NULL, OPT_KEY },
	{ "qemu", required_argument, NULL, OPT_KEY },
	{ "shim", required_argument, NULL, OPT_KEY },
	{ 0 },
};

static void usage(FILE *f)
{
	fputs("usage: godwitd [--config FILE] [--name NAME] [--listen ADDRESS:PORT] [--socket PATH]\n"
	      "               [--state-dir DIR] [--run-dir DIR] [--ram-dir DIR] [--thp-dir DIR]\n"
	      "               [--hugetlb-dir DIR] [--qemu PATH] [--shim PATH]\n"
	      "       godwitd --version | --help\n"
	      "\n"
	      "The daemon of one host: runs VMs and moves them. See godwitd(8) and godwitd.conf(5).\n",
	      f);
}

static int set_option(struct gw_config *c, const char *name, const char *value, struct gw_error *err)
{
	char key[32];

	snprintf(key, sizeof(key), "%s", name);
	for (char *p = key; *p; p++)
		if (*p == '-')
			*p = '_';
	return gw_config_set(c, key, value, err);
}

/* Two walks: the file first, then the options over it. 1: done, exit 0. */
static int read_configuration(struct gw_config *c, int argc, char **argv, struct gw_error *err)
{
	const char *file = NULL;
	int opt, index = 0, r;

	while ((opt = getopt_long(argc, argv, "", options, &index)) != -1) {
		if (opt == OPT_HELP) {
			usage(stdout);
			return 1;
		}
		if (opt == OPT_VERSION) {
			puts("godwitd " GW_VERSION);
			return 1;
		}
		if (opt == OPT_CONFIG)
			file = optarg;
		if (opt == '?')
			return -EINVAL;
	}
	if (optind < argc)
		return gw_error_set(err, EINVAL, "unexpected argument '%s'", argv[optind]);
	r = gw_config_read(c, file ? file : DEFAULT_CONFIG, file == NULL, err);
	optind = 1;
	while (r == 0 && (opt = getopt_long(argc, argv, "", options, &index)) != -1)
		if (opt == OPT_KEY)
			r = set_option(c, options[index].name, optarg, err);
	return r < 0 ? r : gw_config_finish(c, err);
}

/* One daemon a state folder: the lock goes with the process. */
static int lock_state(struct daemon *d, struct gw_error *err)
{
	char path[600];
	int r = gw_mkdir_p(d->config.state_dir, 0700);

	snprintf(path, sizeof(path), "%s/lock", d->config.state_dir);
	if (r < 0)
		return gw_error_set_errno(err, r, "cannot create %s", d->config.state_dir);
	d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->lock_fd < 0)
		return gw_error_set_errno(err, errno, "cannot open %s", path);
	if (flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return gw_error_set(err, EBUSY, "another godwitd works with %s", d->config.state_dir);
	return 0;
}

static int open_api_socket(const char *path, int *ret_fd, struct gw_error *err)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	gw_autofree char *dir = strdup(path);
	gw_autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char *slash = dir ? strrchr(dir, '/') : NULL;
	mode_t mask;
	int r;

	if (strlen(path) >= sizeof(sa.sun_path))
		return gw_error_set(err, ENAMETOOLONG, "the API socket's path is too long: %s", path);
	if (slash && slash != dir) {
		*slash = 0;
		r = gw_mkdir_p(dir, 0755);
		if (r < 0)
			return gw_error_set_errno(err, r, "cannot create %s", dir);
	}
	memcpy(sa.sun_path, path, strlen(path) + 1);
	unlink(path); /* the lock on the state folder says that nobody serves it */
	mask = umask(0177);
	r = fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, 64) < 0 ? -errno : 0;
	umask(mask);
	if (r < 0)
		return gw_error_set_errno(err, r, "cannot open the API socket %s", path);
	*ret_fd = gw_steal_fd(&fd);
	return 0;
}

static uint16_t listen_port(int fd)
{
	char name[GW_ADDRESS_MAX];
	const char *colon;

	gw_tcp_own_name(fd, name, sizeof(name));
	colon = strrchr(name, ':');
	return colon ? (uint16_t)atoi(colon + 1) : GW_WIRE_PORT;
}

static int on_connection(sd_event_source *s, int fd, uint32_t events, void *arg)
{
	struct daemon *d = arg;
	int conn;

	while (gw_tcp_accept(fd, &conn) == 0)
		gw_host_connection(d->host, conn);
	return 0;
}

static int on_vm_ended(sd_event_source *s, int fd, uint32_t events, void *arg)
{
	gw_host_vm_ended(((struct daemon *)arg)->host);
	return 0;
}

static int on_tick(sd_event_source *s, uint64_t usec, void *arg)
{
	gw_host_tick(((struct daemon *)arg)->host);
	sd_event_source_set_time_relative(s, TICK_US);
	return sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

static int open_doors(struct daemon *d, struct gw_error *err)
{
	int api_fd = -1, r;

	r = gw_tcp_listen(d->config.listen, GW_WIRE_PORT, &d->listen_fd, err);
	if (r == 0)
		r = gw_host_new(&d->config, listen_port(d->listen_fd), &d->host, err);
	if (r == 0)
		r = open_api_socket(d->config.socket, &api_fd, err);
	if (r == 0)
		r = gw_http_server_new(api_fd, d->host, NULL, &d->http, err);
	if (r < 0)
		return r;
	r = sd_event_default(&d->event);
	if (r >= 0)
		r = sd_event_add_io(d->event, NULL, d->listen_fd, EPOLLIN, on_connection, d);
	if (r >= 0)
		r = sd_event_add_io(d->event, NULL, gw_host_watch_fd(d->host), EPOLLIN, on_vm_ended, d);
	if (r >= 0)
		r = sd_event_add_time_relative(d->event, NULL, CLOCK_MONOTONIC, TICK_US, 100000, on_tick, d);
	if (r >= 0)
		r = sd_event_add_signal(d->event, NULL, SIGTERM, NULL, NULL);
	if (r >= 0)
		r = sd_event_add_signal(d->event, NULL, SIGINT, NULL, NULL);
	return r < 0 ? gw_error_set_errno(err, r, "cannot set up the event loop") : 0;
}

static void close_doors(struct daemon *d)
{
	if (d->host)
		gw_host_stop(d->host);
	gw_http_server_free(d->http);
	gw_host_free(d->host);
	sd_event_unref(d->event);
	if (d->listen_fd >= 0)
		close(d->listen_fd);
	if (d->lock_fd >= 0) {
		unlink(d->config.socket);
		close(d->lock_fd);
	}
	gw_config_done(&d->config);
}

static void block_signals(void)
{
	sigset_t set;

	/* Taken by the event loop; every thread inherits the mask. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv)
{
	struct daemon d = { .listen_fd = -1, .lock_fd = -1 };
	struct gw_error err = GW_ERROR_INIT;
	int r;

	gw_log_init(GW_LOG_INFO);
	block_signals();
	gw_config_init(&d.config);
	r = read_configuration(&d.config, argc, argv, &err);
	if (r != 0) {
		if (err.code)
			fprintf(stderr, "godwitd: %s\n", gw_error_text(&err));
		gw_config_done(&d.config);
		return r == 1 ? 0 : 2;
	}
	r = gw_fault_init(&err);
	if (r == 0)
		r = lock_state(&d, &err);
	if (r == 0)
		r = open_doors(&d, &err);
	if (r == 0) {
		gw_log_info(NULL, "godwitd " GW_VERSION " on host %s, listening on %s", d.config.name, d.config.listen);
		sd_notify(0, "READY=1");
		r = sd_event_loop(d.event);
		sd_notify(0, "STOPPING=1");
		if (r < 0)
			gw_error_set_errno(&err, r, "event loop");
	}
	close_doors(&d);
	if (r < 0) {
		fprintf(stderr, "godwitd: %s\n", gw_error_text(&err));
		return 1;
	}
	return 0;
}
