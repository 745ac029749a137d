/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Walks the handover machines along a path of events and compares each state and set of actions. */
#ifndef GW_TESTS_UNIT_HANDOVER_WALK_H
#define GW_TESTS_UNIT_HANDOVER_WALK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "engine/handover.h"

#define S(name) GW_SOURCE_##name
#define SE(name) GW_SOURCE_EV_##name
#define SD(name) GW_SOURCE_DO_##name
#define T(name) GW_TARGET_##name
#define TE(name) GW_TARGET_EV_##name
#define TD(name) GW_TARGET_DO_##name

struct source_expect {
	enum gw_source_event event;
	enum gw_source_state state;
	unsigned actions;
};

static inline void walk_source(struct gw_source_machine *m, const struct source_expect *path, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned got = gw_source_step(m, path[i].event);

		if (got != path[i].actions || m->state != path[i].state)
			fail_msg("step %zu, %s: in %s with actions %#x, wanted %s with %#x", i,
				 gw_source_event_name(path[i].event), gw_source_state_name(m->state), got,
				 gw_source_state_name(path[i].state), path[i].actions);
	}
}

#define WALK_SOURCE(m, ...)                                                          \
	walk_source(m, (const struct source_expect[]){ __VA_ARGS__ },                \
		    GW_ARRAY_SIZE(((const struct source_expect[]){ __VA_ARGS__ })))

#define TO_COPY                                              \
	{ SE(START), S(BEGIN), SD(RECORD_BEGIN) },           \
	{ SE(RECORDED), S(PREPARE), SD(SEND_PREPARE) },      \
	{ SE(PREPARED), S(COPY), SD(COPY) }
#define TO_STOP TO_COPY, { SE(CONVERGED), S(STOP), SD(STOP_AND_SEND) }
#define TO_SENT TO_STOP, { SE(ALL_SENT), S(SENT), 0 }
#define TO_COMMIT TO_SENT, { SE(READY), S(COMMIT), SD(RECORD_COMMIT) }
#define UNDO (SD(CANCEL_SAVE) | SD(RECORD_ABORT))
#define BACK (SD(RESUME) | SD(SEND_ABORT))

struct target_expect {
	enum gw_target_event event;
	enum gw_target_state state;
	unsigned actions;
};

static inline void walk_target(struct gw_target_machine *m, const struct target_expect *path, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned got = gw_target_step(m, path[i].event);

		if (got != path[i].actions || m->state != path[i].state)
			fail_msg("step %zu, %s: in %s with actions %#x, wanted %s with %#x", i,
				 gw_target_event_name(path[i].event), gw_target_state_name(m->state), got,
				 gw_target_state_name(path[i].state), path[i].actions);
	}
}

#define WALK_TARGET(m, ...)                                                          \
	walk_target(m, (const struct target_expect[]){ __VA_ARGS__ },                \
		    GW_ARRAY_SIZE(((const struct target_expect[]){ __VA_ARGS__ })))

#define TO_RECEIVE                                               \
	{ TE(PREPARE), T(PREPARE), TD(CREATE) },                 \
	{ TE(PREPARED), T(RECEIVE), TD(SEND_PREPARED) }
#define TO_LOAD TO_RECEIVE, { TE(ALL_RECEIVED), T(LOAD), TD(LOAD) }
#define TO_READY TO_LOAD, { TE(LOADED), T(READY), TD(SEND_READY) }
#define OWNER (TD(RECORD_OWNER) | TD(SEND_RUNNING))

#define TEST(text, fn) { .name = text, .test_func = fn }

#endif
