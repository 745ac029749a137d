# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/bench.md and docs/bench.json out of single results. The file is added to row by row."""
import json
import re
from statistics import median

import extras
import targets
from gauge import limit_s
from godwit_mode import MODES as GODWIT
from harness.beats import percentile
from loads import ROWS
from machine import BUSY
from measure import Result
from qemu_modes import MODES as QEMU

TITLES = {**{n: f"**{m.title}**" for n, m in GODWIT.items()}, **{n: f"QEMU {m.title}" for n, m in QEMU.items()}}
TITLES["floor"] = "*" + QEMU["floor"].title + "*"
ORDER = [*GODWIT, *QEMU]
METRICS = ("gap_ms", "worst_gap_ms", "total_s", "wire_bytes", "ram_used_bytes", "kept_during_copy", "kept_after",
           "work_before_Bps", "work_after_Bps", "to_full_ms", "extra_memory_bytes", "daemon_bytes")
PHASES_SHOWN = 6


def read(path):
    """What was measured before; an empty file's contents when there is none of this form."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        data = {}
    if not isinstance(data.get("rows"), dict):
        data = {"rows": {}, "extras": {}}
    return data


def row_entry(info, turns, gauge, seconds):
    return {"machine": info, "rounds": turns.rounds, "runs": turns.runs, "seconds": round(seconds), "gauge": gauge,
            "left_out": turns.left_out, "results": [r.as_dict() for r in turns.results]}


def _summarise_mode(group, left_out):
    good = [r for r in group if r.converged]
    summary = {"n": len(good), "tried": len(group), "errors": max((r.errors or 0 for r in group), default=0),
               "note": left_out or next((r.note for r in group if r.note), "")}
    lists = {m: [v for r in good if (v := getattr(r, m)) is not None] for m in METRICS}
    lists["wire_of_ram"] = [r.wire_bytes / r.ram_used_bytes for r in good if r.wire_bytes and r.ram_used_bytes]
    lists["speed_after"] = [r.work_after_Bps / r.work_before_Bps for r in good
                            if r.work_before_Bps and r.work_after_Bps is not None]
    for metric, values in lists.items():
        if values:
            summary[metric] = {"median": median(values), "p99": percentile(values, 99)}
    # A guest that is never back at its speed within what was listened to is worse than any figure.
    if good and len(lists["to_full_ms"]) * 2 < len(good):
        summary.pop("to_full_ms", None)
    return summary


def summarise(data):
    """{(row, mode): {"n", "tried", metric: {"median", "p99"}}}."""
    out = {}
    for row in (r for r in ROWS if r in data["rows"]):
        entry = data["rows"][row]
        groups = {mode: [] for mode in entry["left_out"]}
        for r in entry["results"]:
            groups.setdefault(r["mode"], []).append(Result(**r))
        for mode in sorted(groups, key=ORDER.index):
            out[row, mode] = _summarise_mode(groups[mode], entry["left_out"].get(mode, ""))
    return out


def _one(s, metric, form, scale=1.0):
    return form.format(s[metric]["median"] * scale) if metric in s else "-"


def _pair(s, metric, form, scale=1.0):
    return " / ".join(form.format(s[metric][k] * scale) for k in ("median", "p99")) if metric in s else "-"


HEAD = (
    "| mode | gap ms, median / p99 | above floor | worst gap ms | total s, median / p99 | wire / RAM | beats kept | "
    "to 90 % ms | speed after | extra MiB | n |\n|---|---|---|---|---|---|---|---|---|---|---|")


def _mode_line(mode, s, floor_ms):
    if not s["n"]:
        return f"| {TITLES[mode]} | {s['note'] or 'did not converge'} | | | | | | | | | 0 of {s['tried']} |"
    above = f"{s['gap_ms']['median'] - floor_ms:.1f}" if floor_ms is not None and mode != "floor" else ""
    n = str(s["n"]) if s["n"] == s["tried"] else f"{s['n']} of {s['tried']}"
    return "| " + " | ".join((
        TITLES[mode], _pair(s, "gap_ms", "{:.1f}"), above, _one(s, "worst_gap_ms", "{:.1f}"),
        _pair(s, "total_s", "{:.2f}"), _one(s, "wire_of_ram", "{:.2f}"), _one(s, "kept_during_copy", "{:.1f} %", 100),
        _one(s, "to_full_ms", "{:.0f}"), _one(s, "speed_after", "{:.0f} %", 100),
        _one(s, "extra_memory_bytes", "{:.0f}", 1 / (1 << 20)), n)) + " |"


def _busy_line(entry):
    shares = [r["busy"] for r in entry["results"] if r["busy"] is not None]
    if not shares:
        return ""
    words = f"CPU in use by others between the runs: median {median(shares):.0%}, at most {max(shares):.0%}."
    return f"**The machine was busy: these figures compare little.** {words}" if median(shares) > BUSY else words


def _phases_line(entry):
    """Where Godwit itself says that the time went."""
    found = {}
    for r in entry["results"]:
        if r["mode"] == "godwit" and r["converged"]:
            for name, ms in (r["phases_ms"] or {}).items():
                found.setdefault(name, []).append(ms)
    largest = sorted(((median(v), k) for k, v in found.items()), reverse=True)[:PHASES_SHOWN]
    return "Godwit's own account, ms: " + ", ".join(f"{k} {ms:.1f}" for ms, k in largest) + "." if largest else ""


def _row_lines(data, summary, row):
    entry = data["rows"][row]
    modes = {mode: s for (r, mode), s in summary.items() if r == row}
    floor_ms = targets.value(summary, row, "floor", "gap_ms")
    info = entry["machine"]
    few = [TITLES[m] for m, s in modes.items() if 0 < s["n"] == s["tried"] and s["note"]]
    return [
        f"### {ROWS[row].title}", "",
        f"Row `{row}`; {info['date']}, {info['godwit']} ({info['source']}), {entry['rounds']} rounds, "
        f"{entry['seconds'] / 60:.0f} min. {_busy_line(entry)}", "",
        HEAD, *(_mode_line(m, s, floor_ms) for m, s in modes.items()), "",
        *([_phases_line(entry), ""] if _phases_line(entry) else []),
        *(["Fewer runs, being clearly not the best: " + "; ".join(few) + ".", ""] if few else []),
    ]


def _limit_lines(data, summary):
    lines = []
    for row, entry in data["rows"].items():
        s, gauge, floor = summary.get((row, "godwit")), entry["gauge"], summary.get((row, "floor"))
        if not (s and gauge and s["n"] and floor and floor["n"]):
            continue
        wire, ram = s["wire_bytes"]["median"], s["ram_used_bytes"]["median"]
        fixed, total = floor["total_s"]["median"], s["total_s"]["median"]
        least, in_turn = limit_s(gauge, wire, ram, fixed)
        lines.append("| " + " | ".join((
            row, f"{wire / 1e6:.0f}", *(f"{gauge[k] / 1e9:.2f}" for k in (
                "link_Bps", "memcpy_Bps", "first_touch_huge_Bps", "first_touch_4k_Bps")),
            f"{wire / gauge['link_Bps']:.2f}", f"{ram / gauge['first_touch_huge_Bps']:.2f}", f"{fixed:.2f}",
            f"{least:.2f}", f"{in_turn:.2f}", f"{total:.2f}", f"{total / least:.1f} / {total / in_turn:.1f}")) + " |")
    if not lines:
        return []
    return [
        "## How far from the limit", "",
        "Rates of this machine, measured in the same run: one TCP link between the two hosts (the better of one and "
        "two streams), memcpy and first touch of fresh shared memory by one thread. *Fixed* is the floor's own total: "
        "processes and device state. The limit when all of that overlaps, the limit when one comes after the other, "
        "as it must where two cores also run the guest; then Godwit's total, and how many times each limit it is.", "",
        "| row | MB on the wire | link GB/s | memcpy GB/s | first touch GB/s, 2M | 4K | on the link s | touching s | "
        "fixed s | limit s, overlapped | in turn | total s | x limits |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|", *lines, ""]


def _target_lines(found):
    if not found:
        return []
    verdict = {True: "pass", False: "**fail**", None: "-"}
    missed = sum(1 for t in found if t.ok is False)
    return [f"## Targets: {len(found) - missed} of {len(found)} are met", "", "| row | target | wanted | measured | |",
            "|---|---|---|---|---|",
            *(f"| {t.row} | {t.what} | {t.wanted} | {t.figure} | {verdict[t.ok]} |" for t in found), ""]


EXPLAINED = """\
A guest under TCG, filled with random data (`files`: it has read a disk of programs and libraries), moved to and fro
between two hosts; all modes move the same guest, in turns. Every figure is taken from outside, by the same gauges:

