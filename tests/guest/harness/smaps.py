# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a QEMU maps of its guest's RAM, and the faults that it took."""
import re
from pathlib import Path

HUGE = ("ShmemPmdMapped", "FilePmdMapped", "AnonHugePages", "Shared_Hugetlb", "Private_Hugetlb")
_HEAD = re.compile(r"^[0-9a-f]+-[0-9a-f]+ ")


def of_ram(host, vm):
    """Bytes by field of smaps, over the mappings of the VM's RAM file by its QEMU on this host."""
    (pid,) = host.qemu_pids(vm)
    (path,) = re.findall(r"mem-path=([^,]+)", Path(f"/proc/{pid}/cmdline").read_text())
    return of_file(pid, path)


def of_file(pid, path):
    total, mine = {}, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if _HEAD.match(line):
            mine = line.rstrip().endswith(str(path))
        elif mine and line.endswith(" kB"):
            key, value = line[:-3].split(":")
            total[key] = total.get(key, 0) + int(value) * 1024
    assert total, f"process {pid} does not map {path}"
    return total


def mapped(fields):
    """In the page tables, by pages of whatever size."""
    return fields["Rss"] + fields["Shared_Hugetlb"] + fields["Private_Hugetlb"]


def huge(fields):
    return sum(fields[key] for key in HUGE)


def minor_faults(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[7])
