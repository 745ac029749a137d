/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source's handover machine, path by path (X1). Post-copy: test_handover_postcopy.c. Both machines
 * together: tests/sim/sim_handover.c. */
#include "handover_walk.h"

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

/* From every state before COMMIT a failure, of whatever kind, leads back. */
static void test_source_failures(void **state)
{
	static const struct {
		enum gw_source_state state;
		enum gw_source_event event;
		unsigned actions;
	} rows[] = {
		{ S(PREPARE), SE(FAILED), SD(RECORD_ABORT) },
		{ S(PREPARE), SE(TARGET_LOST), SD(RECORD_ABORT) },
		{ S(PREPARE), SE(VM_LOST), SD(RECORD_ABORT) },
		{ S(COPY), SE(FAILED), UNDO },
		{ S(COPY), SE(TARGET_LOST), UNDO },
		{ S(COPY), SE(VM_LOST), UNDO },
		{ S(STOP), SE(FAILED), UNDO },
		{ S(STOP), SE(TARGET_LOST), UNDO },
		{ S(SENT), SE(FAILED), UNDO },
		{ S(SENT), SE(TARGET_LOST), UNDO },
	};

	for (size_t i = 0; i < GW_ARRAY_SIZE(rows); i++) {
		struct gw_source_machine m = { .state = rows[i].state };

		assert_true(gw_source_can_abort(&m));
		assert_int_equal(gw_source_step(&m, rows[i].event), rows[i].actions);
		assert_int_equal(m.state, S(ABORT));
	}
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

static void test_source_vmm_dies_late(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_STOP, { SE(VM_LOST), S(SENT), SD(CANCEL_SAVE) | SD(ASK) },
		    { SE(READY), S(COMMIT), SD(RECORD_COMMIT) });

	/* While COMMIT is written: a failure must not lead to ABORT any more. */
	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_COMMIT, { SE(VM_LOST), S(COMMIT), 0 },
		    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) },
		    { SE(RETRY), S(COMMIT), SD(RECORD_COMMIT) });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_COMMIT, { SE(RECORD_FAILED), S(ABORT), UNDO },
		    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) }, { SE(VM_LOST), S(UNKNOWN), 0 },
		    { SE(RETRY), S(COMMIT), SD(RECORD_COMMIT) });
}

/* An operator made the target run while the source was UNKNOWN. */
static void test_source_unknown_and_running(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_STOP, { SE(FAILED), S(ABORT), UNDO },
		    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) },
		    { SE(RUNNING), S(COMMIT), SD(RECORD_COMMIT) },
		    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) },
		    { SE(RETRY), S(COMMIT), SD(RECORD_COMMIT) },
		    { SE(RECORDED), S(COMMITTED), SD(SEND_COMMIT) });
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
	if (did & SD(DESTROY)) {
		assert_true(was->state == S(COMMITTED) || was->state == S(SERVING));
		assert_true(e == SE(RUNNING) || e == SE(COMPLETE));
	}
	if (did & SD(SEND_COMMIT))
		assert_true(m.state == S(COMMITTED) || m.state == S(SERVING));
	if (did & SD(SERVE))
		assert_true(m.state == S(SERVING) && !m.image_lost);
	if (did & SD(SEND_ABORT))
		assert_true(m.aborted);
	if ((did & SD(RECORD_COMMIT)) && (was->state == S(STOP) || was->state == S(SENT)))
		assert_true(m.ready && (m.sent || was->state == S(SENT)));
	if ((did & SD(RECORD_COMMIT)) && e == SE(READY_OWING))
		assert_false(m.image_lost);
	if (was->state >= S(COMMITTED) && was->state <= S(DONE)) {
		assert_true(m.state >= was->state && m.state <= S(DONE));
		assert_false(did & (SD(RECORD_ABORT) | SD(CANCEL_SAVE) | SD(RESUME) | SD(SEND_ABORT)));
		assert_false(gw_source_can_abort(&m));
		assert_int_equal(gw_source_answer(&m), GW_ANSWER_COMMIT);
	}
}

static void test_source_never(void **state)
{
	for (int s = 0; s < GW_SOURCE_STATE_COUNT; s++)
		for (int e = 0; e < GW_SOURCE_EV_COUNT; e++)
			for (unsigned facts = 0; facts < 1024; facts++) {
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
					.owes = facts & 256,
					.image_lost = facts & 512,
				};

				check_source_row(&m, e);
			}
}

static void test_names(void **state)
{
	for (int s = 0; s < GW_SOURCE_STATE_COUNT; s++)
		assert_non_null(gw_source_state_name(s));
	for (int e = 0; e < GW_SOURCE_EV_COUNT; e++)
		assert_non_null(gw_source_event_name(e));
	assert_string_equal(gw_source_state_name(GW_SOURCE_STATE_COUNT), "?");
	assert_string_equal(gw_source_event_name(-1), "?");
}

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
		TEST("X1 every failure before COMMIT leads back", test_source_failures),
		TEST("X1 a failed COMMIT write is overwritten by ABORT before the guest resumes",
		     test_source_commit_write_fails),
		TEST("X1 when COMMIT and ABORT both fail the guest stays paused and nobody guesses",
		     test_source_unknown),
		TEST("N1 a cancel is refused from the commit point on", test_source_cancel_after_commit),
		TEST("X1 a source VMM that dies after the stop leaves the guest to a whole target",
		     test_source_vmm_dies),
		TEST("X1 a source VMM that dies while COMMIT is written closes the way back",
		     test_source_vmm_dies_late),
		TEST("X1 a target that an operator made run is followed", test_source_unknown_and_running),
		TEST("X1 a restarted source makes what it reads durable before it tells",
		     test_source_restarts),
		TEST("X1 a target that runs uncommitted is never answered by a resume",
		     test_source_contradictions),
		TEST("X1 a target that asks hears only what is certain", test_source_answers),
		TEST("X1 no order of events resumes, destroys or tells out of turn", test_source_never),
		TEST("every state and event has a name", test_names),
	};

	return cmocka_run_group_tests_name("handover_source", tests, NULL, NULL);
}
