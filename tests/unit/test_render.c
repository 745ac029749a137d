/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What people see: tables, the progress line, the post-mortem (X4). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "control/render.h"
#include "control/render_progress.h"
#include "control/table.h"
#include "fake_host.h"

/* Everything that a test prints. */
struct page {
	char *text;
	size_t len;
	FILE *out;
};

static void page_open(struct page *p)
{
	p->out = open_memstream(&p->text, &p->len);
	assert_non_null(p->out);
}

static const char *page_close(struct page *p)
{
	fclose(p->out);
	return p->text;
}

static void contains(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("no '%s' in:\n%s", part, text);
}

static void lacks(const char *text, const char *part)
{
	if (strstr(text, part))
		fail_msg("'%s' in:\n%s", part, text);
}

static void no_line_ends_in_a_blank_or_holds_a_control_character(const char *text)
{
	const char *c;

	lacks(text, " \n");
	for (c = text; *c; c++)
		assert_true((unsigned char)*c >= ' ' || *c == '\n');
}

static void a_table_aligns_its_columns(void **state)
{
	static const struct gw_column columns[] = { { "NAME", false }, { "N", true }, { "NOTE", false } };
	struct gw_table *t = gw_table_new(columns, 3);
	struct page p;

	page_open(&p);
	gw_table_cell(t, "%s", "a");
	gw_table_cell(t, "%d", 12345);
	gw_table_cell(t, "%s", "");
	gw_table_cell(t, "%s", "\xc3\xbc" "ber");
	gw_table_cell(t, "%d", 1);
	gw_table_cell(t, "%s", " ");
	gw_table_print(t, p.out, 1);
	gw_table_free(t);
	assert_string_equal(page_close(&p), " NAME      N  NOTE\n a     12345  -\n \xc3\xbc"
	                                    "ber      1\n");
	free(p.text);
}

static void control_characters_of_others_never_reach_the_terminal(void **state)
{
	json_t *job = fake_job("m-1", "fails", 9, false);
	struct page p;
	char buf[64];

	json_object_set_new(job, "error",
	                    json_string("\x1b[2J\x1b]0;pwned\x07 gone\r\nnew line \xc2\x9b"
	                                "31m"));
	json_object_set_new(job, "peer", json_string("\x1b[31mred"));
	page_open(&p);
	gw_render_job(p.out, job);
	page_close(&p);
	for (const char *c = p.text; *c; c++)
		assert_true(((unsigned char)*c >= ' ' && *c != 0x7f) || *c == '\n');
	lacks(p.text, "\xc2\x9b");
	contains(p.text, "?[2J");
	contains(p.text, " gone? new line ?31m");
	assert_string_equal(gw_clean_text(buf, 4, "abcdef"), "abc");
	free(p.text);
	json_decref(job);
}

static void the_post_mortem_explains_each_pass_and_each_phase_X4(void **state)
{
	json_t *job = fake_job("m-1", "beta", 99, true);
	struct page p;

	page_open(&p);
	gw_render_outcome(p.out, job);
	page_close(&p);
	no_line_ends_in_a_blank_or_holds_a_control_character(p.text);
	contains(p.text, "web1 moved to beta in 12.30 s, downtime 40.00 ms\n");
	contains(p.text, "4.00 GiB in use, 4.31 GiB on the wire, 2 channels, async write tracing");
	contains(p.text, "  PASS    PAGES    ZERO     BYTES       TIME     SCAN       RATE      LEFT  "
	                 "DIRTY RATE  DECISION\n");
	contains(p.text, "     1  1048576  120000  3.54 GiB     3.21 s   900 us  1.18 GB/s   310 MiB    "
	                 "101 MB/s  copy once more\n");
	contains(p.text, "   all  1127936  120000  3.84 GiB     3.49 s  1.80 ms\n");
	contains(p.text, "Switched because: 8.00 MiB fit 50 ms\n");
	contains(p.text, "Downtime: 40.00 ms\n");
	contains(p.text, "  last pages    20.000   50.0\n");
	contains(p.text, "  other          2.000    5.0\n");
	contains(p.text, "  total         40.000  100.0\n");
	contains(p.text, "Set-up: 701.00 ms\n");
	contains(p.text, "Clean-up: 30.00 ms\n");
	contains(p.text, "Page tables at the target: populated in 118.00 ms, most of it while memory arrived; "
	                 "huge mappings: 4.00 GiB at the source, 4.00 GiB at the target\n");
	contains(p.text, "Verified: 1048576 pages are equal on both sides (compared in 1.20 s)\n");
	contains(p.text, "Total: 12.30 s\n");
	free(p.text);
	json_decref(job);
}

