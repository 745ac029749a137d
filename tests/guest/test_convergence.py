# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that writes faster than the network carries, with post-copy forbidden: it is slowed down, and only then."""
from pathlib import Path

import pytest

from harness import definition
from harness.beats import now_ns
from harness.checks import assert_done, assert_moved_once
from harness.farm import move, wait_beating
from harness.wait import wait_for

HOT = {"memory": "256M", "load": "128M", "rate": "max", "pattern": "hot", "hot": "96M", "sweep": "50M"}
PRECOPY = ("--mode", "pre-copy")


def threads(pid):
    """(state, tracer) of each thread."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        fields = dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
        found.append((fields["State"][0], int(fields["TracerPid"])))
    return found


def assert_at_full_speed(host, beats, source, work_before):
    (pid,) = host.qemu_pids("guest")
    assert all(state != "t" and tracer == 0 for state, tracer in threads(pid))
    begin = now_ns()
    beats.wait_for_source(source, 30, count=500, since_ns=begin)
    trace = beats.update().between(begin, now_ns())
    assert trace.work_Bps() > 0.25 * work_before  # slowed down, it was 5 % or less
    assert trace.errors() == 0


def work_of(beats, source):
    begin = now_ns()
    beats.wait_for_source(source, 30, count=500, since_ns=begin)
    return beats.update().between(begin, now_ns()).work_Bps()


def start_throttled(farm, *options):
    """A move that has slowed the guest down; the job's id."""
    job = farm["a"].godwit_json("migrate", "guest", "--to", "b", "--detach", *PRECOPY, *options)["id"]

    def slowed():
        now = farm["a"].job(job)
        assert not now["final"], now
        return now["progress"]["throttle_percent"] > 0
    wait_for(slowed, 60, "the guest is slowed down")
    return job


@pytest.fixture
def busy(make_farm):
    """A farm on a slow link, with the guest at work on `a`."""
    farm = make_farm(rate=400_000_000)
    farm["a"].start_vm(definition.linux("guest", **HOT))
    return farm


def test_N4_with_post_copy_forbidden_a_busy_guest_is_slowed_down_and_fits_its_budget(busy):
    with busy.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        work = work_of(beats, 0)
        job, begin, _ = move(busy, "guest", "a", "b", *PRECOPY, "--max-downtime", "200ms", "--verify")
        assert_done(job, verified=True)
        report = job["report"]
        levels = [p["throttle_percent"] for p in report["passes"][:-1]]
        assert levels == sorted(levels) and 0 < levels[-1] < 100, levels
        assert report["mode"] == "pre-copy"
        assert any("slowed down by" in p["decision"] for p in report["passes"])
        assert "budget left to copy" in report["decision"], report["decision"]
        assert_moved_once(busy, "guest", beats, begin, "a", "b")
        assert_at_full_speed(busy["b"], beats, 1, work)


def test_N4_a_cancel_gives_a_slowed_guest_its_full_speed_back(busy):
    with busy.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        work = work_of(beats, 0)
        job = start_throttled(busy, "--max-downtime", "20ms")
        busy["a"].godwit("cancel", job)
        assert busy["a"].job(job)["state"] == "cancelled"
        assert busy["a"].has_running("guest")
        assert_at_full_speed(busy["a"], beats, 0, work)


def test_X1_a_daemon_that_is_killed_leaves_a_slowed_guest_at_full_speed(busy):
    with busy.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        work = work_of(beats, 0)
        job = start_throttled(busy, "--max-downtime", "20ms")
        busy["a"].kill()
        assert_at_full_speed(busy["a"], beats, 0, work)
        busy["a"].start()
        wait_for(lambda: busy["a"].job(job)["final"], 30, "the job has ended")
        wait_for(lambda: busy["a"].has_running("guest"), 10, "the guest runs")
        assert_at_full_speed(busy["a"], beats, 0, work)


def test_N4_on_stall_switch_slows_nobody_down(busy):
    with busy.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        job, _, _ = move(busy, "guest", "a", "b", *PRECOPY, "--on-stall", "switch")
    assert_done(job)
    assert all(p["throttle_percent"] == 0 for p in job["report"]["passes"])
    assert "past the budget" in job["report"]["decision"]


def test_N4_two_moves_at_once_share_the_bandwidth_by_their_weights(make_farm):
    farm = make_farm(start=False)
    farm["a"].settings["migration_bandwidth"] = "30MB/s"
    for host in farm.hosts.values():
        host.start()
    weights = {"light": 100, "heavy": 300}
    for name in weights:
        farm["a"].start_vm(definition.linux(name, memory="256M", load="160M"))
    for name in weights:
        with farm.beats(name) as beats:
            wait_beating(beats, 0, timeout=60)
    jobs = {name: farm["a"].godwit_json("migrate", name, "--to", "b", "--detach", "--weight", weight)["id"]
            for name, weight in weights.items()}

    def sent():
        progress = {name: farm["a"].job(job)["progress"] for name, job in jobs.items()}
        assert all(p["pass"] <= 1 for p in progress.values()), progress
        return {name: p["transferred_bytes"] for name, p in progress.items()}
    wait_for(lambda: all(sent().values()), 30, "both send")
    begin, before = now_ns(), sent()
    wait_for(lambda: sum(sent().values()) - sum(before.values()) >= 60_000_000, 30, "60 MB more are sent")
    seconds, after = (now_ns() - begin) / 1e9, sent()
    rates = {name: (after[name] - before[name]) / seconds for name in weights}
    # Batches of 4 MiB make the figures coarse.
    assert 2 <= rates["heavy"] / rates["light"] <= 4.5, rates
    assert sum(rates.values()) <= 30e6 * 1.25, rates
    for job in jobs.values():
        farm["a"].godwit("wait", job)
        assert_done(farm["a"].job(job))


def test_N8_a_busy_guest_finishes_in_mode_auto_without_being_slowed_down(busy):
    with busy.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        work = work_of(beats, 0)
        job, begin, _ = move(busy, "guest", "a", "b")
        assert_done(job)
        report = job["report"]
        assert report["mode"] == "hybrid", report["decision"]
        assert all(p["throttle_percent"] == 0 for p in report["passes"])
        first = report["passes"][0]
        copied = sum(p["duration_ns"] for p in report["passes"])
        assert copied <= 1.25 * first["duration_ns"] + 2 * first["left_bytes"] / 50e6 * 1e9, report["passes"]
        assert_moved_once(busy, "guest", beats, begin, "a", "b")
        assert_at_full_speed(busy["b"], beats, 1, work)
