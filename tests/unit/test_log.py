"""StarterLog: HTCondor's format, safe against what jobs write, bounded in size."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.log import MAX_LINE, StarterLog, escape

LINE = re.compile(r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d \(pid:\d+\) .*")


@pytest.mark.req("H3")
def test_lines_are_htcondors() -> None:
    out = io.StringIO()
    StarterLog(out, "(7.0) ").say("Create_Process succeeded, pid=12", slot="slot1")
    line = out.getvalue()
    assert LINE.fullmatch(line.rstrip("\n"))
    assert line.endswith(f"(pid:{os.getpid()}) (7.0) Create_Process succeeded, pid=12 slot=slot1\n")


@pytest.mark.req("H3")
def test_a_run_begins_and_ends_with_the_lines_that_tools_look_for() -> None:
    out = io.StringIO()
    log = StarterLog(out)
    log.banner("/usr/sbin/condor_starter")
    log.goodbye(0)
    text = out.getvalue()
    assert "** condor_starter (CONDOR_STARTER) STARTING UP\n" in text
    assert "** SubsystemInfo: name=STARTER type=STARTER(7) class=DAEMON(1)\n" in text
    assert f"** PID = {os.getpid()} RealUID = {os.getuid()}\n" in text
    assert f"**** condor_starter (condor_STARTER) pid {os.getpid()} EXITING WITH STATUS 0\n" in text


@pytest.mark.req("P6", "H3")
@given(st.text())
def test_nothing_that_is_logged_can_begin_a_line(text: str) -> None:
    assert len(escape(text).splitlines()) <= 1
    escape(text).encode()


def test_one_line_is_bounded() -> None:
    assert len(escape("x" * 10_000_000)) < MAX_LINE + 100


def test_the_file_is_renamed_to_old_when_it_is_full(tmp_path: Path) -> None:
    path = tmp_path / "StarterLog.slot1"
    log = StarterLog(path, limit=1000)
    for i in range(30):
        log.say(f"line {i:3} " + "x" * 40)
    log.close()
    old = tmp_path / "StarterLog.slot1.old"
    assert 0 < path.stat().st_size <= 1000 and 0 < old.stat().st_size <= 1000
    kept = (old.read_text() + path.read_text()).splitlines()
    assert [int(line.split("line")[1].split()[0]) for line in kept] == list(range(30 - len(kept), 30))


def test_two_starters_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "StarterLog"
    one, two = StarterLog(path), StarterLog(path)
    one.say("one")
    two.say("two")
    one.say("three")
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["one", "two", "three"]
    one.close()
    two.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_does_not_stop_a_job() -> None:
    log = StarterLog(Path("/dev/full"))
    log.say("lost")
    log.close()
