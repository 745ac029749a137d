/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Simulations of the handover under faults (X1): random schedules, and every fault at every step.
 *
 * A failure prints the seed and how to run it again: GW_SEED=<seed> runs that seed alone, with a trace.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "world.h"

#define RANDOM_RUNS 150000
#define RANDOM_FAULTS_MAX 4
#define SINGLE_SEEDS 120
#define STEPS_MAX 400

static struct {
	unsigned runs, faults[FAULT_COUNT], moved, served, stayed, lost;
} seen;

static void note(const struct sim_world *w)
{
	seen.runs++;
	for (unsigned f = 0; f < FAULT_COUNT; f++)
		seen.faults[f] += w->used[f];
	seen.moved += w->vm_b == VM_RUNS;
	seen.served += w->vm_b == VM_RUNS && w->served;
	seen.stayed += w->vm_a == VM_RUNS;
	seen.lost += w->vm_a != VM_RUNS && w->vm_b != VM_RUNS;
}

/* Up to RANDOM_FAULTS_MAX faults at random places, with early timers in between. */
static void run_random(struct sim_world *w)
{
	unsigned faults = sim_below(&w->rng, RANDOM_FAULTS_MAX + 1);
	unsigned spread = 4 + sim_below(&w->rng, 40);

	for (unsigned i = 0; i < STEPS_MAX && !w->broken[0]; i++) {
		if (faults && sim_one_in(&w->rng, spread))
			faults -= sim_inject(w, sim_below(&w->rng, FAULT_COUNT));
		else if (!sim_step(w))
			break;
	}
	sim_finish(w);
}

static void test_random(void **state)
{
	uint64_t first = 1, count = RANDOM_RUNS;
	struct sim_world w;

	sim_seeds(&first, &count);
	for (uint64_t seed = first; seed < first + count; seed++) {
		sim_world_init(&w, seed);
		w.trace = count == 1;
		run_random(&w);
		note(&w);
		if (w.broken[0])
			fail_msg("seed %llu: %s; again: GW_SEED=%llu", (unsigned long long)seed, w.broken,
				 (unsigned long long)seed);
	}
}

/* One fault of this kind before step `at`. Returns false when the run is over before that. */
static bool run_single(struct sim_world *w, enum sim_fault f, unsigned at)
{
	for (unsigned i = 0; i < at; i++)
		if (!sim_step(w))
			return false;
	if (sim_inject(w, f)) {
		sim_finish(w);
		note(w);
	}
	return true;
}

static void test_single_faults(void **state)
{
	uint64_t first = 1, count = SINGLE_SEEDS;
	struct sim_world w;

	sim_seeds(&first, &count);
	for (uint64_t seed = first; seed < first + count; seed++)
		for (unsigned f = 0; f < FAULT_COUNT; f++)
			for (unsigned at = 0; at < STEPS_MAX; at++) {
				bool more;

				sim_world_init(&w, seed);
				more = run_single(&w, f, at);
				if (w.broken[0])
					fail_msg("seed %llu, %s before step %u: %s; again: GW_SEED=%llu",
						 (unsigned long long)seed, sim_fault_name(f), at, w.broken,
						 (unsigned long long)seed);
				if (!more)
					break;
			}
}

static void test_no_fault_moves(void **state)
{
	uint64_t first = 1, count = 2000;
	struct sim_world w;

	sim_seeds(&first, &count);
	for (uint64_t seed = first; seed < first + count; seed++) {
		sim_world_init(&w, seed);
		sim_finish(&w);
		if (w.broken[0] || w.vm_b != VM_RUNS || w.vm_a != VM_NONE || !w.b_recorded || w.absent || w.image_a)
			fail_msg("seed %llu: %s", (unsigned long long)seed,
				 w.broken[0] ? w.broken : "the guest did not move");
	}
}

/* Drivers that break the contract of post-copy, and what must be noticed of each. */
static void test_finds_bugs(void **state)
{
	static const struct {
		enum sim_bug bug;
		const char *noticed;
	} bugs[] = {
		{ BUG_RUNNING_FOR_OWED, "5: source image destroyed while the target lacks pages" },
		{ BUG_READY_FOR_OWING, "3: COMMIT although the owed pages are lost" },
		{ BUG_FORGETS_OWED, "11: an absent page counts as present" },
		{ BUG_ABORTS_SERVING, "2: the target runs and the record does not name it" },
	};
	struct sim_world w;

	if (getenv("GW_SEED"))
		skip();
	for (unsigned i = 0; i < GW_ARRAY_SIZE(bugs); i++) {
		unsigned noticed = 0;

		for (uint64_t seed = 1; seed <= RANDOM_RUNS / 5 && !noticed; seed++) {
			sim_world_init(&w, seed);
			w.bug = bugs[i].bug;
			run_random(&w);
			noticed += !strncmp(w.broken, bugs[i].noticed, strlen(bugs[i].noticed));
		}
		if (!noticed)
			fail_msg("not noticed: %s", bugs[i].noticed);
	}
}

/* The simulation itself must reach what it claims to test. */
static void test_covers(void **state)
{
	if (getenv("GW_SEED"))
		skip();
	for (unsigned f = 0; f < FAULT_COUNT; f++)
		if (seen.faults[f] < 100)
			fail_msg("fault '%s' only %u times", sim_fault_name(f), seen.faults[f]);
	assert_true(seen.moved > seen.runs / 20);
	assert_true(seen.served > seen.runs / 20);
	assert_true(seen.stayed > seen.runs / 20);
	print_message("%u runs: %u moved (%u by post-copy), %u stayed, %u lost with their only host\n", seen.runs,
		      seen.moved, seen.served, seen.stayed, seen.lost);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ .name = "X1 without faults the guest moves and the source keeps nothing",
		  .test_func = test_no_fault_moves },
		{ .name = "X1 any single fault at any step: exactly one runs, both sides tidy",
		  .test_func = test_single_faults },
		{ .name = "X1 up to four faults at random: never two, never the wrong one, it settles",
		  .test_func = test_random },
		{ .name = "X1 a driver that forgets what post-copy owes is found out",
		  .test_func = test_finds_bugs },
		{ .name = "X1 the simulation reaches every fault, moves and stays",
		  .test_func = test_covers },
	};

	return cmocka_run_group_tests_name("sim_handover", tests, NULL, NULL);
}
