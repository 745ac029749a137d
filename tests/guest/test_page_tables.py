# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables at the target (V2, V3), huge pages that stay whole (V1, V5)."""
import os
import threading

import pytest

from harness import console, definition, smaps
from harness.checks import BothPaused, assert_done, assert_moved_once, inspected_move
from harness.farm import move, wait_beating
from harness.wait import wait_for

MIB = 1 << 20


def held_farm(make_farm, target_faults=""):
    """A farm whose source stops when both copies are whole and paused."""
    farm = make_farm(start=False)
    hold = BothPaused(farm["a"])
    farm["b"].faults = target_faults
    for host in farm.hosts.values():
        host.start()
    return farm, hold


def allocated(host, vm="guest"):
    (path,) = host.ram_files(vm)
    return os.stat(path).st_blocks * 512


def mapped_before_resume(farm, hold, *options):
    """(bytes that the guest has at the source, bytes in the page tables of the target's QEMU) before it runs."""
    def look():
        return allocated(farm["a"]), smaps.mapped(smaps.of_ram(farm["b"], "guest"))
    (job, begin, _), seen = inspected_move(farm, "guest", "a", "b", hold, look, "--mode", "pre-copy", *options)
    assert_done(job)
    return job, begin, seen


@pytest.mark.parametrize("pages", ["4k", "thp"])
def test_V2_all_ram_is_in_the_page_tables_before_the_guest_runs(make_farm, pages):
    farm, hold = held_farm(make_farm)
    farm["a"].start_vm(definition.linux("guest", load="128M", rate="100M", pages=pages))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        job, begin, (has, mapped) = mapped_before_resume(farm, hold)
        assert_moved_once(farm, "guest", beats, begin, "a", "b")
    assert has >= 128 * MIB
    assert mapped >= has * 0.99
    assert job["report"]["populate_ns"] > 0


def test_V2_without_population_the_page_tables_are_empty_and_the_guest_moves_as_exactly(make_farm):
    farm, hold = held_farm(make_farm, "target-populate-vmm=error")
    farm["a"].start_vm(definition.linux("guest", load="128M", rate="100M", pages="4k"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        _, begin, (has, mapped) = mapped_before_resume(farm, hold, "--verify")
        assert_moved_once(farm, "guest", beats, begin, "a", "b")
    assert mapped < has * 0.1


def test_V2_populating_spares_the_guest_its_faults_in_the_first_second(make_farm):
    faults = {}
    for name, fault in (("populated", ""), ("empty", "target-populate-vmm=error")):
        farm, hold = held_farm(make_farm, fault)
        farm["a"].start_vm(definition.linux("guest", load="128M", rate="max", pages="4k"))
        with farm.beats("guest") as beats:
            wait_beating(beats, 0, timeout=60)

            def look(farm=farm):
                (pid,) = farm["b"].qemu_pids("guest")
                return pid, smaps.minor_faults(pid)
            (job, begin, _), (pid, before) = inspected_move(farm, "guest", "a", "b", hold, look, "--mode", "pre-copy")
            assert_done(job)
            wait_beating(beats, 1, count=1000)
            faults[name] = smaps.minor_faults(pid) - before
            assert_moved_once(farm, "guest", beats, begin, "a", "b")
    print(f"faults of the target's QEMU in the guest's first second: {faults}")
    # The guest touches all of its 128 MiB; the kernel maps up to 16 pages a fault.
    assert faults["empty"] > 128 * 256 / 32
    assert faults["populated"] < faults["empty"] / 4


def test_V3_pages_that_first_appear_while_memory_is_copied_are_mapped_before_the_guest_runs(make_farm):
    farm, hold = held_farm(make_farm)
    farm["a"].start_vm(definition.linux("guest", memory="384M", load="64M", rate="50M", pages="4k"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        before = allocated(farm["a"])
        growing = threading.Thread(
            target=lambda: (wait_for(lambda: farm["b"].ram_files("guest"), 30, "copying begins"),
                            console.run(farm["a"], "guest", "dd if=/dev/zero of=/fresh bs=1M count=48 2>/dev/null")))
        growing.start()
        try:
            _, begin, (has, mapped) = mapped_before_resume(farm, hold, "--bandwidth", "25MB/s")
        finally:
            growing.join()
        assert_moved_once(farm, "guest", beats, begin, "a", "b")
    assert has >= before + 24 * MIB, "the guest took no new memory while it was copied"
    assert mapped >= has * 0.99


def test_V5_huge_pages_with_zero_pages_inside_are_whole_at_the_target(farm):
    farm["a"].start_vm(definition.linux("guest", load="96M", rate="50M", pages="thp"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        # Pages of zeros all over the place, in huge pages that hold data too.
        console.run(farm["a"], "guest", "dd if=/dev/urandom of=/x bs=4k count=4000 2>/dev/null && "
                                        "dd if=/dev/zero of=/x bs=4k count=2000 conv=notrunc 2>/dev/null")
        before = smaps.huge(smaps.of_ram(farm["a"], "guest"))
        assert before >= 96 * MIB, "the source has no huge pages to begin with"
        for here, there in (("a", "b"), ("b", "a")):
            job, begin, _ = move(farm, "guest", here, there, "--verify")
            assert_done(job, verified=True)
            assert sum(p["zero_pages"] for p in job["report"]["passes"]) > 1000
            assert_moved_once(farm, "guest", beats, begin, here, there)
            after = smaps.huge(smaps.of_ram(farm[there], "guest"))
            assert after >= before * 0.98
            huge = job["report"]["huge"]
            assert huge["after_bytes"] >= huge["before_bytes"] * 0.98
            assert huge["before_bytes"] == pytest.approx(before, rel=0.02)
            before = after


@pytest.mark.parametrize("tracing", ["async", "sync"])
def test_V1_a_cancelled_move_leaves_as_many_huge_mappings_as_there_were(farm, tracing):
    farm["a"].start_vm(definition.linux("guest", load="96M", rate="100M", pages="thp"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)

        def huge():
            return smaps.huge(smaps.of_ram(farm["a"], "guest"))
        before = huge()
        assert before >= 96 * MIB
        job = farm["a"].godwit_json("migrate", "guest", "--to", "b", "--detach", "--bandwidth", "10MB/s", "--tracing",
                                    tracing)
        wait_for(lambda: huge() < before * 0.8, 30, "tracing has split huge mappings")
        farm["a"].godwit("cancel", job["id"])
        wait_for(lambda: huge() >= before * 0.98, 20, "the huge mappings are back")
        wait_beating(beats, 0)
        # And the guest can still be moved.
        moved, begin, _ = move(farm, "guest", "a", "b", "--verify")
        assert_done(moved, verified=True)
        assert_moved_once(farm, "guest", beats, begin, "a", "b")


def test_V1_a_daemon_that_died_while_it_traced_leaves_no_split_huge_pages_behind(farm):
    farm["a"].start_vm(definition.linux("guest", load="96M", rate="100M", pages="thp"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)

        def huge():
            return smaps.huge(smaps.of_ram(farm["a"], "guest"))
        before = huge()
        farm["a"].godwit_json("migrate", "guest", "--to", "b", "--detach", "--bandwidth", "10MB/s")
        wait_for(lambda: huge() < before * 0.8, 30, "tracing has split huge mappings")
        farm["a"].kill()
        farm["a"].start()
        wait_for(lambda: huge() >= before * 0.98, 20, "the huge mappings are back")
        wait_beating(beats, 0)
