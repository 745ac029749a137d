/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The target's handover machine, path by path (X1). Post-copy: test_handover_postcopy.c. Both machines
 * together: tests/sim/sim_handover.c. */
#include "handover_walk.h"

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

/* What a target that cannot run answers, and what makes it discard. */
static void test_target_answers(void **state)
{
	static const enum gw_target_state early[] = { T(PREPARE), T(RECEIVE), T(LOAD) };

	for (size_t i = 0; i < GW_ARRAY_SIZE(early); i++) {
		struct gw_target_machine m = { .state = early[i] };

		WALK_TARGET(&m, { TE(COMMIT), early[i], TD(ALARM) }, { TE(ASKED), early[i], 0 },
			    { TE(ABORT), T(DISCARD), TD(DESTROY) });
		m.state = early[i];
		WALK_TARGET(&m, { TE(FAILED), T(DISCARD), TD(DESTROY) | TD(SEND_FAILED) });
		m.state = early[i];
		WALK_TARGET(&m, { TE(LINK_LOST), T(DISCARD), TD(DESTROY) },
			    { TE(ASKED), T(DISCARD), TD(SEND_FAILED) },
			    { TE(COMMIT), T(DISCARD), TD(SEND_FAILED) | TD(ALARM) },
			    { TE(DESTROYED), T(GONE), 0 },
			    { TE(ASKED), T(GONE), TD(SEND_FAILED) },
			    { TE(COMMIT), T(GONE), TD(SEND_FAILED) | TD(ALARM) });
	}
}

static void test_target_asked(void **state)
{
	struct gw_target_machine m = { 0 };

	WALK_TARGET(&m, { TE(ASKED), T(IDLE), TD(SEND_FAILED) });
	WALK_TARGET(&m, TO_READY, { TE(ASKED), T(READY), TD(SEND_READY) },
		    { TE(COMMIT), T(COMMITTED), TD(FENCE_AND_RUN) }, { TE(ASKED), T(COMMITTED), 0 },
		    { TE(RAN), T(RUNNING), OWNER }, { TE(ASKED), T(RUNNING), OWNER });
	m = (struct gw_target_machine){ 0 };
	WALK_TARGET(&m, { TE(RESTARTED_PART), T(PART), TD(ASK) }, { TE(ASKED), T(PART), TD(SEND_FAILED) });
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

static bool is_loaded(enum gw_target_state s)
{
	return s == T(READY) || s == T(COMMITTED) || s == T(RUNNING);
}

static void check_target_row(const struct gw_target_machine *was, enum gw_target_event e)
{
	struct gw_target_machine m = *was;
	unsigned did = gw_target_step(&m, e);

	if (did & TD(FENCE_AND_RUN))
		assert_true(is_loaded(was->state) && e == TE(COMMIT));
	if (did & TD(DESTROY))
		assert_true(was->state != T(COMMITTED) && was->state != T(RUNNING));
	if ((did & TD(DESTROY)) && (was->state == T(READY) || was->state == T(PART)))
		assert_int_equal(e, TE(ABORT));
	if (did & TD(SEND_READY))
		assert_true(m.whole || m.owes);
	if (did & TD(SEND_COMPLETE))
		assert_true(was->state == T(RUNNING) && was->owes && !m.owes);
	if (was->owes && m.whole)
		assert_true(e == TE(COMPLETE) || (e == TE(FAILED) && was->state == T(RUNNING)));
	if (is_loaded(was->state) && !was->owes)
		assert_false(m.owes);
	assert_false(m.whole && m.owes);
	assert_int_equal(m.whole || m.owes, is_loaded(m.state));
}

static void test_target_never(void **state)
{
	for (int s = 0; s < GW_TARGET_STATE_COUNT; s++)
		for (int e = 0; e < GW_TARGET_EV_COUNT; e++)
			for (int owes = 0; owes <= is_loaded(s); owes++) {
				struct gw_target_machine m = {
					.state = s,
					.whole = is_loaded(s) && !owes,
					.owes = owes,
				};

				check_target_row(&m, e);
			}
}

static void test_target_promises(void **state)
{
	static const bool may[GW_TARGET_STATE_COUNT] = { [T(PREPARE)] = true, [T(RECEIVE)] = true, [T(LOAD)] = true,
		                                         [T(DISCARD)] = true };

	for (int s = 0; s < GW_TARGET_STATE_COUNT; s++) {
		struct gw_target_machine m = { .state = (enum gw_target_state)s };

		assert_int_equal(gw_target_may_discard(&m), may[s]);
	}
}

static void test_names(void **state)
{
	for (int s = 0; s < GW_TARGET_STATE_COUNT; s++)
		assert_non_null(gw_target_state_name(s));
	for (int e = 0; e < GW_TARGET_EV_COUNT; e++)
		assert_non_null(gw_target_event_name(e));
	assert_string_equal(gw_target_state_name(GW_TARGET_STATE_COUNT), "?");
	assert_string_equal(gw_target_event_name(-1), "?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("X1 the target runs on COMMIT and repeats RUNNING", test_target_moves),
		TEST("X1 a lost link destroys before READY and asks after it", test_target_link_lost),
		TEST("X1 a target that is not whole any more never runs", test_target_failures),
		TEST("X1 a target before READY never runs and discards on every loss", test_target_answers),
		TEST("X1 a target that is asked says whether it is whole", test_target_asked),
		TEST("X1 a restarted target asks, or reports that it runs", test_target_restarts),
		TEST("X1 no event makes a target run in part or destroys it undecided", test_target_never),
		TEST("X1 a daemon that stops discards what nobody counts on, and nothing else", test_target_promises),
		TEST("every state and event has a name", test_names),
	};

	return cmocka_run_group_tests_name("handover_target", tests, NULL, NULL);
}
