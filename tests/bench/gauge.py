# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this machine can do at most: memcpy, first touch, the link. The limit that each total is held against."""
import ctypes
import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MIB = 1 << 20
BUFFER = 256 * MIB
PIECE = MIB
REPEATS = 3
MADV_POPULATE_WRITE = 23
PORT = 4460
STREAMS = (1, 2)
LINK_S = 0.7  # how long each number of streams is driven

_libc = ctypes.CDLL(None, use_errno=True)


def _address(area):
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def _best_Bps(work, size):
    best = 0.0
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        best = max(best, size / (time.perf_counter() - begin))
    return best


def memcpy_Bps():
    """One thread, between buffers much larger than the caches; bytes copied, not bytes moved."""
    source, target = mmap.mmap(-1, BUFFER), mmap.mmap(-1, BUFFER)
    a, b = _address(source), _address(target)
    ctypes.memset(a, 1, BUFFER)
    ctypes.memset(b, 2, BUFFER)
    return _best_Bps(lambda: ctypes.memmove(b, a, BUFFER), BUFFER)


def _first_touch_Bps(folder):
    fd, path = tempfile.mkstemp(dir=folder)
    os.unlink(path)
    try:
        os.ftruncate(fd, BUFFER)

        def touch():
            area = mmap.mmap(fd, BUFFER)
            if _libc.madvise(ctypes.c_void_p(_address(area)), ctypes.c_size_t(BUFFER), MADV_POPULATE_WRITE):
                raise OSError(ctypes.get_errno(), "MADV_POPULATE_WRITE")

        best = 0.0
        for _ in range(REPEATS):
            os.ftruncate(fd, 0)
            os.ftruncate(fd, BUFFER)
            begin = time.perf_counter()
            touch()
            best = max(best, BUFFER / (time.perf_counter() - begin))
        return best
    finally:
        os.close(fd)


def first_touch_Bps():
    """{"4k": ..., "huge": ...}: a fresh tmpfs file is populated through a mapping, by one thread."""
    rates = {}
    for name, option in (("4k", "huge=never"), ("huge", "huge=always")):
        folder = tempfile.mkdtemp(prefix="gwgauge-")
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=1G,{option}", "gwgauge", folder], check=True)
            try:
                rates[name] = _first_touch_Bps(folder)
            finally:
                subprocess.run(["umount", folder], check=True)
        finally:
            os.rmdir(folder)
    return rates


def serve(address):
    """Takes one round of streams after the other, each into memory that is there already."""
    listener = socket.create_server((address, PORT), backlog=16)
    print("ready", flush=True)

    def take(connection):
        area = memoryview(mmap.mmap(-1, 32 * MIB))
        ctypes.memset(_address(area.obj), 1, len(area))
        at = 0
        while (n := connection.recv_into(area[at:at + PIECE])) > 0:
            at = (at + n) % (len(area) - PIECE)
        connection.close()

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=take, args=(connection,), daemon=True).start()


def send(address):
    """Prints {streams: bytes per second}."""
    area = memoryview(mmap.mmap(-1, BUFFER))
    ctypes.memset(_address(area.obj), 1, BUFFER)
    rates = {}
    for streams in STREAMS:
        sent = [0] * streams
        sockets = [socket.create_connection((address, PORT)) for _ in range(streams)]
        begin = time.perf_counter()

        def drive(i):
            at = BUFFER // streams * i
            while time.perf_counter() - begin < LINK_S:
                sockets[i].sendall(area[at:at + PIECE])
                sent[i] += PIECE
                at = (at + PIECE) % (BUFFER - PIECE)
            sockets[i].shutdown(socket.SHUT_WR)
            sockets[i].recv(1)  # the other end has read everything

        threads = [threading.Thread(target=drive, args=(i,)) for i in range(streams)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        rates[streams] = sum(sent) / (time.perf_counter() - begin)
        for s in sockets:
            s.close()
    print(json.dumps(rates))


def link_Bps(network):
    """The most that plain TCP carries between the first and the last namespace."""
    spaces = list(network.spaces.values())
    program = [sys.executable, str(Path(__file__).resolve())]
    server = subprocess.Popen(spaces[-1].command([*program, "serve", spaces[-1].address]), stdout=subprocess.PIPE)
    try:
        server.stdout.readline()
        done = subprocess.run(spaces[0].command([*program, "send", spaces[-1].address]), check=True,
                              stdout=subprocess.PIPE, text=True)
    finally:
        server.kill()
        server.wait()
    return max(json.loads(done.stdout).values())


def measure(network):
    touch = first_touch_Bps()
    return {"memcpy_Bps": memcpy_Bps(), "first_touch_4k_Bps": touch["4k"], "first_touch_huge_Bps": touch["huge"],
            "link_Bps": link_Bps(network)}


def limit_s(gauge, wire_bytes, ram_bytes, fixed_s):
    """The least time for a move of so many bytes: (all at once, one after the other).

    The target's memory has to be touched first, the bytes have to cross the link, and what the floor takes
    (processes, device state) nobody saves. With cores to spare all of that overlaps; on a machine where the
    guest and both hosts share two cores it rather adds up.
    """
    crossing = wire_bytes / gauge["link_Bps"]
    touching = ram_bytes / gauge["first_touch_huge_Bps"]
    return fixed_s + max(crossing, touching), fixed_s + crossing + touching


if __name__ == "__main__":
    {"serve": serve, "send": send}[sys.argv[1]](sys.argv[2])
