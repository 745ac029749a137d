# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrations by QEMU itself, the way an operator would set them up, and the floor of every gap."""
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

from harness import paths
from harness.beats import Beats, now_ns
from harness.qmp import Qmp
from measure import AFTER_S, MemorySampler, Result, file_bytes, mapping_anon, read_trace, settle

PORT = 4444
UNLIMITED_BPS = 100 << 30
DEFAULTS = {"max_bandwidth": UNLIMITED_BPS, "max_postcopy_bandwidth": 0, "downtime_limit": 300,
            "multifd_channels": 2, "multifd_compression": "none"}


@dataclass(frozen=True)
class Mode:
    name: str
    title: str
    capabilities: tuple = ()
    parameters: dict = field(default_factory=dict)
    postcopy: bool = False
    floor: bool = False


MODES = {
    mode.name: mode
    for mode in (
        Mode("precopy", "pre-copy, 300 ms limit"),
        Mode("precopy-20", "pre-copy, 20 ms limit", (), {"downtime_limit": 20}),
        Mode("multifd", "multifd 2, 300 ms limit", ("multifd",)),
        Mode("multifd-20", "multifd 2, 20 ms limit", ("multifd",), {"downtime_limit": 20}),
        Mode("multifd-zstd", "multifd 2, zstd, 300 ms limit", ("multifd",),
             {"multifd_compression": "zstd", "multifd_zstd_level": 1}),
        Mode("xbzrle", "pre-copy, xbzrle 512 MiB, 300 ms limit", ("xbzrle",), {"xbzrle_cache_size": 512 << 20}),
        Mode("auto-converge", "pre-copy, auto-converge", ("auto-converge",)),
        Mode("postcopy", "post-copy after one pass", ("postcopy-ram",), postcopy=True),
        Mode("floor", "floor (same RAM file, nothing copied)", ("x-ignore-shared",), floor=True),
    )
}


class Process:
    """One QEMU. `ram_file` None: plain -m."""

    def __init__(self, space, folder, name, row, disk, incoming=None, ram_file=None):
        self.row = row
        self.folder = folder / name
        self.folder.mkdir()
        self.beat_socket = self.folder / "beat.sock"
        self.ram_file = ram_file
        argv = [
            paths.QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
            "-cpu", "max", "-smp", "1", "-m", f"{row.memory_kib}k",
            "-kernel", paths.GUEST / "vmlinuz", "-initrd", paths.GUEST / "initrd",
            "-append", row.load.append_line(),
            "-qmp", f"unix:{self.folder}/qmp.sock,server=on,wait=off",
            "-serial", f"file:{self.folder}/console.log",
            "-device", "virtio-serial-pci,max_ports=2",  # as godwitd gives it: each port costs QEMU time at stop and cont
            "-chardev", f"socket,id=beat,path={self.beat_socket},server=on,wait=off",
            "-device", "virtserialport,chardev=beat,name=beat",
        ]
        if disk:
            argv += ["-drive", f"if=none,id=disk0,file={disk},format=raw,cache=writeback,read-only=on",
                     "-device", "virtio-blk-pci,drive=disk0"]
        machine = "q35,accel=tcg,usb=off"
        if ram_file:
            machine += ",memory-backend=ram"
            argv += ["-object", f"memory-backend-file,id=ram,size={row.memory_kib}k,mem-path={ram_file},"
                     "share=on,align=2M"]
        argv += ["-machine", machine]
        if incoming:
            argv += ["-incoming", incoming]
        self.log = open(self.folder / "qemu.log", "wb")
        self.process = subprocess.Popen(space.command(argv), stdout=self.log, stderr=self.log,
                                        stdin=subprocess.DEVNULL)
        self.qmp = Qmp(self.folder / "qmp.sock")

    @property
    def pid(self):
        return self.process.pid

    def guest_ram_bytes(self):
        return file_bytes(self.ram_file) if self.ram_file else mapping_anon(self.pid, self.row.memory_kib * 1024)

    def quit(self):
        """Returns when the process and its memory are gone."""
        if self.process.poll() is None:
            try:
                self.qmp.execute("quit")
            except Exception:  # it may close before it answers
                self.process.kill()
        self.process.wait(timeout=30)
        self.qmp.close()
        self.log.close()


ALL_CAPABILITIES = {c for mode in MODES.values() for c in mode.capabilities}


def set_up(process, mode):
    """Sets every capability that any mode uses, on or off: what an earlier mode set is gone."""
    process.qmp.forget_events()  # a source that was a target before has seen its own completion
    caps = [{"capability": c, "state": c in mode.capabilities} for c in ALL_CAPABILITIES]
    caps.append({"capability": "events", "state": True})
    process.qmp.execute("migrate-set-capabilities", capabilities=caps)
    process.qmp.execute("migrate-set-parameters", **{**DEFAULTS, **mode.parameters})


