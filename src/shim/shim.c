/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The preloaded library: does inside the VMM's process what no other process can do for it.
 *
 * Theory of operation
 *
 * Goal: hand out a userfaultfd of the address space and populate page tables, and be invisible
 * otherwise. All memory is static; the one thread runs with every signal masked, never allocates and
 * serves up to CLIENTS_MAX connections by poll(2), so that a client that is stuck holds up nobody.
 * A long madvise() is cut into pieces that take turns with everything else. Discards of guest memory can be held off
 * (discard.c); a hold ends with the connection that asked for it, whatever became of the client.
 *
 * Descriptors are made in the constructor, before the VMM can put a system call filter in force.
 * Everything is close-on-exec; a child that forks without exec closes its copies in fork's child
 * handler, so that a socket always leads to the process that was asked for. LD_PRELOAD and our own
 * variable are taken out of the environment: children of the VMM are not preloaded.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "shim/discard.h"
#include "shim/protocol.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define CLIENTS_MAX 8
#define PIECE_BYTES (4ull << 20)
#define STACK_BYTES (128u << 10)

struct client {
	int fd;                  /* -1: free */
	unsigned have;           /* bytes of `request` that have arrived */
	struct gw_shim_request request;
	bool busy;               /* a madvise() is under way, or a hold waits for discards under way */
	uint64_t done_bytes;
	uint64_t last_used;      /* for choosing whom to drop when all places are taken */
};

/* Set before the thread starts; afterwards the thread's own, and the fork handler's of a child. */
static struct {
	int listen_fd;
	int uffd_dev_fd;   /* /dev/userfaultfd, or -1 */
	int spare_uffd;    /* made early, for the time when new ones are refused; or -1 */
	int kept_uffd;     /* see GW_SHIM_KEEP_USERFAULTFD; or -1 */
	uint64_t shared_from, shared_to; /* a span known to be mapped shared: guest RAM stays where it is */
	uint64_t clock;
	struct client clients[CLIENTS_MAX];
} shim = { .listen_fd = -1, .uffd_dev_fd = -1, .spare_uffd = -1, .kept_uffd = -1 };

static void complain(const char *what)
{
	static const char prefix[] = "godwit-shim: ";

	(void)!write(STDERR_FILENO, prefix, sizeof(prefix) - 1);
	(void)!write(STDERR_FILENO, what, strlen(what));
	(void)!write(STDERR_FILENO, "\n", 1);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Kernel faults must be covered too: device emulation and KVM touch guest memory from the kernel. */
static int new_userfaultfd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 && shim.uffd_dev_fd >= 0)
		fd = ioctl(shim.uffd_dev_fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	return fd >= 0 ? fd : -errno;
}

static unsigned number_of(const struct client *c)
{
	return (unsigned)(c - shim.clients);
}

static void client_drop(struct client *c)
{
	gw_discard_release(number_of(c));
	close_fd(&c->fd);
	c->have = 0;
	c->busy = false;
}

/* A reply is far smaller than any socket buffer: one that does not fit means a client that never
 * reads, and it is dropped. */
static void client_reply(struct client *c, int result, uint64_t value, int pass_fd)
{
	struct gw_shim_reply reply = { .result = result, .value = value };
	struct iovec iov = { &reply, sizeof(reply) };
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	c->have = 0;
	c->busy = false;
	if (pass_fd >= 0) {
		struct cmsghdr *h;

		memset(&control, 0, sizeof(control));
		msg.msg_control = control.buf;
		msg.msg_controllen = sizeof(control.buf);
		h = CMSG_FIRSTHDR(&msg);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(h), &pass_fd, sizeof(pass_fd));
	}
	if (sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)sizeof(reply))
		client_drop(c);
}

/* A new one, or the spare one where new ones are refused. */
static int take_userfaultfd(void)
{
	int fd = new_userfaultfd();

	if (fd < 0 && shim.spare_uffd >= 0) {
		fd = shim.spare_uffd;
		shim.spare_uffd = -1;
	}
	return fd;
}

