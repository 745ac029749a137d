#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Manual pages and shell completion name what the programs take, and are well-formed.

Usage: test_manual.py SOURCE_ROOT GODWIT FAKE_GODWITD
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT, GODWIT, FAKE_GODWITD = sys.argv[1:4]
MANUALS = ("godwit.1", "godwit-vm.5", "godwitd.conf.5", "godwitd.8")


def text_of(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as f:
        return f.read()


def manual(name):
    return text_of("man", name).replace("\\&", "")


def table(source, start):
    """The quoted first words of the rows of a table in a C file."""
    return re.findall(r'\{ "([\w-]+)"', source[source.index(start):].split("\n};", 1)[0])


def help_options():
    out = subprocess.run([GODWIT, "--help"], capture_output=True, text=True, check=True, timeout=20).stdout
    commands = re.findall(r"(?m)^  ([a-z]+) ", out.split("options of all")[0])
    options = {}
    for command in commands:
        out = subprocess.run([GODWIT, command, "--help"], capture_output=True, text=True, check=True, timeout=20)
        options[command] = re.findall(r"(?m)^  --([\w-]+)", out.stdout.split("\noptions:\n")[1])
    return options


class Manuals(unittest.TestCase):
    def test_godwit_1_names_every_command_and_option(self):
        page = manual("godwit.1")
        for command, options in help_options().items():
            self.assertRegex(page, rf"(?m)^\.(It )?Ic {command}\b")
            for option in options:
                self.assertRegex(page, rf"Fl -{option}\b", command)

    def test_godwitd_8_names_every_option(self):
        for option in table(text_of("src/programs/godwitd.c"), "struct option options"):
            self.assertRegex(manual("godwitd.8"), rf"Fl -{option}\b")

    def test_godwitd_conf_5_names_every_key(self):
        keys = table(text_of("src/control/config.c"), "} keys[] =")
        self.assertGreater(len(keys), 10)
        for key in keys:
            self.assertRegex(manual("godwitd.conf.5"), rf"(?m)^\.It Ic {key}$")

    def test_godwit_vm_5_names_every_section_and_key(self):
        source, page = text_of("src/hypervisor/definition_keys.c"), manual("godwit-vm.5")
        for section in ("vm", "boot", "disk", "nic", "channel", "qemu"):
            self.assertRegex(page, rf"(?m)^\.Ss The sections? {section}\b")
            for key in table(source, f"{section}_keys[] =") if section != "channel" else ():
                self.assertRegex(page, rf"(?m)^\.It Ic {key}$", section)

    @unittest.skipUnless(shutil.which("mandoc"), "mandoc is not installed")
    def test_manuals_have_no_warnings(self):
        for name in MANUALS:
            r = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", os.path.join(ROOT, "man", name)],
                               capture_output=True, text=True, check=False, timeout=20)
            self.assertEqual((r.stdout, r.returncode), ("", 0))


class Completion(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="gw-completion-")
        self.addCleanup(folder.cleanup)
        os.symlink(os.path.abspath(GODWIT), folder.name + "/godwit")
        self.env = {**os.environ, "PATH": folder.name + ":" + os.environ["PATH"],
                    "GODWIT_SOCKET": folder.name + "/api.sock"}
        daemon = subprocess.Popen([FAKE_GODWITD, self.env["GODWIT_SOCKET"], "1000"], stdout=subprocess.PIPE)
        self.addCleanup(lambda: (daemon.terminate(), daemon.wait(20), daemon.stdout.close()))
        self.assertEqual(daemon.stdout.readline(), b"ready\n")

    def complete(self, line):
        script = ('source "$1"; COMP_WORDS=($2); [[ $2 == *" " ]] && COMP_WORDS+=("");'
                  "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _godwit; printf '%s\\n' \"${COMPREPLY[@]}\"")
        path = os.path.join(ROOT, "packaging/bash-completion/godwit")
        r = subprocess.run(["bash", "-c", script, "bash", path, line], env=self.env, capture_output=True,
                           text=True, check=True, timeout=20)
        self.assertEqual(r.stderr, "")
        return r.stdout.split()

    def test_commands_and_options_are_those_of_the_program(self):
        options = help_options()
        self.assertEqual(set(self.complete("godwit ")), set(options))
        for command, names in options.items():
            self.assertEqual(set(self.complete(f"godwit {command} --")), {f"--{n}" for n in names}, command)

    def test_names_of_vms_hosts_and_choices_are_offered(self):
        self.assertEqual(self.complete("godwit console "), ["web1", "db1"])
        self.assertEqual(self.complete("godwit migrate w"), ["web1"])
        self.assertEqual(self.complete("godwit migrate web1 --to "), ["beta", "slow"])
        self.assertEqual(self.complete("godwit migrate web1 --on-stall s"), ["switch", "stay"])
        self.assertEqual(self.complete("godwit --socket /nowhere console "), [])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
