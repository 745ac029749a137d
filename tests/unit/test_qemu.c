/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The QEMU adapter with a real QEMU and a guest that is a few dozen bytes of firmware. */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/units.h"
#include "qemu_world.h"

/* ---- a handover of the same state through a socket, RAM copied while both are paused ---- */

static int save_whole(struct gw_vm *vm, int fd, struct gw_error *why)
{
	int r = vm->ops->save_begin(vm, fd, soon(), why);

	return r < 0 ? r : vm->ops->save_wait(vm, soon(), why);
}

struct saver {
	struct gw_vm *vm;
	int fd, result;
	struct gw_error err;
};

static void *save(void *arg)
{
	struct saver *s = arg;

	s->result = save_whole(s->vm, s->fd, &s->err);
	return NULL;
}

static void copy_ram(struct gw_vm *from, struct gw_vm *to)
{
	struct gw_ram_region a = ram(from), b = ram(to);
	void *pa = map_ram(&a), *pb = map_ram(&b);

	assert_int_equal(a.size_bytes, b.size_bytes);
	memcpy(pb, pa, a.size_bytes);
	munmap(pa, a.size_bytes);
	munmap(pb, b.size_bytes);
}

static uint32_t counter(struct gw_vm *vm)
{
	struct gw_ram_region r = ram(vm);
	char *p = map_ram(&r);
	uint32_t highest = 0;

	for (unsigned i = 0; i < 65536; i += 4)
		highest = GW_MAX(highest, *(uint32_t *)(p + GUEST_COUNTER + i));
	munmap(p, r.size_bytes);
	return highest;
}

static void move_and_check(struct fixture *f, const char *settings)
{
	struct gw_vm_def *def = define(f, "mover", settings);
	struct gw_vm *a = start(&f->source, def, false), *b = start(&f->target, def, true);
	gw_time_ns t[6];
	struct saver saver = { .vm = a };
	uint32_t before;
	pthread_t thread;
	int pair[2];

	wait_for_dots(a, 3);
	assert_int_equal(status(b), GW_VM_INCOMING);
	t[0] = gw_now_ns();
	OK(a->ops->pause(a, soon(), &err));
	t[1] = gw_now_ns();
	before = counter(a);
	assert_true(before >= 3 * 65536);
	copy_ram(a, b);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	saver.fd = pair[0];
	t[2] = gw_now_ns();
	OK(b->ops->load_begin(b, pair[1], &err));
	assert_int_equal(pthread_create(&thread, NULL, save, &saver), 0);
	OK(b->ops->load_wait(b, soon(), &err));
	t[3] = gw_now_ns();
	pthread_join(thread, NULL);
	fail_on(saver.result, &saver.err);
	assert_int_equal(status(b), GW_VM_PAUSED);
	assert_int_equal(counter(b), before);
	t[4] = gw_now_ns();
	OK(b->ops->resume(b, soon(), &err));
	t[5] = gw_now_ns();
	wait_for_dots(b, 3);
	assert_true(counter(b) >= before + 2 * 65536);
	assert_int_equal(counter(a), before);
	assert_int_equal(status(a), GW_VM_SAVED);
	print_message("stop %.2f ms, save and load %.2f ms, cont %.2f ms\n", (double)(t[1] - t[0]) / 1e6,
	              (double)(t[3] - t[2]) / 1e6, (double)(t[5] - t[4]) / 1e6);
	OK(b->ops->announce(b, &err));
	close(pair[0]);
	close(pair[1]);
	end(a);
	end(b);
	gw_vm_def_free(def);
}

static void n5_device_state_moves_while_paused_and_the_guest_goes_on(void **state)
{
	move_and_check(*state, "memory=131080K\naccel=tcg\nballoon=yes\n[nic a]\n[channel gw0]\n");
}

static void n5_a_small_pc_machine_moves_too(void **state)
{
	move_and_check(*state, "memory=8M\nmachine=pc\naccel=tcg\ncpu=qemu64\ncpus=2\n[qemu]\narg=-sandbox\n"
	               "arg=on\n");
}

static void x5_the_guest_moves_under_kvm(void **state)
{
	struct fixture *f = *state;

	if (!f->source.caps.kvm)
		skip();
	move_and_check(f, "memory=16M\naccel=kvm\ncpu=qemu64\n");
}

/* ---- one VM at a time ---- */

