# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/bench.md and docs/bench.json out of single results."""
import datetime
import json
import os
import platform
import re
import subprocess
import time
from statistics import median

from harness import paths
from harness.beats import percentile
from loads import LINKS, LOADS, MEMORY_KIB
from qemu_modes import MODES

TITLES = {"godwit": "**Godwit**", **{name: f"QEMU {m.title}" for name, m in MODES.items()}}
TITLES["floor"] = "*" + MODES["floor"].title + "*"
BUSY = 0.1  # more than this of the CPU in use before the start is noise
METRICS = ("gap_ms", "worst_gap_ms", "total_s", "wire_bytes", "ram_used_bytes", "kept_during_copy", "kept_after",
           "work_after_Bps", "extra_memory_bytes", "daemon_bytes")


def busy_share(seconds=1.0):
    """Share of all CPUs' time that something uses just now."""
    def read():
        with open("/proc/stat") as f:
            times = [int(x) for x in f.readline().split()[1:9]]
        return times[3] + times[4], sum(times)
    idle, total = read()
    time.sleep(seconds)
    idle_after, total_after = read()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def machine():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"^model name\s*:\s*(.*)$", f.read(), re.M)
    qemu = subprocess.run([paths.QEMU, "--version"], capture_output=True, text=True).stdout.splitlines()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model.group(1) if model else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "qemu": qemu[0].replace("QEMU emulator version ", "") if qemu else "unknown",
        "busy_before": busy_share(),
        "accel": "tcg",
        "guest_memory_kib": MEMORY_KIB,
    }


def summarise(results):
    """{(link, load, mode): {"n", "converged", metric: {"median", "p99"}}} in the order of appearance."""
    groups = {}
    for r in results:
        groups.setdefault((r.link, r.load, r.mode), []).append(r)
    out = {}
    for key, group in groups.items():
        good = [r for r in group if r.converged]
        summary = {"n": len(good), "converged": bool(good), "errors": max((r.errors or 0 for r in group), default=0),
                   "note": next((r.note for r in group if r.note), "")}
        for metric in METRICS:
            values = [v for r in good if (v := getattr(r, metric)) is not None]
            if values:
                summary[metric] = {"median": median(values), "p99": percentile(values, 99)}
        out[key] = summary
    return out


def best_of_qemu(summary, link, load, metric):
    """(value, mode) of QEMU's best median; None when no mode has one."""
    found = [
        (s[metric]["median"], mode) for (li, lo, mode), s in summary.items()
        if (li, lo) == (link, load) and mode not in ("godwit", "floor") and metric in s
    ]
    return min(found) if found else None


def ratios(summary):
    """Godwit against QEMU's best mode of each row, separately for gap and total time."""
    rows = []
    for (link, load, mode), s in summary.items():
        if mode != "godwit":
            continue
        row = {"link": link, "load": load}
        for metric in ("gap_ms", "total_s"):
            best = best_of_qemu(summary, link, load, metric)
            if best and metric in s:
                row[metric] = {"godwit": s[metric]["median"], "qemu": best[0], "qemu_mode": best[1],
                               "ratio": s[metric]["median"] / best[0] if best[0] else None}
        rows.append(row)
    return rows


def _pair(s, metric, form, scale=1.0):
    if metric not in s:
        return "-"
    return " / ".join(form.format(s[metric][k] * scale) for k in ("median", "p99"))


def _one(s, metric, form, scale=1.0):
    return form.format(s[metric]["median"] * scale) if metric in s else "-"


