/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The handover machines, path by path (X1). What they do together is in tests/sim/sim_handover.c. */
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

static void walk_source(struct gw_source_machine *m, const struct source_expect *path, size_t n)
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

static void test_source_moves(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_COMMIT, { SE(RECORDED), S(COMMITTED), SD(SEND_COMMIT) },
		    { SE(RUNNING), S(DONE), SD(DESTROY) });
	assert_true(m.sent && m.ready);
}

static void test_source_ready_first(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_STOP, { SE(READY), S(STOP), 0 }, { SE(ALL_SENT), S(COMMIT), SD(RECORD_COMMIT) });
}

static void test_source_ready_alone(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_COPY, { SE(READY), S(COPY), 0 }, { SE(CONVERGED), S(STOP), SD(STOP_AND_SEND) },
		    { SE(ALL_SENT), S(SENT), 0 });
	assert_false(m.ready);
}

static void test_source_abort_before_stop(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_COPY, { SE(FAILED), S(ABORT), UNDO },
		    { SE(RECORDED), S(ABORTED), SD(SEND_ABORT) });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_COPY, { SE(FAILED), S(ABORT), UNDO },
		    { SE(RECORD_FAILED), S(ABORTED), SD(SEND_ABORT) });
}

static void test_source_abort_after_stop(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_STOP, { SE(FAILED), S(ABORT), UNDO }, { SE(RESUMED), S(ABORT), 0 });
	assert_int_equal(gw_source_answer(&m), GW_ANSWER_WAIT);
	WALK_SOURCE(&m, { SE(RECORDED), S(ABORT), BACK });
	assert_int_equal(gw_source_answer(&m), GW_ANSWER_ABORT);
	WALK_SOURCE(&m, { SE(RECORDED), S(ABORT), 0 }, { SE(RESUMED), S(ABORTED), 0 });
}

static void test_source_begin_fails(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, { SE(START), S(BEGIN), SD(RECORD_BEGIN) }, { SE(RECORD_FAILED), S(ABORTED), 0 });
}

static void test_source_cancel_while_begin(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, { SE(START), S(BEGIN), SD(RECORD_BEGIN) }, { SE(FAILED), S(BEGIN), 0 },
		    { SE(RECORDED), S(ABORT), SD(RECORD_ABORT) },
		    { SE(RECORDED), S(ABORTED), SD(SEND_ABORT) });
}

static void test_source_commit_write_fails(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_COMMIT, { SE(RECORD_FAILED), S(ABORT), UNDO });
	assert_int_equal(gw_source_answer(&m), GW_ANSWER_WAIT);
	assert_false(gw_source_can_abort(&m));
	WALK_SOURCE(&m, { SE(RECORDED), S(ABORT), BACK }, { SE(RESUMED), S(ABORTED), 0 });
}

static void test_source_unknown(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_COMMIT, { SE(RECORD_FAILED), S(ABORT), UNDO },
		    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) });
	assert_int_equal(gw_source_answer(&m), GW_ANSWER_WAIT);
	WALK_SOURCE(&m, { SE(FAILED), S(UNKNOWN), 0 }, { SE(RETRY), S(ABORT), SD(RECORD_ABORT) },
		    { SE(RECORDED), S(ABORT), BACK });
}

static void test_source_cancel_after_commit(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_SENT);
	assert_true(gw_source_can_abort(&m));
	WALK_SOURCE(&m, { SE(READY), S(COMMIT), SD(RECORD_COMMIT) });
	assert_false(gw_source_can_abort(&m));
	WALK_SOURCE(&m, { SE(FAILED), S(COMMIT), 0 }, { SE(RECORDED), S(COMMITTED), SD(SEND_COMMIT) });
	assert_false(gw_source_can_abort(&m));
	WALK_SOURCE(&m, { SE(FAILED), S(COMMITTED), SD(SEND_COMMIT) }, { SE(READY), S(COMMITTED), 0 },
		    { SE(TARGET_LOST), S(COMMITTED), SD(ALARM) }, { SE(RUNNING), S(DONE), SD(DESTROY) });
}