static void ram_is_where_the_memory_map_says_and_page_tables_populate(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def = define(f, "mem", "memory=131080K\naccel=tcg\n");
	struct gw_vm *vm = start(&f->source, def, false);
	struct gw_ram_region r = ram(vm);
	struct uffdio_api api = { .api = UFFD_API };
	struct stat st;
	int fd;

	assert_int_equal(r.size_bytes, 131080 * GW_KIB);
	assert_int_equal(r.hva % (2 * GW_MIB), 0);
	OK(vm->ops->userfaultfd(vm, &fd, &err));
	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	close(fd);
	OK(vm->ops->hold_discards(vm, &fd, &err));
	close(fd);
	OK(vm->ops->populate(vm, r.hva, r.size_bytes, -1, &err));
	assert_int_equal(stat(r.path, &st), 0);
	assert_int_equal((uint64_t)st.st_blocks * 512, r.size_bytes);
	assert_int_equal(st.st_mode & 07777, 0600);
	end(vm);
	assert_false(exists(r.path));
	gw_vm_def_free(def);
}

static void pausing_twice_and_resuming_twice_is_harmless(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def = define(f, "twice", "memory=8M\naccel=tcg\n");
	struct gw_vm *vm = start(&f->source, def, false);

	for (int i = 0; i < 2; i++)
		OK(vm->ops->pause(vm, soon(), &err));
	assert_int_equal(status(vm), GW_VM_PAUSED);
	for (int i = 0; i < 2; i++)
		OK(vm->ops->resume(vm, soon(), &err));
	assert_int_equal(status(vm), GW_VM_RUNNING);
	wait_for_dots(vm, 1);
	end(vm);
	gw_vm_def_free(def);
}

static void a_vm_without_its_state_is_never_run(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def = define(f, "hollow", "memory=8M\naccel=tcg\n");
	struct gw_vm *vm = start(&f->target, def, true);

	assert_int_equal(vm->ops->resume(vm, soon(), &err), -EBUSY);
	assert_non_null(strstr(err.text, "has not arrived"));
	assert_int_equal(status(vm), GW_VM_INCOMING);
	end(vm);
	gw_vm_def_free(def);
}

static void w7_the_source_runs_again_after_its_state_was_saved(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def = define(f, "back", "memory=8M\naccel=tcg\n");
	struct gw_vm *vm = start(&f->source, def, false);
	struct saver saver = { .vm = vm };
	char buf[4096];
	pthread_t thread;
	ssize_t n, total = 0;
	int pair[2];

	OK(vm->ops->cancel_save(vm, soon(), &err)); /* nothing to cancel */
	OK(vm->ops->pause(vm, soon(), &err));
	for (int i = 0; i < 2; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
		saver.fd = pair[0];
		pthread_create(&thread, NULL, save, &saver);
		for (total = 0; total < 4096; total += n) /* some of it, so that the save has begun */
			assert_true((n = read(pair[1], buf, sizeof(buf))) > 0);
		if (i == 1)
			OK(vm->ops->cancel_save(vm, soon(), &err));
		shutdown(pair[0], SHUT_WR);
		while ((n = read(pair[1], buf, sizeof(buf))) > 0)
			total += n;
		pthread_join(thread, NULL);
		OK(vm->ops->cancel_save(vm, soon(), &err));
		OK(vm->ops->resume(vm, soon(), &err));
		assert_int_equal(status(vm), GW_VM_RUNNING);
		wait_for_dots(vm, 1);
		OK(vm->ops->pause(vm, soon(), &err));
		close(pair[0]);
		close(pair[1]);
	}
	end(vm);
	gw_vm_def_free(def);
}

static void w7_a_save_that_nobody_reads_is_cancelled_within_a_second(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def = define(f, "stuck", "memory=8M\naccel=tcg\n");
	struct gw_vm *vm = start(&f->source, def, false);
	struct saver saver = { .vm = vm };
	struct pollfd p;
	gw_time_ns began;
	pthread_t thread;
	int pair[2], small = 4096;

	OK(vm->ops->pause(vm, soon(), &err));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	saver.fd = pair[0];
	pthread_create(&thread, NULL, save, &saver);
	p = (struct pollfd){ .fd = pair[1], .events = POLLIN };
	assert_int_equal(poll(&p, 1, 20000), 1);
	began = gw_now_ns();
	OK(vm->ops->cancel_save(vm, soon(), &err));
	assert_true(gw_now_ns() - began < GW_NS_PER_S);
	pthread_join(thread, NULL);
	assert_int_equal(saver.result, -ECANCELED);
	OK(vm->ops->resume(vm, soon(), &err));
	wait_for_dots(vm, 1);
	close(pair[0]);
	close(pair[1]);
	end(vm);
	gw_vm_def_free(def);
}