def _row(mode, s):
    if not s["converged"]:
        return f"| {TITLES[mode]} | {s['note'] or 'did not converge'} | | | | | | | 0 |"
    wire = "-"
    if "wire_bytes" in s and "ram_used_bytes" in s:
        wire = f"{s['wire_bytes']['median'] / s['ram_used_bytes']['median']:.2f}"
    return "| " + " | ".join((
        TITLES[mode], _pair(s, "gap_ms", "{:.1f}"), _one(s, "worst_gap_ms", "{:.1f}"),
        _pair(s, "total_s", "{:.2f}"), wire, _one(s, "kept_during_copy", "{:.0f} %", 100),
        _one(s, "work_after_Bps", "{:.0f}", 1e-6), _one(s, "extra_memory_bytes", "{:.0f}", 1 / (1 << 20)),
        str(s["n"]))) + " |"


HEAD = (
    "| mode | gap ms, median / p99 | worst gap ms | total s, median / p99 | wire / RAM | beats kept in copy | "
    "MB/s after | extra MiB | n |\n|---|---|---|---|---|---|---|---|---|")

EXPLAINED = """\
One guest of {memory} MiB, 768 MiB of it filled with random data, under TCG, moved to and fro between two hosts;
all modes move the same guest, in turns. Every figure is taken from outside, by the same gauges:

- *gap*: from the last heartbeat (1 kHz, virtio-serial) from the source to the first from the target;
  *worst gap*: the largest between two heartbeats from the command to one second after the switch.
- *total*: from the command, creation of the target and population of its memory included, until the source's
  process and memory are gone.
- *wire / RAM*: bytes that the interfaces sent, over guest RAM in use. *Beats kept*: share of the expected
  heartbeats between the command and the switch. *MB/s after*: dirtied by the guest in the first 100 ms after it.
- *extra*: peak of private memory and RAM files in addition to guest RAM on both sides.
- *floor*: the hand-over of the same RAM file by `x-ignore-shared`, nothing copied: no migration has a smaller gap here.
"""


def markdown(info, results, rounds):
    summary = summarise(results)
    warning = ["**The machine was busy with other work: these figures compare nothing.**", ""]
    lines = [
        "# Godwit and QEMU's own migration, measured", "",
        f"{info['date']}; {info['cpus']} x {info['cpu']}; Linux {info['kernel']}; QEMU {info['qemu']}; "
        f"{rounds} rounds; CPU in use by others before: {info['busy_before'] * 100:.0f} %.", "",
        *(warning if info["busy_before"] > BUSY else []),
        EXPLAINED.format(memory=MEMORY_KIB // 1024)]
    for link in dict.fromkeys(r.link for r in results):
        lines += [f"## {LINKS[link].title}", ""]
        for load in dict.fromkeys(r.load for r in results if r.link == link):
            lines += [f"### {LOADS[load].title}", "", HEAD]
            rows = [(mode, s) for (li, lo, mode), s in summary.items() if (li, lo) == (link, load)]
            order = ["godwit", *MODES]
            lines += [_row(mode, s) for mode, s in sorted(rows, key=lambda r: order.index(r[0]))]
            lines.append("")
    compared = ratios(summary)
    if compared:
        lines += ["## Godwit over the best QEMU mode of each row (below 1 is better)", "",
                  "| link | load | gap | best mode | total | best mode | godwitd MiB at peak |",
                  "|---|---|---|---|---|---|---|"]
        for row in compared:
            cells = [LINKS[row["link"]].title, LOADS[row["load"]].title]
            for metric in ("gap_ms", "total_s"):
                r = row.get(metric)
                cells += [f"{r['ratio']:.2f}", TITLES[r["qemu_mode"]]] if r else ["-", "-"]
            cells.append(_one(summary[row["link"], row["load"], "godwit"], "daemon_bytes", "{:.0f}", 1 / (1 << 20)))
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def write(folder, info, results, rounds):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.md").write_text(markdown(info, results, rounds))
    summary = [
        {"link": link, "load": load, "mode": mode, **s} for (link, load, mode), s in summarise(results).items()]
    (folder / "bench.json").write_text(json.dumps(
        {"machine": info, "rounds": rounds, "summary": summary, "ratios": ratios(summarise(results)),
         "results": [r.as_dict() for r in results]}, indent=1) + "\n")
