# SPDX-License-Identifier: LGPL-2.1-or-later
"""Requests that cannot be met: one clear sentence, the right exit code, an untouched source."""
import subprocess

import pytest

from harness import definition
from harness.farm import move, wait_beating

FAILED, USAGE = 1, 2


@pytest.fixture
def guest(farm):
    """A small VM at `a`; afterwards it must still run there and `b` must be clean."""
    farm["a"].start_vm(definition.firmware("guest", "hot"))
    yield farm
    assert farm["a"].has_running("guest")
    assert farm["b"].leftovers("guest") == []


def refused(host, code, *args):
    """Runs a command that must fail; its one sentence."""
    done = host.godwit(*args, check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("godwit:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_N1_unknown_vm_is_named(guest):
    assert "nosuch" in refused(guest["a"], USAGE, "migrate", "nosuch", "--to", "b")


def test_N1_unknown_host_is_named(guest):
    assert "nowhere" in refused(guest["a"], USAGE, "migrate", "guest", "--to", "nowhere")


@pytest.mark.parametrize("address", ["b:99999", "b:0", "b:seven"])
def test_N1_an_address_that_can_be_none_is_refused_before_there_is_a_job(guest, address):
    for more in ((), ("--dry-run",)):
        assert "port" in refused(guest["a"], USAGE, "migrate", "guest", "--to", address, *more)
    assert guest["a"].godwit_json("jobs") == []


def test_N2_target_that_does_not_answer_leaves_the_source_untouched(guest):
    guest["b"].stop()
    assert "b" in refused(guest["a"], FAILED, "migrate", "guest", "--to", "b")
    guest["b"].start()


def test_N2_target_that_has_the_vm_already_refuses(farm):
    text = definition.firmware("guest", "hot")
    farm["a"].start_vm(text)
    farm["b"].start_vm(text)
    assert "guest" in refused(farm["a"], FAILED, "migrate", "guest", "--to", "b")
    assert farm["a"].has_running("guest") and farm["b"].has_running("guest")


def test_X3_dry_run_touches_nothing_and_names_the_reason(farm):
    text = definition.firmware("guest", "hot")
    farm["a"].start_vm(text)
    answer = farm["a"].godwit_json("migrate", "guest", "--to", "b", "--dry-run")
    assert answer["possible"] is True and answer["reasons"] == []
    farm["b"].start_vm(text)
    done = farm["a"].godwit("migrate", "guest", "--to", "b", "--dry-run", check=False)
    assert done.returncode == FAILED
    assert farm["a"].has_running("guest") and farm["b"].has_running("guest")


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.0\r\n\r\n", b"\0" * 65536, b"\xff" * 7, b""],
                         ids=["http", "zeros", "short", "nothing"])
def test_N2_garbage_on_the_migration_port_does_no_harm(guest, garbage):
    host = guest["b"]
    # This process is outside of the namespaces: a helper inside sends for it.
    script = ("import socket,sys; s=socket.create_connection((sys.argv[1], int(sys.argv[2])), 5);"
              "s.sendall(sys.stdin.buffer.read()); s.close()")
    subprocess.run(
        guest["a"].space.command(["/usr/bin/python3", "-c", script, host.space.address, host.port]),
        input=garbage, check=False, timeout=20)
    assert host.process.poll() is None
    job, _, _ = move(guest, "guest", "a", "b")
    assert job["state"] == "done"
    move(guest, "guest", "b", "a")


def test_N4_link_that_is_cut_while_copying_leaves_the_source_running(make_farm):
    farm = make_farm(rate=200_000_000)
    farm["a"].start_vm(definition.linux("guest", load="128M"))
    with farm.beats("guest") as beats:
        wait_beating(beats, 0, timeout=60)
        job = farm["a"].godwit_json("migrate", "guest", "--to", "b", "--detach")
        wait_beating(beats, 0, count=1000)
        farm["a"].space.cut()
        done = farm["a"].godwit("wait", job["id"], check=False, timeout=90)
        assert done.returncode == FAILED, done.stderr
        wait_beating(beats, 0)
        assert not beats.update().switches()
        assert farm["a"].has_running("guest")
        farm["a"].space.restore()
        farm.wait_clean("guest", "a", timeout=60)


def test_X3_memory_that_is_not_the_shared_file_is_refused(farm):
    other = ("\n[qemu]\narg = -machine\narg = memory-backend=m2\n"
             "arg = -object\narg = memory-backend-ram,id=m2,size=16M\n")
    farm["a"].start_vm(definition.firmware("guest", "hot", extra=other))
    answer = farm["a"].godwit("migrate", "guest", "--to", "b", "--dry-run", check=False)
    assert answer.returncode == FAILED and "memory" in answer.stdout + answer.stderr
    assert "memory" in refused(farm["a"], FAILED, "migrate", "guest", "--to", "b")
    assert farm["a"].has_running("guest")


def test_a_start_that_qemu_refuses_is_a_failure_with_qemus_own_words(farm):
    path = farm["a"].folder / "bad.ini"
    path.write_text(definition.firmware("bad", "hot", extra="\n[qemu]\narg = -device\narg = no-such-device\n"))
    assert "no-such-device" in refused(farm["a"], FAILED, "start", path)
    assert farm["a"].vms() == {} and farm["a"].leftovers() == []


@pytest.mark.parametrize("pages", ["thp", "4k"])
def test_V5_memory_that_does_not_fit_a_small_ram_folder_is_refused(make_farm, pages):
    farm = make_farm(names=("a",), start=False)
    host = farm["a"]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32M", "small", host.ram_dir], check=True)
    try:
        host.start()
        path = host.folder / "guest.ini"
        path.write_text(definition.firmware("guest", "hot", memory="64M", extra=f"pages = {pages}\n"))
        said = refused(host, FAILED, "start", path)
        assert "64.0 MiB" in said and "32.0 MiB left" in said
        path.write_text(definition.firmware("guest", "hot", memory="16M", extra=f"pages = {pages}\n"))
        host.godwit("start", path)
        host.godwit("stop", "guest", "--force")
    finally:
        host.stop()
        subprocess.run(["umount", host.ram_dir], check=True)


@pytest.mark.parametrize("change,word", [("s/^max$/qemu64/", "CPU"), ("s/share=on/share=off/", "shared")],
                         ids=["cpu", "private_memory"])
def test_X3_a_target_whose_qemu_differs_is_refused(make_farm, change, word):
    farm = make_farm(start=False)
    wrapper = farm["b"].folder / "qemu-other"
    wrapper.write_text("#!/bin/bash\nargs=()\nfor a in \"$@\"; do args+=(\"$(sed '" + change + "' <<<\"$a\")\"); done\n"
                       f"exec {farm['b'].qemu} \"${{args[@]}}\"\n")
    wrapper.chmod(0o755)
    farm["b"].qemu = wrapper
    for host in farm.hosts.values():
        host.start()
    farm["a"].start_vm(definition.firmware("guest", "hot"))
    assert word in refused(farm["a"], FAILED, "migrate", "guest", "--to", "b")
    assert farm["a"].has_running("guest")
    farm.wait_clean("guest", "a")
