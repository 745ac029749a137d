# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest runs at the target before its memory is there: by post-copy, or after a pass of pre-copy (hybrid)."""
import os
import signal

import pytest
from conftest import REPEAT
from test_faults import FAST
from test_faults import Ground as HeldGround

from harness import definition, net
from harness.checks import assert_done, assert_moved_once, equal_move, hold_when_committed
from harness.farm import Farm, move, wait_beating
from harness.wait import wait_for

POSTCOPY = ("--mode", "post-copy")
# A budget that nothing fits: what is left after the first pass follows.
HYBRID = ("--mode", "hybrid", "--max-downtime", "1ms")
MODES = {"post-copy": POSTCOPY, "hybrid": HYBRID}
LOADS = {
    "idle": {"rate": "0"},
    "100MBps": {"rate": "100M"},
    "1GBps": {"rate": "1000M", "cpus": 4, "threads": 2},
    "unthrottled_hot_set": {"rate": "max", "pattern": "hot", "hot": "16M", "cpus": 4},
}
FILLED_PAGES = 128 * 256


def assert_followed(job, mode, load):
    """The report of a move whose memory followed (N12)."""
    report = job["report"]
    after = report["postcopy"]
    if mode == "hybrid" and load == "idle" and report["mode"] == "pre-copy":  # all of it came in the first pass
        return
    assert report["mode"] == mode, report["decision"]
    assert after["owed_bytes"] > 0 and after["demanded"] >= 0 and after["duration_ns"] >= 0, after
    assert after["wire_bytes"] > 0 and after["fault_p50_ns"] <= after["fault_p99_ns"], after
    assert report["total_ns"] >= after["duration_ns"]
    if mode == "post-copy":
        assert after["owed_bytes"] >= 128 << 20
        assert len(report["passes"]) == 0, report["passes"]


