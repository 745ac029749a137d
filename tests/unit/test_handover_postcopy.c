/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Both handover machines when the switch happens with pages owed (N6, X1). */
#include "handover_walk.h"

#define TO_COMMIT_OWING TO_SENT, { SE(READY_OWING), S(COMMIT), SD(RECORD_COMMIT) }
#define TO_COMMITTED_OWING TO_COMMIT_OWING, { SE(RECORDED), S(COMMITTED), SD(SEND_COMMIT) }
#define TO_SERVING TO_COMMITTED_OWING, { SE(RUNNING_OWED), S(SERVING), SD(SERVE) }
#define OWNER_COMPLETE (TD(RECORD_OWNER) | TD(SEND_COMPLETE))
#define TO_OWING TO_LOAD, { TE(LOADED_OWING), T(READY), TD(SEND_READY) }
#define TO_RUNNING_OWING                                          \
	TO_OWING, { TE(COMMIT), T(COMMITTED), TD(FENCE_AND_RUN) }, { TE(RAN), T(RUNNING), OWNER }

static void test_source_serves(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_SERVING);
	assert_false(gw_source_can_abort(&m));
	assert_int_equal(gw_source_answer(&m), GW_ANSWER_COMMIT);
	WALK_SOURCE(&m, { SE(COMPLETE), S(DONE), SD(DESTROY) });
	assert_int_equal(gw_source_answer(&m), GW_ANSWER_COMMIT);

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_STOP, { SE(READY_OWING), S(STOP), 0 },
		    { SE(ALL_SENT), S(COMMIT), SD(RECORD_COMMIT) });
}

static void test_source_link_lost(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_SERVING, { SE(FAILED), S(SERVING), SD(SERVE) },
		    { SE(FAILED), S(SERVING), SD(SERVE) }, { SE(RUNNING_OWED), S(SERVING), SD(SERVE) },
		    { SE(RUNNING), S(DONE), SD(DESTROY) });

	/* RUNNING was lost, or the last page came before it. */
	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_COMMITTED_OWING, { SE(FAILED), S(COMMITTED), SD(SEND_COMMIT) },
		    { SE(COMPLETE), S(DONE), SD(DESTROY) });
	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_COMMITTED_OWING, { SE(RUNNING), S(DONE), SD(DESTROY) });
}

static void test_source_aborts_before(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_COMMIT_OWING, { SE(RECORD_FAILED), S(ABORT), UNDO }, { SE(RECORDED), S(ABORT), BACK },
		    { SE(RESUMED), S(ABORTED), 0 });
}

/* Nothing that happens while serving leads back or takes the image away. */
static void test_source_keeps_the_image(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_SERVING, { SE(VM_LOST), S(SERVING), SD(SERVE) },
		    { SE(TARGET_LOST), S(SERVING), SD(ALARM) }, { SE(READY_OWING), S(SERVING), 0 },
		    { SE(READY), S(SERVING), 0 }, { SE(RETRY), S(SERVING), 0 }, { SE(RECORD_FAILED), S(SERVING), 0 },
		    { SE(FAILED), S(SERVING), SD(SERVE) }, { SE(COMPLETE), S(DONE), SD(DESTROY) });
}

static void test_source_restarts(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, { SE(RESTARTED_COMMIT), S(COMMIT), SD(RECORD_COMMIT) }, { SE(COMPLETE), S(COMMIT), 0 },
		    { SE(RECORDED), S(COMMITTED), SD(SEND_COMMIT) });
	assert_true(m.owes); /* the target may lack pages, and need one to start */
	WALK_SOURCE(&m, { SE(RUNNING_OWED), S(SERVING), SD(SERVE) }, { SE(COMPLETE), S(DONE), SD(DESTROY) });
}

/* The image is lost while the target runs on it: an alarm, and the target's last word is still awaited. */
static void test_source_image_lost(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_SERVING, { SE(IMAGE_LOST), S(SERVING), SD(ALARM) },
		    { SE(FAILED), S(SERVING), SD(SEND_COMMIT) }, { SE(RUNNING_OWED), S(SERVING), SD(ALARM) },
		    { SE(VM_LOST), S(SERVING), SD(SEND_COMMIT) }, { SE(COMPLETE), S(DONE), SD(DESTROY) });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, { SE(RESTARTED_COMMIT), S(COMMIT), SD(RECORD_COMMIT) }, { SE(IMAGE_LOST), S(COMMIT), 0 },
		    { SE(RECORDED), S(COMMITTED), SD(SEND_COMMIT) },
		    { SE(RUNNING_OWED), S(SERVING), SD(ALARM) }, { SE(RUNNING), S(DONE), SD(DESTROY) });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_COMMITTED_OWING, { SE(IMAGE_LOST), S(COMMITTED), SD(SEND_COMMIT) },
		    { SE(RUNNING_OWED), S(SERVING), SD(ALARM) });
}

