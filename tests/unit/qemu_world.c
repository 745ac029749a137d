/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of the QEMU adapter stand on: two hosts' folders, a guest in firmware, clean-up after each. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "qemu_world.h"

static const unsigned char guest_code[] = {
	0x31, 0xc0,                   /*       xor %ax,%ax           */
	0x8e, 0xd8,                   /*       mov %ax,%ds           */
	0xb8, 0x00, 0x20,             /*       mov $0x2000,%ax       */
	0x8e, 0xc0,                   /*       mov %ax,%es           */
	0x66, 0x31, 0xf6,             /*       xor %esi,%esi         */
	0xba, 0xf8, 0x03,             /*       mov $0x3f8,%dx        */
	0x66, 0x46,                   /* loop: inc %esi              */
	0x89, 0xf7,                   /*       mov %si,%di           */
	0x81, 0xe7, 0xfc, 0xff,       /*       and $0xfffc,%di       */
	0x26, 0x66, 0x89, 0x35,       /*       mov %esi,%es:(%di)    */
	0xf7, 0xc6, 0xff, 0xff,       /*       test $0xffff,%si      */
	0x75, 0xee,                   /*       jnz loop              */
	0xb0, 0x2e,                   /*       mov $'.',%al          */
	0xee,                         /*       out %al,%dx           */
	0xeb, 0xe9,                   /*       jmp loop              */
};
static const unsigned char guest_reset[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 }; /* ljmp $0xf000,$0 */

struct gw_error err;

void fail_on(int r, const struct gw_error *e)
{
	if (r < 0)
		fail_msg("%d: %s", r, gw_error_text(e));
}

gw_time_ns soon(void)
{
	return gw_deadline_in(20 * GW_NS_PER_S);
}

static void write_firmware(const char *path)
{
	unsigned char rom[65536] = { 0 };

	memcpy(rom, guest_code, sizeof(guest_code));
	memcpy(rom + 0xfff0, guest_reset, sizeof(guest_reset));
	assert_int_equal(gw_write_file_durable(path, rom, sizeof(rom), 0600), 0);
}

char *text_of(const char *fmt, ...)
{
	va_list ap;
	char *text;

	va_start(ap, fmt);
	assert_true(vasprintf(&text, fmt, ap) > 0);
	va_end(ap);
	return text;
}

static void make_host(struct gw_qemu_host *h, const struct fixture *f, const char *name)
{
	const char *binary = getenv("GODWIT_TEST_QEMU");

	h->binary = strdup(binary ? binary : "qemu-system-x86_64");
	h->shim = strdup(getenv("GODWIT_TEST_SHIM"));
	h->run_dir = text_of("%s/%s", f->dir, name);
	h->ram_dir = strdup(f->ram_dir);
	OK(gw_qemu_probe(h, &err));
}

static void done_host(struct gw_qemu_host *h)
{
	free(h->binary);
	free(h->shim);
	free(h->run_dir);
	free(h->ram_dir);
	free(h->thp_dir);
	free(h->hugetlb_dir);
	gw_qemu_caps_done(&h->caps);
}

int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char path[128];

	snprintf(f->dir, sizeof(f->dir), "/tmp/gw-test-qemu-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(path, sizeof(path), "%s/guest.rom", f->dir);
	write_firmware(path);
	snprintf(f->ram_dir, sizeof(f->ram_dir), "/dev/shm/gw-test-qemu-XXXXXX");
	assert_non_null(mkdtemp(f->ram_dir));
	make_host(&f->source, f, "a");
	make_host(&f->target, f, "b");
	*state = f;
	return 0;
}

