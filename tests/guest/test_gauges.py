# SPDX-License-Identifier: LGPL-2.1-or-later
"""The gauges themselves: what they report is what happened, and breakage does not pass unseen."""
import os
import socket
import struct
import subprocess
import tempfile
import time

import pytest

from harness import definition, paths, ram
from harness.beats import PERIOD_NS, Beat, Beats, Trace, percentile
from harness.wait import wait_for

MAGIC = 0x54424757
pytestmark = pytest.mark.usefixtures("guests")


def _file(path, size, writes=()):
    with open(path, "wb") as f:
        f.truncate(size)
        for at, data in writes:
            f.seek(at)
            f.write(data)
    return path


@pytest.fixture
def tmpfs():
    with tempfile.TemporaryDirectory(dir=paths.TEMP_RAM) as folder:
        yield paths.Path(folder)


def test_ram_files_are_equal_when_a_hole_meets_written_zeros(tmpfs):
    size = 8 << 20
    a = _file(tmpfs / "a", size, [(0, b"x" * 4096), (1 << 20, b"\0" * 65536)])
    b = _file(tmpfs / "b", size, [(0, b"x" * 4096)])
    assert ram.compare(a, b)["different"] == 0


def test_one_byte_in_ram_that_differs_is_found_and_its_page_named(tmpfs):
    size = 8 << 20
    a = _file(tmpfs / "a", size, [(5 << 20, b"x")])
    b = _file(tmpfs / "b", size)
    assert ram.compare(a, b) == {"pages": 2048, "compared": 16, "different": 1, "first": [1280]}
    assert ram.compare(b, a)["first"] == [1280]
    last = _file(tmpfs / "c", size, [(size - 1, b"x")])
    assert ram.compare(last, b)["first"] == [2047]


def test_comparing_ram_does_not_fill_its_holes(tmpfs):
    a = _file(tmpfs / "a", 4 << 20, [(0, b"x" * 4096)])
    b = _file(tmpfs / "b", 4 << 20, [(2 << 20, b"x" * 4096)])
    before = [os.stat(p).st_blocks for p in (a, b)]
    assert ram.compare(a, b)["different"] == 2
    assert [os.stat(p).st_blocks for p in (a, b)] == before


def test_ram_files_of_different_size_are_refused(tmpfs):
    with pytest.raises(RuntimeError, match="sizes"):
        ram.compare(_file(tmpfs / "a", 4096), _file(tmpfs / "b", 8192))


def _beat(ms, source=0, seq=None, dirtied=0, errors=0):
    return Beat(int(ms * 1e6), source, 1, MAGIC, int(ms) if seq is None else seq, int(ms * 1e6), dirtied, errors, 0)


def test_gap_of_a_switch_lies_between_the_last_beat_there_and_the_first_here():
    trace = Trace([_beat(ms) for ms in range(100)] + [_beat(ms, source=1) for ms in range(130, 200)])
    (switch,) = trace.switches()
    assert (switch.from_source, switch.to_source, switch.gap_ns) == (0, 1, 31_000_000)
    assert trace.largest_gap_ns() == 31_000_000
    assert trace.between(0, 99_500_000).kept() == 1.0
    assert not trace.backward_steps()


def test_two_running_copies_show_as_steps_backward():
    trace = Trace([_beat(1, 0, seq=1), _beat(2, 1, seq=2), _beat(3, 0, seq=2), _beat(4, 1, seq=3)])
    assert len(trace.switches()) == 3
    assert len(trace.backward_steps()) == 1


def test_lost_beats_lower_the_share_kept():
    assert Trace([_beat(ms) for ms in range(0, 101, 2)]).kept() == pytest.approx(0.5, abs=0.01)


def test_percentile_is_the_nearest_rank():
    assert percentile([5, 1, 4, 2, 3], 50) == 3
    assert percentile([5, 1, 4, 2, 3], 99) == 5
    assert percentile([7], 99) == 7
    assert percentile([], 50) is None