static void reply_userfaultfd(struct client *c)
{
	int fd = take_userfaultfd();

	client_reply(c, fd < 0 ? fd : 0, 0, fd);
	if (fd >= 0)
		close(fd);
}

static void reply_kept_userfaultfd(struct client *c)
{
	bool fresh = shim.kept_uffd < 0;
	int fd = fresh ? take_userfaultfd() : shim.kept_uffd;

	if (fd >= 0)
		shim.kept_uffd = fd;
	client_reply(c, fd < 0 ? fd : 0, fresh, fd);
}

/* "7f12-7f34 rw-s 00000000 ..." are the lines of maps; the fourth letter says whether the mapping is shared. Notes the
 * span of adjoining shared mappings around `address`. Read by bare system calls: this thread must not allocate. */
static void find_shared_span(uint64_t address)
{
	enum { FROM, TO, PERMISSIONS, REST } field = FROM;
	uint64_t bounds[2] = { 0, 0 };
	unsigned letter = 0;
	char buf[512];
	ssize_t n;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	shim.shared_from = shim.shared_to = 0;
	while (fd >= 0 && (n = read(fd, buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			char c = buf[i];

			if (c == '\n') {
				field = FROM;
				bounds[FROM] = bounds[TO] = letter = 0;
			} else if (field <= TO && c != '-' && c != ' ') {
				bounds[field] = bounds[field] * 16 + (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
			} else if (field <= TO) {
				field++;
			} else if (field == PERMISSIONS && ++letter == 4) {
				field = REST;
				if (shim.shared_to > address && (c != 's' || bounds[FROM] != shim.shared_to))
					goto out; /* the span is whole */
				if (c != 's')
					continue;
				if (bounds[FROM] != shim.shared_to)
					shim.shared_from = bounds[FROM];
				shim.shared_to = bounds[TO];
			}
		}
	}
out:
	if (fd >= 0)
		close(fd);
}

static bool is_shared(uint64_t start, uint64_t end)
{
	if (start < shim.shared_from || end > shim.shared_to)
		find_shared_span(start);
	return start >= shim.shared_from && end <= shim.shared_to;
}

static void unmap_pages(struct client *c)
{
	const struct gw_shim_request *r = &c->request;

	if (r->address + r->length < r->address || !is_shared(r->address, r->address + r->length))
		client_reply(c, -EINVAL, 0, -1);
	else if (madvise((void *)(uintptr_t)r->address, r->length, MADV_DONTNEED) < 0)
		client_reply(c, -errno, 0, -1);
	else
		client_reply(c, 0, r->length, -1);
}

static void begin_madvise(struct client *c)
{
	const struct gw_shim_request *r = &c->request;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	if (r->address % page || r->length % page || r->address + r->length < r->address) {
		client_reply(c, -EINVAL, 0, -1);
		return;
	}
	c->busy = true;
	c->done_bytes = 0;
}

static void continue_madvise(struct client *c)
{
	const struct gw_shim_request *r = &c->request;
	static const int advices[] = {
		[GW_SHIM_POPULATE_WRITE] = MADV_POPULATE_WRITE,
		[GW_SHIM_POPULATE_READ] = MADV_POPULATE_READ,
	};
	int advice = advices[r->command];
	uint64_t left = r->length - c->done_bytes;
	uint64_t piece = left < PIECE_BYTES ? left : PIECE_BYTES;

	if (piece && madvise((void *)(uintptr_t)(r->address + c->done_bytes), piece, advice) < 0) {
		if (errno == EINTR)
			return;
		client_reply(c, -errno, c->done_bytes, -1);
		return;
	}
	c->done_bytes += piece;
	if (c->done_bytes == r->length)
		client_reply(c, 0, c->done_bytes, -1);
}

static void begin_hold(struct client *c)
{
	bool memory = c->request.command == GW_SHIM_HOLD_MEMORY;
	int r = gw_discard_hold(number_of(c), memory ? GW_DISCARD_MEMORY : GW_DISCARD_FILE, c->request.address,
	                        c->request.length);

	if (r < 0)
		client_reply(c, r, 0, -1);
	c->busy = r == 0;
}

static void go_on(struct client *c)
{
	bool hold = c->request.command == GW_SHIM_HOLD_MEMORY || c->request.command == GW_SHIM_HOLD_FILE;

	if (!hold)
		continue_madvise(c);
	else if (gw_discard_quiet())
		client_reply(c, 0, 0, -1);
}

static void client_request(struct client *c)
{
	if (c->request.magic != GW_SHIM_MAGIC) {
		client_drop(c);
		return;
	}
	switch (c->request.command) {
	case GW_SHIM_HELLO:
		client_reply(c, 0, GW_SHIM_VERSION, -1);
		break;
	case GW_SHIM_USERFAULTFD:
		reply_userfaultfd(c);
		break;
	case GW_SHIM_POPULATE_WRITE:
	case GW_SHIM_POPULATE_READ:
		begin_madvise(c);
		break;
	case GW_SHIM_KEEP_USERFAULTFD:
		reply_kept_userfaultfd(c);
		break;
	case GW_SHIM_DROP_USERFAULTFD:
		close_fd(&shim.kept_uffd);
		client_reply(c, 0, 0, -1);
		break;
	case GW_SHIM_UNMAP_PAGES:
		unmap_pages(c);
		break;
	case GW_SHIM_HOLD_MEMORY:
	case GW_SHIM_HOLD_FILE:
		begin_hold(c);
		break;
	default:
		client_reply(c, -ENOSYS, 0, -1);
	}
}

static void client_readable(struct client *c)
{
	ssize_t n;

	if (c->busy) { /* nothing may come before the reply: this is a hang-up or a broken client */
		client_drop(c);
		return;
	}
	n = recv(c->fd, (char *)&c->request + c->have, sizeof(c->request) - c->have, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_drop(c);
		return;
	}
	c->last_used = ++shim.clock;
	c->have += (unsigned)n;
	if (c->have == sizeof(c->request))
		client_request(c);
}

static bool in_use(const struct client *c)
{
	return c->busy || gw_discard_holds(number_of(c));
}

/* A free place, or that of the client that was silent longest. */
static struct client *place_for_client(void)
{
	struct client *oldest = &shim.clients[0];

	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		struct client *c = &shim.clients[i];

		if (c->fd < 0)
			return c;
		if (in_use(c) < in_use(oldest) ||
		    (in_use(c) == in_use(oldest) && c->last_used < oldest->last_used))
			oldest = c;
	}
	client_drop(oldest);
	return oldest;
}

static void accept_client(void)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	int fd = accept4(shim.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *c;

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
	    (peer.uid != 0 && peer.uid != geteuid())) {
		close(fd);
		return;
	}
	c = place_for_client();
	*c = (struct client){ .fd = fd, .last_used = ++shim.clock };
}

