# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several hosts that know one another, and the moves of a VM between them."""
import json
import time
import warnings

from .beats import Beats, now_ns
from .host import PORT, Host
from .net import Network
from .wait import wait_for


class Farm:
    """Hosts `a`, `b`, ... with running daemons. One name in `together`: all in one namespace (loopback)."""

    def __init__(self, names=("a", "b"), rate=None, together=False, start=True):
        self.network = Network(("all",) if together else names, rate=rate)
        self.hosts = {}
        try:
            for i, name in enumerate(names):
                space = self.network["all" if together else name]
                self.hosts[name] = Host(name, space, PORT + (i if together else 0))
            for host in self.hosts.values():
                host.peers = {n: h.address for n, h in self.hosts.items() if n != host.name}
            if start:
                for host in self.hosts.values():
                    host.start()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name):
        return self.hosts[name]

    def beats(self, vm):
        """Heartbeats of a VM wherever it is; sources are numbered as the hosts are."""
        hosts = list(self.hosts.values())
        beats = Beats([h.channel_socket(vm) for h in hosts])
        beats.reboot = lambda source: hosts[source].reboot(vm)
        return beats

    def index(self, name):
        return list(self.hosts).index(name)

    def others_leftovers(self, vm, home):
        """What is left of the VM on hosts other than the one it lives on."""
        return [left for name, host in self.hosts.items() if name != home for left in host.leftovers(vm)]

    def wait_clean(self, vm, home, timeout=5):
        """The source has freed everything (N9)."""
        try:
            wait_for(lambda: not self.others_leftovers(vm, home), timeout, "other hosts are clean")
        except TimeoutError:
            raise AssertionError(f"left behind: {self.others_leftovers(vm, home)}") from None

    def close(self):
        for host in self.hosts.values():
            host.close()
        self.network.close()


def move(farm, vm, source, target, *options, timeout=120):
    """Migrates and returns (job, begin_ns, end_ns); the exit code must be 0."""
    begin = now_ns()
    done = farm[source].godwit("migrate", vm, "--to", target, "--json", *options, timeout=timeout)
    end = now_ns()
    return json.loads(done.stdout.splitlines()[-1]), begin, end  # one line for each change of the job


def wait_beating(beats, source, timeout=30, count=200):
    """Waits until the guest beats there from now on.

    About one boot in 200 of a guest with 4 vCPUs on 2 cores hangs in the kernel, all vCPUs spinning, under plain TCG.
    A guest that has not beaten at all, ever, is started once more; the report of the tests shows it.
    """
    try:
        beats.wait_for_source(source, timeout, count=count, since_ns=time.monotonic_ns())
    except TimeoutError:
        if beats.reboot is None or beats.update().beats:
            raise
        warnings.warn(f"the guest did not come up within {timeout} s, and is started once more", stacklevel=2)
        beats.reboot(source)
        beats.wait_for_source(source, timeout, count=count, since_ns=time.monotonic_ns())
