# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was measured on, and whether it had other things to do."""
import datetime
import os
import platform
import re
import subprocess
import time

from harness import paths

BUSY = 0.1  # more than this of the CPUs in use by others is noise


def busy_share(seconds=1.0):
    """Share of all CPUs' time that something uses just now, or that the machine's own host takes away."""
    def read():
        with open("/proc/stat") as f:
            times = [int(x) for x in f.readline().split()[1:9]]
        return times[3] + times[4], sum(times)
    idle, total = read()
    time.sleep(seconds)
    idle_after, total_after = read()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def _output(*argv):
    return subprocess.run([str(a) for a in argv], capture_output=True, text=True).stdout.strip()


def describe():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"^model name\s*:\s*(.*)$", f.read(), re.M)
    qemu = _output(paths.QEMU, "--version").splitlines()
    godwit = _output(paths.GODWIT, "--version").splitlines() if paths.GODWIT.exists() else []
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model.group(1) if model else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": platform.release(),
        "qemu": qemu[0].replace("QEMU emulator version ", "") if qemu else "unknown",
        "godwit": godwit[0] if godwit else "unknown",
        "source": _output("git", "-C", paths.ROOT, "describe", "--always", "--dirty"),
        "accel": "tcg",
        "busy_before": busy_share(),
    }