static void *serve(void *arg)
{
	struct pollfd polls[CLIENTS_MAX + 1];

	gw_discard_exempt_thread();
	for (;;) {
		bool busy = false;

		polls[CLIENTS_MAX] = (struct pollfd){ .fd = shim.listen_fd, .events = POLLIN };
		for (unsigned i = 0; i < CLIENTS_MAX; i++) {
			polls[i] = (struct pollfd){ .fd = shim.clients[i].fd, .events = POLLIN };
			busy |= shim.clients[i].busy;
		}
		if (poll(polls, CLIENTS_MAX + 1, busy ? 0 : -1) < 0 && errno != EINTR && errno != ENOMEM)
			return NULL;
		for (unsigned i = 0; i < CLIENTS_MAX; i++) {
			if (polls[i].fd >= 0 && polls[i].revents)
				client_readable(&shim.clients[i]);
			if (shim.clients[i].busy)
				go_on(&shim.clients[i]);
		}
		if (polls[CLIENTS_MAX].revents & ~POLLIN)
			return NULL;
		if (polls[CLIENTS_MAX].revents)
			accept_client();
	}
}

static void close_in_child(void)
{
	close_fd(&shim.listen_fd);
	close_fd(&shim.uffd_dev_fd);
	close_fd(&shim.spare_uffd);
	close_fd(&shim.kept_uffd);
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		close_fd(&shim.clients[i].fd);
}

