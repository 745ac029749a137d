/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An operator decides in the place of a source host that is gone for good (X1).
 *
 * The copy here is whole and waits, as the source alone may know whether it has committed. Somebody who has made certain
 * that nothing runs there any more may say so. What can be told from here that it would be wrong is refused: another host
 * than the one that decides, a connection to it that is still open, a host that answers (its daemon decides, or will once
 * it is started), a copy that is not whole, or one whose memory is still at that host.
 *
 * The request only waits here. The migration's own thread decides about it, between two questions to the source, so that
 * what it hears from there always comes first: only a question that was asked after the request, and that found nobody,
 * lets the copy run.
 */
#include <string.h>
#include <sys/eventfd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "migration/target_internal.h"

#define HEARD_NS (20 * GW_NS_PER_S) /* a question under way, and the one after the request */

/* Lock held. */
static int check_copy(const struct gw_in *in, const char *fenced, struct gw_error *err)
{
	switch (in->machine.state) {
	case GW_TARGET_READY:
		break;
	case GW_TARGET_COMMITTED:
	case GW_TARGET_RUNNING:
		return gw_error_set(err, EBUSY, "VM %s runs here: there is nothing to decide", in->vm_name);
	case GW_TARGET_PART:
		return gw_error_set(err, EILSEQ, "the copy of VM %s here is not whole: nothing can run from it", in->vm_name);
	default:
		return gw_error_set(err, EBUSY, "the copy of VM %s here does not wait for a decision", in->vm_name);
	}
	if (strcmp(fenced, in->source_name) != 0)
		return gw_error_set(err, EINVAL, "VM %s came from host %s, which alone decides, and not from %s", in->vm_name,
		                    in->source_name, fenced);
	if (in->machine.owes)
		return gw_error_set(err, EILSEQ, "memory of VM %s is still at host %s: without it the guest would stop at the first "
		                    "page that it touches", in->vm_name, in->source_name);
	if (!strcmp(in->source_address, "unknown"))
		return gw_error_set(err, EBUSY, "host %s cannot be asked: its address is not known", in->source_name);
	if (in->resolve == GW_IN_RESOLVE_WANTED)
		return gw_error_set(err, EBUSY, "somebody else is deciding about VM %s just now", in->vm_name);
	return 0;
}

bool gw_in_resolve_wanted(struct gw_in *in)
{
	GW_LOCKED(&in->lock);
	return in->resolve == GW_IN_RESOLVE_WANTED;
}

void gw_in_resolve_refuse(struct gw_in *in, const char *why)
{
	GW_LOCKED(&in->lock);
	if (in->resolve != GW_IN_RESOLVE_WANTED)
		return;
	in->resolve = GW_IN_RESOLVE_REFUSED;
	gw_error_set(&in->resolve_why, EBUSY, "host %s %s", in->source_name, why);
	pthread_cond_broadcast(&in->changed);
}

bool gw_in_resolve_after_asking(struct gw_in *in, int asked)
{
	switch (asked) {
	case -ETIMEDOUT:
	case -EHOSTUNREACH:
	case -EHOSTDOWN:
		break;
	case 0:
		gw_in_resolve_refuse(in, "answers, and decides itself: it is not fenced");
		return false;
	case -ECONNREFUSED:
	case -ECONNRESET:
	case -EPIPE:
		gw_in_resolve_refuse(in, "is up, only its godwitd is not: start that, and it decides itself");
		return false;
	default:
		gw_in_resolve_refuse(in, "may be silent or not, this host cannot tell (see its daemon's log)");
		return false;
	}
	GW_LOCKED(&in->lock);
	if (in->resolve != GW_IN_RESOLVE_WANTED || in->machine.state != GW_TARGET_READY || in->machine.owes)
		return false;
	in->resolve = GW_IN_RESOLVE_GRANTED;
	gw_log_warning(in->vm_name, "an operator says that host %s is fenced, and it is silent: the copy here runs",
	               in->source_name);
	return true;
}

int gw_in_resolve(struct gw_in *in, const char *fenced, struct gw_error *err)
{
	gw_time_ns deadline = gw_deadline_in(HEARD_NS + in->config.switch_timeout_ns);
	int r;

	GW_LOCKED(&in->lock);
	r = check_copy(in, fenced, err);
	if (r < 0)
		return r;
	in->resolve = GW_IN_RESOLVE_WANTED;
	eventfd_write(in->wake_fd, 1);
	while (!in->stop && !in->finished && in->resolve != GW_IN_RESOLVE_REFUSED &&
	       !(in->machine.state == GW_TARGET_RUNNING && in->recorded)) {
		if (in->machine.state != GW_TARGET_READY && in->machine.state != GW_TARGET_COMMITTED &&
		    in->machine.state != GW_TARGET_RUNNING)
			break;
		if (gw_cond_wait(&in->changed, &in->lock, deadline) < 0)
			break;
	}
	if (in->resolve == GW_IN_RESOLVE_REFUSED)
		r = gw_error_set(err, in->resolve_why.code, "%s", in->resolve_why.text);
	else if (in->machine.state == GW_TARGET_RUNNING && in->recorded)
		r = 0;
	else if (in->resolve == GW_IN_RESOLVE_GRANTED && !in->stop)
		r = gw_error_set(err, ETIMEDOUT, "VM %s is to run here and does not yet (see the daemon's log)", in->vm_name);
	else
		r = gw_error_set(err, EBUSY, "nothing was decided about VM %s: its migration ends otherwise, or could not hear of "
		                 "it in time", in->vm_name);
	if (in->resolve != GW_IN_RESOLVE_GRANTED)
		in->resolve = GW_IN_RESOLVE_NONE; /* withdrawn */
	return r;
}