def _record(seq, errors=0):
    return struct.pack("<IIQQII", MAGIC, seq, seq * PERIOD_NS, seq * 10, errors, seq)


def test_beats_are_taken_from_sockets_that_appear_later_and_from_torn_streams(tmpfs):
    first, second = tmpfs / "first.sock", tmpfs / "second.sock"
    with Beats([first, second]) as beats:
        time.sleep(0.05)  # gwbeat has looked for the sockets in vain
        servers = []
        for path in (first, second):
            server = socket.socket(socket.AF_UNIX)
            server.bind(str(path))
            server.listen(1)
            server.settimeout(5)
            servers.append((server, server.accept()[0]))
        servers[0][1].sendall(_record(1) + _record(2)[:20])
        beats.wait_for_source(0, 5)
        servers[0][1].sendall(_record(2)[20:])
        beats.wait_for_source(0, 5, count=2)
        servers[1][1].sendall(_record(3)[7:] + _record(4, errors=2))
        beats.wait_for_source(1, 5)
        servers[0][1].close()
        servers[0] = (servers[0][0], servers[0][0].accept()[0])
        servers[0][1].sendall(_record(5))
        beats.wait_for_source(0, 5, count=3)
        trace = beats.stop()
        for server, connection in servers:
            server.close()
            connection.close()
    assert [(b.source, b.seq, b.connects) for b in trace.beats] == [(0, 1, 1), (0, 2, 1), (1, 4, 1), (0, 5, 2)]
    assert trace.errors() == 2
    assert beats.summary["sources"][1]["stray_bytes"] == 25


def _boot(folder, args, qmp):
    argv = [
        paths.QEMU, "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "192M", "-nodefaults", "-display", "none",
        "-kernel", paths.GUEST / "vmlinuz", "-initrd", paths.GUEST / "initrd",
        "-append", definition.append_line(args), "-serial", f"file:{folder}/console.log",
        "-device", "virtio-serial-pci", "-chardev", f"socket,id=beat,path={folder}/beat.sock,server=on,wait=off",
        "-device", "virtserialport,chardev=beat,name=beat",
        "-object", f"memory-backend-file,id=ram,size=192M,mem-path={folder}/ram,share=on",
        "-machine", "memory-backend=ram", "-qmp", f"unix:{qmp},server=on,wait=off",
    ]
    return subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL)


def test_guest_keeps_its_rate_and_notices_one_word_changed_behind_its_back(tmpfs):
    process = _boot(tmpfs, ["--size", "64M", "--rate", "50M", "--sweep", "100M", "--heartbeat", "beat"],
                    tmpfs / "qmp.sock")
    try:
        with Beats([tmpfs / "beat.sock"]) as beats:
            beats.wait_for_source(0, 60, count=1000)
            beats.wait_for_checked(64 * 256, 30)
            trace = beats.update()
            assert trace.errors() == 0
            assert trace.work_Bps() == pytest.approx(50e6, rel=0.1)
            _break_a_word(tmpfs / "ram")
            wait_for(lambda: beats.update().errors() > 0, 30, "the guest notices")
        assert "BROKEN page" in (tmpfs / "console.log").read_text(errors="replace")
    finally:
        process.kill()
        process.wait()


def _break_a_word(path):
    """Changes one slot of a page that gwload has filled: found by its key word, which only it has."""
    mask = (1 << 64) - 1

    def mix(x):
        x ^= x >> 32
        x = x * 0xd6e8feb86659fd93 & mask
        return x ^ x >> 32
    key = struct.pack("<Q", mix((0x60d171 + 1234 * 0x9e3779b97f4a7c15) & mask))
    with open(path, "r+b") as f:
        data = f.read()
        at = next(a for a in range(0, len(data), 4096) if data[a:a + 8] == key)
        f.seek(at + 400 * 8)
        f.write(b"\xee" * 8)
