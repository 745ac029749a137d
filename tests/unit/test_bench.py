#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The benchmark's own sums: what a trace of heartbeats says, which modes are dropped, which targets are met.

Usage: test_bench.py SOURCE_ROOT
"""
import sys
import unittest
from pathlib import Path

ROOT = Path(sys.argv[1])
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/guest")]

import targets  # noqa: E402
from harness.beats import Beat, Trace  # noqa: E402
from loads import ROWS  # noqa: E402
from measure import Result, read_trace, time_to_speed  # noqa: E402
from report import summarise  # noqa: E402
from turns import Turns  # noqa: E402


def beat(ms, source=0, pages=0):
    return Beat(int(ms * 1e6), source, 1, 0, int(ms), int(ms * 1e6), pages, 0, 0)


def trace(first_ms, last_ms, pages_per_ms, source=0, pages=0):
    return Trace([beat(ms, source, int(pages + (ms - first_ms) * pages_per_ms))
                  for ms in range(first_ms, last_ms + 1)])


class Measure(unittest.TestCase):
    def test_a_guest_at_full_speed_at_once_is_back_in_no_time(self):
        self.assertEqual(time_to_speed(trace(0, 1000, 10), trace(1030, 1200, 10), 1030_000_000), 0)

    def test_a_slow_start_is_counted_until_the_speed_is_back(self):
        slow = trace(1030, 1130, 2)
        fast = trace(1131, 1300, 10, pages=slow.beats[-1].pages_dirtied)
        ms = time_to_speed(trace(0, 1000, 10), Trace(slow.beats + fast.beats), 1030_000_000) / 1e6
        self.assertAlmostEqual(ms, 100, delta=3)

    def test_a_guest_that_stays_slow_is_never_back(self):
        self.assertIsNone(time_to_speed(trace(0, 1000, 10), trace(1030, 2000, 8), 1030_000_000))

    def test_a_guest_without_work_is_judged_by_its_heartbeats(self):
        sparse = [beat(ms) for ms in range(1030, 1090, 3)]
        after = Trace(sparse + trace(1090, 1300, 0).beats)
        ms = time_to_speed(trace(0, 1000, 0), after, 1030_000_000) / 1e6
        self.assertAlmostEqual(ms, 58, delta=4)

    def test_beats_kept_counts_from_the_command_to_the_switch(self):
        beats = [b for b in trace(0, 1000, 0).beats if b.host_ns < 500_000_000 or b.seq % 2]
        result = Result("godwit", "idle")
        read_trace(result, Trace(beats + trace(1020, 2100, 0, source=1).beats), 0)
        self.assertAlmostEqual(result.kept_during_copy, 0.75, delta=0.01)
        self.assertAlmostEqual(result.gap_ms, 21, delta=0.01)


def turns_with(gaps_and_totals):
    turns = Turns(ROWS["idle"], ROWS["idle"].qemu, 20, 5, tell=lambda _: None)
    for mode, (gap, total) in gaps_and_totals.items():
        turns.results += [Result(mode, "idle", gap_ms=gap, total_s=total)] * 6
    turns._drop()
    return set(turns.left_out)


class Drop(unittest.TestCase):
    def test_the_best_by_gap_and_by_total_stay_and_the_rest_is_dropped(self):
        dropped = turns_with({"precopy-20": (34, 1.7), "precopy": (90, 1.6), "multifd-20": (42, 1.1),
                              "multifd": (80, 1.3), "postcopy": (27, 1.5)})
        self.assertEqual(dropped, {"precopy-20", "precopy", "multifd"})

    def test_a_mode_close_to_the_best_stays(self):
        dropped = turns_with({"precopy-20": (28, 1.7), "multifd-20": (42, 1.1), "postcopy": (27, 1.5)})
        self.assertEqual(dropped, set())


def summary_of(**figures):
    """{mode: (gap_ms, total_s)} of row idle as bench.json has it."""
    results = [Result(mode.replace("_", "-"), "idle", gap_ms=g, total_s=t, kept_during_copy=0.99).as_dict()
               for mode, (g, t) in figures.items()]
    return summarise({"rows": {"idle": {"left_out": {}, "results": results}}})


class Targets(unittest.TestCase):
    def verdicts(self, **figures):
        return {t.what: t.ok for t in targets.evaluate(summary_of(**figures))}

    def test_a_gap_is_judged_above_the_floor(self):
        good = self.verdicts(godwit=(22, 0.7), floor=(18, 0.1), postcopy=(33, 1.5))
        self.assertTrue(good["gap above the floor, median"])
        self.assertTrue(good["gap above the floor, of QEMU's best"])
        bad = self.verdicts(godwit=(24, 0.7), floor=(18, 0.1), postcopy=(33, 1.5))
        self.assertFalse(bad["gap above the floor, median"])
        self.assertFalse(bad["gap above the floor, of QEMU's best"])

    def test_total_is_judged_by_the_best_mode_alone(self):
        self.assertFalse(self.verdicts(godwit=(22, 0.7), floor=(18, 0.1), precopy=(50, 2), multifd=(60, 1.1))
                         ["total time, of QEMU's best"])

    def test_no_verdict_without_a_figure(self):
        self.assertEqual(self.verdicts(precopy=(50, 2)), {})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
