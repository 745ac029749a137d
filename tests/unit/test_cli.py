#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line against a daemon without QEMU: output, exit codes, interrupts, restarts of the daemon.

Usage: test_cli.py GODWIT FAKE_GODWITD
"""
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest

GODWIT, FAKE_GODWITD = sys.argv[1:3]
PATIENCE_S = 30


class Daemon:
    def __init__(self, path, *more, step_ms=40):
        self.process = subprocess.Popen([FAKE_GODWITD, path, str(step_ms), *more], stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"ready\n"

    def stop(self, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        self.process.stdout.close()
        return self.process.wait(PATIENCE_S)


class Reader:
    """Collects what comes from a file descriptor and waits for a piece of it."""

    def __init__(self, fd):
        self.fd, self.text = fd, ""

    def until(self, part, timeout=PATIENCE_S):
        end = time.monotonic() + timeout
        while part is None or not re.search(part, self.text):
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"no {part!r} in {self.text!r}")
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # the other side of a terminal was closed
                data = b""
            if not data:
                if part is None:
                    return self.text
                raise AssertionError(f"ended without {part!r}: {self.text!r}")
            self.text += data.decode()
        return self.text


class CliTest(unittest.TestCase):
    STEP_MS = 40

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="gw-cli-")
        self.addCleanup(folder.cleanup)
        self.folder, self.socket = folder.name, folder.name + "/api.sock"
        self.daemons = []
        self.addCleanup(lambda: [d.stop() for d in self.daemons])
        self.daemon = self.serve()

    def serve(self, *more, **kw):
        self.daemons.append(Daemon(self.socket, *more, **{"step_ms": self.STEP_MS, **kw}))
        return self.daemons[-1]

    def env(self, **kw):
        return {**os.environ, "GODWIT_SOCKET": self.socket, "TERM": "xterm", **kw}

    def run_cli(self, *args, code=0, stdin=None):
        r = subprocess.run([GODWIT, *args], env=self.env(), capture_output=True, text=True, input=stdin,
                           timeout=PATIENCE_S, check=False)
        self.assertEqual(r.returncode, code, (args, r.stdout, r.stderr))
        if code == 0:
            self.assertEqual(r.stderr, "")
        else:
            self.assertRegex(r.stderr, r"\Agodwit: [^\n]+\n\Z")  # one sentence
        self.assertNotIn("\033", r.stdout + r.stderr)  # no terminal, no escape codes
        return r.stdout if code == 0 else r.stderr

    def spawn(self, *args):
        """With pipes. Returns the process and a reader of its output, errors included."""
        p = subprocess.Popen([GODWIT, *args], env=self.env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             stdin=subprocess.DEVNULL)
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.kill)
        return p, Reader(p.stdout.fileno())

    def spawn_on_terminal(self, *args, columns=100):
        pid, fd = pty.fork()
        if pid == 0:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            os.execve(GODWIT, [GODWIT, *args], self.env())
        self.addCleanup(os.close, fd)
        return pid, fd, Reader(fd)

    def exit_of(self, pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def finish(self, process, reader):
        reader.until(None)
        return process.wait(PATIENCE_S)


class Commands(CliTest):
    def test_list_show_host_and_version_print_what_there_is(self):
        self.assertRegex(self.run_cli("list"), r"(?m)^web1  running  4\.00 GiB     2  tcg ")
        self.assertRegex(self.run_cli("show", "web1"), r"(?m)^ownership epoch +3$")
        self.assertRegex(self.run_cli("host"), r"(?m)^knows host +beta at 127\.0\.0\.2:7700$")
        self.assertRegex(self.run_cli("version"), r"godwitd +\S+ on alpha")

    def test_json_is_the_daemons_object(self):
        self.assertEqual([vm["name"] for vm in json.loads(self.run_cli("list", "--json"))], ["web1", "db1"])
        self.assertEqual(json.loads(self.run_cli("--json", "show", "web1"))["epoch"], 3)
        self.assertEqual(json.loads(self.run_cli("host", "--json"))["name"], "alpha")
        self.assertEqual(json.loads(self.run_cli("jobs", "--json")), [])
        self.assertEqual(json.loads(self.run_cli("version", "--json"))["host"]["name"], "alpha")

    def test_start_sends_a_file_or_standard_input(self):
        path = self.folder + "/vm.ini"
        with open(path, "w", encoding="utf-8") as f:
            f.write("[vm]\nname = new1\n")
        self.assertEqual(self.run_cli("start", path), "new1 is running\n")
        self.assertEqual(self.run_cli("start", "-", stdin="name = new1\n"), "new1 is running\n")
        self.assertIn("line 1: the VM has no name", self.run_cli("start", "-", stdin="[vm]\n", code=2))
        self.assertIn("cannot open /no/such: No such file", self.run_cli("start", "/no/such", code=2))
        self.assertIn("File too large", self.run_cli("start", "-", stdin="#" * 70000, code=2))

    def test_start_refuses_what_is_no_text(self):
        path = self.folder + "/vm.ini"
        with open(path, "wb") as f:
            f.write(b"\xff\xfe\x00name")
        self.assertIn("not UTF-8 text", self.run_cli("start", path, code=2))

    def test_stop_removes_a_vm_and_a_second_stop_finds_none(self):
        self.assertEqual(self.run_cli("stop", "db1"), "db1 is stopped\n")
        self.assertIn("no VM called 'db1'", self.run_cli("stop", "db1", code=2))

    def test_resolve_names_the_host_that_is_gone_X1(self):
        self.assertIn("db1 runs here now", self.run_cli("resolve", "db1", "--fenced", "b"))
        self.assertIn("came from host b", self.run_cli("resolve", "db1", "--fenced", "c", code=2))
        self.assertIn("--fenced HOST is missing", self.run_cli("resolve", "db1", code=2))
        self.assertIn("no VM called 'db2'", self.run_cli("resolve", "db2", "--fenced", "b", code=2))

    def test_stop_that_takes_too_long_is_a_time_out(self):
        self.assertIn("did not power off", self.run_cli("stop", "db1", "--timeout", "5ms", code=2))
        self.assertEqual(self.run_cli("stop", "db1", "--timeout", "5ms", "--force"), "db1 is stopped\n")

    def test_show_looks_for_a_vm_then_for_a_job(self):
        self.run_cli("migrate", "web1", "--to", "beta", "--verify")
        self.assertIn("Downtime: 40.00 ms", self.run_cli("show", "m-1"))
        self.assertIn("Downtime: 40.00 ms", self.run_cli("show", "--job", "m-1"))
        self.assertIn("no VM called 'm-1'", self.run_cli("show", "m-1", "--vm", code=2))
        self.assertIn("no job called 'web1'", self.run_cli("show", "web1", "--job", code=2))
        self.assertIn("no VM or job called 'x/../y'", self.run_cli("show", "x/../y", code=2))

    def test_jobs_lists_all_or_the_active_ones(self):
        self.run_cli("migrate", "web1", "--to", "fails", code=1)
        self.run_cli("migrate", "web1", "--to", "slow", "--detach")
        self.assertEqual([j["id"] for j in json.loads(self.run_cli("jobs", "--json"))], ["m-1", "m-2"])
        self.assertEqual([j["id"] for j in json.loads(self.run_cli("jobs", "--active", "--json"))], ["m-2"])
        self.assertRegex(self.run_cli("jobs"), r"(?m)^m-1  migrate-out  web1  fails  failed .*connection to fails was lost")
        self.assertIn("is being migrated by m-2", self.run_cli("stop", "web1", code=1))

    def test_cancel_takes_a_vm_or_a_job(self):
        self.run_cli("migrate", "web1", "--to", "slow", "--detach")
        self.assertEqual(self.run_cli("cancel", "web1"), "web1 did not move to slow: cancelled; it runs here\n")
        self.run_cli("migrate", "web1", "--to", "slow", "--detach")
        self.assertEqual(json.loads(self.run_cli("cancel", "m-2", "--json"))["state"], "cancelled")
        self.assertIn("no migration of web1 is running", self.run_cli("cancel", "web1", code=1))
        self.assertIn("already decided", self.run_cli("cancel", "m-2", code=1))
        self.assertIn("no VM or job called 'm-9'", self.run_cli("cancel", "m-9", code=2))


    def test_a_cancel_that_takes_long_returns_and_says_what_it_waits_for_N1(self):
        self.run_cli("migrate", "web1", "--to", "stuck", "--detach")
        said = self.run_cli("cancel", "web1", code=2)
        self.assertIn("the cancel of m-1 is accepted but not done yet", said)
        self.assertIn("undoing: waits for the VM's QEMU, which does not answer ('godwit wait m-1'", said)
        r = subprocess.run([GODWIT, "cancel", "web1", "--json"], env=self.env(), capture_output=True, text=True,
                           timeout=PATIENCE_S, check=False)
        self.assertEqual((r.returncode, json.loads(r.stdout)["final"]), (2, False))


class Usage(CliTest):
    def test_misspelt_words_get_a_suggestion(self):
        self.assertIn("did you mean 'migrate'?", self.run_cli("migarte", "web1", code=2))
        self.assertIn("did you mean 'list'?", self.run_cli("lst", code=2))
        self.assertIn("did you mean 'console'?", self.run_cli("cons", code=2))
        self.assertIn("see 'godwit help'", self.run_cli("frobnicate", code=2))
        self.assertIn("did you mean '--to'?", self.run_cli("migrate", "web1", "--too", "beta", code=2))
        self.assertIn("did you mean '--max-downtime'?", self.run_cli("migrate", "w", "--max-dwntime=3ms", code=2))

    def test_wrong_values_are_refused_before_anything_is_sent(self):
        self.daemon.stop()
        for option, value, advice in (
                ("--max-downtime", "50", "a duration with its unit"), ("--max-downtime", "0ms", "a duration"),
                ("--bandwidth", "fast", "a rate with its unit"), ("--channels", "0", "from 1 to 64"),
                ("--channels", "65", "from 1 to 64"), ("--channels", "2x", "from 1 to 64"),
                ("--threshold", "101%", "adaptive, a size"), ("--threshold", "-1%", "adaptive, a size"),
                ("--on-stall", "wait", "throttle|switch|stay"), ("--mode", "precopy", "auto|pre-copy|post-copy"),
                ("--tracing", "maybe", "auto|async|sync"),
                ("--compress", "gzip", "auto|off|lz4|zstd"),
                ("--max-passes", "0", "from 1"), ("--timeout", "soon", "a duration")):
            self.assertIn(advice, self.run_cli("migrate", "web1", "--to", "beta", f"{option}={value}", code=2))
        self.assertIn("needs a value", self.run_cli("migrate", "web1", "--to", code=2))
        self.assertIn("takes no value", self.run_cli("list", "--json=yes", code=2))
        self.assertIn("there is no option '-q'", self.run_cli("list", "-q", code=2))
        self.assertIn("say where to", self.run_cli("migrate", "web1", code=2))
        self.assertIn("exclude each other", self.run_cli("migrate", "w", "--to", "b", "--wait", "--detach", code=2))
        self.assertIn("usage: godwit list", self.run_cli("list", "all", code=2))
        self.assertIn("usage: godwit show VM|JOB", self.run_cli("show", code=2))

    def test_every_command_explains_itself_without_a_daemon(self):
        self.daemon.stop()
        commands = re.findall(r"(?m)^  ([a-z]+) ", self.run_cli("--help").split("options of all")[0])
        self.assertEqual(len(commands), 13)
        for command in commands:
            text = self.run_cli(command, "--help")
            self.assertTrue(text.startswith(f"usage: godwit {command}"), text)
            self.assertEqual(text, self.run_cli("help", command))
            self.assertFalse([line for line in text.splitlines() if len(line) > 108])
        self.assertIn("did you mean", self.run_cli("help", "migrat", code=2))

    def test_no_command_at_all_shows_the_help_and_is_an_error(self):
        r = subprocess.run([GODWIT], env=self.env(), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        self.assertEqual(r.returncode, 2)
        self.assertIn("commands:", r.stdout)

    def test_an_unreachable_daemon_is_one_sentence_with_advice(self):
        self.daemon.stop(signal.SIGKILL)
        for args in (["list"], ["show", "web1"], ["migrate", "web1", "--to", "beta"], ["jobs"], ["host"],
                     ["cancel", "web1"], ["stop", "web1"], ["console", "web1"], ["wait", "m-1"]):
            self.assertIn("systemctl start godwitd", self.run_cli(*args, code=2))
        self.assertIn("is godwitd running?", self.run_cli("--socket", "/nowhere.sock", "list", code=2))
        self.assertIn("nobody answers", self.run_cli("version"))

    def test_output_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            r = subprocess.run([GODWIT, "list"], env=self.env(), stdout=full, stderr=subprocess.PIPE, text=True,
                               timeout=PATIENCE_S, check=False)
        self.assertEqual((r.returncode, r.stderr), (1, "godwit: cannot write the output\n"))


class Migrate(CliTest):
    def test_the_exit_code_says_where_the_vm_is(self):
        self.assertIn("web1 moved to beta in 12.30 s", self.run_cli("migrate", "web1", "--to", "beta"))
        self.assertIn("the connection to fails was lost", self.run_cli("migrate", "web1", "--to", "fails", code=1))
        self.assertIn("nobody knows yet", self.run_cli("migrate", "web1", "--to", "limbo", code=3))
        self.assertIn("not decided within 2 s", self.run_cli("migrate", "web1", "--to", "expires", code=2))
        self.assertIn("no host is called", self.run_cli("migrate", "web1", "--to", "nowhere", code=2))
        self.assertIn("no VM called", self.run_cli("migrate", "web9", "--to", "beta", code=2))

    def test_a_dry_run_names_the_reasons_X3(self):
        self.assertIn("web1 can move to beta", self.run_cli("migrate", "web1", "--to", "beta", "--dry-run"))
        r = subprocess.run([GODWIT, "migrate", "web1", "--to", "nowhere", "--dry-run"], env=self.env(),
                           capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        self.assertEqual(r.returncode, 1)
        self.assertIn("web1 cannot move to nowhere\n  - no host is called nowhere\n", r.stdout)
        self.assertEqual(json.loads(self.run_cli("jobs", "--json")), [])

    def test_options_reach_the_daemon_as_numbers(self):
        job = json.loads(self.run_cli("migrate", "web1", "--to", "slow", "--detach", "--json", "--max-downtime", "50ms",
                                      "--bandwidth", "1Gbps", "--weight", "300", "--channels", "4", "--threshold", "1%",
                                      "--on-stall", "stay", "--mode", "hybrid", "--hybrid-passes", "2", "--max-passes", "9",
                                      "--timeout", "10m", "--verify", "--tracing", "sync", "--compress", "zstd",
                                      "--reason", "maintenance"))
        self.assertEqual(job["request"], {
            "to": "slow", "max_downtime_ns": 50000000, "bandwidth_Bps": 125000000, "weight": 300, "channels": 4,
            "threshold": "1%", "on_stall": "stay", "mode": "hybrid", "hybrid_passes": 2, "max_passes": 9,
            "timeout_ns": 600000000000, "verify": True, "tracing": "sync", "compress": "zstd", "reason": "maintenance"})

    def test_detach_prints_the_job_and_wait_follows_it(self):
        self.assertEqual(self.run_cli("migrate", "web1", "--to", "beta", "--detach"), "m-1 moves web1 to beta\n")
        self.assertIn("web1 moved to beta", self.run_cli("wait", "m-1"))
        self.assertIn("web1 moved to beta", self.run_cli("wait", "m-1"))  # it has ended: at once
        self.assertIn("no job called 'm-9'", self.run_cli("wait", "m-9", code=2))

    def test_progress_elsewhere_is_time_stamped_lines(self):
        lines = self.run_cli("migrate", "web1", "--to", "beta").splitlines()
        end = lines.index("web1 moved to beta in 12.30 s, downtime 40.00 ms")
        for line in lines[:end]:
            self.assertRegex(line, r"^\d\d:\d\d:\d\d \w+")
        self.assertLessEqual(end, 8)

    def test_progress_as_json_is_one_job_per_line_the_final_one_last(self):
        jobs = [json.loads(line) for line in self.run_cli("migrate", "web1", "--to", "beta", "--json").splitlines()]
        self.assertEqual([j["final"] for j in jobs], [False] * (len(jobs) - 1) + [True])
        self.assertEqual(jobs[-1]["report"]["downtime_ns"], 40000000)
        self.assertTrue(all(a != b for a, b in zip(jobs, jobs[1:])))

    def test_on_a_terminal_one_line_is_redrawn_and_fits(self):
        pid, _, out = self.spawn_on_terminal("migrate", "web1", "--to", "beta", columns=60)
        text = out.until(None)
        self.assertEqual(self.exit_of(pid), 0)
        bars, rest = text.split("web1 moved to beta", 1)
        self.assertNotIn("\n", bars)
        self.assertRegex(bars, r"\rcopying pass \d \[[#.]+\] +\d+%")
        for bar in re.split(r"\r|\033\[K", bars):
            self.assertLess(len(bar), 60)
        self.assertTrue(bars.endswith("\r\033[K"))
        self.assertNotIn("\033", rest)

    def test_a_dumb_terminal_gets_plain_lines(self):
        self.env = lambda **kw: {**os.environ, "GODWIT_SOCKET": self.socket, "TERM": "dumb"}
        pid, _, out = self.spawn_on_terminal("migrate", "web1", "--to", "beta")
        self.assertNotIn("\033", out.until(None))
        self.assertEqual(self.exit_of(pid), 0)


class Interrupts(CliTest):
    def test_ctrl_c_cancels_once_and_says_so(self):
        pid, fd, out = self.spawn_on_terminal("migrate", "web1", "--to", "slow")
        out.until("copying")
        os.write(fd, b"\x03")
        out.until("cancelling the migration of web1")
        self.assertIn("web1 did not move to slow: cancelled; it runs here", out.until(None))
        self.assertEqual(self.exit_of(pid), 2)

    def test_ctrl_c_past_the_commit_completes(self):
        self.serve_slower()
        p, out = self.spawn("migrate", "web1", "--to", "late")
        out.until("copying pass 1")
        p.send_signal(signal.SIGINT)
        out.until("too late to cancel: the move is decided and will complete")
        self.assertEqual(self.finish(p, out), 0)
        self.assertIn("web1 moved to late", out.text)

    def test_a_second_ctrl_c_leaves_it_running(self):
        self.serve_slower()
        p, out = self.spawn("migrate", "web1", "--to", "late")
        out.until("copying pass 1")
        p.send_signal(signal.SIGINT)
        out.until("too late to cancel")
        p.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(p, out), 2)
        self.assertIn("the migration of web1 goes on ('godwit wait m-1' shows it)", out.text)
        self.assertIn("web1 moved to late", self.run_cli("wait", "m-1"))

    def test_ctrl_c_in_wait_does_not_cancel(self):
        self.run_cli("migrate", "web1", "--to", "slow", "--detach")
        p, out = self.spawn("wait", "m-1")
        out.until("copying")
        p.send_signal(signal.SIGINT)
        self.assertEqual(self.finish(p, out), 2)
        self.assertEqual(json.loads(self.run_cli("show", "m-1", "--json"))["state"], "copying")

    def test_a_cancel_from_elsewhere_is_a_failure_not_an_interrupt(self):
        p, out = self.spawn("migrate", "web1", "--to", "slow")
        out.until("copying")
        self.run_cli("cancel", "web1")
        self.assertEqual(self.finish(p, out), 1)
        self.assertIn("godwit: web1 did not move to slow: cancelled", out.text)

    def serve_slower(self):
        self.daemon.stop()
        self.daemon = self.serve(step_ms=300)


class Restarts(CliTest):
    def begin(self):
        p, out = self.spawn("migrate", "web1", "--to", "slow")
        out.until("copying")
        self.daemon.stop(signal.SIGKILL)
        out.until("lost godwitd, trying again for 30 s")
        return p, out

    def test_a_restarted_daemon_is_followed_again_by_job_id(self):
        p, out = self.begin()
        self.serve(self.socket, "m-1", "beta")
        self.assertEqual(self.finish(p, out), 0)
        self.assertIn("godwitd is back", out.text)
        self.assertIn("web1 moved to beta", out.text)

    def test_a_daemon_that_ends_in_order_is_followed_again_too(self):
        p, out = self.spawn("migrate", "web1", "--to", "slow")
        out.until("copying")
        self.assertEqual(self.daemon.stop(), 0)
        self.serve(self.socket, "m-1", "fails")
        self.assertEqual(self.finish(p, out), 1)

    def test_a_restarted_daemon_that_forgot_the_job_is_asked_for_the_vm(self):
        p, out = self.begin()
        self.serve()
        self.assertEqual(self.finish(p, out), 1)
        self.assertIn("web1 did not move: godwitd was restarted; it runs here", out.text)

    def test_an_interrupt_while_the_daemon_is_gone_is_obeyed(self):
        p, out = self.begin()
        p.send_signal(signal.SIGINT)
        out.until("could not cancel: cannot reach godwitd")
        p.send_signal(signal.SIGINT)
        self.assertEqual(self.finish(p, out), 2)


class Console(CliTest):
    def setUp(self):
        super().setUp()
        self.console = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.console.close)
        self.console.bind(self.folder + "/console.sock")
        self.console.listen(1)
        self.console.settimeout(PATIENCE_S)
        self.daemon.stop()
        self.daemon = self.serve(self.folder + "/console.sock")

    def test_keys_go_in_raw_output_comes_out_and_ctrl_bracket_ends_it(self):
        pid, fd, out = self.spawn_on_terminal("console", "web1")
        guest, _ = self.console.accept()
        out.until(r"Ctrl-\] ends the connection")
        guest.sendall(b"login: ")
        out.until("login: ")
        os.write(fd, b"ro\x03\x04ot\r")  # Ctrl-C and Ctrl-D are the guest's
        self.assertEqual(guest.recv(7, socket.MSG_WAITALL), b"ro\x03\x04ot\r")
        os.write(fd, b"x\x1dy")
        self.assertEqual(guest.recv(10, socket.MSG_WAITALL), b"x")  # then end of file
        guest.close()
        out.until(None)
        self.assertEqual(self.exit_of(pid), 0)

    def test_the_terminal_is_put_right_again(self):
        master, slave = pty.openpty()
        before = termios.tcgetattr(slave)
        for how in ("escape", "closed", "killed"):
            p = subprocess.Popen([GODWIT, "console", "web1"], env=self.env(), stdin=slave, stdout=slave,
                                 stderr=subprocess.DEVNULL)
            guest, _ = self.console.accept()
            guest.sendall(b"!")
            while termios.tcgetattr(slave) == before:
                time.sleep(0.01)
            if how == "escape":
                os.write(master, b"\x1d")
            elif how == "closed":
                guest.close()
            else:
                p.terminate()
            self.assertEqual(p.wait(PATIENCE_S), 2 if how == "killed" else 0)
            self.assertEqual(termios.tcgetattr(slave), before, how)
            guest.close()
        os.close(master)
        os.close(slave)

    def test_a_pipe_is_sent_and_the_answer_read_to_the_end(self):
        def guest():
            connection, _ = self.console.accept()
            with connection:
                data = connection.recv(9, socket.MSG_WAITALL)
                connection.sendall(b"got " + data)

        thread = threading.Thread(target=guest)
        thread.start()
        r = subprocess.run([GODWIT, "console", "web1"], env=self.env(), input=b"poweroff\x1d", capture_output=True,
                           timeout=PATIENCE_S, check=False)
        thread.join()
        self.assertEqual((r.returncode, r.stdout), (0, b"got poweroff\x1d"))

    def test_a_console_that_is_not_there_is_one_sentence(self):
        self.console.close()
        self.assertIn("cannot connect to the console at", self.run_cli("console", "web1", code=1))
        self.assertIn("no VM called 'web9'", self.run_cli("console", "web9", code=2))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
