# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests, loads and links that are measured."""
from dataclasses import dataclass

# Not a multiple of 256 KiB: QEMU 7.2 with TCG corrupts RAM of such sizes in its own pre-copy.
MEMORY_KIB = 1048592
FILLED = "768M"


@dataclass(frozen=True)
class Load:
    name: str
    title: str
    gwload: tuple


@dataclass(frozen=True)
class Link:
    name: str
    title: str
    rate: int  # bits per second, 0: none
    give_up_s: int  # a mode that has not switched over by then "does not converge"


def _gwload(*args):
    return ("--size", FILLED, "--heartbeat", "beat", *args)


LOADS = {
    load.name: load
    for load in (
        Load("idle", "idle", _gwload("--rate", "0")),
        Load("100M", "100 MB/s over 512 MiB", _gwload("--rate", "100M", "--hot", "512M")),
        Load("1G", "1 GB/s over 512 MiB", _gwload("--rate", "1000M", "--hot", "512M")),
        Load("hot", "unthrottled over 256 MiB", _gwload("--rate", "max", "--hot", "256M")),
    )
}

LINKS = {
    link.name: link
    for link in (
        Link("loopback", "loopback, no limit", 0, 20),
        Link("1gbit", "veth, 1 Gbit/s (tbf)", 10**9, 60),
    )
}
