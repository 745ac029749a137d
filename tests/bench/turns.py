# SPDX-License-Identifier: LGPL-2.1-or-later
"""One row measured: the modes in turns on the same kind of guest, until each has its runs.

In the first turn every mode of QEMU moves the guest a few times. Modes that are clearly not the best are
dropped then, the rest shares the following turns with Godwit and the floor. A mode that did not converge
once is not tried again.
"""
import sys
import traceback
from statistics import median

import godwit_mode
import qemu_modes
from files_image import image
from harness.net import Network
from machine import BUSY, busy_share
from measure import Result

QUALIFY_RUNS = 3
REFERENCE = ("precopy-20", "postcopy")  # compared in more than gap and total time: a few runs more
REFERENCE_RUNS = 6
KEPT_MODES = 3
CLOSE = 1.1  # a mode within 10 % of the best is as good as the best
FLOOR_RUNS = 12
VARIANT_RUNS = 6


def _share(runs, done, turns_left):
    """How many of the runs that are left are this turn's."""
    return -(-max(0, runs - done) // max(1, turns_left))


class Turns:
    """All modes on one row. `runs` and `rounds` may be smaller than the row's; modes: those wanted."""

    def __init__(self, row, modes, runs, rounds, tell=print):
        self.row, self.runs, self.rounds, self.tell = row, runs, rounds, tell
        self.floor_wanted = "floor" in modes
        self.modes = [m for m in row.qemu if m in modes]
        self.variants = [m for m in ("godwit", *row.variants) if m in modes]
        self.disk = image() if row.load.files else None
        self.results = []
        self.left_out = {}  # mode: why it was measured no further
        self.turn = 0
        self.busy = 0.0
        for name in self.variants:
            option = godwit_mode.missing_option(godwit_mode.MODES[name])
            if option:
                self.left_out[name] = f"this build has no {option}"
                tell(f"{row.name:6} {name}: left out, {self.left_out[name]}")
        self.variants = [m for m in self.variants if m not in self.left_out]

    def measure(self):
        for self.turn in range(self.rounds):
            families = [self._qemu, self._godwit, self._floor]
            for i in range(len(families)):
                families[(self.turn + i) % len(families)]()
            self._drop()
        return self.results

    def _good(self, mode):
        return [r for r in self.results if r.mode == mode and r.converged]

    def _wanted(self, mode):
        return mode not in self.left_out

    def _add(self, result):
        result.turn, result.busy = self.turn, self.busy
        self.results.append(result)
        if not result.converged:
            self.left_out[result.mode] = result.note or "did not converge"
        gap = f"{result.gap_ms:7.1f} ms" if result.gap_ms is not None else "      -   "
        total = f"{result.total_s:6.2f} s" if result.total_s is not None else "     -  "
        kept = f"{result.kept_during_copy:4.0%}" if result.kept_during_copy is not None else "  - "
        speed = f"{result.to_full_ms:6.1f} ms" if result.to_full_ms is not None else "     -   "
        self.tell(f"{self.row.name:6} {result.mode:16} gap {gap}  total {total}  kept {kept}  "
                  f"to 90 % {speed}  {result.note}")

    def _failed(self, mode):
        traceback.print_exc()
        self._add(Result(mode, self.row.name, converged=False,
                         note="failed: " + " ".join(str(sys.exc_info()[1]).split())[:160]))

    def _before_boot(self):
        self.busy = busy_share(0.3)
        if self.busy > BUSY:
            self.tell(f"{self.row.name:6} the machine is busy with other work: {self.busy:.0%} of its CPUs")

    # QEMU

    def _drop(self):
        """Keeps the best modes by gap and by total time and those close to them."""
        best = {}
        for metric in ("gap_ms", "total_s"):
            medians = {m: median(getattr(r, metric) for r in self._good(m)) for m in self.modes if self._good(m)}
            least = min(medians.values(), default=0)
            for mode, value in medians.items():
                best[mode] = min(best.get(mode, 9e9), value / least if least else 1)
        ranked = sorted(best, key=best.get)
        kept = [m for i, m in enumerate(ranked) if best[m] <= 1 or best[m] <= CLOSE and i < KEPT_MODES]
        for mode in ranked:
            enough = REFERENCE_RUNS if mode in REFERENCE else QUALIFY_RUNS
            if mode not in kept and self._wanted(mode) and len(self._good(mode)) >= min(enough, self.runs):
                self.left_out[mode] = "clearly not the best"
                self.tell(f"{self.row.name:6} {mode}: dropped, clearly not the best")

    def _moves_of(self, mode):
        done = len(self._good(mode))
        if self.turn == 0:
            return min(QUALIFY_RUNS, self.runs)
        return _share(self.runs, done, self.rounds - self.turn)

    def _qemu(self):
        moves = {m: self._moves_of(m) for m in self.modes if self._wanted(m)}
        names = [m for i in range(max(moves.values(), default=0)) for m in moves if i < moves[m]]
        # Each turn begins elsewhere; slowing the guest down comes last: it lasts for a moment.
        at = self.turn * len(names) // self.rounds
        names = sorted(names[at:] + names[:at], key=lambda m: m == "auto-converge")
        self._in_qemu(names, floor=False)

    def _floor(self):
        if self.floor_wanted:
            done = len(self._good("floor"))
            self._in_qemu(["floor"] * _share(min(FLOOR_RUNS, self.runs), done, self.rounds - self.turn), floor=True)

    def _in_qemu(self, names, floor):
        """Moves one guest by each mode in turn; after a failure the rest get a new guest."""
        names = list(names)
        while any(self._wanted(n) for n in names):
            rate = self.row.link.rate
            network, guest = None, None
            try:
                self._before_boot()
                network = Network(("a", "b") if rate else ("a",), rate=rate)
                guest = qemu_modes.Guest(network, self.row, self.disk, floor=floor)
                guest.boot()
                while names:
                    name = names.pop(0)
                    if not self._wanted(name):
                        continue
                    try:
                        self._add(guest.migrate(qemu_modes.MODES[name]))
                    except Exception:
                        self._failed(name)
                        break
            finally:
                if guest:
                    guest.close()
                if network:
                    network.close()

    # Godwit

    def _godwit_moves(self):
        left = self.rounds - self.turn
        names = []
        for name in self.variants:
            runs = self.runs if name == "godwit" else min(VARIANT_RUNS, self.runs)
            names += [name] * _share(runs, len(self._good(name)), left)
        at = len(names) * (self.turn % 2) // 2
        return names[at:] + names[:at]

    def _godwit(self):
        names = self._godwit_moves()
        while any(self._wanted(n) for n in names):
            guest = None
            try:
                self._before_boot()
                guest = godwit_mode.Guest(self.row, self.disk)
                guest.boot()
                while names:
                    name = names.pop(0)
                    if self._wanted(name):
                        self._add(guest.migrate(godwit_mode.MODES[name]))
            except Exception:
                self._failed(name)
            finally:
                if guest:
                    guest.close()
