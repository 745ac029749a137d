# SPDX-License-Identifier: LGPL-2.1-or-later
"""V1: memory that a guest gives back, before and while it moves."""
import os
import threading

import pytest

from harness import console, definition
from harness.checks import BothPaused, assert_done, assert_moved_once, compared_move
from harness.farm import move, wait_beating
from harness.wait import wait_for

MIB = 1 << 20


def fill(host, mib):
    console.run(host, "guest", f"dd if=/dev/urandom of=/big bs=1M count={mib} 2>/dev/null")


def guest(pages):
    text = definition.linux("guest", memory="512M", load="48M", rate="20M", pages=pages)
    return text.replace("[vm]\n", "[vm]\nballoon = yes\n")


def allocated(host):
    (path,) = host.ram_files("guest")
    return os.stat(path).st_blocks * 512


@pytest.mark.parametrize("pages", ["4k", "thp"])
def test_V1_what_the_guest_has_freed_before_is_not_sent(farm, pages):
    farm["a"].start_vm(guest(pages))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        fill(farm["a"], 100)
        full = allocated(farm["a"])
        console.run(farm["a"], "guest", "rm /big")
        wait_for(lambda: allocated(farm["a"]) < full - 80 * MIB, 60, "the guest reports what it has freed")
        job, begin, _ = move(farm, "guest", "a", "b", "--verify")
        assert_done(job, verified=True)
        assert_moved_once(farm, "guest", beats, begin, "a", "b")
        assert job["report"]["ram_bytes"] < full - 80 * MIB
        assert allocated(farm["b"]) < full - 80 * MIB
        # It goes on doing so at the target.
        fill(farm["b"], 40)
        full = allocated(farm["b"])
        console.run(farm["b"], "guest", "rm /big")
        wait_for(lambda: allocated(farm["b"]) < full - 30 * MIB, 60, "the guest reports what it has freed")


@pytest.mark.parametrize("tracing", ["async", "sync"])
def test_V1_what_the_guest_frees_while_it_moves_is_kept_and_both_copies_are_equal(make_farm, tracing):
    farm = make_farm(start=False)
    hold = BothPaused(farm["a"])
    for host in farm.hosts.values():
        host.start()
    farm["a"].start_vm(guest("4k"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        fill(farm["a"], 60)
        full = allocated(farm["a"])
        lowest = []

        def free_while_copying():
            wait_for(lambda: any(j["state"] == "copying" for j in farm["a"].api("GET", "/v1/jobs")), 30, "copying")
            console.run(farm["a"], "guest", "rm /big")
            while not hold.reached.exists():
                lowest.append(allocated(farm["a"]))
                hold_over.wait(0.05)

        hold_over = threading.Event()
        freeing = threading.Thread(target=free_while_copying)
        freeing.start()
        try:
            job, begin, _ = compared_move(farm, "guest", "a", "b", hold, "--verify", "--tracing", tracing,
                                          "--bandwidth", "35MB/s")
        finally:
            hold_over.set()
            freeing.join()
        assert_done(job, verified=True)
        assert_moved_once(farm, "guest", beats, begin, "a", "b")
        assert lowest and min(lowest) > full - 8 * MIB, "pages went away while they were traced"
