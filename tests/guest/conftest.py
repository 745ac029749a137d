# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the guest tests. Every farm ends with the check that nothing of it is left behind."""
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import net, paths  # noqa: E402
from harness.farm import Farm  # noqa: E402

# How often tests of "N in a row" repeat; `make soak` raises both.
REPEAT = int(os.environ.get("GW_REPEAT", "2"))
MOVES = int(os.environ.get("GW_MOVES", "4"))


@pytest.fixture(scope="session")
def guests():
    """Test guests and gauges are built."""
    paths.build_guests()


@pytest.fixture(scope="session")
def programs(guests):
    """Everything is built, and the machine is clean."""
    assert os.geteuid() == 0, "guest tests need root: they make network namespaces"
    missing = paths.programs_missing()
    assert not missing, missing
    net.sweep()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """The daemons' logs and the guests' consoles stand in the report of a failed test."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        farms = [farm for value in item.funcargs.values() for farm in getattr(value, "farms", [value])]
        for farm in farms:
            for host in getattr(farm, "hosts", {}).values():
                report.sections.append((f"godwitd on {host.name}", host.log()[-6000:]))
                report.sections += [(f"console of {vm} on {host.name}", text[-3000:]) for vm, text in host.consoles()]


def shut_down(farm):
    """Stops all VMs through the daemons and returns what remains although it should not."""
    for host in farm.hosts.values():
        if host.process is None or host.process.poll() is not None:
            host.start()
        for vm in host.vms():
            host.godwit("stop", vm, "--force", check=False)
    left = [left for host in farm.hosts.values() for left in host.leftovers()]
    for host in farm.hosts.values():
        host.stop()
    left += [f"process {pid} on {h.name}" for h in farm.hosts.values() for pid in h.space.pids()]
    left += [f"the daemon's socket {h.socket}" for h in farm.hosts.values() if h.socket.exists()]
    return left


@pytest.fixture
def make_farm(programs):
    """make_farm(names, rate=..., ...): a Farm that is checked and removed at the end."""
    farms = []

    def make(*args, **kwargs):
        farm = Farm(*args, **kwargs)
        farms.append(farm)
        return farm

    make.farms = farms
    yield make
    left = []
    for farm in farms:
        try:
            left += shut_down(farm)
        finally:
            farm.close()
            left += [f"namespace {n}" for n in net.left_namespaces(farm.network.prefix + "-")]
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.fixture
def farm(make_farm):
    """Two hosts, `a` and `b`, joined by an unlimited link."""
    return make_farm()
