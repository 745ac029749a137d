# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts as network namespaces on one subnet, with optional bandwidth limits and cuttable links."""
import itertools
import json
import os
import signal
import subprocess
import time

_serial = itertools.count()


def ip(*args, check=True):
    return subprocess.run(["ip", *map(str, args)], check=check, capture_output=True, text=True)


class Namespace:
    """One host's network: `eth0` with an address on the subnet, and loopback."""

    def __init__(self, name, address):
        self.name = name
        self.address = address
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")

    def command(self, argv):
        """argv that runs inside. The namespace is entered by exec: the pid is the program's own."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *map(str, argv)]

    def pids(self):
        out = ip("netns", "pids", self.name, check=False).stdout
        return [int(p) for p in out.split()]

    def limit(self, bits_per_s):
        """Limits what leaves the host; None lifts the limit."""
        dev = ["dev", "eth0", "root"]
        run = ["tc", "-n", self.name, "qdisc"]
        subprocess.run([*run, "del", *dev], check=False, capture_output=True)
        if bits_per_s:
            burst = max(bits_per_s // 8 // 250, 64 * 1024)
            subprocess.run(
                [*run, "add", *dev, "tbf", "rate", f"{bits_per_s}bit", "burst", str(burst), "latency", "20ms"],
                check=True, capture_output=True)

    def cut(self):
        ip("-n", self.name, "link", "set", "eth0", "down")

    def restore(self):
        ip("-n", self.name, "link", "set", "eth0", "up")

    def sent_bytes(self, device="eth0"):
        """What the interface has sent so far, headers included."""
        out = ip("-n", self.name, "-s", "-j", "link", "show", "dev", device).stdout
        return json.loads(out)[0]["stats64"]["tx"]["bytes"]

    def kill_all(self):
        """Ends every process inside: nothing of a test outlives it."""
        for _ in range(100):
            pids = self.pids()
            if not pids:
                return
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)

    def close(self):
        self.kill_all()
        ip("netns", "del", self.name, check=False)


class Network:
    """Several namespaces on one subnet: two are joined by a veth pair, more by a bridge of their own.

    Names hold the pid and a number: tests of several processes do not meet, and `sweep` can tell whose
    owner has died.
    """

    def __init__(self, names=("a", "b"), rate=None):
        self.prefix = f"gwt{os.getpid()}-{next(_serial)}"
        self.bridge = None
        self.spaces = {}
        try:
            for i, name in enumerate(names):
                address = f"10.77.0.{i + 1}" if len(names) > 1 else "127.0.0.1"
                self.spaces[name] = Namespace(f"{self.prefix}-{name}", address)
            if len(names) == 2:
                self._join_pair(*self.spaces.values())
            elif len(names) > 2:
                self._join_bridge()
            for space in self.spaces.values():
                if len(names) > 1:
                    ip("-n", space.name, "addr", "add", f"{space.address}/24", "dev", "eth0")
                    ip("-n", space.name, "link", "set", "eth0", "up")
                if rate:
                    space.limit(rate)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _join_pair(a, b):
        ip("link", "add", "eth0", "netns", a.name, "type", "veth", "peer", "name", "eth0", "netns", b.name)

    def _join_bridge(self):
        self.bridge = Namespace(f"{self.prefix}-sw", None)
        inside = ("-n", self.bridge.name)
        ip(*inside, "link", "add", "br0", "type", "bridge")
        ip(*inside, "link", "set", "br0", "up")
        for i, space in enumerate(self.spaces.values()):
            ip("link", "add", "eth0", "netns", space.name, "type", "veth", "peer", "name", f"p{i}",
               "netns", self.bridge.name)
            ip(*inside, "link", "set", f"p{i}", "master", "br0", "up")

    def __getitem__(self, name):
        return self.spaces[name]

    def close(self):
        for space in [*self.spaces.values(), self.bridge]:
            if space:
                space.close()


def left_namespaces(prefix):
    out = ip("netns", "list").stdout
    return [line.split()[0] for line in out.splitlines() if line.startswith(prefix)]


def sweep():
    """Removes the namespaces of test processes that were killed."""
    for name in left_namespaces("gwt"):
        pid = name[3:].split("-")[0]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            space = Namespace.__new__(Namespace)
            space.name, space.address = name, None
            space.close()
