#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/wire.md says the same as src/wire/wire.h: names, numbers, sizes, limits.

Usage: test_wire_page.py SOURCE_ROOT
"""
import re
import sys
import unittest
from pathlib import Path

ROOT = Path(sys.argv[1])
HEADER = (ROOT / "src/wire/wire.h").read_text()
CODEC = (ROOT / "src/wire/codec.c").read_text()
PAGE = (ROOT / "docs/wire.md").read_text()


def numbers(prefix, text=HEADER):
    """{"PREPARE": 1, ...} of an enum's lines."""
    return {name: int(n) for name, n in re.findall(rf"\b{prefix}(\w+) = (\d+),", text)}


def enum(name):
    return re.search(rf"enum {name} {{(.*?)}};", HEADER, re.S)[1]


def size_of(struct):
    return int(re.search(rf"sizeof\(struct {struct}\) == (\d+)", HEADER)[1])


class Page(unittest.TestCase):
    def test_every_frame_has_its_row_and_its_number(self):
        frames = numbers("GW_WIRE_", enum("gw_wire_frame_type"))
        rows = {name: int(n) for n, name in re.findall(r"^\| (\d+) ([A-Z]+) \| (?:S to T|T to S|both) \|", PAGE, re.M)}
        self.assertEqual(rows, frames)

    def test_frames_of_fixed_length_are_as_long_as_their_structs(self):
        fixed = re.findall(r'FIXED_ROW\("(\w+)", struct (\w+)\)', CODEC)
        self.assertGreater(len(fixed), 5)
        for name, struct in fixed:
            self.assertRegex(PAGE, rf"(?m)^\| \d+ {name} \|.*\| {size_of(struct)} \|$")

    def test_roles_and_answers_have_their_numbers(self):
        roles = numbers("GW_WIRE_ROLE_")
        rows = re.findall(r"^\| (\d) ([A-Z]+) \| (?:source|target) to", PAGE, re.M)
        self.assertEqual({name: int(n) for n, name in rows}, roles)
        for name, n in numbers("GW_WIRE_ANSWER_").items():
            self.assertIn(f"{n} {name.lower()}", PAGE)

    def test_fields_of_the_greeting_add_up(self):
        for title, struct in (("hello", "gw_wire_hello"), ("welcome", "gw_wire_welcome"), ("batch", "gw_wire_batch"),
                              ("run", "gw_wire_run")):
            rows = re.search(rf"^\| {title} \| bytes \|.*?\n\n", PAGE, re.M | re.S)[0].splitlines()[2:]
            # "2 (after 1 reserved)", "2 + 2", "8"
            cells = [row.split("|")[2] for row in rows if row]
            self.assertEqual(sum(int(n) for cell in cells for n in re.findall(r"\d+", cell)), size_of(struct), title)

    def test_run_kinds_and_features_have_their_numbers(self):
        rows = re.findall(r"^\| (\d) ([A-Z0-9]+) \| (?:its pages|nothing|packed_bytes)", PAGE, re.M)
        self.assertEqual({name: int(n) for n, name in rows}, numbers("GW_WIRE_RUN_", enum("gw_wire_run_kind")))
        for name, bit in re.findall(r"#define GW_WIRE_FEATURE_(\w+) 0x([0-9a-f]+)u", HEADER):
            self.assertRegex(PAGE, rf"(?i)bit {int(bit, 16).bit_length() - 1} \(`{name}`\)")

    def test_limits_are_those_of_the_header(self):
        limits = {name: int(n) for name, n in re.findall(r"#define GW_WIRE_(\w+) (\d+)u?\b", HEADER)}
        for text in (f"({limits['PORT']} by default)", f"at most {limits['TEXT_MAX']}",
                     f"/ {limits['STRIPE_PAGES']}) % channels", f"1 to {limits['RUNS_MAX']};",
                     f"at most {limits['BATCH_PAGES_MAX']} pages",
                     f"has at most {limits['PACKED_PAGES_MAX']} pages", f"0 to {limits['EXTENTS_MAX']} x 16",
                     f"16 to {limits['DIGESTS_MAX']} x 16", f"(1 to {limits['CHANNELS_MAX']})"):
            self.assertIn(text, PAGE)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
