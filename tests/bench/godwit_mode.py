# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrations by Godwit, through its daemons and its command line."""
import functools
import json
import subprocess
import time
from dataclasses import dataclass

from harness import definition, paths
from harness.beats import now_ns
from harness.farm import Farm
from harness.wait import wait_for
from measure import AFTER_S, MemorySampler, Result, file_bytes, read_trace, settle

VM = "bench"


@dataclass(frozen=True)
class Mode:
    name: str
    title: str
    options: tuple = ()


MODES = {
    mode.name: mode
    for mode in (
        Mode("godwit", "Godwit"),  # as `godwit migrate` is without options
        Mode("godwit-pre-copy", "Godwit, pre-copy alone", ("--mode", "pre-copy")),
        Mode("godwit-hybrid", "Godwit, hybrid", ("--mode", "hybrid")),
        Mode("godwit-post-copy", "Godwit, post-copy alone", ("--mode", "post-copy")),
        Mode("godwit-plain", "Godwit, no compression", ("--compress", "off")),
    )
}


@functools.cache
def _migrate_help():
    return subprocess.run([paths.GODWIT, "migrate", "--help"], capture_output=True, text=True).stdout


def missing_option(mode):
    """The option that this build of `godwit migrate` does not know, or None."""
    wanted = [o for o in mode.options if o.startswith("--")]
    return next((o for o in wanted if o not in _migrate_help().replace(",", " ").replace("=", " ").split()), None)


def _definition(row, disk):
    extra = f"\n[disk files]\npath = {disk}\nformat = raw\ncache = writeback\nreadonly = yes\n" if disk else ""
    text = definition.linux(VM, memory=f"{row.memory_kib}K", extra=extra)
    return "\n".join(f"append = {row.load.append_line()}" if x.startswith("append") else x
                     for x in text.splitlines()) + "\n"


class Guest:
    """A guest that two daemons move to and fro. `settings`: further keys of their configuration."""

    def __init__(self, row, disk=None, settings=None):
        self.row = row
        self.farm = Farm(rate=row.link.rate or None, together=not row.link.rate, start=False)
        try:
            self.here, self.there = "a", "b"
            for host in self.farm.hosts.values():
                host.settings.update(settings or {})
                host.start()
            self.farm["a"].start_vm(_definition(row, disk))
        except BaseException:
            self.farm.close()
            raise

    def boot(self):
        with self.farm.beats(VM) as beats:
            settle(beats, 0)

    def sent_bytes(self):
        device = "eth0" if self.row.link.rate else "lo"
        return sum(s.sent_bytes(device) for s in self.farm.network.spaces.values())

    def _pids(self):
        pids = [h.pid for h in self.farm.hosts.values()]
        for host in self.farm.hosts.values():
            try:
                pids.append(int((host.run_dir / VM / "qemu.pid").read_text()))
            except (OSError, ValueError):
                pass
        return pids

    def _ram_files(self):
        return [p for h in self.farm.hosts.values() for p in h.ram_files(VM)]

    def migrate(self, mode=MODES["godwit"]):
        """One measured migration; afterwards the guest is at the other host, or where it was."""
        result = Result(mode.name, self.row.name)
        source, target = self.farm[self.here], self.farm[self.there]
        give_up_s = self.row.link.give_up_s
        with self.farm.beats(VM) as beats:
            settle(beats, self.farm.index(self.here))
            result.ram_used_bytes = sum(map(file_bytes, source.ram_files(VM)))
            sampler = MemorySampler(self._pids, self._ram_files)
            sent = self.sent_bytes()
            begin = now_ns()
            done = source.godwit("migrate", VM, "--to", target.name, "--timeout", f"{give_up_s}s", "--json",
                                 *mode.options, check=False, timeout=give_up_s + 60)
            if done.returncode == 0:
                wait_for(lambda: not source.leftovers(VM), 10, "the source is free", every=0.003)
            result.total_s = (now_ns() - begin) / 1e9
            result.wire_bytes = self.sent_bytes() - sent
            time.sleep(AFTER_S)
            trace = beats.update()
        result.extra_memory_bytes = sampler.stop(result.ram_used_bytes)
        result.daemon_bytes = max(sampler.peak_of[h.pid] for h in self.farm.hosts.values())
        if done.returncode:
            result.converged = False
            text = done.stderr.strip() or done.stdout.strip() or "failed"
            result.note = text.splitlines()[-1][:200]
            return result
        self._read_report(result, done.stdout)
        read_trace(result, trace, begin)
        self.here, self.there = self.there, self.here
        return result

    @staticmethod
    def _read_report(result, out):
        report = json.loads(out.splitlines()[-1]).get("report") or {}
        parts = [*report.get("setup", ()), *report.get("downtime", ())]
        result.phases_ms = {p["name"]: p["ns"] / 1e6 for p in parts}
        result.passes = len(report.get("passes", ()))

    def close(self):
        self.farm.close()
