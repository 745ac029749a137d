# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small synchronous QMP client, for QEMUs that godwit does not manage (the benchmark's baselines)."""
import json
import select
import socket
import time

from .wait import wait_for


class QmpError(Exception):
    pass


class Qmp:
    def __init__(self, path, timeout=20):
        self.sock = socket.socket(socket.AF_UNIX)

        def connected():
            try:
                self.sock.connect(str(path))
                return True
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        wait_for(connected, timeout, f"QMP at {path}", every=0.002)
        self.buffer = b""
        self.events = []
        self._message(timeout)
        self.execute("qmp_capabilities")

    def _message(self, timeout):
        deadline = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.sock], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("QEMU does not answer over QMP")
            data = self.sock.recv(65536)
            if not data:
                raise QmpError("QEMU closed QMP")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def execute(self, command, timeout=60, **arguments):
        request = {"execute": command}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.sock.sendall(json.dumps(request).encode())
        while True:
            answer = self._message(timeout)
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise QmpError(f"{command}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def forget_events(self):
        """Drops the events that came so far, unread ones included."""
        self.execute("query-status")
        self.events.clear()

    def wait_event(self, matches, timeout):
        """The first event (also among those that came before) for which matches(event) holds."""
        deadline = time.monotonic() + timeout
        seen = 0
        while True:
            while seen < len(self.events):
                event = self.events[seen]
                seen += 1
                if matches(event):
                    return event
            message = self._message(max(0.001, deadline - time.monotonic()))
            if "event" in message:
                self.events.append(message)

    def wait_migration(self, states, timeout):
        """Waits for a MIGRATION event with one of the states; capability `events` must be on."""
        event = self.wait_event(
            lambda e: e["event"] == "MIGRATION" and e["data"]["status"] in states, timeout)
        return event["data"]["status"]

    def close(self):
        self.sock.close()
