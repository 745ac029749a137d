# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Linux guest that works all the while moves between two hosts."""
import pytest
from conftest import MOVES, REPEAT

from harness import definition
from harness.checks import BothPaused, assert_done, assert_moved_once, compared_move
from harness.farm import move, wait_beating

LOADS = {
    "idle": {"rate": "0"},
    "100MBps": {"rate": "100M"},
    "1GBps": {"rate": "1000M"},
    "unthrottled_hot_set": {"rate": "max", "pattern": "hot", "hot": "16M"},
}
FILLED_PAGES = 128 * 256


@pytest.mark.parametrize("load", LOADS)
def test_N3_N5_ram_is_equal_byte_for_byte_while_both_are_paused(make_farm, load):
    farm = make_farm(start=False)
    holds = {name: BothPaused(host) for name, host in farm.hosts.items()}
    for host in farm.hosts.values():
        host.start()
    farm["a"].start_vm(definition.linux("guest", load="128M", sweep="100M", **LOADS[load]))
    here, there = "a", "b"
    with farm.beats("guest") as beats:
        wait_beating(beats, farm.index(here), timeout=60)
        for _ in range(REPEAT):
            job, begin, _ = compared_move(farm, "guest", here, there, holds[here], "--verify")
            assert_done(job, verified=True)
            assert_moved_once(farm, "guest", beats, begin, here, there)
            here, there = there, here
        beats.wait_for_checked(FILLED_PAGES, 60)
        assert beats.update().errors() == 0


def test_N3_N9_back_and_forth_with_heartbeats_going_on(farm):
    farm["a"].start_vm(definition.linux("guest", load="128M", rate="100M", sweep="100M"))
    here, there = "a", "b"
    with farm.beats("guest") as beats:
        wait_beating(beats, farm.index(here), timeout=60)
        for _ in range(MOVES):
            job, begin, _ = move(farm, "guest", here, there)
            assert_done(job)
            switch = assert_moved_once(farm, "guest", beats, begin, here, there)
            assert switch.gap_ns < 2_000_000_000
            here, there = there, here
        beats.wait_for_checked(FILLED_PAGES, 60)
        assert beats.update().errors() == 0


def test_X2_verify_is_in_the_report_only_when_asked_for(farm):
    farm["a"].start_vm(definition.linux("guest"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        plain, _, _ = move(farm, "guest", "a", "b")
        assert not plain["report"].get("verify")
        verified, _, _ = move(farm, "guest", "b", "a", "--verify")
        assert verified["report"]["verify"]["pages"] > 0
        assert_done(verified, verified=True)


def test_X4_the_report_agrees_with_what_the_heartbeats_saw(farm):
    farm["a"].start_vm(definition.linux("guest", load="128M", rate="100M"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        job, begin, end = move(farm, "guest", "a", "b")
        switch = assert_moved_once(farm, "guest", beats, begin, "a", "b")
    report = job["report"]
    assert report["passes"] and all(p["pages"] >= 0 for p in report["passes"])
    assert report["passes"][0]["pages"] * 4096 >= 128 << 20
    assert 0 < report["total_ns"] <= end - begin
    # The guest stands still for no longer than the host measures, but for the time of a few beats and
    # of starting to run again.
    assert report["downtime_ns"] <= report["total_ns"]
    assert switch.gap_ns <= report["downtime_ns"] + 200_000_000
    assert sum(p["ns"] for p in report["downtime"]) <= report["downtime_ns"] * 1.05 + 1_000_000


def test_N1_cancel_returns_within_a_second_and_leaves_the_source_running(make_farm):
    farm = make_farm(rate=200_000_000)
    farm["a"].start_vm(definition.linux("guest", load="128M", rate="100M"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        job = farm["a"].godwit_json("migrate", "guest", "--to", "b", "--detach")
        beats.wait_for_source(0, 10, count=1000, since_ns=beats.update().beats[-1].host_ns)
        assert farm["a"].job(job["id"])["state"] == "copying"
        farm["a"].godwit("cancel", job["id"], timeout=1)
        assert farm["a"].job(job["id"])["state"] == "cancelled"
        wait_beating(beats, 0)
        assert farm["a"].has_running("guest")
        farm.wait_clean("guest", "a")
        assert not beats.update().switches()


def test_N3_a_limited_bandwidth_is_kept(farm):
    farm["a"].start_vm(definition.linux("guest", load="128M"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        sent = farm["a"].space.sent_bytes()
        job, begin, end = move(farm, "guest", "a", "b", "--bandwidth", "60MB/s")
        sent = farm["a"].space.sent_bytes() - sent
    assert_done(job)
    assert sent >= 128 << 20
    assert sent / ((end - begin) / 1e9) < 66e6


def test_X5_a_daemon_that_restarts_takes_its_vms_over_again(farm):
    farm["a"].start_vm(definition.linux("guest", rate="100M"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        farm["a"].kill()
        wait_beating(beats, 0)
        farm["a"].start()
        assert farm["a"].has_running("guest")
        job, begin, _ = move(farm, "guest", "a", "b", "--verify")
        assert_done(job, verified=True)
        assert_moved_once(farm, "guest", beats, begin, "a", "b")
