/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bitmap against a naive model: an array of bools. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/cleanup.h"

#define MODEL_MAX 400

struct model {
	bool bit[MODEL_MAX];
	size_t nbits;
};

/* Same seed, same bits: a failure can be repeated. */
static uint64_t seed_now;

static uint64_t next_random(void)
{
	seed_now ^= seed_now << 13;
	seed_now ^= seed_now >> 7;
	seed_now ^= seed_now << 17;
	return seed_now;
}

static void model_change(struct model *m, size_t first, size_t n, bool value)
{
	for (size_t i = first; i < m->nbits && i - first < n; i++)
		m->bit[i] = value;
}

static bool model_next_run(const struct model *m, size_t from, size_t end, size_t max, size_t *ret_first,
                           size_t *ret_n)
{
	end = GW_MIN(end, m->nbits);
	for (size_t i = from; i < end; i++) {
		if (!m->bit[i])
			continue;
		*ret_first = i;
		for (*ret_n = 0; i < end && *ret_n < max && m->bit[i]; i++)
			(*ret_n)++;
		return true;
	}
	return false;
}

static void compare(const struct gw_bitmap *b, const struct model *m)
{
	size_t count = 0;

	for (size_t i = 0; i < m->nbits; i++) {
		if (gw_bitmap_test(b, i) != m->bit[i])
			fail_msg("bit %zu of %zu is %d", i, m->nbits, !m->bit[i]);
		count += m->bit[i];
	}
	assert_int_equal(gw_bitmap_count(b), count);
}

static void compare_run(const struct gw_bitmap *b, const struct model *m, size_t from, size_t end, size_t max)
{
	size_t first = 1, n = 2, want_first = 1, want_n = 2;
	bool got = gw_bitmap_next_run(b, from, end, max, &first, &n);
	bool want = model_next_run(m, from, end, max, &want_first, &want_n);

	if (got != want || first != want_first || n != want_n)
		fail_msg("run from %zu to %zu, at most %zu, of %zu bits: %d %zu+%zu, wanted %d %zu+%zu", from, end, max,
		         m->nbits, got, first, n, want, want_first, want_n);
}

static void test_random(void **state)
{
	static const size_t sizes[] = { 1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 300, MODEL_MAX };

	seed_now = 0x60d171;
	for (size_t s = 0; s < GW_ARRAY_SIZE(sizes); s++) {
		struct model m = { .nbits = sizes[s] };
		struct gw_bitmap b;

		assert_int_equal(gw_bitmap_init(&b, sizes[s]), 0);
		for (unsigned i = 0; i < 3000; i++) {
			size_t first = next_random() % (sizes[s] + 3), n = next_random() % (sizes[s] + 70);
			bool set = next_random() & 1;

			if (next_random() % 4 == 0)
				n %= 3;
			(set ? gw_bitmap_set_range : gw_bitmap_clear_range)(&b, first, n);
			model_change(&m, first, n, set);
			compare(&b, &m);
			compare_run(&b, &m, next_random() % (sizes[s] + 2), next_random() % (sizes[s] + 66),
			            1 + next_random() % 130);
		}
		gw_bitmap_done(&b);
	}
}

/* Every range within three words, on a clear and on a full bitmap. */
static void test_word_boundaries(void **state)
{
	static const size_t edges[] = { 0, 1, 2, 62, 63, 64, 65, 66, 126, 127, 128, 129, 190, 191, 192 };
	struct gw_bitmap b;

	assert_int_equal(gw_bitmap_init(&b, 192), 0);
	for (size_t i = 0; i < GW_ARRAY_SIZE(edges); i++) {
		for (size_t j = i; j < GW_ARRAY_SIZE(edges); j++) {
			struct model m = { .nbits = 192 };

			gw_bitmap_clear_range(&b, 0, 192);
			gw_bitmap_set_range(&b, edges[i], edges[j] - edges[i]);
			model_change(&m, edges[i], edges[j] - edges[i], true);
			compare(&b, &m);
			for (size_t k = 0; k < GW_ARRAY_SIZE(edges); k++)
				compare_run(&b, &m, edges[k], 192, 192);

			gw_bitmap_set_range(&b, 0, 192);
			gw_bitmap_clear_range(&b, edges[i], edges[j] - edges[i]);
			model_change(&m, 0, 192, true);
			model_change(&m, edges[i], edges[j] - edges[i], false);
			compare(&b, &m);
		}
	}
	gw_bitmap_done(&b);
}

