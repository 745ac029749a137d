/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reports and progress as JSON (X4), at the edges of what their tables hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "migration/report.h"

static json_int_t number(const json_t *j, const char *key)
{
	const json_t *v = json_object_get(j, key);

	if (!json_is_integer(v))
		fail_msg("%s is not a whole number", key);
	return json_integer_value(v);
}

static void test_empty(void **state)
{
	struct gw_report r = { .started = gw_now_ns() };
	json_t *j = gw_report_json(&r);

	assert_non_null(j);
	assert_true(number(j, "total_ns") >= 0);
	assert_int_equal(json_array_size(json_object_get(j, "passes")), 0);
	assert_true(json_is_null(json_object_get(j, "verify")));
	assert_true(json_is_null(json_object_get(j, "compression")));
	assert_string_equal(json_string_value(json_object_get(j, "decision")), "");
	assert_string_equal(json_string_value(json_object_get(j, "tracing")), "");
	json_decref(j);
}

static void test_passes(void **state)
{
	struct gw_report *r = calloc(1, sizeof(*r));
	json_t *j, *pass;

	*r = (struct gw_report){ .started = 1000, .finished = 5000, .downtime_ns = 700, .channels = 3, .n_passes = 2 };
	r->passes[0] = (struct gw_pass_stats){ .pass = 1, .pages = 10, .wire_bytes = 5000000, .duration_ns = 500000000 };
	r->passes[1] = (struct gw_pass_stats){ .pass = 2, .pages = 4, .zero_pages = 1, .left_bytes = UINT64_C(1) << 40 };
	strcpy(r->why, "what is left is little");
	j = gw_report_json(r);
	assert_int_equal(number(j, "total_ns"), 4000);
	assert_int_equal(number(j, "downtime_ns"), 700);
	assert_int_equal(number(j, "channels"), 3);
	assert_int_equal(json_array_size(json_object_get(j, "passes")), 2);
	pass = json_array_get(json_object_get(j, "passes"), 0);
	assert_int_equal(number(pass, "pages"), 10);
	assert_int_equal(number(pass, "rate_Bps"), 10000000);
	pass = json_array_get(json_object_get(j, "passes"), 1);
	assert_int_equal(number(pass, "rate_Bps"), 0); /* of no time */
	assert_int_equal(number(pass, "left_bytes"), 1ll << 40);
	assert_string_equal(json_string_value(json_object_get(j, "decision")), "what is left is little");
	json_decref(j);
	free(r);
}

static void test_compression(void **state)
{
	struct gw_report *r = calloc(1, sizeof(*r));
	json_t *j, *c, *pass;

	r->n_passes = 1;
	r->passes[0] = r->sent = (struct gw_pass_stats){ .pass = 1, .pages = 100, .zero_pages = 10, .delta_pages = 20,
		                                         .packed_pages = 30, .compression = "lz4", .wire_bytes = 200000 };
	r->compression = "lz4";
	strcpy(r->compression_why, "the link is slow");
	j = gw_report_json(r);
	c = json_object_get(j, "compression");
	pass = json_array_get(json_object_get(j, "passes"), 0);
	assert_string_equal(json_string_value(json_object_get(c, "method")), "lz4");
	assert_string_equal(json_string_value(json_object_get(c, "reason")), "the link is slow");
	assert_int_equal(number(c, "raw_pages"), 40); /* every page is of one kind */
	assert_int_equal(number(c, "saved_bytes"), 90 * 4096 - 200000);
	assert_int_equal(number(pass, "delta_pages"), 20);
	assert_int_equal(number(pass, "packed_pages"), 30);
	assert_int_equal(number(pass, "saved_bytes"), 90 * 4096 - 200000);
	assert_string_equal(json_string_value(json_object_get(pass, "compression")), "lz4");
	json_decref(j);
	r->passes[0] = (struct gw_pass_stats){ .pass = 1, .pages = 1, .wire_bytes = 4160 };
	j = gw_report_json(r);
	pass = json_array_get(json_object_get(j, "passes"), 0);
	assert_int_equal(number(pass, "saved_bytes"), 0); /* headers are no negative saving */
	assert_string_equal(json_string_value(json_object_get(pass, "compression")), "off");
	json_decref(j);
	free(r);
}

static void test_tables_overflow(void **state)
{
	struct gw_report *r = calloc(1, sizeof(*r));
	json_t *j, *last;

	r->n_passes = GW_REPORT_PASSES_MAX + 50;
	strcpy(r->decisions[GW_REPORT_PASSES_MAX - 1].reason, "the last one listed");
	for (int i = 0; i < GW_REPORT_PHASES_MAX + 5; i++)
		gw_phase_add(&r->downtime, "phase", i);
	j = gw_report_json(r);
	assert_int_equal(json_array_size(json_object_get(j, "passes")), GW_REPORT_PASSES_MAX);
	assert_int_equal(json_array_size(json_object_get(j, "downtime")), GW_REPORT_PHASES_MAX);
	last = json_array_get(json_object_get(j, "passes"), GW_REPORT_PASSES_MAX - 1);
	assert_string_equal(json_string_value(json_object_get(last, "decision")), "the last one listed");
	json_decref(j);
	free(r);
}

static void test_verify(void **state)
{
	struct gw_report r = { .verified = true, .verify_equal = false, .verify_pages = 9, .verify_different_pages = 2 };
	json_t *j = gw_report_json(&r), *v = json_object_get(j, "verify");

	assert_true(json_is_false(json_object_get(v, "equal")));
	assert_int_equal(number(v, "pages"), 9);
	assert_int_equal(number(v, "different_pages"), 2);
	json_decref(j);
}

static void test_progress(void **state)
{
	struct gw_progress p = { .pass = 2, .pass_total_bytes = 100, .pass_done_bytes = 30,
		                 .predicted_downtime_ns = GW_TIME_NEVER, .eta_ns = 5 };
	json_t *j = gw_progress_json(&p);

	assert_int_equal(number(j, "remaining_bytes"), 70);
	assert_true(json_is_null(json_object_get(j, "predicted_downtime_ns"))); /* not known, and not a large number */
	assert_int_equal(number(j, "eta_ns"), 5);
	json_decref(j);
	p.pass_done_bytes = 130; /* zero runs count more than was reckoned with */
	j = gw_progress_json(&p);
	assert_int_equal(number(j, "remaining_bytes"), 0);
	json_decref(j);
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("X4 a report of nothing has every field", test_empty),
		TEST("X4 each pass is told with its pages, bytes, rate and decision", test_passes),
		TEST("X4 what was packed, how, why and what it saved stands in the report", test_compression),
		TEST("X4 more passes and phases than the tables hold are not listed", test_tables_overflow),
		TEST("X2 what verification found stands in the report", test_verify),
		TEST("X4 progress says null for what is not known, and never less than nothing", test_progress),
	};

	return cmocka_run_group_tests_name("report", tests, NULL, NULL);
}