static const char *base_name(const char *path, size_t len, size_t *ret_len)
{
	for (size_t i = len; i > 0; i--)
		if (path[i - 1] == '/') {
			*ret_len = len - i;
			return path + i;
		}
	*ret_len = len;
	return path;
}

/* Takes the entries with our own file name out of LD_PRELOAD and leaves the others in their order. */
static void leave_ld_preload(void)
{
	const char *value = getenv("LD_PRELOAD");
	Dl_info self;
	const char *own, *p;
	size_t own_len, kept = 0;
	char *left;

	if (!value || !dladdr((void *)&leave_ld_preload, &self) || !self.dli_fname)
		return;
	own = base_name(self.dli_fname, strlen(self.dli_fname), &own_len);
	left = malloc(strlen(value) + 1);
	if (!left)
		return;
	for (p = value; *p;) {
		size_t len = strcspn(p, ": "), name_len;
		const char *name = base_name(p, len, &name_len);

		if (len && (name_len != own_len || memcmp(name, own, own_len) != 0)) {
			if (kept)
				left[kept++] = ':';
			memcpy(left + kept, p, len);
			kept += len;
		}
		p += len;
		p += strspn(p, ": ");
	}
	left[kept] = 0;
	if (kept)
		setenv("LD_PRELOAD", left, 1);
	else
		unsetenv("LD_PRELOAD");
	free(left);
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	unlink(path);
	/* The mode of an unbound socket is that of the file that bind() makes: never open wider. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, CLIENTS_MAX) < 0) {
		int code = -errno;

		close(fd);
		return code;
	}
	return fd;
}

static int start_thread(void)
{
	sigset_t all, before;
	pthread_attr_t attr;
	pthread_t thread;
	int code;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* inherited by the thread */
	code = pthread_create(&thread, &attr, serve, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (code == 0)
		pthread_setname_np(thread, "godwit-shim");
	return code;
}

/* Operators start QEMU through scripts and launchers that exec it: these are passed by untouched, and the program at the
 * end of the chain finds everything as it was. */
static bool is_launcher(void)
{
	static const char *const launchers[] = { "sh", "bash", "dash", "busybox", "env", "nice", "ionice", "chrt", "taskset",
		                                 "numactl", "setpriv", "nsenter", "unshare", "perl", NULL };
	char exe[256];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	const char *base;

	if (n <= 0)
		return false;
	exe[n] = 0;
	base = strrchr(exe, '/');
	base = base ? base + 1 : exe;
	for (unsigned i = 0; launchers[i]; i++)
		if (strcmp(base, launchers[i]) == 0)
			return true;
	return strncmp(base, "python3", 7) == 0;
}

__attribute__((constructor)) static void start(void)
{
	const char *path = getenv(GW_SHIM_SOCKET_ENV);

	if (!path || !*path || is_launcher())
		return;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		shim.clients[i].fd = -1;
	shim.listen_fd = listen_at(path);
	if (shim.listen_fd < 0) {
		complain("cannot listen on the socket named by " GW_SHIM_SOCKET_ENV);
		shim.listen_fd = -1;
	} else {
		shim.uffd_dev_fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
		shim.spare_uffd = new_userfaultfd();
		if (shim.spare_uffd < 0)
			shim.spare_uffd = -1;
		if (pthread_atfork(NULL, NULL, close_in_child) != 0 || start_thread() != 0) {
			complain("cannot start its thread");
			close_in_child();
		}
	}
	unsetenv(GW_SHIM_SOCKET_ENV);
	leave_ld_preload();
}
