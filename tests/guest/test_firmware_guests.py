# SPDX-License-Identifier: LGPL-2.1-or-later
"""Firmware guests: pages that are never clean, and KVM where no ordinary kernel is fast enough."""
import os

import pytest
from conftest import REPEAT

from harness import definition
from harness.checks import BothPaused, assert_done, compared_move, wait_working

REPORTS = 3


def _kvm_opens():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
        return True
    except OSError:
        return False


GUESTS = [
    pytest.param("hot", "tcg", id="hot_pages_tcg"),
    pytest.param("kvm-firmware-guest", "kvm", id="kvm",
                 marks=pytest.mark.skipif(not _kvm_opens(), reason="/dev/kvm does not open")),
]


@pytest.mark.parametrize("image,accel", GUESTS)
def test_N3_X1_firmware_guest_finds_its_memory_and_registers_of_one_instant(make_farm, image, accel):
    farm = make_farm(start=False)
    holds = {name: BothPaused(host) for name, host in farm.hosts.items()}
    for host in farm.hosts.values():
        host.start()
    farm["a"].start_vm(definition.firmware("guest", image, accel=accel))
    here, there = "a", "b"
    for _ in range(REPEAT):
        wait_working(farm[here], "guest", REPORTS)
        job, _, _ = compared_move(farm, "guest", here, there, holds[here], "--verify")
        assert_done(job, verified=True)
        wait_working(farm[there], "guest", REPORTS)
        farm.wait_clean("guest", there)
        here, there = there, here