static void a_damaged_state_is_told_in_qemus_own_words(void **state)
{
	static const char garbage[] = "this is no device state at all, not even a little";
	struct fixture *f = *state;
	struct gw_vm_def *def = define(f, "garbage", "memory=8M\naccel=tcg\n");
	struct gw_vm *vm = start(&f->target, def, true);
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	OK(vm->ops->load_begin(vm, pair[1], &err));
	assert_true(write(pair[0], garbage, sizeof(garbage)) > 0);
	close(pair[0]);
	assert_true(vm->ops->load_wait(vm, soon(), &err) < 0);
	assert_non_null(strstr(err.text, "load of migration failed"));
	close(pair[1]);
	end(vm);
	gw_vm_def_free(def);
}

static void an_adopted_vm_is_the_same_vm(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def = define(f, "adopted", "memory=8M\naccel=tcg\n");
	struct gw_vm *vm = start(&f->source, def, false);
	struct gw_qemu_start again = { .def = def };
	pid_t pid = vm->ops->pid(vm);
	struct gw_ram_region r = ram(vm);
	char *run_dir = strdup(gw_qemu_run_dir(vm));
	struct gw_vm *other;

	vm->ops->free(vm); /* as if the daemon had ended */
	assert_int_equal(gw_qemu_sweep(&f->source, def, &err), -EBUSY);
	assert_int_equal(gw_qemu_start(&f->source, &again, soon(), &other, &err), -EEXIST);
	assert_true(exists(r.path));
	OK(gw_qemu_adopt(&f->source, def, &vm, &err));
	assert_int_equal(vm->ops->pid(vm), pid);
	assert_int_equal(ram(vm).hva, r.hva);
	assert_int_equal(status(vm), GW_VM_RUNNING);
	OK(vm->ops->pause(vm, soon(), &err));
	OK(vm->ops->resume(vm, soon(), &err));
	OK(vm->ops->destroy(vm, &err));
	OK(vm->ops->destroy(vm, &err));
	assert_int_equal(status(vm), GW_VM_DEAD);
	assert_false(exists(r.path));
	assert_false(exists(run_dir));
	vm->ops->free(vm);
	assert_int_equal(gw_qemu_adopt(&f->source, def, &vm, &err), -ESRCH);
	free(run_dir);
	gw_vm_def_free(def);
}

static void what_a_dead_vm_left_is_swept(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def = define(f, "swept", "memory=8M\naccel=tcg\n");
	struct gw_vm *vm = start(&f->source, def, false);
	struct gw_ram_region r = ram(vm);
	char *run_dir = strdup(gw_qemu_run_dir(vm));
	struct pollfd p = { .fd = gw_qemu_pidfd(vm), .events = POLLIN };
	struct gw_vm *other;

	kill(vm->ops->pid(vm), SIGKILL);
	assert_int_equal(poll(&p, 1, 10000), 1);
	vm->ops->free(vm);
	assert_int_equal(gw_qemu_adopt(&f->source, def, &other, &err), -ESRCH);
	assert_true(exists(r.path));
	OK(gw_qemu_sweep(&f->source, def, &err));
	assert_false(exists(r.path));
	assert_false(exists(run_dir));
	free(run_dir);
	gw_vm_def_free(def);
}

static void a_qemu_that_does_not_answer_is_adopted_and_destroyed(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def = define(f, "hung", "memory=8M\naccel=tcg\n");
	struct gw_vm *vm = start(&f->source, def, false);
	struct gw_ram_region r = ram(vm);

	assert_true(vm->ops->silence(vm) == 0);
	stop_process(vm->ops->pid(vm));
	assert_int_equal(vm->ops->pause(vm, gw_deadline_in(100 * GW_NS_PER_MS), &err), -ETIMEDOUT);
	assert_true(vm->ops->silence(vm) >= 100 * GW_NS_PER_MS);
	kill(vm->ops->pid(vm), SIGCONT);
	assert_int_equal(status(vm), GW_VM_PAUSED); /* what was asked for meanwhile is done first */
	assert_true(vm->ops->silence(vm) == 0);
	stop_process(vm->ops->pid(vm));
	vm->ops->free(vm);
	OK(gw_qemu_adopt(&f->source, def, &vm, &err));
	assert_false(gw_qemu_connected(vm));
	OK(vm->ops->destroy(vm, &err));
	assert_false(exists(r.path));
	vm->ops->free(vm);
	gw_vm_def_free(def);
}