static void test_beyond_the_end(void **state)
{
	struct gw_bitmap b;
	size_t first, n;

	assert_int_equal(gw_bitmap_init(&b, 100), 0);
	gw_bitmap_set_range(&b, 100, 5);
	gw_bitmap_set_range(&b, SIZE_MAX, 5);
	gw_bitmap_set_range(&b, 90, 0);
	assert_int_equal(gw_bitmap_count(&b), 0);
	gw_bitmap_set_range(&b, 90, SIZE_MAX); /* first + n wraps around */
	assert_int_equal(gw_bitmap_count(&b), 10);
	assert_true(gw_bitmap_next_run(&b, 0, SIZE_MAX, SIZE_MAX, &first, &n));
	assert_int_equal(first, 90);
	assert_int_equal(n, 10);
	assert_false(gw_bitmap_next_run(&b, 100, SIZE_MAX, SIZE_MAX, &first, &n));
	assert_false(gw_bitmap_next_run(&b, 0, 90, SIZE_MAX, &first, &n));
	gw_bitmap_clear_range(&b, 0, SIZE_MAX);
	assert_int_equal(gw_bitmap_count(&b), 0);
	gw_bitmap_done(&b);
	gw_bitmap_done(&b); /* twice is fine */
}

static void test_empty(void **state)
{
	struct gw_bitmap b;
	size_t first, n;

	assert_int_equal(gw_bitmap_init(&b, 0), 0);
	gw_bitmap_set_range(&b, 0, 10);
	assert_int_equal(gw_bitmap_count(&b), 0);
	assert_false(gw_bitmap_next_run(&b, 0, 10, 10, &first, &n));
	gw_bitmap_done(&b);
}

static void test_whole_bitmaps(void **state)
{
	struct gw_bitmap a, b, stay;

	assert_int_equal(gw_bitmap_init(&a, 200), 0);
	assert_int_equal(gw_bitmap_init(&b, 200), 0);
	assert_int_equal(gw_bitmap_init(&stay, 200), 0);
	gw_bitmap_set_range(&a, 10, 100);
	gw_bitmap_set_range(&b, 100, 100);
	gw_bitmap_set_range(&stay, 60, 10);
	assert_int_equal(gw_bitmap_count_both(&a, &b), 10);
	gw_bitmap_move(&b, &a, &stay);
	assert_int_equal(gw_bitmap_count(&a), 10); /* 60..69 */
	assert_true(gw_bitmap_test(&a, 60) && gw_bitmap_test(&a, 69));
	assert_int_equal(gw_bitmap_count(&b), 180); /* 10..59, 70..199 */
	assert_false(gw_bitmap_test(&b, 60));
	gw_bitmap_move(&b, &a, NULL);
	assert_int_equal(gw_bitmap_count(&a), 0);
	assert_int_equal(gw_bitmap_count(&b), 190);
	gw_bitmap_add(&a, &b);
	assert_int_equal(gw_bitmap_count(&a), 190);
	assert_int_equal(gw_bitmap_count(&b), 190);
	gw_bitmap_done(&a);
	gw_bitmap_done(&b);
	gw_bitmap_done(&stay);
}

static void test_add_except(void **state)
{
	seed_now = 0x60d171;
	for (unsigned turn = 0; turn < 2000; turn++) {
		size_t first = next_random() % 4 * 64, n = next_random() % (300 - first + 1);
		bool all = next_random() & 1;
		struct gw_bitmap b[3];

		for (unsigned i = 0; i < 3; i++) {
			assert_int_equal(gw_bitmap_init(&b[i], 300), 0);
			for (size_t bit = 0; bit < 300; bit++)
				if (next_random() >> 20 & 1)
					gw_bitmap_set_range(&b[i], bit, 1);
		}
		struct model want = { .nbits = 300 };

		for (size_t bit = 0; bit < 300; bit++)
			want.bit[bit] = gw_bitmap_test(&b[0], bit) ||
			                (bit >= first && bit < first + n && gw_bitmap_test(&b[1], bit) &&
			                 (all || !gw_bitmap_test(&b[2], bit)));
		gw_bitmap_add_except(&b[0], &b[1], all ? NULL : &b[2], first, n);
		compare(&b[0], &want);
		for (unsigned i = 0; i < 3; i++)
			gw_bitmap_done(&b[i]);
	}
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N3 random ranges and runs agree with an array of bools", test_random),
		TEST("N3 ranges that begin and end at word boundaries", test_word_boundaries),
		TEST("ranges beyond the end are cut, wrap-around included", test_beyond_the_end),
		TEST("a bitmap of no bits has no runs", test_empty),
		TEST("N3 a part is added but for what is on its way", test_add_except),
		TEST("N4 whole bitmaps are added, compared and moved", test_whole_bitmaps),
	};

	return cmocka_run_group_tests_name("bitmap", tests, NULL, NULL);
}
