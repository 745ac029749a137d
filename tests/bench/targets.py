# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the figures should be, and whether they are."""
from dataclasses import dataclass

GAP_MS = {"idle": 5, "100M": 8, "1G": 15}
GAP_OF_QEMU = 1 / 3
P99_OF_MEDIAN = 3
TOTAL_OF_QEMU = {"idle": 0.6, "100M": 0.6, "1G": 0.6, "hot": 0.5, "files": 0.8, "4G": 0.6, "8G": 0.6}
WIRE_OF_RAM = {"1G": 1.15}
KEPT = 0.98
GROWTH = 1.25         # of seconds per GiB, from the smallest guest to the largest
GAP_GROWTH_MS = 3     # what the gap may differ by before it counts as grown
NEVER_MS = 1e9
SPEED_NOISE_MS = 1    # heartbeats tell no smaller difference
SAME_LOAD = ("100M", "4G", "8G")  # one load on guests of different sizes


@dataclass
class Target:
    row: str
    what: str
    wanted: str
    figure: str
    ok: bool  # None: could not be measured

    def as_dict(self):
        return dict(self.__dict__)


def value(summary, row, mode, metric, which="median"):
    return summary.get((row, mode), {}).get(metric, {}).get(which)


def best_of_qemu(summary, row, metric):
    """(value, mode) of QEMU's best median; None when no mode has one."""
    found = [(s[metric]["median"], mode) for (r, mode), s in summary.items()
             if r == row and not mode.startswith("godwit") and mode != "floor" and metric in s]
    return min(found) if found else None


def above_floor(summary, row, which="median"):
    gap, floor = value(summary, row, "godwit", "gap_ms", which), value(summary, row, "floor", "gap_ms")
    return None if gap is None or floor is None else gap - floor


def qemu_above_floor(summary, row):
    best, floor = best_of_qemu(summary, row, "gap_ms"), value(summary, row, "floor", "gap_ms")
    return None if best is None or floor is None else (best[0] - floor, best[1])


def _gaps(summary, row):
    ours, p99, theirs = above_floor(summary, row), above_floor(summary, row, "p99"), qemu_above_floor(summary, row)
    if ours is None:
        return
    if row in GAP_MS:
        yield Target(row, "gap above the floor, median", f"<= {GAP_MS[row]} ms", f"{ours:.1f} ms", ours <= GAP_MS[row])
    if theirs:
        yield Target(row, "gap above the floor, of QEMU's best", f"<= {GAP_OF_QEMU:.2f}",
                     f"{ours:.1f} of {theirs[0]:.1f} ms ({theirs[1]})", ours <= theirs[0] * GAP_OF_QEMU)
    # A median at the floor itself, or below, leaves nothing to multiply: then three times what it may be.
    yield Target(row, "gap above the floor, p99", f"<= {P99_OF_MEDIAN} x its median, or its median's limit",
                 f"{p99:.1f} ms, {ours:.1f} ms", p99 <= P99_OF_MEDIAN * max(ours, GAP_MS.get(row, 0)))


def _totals(summary, row):
    ours, theirs = value(summary, row, "godwit", "total_s"), best_of_qemu(summary, row, "total_s")
    if row in TOTAL_OF_QEMU and ours is not None:
        ratio = ours / theirs[0] if theirs else None
        yield Target(row, "total time, of QEMU's best", f"<= {TOTAL_OF_QEMU[row]}",
                     f"{ratio:.2f}: {ours:.2f} of {theirs[0]:.2f} s ({theirs[1]})" if theirs
                     else f"{ours:.2f} s; no mode of QEMU converged", ratio is None or ratio <= TOTAL_OF_QEMU[row])


def _bytes(summary, row):
    ratio = value(summary, row, "godwit", "wire_of_ram")
    if row in WIRE_OF_RAM and ratio is not None:
        yield Target(row, "bytes on the wire, of RAM in use", f"<= {WIRE_OF_RAM[row]}", f"{ratio:.2f}",
                     ratio <= WIRE_OF_RAM[row])


def _kept(summary, row):
    kept = value(summary, row, "godwit", "kept_during_copy")
    if kept is not None:
        yield Target(row, "heartbeats kept during the copy", f">= {KEPT:.0%}", f"{kept:.1%}", kept >= KEPT)


def _finishes(summary, row):
    s = summary.get((row, "godwit"))
    if row == "hot" and s:
        yield Target(row, "finishes, always", "all runs", f"{s['n']} of {s['tried']}", s["n"] == s["tried"] > 0)


def _speed(summary, row):
    modes = [m for m in ("godwit", "postcopy", "precopy-20", "precopy") if summary.get((row, m), {}).get("n")]
    # Without a median: most runs were not back at that speed while they were listened to.
    times = {m: NEVER_MS if (ms := value(summary, row, m, "to_full_ms")) is None else ms for m in modes}
    if "godwit" not in times or len(times) < 2:
        return
    ours = times.pop("godwit")
    words = ", ".join(f"{m} {ms:.1f} ms" if ms < NEVER_MS else f"{m} never" for m, ms in times.items())
    yield Target(row, "time to 90 % of the guest's speed after the switch", "<= QEMU's post-copy and pre-copy",
                 (f"{ours:.1f} ms; " if ours < NEVER_MS else "never; ") + words,
                 ours < NEVER_MS and ours <= min(times.values()) + SPEED_NOISE_MS)


def _growth(summary):
    rows = [r for r in SAME_LOAD if value(summary, r, "godwit", "total_s") is not None]
    if len(rows) < 2:
        return
    totals = [value(summary, r, "godwit", "total_s") for r in rows]
    ram = [value(summary, r, "godwit", "ram_used_bytes") / (1 << 30) for r in rows]
    rate = [t / g for t, g in zip(totals, ram)]
    yield Target(rows[-1], "total time grows no faster than RAM in use", f"s per GiB <= {GROWTH} x the smaller guests'",
                 ", ".join(f"{t:.2f} s for {g:.1f} GiB" for t, g in zip(totals, ram)),
                 rate[-1] <= GROWTH * min(rate[:-1]))
    gaps = [above_floor(summary, r) for r in rows]
    if None not in gaps:
        yield Target(rows[-1], "the gap does not grow with RAM", f"<= {GAP_GROWTH_MS} ms more",
                     ", ".join(f"{g:.1f} ms" for g in gaps), gaps[-1] <= gaps[0] + GAP_GROWTH_MS)


def evaluate(summary):
    rows = list(dict.fromkeys(row for row, _ in summary))
    rules = (_gaps, _totals, _bytes, _finishes, _kept, _speed)
    return [t for rule in rules for row in rows for t in rule(summary, row)] + list(_growth(summary))
