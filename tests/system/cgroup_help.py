"""Real cgroups for tests: the layouts this machine can show, a base for each test, processes in boxes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from condor_starter.procd.cgroups import files
from condor_starter.procd.cgroups.base import Base, base, remove_base
from condor_starter.procd.cgroups.detect import Layout, read_layout
from condor_starter.procd.cgroups.tracker import Tracker

HERE = read_layout()
PATIENCE = 20.0  # seconds; a bound for what takes milliseconds, also on an emulated machine


def layouts() -> dict[str, Layout]:
    """This machine's layout, and on a hybrid one what it would be without its v2 tree."""
    found = {HERE.kind: HERE}
    if HERE.kind == "hybrid":
        found["v1"] = Layout("v1", HERE.v1)
    return found


@contextmanager
def fresh_base(layout: Layout, name: str = "") -> Iterator[Base]:
    """A base that no other test has; removed afterwards with whatever a failing test left in it."""
    made = base(layout, name or f"test-cgroup-{os.getpid()}-{time.monotonic_ns()}", root=os.geteuid() == 0)
    assert made.kind != "none", made.notes
    try:
        yield made
    finally:
        left = Tracker.reopen(dict(made.dirs))
        words = left.remove(PATIENCE)
        left.close()
        remove_base(made)
        assert words == ""


def spawn(tracker: Tracker, *argv: str, v2: bool = True, **more: object) -> subprocess.Popen[bytes]:
    """Start ``argv`` in the box; without ``v2`` as a container engine does, in the v1 hierarchies only."""
    return spawn_in(
        [f for f in tracker.join_files(with_v2=True) if v2 or not _is_v2(tracker, f)], *argv, **more
    )


def _is_v2(tracker: Tracker, path: str) -> bool:
    return path.startswith(tracker.dirs.get("v2", "//") + "/")


def spawn_in(procs: list[str], *argv: str, **more: object) -> subprocess.Popen[bytes]:
    """Start ``argv`` in the cgroups whose cgroup.procs files are given."""

    def join() -> None:
        for path in procs:
            files.write(path, "0")

    return subprocess.Popen(argv, preexec_fn=join, **more)  # type: ignore[call-overload,no-any-return]


def python(code: str) -> tuple[str, ...]:
    """argv of a bare Python that runs ``code``."""
    return (sys.executable, "-I", "-S", "-c", code)


def eventually(true: Callable[[], object], patience: float = PATIENCE) -> bool:
    """Whether ``true`` becomes so within ``patience`` seconds."""
    end = time.monotonic() + patience
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def kill_until_empty(tracker: Tracker, patience: float = PATIENCE) -> float:
    """Kill rounds until nothing lives in the box, as procd does it; the seconds that it took."""
    start = time.monotonic()

    def empty() -> bool:
        tracker.kill()
        return not tracker.populated()

    assert eventually(empty, patience), f"still alive: {tracker.processes()}"
    return time.monotonic() - start


def make_sub(tracker: Tracker, name: str) -> list[str]:
    """A sub-cgroup of the box in each of its hierarchies; their directories."""
    paths = [f"{path}/{name}" for path in dict.fromkeys(tracker.dirs.values())]
    for path in paths:
        os.mkdir(path)
    return paths
