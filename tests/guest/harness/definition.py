# SPDX-License-Identifier: LGPL-2.1-or-later
"""VM definitions of the test guests."""
from . import paths

MIB = 1 << 20


def linux(name, memory="256M", load="64M", rate="0", hot=None, pattern="uniform", sweep="32M", cpus=1,
          threads=1, accel="tcg", pages="auto", packable=False, extra=""):
    """The Linux guest with gwload; sizes as gwload writes them. Heartbeats go out of channel `beat`."""
    args = ["--size", load, "--rate", rate, "--pattern", pattern, "--sweep", sweep, "--threads", str(threads),
            "--heartbeat", "beat"]
    if hot:
        args += ["--hot", hot]
    if packable:
        args += ["--packable"]
    return (
        f"[vm]\nname = {name}\nmemory = {memory}\ncpus = {cpus}\naccel = {accel}\npages = {pages}\n\n"
        f"[boot]\nkernel = {paths.GUEST}/vmlinuz\ninitrd = {paths.GUEST}/initrd\n"
        f"append = {append_line(args)}\n\n[channel beat]\n{extra}"
    )


def append_line(gwload_args):
    return "console=ttyS0 quiet mitigations=off gwload=" + ",".join(gwload_args)


def firmware(name, image, memory="16M", accel="tcg", extra=""):
    """A firmware guest: hot (TCG) or kvm-firmware-guest; it reports '.' and '!' on the console.

    Under KVM the plainest CPU model: the guest needs nothing, and a nested host may not give more.
    """
    cpu = "cpu = qemu64\n" if accel == "kvm" else ""
    return (
        f"[vm]\nname = {name}\nmemory = {memory}\ncpus = 1\naccel = {accel}\n{cpu}"
        f"firmware = {paths.GUEST}/{image}.bin\n{extra}"
    )
