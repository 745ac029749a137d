# SPDX-License-Identifier: LGPL-2.1-or-later
"""X1: whatever dies at whatever point of a migration, exactly one copy goes on.

A fault point holds one daemon at a named place (src/base/fault.h); there something is killed or cut, then the daemon
goes on. Before COMMIT the guest must go on at the source and nothing may be left at the target; after COMMIT it must
run at the target. A killed daemon is started again, as its service manager would.
"""
import os
import signal

import pytest

from harness import definition, net
from harness.checks import wait_working
from harness.farm import Farm
from harness.wait import wait_for

BEFORE_COMMIT = [
    "source-begin-recorded", "source-connected", "source-prepare-sent", "target-prepare-received",
    "target-ram-created", "target-vm-started", "target-prepared-sent", "source-prepared", "source-tracing-armed",
    "source-pass-begin", "source-pass-middle", "target-pass-middle", "source-pass-end", "source-stop-begin",
    "source-stopped", "source-last-pages-sent", "source-state-saved", "source-all-sent", "target-all-received",
    "target-load-begin", "target-loaded", "source-ready-received",
]
# The source commits as soon as READY has left the target.
AFTER_COMMIT = [
    "source-commit-recorded", "target-commit-received", "target-resumed", "target-owner-recorded",
    "source-running-received", "source-destroyed",
]
NO_TARGET_QEMU_YET = BEFORE_COMMIT[:5]
FAST = {"idle_timeout": "2s", "switch_timeout": "2s", "prepare_timeout": "8s"}


class Ground:
    """Two hosts and one guest that outlive all cases of this file."""

    def __init__(self):
        self.farm = Farm(start=False)
        for host in self.farm.hosts.values():
            host.settings = dict(FAST)
        self.home, self.serial = "a", 0

    def host(self, name):
        return self.farm[name]

    def arm(self, point):
        """Both daemons anew, one of them held at the point from now on."""
        self.serial += 1
        self.hold = self.farm["a"].folder / f"hold-{self.serial}"
        for name in self.farm.hosts:
            host = self.host(name)
            if host.process:
                host.stop()
            if point and name == self.holder(point):
                host.faults = f"{point}=hold:{self.hold}"
            host.start()
        if not self.farm["a"].vms() and not self.farm["b"].vms():
            self.home = "a"
            self.farm["a"].start_vm(definition.firmware("guest", "hot"))
        self.wait_working(self.home)

    def holder(self, point):
        return self.home if point.startswith("source") else self.away

    @property
    def away(self):
        return "b" if self.home == "a" else "a"

    def reach(self, *options):
        self.job = self.host(self.home).godwit_json("migrate", "guest", "--to", self.away, "--detach", *options)["id"]
        wait_for(self.hold.with_name(self.hold.name + ".reached").exists, 20, "the fault point is reached")

    def go(self):
        self.hold.with_name(self.hold.name + ".go").touch()

    def wait_working(self, name):
        wait_working(self.host(name), "guest")

    def wait_only_at(self, name):
        """It runs there, and the other host holds nothing of it."""
        other = "b" if name == "a" else "a"
        wait_for(lambda: self.host(name).has_running("guest"), 30,
                 f"the guest runs on {name}; logs:\n{self.host(name).log()[-3000:]}\n{self.host(other).log()[-3000:]}")
        wait_for(lambda: "guest" not in self.host(other).vms(), 30,
                 f"{other} knows nothing of it; its log:\n{self.host(other).log()[-3000:]}")
        self.farm.wait_clean("guest", name, timeout=15)
        self.wait_working(name)


@pytest.fixture(scope="module")
def module_ground(programs):
    ground = Ground()
    yield ground
    try:
        for host in ground.farm.hosts.values():
            if host.process and host.process.poll() is None and "guest" in host.vms():
                host.godwit("stop", "guest", "--force", check=False)
        left = [left for host in ground.farm.hosts.values() for left in host.leftovers()]
    finally:
        ground.farm.close()
    left += net.left_namespaces(ground.farm.network.prefix + "-")
    assert not left, left


@pytest.fixture
def ground(module_ground):
    yield module_ground
    module_ground.go()
    for host in module_ground.farm.hosts.values():
        host.space.restore()


@pytest.mark.parametrize("point", BEFORE_COMMIT)
def test_X1_source_daemon_killed_before_commit_leaves_the_guest_at_the_source(ground, point):
    ground.arm(point)
    ground.reach()
    ground.host(ground.home).kill()
    ground.go()
    ground.host(ground.home).start()
    ground.wait_only_at(ground.home)
    assert ground.host(ground.home).job(ground.job)["state"] in ("failed", "cancelled")


