# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrations by Godwit, through its daemons and its command line."""
import time

from harness import definition
from harness.beats import now_ns
from harness.farm import Farm
from harness.wait import wait_for
from loads import MEMORY_KIB
from measure import MemorySampler, Result, file_bytes, read_trace, settle

AFTER_S = 1.2
VM = "bench"


def _definition(load):
    text = definition.linux(VM, memory=f"{MEMORY_KIB}K")
    line = definition.append_line(load.gwload)
    return "\n".join(f"append = {line}" if x.startswith("append") else x for x in text.splitlines()) + "\n"


class Guest:
    """A guest that two daemons move to and fro."""

    def __init__(self, load, link):
        self.load, self.link = load, link
        self.farm = Farm(rate=link.rate or None, together=not link.rate)
        self.here, self.there = "a", "b"
        self.farm["a"].start_vm(_definition(load))

    def boot(self):
        with self.farm.beats(VM) as beats:
            settle(beats, 0)

    def sent_bytes(self):
        device = "eth0" if self.link.rate else "lo"
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

    def migrate(self, options=()):
        """One measured migration; afterwards the guest is at the other host, or where it was."""
        result = Result("godwit", self.load.name, self.link.name)
        source, target = self.farm[self.here], self.farm[self.there]
        with self.farm.beats(VM) as beats:
            settle(beats, self.farm.index(self.here))
            result.ram_used_bytes = sum(map(file_bytes, source.ram_files(VM)))
            sampler = MemorySampler(self._pids, self._ram_files)
            sent = self.sent_bytes()
            begin = now_ns()
            done = source.godwit("migrate", VM, "--to", target.name, "--timeout", f"{self.link.give_up_s}s",
                                 *options, check=False, timeout=self.link.give_up_s + 60)
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
            result.note = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "failed"
            return result
        read_trace(result, trace, begin)
        self.here, self.there = self.there, self.here
        return result

    def close(self):
        self.farm.close()