static void test_source_vmm_dies(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_SENT, { SE(VM_LOST), S(SENT), SD(ASK) }, { SE(FAILED), S(SENT), SD(ASK) });
	assert_false(gw_source_can_abort(&m));
	WALK_SOURCE(&m, { SE(READY), S(COMMIT), SD(RECORD_COMMIT) },
		    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) },
		    { SE(RETRY), S(COMMIT), SD(RECORD_COMMIT) },
		    { SE(RECORDED), S(COMMITTED), SD(SEND_COMMIT) });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_SENT, { SE(VM_LOST), S(SENT), SD(ASK) }, { SE(TARGET_LOST), S(ABORT), UNDO },
		    { SE(RECORDED), S(ABORT), BACK }, { SE(RESUMED), S(ABORTED), 0 });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_COPY, { SE(VM_LOST), S(ABORT), UNDO },
		    { SE(RECORDED), S(ABORTED), SD(SEND_ABORT) });
}

static void test_source_restarts(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, { SE(RESTARTED_COMMIT), S(COMMIT), SD(RECORD_COMMIT) });
	assert_int_equal(gw_source_answer(&m), GW_ANSWER_WAIT);
	WALK_SOURCE(&m, { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) },
		    { SE(RETRY), S(COMMIT), SD(RECORD_COMMIT) });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, { SE(RESTARTED_BEGIN), S(ABORT), UNDO },
		    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, { SE(RESTARTED_ABORT), S(ABORT), UNDO }, { SE(RECORDED), S(ABORT), BACK },
		    { SE(RESUMED), S(ABORTED), 0 });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, { SE(RESTARTED_LOST), S(SENT), SD(ASK) },
		    { SE(READY), S(COMMIT), SD(RECORD_COMMIT) });
}

static void test_source_contradictions(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_SENT, { SE(RUNNING), S(COMMIT), SD(RECORD_COMMIT) | SD(ALARM) },
		    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_STOP, { SE(FAILED), S(ABORT), UNDO }, { SE(RUNNING), S(ABORT), SD(ALARM) },
		    { SE(RECORDED), S(ABORT), BACK }, { SE(RESUMED), S(ABORTED), 0 },
		    { SE(RUNNING), S(ABORTED), SD(ALARM) });
}

static void test_source_answers(void **state)
{
	struct gw_source_machine m = { 0 };

	assert_int_equal(gw_source_answer(NULL), GW_ANSWER_ABORT);
	assert_int_equal(gw_source_answer(&m), GW_ANSWER_WAIT);
	WALK_SOURCE(&m, TO_COMMIT);
	assert_int_equal(gw_source_answer(&m), GW_ANSWER_WAIT);
	WALK_SOURCE(&m, { SE(RECORDED), S(COMMITTED), SD(SEND_COMMIT) });
	assert_int_equal(gw_source_answer(&m), GW_ANSWER_COMMIT);
	WALK_SOURCE(&m, { SE(RUNNING), S(DONE), SD(DESTROY) });
	assert_int_equal(gw_source_answer(&m), GW_ANSWER_COMMIT);
}

/* Whatever comes in whatever order: some things are never ordered. */
static void check_source_row(const struct gw_source_machine *was, enum gw_source_event e)
{
	struct gw_source_machine m = *was;
	unsigned did = gw_source_step(&m, e);

	if (did & SD(RESUME))
		assert_true(was->state == S(ABORT) && m.aborted);
	if (did & SD(DESTROY))
		assert_true(was->state == S(COMMITTED) && e == SE(RUNNING));
	if (did & SD(SEND_COMMIT))
		assert_int_equal(m.state, S(COMMITTED));
	if (did & SD(SEND_ABORT))
		assert_true(m.aborted);
	if ((did & SD(RECORD_COMMIT)) && (was->state == S(STOP) || was->state == S(SENT)))
		assert_true(m.ready && (m.sent || was->state == S(SENT)));
	if (was->state == S(COMMITTED) || was->state == S(DONE))
		assert_true(m.state == S(COMMITTED) || m.state == S(DONE));
}

