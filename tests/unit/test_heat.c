/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The heat of pages against counters that are kept one by one (N4, N6). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "memory/heat.h"

#define PAGES 1300 /* neither whole words nor whole stripes */

static void test_counts(void **state)
{
	struct gw_bitmap written;
	struct gw_heat h;
	int plain[PAGES] = { 0 };
	unsigned short seed[3] = { 1, 2, 3 };

	assert_int_equal(gw_heat_init(&h, PAGES), 0);
	assert_int_equal(gw_bitmap_init(&written, PAGES), 0);
	for (int look = 0; look < 40; look++) {
		gw_bitmap_clear_range(&written, 0, PAGES);
		for (size_t p = 0; p < PAGES; p++) {
			bool w = erand48(seed) < (double)p / PAGES; /* from never to always */

			if (w)
				gw_bitmap_set_range(&written, p, 1);
			plain[p] += w ? plain[p] < GW_HEAT_MAX : plain[p] > 0 ? -1 : 0;
		}
		gw_heat_look(&h, &written);
		for (size_t p = 0; p < PAGES; p++) {
			assert_int_equal(gw_heat_of(&h, p), plain[p]);
			assert_int_equal(gw_bitmap_test(&h.high, p), plain[p] >= 2);
		}
	}
	gw_bitmap_done(&written);
	gw_heat_done(&h);
}

static void test_hot_and_cold_again(void **state)
{
	struct gw_bitmap all, none;
	struct gw_heat h;

	assert_int_equal(gw_heat_init(&h, 10), 0);
	assert_int_equal(gw_bitmap_init(&all, 10), 0);
	assert_int_equal(gw_bitmap_init(&none, 10), 0);
	gw_bitmap_set_range(&all, 0, 10);
	gw_heat_look(&h, &all);
	assert_false(gw_bitmap_test(&h.high, 5)); /* once says nothing */
	gw_heat_look(&h, &all);
	assert_true(gw_bitmap_test(&h.high, 5));
	for (int i = 0; i < 10; i++)
		gw_heat_look(&h, &all);
	gw_heat_look(&h, &none);
	assert_true(gw_bitmap_test(&h.high, 5)); /* one quiet moment changes nothing */
	gw_heat_look(&h, &none);
	assert_false(gw_bitmap_test(&h.high, 5));
	gw_bitmap_done(&all);
	gw_bitmap_done(&none);
	gw_heat_done(&h);
}

static void test_stripes(void **state)
{
	struct gw_bitmap written;
	struct gw_heat h;

	assert_int_equal(gw_heat_init(&h, PAGES), 0);
	assert_int_equal(gw_bitmap_init(&written, PAGES), 0);
	gw_bitmap_set_range(&written, 512, 512);
	gw_bitmap_set_range(&written, 1299, 1);
	gw_heat_look(&h, &written);
	gw_bitmap_clear_range(&written, 600, 512);
	gw_heat_look(&h, &written);
	assert_int_equal(gw_heat_stripe(&h, 0), 0);
	assert_int_equal(gw_heat_stripe(&h, 1), 2 * 88);
	assert_int_equal(gw_heat_stripe(&h, 2), 2);
	assert_int_equal(gw_heat_stripe(&h, 3), 0); /* behind the end */
	gw_bitmap_done(&written);
	gw_heat_done(&h);
}

#define TEST(text, fn) { .name = text, .test_func = fn }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("N4 the heat of pages agrees with counters kept one by one", test_counts),
		TEST("N4 a page is hot when written twice in a row, and cold after two quiet looks", test_hot_and_cold_again),
		TEST("N6 a stripe is as hot as its pages together", test_stripes),
	};

	return cmocka_run_group_tests_name("heat", tests, NULL, NULL);
}
