# SPDX-License-Identifier: LGPL-2.1-or-later
"""X1: a whole copy whose source host is gone for good runs when an operator says so, and not when that would be wrong."""
import os
import signal

from test_faults import ground, module_ground  # noqa: F401

from harness.wait import wait_for


def resolve(host, fenced, check=False):
    return host.godwit("resolve", "guest", "--fenced", fenced, check=check)


def refused(host, fenced, words):
    done = resolve(host, fenced)
    assert done.returncode in (1, 2) and words in done.stderr, (done.returncode, done.stdout, done.stderr)
    assert not host.has_running("guest")


def test_X1_an_operator_decides_for_a_copy_whose_source_host_is_gone(ground):  # noqa: F811
    ground.arm("source-ready-received")
    home, away = ground.home, ground.away
    source, target = ground.host(home), ground.host(away)
    ground.reach()
    refused(target, home, "is still connected")
    assert "to decide" in resolve(source, away).stderr  # it is not the one that arrives

    (qemu,) = source.qemu_pids("guest")
    source.kill()
    refused(target, home, "only its godwitd is not")
    os.kill(qemu, signal.SIGKILL)
    source.space.cut()
    refused(target, "elsewhere", f"came from host {home}")

    assert "runs here now" in resolve(target, home, check=True).stdout
    assert target.has_running("guest")
    ground.wait_working(away)
    assert "runs here" in resolve(target, home).stderr or "not arriving" in resolve(target, home).stderr

    # The host comes back after all, without the VM: it hears who owns it, and keeps nothing.
    source.space.restore()
    source.start()
    ground.wait_only_at(away)
    ground.home = away


def test_X1_nobody_decides_for_a_copy_whose_memory_is_elsewhere(ground):  # noqa: F811
    ground.arm("source-ready-received")
    home, away = ground.home, ground.away
    ground.reach("--mode", "post-copy")
    refused(ground.host(away), home, "is still at host")
    ground.go()
    wait_for(lambda: ground.host(away).has_running("guest"), 30, "the guest runs at the target")
    ground.wait_only_at(away)
    ground.home = away