static void test_source_never(void **state)
{
	for (int s = 0; s < GW_SOURCE_STATE_COUNT; s++)
		for (int e = 0; e < GW_SOURCE_EV_COUNT; e++)
			for (unsigned facts = 0; facts < 256; facts++) {
				struct gw_source_machine m = {
					.state = s,
					.sent = facts & 1,
					.ready = facts & 2,
					.stopped = facts & 4,
					.failed = facts & 8,
					.may_be_whole = facts & 16,
					.commit_tried = facts & 16,
					.commit_told = facts & 32,
					.lost = facts & 64,
					.aborted = facts & 128,
				};

				check_source_row(&m, e);
			}
}

struct target_expect {
	enum gw_target_event event;
	enum gw_target_state state;
	unsigned actions;
};

static void walk_target(struct gw_target_machine *m, const struct target_expect *path, size_t n)
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

static void test_target_moves(void **state)
{
	struct gw_target_machine m = { 0 };

	WALK_TARGET(&m, TO_READY, { TE(COMMIT), T(COMMITTED), TD(FENCE_AND_RUN) },
		    { TE(RAN), T(RUNNING), OWNER },
		    { TE(COMMIT), T(RUNNING), OWNER }, { TE(ABORT), T(RUNNING), 0 },
		    { TE(LINK_LOST), T(RUNNING), 0 });
	assert_true(m.whole);
}

static void test_target_link_lost(void **state)
{
	struct gw_target_machine m = { 0 };

	WALK_TARGET(&m, TO_RECEIVE, { TE(LINK_LOST), T(DISCARD), TD(DESTROY) },
		    { TE(DESTROYED), T(GONE), 0 });
	m = (struct gw_target_machine){ 0 };
	WALK_TARGET(&m, TO_LOAD, { TE(LINK_LOST), T(DISCARD), TD(DESTROY) }, { TE(LOADED), T(DISCARD), 0 });
	assert_false(m.whole);
	m = (struct gw_target_machine){ 0 };
	WALK_TARGET(&m, TO_READY, { TE(LINK_LOST), T(READY), TD(ASK) },
		    { TE(ABORT), T(DISCARD), TD(DESTROY) });
}

static void test_target_failures(void **state)
{
	struct gw_target_machine m = { 0 };

	WALK_TARGET(&m, TO_LOAD, { TE(FAILED), T(DISCARD), TD(DESTROY) | TD(SEND_FAILED) });
	m = (struct gw_target_machine){ 0 };
	WALK_TARGET(&m, TO_READY, { TE(FAILED), T(PART), TD(ASK) | TD(SEND_FAILED) },
		    { TE(COMMIT), T(PART), TD(SEND_FAILED) | TD(ALARM) },
		    { TE(ABORT), T(DISCARD), TD(DESTROY) });
	assert_false(m.whole);
	m = (struct gw_target_machine){ 0 };
	WALK_TARGET(&m, TO_READY, { TE(COMMIT), T(COMMITTED), TD(FENCE_AND_RUN) },
		    { TE(FAILED), T(COMMITTED), TD(SEND_FAILED) | TD(ALARM) },
		    { TE(ABORT), T(COMMITTED), TD(ALARM) },
		    { TE(COMMIT), T(COMMITTED), TD(FENCE_AND_RUN) });
}

static void test_target_restarts(void **state)
{
	struct gw_target_machine m = { 0 };

	WALK_TARGET(&m, { TE(RESTARTED), T(READY), TD(ASK) },
		    { TE(COMMIT), T(COMMITTED), TD(FENCE_AND_RUN) });
	m = (struct gw_target_machine){ 0 };
	WALK_TARGET(&m, { TE(RESTARTED_PART), T(PART), TD(ASK) },
		    { TE(COMMIT), T(PART), TD(SEND_FAILED) | TD(ALARM) },
		    { TE(LINK_LOST), T(PART), TD(ASK) });
	m = (struct gw_target_machine){ 0 };
	WALK_TARGET(&m, { TE(RESTARTED_RUNNING), T(RUNNING), OWNER });
	m = (struct gw_target_machine){ 0 };
	WALK_TARGET(&m, { TE(COMMIT), T(IDLE), TD(SEND_FAILED) | TD(ALARM) });
}

