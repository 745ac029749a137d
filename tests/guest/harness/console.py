# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands typed at the shell of the Linux guest's console."""
import itertools
import socket

from .wait import wait_for

_numbers = itertools.count(1)


def run(host, vm, command, timeout=60):
    """Returns when the guest's shell has run it; a failure in the guest raises."""
    log = host.console_log(vm)
    mark = f"ran-{next(_numbers)}-"
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(host.run_dir / vm / "console.sock"))
        s.sendall(f'{command}; echo "ra""{mark[2:]}$?"\n'.encode())
        wait_for(lambda: mark in log.read_text(errors="replace"), timeout, f"the guest ran: {command}")
        text = wait_for(lambda: _status(log, mark), 5, "its exit status")
    assert text == "0", f"in the guest: {command}: exit status {text}"


def _status(log, mark):
    rest = log.read_text(errors="replace").split(mark, 1)[1]
    return rest.split()[0] if rest[-1:].isspace() or "\n" in rest else None