- *gap*: from the last heartbeat (1 kHz, virtio-serial) from the source to the first from the target;
  *worst gap*: the largest between two heartbeats from the command to one second after the switch.
- *floor*: the hand-over of the same RAM file by `x-ignore-shared`, nothing copied: no migration has a smaller gap here.
  *Above floor*: median less the floor's median.
- *total*: from the command, creation of the target and population of its memory included, until the source's
  process and memory are gone.
- *wire / RAM*: bytes that the interfaces sent, over guest RAM in use. *Beats kept*: share of the expected
  heartbeats between the command and the switch.
- *to 90 %*: from the first heartbeat at the target to the first 20 ms in which the guest does 90 % of the work that
  it did before the command. *Speed after*: its work in the first 100 ms, of that before.
- *extra*: peak of private memory and RAM files in addition to guest RAM on both sides.
- *n*: runs. Modes of QEMU that are clearly not the best are dropped after three.
"""

MEMORY_HELD = """\
The machine is a virtual one that gives free memory back to its host, from where it comes again at about 0.3 GB/s; for
the time of the bench its kernel was asked to hold free memory for a minute (tests/bench/warm.py).
"""


def markdown(data, summary, found):
    machines = [e["machine"] for e in data["rows"].values()] or [data["machine"]]
    info = machines[-1]
    busy = [""] if all(m["busy_before"] <= BUSY for m in machines) else [
        "", "**The machine was busy with other work before some of the rows: those figures compare little.**", ""]
    lines = [
        "# Godwit and QEMU's own migration, measured", "",
        f"{info['date']}; {info['cpus']} x {info['cpu']}, {info['memory_mib'] // 1024} GiB; Linux {info['kernel']}; "
        f"QEMU {info['qemu']}.", *busy, EXPLAINED, *([MEMORY_HELD, ""] if data.get("memory_held") else []), *_target_lines(found), "## The rows", ""]
    for row in dict.fromkeys(r for r, _ in summary):
        lines += _row_lines(data, summary, row)
    lines += _limit_lines(data, summary)
    for name, entry in data.get("extras", {}).items():
        lines += [extras.markdown(name, entry), ""]
    return "\n".join(lines).rstrip() + "\n"


def _compact_json(data):
    """Indented, but each result on a line of its own."""
    lines = {}

    def shorten(value):
        if isinstance(value, dict) and "converged" in value:
            lines[f"@{len(lines)}@"] = json.dumps(value)
            return list(lines)[-1]
        if isinstance(value, dict):
            return {k: shorten(v) for k, v in value.items()}
        return [shorten(v) for v in value] if isinstance(value, list) else value

    text = json.dumps(shorten(data), indent=1)
    return re.sub(r'"(@\d+@)"', lambda m: lines[m[1]], text) + "\n"


def write(folder, data):
    """Both files anew; called after every row."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarise(data)
    found = targets.evaluate(summary)
    data["summary"] = [{"row": row, "mode": mode, **s} for (row, mode), s in summary.items()]
    data["targets"] = [t.as_dict() for t in found]
    (folder / "bench.json").write_text(_compact_json(data))
    (folder / "bench.md").write_text(markdown(data, summary, found))
    return found