static void test_target_never(void **state)
{
	for (int s = 0; s < GW_TARGET_STATE_COUNT; s++)
		for (int e = 0; e < GW_TARGET_EV_COUNT; e++) {
			bool whole = s == T(READY) || s == T(COMMITTED) || s == T(RUNNING);
			struct gw_target_machine m = { .state = s, .whole = whole };
			unsigned did = gw_target_step(&m, e);

			if (did & TD(FENCE_AND_RUN))
				assert_true(whole && e == TE(COMMIT));
			if (did & TD(DESTROY))
				assert_true(s != T(COMMITTED) && s != T(RUNNING));
			if ((did & TD(DESTROY)) && (s == T(READY) || s == T(PART)))
				assert_int_equal(e, TE(ABORT));
			if (did & TD(SEND_READY))
				assert_true(m.whole);
			assert_int_equal(m.whole, m.state == T(READY) || m.state == T(COMMITTED) ||
						  m.state == T(RUNNING));
		}
}

static void test_names(void **state)
{
	for (int s = 0; s < GW_SOURCE_STATE_COUNT; s++)
		assert_non_null(gw_source_state_name(s));
	for (int e = 0; e < GW_SOURCE_EV_COUNT; e++)
		assert_non_null(gw_source_event_name(e));
	for (int s = 0; s < GW_TARGET_STATE_COUNT; s++)
		assert_non_null(gw_target_state_name(s));
	for (int e = 0; e < GW_TARGET_EV_COUNT; e++)
		assert_non_null(gw_target_event_name(e));
	assert_string_equal(gw_source_state_name(GW_SOURCE_STATE_COUNT), "?");
	assert_string_equal(gw_target_event_name(-1), "?");
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("X1 a migration without trouble takes every step once", test_source_moves),
		TEST("X1 READY may come before everything counts as sent", test_source_ready_first),
		TEST("X1 READY before the stop means nothing", test_source_ready_alone),
		TEST("X1 before the stop ABORT needs no resume and no durable record",
		     test_source_abort_before_stop),
		TEST("X1 after the stop the guest resumes only with a durable ABORT",
		     test_source_abort_after_stop),
		TEST("X1 a BEGIN that cannot be written changes nothing", test_source_begin_fails),
		TEST("X1 a cancel while BEGIN is written waits for its outcome",
		     test_source_cancel_while_begin),
		TEST("X1 a failed COMMIT write is overwritten by ABORT before the guest resumes",
		     test_source_commit_write_fails),
		TEST("X1 when COMMIT and ABORT both fail the guest stays paused and nobody guesses",
		     test_source_unknown),
		TEST("N1 a cancel is refused from the commit point on", test_source_cancel_after_commit),
		TEST("X1 a source VMM that dies after the stop leaves the guest to a whole target",
		     test_source_vmm_dies),
		TEST("X1 a restarted source makes what it reads durable before it tells",
		     test_source_restarts),
		TEST("X1 a target that runs uncommitted is never answered by a resume",
		     test_source_contradictions),
		TEST("X1 a target that asks hears only what is certain", test_source_answers),
		TEST("X1 no order of events resumes, destroys or tells out of turn", test_source_never),
		TEST("X1 the target runs on COMMIT and repeats RUNNING", test_target_moves),
		TEST("X1 a lost link destroys before READY and asks after it", test_target_link_lost),
		TEST("X1 a target that is not whole any more never runs", test_target_failures),
		TEST("X1 a restarted target asks, or reports that it runs", test_target_restarts),
		TEST("X1 no event makes a target run in part or destroys it undecided", test_target_never),
		TEST("every state and event has a name", test_names),
	};

	return cmocka_run_group_tests_name("handover", tests, NULL, NULL);
}
