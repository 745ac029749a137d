# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk of real content for the guest that reads it: the kernel package and this system's programs and libraries."""
import os
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path

from harness import paths

FILES_BYTES = 600 << 20
IMAGE_BYTES = 720 << 20
# In this order, each by name, until FILES_BYTES are together.
PLACES = (paths.GUEST / "cache/kernel/lib", paths.GUEST / "cache/kernel/boot", Path("/usr/bin"),
          Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/python3"), Path("/usr/share"))


def _regular_files():
    for place in PLACES:
        for folder, folders, names in os.walk(place):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    yield place, path


def _copy_files(tree):
    total = 0
    for place, path in _regular_files():
        size = path.stat().st_size
        if total + size > FILES_BYTES:
            continue
        to = tree / place.name / path.relative_to(place)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        total += size
        if total > FILES_BYTES - (1 << 20):
            break
    return total


def image():
    """The image's path; it is made when it is not there."""
    path = paths.GUEST / "bench-files.ext4"
    if path.exists():
        return path
    new = path.with_suffix(".new")
    with tempfile.TemporaryDirectory(dir=paths.TEMP_RAM) as tree:
        _copy_files(Path(tree))
        with open(new, "wb") as f:
            f.truncate(IMAGE_BYTES)
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", tree, new],
                       check=True, env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})
    new.rename(path)
    return path


def deflated_share(path, samples=200):
    """What zlib at its fastest makes of 64 KiB pieces spread over the image; 0.4: down to 40 %."""
    size, before, after = path.stat().st_size, 0, 0
    with open(path, "rb") as f:
        for i in range(samples):
            f.seek(size // samples * i)
            piece = f.read(65536)
            if piece.count(0) == len(piece):
                continue
            before += len(piece)
            after += len(zlib.compress(piece, 1))
    return after / before if before else 1.0
