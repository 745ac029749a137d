# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host: godwitd in a network namespace with folders of its own, and the commands given to it."""
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from . import paths
from .wait import wait_for

PORT = 16970
READY_S = 10


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class ApiError(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body


class Host:
    """Start, stop, kill and restart the daemon; `godwit` runs the command line against it.

    Folders: /tmp/gwh-*/{run,state,log} and a RAM folder on tmpfs; `close` removes them.
    """

    def __init__(self, name, space, port=PORT, peers=None):
        self.name, self.space, self.port = name, space, port
        self.peers = dict(peers or {})  # name -> "address:port"
        self.folder = Path(tempfile.mkdtemp(prefix=f"gwh-{name}-", dir=paths.TEMP))
        self.ram_dir = Path(tempfile.mkdtemp(prefix=f"gwh-{name}-", dir=paths.TEMP_RAM))
        self.run_dir = self.folder / "run"
        self.state_dir = self.folder / "state"
        self.socket = self.folder / "api.sock"
        self.log_path = self.folder / "godwitd.log"
        self.process = None
        self.faults = ""
        self.settings = {}  # further keys of [godwitd]
        self.definitions = {}  # of the VMs started here
        self.qemu = paths.QEMU
        for d in (self.run_dir, self.state_dir):
            d.mkdir()

    @property
    def address(self):
        return f"{self.space.address}:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def argv(self):
        config = self.folder / "godwitd.conf"
        lines = ["[godwitd]", f"name = {self.name}", *(f"{k} = {v}" for k, v in self.settings.items()), "[hosts]"]
        lines += [f"{name} = {address}" for name, address in self.peers.items()]
        config.write_text("\n".join(lines) + "\n")
        return [
            paths.GODWITD, "--config", config, "--name", self.name, "--listen", self.address,
            "--socket", self.socket, "--state-dir", self.state_dir, "--run-dir", self.run_dir,
            "--ram-dir", self.ram_dir, "--qemu", self.qemu, "--shim", paths.SHIM,
        ]

    def start(self):
        """Returns when the API answers. `faults` (see src/base/fault.h) is armed for this run only."""
        env = dict(os.environ, GODWIT_FAULTS=self.faults)
        if not self.faults:
            del env["GODWIT_FAULTS"]
        self.faults = ""
        log = open(self.log_path, "ab")
        self.process = subprocess.Popen(self.space.command(self.argv()), stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=log, env=env)
        log.close()
        wait_for(self._answers, READY_S, f"godwitd on {self.name} answers; its log:\n{self.log()}")
        return self

    def _answers(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"godwitd on {self.name} ended with {self.process.returncode}:\n{self.log()}")
        try:
            return self.api("GET", "/v1/host")
        except (OSError, http.client.HTTPException):
            return None

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def stop(self, timeout=10):
        """Ends the daemon politely; its VMs go on."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=timeout)

    def kill(self):
        """SIGKILL to the daemon alone."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def restart(self):
        self.stop()
        return self.start()

    def api(self, method, path, body=None, timeout=10):
        connection = _UnixConnection(self.socket, timeout)
        try:
            data = json.dumps(body) if body is not None else None
            connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            answer = connection.getresponse()
            text = answer.read()
            value = json.loads(text) if text else None
            if answer.status >= 400:
                raise ApiError(answer.status, value)
            return value
        finally:
            connection.close()

    def godwit(self, *args, timeout=120, check=True):
        """Runs the command line; CompletedProcess. With check, a failure raises with all it printed."""
        argv = [paths.GODWIT, "--socket", self.socket, *args]
        done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise AssertionError(
                f"godwit {' '.join(map(str, args))} on {self.name}: exit code {done.returncode}\n"
                f"{done.stdout}{done.stderr}")
        return done

    def godwit_json(self, *args, **how):
        return json.loads(self.godwit(*args, "--json", **how).stdout)

    def start_vm(self, definition):
        """Starts a VM from definition text; its API object."""
        path = self.folder / "definition.ini"
        path.write_text(definition)
        self.godwit("start", path)
        name = next(line.split("=")[1].strip() for line in definition.splitlines() if line.startswith("name"))
        self.definitions[name] = definition
        return self.vm(name)

    def reboot(self, name):
        """Ends a VM and starts it anew."""
        self.godwit("stop", name, "--force")
        wait_for(lambda: name not in self.vms(), 10, f"{name} is gone")
        return self.start_vm(self.definitions[name])

    def vm(self, name):
        return self.api("GET", f"/v1/vms/{name}")

    def vms(self):
        return {vm["name"]: vm for vm in self.api("GET", "/v1/vms")}

    def has_running(self, name):
        vm = self.vms().get(name)
        return bool(vm) and vm["state"] == "running"

    def job(self, job_id):
        return self.api("GET", f"/v1/jobs/{job_id}")

    def qemu_pids(self, vm=None):
        """QEMU processes on this host (in its namespace, for a VM when given), whoever knows of them."""
        found = []
        for pid in self.space.pids():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            mine = any(w.startswith(str(self.run_dir).encode()) or str(self.run_dir).encode() in w for w in words)
            if state == "Z" or b"qemu" not in words[0] or not mine:
                continue
            if vm is None or any(w.startswith(f"guest={vm},".encode()) for w in words):
                found.append(pid)
        return found

    def ram_files(self, vm=None):
        """Files in the folders for RAM, those of a VM or all."""
        folders = [self.ram_dir, *filter(None, [self.settings.get("hugetlb_dir")])]
        return [p for folder in folders for p in Path(folder).rglob("*")
                if p.is_file() and (vm is None or vm in p.name)]

    def leftovers(self, vm=None):
        """What remains of a VM (of any, without a name): processes, RAM files, run folders, sockets, taps."""
        left = [f"process {pid} on {self.name}" for pid in self.qemu_pids(vm)]
        left += [f"RAM file {p}" for p in self.ram_files(vm)]
        left += [
            f"in the run folder: {p}" for p in self.run_dir.rglob("*")
            if vm is None and not p.name.startswith("godwitd") or vm and p.name == vm
        ]
        return left

    def channel_socket(self, vm, channel="beat"):
        """Where the channel's socket is or will be: the layout below the run folder is the same on all hosts."""
        return self.run_dir / vm / f"channel-{channel}.sock"

    def console_log(self, vm):
        return self.run_dir / vm / "console.log"

    def consoles(self):
        """(VM, what its console has shown) of every VM here."""
        return [(p.parent.name, p.read_text(errors="replace")) for p in self.run_dir.glob("*/console.log")]

    def close(self):
        """Ends everything of this host and removes its folders; what the daemon left is not an error here."""
        self.kill()
        for pid in self.qemu_pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        thp = self.ram_dir / "thp"
        if thp.is_mount():  # a killed VM may take a moment to let go
            wait_for(lambda: subprocess.run(["umount", thp], check=False, capture_output=True).returncode == 0, 10,
                     f"{thp} can be unmounted")
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.ram_dir, ignore_errors=True)