static void the_post_mortem_tells_what_packing_saved_X4(void **state)
{
	json_t *job = fake_job("m-1", "beta", 99, false);
	json_t *report = json_object_get(job, "report"), *pass = json_array_get(json_object_get(report, "passes"), 1);
	struct page p;

	json_object_set_new(pass, "packed_pages", json_integer(70000));
	json_object_set_new(pass, "delta_pages", json_integer(9000));
	json_object_set_new(pass, "saved_bytes", json_integer(200 << 20));
	json_object_set_new(report, "compression",
	                    json_pack("{s:s, s:s, s:i, s:i, s:i, s:i}", "method", "zstd-1", "reason", "the link is \033slow",
	                              "packed_pages", 70000, "delta_pages", 9000, "raw_pages", 360, "saved_bytes",
	                              200 << 20));
	page_open(&p);
	gw_render_outcome(p.out, job);
	page_close(&p);
	no_line_ends_in_a_blank_or_holds_a_control_character(p.text);
	contains(p.text, "  PASS    PAGES    ZERO  PACKED  DELTA     BYTES    SAVED");
	contains(p.text, "   all  1127936  120000   70000   9000  3.84 GiB  200 MiB");
	contains(p.text, "  Packing at the end: zstd-1 (the link is ?slow); 70000 pages packed, 9000 as differences, 360 raw, "
	                 "200 MiB saved\n");
	free(p.text);
	json_decref(job);
}

static void n12_the_post_mortem_tells_how_long_the_target_depended_on_the_source(void **state)
{
	json_t *job = fake_job("m-1", "beta", 99, false);
	struct page p;

	json_object_set_new(json_object_get(job, "report"), "postcopy",
	                    json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "owed_bytes", 512 << 20, "demanded", 1234,
	                              "demanded_bytes", 19 << 20, "fault_p50_ns", 90000, "fault_p99_ns", 2500000,
	                              "fault_max_ns", 7000000, "duration_ns", 480000000, "links_made_again", 2));
	page_open(&p);
	gw_render_outcome(p.out, job);
	page_close(&p);
	no_line_ends_in_a_blank_or_holds_a_control_character(p.text);
	contains(p.text, "Post-copy: 512 MiB were owed at the switch; the target depended on the source for 480.00 ms\n");
	contains(p.text, "  1234 page faults waited for the source (19.0 MiB with what lay around): median ");
	contains(p.text, "  The link was lost and made again 2 times\n");
	free(p.text);
	json_decref(job);
}

static void n12_a_job_shows_what_still_follows(void **state)
{
	json_t *job = json_pack("{s:s, s:s, s:b, s:{s:i, s:I, s:I, s:I}}", "state", "post-copy", "step", "it follows", "final", 0,
	                        "progress", "pass", 2, "remaining_bytes", (json_int_t)(100 << 20), "pass_total_bytes",
	                        (json_int_t)(400 << 20), "pass_done_bytes", (json_int_t)(300 << 20));
	char text[256];

	contains(gw_progress_text(text, sizeof(text), job), "100 MiB left");
	contains(gw_progress_bar(text, sizeof(text), job, 78), " 75%");
	json_decref(job);
}

static void a_verification_that_failed_is_shouted(void **state)
{
	json_t *job = fake_job("m-1", "beta", 99, true);
	json_t *verify = json_object_get(json_object_get(job, "report"), "verify");
	struct page p;

	json_object_set_new(verify, "equal", json_false());
	json_object_set_new(verify, "different_pages", json_integer(3));
	page_open(&p);
	gw_render_outcome(p.out, job);
	contains(page_close(&p), "VERIFICATION FAILED: 3 of 1048576 pages differ");
	free(p.text);
	json_decref(job);
}

static void each_end_of_a_job_has_its_sentence(void **state)
{
	static const struct {
		const char *to, *sentence;
	} ends[] = {
		{ "fails", "web1 did not move to fails: the connection to fails was lost in pass 1: "
		           "Connection reset "
		           "by peer; it runs here" },
		{ "limbo", "web1 is paused and nobody knows yet whether it is to run here or on limbo: "
		           "limbo answers no "
		           "more after READY" },
		{ "expires", "web1 did not move to expires: not decided within 2 s; it runs here" },
	};
	json_t *job;
	char buf[512];
	size_t i;

	for (i = 0; i < GW_ARRAY_SIZE(ends); i++) {
		job = fake_job("m-1", ends[i].to, 99, false);
		assert_string_equal(gw_outcome_sentence(buf, sizeof(buf), job), ends[i].sentence);
		json_decref(job);
	}
	job = fake_job("m-1", "slow", 99, false);
	json_object_set_new(job, "state", json_string("cancelled"));
	assert_string_equal(gw_outcome_sentence(buf, sizeof(buf), job),
	                    "web1 did not move to slow: cancelled; it runs here");
	json_object_set_new(job, "kind", json_string("migrate-in"));
	json_object_set_new(job, "vm_is", json_string("there"));
	assert_string_equal(gw_outcome_sentence(buf, sizeof(buf), job),
	                    "web1 did not come from slow: cancelled; it runs on slow");
	json_decref(job);
}

