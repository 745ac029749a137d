# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rows of the table: which guest under which load on which link, and which modes are compared on it."""
from dataclasses import dataclass

from harness import definition

GIB_KIB = 1 << 20
# Not a multiple of 256 KiB: QEMU 7.2 with TCG corrupts RAM of such sizes in its own pre-copy.
ODD_KIB = 16


@dataclass(frozen=True)
class Load:
    title: str
    gwload: tuple
    files: bool = False  # the guest has read a disk full of files and programs

    def append_line(self):
        return ("files=vda " if self.files else "") + definition.append_line(self.gwload)


@dataclass(frozen=True)
class Link:
    title: str
    rate: int  # bits per second, 0: none
    give_up_s: int  # a mode that has not switched over by then "does not converge"


@dataclass(frozen=True)
class Row:
    name: str
    load: Load
    link: Link
    memory_kib: int
    qemu: tuple           # QEMU's modes, see qemu_modes.MODES
    variants: tuple = ()  # Godwit's other modes, see godwit_mode.MODES
    runs: int = 20        # of Godwit and of QEMU's best modes
    rounds: int = 5       # boots of each guest; the runs are spread over them
    seconds: int = 480    # about how long the row takes, as it was seen

    @property
    def title(self):
        size = f"{self.memory_kib // GIB_KIB} GiB, " if self.memory_kib > 2 * GIB_KIB else ""
        return f"{size}{self.load.title}; {self.link.title}"


def _memory(gib):
    return gib * GIB_KIB + ODD_KIB


def _gwload(size, *args):
    return ("--size", size, "--heartbeat", "beat", *args)


LOOPBACK = Link("loopback, no limit", 0, 15)
GBIT = Link("veth, 1 Gbit/s (tbf)", 10**9, 40)

IDLE = Load("idle", _gwload("768M", "--rate", "0"))
LOAD_100M = Load("100 MB/s over 512 MiB", _gwload("768M", "--rate", "100M", "--hot", "512M"))
LOAD_1G = Load("1 GB/s over 512 MiB", _gwload("768M", "--rate", "1000M", "--hot", "512M"))
HOT_256M = Load("unthrottled over 256 MiB", _gwload("768M", "--rate", "max", "--hot", "256M"))
HOT = Load("unthrottled over 512 MiB", _gwload("768M", "--rate", "max", "--hot", "512M"))
FILES = Load("files and programs in the page cache", _gwload("32M", "--rate", "10M"), files=True)
BIG_4 = Load("100 MB/s over 512 MiB", _gwload("3584M", "--rate", "100M", "--hot", "512M"))
BIG_8 = Load("100 MB/s over 512 MiB", _gwload("7168M", "--rate", "100M", "--hot", "512M"))

USUAL = ("precopy-20", "precopy", "multifd-20", "multifd", "postcopy")
SLOWED = (*USUAL, "auto-converge")
VARIANTS = ("godwit-pre-copy", "godwit-post-copy", "godwit-hybrid")

ROWS = {
    row.name: row
    for row in (
        Row("idle", IDLE, LOOPBACK, _memory(1), USUAL),
        Row("100M", LOAD_100M, LOOPBACK, _memory(1), USUAL),
        Row("1G", LOAD_1G, LOOPBACK, _memory(1), SLOWED, VARIANTS),
        Row("hot", HOT, LOOPBACK, _memory(1), SLOWED, VARIANTS, seconds=600),
        Row("files", FILES, GBIT, _memory(1),
            ("precopy-20", "precopy", "multifd-zstd", "xbzrle", "postcopy"), ("godwit-plain",), seconds=720),
        Row("4G", BIG_4, LOOPBACK, _memory(4), ("precopy-20", "multifd-20", "postcopy"), rounds=3, seconds=420),
        Row("8G", BIG_8, LOOPBACK, _memory(8), ("precopy-20", "multifd-20", "postcopy"), rounds=3, seconds=700),
        Row("1gbit-idle", IDLE, GBIT, _memory(1), USUAL, runs=5, rounds=2, seconds=480),
        Row("1gbit-100M", LOAD_100M, GBIT, _memory(1), SLOWED, runs=5, rounds=2, seconds=600),
        Row("1gbit-1G", LOAD_1G, GBIT, _memory(1), SLOWED, runs=5, rounds=2, seconds=600),
        Row("1gbit-hot", HOT_256M, GBIT, _memory(1), SLOWED, runs=5, rounds=2, seconds=600),
    )
}
