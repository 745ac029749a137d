# SPDX-License-Identifier: LGPL-2.1-or-later
"""Comparing the RAM files of two hosts."""
import json
import subprocess

from . import paths


def compare(a, b):
    """gwramcmp's answer: {"pages", "compared", "different", "first"}; holes count as zeros."""
    done = subprocess.run([paths.GUEST / "gwramcmp", a, b], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"gwramcmp: {done.stderr.strip()}")
    return json.loads(done.stdout)
