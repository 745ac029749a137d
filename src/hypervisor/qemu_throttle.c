/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Slowing a QEMU guest down: its vCPU threads, as QEMU names them (N4). */
#include <string.h>

#include "base/cleanup.h"
#include "hypervisor/qemu_internal.h"
#include "hypervisor/throttle.h"

/* Several vCPUs may share a thread (TCG without MTTCG). */
static unsigned add_thread(pid_t *tids, unsigned n, pid_t tid)
{
	for (unsigned i = 0; i < n; i++)
		if (tids[i] == tid)
			return n;
	if (tid > 0 && n < GW_THROTTLE_THREADS_MAX)
		tids[n++] = tid;
	return n;
}

static int vcpu_threads(struct gw_qemu *q, pid_t *tids, unsigned *ret_n, struct gw_error *err)
{
	struct gw_qmp_call call = { .command = "query-cpus-fast" };
	json_t *cpu;
	size_t i;
	int r = gw_qemu_run(q, &call, 1, -1, gw_deadline_in(GW_QEMU_ANSWER_NS), err);

	if (r < 0)
		return r;
	*ret_n = 0;
	json_array_foreach(call.reply, i, cpu)
		*ret_n = add_thread(tids, *ret_n, (pid_t)json_integer_value(json_object_get(cpu, "thread-id")));
	json_decref(call.reply);
	return 0;
}

int gw_qemu_throttle(struct gw_vm *vm, unsigned percent, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	pid_t tids[GW_THROTTLE_THREADS_MAX];
	unsigned n;
	int r;

	if (percent == 0) {
		gw_throttle_free(gw_steal(&q->throttle));
		return 0;
	}
	if (q->throttle) {
		gw_throttle_set(q->throttle, percent);
		return 0;
	}
	r = vcpu_threads(q, tids, &n, err);
	if (r == 0)
		r = gw_throttle_new(tids, n, percent, &q->throttle, err);
	return r;
}
