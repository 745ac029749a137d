# SPDX-License-Identifier: LGPL-2.1-or-later
"""X5: unmodified QEMU 7.2 and 10.0, each alone, up from the older to the newer, and never down.

QEMU 10 is fetched from Debian's backports by tools/guest/qemu10 and not installed.
"""
import subprocess

import pytest

from harness import definition, paths
from harness.checks import assert_done, assert_moved_once
from harness.farm import move, wait_beating


@pytest.fixture(scope="module")
def qemu10():
    done = subprocess.run([paths.ROOT / "tools/guest/qemu10"], capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"QEMU 10 cannot be had here: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


def start(make_farm, qemus):
    farm = make_farm(start=False)
    for name, qemu in qemus.items():
        if qemu:
            farm[name].qemu = qemu
        farm[name].start()
    farm["a"].start_vm(definition.linux("guest", load="96M", rate="50M"))
    return farm


def moved(farm, beats, here, there):
    job, begin, _ = move(farm, "guest", here, there, "--verify")
    assert_done(job, verified=True)
    assert_moved_once(farm, "guest", beats, begin, here, there)


def test_X5_a_linux_guest_moves_back_and_forth_under_qemu_10(qemu10, make_farm):
    farm = start(make_farm, {"a": qemu10, "b": qemu10})
    assert farm["a"].api("GET", "/v1/host")["qemu_version"].startswith("10.")
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        moved(farm, beats, "a", "b")
        moved(farm, beats, "b", "a")


def test_X5_a_guest_moves_up_to_a_newer_qemu(qemu10, make_farm):
    farm = start(make_farm, {"a": None, "b": qemu10})
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        # TCG's "max" gains features with every version: what the guest has been told must not change under it.
        done = farm["a"].godwit("migrate", "guest", "--to", "b", "--verify", check=False)
        if done.returncode:
            assert "CPU" in done.stderr or "cpu" in done.stderr, done.stderr
            assert farm["a"].has_running("guest")
            farm.wait_clean("guest", "a")
        else:
            wait_beating(beats, 1)
            assert beats.update().errors() == 0
            assert farm["b"].has_running("guest")


def test_X3_an_older_qemu_at_the_target_is_refused(qemu10, make_farm):
    farm = start(make_farm, {"a": qemu10, "b": None})
    done = farm["a"].godwit("migrate", "guest", "--to", "b", check=False)
    assert done.returncode == 1
    assert "QEMU" in done.stderr, done.stderr
    assert farm["a"].has_running("guest")
    farm.wait_clean("guest", "a")
