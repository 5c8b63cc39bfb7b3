"""The tracker on this kernel's real cgroups: nothing in a box gets away, stays, or is lost sight of."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from condor_starter.isolation.boxplan import Limits
from condor_starter.procd.cgroups import files
from condor_starter.procd.cgroups.base import Base
from condor_starter.procd.cgroups.tracker import CgroupError, Tracker
from system.cgroup_help import (
    PATIENCE,
    eventually,
    fresh_base,
    kill_until_empty,
    layouts,
    make_sub,
    python,
    spawn,
    spawn_in,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes real cgroups: needs root")
LAYOUTS = layouts()
WITH_FREEZER = [kind for kind, layout in LAYOUTS.items() if "freezer" in layout.v1]

TREE = """
import os, time
for i in range(300):
    if os.fork() == 0:
        if i % 2: os.setsid()
        if i % 3 == 0 and os.fork(): os._exit(0)
        time.sleep(600)
        os._exit(0)
os.write(1, b"x")
time.sleep(600)
"""
BOMB = """
import os
while True:
    try:
        if os.fork() == 0: os.setsid()
    except OSError: pass
"""
TICKER = "import os, time\nwhile os.write(1, b'.'): time.sleep(0.002)"
SLEEP = ("sleep", "600")


@pytest.fixture(params=LAYOUTS)
def base(request: pytest.FixtureRequest) -> Iterator[Base]:
    with fresh_base(LAYOUTS[request.param]) as made:
        yield made


@pytest.fixture
def box(base: Base) -> Iterator[Tracker]:
    tracker = Tracker.create(base, "box")
    yield tracker
    tracker.remove(PATIENCE)
    tracker.close()


def ticks(fd: int, seconds: float = 0.2) -> int:
    """How many bytes arrive at ``fd`` from now on, those that wait already not counted."""
    while select.select([fd], [], [], 0)[0]:
        os.read(fd, 65536)
    time.sleep(seconds)
    return len(os.read(fd, 65536)) if select.select([fd], [], [], 0)[0] else 0


@pytest.mark.req("G1", "X1")
def test_the_plan_names_all_that_create_makes(base: Base) -> None:
    plan = Tracker.plan(base, "box")
    assert not any(os.path.exists(path) for path in plan.values())
    tracker = Tracker.create(base, "box")
    assert tracker.dirs == plan
    assert all(os.path.isdir(path) for path in plan.values())
    assert tracker.remove(PATIENCE) == ""
    assert not any(os.path.exists(path) for path in plan.values())
    tracker.close()


@pytest.mark.req("G2")
def test_kill_leaves_none_of_a_tree_of_300_half_of_them_in_sessions_of_their_own(box: Tracker) -> None:
    job = spawn(box, *python(TREE), stdout=-1)
    assert job.stdout and job.stdout.read(1) == b"x"
    assert len(box.processes()) > 250
    seconds = kill_until_empty(box)
    assert box.processes() == []
    assert job.wait(PATIENCE) == -signal.SIGKILL
    job.stdout.close()
    print(f"300 processes, kill to empty: {seconds * 1000:.1f} ms")


@pytest.mark.req("G2", "P1")
def test_kill_ends_a_live_fork_bomb(box: Tracker) -> None:
    assert box.limit(Limits(pids=300)) == []
    job = spawn(box, *python(BOMB))
    assert eventually(lambda: (box.usage().processes or 0) >= 290)
    seconds = kill_until_empty(box)
    job.wait(PATIENCE)
    print(f"fork bomb of 300, kill to empty: {seconds * 1000:.1f} ms")


@pytest.mark.req("G2")
def test_empty_fd_wakes_when_the_last_process_has_ended(box: Tracker) -> None:
    fd = box.empty_fd()
    assert (fd >= 0) == ("v2" in box.dirs)
    job = spawn(box, "sleep", "0.2")
    assert box.populated()
    poll = select.poll()
    if fd >= 0:
        poll.register(fd, select.POLLPRI)
        assert eventually(lambda: poll.poll(1000) and not box.populated())
    job.wait(PATIENCE)
    assert eventually(lambda: not box.populated())
    assert fd < 0 or poll.poll(0) == []


@pytest.mark.req("G7")
def test_a_frozen_box_stands_still_and_a_thawed_one_goes_on(box: Tracker) -> None:
    job = spawn(box, *python(TICKER), stdout=-1)
    assert job.stdout
    fd = job.stdout.fileno()
    assert eventually(lambda: ticks(fd))
    assert box.freeze(PATIENCE)
    assert ticks(fd) == 0
    assert box.freeze(PATIENCE), "freezing what is frozen is no error"
    box.thaw()
    assert eventually(lambda: ticks(fd))
    kill_until_empty(box)
    job.wait(PATIENCE)
    job.stdout.close()


@pytest.mark.req("G2", "G7")
def test_a_frozen_box_can_be_killed(box: Tracker) -> None:
    job = spawn(box, *SLEEP)
    assert box.freeze(PATIENCE)
    kill_until_empty(box)
    assert job.wait(PATIENCE) == -signal.SIGKILL


@pytest.mark.req("G2", "G7")
def test_a_stopped_process_dies_too(box: Tracker) -> None:
    job = spawn(box, *SLEEP)
    os.kill(job.pid, signal.SIGSTOP)
    kill_until_empty(box)
    assert job.wait(PATIENCE) == -signal.SIGKILL


@pytest.mark.req("G2", "D23")
def test_processes_in_sub_cgroups_are_seen_killed_and_removed(box: Tracker) -> None:
    inner = make_sub(box, "container")
    deeper = [f"{path}/deeper" for path in inner]
    for path in deeper:
        os.mkdir(path)
    jobs = [spawn_in([f"{path}/cgroup.procs" for path in level], *SLEEP) for level in (inner, deeper)]
    assert box.populated()
    assert box.processes() == sorted(job.pid for job in jobs)
    kill_until_empty(box)
    assert [job.wait(PATIENCE) for job in jobs] == [-signal.SIGKILL] * 2
    assert box.remove(PATIENCE) == ""
    assert not any(os.path.exists(path) for path in box.dirs.values())


def _freeze_alone(box: Tracker, name: str) -> None:
    """Freeze one sub-cgroup by itself, as ``docker pause`` does."""
    if "v2" in box.dirs:
        files.write(f"{box.dirs['v2']}/{name}/cgroup.freeze", "1")
    if "freezer" in box.dirs:
        files.write(f"{box.dirs['freezer']}/{name}/freezer.state", "FROZEN")


@pytest.mark.req("G7", "D21")
def test_thaw_reaches_a_sub_cgroup_that_was_frozen_by_itself(box: Tracker) -> None:
    inner = make_sub(box, "container")
    job = spawn_in([f"{path}/cgroup.procs" for path in inner], *python(TICKER), stdout=-1)
    assert job.stdout
    fd = job.stdout.fileno()
    _freeze_alone(box, "container")
    assert eventually(lambda: ticks(fd) == 0)
    assert box.freeze(PATIENCE)
    box.thaw()
    assert eventually(lambda: ticks(fd))
    kill_until_empty(box)
    job.wait(PATIENCE)
    job.stdout.close()


@pytest.mark.req("G2", "D23")
def test_kill_and_removal_reach_a_sub_cgroup_that_was_frozen_by_itself(box: Tracker) -> None:
    inner = make_sub(box, "container")
    job = spawn_in([f"{path}/cgroup.procs" for path in inner], *SLEEP)
    _freeze_alone(box, "container")
    start = time.monotonic()
    assert box.remove(PATIENCE) == ""
    assert time.monotonic() - start < PATIENCE
    assert job.wait(PATIENCE) == -signal.SIGKILL


if "hybrid" in LAYOUTS:

    @pytest.mark.req("D23", "X1")
    @pytest.mark.parametrize("nested", [False, True])
    def test_processes_that_only_v1_knows_are_frozen_counted_killed_and_removed(nested: bool) -> None:
        with fresh_base(LAYOUTS["hybrid"]) as made:
            box = Tracker.create(made, "box")
            top = [path for key, path in box.dirs.items() if key != "v2"]
            if nested:
                top = [path for path in make_sub(box, "container") if not path.startswith(box.dirs["v2"])]
            mine = spawn(box, *SLEEP)
            procs = [f"{path}/cgroup.procs" for path in top]
            theirs = spawn_in(procs, *python(TICKER), stdout=-1)
            assert theirs.stdout
            fd = theirs.stdout.fileno()
            assert box.processes() == sorted([mine.pid, theirs.pid])
            assert eventually(lambda: ticks(fd))
            assert box.freeze(PATIENCE)
            assert ticks(fd) == 0
            box.thaw()
            assert eventually(lambda: ticks(fd))
            os.kill(mine.pid, signal.SIGKILL)
            mine.wait(PATIENCE)
            assert box.populated(), "the v2 tree is empty, the box is not"
            kill_until_empty(box)
            assert theirs.wait(PATIENCE) == -signal.SIGKILL
            theirs.stdout.close()
            assert box.remove(PATIENCE) == ""
            box.close()


@pytest.mark.req("G2")
def test_remove_kills_what_is_left(box: Tracker) -> None:
    job = spawn(box, *SLEEP)
    assert box.remove(PATIENCE) == ""
    assert job.wait(PATIENCE) == -signal.SIGKILL


if WITH_FREEZER:

    @pytest.mark.req("G2")
    @pytest.mark.parametrize("kind", WITH_FREEZER)
    def test_what_cannot_be_killed_is_told_in_words_and_in_time(kind: str) -> None:
        with fresh_base(LAYOUTS[kind]) as made:
            box = Tracker.create(made, "box")
            job = spawn(box, *SLEEP)
            files.write(f"{made.dirs['freezer']}/freezer.state", "FROZEN")  # above the box: not ours to thaw
            start = time.monotonic()
            words = box.remove(0.3)
            assert 0.3 <= time.monotonic() - start < PATIENCE
            files.write(f"{made.dirs['freezer']}/freezer.state", "THAWED")
            assert f"pid {job.pid} (sleep) state " in words
            assert box.dirs["memory"] in words
            assert box.remove(PATIENCE) == ""
            job.wait(PATIENCE)
            box.close()


@pytest.mark.req("X3")
def test_a_successor_takes_over_from_the_ledger(box: Tracker) -> None:
    job = spawn(box, *python(TICKER), stdout=-1)
    assert job.stdout
    fd = job.stdout.fileno()
    assert eventually(lambda: ticks(fd))
    assert box.freeze(PATIENCE)
    box.close()
    heir = Tracker.reopen(json.loads(json.dumps(box.dirs)))
    assert heir.processes() == [job.pid]
    assert heir.oom_kills() == 0 and not heir.oom_struck()
    heir.thaw()
    assert eventually(lambda: ticks(fd))
    assert heir.usage().user_usec + heir.usage().system_usec > 0
    kill_until_empty(heir)
    assert heir.remove(PATIENCE) == ""
    heir.close()
    job.wait(PATIENCE)
    job.stdout.close()


@pytest.mark.req("X3")
def test_a_vanished_cgroup_is_no_error(box: Tracker) -> None:
    before = box.usage()
    box.oom_fd(), box.empty_fd()
    assert Tracker.reopen(box.dirs).remove(PATIENCE) == ""
    for tracker in (box, Tracker.reopen(box.dirs)):
        tracker.kill()
        tracker.thaw()
        assert tracker.freeze(0.05)
        assert not tracker.populated()
        assert tracker.processes() == []
        assert tracker.clone_fd() == -1
        assert tracker.oom_kills() == 0 and not tracker.oom_struck()
        assert tracker.usage().memory_bytes is None
        assert (tracker.usage().user_usec, tracker.usage().system_usec) == before[:2]
        assert tracker.remove(0.05) == ""
        tracker.close()


@pytest.mark.req("G1")
def test_an_empty_leftover_of_that_name_is_replaced_with_its_sub_cgroups(base: Base) -> None:
    old = Tracker.create(base, "box")
    old.limit(Limits(pids=7))
    make_sub(old, "inner")
    new = Tracker.create(base, "box")
    assert not any(os.path.exists(f"{path}/inner") for path in new.dirs.values())
    pids = Path(new.dirs.get("pids", new.dirs.get("v2", "")), "pids.max")
    assert pids.read_text() == "max\n"
    assert new.remove(PATIENCE) == ""
    old.close(), new.close()


@pytest.mark.req("G1", "P3")
def test_a_populated_cgroup_of_that_name_is_refused_and_unharmed(base: Base) -> None:
    first = Tracker.create(base, "box")
    job = spawn(first, *SLEEP)
    with pytest.raises(CgroupError, match=r"make cgroup .*/box: File exists") as refused:
        Tracker.create(base, "box")
    assert refused.value.errno == errno.EEXIST
    assert first.processes() == [job.pid]
    assert all(os.path.isdir(path) for path in first.dirs.values())
    assert first.remove(PATIENCE) == ""
    job.wait(PATIENCE)
    first.close()


@pytest.mark.req("G2")
def test_sub_cgroups_deep_and_wide_are_removed(box: Tracker) -> None:
    top = box.dirs.get("v2") or box.dirs["freezer"]
    for i in range(200):
        os.mkdir(f"{top}/wide{i}")
    fd = os.open(top, os.O_RDONLY)
    for _ in range(200):
        os.mkdir("deep" * 15, dir_fd=fd)  # in all longer than any path may be
        inner = os.open("deep" * 15, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    job = spawn_in([f"/proc/self/fd/{fd}/cgroup.procs"], *SLEEP, pass_fds=[fd])
    os.close(fd)
    assert box.processes() == [job.pid]
    assert box.remove(PATIENCE) == ""
    assert job.wait(PATIENCE) == -signal.SIGKILL


@pytest.mark.req("P9")
def test_a_hundred_boxes_leave_no_cgroup_and_no_descriptor(base: Base) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for i in range(100):
        box = Tracker.create(base, f"box{i}")
        box.limit(Limits(memory=64 << 20, swap=0, cpu_shares=100, pids=50))
        box.oom_fd(), box.empty_fd(), box.usage()
        os.close(box.clone_fd()) if "v2" in box.dirs else None
        assert box.remove(PATIENCE) == ""
        box.close()
    assert len(os.listdir("/proc/self/fd")) == before
    for path in base.dirs.values():
        assert [e.name for e in os.scandir(path) if e.is_dir()] == []


def test_clone_fd_is_the_v2_cgroup_itself(box: Tracker) -> None:
    fd = box.clone_fd()
    assert (fd >= 0) == ("v2" in box.dirs)
    if fd >= 0:
        assert os.path.samestat(os.fstat(fd), os.stat(box.dirs["v2"]))
        assert not os.get_inheritable(fd)
        os.close(fd)
