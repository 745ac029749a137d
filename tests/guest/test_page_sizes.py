# SPDX-License-Identifier: LGPL-2.1-or-later
"""V5: what the memory is made of survives a move, and the move is as exact with every size."""
import subprocess
from pathlib import Path

import pytest

from harness import definition, smaps
from harness.checks import assert_done, assert_moved_once
from harness.farm import move, wait_beating

NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")
PAGES_2M = 2 * 128 + 8  # two guests of 256 MiB, while one moves


@pytest.fixture
def hugetlb(tmp_path):
    """Reserved huge pages and a hugetlbfs; given back afterwards."""
    before = int(NR_HUGEPAGES.read_text())
    NR_HUGEPAGES.write_text(str(before + PAGES_2M))
    try:
        if int(NR_HUGEPAGES.read_text()) < before + PAGES_2M:
            pytest.skip(f"this machine cannot reserve {PAGES_2M} huge pages")
        subprocess.run(["mount", "-t", "hugetlbfs", "none", tmp_path], check=True)
        yield tmp_path
        subprocess.run(["umount", tmp_path], check=True)
    finally:
        NR_HUGEPAGES.write_text(str(before))


def place_on_hugetlb(farm, folder):
    """Each host of a farm that has not started has a part of the hugetlbfs."""
    for name, host in farm.hosts.items():
        (folder / name).mkdir()
        host.settings["hugetlb_dir"] = folder / name


def move_twice(farm, pages):
    farm["a"].start_vm(definition.linux("guest", load="96M", rate="50M", pages=pages))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        for here, there in (("a", "b"), ("b", "a")):
            job, begin, _ = move(farm, "guest", here, there, "--verify")
            assert_done(job, verified=True)
            assert_moved_once(farm, "guest", beats, begin, here, there)
            assert farm[there].vm("guest")["backing"] == pages
            if pages == "hugetlb":  # all of it is mapped by whole pages, on either side
                huge = job["report"]["huge"]
                assert huge["before_bytes"] >= 96 << 20
                assert huge["after_bytes"] >= huge["before_bytes"]
                fields = smaps.of_ram(farm[there], "guest")
                assert smaps.huge(fields) == smaps.mapped(fields) >= huge["before_bytes"]


@pytest.mark.parametrize("pages", ["4k", "thp"])
def test_V5_page_size_survives_a_move(farm, pages):
    move_twice(farm, pages)


def test_V5_reserved_huge_pages_survive_a_move(hugetlb, make_farm):
    farm = make_farm(start=False)
    place_on_hugetlb(farm, hugetlb)
    for host in farm.hosts.values():
        host.start()
    move_twice(farm, "hugetlb")


@pytest.mark.parametrize("tracing", ["async", "sync"])
def test_V1_both_ways_of_tracing_move_a_busy_guest_exactly(farm, tracing):
    farm["a"].start_vm(definition.linux("guest", load="96M", rate="50M"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        job, begin, _ = move(farm, "guest", "a", "b", "--verify", "--tracing", tracing)
        assert_done(job, verified=True)
        assert job["report"]["tracing"] == tracing
        assert_moved_once(farm, "guest", beats, begin, "a", "b")