/* Rule 5 with pages owed: right as long as the image here can be read, wrong after that. */
static void test_source_vmm_dies(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_SENT, { SE(VM_LOST), S(SENT), SD(ASK) },
		    { SE(READY_OWING), S(COMMIT), SD(RECORD_COMMIT) },
		    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) },
		    { SE(RETRY), S(COMMIT), SD(RECORD_COMMIT) },
		    { SE(RECORDED), S(COMMITTED), SD(SEND_COMMIT) });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_SENT, { SE(IMAGE_LOST), S(SENT), SD(ASK) }, { SE(FAILED), S(SENT), SD(ASK) },
		    { SE(READY_OWING), S(ABORT), UNDO }, { SE(RECORDED), S(ABORT), BACK });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, { SE(RESTARTED_LOST), S(SENT), SD(ASK) }, { SE(READY_OWING), S(ABORT), UNDO },
		    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) }, { SE(RETRY), S(ABORT), SD(RECORD_ABORT) });

	/* A target to which nothing is owed any more is whole by itself. */
	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, { SE(RESTARTED_LOST), S(SENT), SD(ASK) },
		    { SE(READY), S(COMMIT), SD(RECORD_COMMIT) });
}

static void test_source_image_lost_early(void **state)
{
	struct gw_source_machine m = { 0 };

	WALK_SOURCE(&m, TO_STOP, { SE(READY_OWING), S(STOP), 0 },
		    { SE(IMAGE_LOST), S(SENT), SD(CANCEL_SAVE) | SD(ASK) }, { SE(READY_OWING), S(ABORT), UNDO },
		    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) }, { SE(RETRY), S(ABORT), SD(RECORD_ABORT) });

	/* While COMMIT is written: a failure leads back, for the target alone is not whole. */
	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_COMMIT_OWING, { SE(IMAGE_LOST), S(COMMIT), 0 },
		    { SE(RECORD_FAILED), S(ABORT), UNDO });

	m = (struct gw_source_machine){ 0 };
	WALK_SOURCE(&m, TO_COPY, { SE(IMAGE_LOST), S(ABORT), UNDO });
}

/* An operator decided at the target: where RUNNING counts, RUNNING_OWED and COMPLETE do. */
static void test_source_follows_an_operator(void **state)
{
	static const enum gw_source_event words[] = { SE(RUNNING_OWED), SE(COMPLETE) };

	for (size_t i = 0; i < GW_ARRAY_SIZE(words); i++) {
		struct gw_source_machine m = { 0 };

		WALK_SOURCE(&m, TO_SENT, { words[i], S(COMMIT), SD(RECORD_COMMIT) | SD(ALARM) },
			    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) });

		m = (struct gw_source_machine){ 0 };
		WALK_SOURCE(&m, TO_STOP, { SE(FAILED), S(ABORT), UNDO }, { words[i], S(ABORT), SD(ALARM) },
			    { SE(RECORD_FAILED), S(UNKNOWN), SD(ALARM) },
			    { words[i], S(COMMIT), SD(RECORD_COMMIT) },
			    { SE(RECORDED), S(COMMITTED), SD(SEND_COMMIT) });

		m = (struct gw_source_machine){ .state = S(ABORTED), .aborted = true };
		WALK_SOURCE(&m, { words[i], S(ABORTED), SD(ALARM) });
	}
}

static void test_target_completes(void **state)
{
	struct gw_target_machine m = { 0 };

	WALK_TARGET(&m, TO_RUNNING_OWING);
	assert_true(m.owes && !m.whole);
	WALK_TARGET(&m, { TE(LINK_LOST), T(RUNNING), 0 }, { TE(COMMIT), T(RUNNING), OWNER },
		    { TE(ASKED), T(RUNNING), OWNER }, { TE(ABORT), T(RUNNING), 0 });
	assert_true(m.owes);
	WALK_TARGET(&m, { TE(COMPLETE), T(RUNNING), OWNER_COMPLETE });
	assert_true(m.whole && !m.owes);
	WALK_TARGET(&m, { TE(COMPLETE), T(RUNNING), 0 }, { TE(FAILED), T(RUNNING), 0 },
		    { TE(COMMIT), T(RUNNING), OWNER });
}

