# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one migration cost: gaps and beats kept (from outside), total time, wire bytes, memory."""
import os
import re
import threading
import time
from dataclasses import asdict, dataclass

from harness.beats import PERIOD_NS

SAMPLE_S = 0.05
AFTER_S = 1.1             # listened to the guest after a move
AFTER_NS = 1_000_000_000  # of that, looked at
BEFORE_NS = 1_000_000_000
SPEED_WINDOW_NS = 20_000_000
FULL_SPEED = 0.9


@dataclass
class Result:
    mode: str
    row: str
    turn: int = 0
    busy: float = None            # share of the CPUs that others used before the guest was booted
    converged: bool = True
    gap_ms: float = None          # last beat from the source to the first from the target
    worst_gap_ms: float = None    # largest gap from the command to one second after the switch
    total_s: float = None         # from the command until the source's process and memory are gone
    wire_bytes: int = None
    ram_used_bytes: int = None    # guest RAM in use at the source
    kept_during_copy: float = None  # share of the beats expected between the command and the switch
    kept_after: float = None        # the same in the second after the switch
    work_before_Bps: float = None   # dirtied in the second before the command
    work_after_Bps: float = None    # dirtied in the first 100 ms after the switch
    to_full_ms: float = None        # from the first beat at the target until 90 % of the speed before
    extra_memory_bytes: int = None  # peak above guest RAM on both sides and what the source had before
    daemon_bytes: int = None        # Godwit: the larger daemon's private memory at its peak
    errors: int = None              # the guest's own check
    phases_ms: dict = None          # Godwit: its own account of where the downtime went
    passes: int = None
    note: str = ""

    def as_dict(self):
        return asdict(self)


def rss_anon(pid):
    """Private memory of a process in bytes; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status") as f:
            return 1024 * int(re.search(r"^RssAnon:\s+(\d+)", f.read(), re.M).group(1))
    except (OSError, AttributeError):
        return 0


def file_bytes(path):
    """Memory that a file on tmpfs holds."""
    try:
        return os.stat(path).st_blocks * 512
    except OSError:
        return 0


def mapping_anon(pid, size_bytes):
    """Resident bytes of the anonymous mapping of that size (guest RAM of a plain -m)."""
    with open(f"/proc/{pid}/smaps") as f:
        text = f.read()
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", text):
        if int(re.search(r"Size:\s+(\d+)", block).group(1)) * 1024 == size_bytes:
            return 1024 * int(re.search(r"Anonymous:\s+(\d+)", block).group(1))
    return 0


class MemorySampler:
    """The peak of the sum of processes' private memory and RAM files. The callables return what there is
    just now, as processes and files come and go."""

    def __init__(self, pids, files):
        self.pids, self.files = pids, files
        self.peak_of = {}  # private memory of each process
        self.before = self._now()
        self.peak = self.before
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _now(self):
        total = sum(map(file_bytes, self.files()))
        for pid in self.pids():
            anon = rss_anon(pid)
            self.peak_of[pid] = max(self.peak_of.get(pid, 0), anon)
            total += anon
        return total

    def _run(self):
        while not self.stopped.wait(SAMPLE_S):
            self.peak = max(self.peak, self._now())

    def stop(self, guest_ram_bytes):
        """Peak memory in addition to what was there before and the guest's RAM at the target."""
        self.stopped.set()
        self.thread.join()
        return max(0, self.peak - self.before - guest_ram_bytes)


def time_to_speed(before, after, first_ns):
    """ns from first_ns to the first window of 20 ms with 90 % of the speed before; None when there is none.

    Speed is the guest's own work: bytes dirtied; of a guest that does nothing else, its heartbeats.
    """
    works = before.work_Bps() > 0
    done = [b.pages_dirtied if works else i for i, b in enumerate(after.beats)]
    times = [b.host_ns for b in after.beats]
    wanted = before.work_Bps() / 4096e9 if works else 1 / PERIOD_NS
    end = 0
    for begin, begin_ns in enumerate(times):
        while end < len(times) and times[end] < begin_ns + SPEED_WINDOW_NS:
            end += 1
        if end == len(times):
            return None
        if (done[end] - done[begin]) / (times[end] - begin_ns) >= FULL_SPEED * wanted:
            return begin_ns - first_ns
    return None


def read_trace(result, trace, begin_ns):
    """Fills in what the heartbeats say of the migration that began at begin_ns."""
    seen = [s for s in trace.switches() if s.first.host_ns > begin_ns]
    if not seen:
        result.converged = False
        return
    switch = seen[0]
    end_ns = switch.first.host_ns + AFTER_NS
    before = trace.between(begin_ns, switch.last.host_ns + 1)
    after = trace.between(switch.first.host_ns, end_ns)
    result.gap_ms = switch.gap_ns / 1e6
    result.worst_gap_ms = trace.between(begin_ns, end_ns).largest_gap_ns() / 1e6
    copy_beats = (switch.last.host_ns - begin_ns) / PERIOD_NS
    result.kept_during_copy = min(1.0, len(before.beats) / copy_beats) if copy_beats >= 1 else None
    result.kept_after = min(1.0, len(after.beats) / (AFTER_NS / PERIOD_NS))
    earlier = trace.between(begin_ns - BEFORE_NS, begin_ns)
    result.work_before_Bps = earlier.work_Bps()
    result.work_after_Bps = trace.between(switch.first.host_ns, switch.first.host_ns + 10**8).work_Bps()
    to_full = time_to_speed(earlier, trace.between(switch.first.host_ns, 1 << 63), switch.first.host_ns)
    result.to_full_ms = to_full / 1e6 if to_full is not None else None
    result.errors = trace.errors()


def settle(beats, source, seconds=1.1):
    """Waits until the guest has beaten for a while, so that no start-up work is measured."""
    beats.wait_for_source(source, 90, count=int(seconds * 900), since_ns=time.monotonic_ns())
