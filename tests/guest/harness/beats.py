# SPDX-License-Identifier: LGPL-2.1-or-later
"""Heartbeats of a guest as seen from outside: gwbeat's trace, and what it says about a migration."""
import json
import os
import signal
import struct
import subprocess
import tempfile
import time
from collections import namedtuple

from . import paths
from .wait import wait_for

# struct gw_beat_arrival of tools/guest/beat.h
_RECORD = struct.Struct("<QIIIIQQII")
Beat = namedtuple("Beat", "host_ns source connects magic seq guest_ns pages_dirtied errors pages_checked")
PERIOD_NS = 1_000_000

Switch = namedtuple("Switch", "from_source to_source last first gap_ns")


def percentile(values, p):
    """The p-th percentile (0..100) by the nearest rank; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(0, min(len(ordered) - 1, -(-len(ordered) * p // 100) - 1))
    return ordered[int(rank)]


class Trace:
    """Beats in the order of their arrival, and questions about them. Times are CLOCK_MONOTONIC ns."""

    def __init__(self, beats):
        self.beats = beats

    def between(self, begin_ns, end_ns):
        return Trace([b for b in self.beats if begin_ns <= b.host_ns < end_ns])

    def switches(self):
        """Every change from one source to another: the guest stood still in between."""
        return [
            Switch(a.source, b.source, a, b, b.host_ns - a.host_ns)
            for a, b in zip(self.beats, self.beats[1:])
            if a.source != b.source
        ]

    def largest_gap_ns(self):
        return max((b.host_ns - a.host_ns for a, b in zip(self.beats, self.beats[1:])), default=0)

    def gaps_ns(self):
        return [b.host_ns - a.host_ns for a, b in zip(self.beats, self.beats[1:])]

    def kept(self):
        """Share of the beats expected between the first and the last that came (gaps excluded: none)."""
        if len(self.beats) < 2:
            return 0.0
        expected = (self.beats[-1].host_ns - self.beats[0].host_ns) / PERIOD_NS + 1
        return min(1.0, len(self.beats) / expected)

    def work_Bps(self):
        """Rate at which the guest dirtied memory."""
        if len(self.beats) < 2:
            return 0.0
        a, b = self.beats[0], self.beats[-1]
        return (b.pages_dirtied - a.pages_dirtied) * 4096e9 / (b.host_ns - a.host_ns)

    def errors(self):
        return max((b.errors for b in self.beats), default=0)

    def backward_steps(self):
        """Pairs in which the guest's own counters went back: a sign of two copies or of stale memory."""
        return [
            (a, b) for a, b in zip(self.beats, self.beats[1:])
            if b.pages_dirtied < a.pages_dirtied or b.guest_ns < a.guest_ns or b.seq <= a.seq
        ]


class Beats:
    """gwbeat at work on some sockets, which need not exist yet."""

    def __init__(self, sockets):
        fd, self.path = tempfile.mkstemp(prefix="gwbeat-", dir=paths.TEMP_RAM)
        os.close(fd)
        self._beats = []
        self._offset = 0
        self.summary = None
        self.reboot = None  # reboot(source): starts the guest there anew
        self.process = subprocess.Popen(
            [paths.GUEST / "gwbeat", self.path, *map(str, sockets)], stdout=subprocess.PIPE, text=True)

    def update(self):
        """Reads what has arrived since; returns the whole trace so far."""
        with open(self.path, "rb") as f:
            f.seek(self._offset)
            data = f.read()
        whole = len(data) // _RECORD.size * _RECORD.size
        self._beats.extend(Beat._make(r) for r in _RECORD.iter_unpack(data[:whole]))
        self._offset += whole
        return Trace(self._beats)

    def wait_for_source(self, source, timeout, count=1, since_ns=0):
        """Waits until `count` beats from the source came after since_ns. gwbeat's end is an error."""
        def enough():
            if self.process.poll() is not None:
                raise RuntimeError("gwbeat has ended")
            beats = self.update().beats
            return sum(1 for b in beats if b.source == source and b.host_ns >= since_ns) >= count
        wait_for(enough, timeout, f"{count} heartbeats from source {source}")

    def wait_for_checked(self, pages, timeout):
        """Waits until the guest's sweep has checked that many more pages than now."""
        trace = self.update()
        if not trace.beats:
            raise RuntimeError("there are no heartbeats")
        start = trace.beats[-1].pages_checked

        def swept():
            return (self.update().beats[-1].pages_checked - start) % 2**32 >= pages
        wait_for(swept, timeout, f"{pages} pages checked by the guest", every=0.1)

    def stop(self):
        """Ends gwbeat, removes its file, returns the trace."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=10)
        self.summary = json.loads(out) if out else None
        trace = self.update() if os.path.exists(self.path) else Trace(self._beats)
        if os.path.exists(self.path):
            os.unlink(self.path)
        return trace

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def now_ns():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
