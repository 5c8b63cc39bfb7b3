"""The runner of suites: one that fails stops nothing, is counted, and decides the exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from env import suites
from env.suites import Place, Result, Suite

TESTS = """
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2, "one is not two"
@pytest.fixture
def broken(): raise RuntimeError("no such thing")
def test_error(broken): pass
def test_skipped(): pytest.skip("not here")
@pytest.mark.xfail(reason="known")
def test_expected(): assert False
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    return Place(sys.executable, "", tmp_path)


def of(place: Place, *arguments: str) -> Suite:
    """A suite of pytest over a directory of its own."""

    def commands(_: Place, report: Path) -> list[tuple[str, list[str]]]:
        return [("pytest", suites.pytest(place, report, "--rootdir", str(place.work), *arguments))]

    return Suite("sample", commands, 1)


@pytest.fixture(autouse=True)
def no_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "SETUP", "true")


def test_every_outcome_of_pytest_is_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "ROOT", False)
    result = suites.run_suite(of(place, str(place.work / "test_it.py")), place)
    assert (result.passed, result.skipped) == (1, 2)
    failed, error = sorted(result.failures, reverse=True)
    assert failed.startswith("FAILED ")
    assert failed.endswith("test_it.py::test_bad - AssertionError: one is not two")
    assert error.startswith("ERROR ")
    assert "test_error" in error
    assert "no such thing" in error


def test_root_may_skip_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "ROOT", True)
    result = suites.run_suite(of(place, str(place.work / "test_it.py"), "-k", "skipped"), place)
    assert ["skipped, which root may not: not here" in f for f in result.failures] == [True]


@pytest.mark.parametrize("arguments", [["no/such/file"], ["-k", "nothing"]])
def test_a_run_without_tests_is_an_error(place: Place, arguments: list[str]) -> None:
    result = suites.run_suite(of(place, str(place.work / "test_it.py"), *arguments), place)
    assert [f.startswith("ERROR sample::pytest - exit status") for f in result.failures] == [True]


def test_a_suite_that_takes_too_long_is_ended_with_all_its_processes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "ENDINGS", [(n, min(seconds, 0.2)) for n, seconds in suites.ENDINGS])
    pid = place.work / "pid"
    stubborn = f"trap '' INT TERM; sleep 1000 & echo $! >{pid}; wait; wait; wait; wait"

    def commands(_: Place, report: Path) -> list[tuple[str, list[str]]]:
        return [("check", ["sh", "-c", stubborn])]

    begun = time.monotonic()
    result = suites.run_suite(Suite("slow", commands, 1 / 60), place)
    assert time.monotonic() - begun < 30
    assert result.failures == ["FAILED slow::check - took too long and was ended"]
    end = time.monotonic() + 5
    while running(int(pid.read_text())):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_set_up_that_fails_is_an_error_of_its_suite(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "SETUP", "false")
    assert suites.run_suite(of(place), place).failures == ["ERROR sample::set-up"]


def test_what_needs_root_is_left_out_and_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "ROOT", False)
    suite = of(place)
    assert suites.run_suite(Suite(suite.name, suite.commands, 1, root=True), place).left_out == "needs root"


def test_the_last_line_is_pytests_and_the_status_tells_failure(capsys: pytest.CaptureFixture[str]) -> None:
    suite = Suite("sample", lambda *_: [], 1)
    good, left_out = Result(suite, passed=3), Result(suite, left_out="needs root")
    bad = Result(suite, passed=2, skipped=1, failures=["FAILED a::b - c", "ERROR d::e"])
    assert suites.report([good, left_out], 1.5) == 0
    assert capsys.readouterr().out.splitlines()[-1].strip("=") == " 3 passed in 1.50s "
    assert suites.report([good, bad], 3723.0) == 1
    *_, header, first, second, last = capsys.readouterr().out.splitlines()
    assert header.strip("=") == " short test summary info "
    assert (first, second) == ("FAILED a::b - c", "ERROR d::e")
    assert last.strip("=") == " 1 failed, 5 passed, 1 skipped, 1 errors in 3723.00s (1:02:03) "


def test_a_wrong_name_is_bad_usage() -> None:
    done = subprocess.run([sys.executable, suites.__file__, "unit", "nonsense"], capture_output=True)
    assert done.returncode == 2


def running(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_the_machine_lacks_leaves_a_suite_out_and_is_said(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = Suite("sample", lambda *_: pytest.fail("it was run"), 1, lacks=lambda: "no floppy drive")
    assert suites.report([suites.run_suite(suite, place)], 1.0) == 0
    assert "left out: no floppy drive" in capsys.readouterr().out
