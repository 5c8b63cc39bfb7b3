"""Both starterctl and its procd killed: the next sweep finds what they left, and leaves nothing of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from system.run_help import Hand, sh


def until(what: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def sleeping(mark: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if words.startswith("sleep\0" + mark):
            found.append(pid)
    return found


@pytest.mark.req("X3", "X10", "G2")
def test_sweep_removes_what_a_killed_starter_and_procd_left(open_dir: Path, unique: str) -> None:
    hand = Hand(open_dir, unique)
    mark = f"9{os.getpid()}"
    process = hand.start("starterctl", "run", "-")
    assert process.stdin
    process.stdin.write(sh(f"touch {hand.home}/up; (setsid sleep {mark} &) ; exec sleep {mark}"))
    process.stdin.close()
    process.stdin = None
    until((hand.home / "up").exists)
    procd = children(process.pid)
    os.kill(process.pid, signal.SIGSTOP)  # neither may clean up after the other
    for pid in procd:
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.communicate(timeout=60)
    assert list((hand.run_dir / "ledger").glob("dir_*")) or list(hand.execute.iterdir())
    swept = hand.call("starterctl", "sweep")
    assert swept.status == 0, swept
    until(lambda: not sleeping(mark))
    assert hand.left() == []
    again = hand.call("starterctl", "sweep")
    assert again.status == 0 and again.out.startswith("0 boxes swept")


@pytest.mark.req("X3")
def test_the_next_run_cleans_up_as_well(open_dir: Path, unique: str) -> None:
    hand = Hand(open_dir, unique)
    mark = f"6{os.getpid()}"
    process = hand.start("starterctl", "run", "-")
    assert process.stdin
    process.stdin.write(sh(f"touch {hand.home}/up; exec sleep {mark}"))
    process.stdin.close()
    process.stdin = None
    until((hand.home / "up").exists)
    procd = children(process.pid)
    os.kill(process.pid, signal.SIGSTOP)
    for pid in procd:
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.communicate(timeout=60)
    assert hand.run(sh("exit 3")).status == 3
    until(lambda: not sleeping(mark) and hand.left() == [])