static void a_dry_run_predicts_only_what_is_known_X4(void **state)
{
	json_t *dry = json_pack("{s:b, s:[s], s:{s:I, s:I, s:I}}", "possible", 0, "reasons",
	                        "no \x1b memory", "prediction", "ram_used_bytes", (json_int_t)2 << 30,
	                        "bandwidth_Bps", (json_int_t)800000000, "total_ns", 3 * GW_NS_PER_S);
	struct page p;

	page_open(&p);
	gw_render_dry_run(p.out, "web1", "beta", dry);
	json_object_set_new(json_object_get(dry, "prediction"), "bandwidth_Bps", json_integer(0));
	json_object_set_new(dry, "possible", json_true());
	json_object_set_new(dry, "reasons", json_array());
	gw_render_dry_run(p.out, "web1", "beta", dry);
	assert_string_equal(
		page_close(&p),
		"web1 cannot move to beta\n  - no ? memory\n"
		"prediction: 2.00 GiB of memory in use at 800 MB/s, about 3.00 s in all\n"
		"web1 can move to beta\n"
		"prediction: 2.00 GiB of memory in use; how fast it moves is not known before the "
		"first time\n");
	free(p.text);
	json_decref(dry);
}

static void objects_that_lack_everything_are_rendered_all_the_same(void **state)
{
	json_t *object = json_object(), *array = json_pack("[{}, {s:{}}]", "report"), *odd;
	struct page p;

	page_open(&p);
	gw_render_host(p.out, object);
	gw_render_vm(p.out, object);
	gw_render_job(p.out, object);
	gw_render_outcome(p.out, object);
	gw_render_report(p.out, object);
	gw_render_dry_run(p.out, "a", "b", object);
	gw_render_vm_list(p.out, array);
	gw_render_job_list(p.out, array);
	gw_render_vm_list(p.out, object);
	odd = json_pack("{s:i, s:[], s:{s:s, s:{}}, s:{s:s}, s:b}", "state", 7, "vm", "progress", "pass",
	                "x", "eta_ns", "report", "passes", "none", "final", 1);
	gw_render_job(p.out, odd);
	gw_render_job(p.out, NULL);
	page_close(&p);
	free(p.text);
	json_decref(odd);
	json_decref(array);
	json_decref(object);
}

static void the_progress_bar_never_exceeds_its_width_and_keeps_what_matters(void **state)
{
	json_t *job = fake_job("m-1", "beta", 3, false);
	char buf[1024];
	unsigned width;

	for (width = 1; width <= 250; width++) {
		gw_progress_bar(buf, sizeof(buf), job, width);
		assert_true(gw_text_width(buf) <= width);
		assert_true(width < 14 || !strncmp(buf, "copying pass 2", 14));
	}
	contains(gw_progress_bar(buf, sizeof(buf), job, 60), "310 MiB left");
	contains(gw_progress_bar(buf, sizeof(buf), job, 60), "[#########...]  75%");
	lacks(gw_progress_bar(buf, sizeof(buf), job, 60), "sent");
	contains(gw_progress_bar(buf, sizeof(buf), job, 200), "768 MiB sent");
	contains(gw_progress_bar(buf, sizeof(buf), job, 200), "310 MiB left");
	contains(gw_progress_bar(buf, sizeof(buf), job, 200), "812 MB/s");
	contains(gw_progress_bar(buf, sizeof(buf), job, 200), "dirty 95.0 MB/s");
	contains(gw_progress_bar(buf, sizeof(buf), job, 200), "downtime 38.00 ms");
	contains(gw_progress_bar(buf, sizeof(buf), job, 200), "ETA 4.00 s");
	json_decref(job);
}

static void a_terminal_gets_one_line_redrawn_and_removed(void **state)
{
	json_t *job = fake_job("m-1", "beta", 3, false);
	struct gw_progress_view progress;
	struct page p;

	page_open(&p);
	gw_progress_view_init(&progress, p.out, GW_PROGRESS_TERMINAL);
	gw_progress_view_update(&progress, job, 80, 1);
	gw_progress_view_update(&progress, job, 0, 2);
	gw_progress_view_note(&progress, "a note of %d words", 5);
	gw_progress_view_clear(&progress);
	page_close(&p);
	assert_int_equal(p.text[0], '\r');
	contains(p.text, "\r\033[Ka note of 5 words\n");
	assert_ptr_equal(strchr(p.text, '\n'), p.text + p.len - 1);
	free(p.text);
	json_decref(job);
}

static unsigned lines(const char *text)
{
	unsigned n = 0;

	for (; *text; text++)
		n += *text == '\n';
	return n;
}