/* A test that fails leaves its VMs behind: their command lines name the fixture's folder. */
static void kill_leftovers(const struct fixture *f)
{
	gw_autodir DIR *proc = opendir("/proc");
	struct dirent *e;

	while ((e = readdir(proc))) {
		gw_autofree char *text = NULL;
		char path[300];
		size_t len;

		snprintf(path, sizeof(path), "/proc/%s/cmdline", e->d_name);
		if (atoi(e->d_name) > 1 && gw_read_file(path, 1 << 20, &text, &len) == 0 &&
		    memmem(text, len, f->dir, strlen(f->dir)))
			kill(atoi(e->d_name), SIGKILL);
	}
}

static int huge_pages_taken;

/* Changes the number of reserved huge pages by `more`. */
bool reserve_huge_pages(int more)
{
	gw_autofile FILE *f = fopen("/proc/sys/vm/nr_hugepages", "r+e");
	int n;

	if (!f || fscanf(f, "%d", &n) != 1)
		return false;
	rewind(f);
	if (fprintf(f, "%d\n", n + more) < 0 || fflush(f) != 0)
		return false;
	huge_pages_taken += more;
	return true;
}

int after_each(void **state)
{
	kill_leftovers(*state);
	if (huge_pages_taken)
		reserve_huge_pages(-huge_pages_taken);
	return 0;
}

int teardown(void **state)
{
	struct fixture *f = *state;

	done_host(&f->source);
	done_host(&f->target);
	gw_remove_tree(f->dir);
	gw_remove_tree(f->ram_dir);
	free(f);
	return 0;
}

/* Returns when it has stopped: from then on it answers nothing. */
void stop_process(pid_t pid)
{
	siginfo_t info;

	kill(pid, SIGSTOP);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WSTOPPED), 0);
}

struct gw_vm_def *define(const struct fixture *f, const char *name, const char *more)
{
	gw_autofree char *text = text_of("[vm]\nname=%s\nuuid=6f6b2d64-27f2-4a3c-9c51-6d0f5a8e4c11\n"
	                                 "firmware=%s/guest.rom\n%s", name, f->dir, more);
	struct gw_vm_def *def;

	OK(gw_vm_def_parse(text, &def, &err));
	OK(gw_qemu_resolve(&f->source, def, NULL, &err));
	return def;
}

struct gw_vm *start(const struct gw_qemu_host *h, const struct gw_vm_def *def, bool incoming)
{
	struct gw_qemu_start how = { .def = def, .incoming = incoming };
	struct gw_vm *vm;

	OK(gw_qemu_start(h, &how, soon(), &vm, &err));
	return vm;
}

enum gw_vm_status status(struct gw_vm *vm)
{
	enum gw_vm_status s;

	OK(vm->ops->status(vm, &s, &err));
	return s;
}

struct gw_ram_region ram(struct gw_vm *vm)
{
	struct gw_ram_region r[GW_RAM_REGIONS_MAX];
	unsigned n = 0;

	OK(vm->ops->ram(vm, r, &n, &err));
	assert_int_equal(n, 1);
	return r[0];
}

void *map_ram(const struct gw_ram_region *r)
{
	gw_autofd int fd = open(r->path, O_RDWR | O_CLOEXEC);
	void *p = mmap(NULL, r->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

/* Waits for guest output: proof that the guest runs, with no clock involved. */
void wait_for_dots(struct gw_vm *vm, unsigned n)
{
	gw_autofree char *path = text_of("%s/console.sock", gw_qemu_run_dir(vm));
	struct sockaddr_un { unsigned short family; char path[108]; } address = { AF_UNIX, "" };
	gw_autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };

	snprintf(address.path, sizeof(address.path), "%s", path);
	assert_int_equal(connect(fd, (void *)&address, sizeof(address)), 0);
	while (n) {
		char c;

		assert_int_equal(poll(&p, 1, 20000), 1);
		assert_int_equal(read(fd, &c, 1), 1);
		assert_int_equal(c, '.');
		n--;
	}
}

void end(struct gw_vm *vm)
{
	OK(vm->ops->destroy(vm, &err));
	vm->ops->free(vm);
}

bool exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}
