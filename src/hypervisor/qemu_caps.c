/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What this host's QEMU can do: asked once, over QMP, of a QEMU with no machine. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "hypervisor/qemu_internal.h"

#define PROBE_NS (20 * GW_NS_PER_S)
#define VERSION_MIN_MAJOR 7
#define VERSION_MIN_MINOR 2

struct answers {
	json_t *version, *kvm, *machines, *cpus;
};

static void answers_done(struct answers *a)
{
	json_decref(a->version);
	json_decref(a->kvm);
	json_decref(a->machines);
	json_decref(a->cpus);
}

static int ask(struct gw_qmp *qmp, struct answers *ret, struct gw_error *err)
{
	struct gw_qmp_call calls[] = {
		{ .command = "query-version" }, { .command = "query-kvm" },
		{ .command = "query-machines" }, { .command = "query-cpu-definitions" },
	};
	int r = gw_qmp_run(qmp, calls, GW_ARRAY_SIZE(calls), -1, gw_deadline_in(PROBE_NS), err);

	if (r < 0)
		return r;
	*ret = (struct answers){ calls[0].reply, calls[1].reply, calls[2].reply, calls[3].reply };
	return 0;
}

/* Runs the binary for as long as it takes to ask. */
static int run_and_ask(const struct gw_qemu_host *host, struct answers *ret, struct gw_error *err)
{
	char channel[32];
	char *argv[] = { host->binary, "-machine", "none", "-nodefaults", "-no-user-config", "-display",
	                 "none", "-S", "-chardev", channel, "-mon", "chardev=qmp,mode=control", NULL };
	gw_autofd int log_fd = memfd_create("godwit-probe", MFD_CLOEXEC);
	gw_autofd int pidfd = -1;
	struct gw_qmp *qmp = NULL;
	int ends[2], r;
	pid_t pid;

	snprintf(channel, sizeof(channel), "socket,id=qmp,fd=%d", GW_QEMU_QMP_FD);
	if (log_fd < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return gw_error_set_errno(err, errno, "cannot make a socket pair");
	r = gw_qemu_spawn(host, argv, ends[1], log_fd, NULL, &pid, &pidfd, err);
	close(ends[1]);
	if (r < 0) {
		close(ends[0]);
		return r;
	}
	r = gw_qmp_open(ends[0], gw_deadline_in(PROBE_NS), &qmp, err);
	if (r == 0)
		r = ask(qmp, ret, err);
	gw_qemu_end_process(pidfd, qmp && gw_qmp_post(qmp, "quit") == 0, NULL);
	if (r < 0) {
		char words[512];

		gw_qemu_last_words(-1, log_fd, words, sizeof(words));
		r = gw_error_set(err, r, "%s cannot be asked what it can do%s", host->binary, words);
	}
	gw_qmp_unref(qmp);
	return r;
}

static int take_version(const json_t *answer, struct gw_qemu_caps *caps)
{
	int major, minor, micro;

	if (json_unpack((json_t *)answer, "{s:{s:i, s:i, s:i}}", "qemu", "major", &major, "minor", &minor,
	                "micro", &micro) < 0)
		return -EPROTO;
	caps->version_major = (unsigned)major;
	caps->version_minor = (unsigned)minor;
	caps->version_micro = (unsigned)micro;
	return 0;
}

static json_t *machine_names(const json_t *answer)
{
	json_t *names = json_object();
	const json_t *machine;
	size_t i;

	json_array_foreach(answer, i, machine) {
		json_t *name = json_object_get(machine, "name");
		const char *alias = json_string_value(json_object_get(machine, "alias"));

		if (!json_is_string(name))
			continue;
		json_object_set(names, json_string_value(name), name);
		if (alias)
			json_object_set(names, alias, name);
	}
	return names;
}

static json_t *cpu_names(const json_t *answer)
{
	json_t *names = json_array();
	const json_t *cpu;
	size_t i;

	json_array_foreach(answer, i, cpu) {
		json_t *name = json_object_get(cpu, "name");

		if (json_is_string(name))
			json_array_append(names, name);
	}
	return names;
}

static bool kvm_usable(const json_t *answer)
{
	gw_autofd int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	return fd >= 0 && json_is_true(json_object_get(answer, "present"));
}

int gw_qemu_probe(struct gw_qemu_host *host, struct gw_error *err)
{
	struct gw_qemu_caps caps = { .kvm = false };
	struct answers a = { NULL };
	int r = run_and_ask(host, &a, err);

	if (r < 0) {
		gw_error_prefix(err, "QEMU is not usable (install qemu-system-x86 or name the program in the "
		                "configuration)");
		return r;
	}
	r = take_version(a.version, &caps);
	if (r < 0) {
		gw_error_set(err, r, "%s gives no version", host->binary);
	} else if (caps.version_major * 100 + caps.version_minor <
	           VERSION_MIN_MAJOR * 100 + VERSION_MIN_MINOR) {
		r = gw_error_set(err, -ENOTSUP, "%s is QEMU %u.%u, at least %d.%d is needed", host->binary,
		                 caps.version_major, caps.version_minor, VERSION_MIN_MAJOR,
		                 VERSION_MIN_MINOR);
	} else {
		caps.kvm = kvm_usable(a.kvm);
		caps.machines = machine_names(a.machines);
		caps.cpus = cpu_names(a.cpus);
		gw_qemu_caps_done(&host->caps);
		host->caps = caps;
	}
	answers_done(&a);
	return r;
}

void gw_qemu_caps_done(struct gw_qemu_caps *caps)
{
	json_decref(caps->machines);
	json_decref(caps->cpus);
	*caps = (struct gw_qemu_caps){ .kvm = false };
}