static void elsewhere_lines_come_at_changes_and_once_a_second(void **state)
{
	json_t *copying = fake_job("m-1", "beta", 3, false), *next = fake_job("m-1", "beta", 4, false);
	json_t *switching = fake_job("m-1", "beta", 5, false);
	struct gw_progress_view progress;
	struct page p;
	int i;

	page_open(&p);
	gw_progress_view_init(&progress, p.out, GW_PROGRESS_PLAIN);
	for (i = 0; i < 20; i++) /* 1.9 s in steps of 0.1 s: the first, and the one a second later */
		gw_progress_view_update(&progress, copying, 0, GW_NS_PER_S + i * 100 * GW_NS_PER_MS);
	fflush(p.out);
	assert_int_equal(lines(p.text), 2);
	gw_progress_view_update(&progress, next, 0, 3 * GW_NS_PER_S);
	gw_progress_view_update(&progress, switching, 0, 3 * GW_NS_PER_S + 1);
	fflush(p.out);
	assert_int_equal(lines(p.text), 4);
	page_close(&p);
	no_line_ends_in_a_blank_or_holds_a_control_character(p.text);
	assert_true(p.text[2] == ':' && p.text[5] == ':' && p.text[8] == ' ');
	contains(p.text, " copying pass 2: 768 MiB sent, 310 MiB left, 812 MB/s, dirty 95.0 MB/s, "
	                 "predicted downtime "
	                 "38.00 ms, ETA 4.00 s\n");
	contains(p.text, " switching (device state)\n");
	free(p.text);
	json_decref(copying);
	json_decref(next);
	json_decref(switching);
}

static void a_final_job_shows_no_step_and_a_job_never_stopped_no_downtime(void **state)
{
	json_t *done = fake_job("m-1", "beta", 99, false), *jobs;
	struct page p;
	char buf[128];

	assert_string_equal(gw_progress_text(buf, sizeof(buf), done), "done");
	json_object_set_new(json_object_get(done, "report"), "downtime_ns", json_integer(0));
	jobs = json_pack("[o]", done);
	page_open(&p);
	gw_render_job_list(p.out, jobs);
	contains(page_close(&p), "  12.30 s         -  -\n");
	free(p.text);
	json_decref(jobs);
}

static void a_slowed_vm_is_told_in_the_progress(void **state)
{
	json_t *job = fake_job("m-1", "beta", 3, false);
	char buf[512];

	json_object_set_new(json_object_get(job, "progress"), "throttle_percent", json_integer(60));
	gw_progress_text(buf, sizeof(buf), job);
	assert_int_equal(strncmp(buf, "copying pass 2, VM slowed by 60 %: ", 35), 0);
	json_decref(job);
}

static void json_progress_is_one_object_per_line_and_nothing_else(void **state)
{
	json_t *job = fake_job("m-1", "beta", 3, false), *again;
	struct gw_progress_view progress;
	struct page p;

	page_open(&p);
	gw_progress_view_init(&progress, p.out, GW_PROGRESS_JSON);
	gw_progress_view_note(&progress, "not for machines");
	gw_progress_view_update(&progress, job, 0, 1);
	gw_progress_view_clear(&progress);
	page_close(&p);
	assert_int_equal(lines(p.text), 1);
	again = json_loads(p.text, 0, NULL);
	assert_true(json_equal(job, again));
	json_decref(again);
	json_decref(job);
	free(p.text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_table_aligns_its_columns),
		cmocka_unit_test(control_characters_of_others_never_reach_the_terminal),
		cmocka_unit_test(the_post_mortem_explains_each_pass_and_each_phase_X4),
		cmocka_unit_test(the_post_mortem_tells_what_packing_saved_X4),
		cmocka_unit_test(n12_the_post_mortem_tells_how_long_the_target_depended_on_the_source),
		cmocka_unit_test(n12_a_job_shows_what_still_follows),
		cmocka_unit_test(a_verification_that_failed_is_shouted),
		cmocka_unit_test(each_end_of_a_job_has_its_sentence),
		cmocka_unit_test(a_dry_run_predicts_only_what_is_known_X4),
		cmocka_unit_test(objects_that_lack_everything_are_rendered_all_the_same),
		cmocka_unit_test(the_progress_bar_never_exceeds_its_width_and_keeps_what_matters),
		cmocka_unit_test(a_terminal_gets_one_line_redrawn_and_removed),
		cmocka_unit_test(elsewhere_lines_come_at_changes_and_once_a_second),
		cmocka_unit_test(a_final_job_shows_no_step_and_a_job_never_stopped_no_downtime),
		cmocka_unit_test(a_slowed_vm_is_told_in_the_progress),
		cmocka_unit_test(json_progress_is_one_object_per_line_and_nothing_else),
	};

	return cmocka_run_group_tests_name("render", tests, NULL, NULL);
}
