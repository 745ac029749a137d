# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fewer bytes where the link is what limits, the same bytes where it is not, and RAM that is equal either way."""
import pytest

from harness import definition
from harness.checks import BothPaused, assert_done, assert_moved_once, compared_move
from harness.farm import move, wait_beating

GBIT = 10**9


def _compared(make_farm, rate, vm, *options, moves=1):
    """Moves the guest to and fro, RAM compared from outside and by both daemons; the reports."""
    farm = make_farm(rate=rate, start=False)
    holds = {name: BothPaused(host) for name, host in farm.hosts.items()}
    for host in farm.hosts.values():
        host.start()
    farm["a"].start_vm(vm)
    here, there = "a", "b"
    reports = []
    with farm.beats("guest") as beats:
        wait_beating(beats, farm.index(here), timeout=60)
        for _ in range(moves):
            job, begin, _ = compared_move(farm, "guest", here, there, holds[here], "--verify", *options)
            assert_done(job, verified=True)
            assert_moved_once(farm, "guest", beats, begin, here, there)
            reports.append(job["report"])
            here, there = there, here
        assert beats.update().errors() == 0
    return reports


def _contents(report):
    """Bytes of the pages that were not zeros."""
    return sum(p["pages"] - p["zero_pages"] for p in report["passes"]) * 4096


def _adds_up(report):
    kinds = report["compression"]
    assert sum(kinds[k] for k in ("raw_pages", "zero_pages", "delta_pages", "packed_pages")) == sum(
        p["pages"] for p in report["passes"])
    assert report["wire_bytes"] == sum(p["wire_bytes"] for p in report["passes"])


def test_N3_X4_pages_that_pack_are_packed_on_a_gigabit_link(make_farm):
    vm = definition.linux("guest", memory="384M", load="256M", rate="20M", hot="32M", packable=True)
    (report,) = _compared(make_farm, GBIT, vm)
    assert report["compression"]["packed_pages"] * 4096 > _contents(report) / 2, report["compression"]
    assert report["wire_bytes"] < 0.75 * _contents(report)
    assert report["compression"]["saved_bytes"] > 0.25 * _contents(report)
    assert report["passes"][0]["compression"] in ("lz4", "zstd-1", "zstd-3")
    _adds_up(report)


def test_N4_small_changes_of_a_hot_set_travel_as_differences(make_farm):
    vm = definition.linux("guest", load="128M", rate="60M", hot="8M")
    (report,) = _compared(make_farm, 200_000_000, vm)
    later = report["passes"][2:]  # the second pass is the first that finds hot pages
    assert later and report["compression"]["delta_pages"] > 0, report["passes"]
    assert sum(p["delta_pages"] for p in later) > sum(p["pages"] for p in later) / 2, report["passes"]
    assert sum(p["wire_bytes"] for p in later) < sum(p["pages"] for p in later) * 4096 / 2
    _adds_up(report)


def test_X4_a_link_without_limit_is_left_alone(make_farm):
    vm = definition.linux("guest", memory="384M", load="256M", rate="50M", packable=True)
    farm = make_farm(together=True)
    farm["a"].start_vm(vm)
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        job, _, _ = move(farm, "guest", "a", "b")
    report = job["report"]
    assert report["compression"]["method"] == "off", report["compression"]
    assert report["compression"]["packed_pages"] == report["compression"]["delta_pages"] == 0
    assert report["compression"]["reason"]


@pytest.mark.parametrize("how", ["off", "lz4", "zstd"])
def test_N3_what_is_asked_for_is_done_and_ram_is_equal(make_farm, how):
    vm = definition.linux("guest", load="64M", rate="100M", hot="4M", packable=True)
    reports = _compared(make_farm, None, vm, "--compress", how, moves=2)
    for report in reports:
        assert all(p["compression"] == "off" or p["compression"].startswith(how) for p in report["passes"])
        assert (report["compression"]["packed_pages"] > 0) == (how != "off")
        assert (report["compression"]["saved_bytes"] > 0) == (how != "off")
        _adds_up(report)
