# SPDX-License-Identifier: LGPL-2.1-or-later
"""A QEMU that says nothing: nobody who wants an end has to wait for it, nothing is left behind, nothing runs twice."""
import os
import signal
import time

import pytest

from harness import definition
from harness.checks import wait_working
from harness.wait import wait_for

TIMEOUT = 2  # exit code
PROMPT_S = 1.5
SILENT = "waits for the VM's QEMU, which does not answer"

# Deaf to SIGTERM, too; under QEMU's name and with its arguments, so that what is left of it is found.
MUTE = """#!/bin/bash
case " $* " in *" -incoming "*)
	trap '' TERM
	exec -a qemu-mute /usr/bin/python3 -c 'import signal; signal.pause()' "$@"
esac
exec {qemu} "$@"
"""


def holds_nothing(host):
    return not host.leftovers("guest") and not (host.state_dir / "vms" / "guest").exists()


def wait_gone(host, began):
    """All of it is gone from the target, soon after `began`."""
    wait_for(lambda: holds_nothing(host), 20, f"nothing is left; log:\n{host.log()[-3000:]}")
    assert time.monotonic() - began < PROMPT_S


def freeze(host):
    pids = host.qemu_pids("guest")
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


def begin(farm):
    """A guest at work at `a` that begins to move to `b`; the job."""
    farm["a"].start_vm(definition.firmware("guest", "hot"))
    wait_working(farm["a"], "guest")
    return farm["a"].godwit_json("migrate", "guest", "--to", "b", "--detach")["id"]


def held_at(make_farm, name, point, **settings):
    """A farm in which a migration has reached the point at that host, and what lets it go on; and the job."""
    farm = make_farm(start=False)
    path = farm[name].folder / "hold"
    farm[name].faults = f"{point}=hold:{path}"
    for host in farm.hosts.values():
        host.settings = settings
        host.start()
    job = begin(farm)
    wait_for(path.with_name("hold.reached").exists, 20, "the fault point is reached")
    return farm, path.with_name("hold.go").touch, job


def thaw(pids):
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def cancel_soon_answered(farm, job):
    """Tells that it is accepted, within a second."""
    began = time.monotonic()
    done = farm["a"].godwit("cancel", job, check=False)
    assert time.monotonic() - began < 1
    assert done.returncode == TIMEOUT, (done.stdout, done.stderr)
    assert f"the cancel of {job} is accepted" in done.stderr
    assert farm["a"].job(job)["state"] == "undoing"
    return done.stderr


def assert_undone(farm, job):
    """It ends, at `a`, with nothing left at `b`."""
    wait_for(lambda: farm["a"].job(job)["final"], 20, f"the job ends; log:\n{farm['a'].log()[-3000:]}")
    wait_working(farm["a"], "guest")
    wait_for(lambda: holds_nothing(farm["b"]), 20, "nothing is left at the target")


def cancel(farm, job):
    farm["a"].godwit("cancel", job)


def lose_source(farm, job):
    farm["a"].kill()


def stop_target(farm, job):
    farm["b"].stop()


ENDS = {"cancel": cancel, "source_lost": lose_source, "target_stopped": stop_target}


@pytest.mark.parametrize("end", ENDS)
def test_N1_N2_a_target_qemu_that_hangs_at_its_start_delays_no_end(make_farm, end):
    farm = make_farm(start=False)
    wrapper = farm["b"].folder / "qemu-mute"
    wrapper.write_text(MUTE.format(qemu=farm["b"].qemu))
    wrapper.chmod(0o755)
    farm["b"].qemu = wrapper
    for host in farm.hosts.values():
        host.start()
    job = begin(farm)
    wait_for(lambda: any(b"qemu-mute" in open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")[0]
                         for pid in farm["b"].qemu_pids("guest")), 20, "the target's QEMU hangs")
    assert not holds_nothing(farm["b"])
    began = time.monotonic()
    ENDS[end](farm, job)
    wait_gone(farm["b"], began)
    if end == "source_lost":
        farm["a"].start()
    wait_for(lambda: farm["a"].job(job)["final"], 5, "the source gives up")
    assert farm["a"].job(job)["state"] == ("cancelled" if end == "cancel" else "failed")
    if end == "target_stopped":
        assert "stopping" in farm["a"].job(job)["error"]
    wait_working(farm["a"], "guest")


@pytest.mark.parametrize("point", ["target-vm-started", "target-prepared-sent", "target-load-begin"])
def test_N1_N2_a_target_qemu_that_freezes_later_delays_no_cancel(make_farm, point):
    farm, go, job = held_at(make_farm, "b", point)
    freeze(farm["b"])
    go()
    began = time.monotonic()
    farm["a"].godwit("cancel", job)
    assert farm["a"].job(job)["state"] == "cancelled"
    wait_gone(farm["b"], began)
    wait_working(farm["a"], "guest")


def test_N1_a_cancel_while_memory_is_copied_does_not_need_the_sources_qemu(make_farm):
    farm, go, job = held_at(make_farm, "a", "source-pass-middle")
    frozen = freeze(farm["a"])
    cancel_soon_answered(farm, job)
    go()
    wait_for(lambda: farm["a"].job(job)["state"] == "cancelled", 20, "it is cancelled while QEMU is frozen")
    thaw(frozen)
    assert_undone(farm, job)


@pytest.mark.parametrize("point", ["source-stopped", "source-state-saved"])
def test_N1_X1_a_cancel_while_the_sources_qemu_is_frozen_stands_and_ends_when_it_thaws(make_farm, point):
    farm, go, job = held_at(make_farm, "a", point, switch_timeout="2s")
    frozen = freeze(farm["a"])
    cancel_soon_answered(farm, job)
    go()
    wait_for(lambda: farm["a"].job(job)["step"] == SILENT, 10, "the job says what it waits for")
    assert f"undoing: {SILENT}" in cancel_soon_answered(farm, job)
    end = time.monotonic() + 4  # longer than the time-out of the switch: nobody gives up, nobody guesses
    while time.monotonic() < end:
        assert not farm["a"].job(job)["final"]
        assert not farm["b"].has_running("guest")
    thaw(frozen)
    assert_undone(farm, job)
    assert farm["a"].job(job)["state"] == "cancelled"


def test_X1_a_source_daemon_that_stops_while_its_qemu_is_frozen_goes_on_when_it_is_back(make_farm):
    farm, go, job = held_at(make_farm, "a", "source-stopped", switch_timeout="2s")
    frozen = freeze(farm["a"])
    cancel_soon_answered(farm, job)
    go()
    farm["a"].stop(timeout=15)
    farm["a"].start()
    wait_for(lambda: farm["a"].job(job)["step"] == SILENT, 10, "the job goes on and says what it waits for")
    thaw(frozen)
    assert_undone(farm, job)