@pytest.mark.parametrize("load", LOADS)
def test_N6_N7_N8_N9_N12_memory_that_follows_is_equal_byte_for_byte(make_farm, load):
    farm = make_farm(start=False)
    holds = hold_when_committed(farm)
    for host in farm.hosts.values():
        host.start()
    farm["a"].start_vm(definition.linux("guest", load="128M", sweep="200M", **LOADS[load]))
    here, there = "a", "b"
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        for mode in ("post-copy", "hybrid") * max(1, REPEAT // 2):
            job, begin, _ = equal_move(farm, "guest", here, there, holds[there], *MODES[mode])
            assert_done(job)
            assert_followed(job, mode, load)
            assert_moved_once(farm, "guest", beats, begin, here, there)
            here, there = there, here
        # And once more with nothing held: the guest touches what has not come.
        job, begin, _ = move(farm, "guest", here, there, *POSTCOPY)
        assert_done(job)
        assert_followed(job, "post-copy", load)
        assert job["report"]["postcopy"]["duration_ns"] > 0
        assert_moved_once(farm, "guest", beats, begin, here, there)
        beats.wait_for_checked(FILLED_PAGES, 60)
        assert beats.update().errors() == 0


# Before COMMIT nothing is different with post-copy: the guest goes on at the source.

BEFORE_COMMIT = ["source-stopped", "target-load-begin", "target-ready-sent", "source-ready-received"]


@pytest.fixture(scope="module")
def module_held(programs):
    ground = HeldGround()
    yield ground
    finish_module(ground.farm)


@pytest.fixture
def held(module_held):
    yield module_held
    module_held.go()
    for host in module_held.farm.hosts.values():
        host.space.restore()


def finish_module(farm):
    try:
        for host in farm.hosts.values():
            if host.process is None or host.process.poll() is not None:
                host.start()
            if "guest" in host.vms():
                host.godwit("stop", "guest", "--force", check=False)
        left = [left for host in farm.hosts.values() for left in host.leftovers()]
    finally:
        farm.close()
    left += net.left_namespaces(farm.network.prefix + "-")
    assert not left, left


@pytest.mark.parametrize("what", ["source_daemon_killed", "target_daemon_killed", "link_cut"])
@pytest.mark.parametrize("point", BEFORE_COMMIT)
def test_X1_N7_before_commit_of_a_post_copy_the_guest_stays_at_the_source(held, point, what):
    held.arm(point)
    held.reach(*POSTCOPY)
    home, away = held.host(held.home), held.host(held.away)
    if what == "link_cut":
        home.space.cut()
    else:
        (home if what == "source_daemon_killed" else away).kill()
    held.go()
    if what == "source_daemon_killed":
        home.start()
    wait_for(lambda: home.job(held.job)["final"], 40, "the source gives up")
    assert home.job(held.job)["state"] in ("failed", "cancelled")
    home.space.restore()
    if what == "target_daemon_killed":
        away.start()
    held.wait_only_at(held.home)


def test_X2_N7_verify_and_post_copy_exclude_each_other(held):
    held.arm(None)
    home = held.host(held.home)
    for mode in ("post-copy", "hybrid"):
        refused = home.godwit("migrate", "guest", "--to", held.away, "--mode", mode, "--verify", check=False)
        assert refused.returncode != 0
        assert "cannot be compared" in refused.stderr, refused.stderr
    held.wait_only_at(held.home)


# While memory follows.

class Ground:
    """Two hosts on a slow link and a guest that moves by post-copy, for as long as it lives."""

    def __init__(self):
        self.farm = Farm(rate=400_000_000, start=False)
        for host in self.farm.hosts.values():
            host.settings = dict(FAST, idle_timeout="1s")
            host.start()
        self.home, self.beats = "a", None

    @property
    def away(self):
        return "b" if self.home == "a" else "a"

    @property
    def source(self):
        return self.farm[self.home]

    @property
    def target(self):
        return self.farm[self.away]

    def owed(self):
        return self.target.vms().get("guest", {}).get("owed_bytes", 0)

    def begin(self):
        """Returns when the guest runs at the target and its memory follows."""
        if not self.source.has_running("guest"):
            if self.beats:
                self.beats.stop()
            self.source.start_vm(definition.linux("guest", memory="192M", load="64M", rate="20M", sweep="100M"))
            self.beats = self.farm.beats("guest")
        wait_beating(self.beats, self.farm.index(self.home), timeout=60)
        self.began = self.beats.update().beats[-1].host_ns
        self.job = self.source.godwit_json("migrate", "guest", "--to", self.away, "--detach", *POSTCOPY)["id"]
        wait_for(lambda: self.owed() > 16 << 20, 20, f"memory follows; logs:\n{self.logs()}")

    def cut(self, serial):
        """The link is gone until the source has noticed, then it comes again."""
        assert self.owed() > 0, "nothing was left to follow"
        lost = self.source.log().count("a new link to")
        self.source.space.cut()
        wait_for(lambda: "the link is lost" in self.source.job(self.job)["step"], 20, f"cut {serial} is noticed")
        self.source.space.restore()
        wait_for(lambda: self.source.log().count("a new link to") > lost or not self.owed(), 20,
                 f"the link is made again after cut {serial}; logs:\n{self.logs()}")

    def logs(self):
        return "".join(host.log()[-3000:] for host in self.farm.hosts.values())

    def finish(self):
        """All memory comes, the source is free, and the guest finds nothing wrong anywhere."""
        wait_for(lambda: "guest" not in self.source.vms(), 60, f"the source lets go; logs:\n{self.logs()}")
        wait_for(lambda: self.source.job(self.job)["final"], 10, "the job ends")
        wait_for(lambda: not self.owed(), 10, "nothing is owed any more")
        job = self.source.job(self.job)
        assert job["state"] == "done", job
        assert_moved_once(self.farm, "guest", self.beats, self.began, self.home, self.away)
        self.beats.wait_for_checked(64 * 256, 60)
        assert self.beats.update().errors() == 0
        self.home = self.away
        return job

    def lost(self):
        """The guest is gone, and nothing of it is left at the source."""
        wait_for(lambda: self.source.job(self.job)["final"], 20, f"the job ends; logs:\n{self.logs()}")
        wait_for(lambda: "guest" not in self.source.vms(), 10, "the source lets go")
        self.farm.wait_clean("guest", self.away, timeout=10)


@pytest.fixture(scope="module")
def module_ground(programs):
    ground = Ground()
    yield ground
    if ground.beats:
        ground.beats.stop()
    finish_module(ground.farm)


@pytest.fixture
def ground(module_ground):
    yield module_ground
    for host in module_ground.farm.hosts.values():
        host.space.restore()


@pytest.mark.parametrize("cuts", [1, 2, 5])
def test_N7_X1_the_guest_outlives_links_that_are_cut_while_its_memory_follows(ground, cuts):
    ground.begin()
    for serial in range(cuts):
        ground.cut(serial)
    job = ground.finish()
    assert job["report"]["postcopy"]["links_made_again"] == cuts


@pytest.mark.parametrize("who", ["source", "target", "both"])
def test_N7_X1_the_guest_outlives_daemons_that_are_killed_while_its_memory_follows(ground, who):
    ground.begin()
    victims = [ground.source, ground.target] if who == "both" else [getattr(ground, who)]
    for host in victims:
        host.kill()
    for host in victims:
        host.start()
    ground.finish()


def test_N7_X1_the_guest_outlives_the_qemu_that_it_has_left(ground):
    ground.begin()
    for pid in ground.source.qemu_pids("guest"):
        os.kill(pid, signal.SIGKILL)
    ground.finish()


def test_N7_N9_the_end_of_the_guest_while_its_memory_follows_frees_the_source(ground):
    ground.begin()
    for pid in ground.target.qemu_pids("guest"):
        os.kill(pid, signal.SIGKILL)
    ground.lost()
    wait_for(lambda: ground.target.vm("guest")["state"] != "running", 10, "its end is noticed")
    assert "ended" in ground.target.vm("guest")["note"], ground.target.vm("guest")
    ground.target.godwit("stop", "guest", "--force")
    assert not ground.target.leftovers("guest")


def test_N7_N9_a_guest_that_is_stopped_by_force_while_its_memory_follows_leaves_nothing(ground):
    ground.begin()
    refused = ground.target.godwit("stop", "guest", check=False)
    assert refused.returncode != 0 and "still follows" in refused.stderr
    ground.target.godwit("stop", "guest", "--force")
    assert "guest" not in ground.target.vms()
    ground.lost()
    assert not ground.target.leftovers("guest")
