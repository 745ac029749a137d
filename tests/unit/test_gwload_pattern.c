/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pages of the guest load: right ones pass, and stale, foreign and torn ones do not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../../tools/guest/pattern.h"

#define GENERATIONS (3 * GW_PATTERN_SLOTS)
#define SEED 7

static void make(uint64_t *page, uint64_t key, uint32_t gen)
{
	gw_pattern_fill(page, key);
	for (uint32_t g = 1; g <= gen; g++)
		gw_pattern_write(page, key, g);
}

static void page_at_every_generation_passes(void **state)
{
	uint64_t page[GW_PAGE_WORDS], key = gw_pattern_key(SEED, 3);

	gw_pattern_fill(page, key);
	assert_int_equal(gw_pattern_check(page, key, 0), -1);
	for (uint32_t g = 1; g <= GENERATIONS; g++) {
		gw_pattern_write(page, key, g);
		assert_int_equal(gw_pattern_check_quick(page, key, g), -1);
		assert_int_equal(gw_pattern_check(page, key, g), -1);
	}
}

static void page_of_an_earlier_generation_is_found_at_once(void **state)
{
	uint64_t page[GW_PAGE_WORDS], key = gw_pattern_key(SEED, 3);

	for (uint32_t g = 0; g < GENERATIONS; g += 97) {
		make(page, key, g);
		assert_int_not_equal(gw_pattern_check_quick(page, key, g + 1), -1);
		assert_int_not_equal(gw_pattern_check_quick(page, key, g + GW_PATTERN_SLOTS), -1);
	}
}

static void another_page_is_found_at_once(void **state)
{
	uint64_t page[GW_PAGE_WORDS];

	make(page, gw_pattern_key(SEED, 4), 5);
	assert_int_equal(gw_pattern_check_quick(page, gw_pattern_key(SEED, 3), 5), 0);
	memset(page, 0, sizeof(page));
	assert_int_equal(gw_pattern_check_quick(page, gw_pattern_key(SEED, 3), 5), 0);
}

static void any_single_word_changed_is_found_and_named(void **state)
{
	uint64_t page[GW_PAGE_WORDS], key = gw_pattern_key(SEED, 3);

	make(page, key, GW_PATTERN_SLOTS + 11);
	for (unsigned w = 0; w < GW_PAGE_WORDS; w++) {
		page[w] ^= 1;
		assert_int_equal(gw_pattern_check(page, key, GW_PATTERN_SLOTS + 11), (int)w);
		page[w] ^= 1;
	}
}

/* A transfer that is not stopped by the guest's writes can mix two versions at any word. */
static void page_torn_between_two_generations_is_found(void **state)
{
	uint64_t older[GW_PAGE_WORDS], newer[GW_PAGE_WORDS], torn[GW_PAGE_WORDS], key = gw_pattern_key(SEED, 3);

	make(older, key, 40);
	make(newer, key, 90);
	for (unsigned cut = 2; cut < GW_PAGE_WORDS; cut++) {
		memcpy(torn, newer, cut * sizeof(torn[0]));
		memcpy(torn + cut, older + cut, sizeof(torn) - cut * sizeof(torn[0]));
		assert_int_not_equal(gw_pattern_check(torn, key, 90), -1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(page_at_every_generation_passes),
		cmocka_unit_test(page_of_an_earlier_generation_is_found_at_once),
		cmocka_unit_test(another_page_is_found_at_once),
		cmocka_unit_test(any_single_word_changed_is_found_and_named),
		cmocka_unit_test(page_torn_between_two_generations_is_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