static void test_target_completes_early(void **state)
{
	struct gw_target_machine m = { 0 };

	WALK_TARGET(&m, TO_OWING, { TE(COMPLETE), T(READY), 0 });
	assert_true(m.whole && !m.owes);
	WALK_TARGET(&m, { TE(COMMIT), T(COMMITTED), TD(FENCE_AND_RUN) }, { TE(RAN), T(RUNNING), OWNER },
		    { TE(COMPLETE), T(RUNNING), 0 });

	m = (struct gw_target_machine){ 0 };
	WALK_TARGET(&m, TO_OWING, { TE(COMMIT), T(COMMITTED), TD(FENCE_AND_RUN) },
		    { TE(COMPLETE), T(COMMITTED), 0 });
	assert_true(m.whole && !m.owes);
}

static void test_target_crashes(void **state)
{
	struct gw_target_machine m = { 0 };

	WALK_TARGET(&m, TO_RUNNING_OWING, { TE(FAILED), T(RUNNING), OWNER_COMPLETE });
	assert_false(m.owes);
	WALK_TARGET(&m, { TE(COMMIT), T(RUNNING), OWNER }, { TE(FAILED), T(RUNNING), 0 });

	m = (struct gw_target_machine){ 0 };
	WALK_TARGET(&m, TO_OWING, { TE(FAILED), T(PART), TD(ASK) | TD(SEND_FAILED) },
		    { TE(COMPLETE), T(PART), 0 }, { TE(COMMIT), T(PART), TD(SEND_FAILED) | TD(ALARM) });
	assert_false(m.owes || m.whole);
}

static void test_target_undecided(void **state)
{
	struct gw_target_machine m = { 0 };

	WALK_TARGET(&m, TO_OWING, { TE(LINK_LOST), T(READY), TD(ASK) }, { TE(ASKED), T(READY), TD(SEND_READY) });
	assert_true(m.owes && !m.whole);
	WALK_TARGET(&m, { TE(ABORT), T(DISCARD), TD(DESTROY) });
	assert_false(m.owes);
}

static void test_target_restarts(void **state)
{
	struct gw_target_machine m = { 0 };

	WALK_TARGET(&m, { TE(RESTARTED_OWING), T(READY), TD(ASK) });
	assert_true(m.owes && !m.whole);
	WALK_TARGET(&m, { TE(COMMIT), T(COMMITTED), TD(FENCE_AND_RUN) }, { TE(RAN), T(RUNNING), OWNER },
		    { TE(COMPLETE), T(RUNNING), OWNER_COMPLETE });

	m = (struct gw_target_machine){ 0 };
	WALK_TARGET(&m, { TE(RESTARTED_RUNNING_OWING), T(RUNNING), OWNER });
	assert_true(m.owes && !m.whole);
	WALK_TARGET(&m, { TE(COMPLETE), T(RUNNING), OWNER_COMPLETE });
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N6 the source serves what is owed, and destroys its image at COMPLETE", test_source_serves),
		TEST("N6 a lost link while serving is made again, as often as it takes", test_source_link_lost),
		TEST("X1 before COMMIT a switch with pages owed is undone like any other",
		     test_source_aborts_before),
		TEST("X1 nothing ends serving but the target's word that it lacks nothing",
		     test_source_keeps_the_image),
		TEST("X1 a restarted source finds its way back to serving", test_source_restarts),
		TEST("X1 a source that lost the image it owes says so and awaits the target's end",
		     test_source_image_lost),
		TEST("X1 a dead source VMM leaves the guest to an owing target while its RAM can be read",
		     test_source_vmm_dies),
		TEST("X1 no COMMIT for an owing target once the image is lost", test_source_image_lost_early),
		TEST("X1 a target that an operator made run is followed, also when it lacks pages",
		     test_source_follows_an_operator),
		TEST("N6 the target runs with pages owed and says when the last is in", test_target_completes),
		TEST("N6 a target whose last page comes early is an ordinary one", test_target_completes_early),
		TEST("X1 a target that crashes with pages owed wants them no more", test_target_crashes),
		TEST("X1 an undecided target with pages owed asks like a whole one", test_target_undecided),
		TEST("X1 a restarted target keeps what is owed to it", test_target_restarts),
	};

	return cmocka_run_group_tests_name("handover_postcopy", tests, NULL, NULL);
}