static void a_start_that_fails_leaves_nothing_and_says_why(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def = define(f, "broken", "memory=8M\naccel=tcg\n[qemu]\narg=-device\n"
	                               "arg=no-such-device\n");
	struct gw_qemu_start how = { .def = def };
	char path[256];
	struct gw_vm *vm;

	assert_int_equal(gw_qemu_start(&f->source, &how, soon(), &vm, &err), -ESRCH);
	assert_non_null(strstr(err.text, "no-such-device"));
	snprintf(path, sizeof(path), "%s/broken", f->source.run_dir);
	assert_false(exists(path));
	OK(gw_qemu_ram_path(&f->source, def, path, sizeof(path), &err));
	assert_false(exists(path));
	gw_vm_def_free(def);
}

static void *await(void *arg)
{
	struct saver *s = arg;

	s->result = gw_qemu_await(s->vm, soon(), &s->err);
	return NULL;
}

static void a_start_that_hangs_ends_when_it_is_killed(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def = define(f, "mute", "memory=8M\naccel=tcg\n");
	gw_autofree char *path = text_of("%s/mute-qemu", f->dir), *run_dir = text_of("%s/mute", f->source.run_dir);
	static const char script[] = "#!/bin/bash\ntrap '' TERM\nexec sleep 1000\n";
	struct gw_qemu_host host = f->source;
	struct gw_qemu_start how = { .def = def, .incoming = true };
	struct saver waiter = { .vm = NULL };
	char ram_path[256];
	gw_time_ns killed;
	pthread_t thread;

	assert_int_equal(gw_write_file_durable(path, script, sizeof(script) - 1, 0700), 0);
	host.binary = path;
	OK(gw_qemu_launch(&host, &how, &waiter.vm, &err));
	pthread_create(&thread, NULL, await, &waiter);
	killed = gw_now_ns();
	waiter.vm->ops->kill(waiter.vm);
	pthread_join(thread, NULL);
	assert_int_equal(waiter.result, -ESRCH);
	OK(waiter.vm->ops->destroy(waiter.vm, &err));
	assert_true(gw_now_ns() - killed < GW_NS_PER_S);
	assert_false(exists(run_dir));
	OK(gw_qemu_ram_path(&host, def, ram_path, sizeof(ram_path), &err));
	assert_false(exists(ram_path));
	waiter.vm->ops->free(waiter.vm);
	gw_vm_def_free(def);
}

/* ---- huge pages ---- */

static uint64_t smaps_kib(pid_t pid, uint64_t hva, const char *key)
{
	gw_autofree char *text = NULL;
	char pattern[64];
	size_t len;
	char *at;

	snprintf(pattern, sizeof(pattern), "/proc/%d/smaps", (int)pid);
	assert_int_equal(gw_read_file(pattern, 16 << 20, &text, &len), 0);
	snprintf(pattern, sizeof(pattern), "\n%lx-", (unsigned long)hva);
	at = strstr(text, pattern);
	assert_non_null(at);
	at = strstr(at, key);
	assert_non_null(at);
	return strtoull(at + strlen(key), NULL, 10);
}

static void check_backing(struct fixture *f, const char *settings, uint64_t page_size, const char *key)
{
	struct gw_vm_def *def = define(f, "huge", settings);
	struct gw_vm *vm = start(&f->source, def, false);
	struct gw_ram_region r = ram(vm);

	assert_int_equal(r.page_size_bytes, page_size);
	assert_int_equal(r.hva % (2 * GW_MIB), 0);
	OK(vm->ops->populate_ranges(vm, &(struct gw_hva_range){ r.hva, r.size_bytes }, 1, -1, &err));
	assert_int_equal(smaps_kib(vm->ops->pid(vm), r.hva, key), r.size_bytes / GW_KIB);
	end(vm);
	gw_vm_def_free(def);
}

