# SPDX-License-Identifier: LGPL-2.1-or-later
"""What must hold of every move of a VM, whatever the guest does."""
import threading

from . import ram
from .farm import move, wait_beating
from .wait import wait_for


class BothPaused:
    """Holds a daemon (the source's, by default) at a point where both copies are paused, so that the two RAM files
    can be compared from outside. Armed before the daemon starts; works for every migration from then on."""

    POINT = "source-ready-received"

    def __init__(self, host, point=POINT):
        self.host = host
        self.path = host.folder / "both-paused"
        host.faults = f"{point}=hold:{self.path}"

    @property
    def reached(self):
        return self.path.with_name("both-paused.reached")

    @property
    def go(self):
        return self.path.with_name("both-paused.go")

    def inspect(self, done, look):
        """Waits for the point, looks, lets go; what look() says, or None when the move ended first."""
        try:
            wait_for(lambda: self.reached.exists() or done.is_set(), 120, "both copies are paused")
            return look() if self.reached.exists() else None
        finally:
            self.go.touch()

    def reset(self):
        for path in (self.reached, self.go):
            path.unlink(missing_ok=True)


def wait_working(host, vm, reports_more=2):
    """A firmware guest reports some more clean passes there; '!' is its own check failing."""
    log = host.console_log(vm)

    def reports():
        text = log.read_text(errors="replace") if log.exists() else ""
        assert "!" not in text, "the guest found its memory broken"
        return text.count(".")
    seen = reports()
    wait_for(lambda: reports() >= seen + reports_more, 30,
             f"the guest works on {host.name}; daemon's log:\n{host.log()[-3000:]}")


def inspected_move(farm, vm, source, target, hold, look, *options):
    """A move, and what look() says while both copies stand still at `hold`: (job, begin_ns, end_ns), look()."""
    hold.reset()
    done = threading.Event()
    outcome = {}

    def run():
        try:
            outcome["move"] = move(farm, vm, source, target, *options)
        except BaseException as e:  # handed on below
            outcome["error"] = e
        finally:
            done.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        seen = hold.inspect(done, look)
    finally:
        thread.join()
    if "error" in outcome:
        raise outcome["error"]
    assert seen is not None, "the migration ended without both copies having stood paused"
    return outcome["move"], seen


def compared_move(farm, vm, source, target, hold, *options):
    """A move during which the two RAM files are compared byte for byte from outside."""
    def compare():
        (mine,), (theirs,) = farm[source].ram_files(vm), farm[target].ram_files(vm)
        return ram.compare(mine, theirs)
    moved, difference = inspected_move(farm, vm, source, target, hold, compare, *options)
    assert difference["different"] == 0, f"RAM differs: {difference}"
    assert difference["compared"] > 0
    return moved


def hold_when_committed(farm):
    """Arms every host of a farm that has not started yet: each move stands still before the guest runs at the target."""
    return {name: BothPaused(host, "target-commit-received") for name, host in farm.hosts.items()}


def equal_move(farm, vm, source, target, hold, *options):
    """A move in any mode whose RAM is equal byte for byte, once all of it is there and before the guest runs on."""
    def equal():
        (mine,), (theirs,) = farm[source].ram_files(vm), farm[target].ram_files(vm)
        wait_for(lambda: ram.compare(mine, theirs)["different"] == 0, 30, "both RAM files are equal", every=0.1)
        return ram.compare(mine, theirs)["compared"]
    moved, compared = inspected_move(farm, vm, source, target, hold, equal, *options)
    assert compared > 0
    return moved


def assert_done(job, verified=False):
    assert job["state"] == "done" and job["final"], job
    assert job["vm_is"] == "there", job
    if verified:
        assert job["report"]["verify"]["equal"] is True, job["report"]["verify"]
        assert job["report"]["verify"]["different_pages"] == 0


def assert_moved_once(farm, vm, beats, begin_ns, source, target):
    """The guest beats at the target, never again at the source (X1), its own checks are clean, and the
    source is free (N9). Returns the switch as the heartbeats saw it."""
    wait_beating(beats, farm.index(target))
    trace = beats.update()
    switches = [s for s in trace.switches() if s.first.host_ns > begin_ns]
    assert len(switches) == 1, f"the guest was seen to change hosts {len(switches)} times"
    assert (switches[0].from_source, switches[0].to_source) == (farm.index(source), farm.index(target))
    assert not trace.backward_steps(), f"the guest went back in time: {trace.backward_steps()[:3]}"
    assert trace.errors() == 0, f"the guest found {trace.errors()} broken pages"
    assert farm[target].has_running(vm)
    assert vm not in farm[source].vms()
    farm.wait_clean(vm, target)
    return switches[0]
