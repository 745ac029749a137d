# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every mode with every load, number of vCPUs, size of pages and QEMU: RAM is equal byte for byte while both copies
stand still, and the guest's own check is clean.

`make soak` moves the guest thirty times in each of these ways. With the usual number of moves, of the Linux guests only
those run here that no other test has.
"""
import pytest
from conftest import REPEAT
from test_firmware_guests import GUESTS
from test_linux_guest import FILLED_PAGES, LOADS
from test_page_sizes import hugetlb, place_on_hugetlb  # noqa: F401
from test_postcopy import MODES as FOLLOWING
from test_qemu_versions import qemu10  # noqa: F401

from harness import definition
from harness.checks import assert_done, assert_moved_once, equal_move, hold_when_committed, wait_working
from harness.farm import wait_beating

MODES = {"pre-copy": ("--mode", "pre-copy"), **FOLLOWING, "auto": ()}
WHOLE_MATRIX = [(mode, load, cpus) for mode in MODES for load in LOADS for cpus in (1, 4)]
CASES = WHOLE_MATRIX if REPEAT > 2 else [("pre-copy", "1GBps", 4), ("auto", "unthrottled_hot_set", 1)]


def start(farm, text, qemu=None):
    holds = hold_when_committed(farm)
    for host in farm.hosts.values():
        host.qemu = qemu or host.qemu
        host.start()
    farm["a"].start_vm(text)
    return holds


def moves_of_linux(farm, holds, modes):
    here, there = "a", "b"
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        for mode in modes:
            job, begin, _ = equal_move(farm, "guest", here, there, holds[there], *MODES[mode])
            assert_done(job)
            assert_moved_once(farm, "guest", beats, begin, here, there)
            here, there = there, here
        beats.wait_for_checked(FILLED_PAGES, 60)
        assert beats.update().errors() == 0


@pytest.mark.parametrize("mode,load,cpus", CASES)
def test_N3_N7_N8_a_linux_guest_is_equal_in_every_mode(make_farm, mode, load, cpus):
    farm = make_farm(start=False)
    text = definition.linux("guest", load="128M", sweep="200M", cpus=cpus, threads=min(cpus, 2), **LOADS[load])
    moves_of_linux(farm, start(farm, text), [mode] * REPEAT)


def moves_of_firmware(farm, holds, mode, pages=None):
    here, there = "a", "b"
    for _ in range(REPEAT):
        wait_working(farm[here], "guest")
        job, _, _ = equal_move(farm, "guest", here, there, holds[there], *MODES[mode])
        assert_done(job)
        if mode == "post-copy":
            assert job["report"]["mode"] == mode, job["report"]["decision"]
        assert pages in (None, farm[there].vm("guest")["backing"])
        wait_working(farm[there], "guest", 3)
        farm.wait_clean("guest", there)
        here, there = there, here


@pytest.mark.parametrize("mode", ["pre-copy", "post-copy", "hybrid"])
@pytest.mark.parametrize("image,accel", GUESTS)
def test_N3_N7_N8_a_firmware_guest_is_equal_in_every_mode(make_farm, image, accel, mode):
    farm = make_farm(start=False)
    moves_of_firmware(farm, start(farm, definition.firmware("guest", image, accel=accel)), mode)


@pytest.mark.parametrize("mode", ["pre-copy", "post-copy", "hybrid"])
@pytest.mark.parametrize("pages", ["4k", "thp"])
def test_V5_N3_N7_N8_memory_is_equal_with_every_size_of_pages(make_farm, pages, mode):
    farm = make_farm(start=False)
    moves_of_firmware(farm, start(farm, definition.firmware("guest", "hot", extra=f"pages = {pages}\n")), mode, pages)


@pytest.mark.parametrize("mode", ["pre-copy", "post-copy", "hybrid"])
def test_V5_N3_N7_N8_memory_is_equal_on_reserved_huge_pages(hugetlb, make_farm, mode):  # noqa: F811
    farm = make_farm(start=False)
    place_on_hugetlb(farm, hugetlb)
    moves_of_firmware(farm, start(farm, definition.firmware("guest", "hot", extra="pages = hugetlb\n")), mode, "hugetlb")


def test_X5_N7_N8_memory_is_equal_in_every_mode_under_qemu_10(qemu10, make_farm):  # noqa: F811
    farm = make_farm(start=False)
    text = definition.linux("guest", load="128M", sweep="200M", rate="100M")
    moves_of_linux(farm, start(farm, text, qemu=qemu10), ["post-copy", "hybrid", "pre-copy"] * max(1, REPEAT // 3))