static void v5_ram_on_huge_pages_is_mapped_by_huge_pages(void **state)
{
	struct fixture *f = *state;

	if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		skip();
	f->source.thp_dir = text_of("%s/thp", f->ram_dir);
	f->source.hugetlb_dir = text_of("%s/hugetlb", f->ram_dir);
	assert_int_equal(mkdir(f->source.thp_dir, 0700) | mkdir(f->source.hugetlb_dir, 0700), 0);
	assert_int_equal(mount("tmpfs", f->source.thp_dir, "tmpfs", 0, "huge=always"), 0);
	check_backing(f, "memory=8M\naccel=tcg\npages=thp\n", 4096, "\nShmemPmdMapped:");
	umount(f->source.thp_dir);
	assert_int_equal(mount("none", f->source.hugetlb_dir, "hugetlbfs", 0, "pagesize=2M"), 0);
	if (reserve_huge_pages(4))
		check_backing(f, "memory=8M\naccel=tcg\npages=hugetlb\n", 2 * GW_MIB, "\nPrivate_Hugetlb:");
	umount(f->source.hugetlb_dir);
}

/* ---- QEMU dies in the middle ---- */

enum op { OP_PAUSE, OP_RESUME, OP_SAVE, OP_LOAD_WAIT, OP_STATUS, OP_POPULATE, OP_USERFAULTFD, OPS };

struct victim {
	struct gw_vm *vm;
	enum op op;
	int fd, result;
	struct gw_error err;
};

static void *run_op(void *arg)
{
	struct victim *v = arg;
	struct gw_vm *vm = v->vm;
	enum gw_vm_status s = GW_VM_RUNNING;
	int fd = -1;

	switch (v->op) {
	case OP_PAUSE:
		v->result = vm->ops->pause(vm, soon(), &v->err);
		break;
	case OP_RESUME:
		v->result = vm->ops->resume(vm, soon(), &v->err);
		break;
	case OP_SAVE:
		v->result = save_whole(vm, v->fd, &v->err);
		break;
	case OP_LOAD_WAIT:
		v->result = vm->ops->load_wait(vm, soon(), &v->err);
		break;
	case OP_STATUS:
		v->result = vm->ops->status(vm, &s, &v->err);
		v->result = v->result == 0 && s == GW_VM_DEAD ? -ESRCH : 0;
		break;
	case OP_POPULATE:
		v->result = vm->ops->populate(vm, 4096, 4096, -1, &v->err);
		break;
	default:
		v->result = vm->ops->userfaultfd(vm, &fd, &v->err);
	}
	return NULL;
}

