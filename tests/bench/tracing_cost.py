# SPDX-License-Identifier: LGPL-2.1-or-later
"""What write tracing costs a guest that writes without a limit, and what populated page tables are worth to it.

`measure(rounds)` gives rows, `markdown(rows)` the section of the report. Speeds are the guest's own, by its heartbeats.
"""
import itertools
import statistics
import sys
import time

from harness import definition
from harness.beats import now_ns
from harness.farm import Farm, move, wait_beating
from harness.wait import wait_for

VM = "bench"
SIZE = "256M"
WINDOW_S = 1.5
AFTER_SWITCH_NS = 10**8
# A crawl: what is measured is tracing, not sending.
BANDWIDTH = "8MB/s"

MODES = (
    ("async, 4K pages", "4k", "async"),
    ("async, huge pages", "thp", "async"),
    ("sync, 4K pages", "4k", "sync"),
    ("sync, huge pages", "thp", "sync"),
)
POPULATION = (("populated", ""), ("not populated", "target-populate-vmm=error"))


def _farm(faults=""):
    farm = Farm(together=True, start=False)
    try:
        for host in farm.hosts.values():
            host.faults = faults
            host.start()
    except BaseException:
        farm.close()
        raise
    return farm


def _speed(beats, seconds=WINDOW_S):
    begin = now_ns()
    time.sleep(seconds)  # the length of what is measured
    return beats.update().between(begin, now_ns()).work_Bps()


def _trace_once(farm, beats, tracing):
    """Speeds before, while traced, and after a cancel, of a guest that stays where it is."""
    row = {"before_Bps": _speed(beats)}
    job = farm["a"].godwit_json("migrate", VM, "--to", "b", "--detach", "--bandwidth", BANDWIDTH, "--tracing", tracing)
    wait_for(lambda: farm["a"].job(job["id"])["state"] == "copying", 30, "copying begins")
    row["during_Bps"] = _speed(beats)
    farm["a"].godwit("cancel", job["id"])
    wait_for(lambda: farm["a"].job(job["id"])["final"], 30, "the cancel is done")
    time.sleep(1)  # huge mappings are made anew in the background
    row["after_Bps"] = _speed(beats)
    return row


def _median(rows):
    return {key: statistics.median(r[key] for r in rows) for key in rows[0]}


def _tracing(rounds):
    for title, pages, tracing in MODES:
        farm = _farm()
        try:
            farm["a"].start_vm(definition.linux(VM, memory="512M", load=SIZE, rate="max", pages=pages, sweep="0"))
            with farm.beats(VM) as beats:
                wait_beating(beats, 0, timeout=60)
                taken = [_trace_once(farm, beats, tracing) for _ in range(rounds)]
            yield {"kind": "tracing", "mode": title, "rounds": rounds, **_median(taken)}
        finally:
            farm.close()


def _population(rounds):
    for title, faults in POPULATION:
        farm = _farm(faults)
        try:
            farm["a"].start_vm(definition.linux(VM, memory="512M", load=SIZE, rate="max", pages="4k", sweep="0"))
            here, there, taken = "a", "b", []
            with farm.beats(VM) as beats:
                wait_beating(beats, 0, timeout=60)
                for _ in range(rounds):
                    before = _speed(beats)
                    _, begin, _ = move(farm, VM, here, there)
                    wait_beating(beats, farm.index(there))
                    switch = [s for s in beats.update().switches() if s.first.host_ns > begin][0]
                    first = switch.first.host_ns
                    speed = beats.update().between(first, first + AFTER_SWITCH_NS).work_Bps()
                    taken.append({"before_Bps": before, "after_Bps": speed})
                    here, there = there, here
            yield {"kind": "population", "mode": title, "rounds": rounds, **_median(taken)}
        finally:
            farm.close()


def measure(rounds):
    """A row a mode: kind, mode, rounds, and medians of before_Bps, during_Bps (tracing only), after_Bps."""
    rows = []
    for row in itertools.chain(_tracing(rounds), _population(rounds)):
        print(f"tracing cost: {row}", file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def _share(row, key):
    return f"{row[key] / 1e6:.0f} ({100 * row[key] / row['before_Bps']:.0f} %)" if row["before_Bps"] else "-"


def markdown(rows):
    tracing = [r for r in rows if r["kind"] == "tracing"]
    population = [r for r in rows if r["kind"] == "population"]
    lines = []
    if tracing:
        lines += ["## What write tracing costs the guest", "",
                  f"A guest writes all over {SIZE} without a limit and is moved at {BANDWIDTH}, then the move is "
                  "cancelled. MB/s that it dirties, and the share of its speed before.", "",
                  "| tracing | before | while traced | after a cancel |", "|---|---|---|---|"]
        lines += [f"| {r['mode']} | {r['before_Bps'] / 1e6:.0f} | {_share(r, 'during_Bps')} | {_share(r, 'after_Bps')} |"
                  for r in tracing]
        lines.append("")
    if population:
        lines += ["## What populated page tables are worth", "",
                  "The same guest, moved at full speed; MB/s that it dirties in the first 100 ms at the target.", "",
                  "| page tables of the target's QEMU | before the move | first 100 ms |", "|---|---|---|"]
        lines += [f"| {r['mode']} | {r['before_Bps'] / 1e6:.0f} | {_share(r, 'after_Bps')} |" for r in population]
        lines.append("")
    return "\n".join(lines)