class Guest:
    """A guest under plain QEMU that is moved to and fro. All modes but the floor use anonymous RAM."""

    def __init__(self, network, row, disk=None, floor=False):
        self.network, self.row, self.disk = network, row, disk
        self.folder = paths.Path(tempfile.mkdtemp(prefix="gwbench-", dir=paths.TEMP))
        self.ram_file = None
        if floor:
            fd, self.ram_file = tempfile.mkstemp(prefix="gwbench-ram-", dir=paths.TEMP_RAM)
            os.close(fd)
        self.started = 0
        self.spaces = list(network.spaces.values())
        self.at = 0
        self.current = self._start(self.spaces[0])

    def _start(self, space, **how):
        self.started += 1
        return Process(space, self.folder, str(self.started - 1), self.row, self.disk,
                       ram_file=self.ram_file, **how)

    def sent_bytes(self):
        device = "eth0" if len(self.spaces) > 1 else "lo"
        return sum(s.sent_bytes(device) for s in self.spaces)

    def boot(self):
        with Beats([self.current.beat_socket]) as beats:
            settle(beats, 0)

    def migrate(self, mode):
        """One measured migration; afterwards the guest is at the target, or where it was."""
        result = Result(mode.name, self.row.name)
        source = self.current
        target_socket = self.folder / str(self.started) / "beat.sock"
        with Beats([source.beat_socket, target_socket]) as beats:
            settle(beats, 0)
            result.ram_used_bytes = source.guest_ram_bytes()
            self._measure(mode, result, source, beats)
            trace = beats.update()
        read_trace(result, trace, self.begin_ns)
        return result

    def _measure(self, mode, result, source, beats):
        spare = []
        sampler = MemorySampler(lambda: [source.pid, *spare], lambda: [self.ram_file] if self.ram_file else [])
        sent = self.sent_bytes()
        to = (self.at + 1) % len(self.spaces)
        self.begin_ns = now_ns()
        target = self._start(self.spaces[to], incoming="defer")
        spare.append(target.pid)
        moved = self._floor(source, target, mode) if mode.floor else self._move(source, target, mode, to)
        if not moved:
            result.converged = False
            result.note = f"not converged in {self.row.link.give_up_s} s"
            sampler.stop(0)
            target.quit()
            return
        source.quit()
        result.total_s = (now_ns() - self.begin_ns) / 1e9
        result.wire_bytes = self.sent_bytes() - sent
        time.sleep(AFTER_S)
        result.extra_memory_bytes = sampler.stop(0 if mode.floor else result.ram_used_bytes)
        self.current, self.at = target, to

    def _move(self, source, target, mode, to):
        address = self.spaces[to].address
        set_up(source, mode)
        set_up(target, mode)
        target.qmp.execute("migrate-incoming", uri=f"tcp:{address}:{PORT}")
        source.qmp.execute("migrate", uri=f"tcp:{address}:{PORT}")
        deadline = time.monotonic() + self.row.link.give_up_s
        if mode.postcopy:
            self._wait_one_pass(source, deadline)
            source.qmp.execute("migrate-start-postcopy")
            deadline = time.monotonic() + self.row.link.give_up_s
        try:
            status = source.qmp.wait_migration(("completed", "failed"), deadline - time.monotonic())
        except TimeoutError:
            source.qmp.execute("migrate_cancel")
            source.qmp.wait_migration(("cancelled", "failed", "completed"), 10)
            return False
        if status != "completed":
            raise RuntimeError(f"QEMU's {mode.name} failed: {source.qmp.execute('query-migrate')}")
        return True

    @staticmethod
    def _wait_one_pass(source, deadline):
        """As libvirt's --postcopy-after-precopy does."""
        while time.monotonic() < deadline:
            info = source.qmp.execute("query-migrate")
            if info.get("status") == "completed" or info.get("ram", {}).get("dirty-sync-count", 0) >= 2:
                return
            time.sleep(0.01)

    @staticmethod
    def _floor(source, target, mode):
        """Nothing is copied: source and target map the same file, device state goes through a socket."""
        uri = f"unix:{target.folder}/state.sock"
        set_up(source, mode)
        set_up(target, mode)
        target.qmp.execute("migrate-incoming", uri=uri)
        source.qmp.execute("stop")
        source.qmp.execute("migrate", uri=uri)
        status = source.qmp.wait_migration(("completed", "failed"), 20)
        if status != "completed":
            raise RuntimeError("the floor's hand-over failed")
        target.qmp.wait_migration(("completed",), 20)
        target.qmp.execute("cont")
        return True

    def close(self):
        self.current.quit()
        if self.ram_file:
            os.unlink(self.ram_file)
        shutil.rmtree(self.folder, ignore_errors=True)
