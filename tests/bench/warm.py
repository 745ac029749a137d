# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that is there when a run wants it.

A machine that is itself a virtual one may give free memory back to its host (free page reporting). Touching it again
then waits for the host: 0.3 GB/s instead of 6 GB/s were seen, at random, for whichever run came late enough after the
one before. Hosts of VMs do not do that. While the bench measures, the kernel is asked to hold free memory for a minute,
and what a row needs is touched before it.
"""
import contextlib
import mmap
import os
from pathlib import Path

KNOB = Path("/sys/module/page_reporting/parameters/min_free_ms")
HOLD_MS = 60000
MADV_POPULATE_WRITE = 23


@contextlib.contextmanager
def held():
    """Free memory stays with this machine; yields True when the kernel had to be asked for that."""
    if not KNOB.exists():
        yield False
        return
    before = KNOB.read_text()
    try:
        KNOB.write_text(str(HOLD_MS))
        yield True
    finally:
        KNOB.write_text(before)


def touch(size_bytes):
    """Has that much memory been free just now, in huge pages: at most half of what is available."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with mmap.mmap(-1, min(size_bytes, available // 2), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.madvise(MADV_POPULATE_WRITE)