@pytest.mark.parametrize("point", BEFORE_COMMIT)
def test_X1_target_daemon_killed_before_commit_leaves_the_guest_at_the_source(ground, point):
    ground.arm(point)
    ground.reach()
    ground.host(ground.away).kill()
    ground.go()
    wait_for(lambda: ground.host(ground.home).job(ground.job)["final"], 20, "the source gives up")
    ground.host(ground.away).start()
    ground.wait_only_at(ground.home)
    assert ground.host(ground.home).job(ground.job)["state"] == "failed"


@pytest.mark.parametrize("point", [p for p in BEFORE_COMMIT if p not in NO_TARGET_QEMU_YET])
def test_X1_target_qemu_killed_before_commit_leaves_the_guest_at_the_source(ground, point):
    ground.arm(point)
    ground.reach()
    pids = ground.host(ground.away).qemu_pids("guest")
    assert pids, "there is no target QEMU to kill"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    ground.go()
    wait_for(lambda: ground.host(ground.home).job(ground.job)["final"], 20, "the source gives up")
    ground.wait_only_at(ground.home)
    assert ground.host(ground.home).job(ground.job)["state"] == "failed"


@pytest.mark.parametrize("point", BEFORE_COMMIT)
def test_X1_link_cut_before_commit_leaves_the_guest_at_the_source(ground, point):
    ground.arm(point)
    ground.reach()
    ground.host(ground.home).space.cut()
    ground.go()
    wait_for(lambda: ground.host(ground.home).job(ground.job)["final"], 40, "the source gives up")
    assert ground.host(ground.home).job(ground.job)["state"] == "failed"
    assert ground.host(ground.home).has_running("guest")
    ground.host(ground.home).space.restore()
    ground.wait_only_at(ground.home)


@pytest.mark.parametrize("whose", ["source", "target"])
@pytest.mark.parametrize("point", AFTER_COMMIT)
def test_X1_daemon_killed_after_commit_leaves_the_guest_at_the_target(ground, point, whose):
    ground.arm(point)
    source, target = ground.home, ground.away
    ground.reach()
    victim = ground.host(source if whose == "source" else target)
    victim.kill()
    ground.go()
    victim.start()
    ground.home = target
    ground.wait_only_at(target)


@pytest.mark.parametrize("point", ["source-commit-recorded", "target-commit-received", "target-owner-recorded"])
def test_X1_link_cut_after_commit_leaves_the_guest_at_the_target(ground, point):
    ground.arm(point)
    source, target = ground.home, ground.away
    ground.reach()
    ground.host(source).space.cut()
    ground.go()
    # Nobody guesses: as long as the link is down the copy at the source never runs again.
    assert "guest" not in ground.host(source).vms() or not ground.host(source).has_running("guest")
    ground.host(source).space.restore()
    ground.home = target
    ground.wait_only_at(target)


def faulty_source(ground, faults):
    """Both daemons anew, the source's with these faults."""
    ground.arm(None)
    ground.host(ground.home).stop()
    ground.host(ground.home).faults = faults
    ground.host(ground.home).start()


def test_X1_a_begin_that_cannot_be_written_begins_nothing(ground):
    faulty_source(ground, "journal-write=error")
    done = ground.host(ground.home).godwit("migrate", "guest", "--to", ground.away, check=False)
    assert done.returncode == 1, done.stderr
    ground.wait_only_at(ground.home)


def test_X1_a_commit_that_cannot_be_written_is_undone(ground):
    faulty_source(ground, "journal-commit=error")
    done = ground.host(ground.home).godwit("migrate", "guest", "--to", ground.away, check=False)
    assert done.returncode == 1, done.stderr
    ground.wait_only_at(ground.home)


def test_X1_a_decision_that_cannot_be_written_leaves_the_guest_paused_and_says_outcome_unknown(ground):
    faulty_source(ground, "journal-commit=error,journal-abort=error")
    done = ground.host(ground.home).godwit("migrate", "guest", "--to", ground.away, check=False)
    assert done.returncode == 3, (done.returncode, done.stdout, done.stderr)
    for host in ground.farm.hosts.values():
        assert not host.has_running("guest"), "somebody guessed"
    # The store works again: the restarted daemon reads "undecided", which is ABORT as nobody was told anything else.
    ground.host(ground.home).restart()
    ground.wait_only_at(ground.home)