/* QEMU is stopped by a signal, so that the operation is certainly under way when it is killed. */
static void x1_an_operation_ends_when_qemu_is_killed_in_the_middle(void **state)
{
	struct fixture *f = *state;

	for (int op = 0; op < OPS; op++) {
		struct gw_vm_def *def = define(f, "victim", "memory=8M\naccel=tcg\n");
		struct gw_vm *vm = start(&f->source, def, op == OP_LOAD_WAIT);
		struct victim v = { .vm = vm, .op = (enum op)op };
		struct timespec until;
		gw_time_ns killed;
		pthread_t thread;
		int pair[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
		v.fd = pair[0];
		if (op == OP_LOAD_WAIT)
			OK(vm->ops->load_begin(vm, pair[1], &err));
		else if (op == OP_SAVE)
			OK(vm->ops->pause(vm, soon(), &err));
		if (op != OP_LOAD_WAIT && op != OP_SAVE)
			stop_process(vm->ops->pid(vm));
		pthread_create(&thread, NULL, run_op, &v);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 20000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (op != OP_SAVE) /* still under way after 20 ms: it waits for QEMU */
			assert_int_equal(pthread_timedjoin_np(thread, NULL, &until), ETIMEDOUT);
		else {
			struct pollfd p = { .fd = pair[1], .events = POLLIN };

			assert_int_equal(poll(&p, 1, 10000), 1);
			stop_process(vm->ops->pid(vm));
		}
		killed = gw_now_ns();
		vm->ops->kill(vm);
		pthread_join(thread, NULL);
		assert_true(gw_now_ns() - killed < GW_NS_PER_S);
		if (op != OP_SAVE || v.result != 0) {
			assert_int_equal(v.result, -ESRCH);
			if (op != OP_STATUS)
				assert_non_null(strstr(v.err.text, "killed by signal 9"));
		}
		assert_int_equal(status(vm), GW_VM_DEAD);
		close(pair[0]);
		close(pair[1]);
		end(vm);
		gw_vm_def_free(def);
	}
}

/* ---- facts ---- */

static void x3_facts_of_like_vms_agree_and_differences_are_named(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def = define(f, "facts", "memory=8M\naccel=tcg\n");
	struct gw_vm *vm = start(&f->source, def, false);
	json_t *facts, *other, *props;

	OK(gw_qemu_facts(vm, &facts, &err));
	OK(gw_qemu_facts_compatible(facts, facts, &err));
	props = json_object_get(facts, "cpu_props");
	assert_true(json_is_object(props));
	assert_true(json_is_true(json_object_get(props, "sse2")));
	other = json_deep_copy(facts);
	json_object_set_new(json_object_get(other, "cpu_props"), "sse2", json_false());
	assert_int_equal(gw_qemu_facts_compatible(facts, other, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "sse2"));
	json_decref(other);
	other = json_deep_copy(facts);
	json_object_set_new(other, "qemu_version", json_pack("[i,i,i]", 7, 1, 9));
	assert_int_equal(gw_qemu_facts_compatible(facts, other, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "older"));
	OK(gw_qemu_facts_compatible(other, facts, &err));
	json_object_set_new(other, "qemu_version", json_incref(json_object_get(facts, "qemu_version")));
	json_object_set_new(other, "accel", json_string("kvm"));
	assert_int_equal(gw_qemu_facts_compatible(facts, other, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "accelerator"));
	json_decref(other);
	json_decref(facts);
	end(vm);
	gw_vm_def_free(def);
}

static void x3_every_reason_against_a_definition_is_listed(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def;
	json_t *reasons = json_array();

	OK(gw_vm_def_parse("[vm]\nname=x\nmemory=16T\nmachine=pc-q35-99.0\ncpu=NoSuch,+avx\nfirmware=/no/rom\n"
	                   "pages=thp\n[disk a]\npath=/no/disk\n[nic a]\nbridge=nobr0\n", &def, &err));
	assert_true(gw_qemu_resolve(&f->source, def, reasons, &err) < 0);
	assert_int_equal(json_array_size(reasons), 6);
	assert_non_null(strstr(err.text, "pc-q35-99.0"));
	json_decref(reasons);
	gw_vm_def_free(def);
}

static void a_tap_joins_its_bridge_and_goes_with_the_vm(void **state)
{
	struct fixture *f = *state;
	struct gw_vm_def *def;
	struct gw_vm *vm;

	if (geteuid() != 0 || access("/dev/net/tun", R_OK | W_OK) < 0 ||
	    system("ip link add gwtestbr0 type bridge 2>/dev/null") != 0)
		skip();
	def = define(f, "net", "memory=8M\naccel=tcg\n[nic a]\nbridge=gwtestbr0\ntap=gwtesttap0\n");
	vm = start(&f->source, def, false);
	assert_true(exists("/sys/class/net/gwtestbr0/brif/gwtesttap0"));
	end(vm);
	assert_false(exists("/sys/class/net/gwtesttap0"));
	assert_int_equal(system("ip link del gwtestbr0"), 0);
	gw_vm_def_free(def);
}

#define VM_TEST(test) cmocka_unit_test_setup_teardown(test, NULL, after_each)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		VM_TEST(n5_device_state_moves_while_paused_and_the_guest_goes_on),
		VM_TEST(n5_a_small_pc_machine_moves_too),
		VM_TEST(x5_the_guest_moves_under_kvm),
		VM_TEST(ram_is_where_the_memory_map_says_and_page_tables_populate),
		VM_TEST(pausing_twice_and_resuming_twice_is_harmless),
		VM_TEST(a_vm_without_its_state_is_never_run),
		VM_TEST(w7_the_source_runs_again_after_its_state_was_saved),
		VM_TEST(w7_a_save_that_nobody_reads_is_cancelled_within_a_second),
		VM_TEST(a_damaged_state_is_told_in_qemus_own_words),
		VM_TEST(an_adopted_vm_is_the_same_vm),
		VM_TEST(what_a_dead_vm_left_is_swept),
		VM_TEST(a_qemu_that_does_not_answer_is_adopted_and_destroyed),
		VM_TEST(a_start_that_fails_leaves_nothing_and_says_why),
		VM_TEST(a_start_that_hangs_ends_when_it_is_killed),
		VM_TEST(v5_ram_on_huge_pages_is_mapped_by_huge_pages),
		VM_TEST(x1_an_operation_ends_when_qemu_is_killed_in_the_middle),
		VM_TEST(x3_facts_of_like_vms_agree_and_differences_are_named),
		VM_TEST(x3_every_reason_against_a_definition_is_listed),
		VM_TEST(a_tap_joins_its_bridge_and_goes_with_the_vm),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]); /* e.g. "n5_*" */
	if (!getenv("GODWIT_TEST_SHIM")) {
		fprintf(stderr, "GODWIT_TEST_SHIM must name libgodwit-shim.so\n");
		return 2;
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
