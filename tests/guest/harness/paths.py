# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the programs and the test guests are."""
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("GW_BUILD", ROOT / "build")).resolve()
GUEST = Path(os.environ.get("GW_GUEST", ROOT / "build" / "guest")).resolve()
QEMU = os.environ.get("GW_QEMU", "qemu-system-x86_64")

GODWIT = BUILD / "src/programs/godwit"
GODWITD = BUILD / "src/programs/godwitd"
SHIM = BUILD / "src/shim/libgodwit-shim.so"

# Unix socket paths are short (107 characters), so tests keep their files here and not below pytest's
# folders. RAM and traces are on tmpfs: a disk's write-back must not show in the times.
TEMP = Path(os.environ.get("GW_TEST_TEMP", "/tmp"))
TEMP_RAM = Path(os.environ.get("GW_TEST_RAM", "/dev/shm"))


def programs_missing():
    """A sentence saying what is not built, or None."""
    missing = [p.name for p in (GODWIT, GODWITD, SHIM) if not p.exists()]
    return f"not built: {', '.join(missing)} (run make build)" if missing else None


def build_guests():
    subprocess.run([ROOT / "tools/guest/build", GUEST], check=True)
