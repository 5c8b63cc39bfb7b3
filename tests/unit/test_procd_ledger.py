"""The ledger: whatever a crash cut off, what was written before it is found, by one owner at a time."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from condor_starter.procd.init import BEGUN
from condor_starter.procd.ledger import Entry, Ledger, Status


@pytest.fixture
def run(tmp_path: Path) -> str:
    return str(tmp_path / "run")


def done(run: str) -> dict[str, list[dict[str, object]]]:
    return {p.name: [json.loads(x) for x in p.read_text().splitlines()] for p in Path(run, "done").iterdir()}


def crash(ledger: Ledger, *entries: Entry) -> None:
    """What the kernel does for a process that is killed: its locks go, its files stay."""
    for entry in entries:
        entry.abandon()


@pytest.mark.req("X3")
def test_what_was_noted_is_found_by_the_next_owner(run: str) -> None:
    first = Ledger(run, 10)
    entry = first.create("b1", kind="box", scratch="d")
    entry.note(pid=5)
    entry.note(pid=6, extra=[1])
    assert Ledger(run, 10).orphans() == []  # its owner lives
    crash(first, entry)
    (found,) = Ledger(run, 10).orphans()
    assert found.facts == {"kind": "box", "scratch": "d", "pid": 6, "extra": [1]}
    found.abandon()


@pytest.mark.req("X3", "X10")
def test_an_entry_cut_at_any_byte_is_read_up_to_there(run: str) -> None:
    first = Ledger(run, 10)
    entry = first.create("b", kind="box")
    entry.note(pid=1234)
    crash(first, entry)
    path = Path(run, "ledger", "b")
    whole = path.read_bytes()
    first_line = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        (found,) = Ledger(run, 10).orphans()
        expected = {"kind": "box"} if cut >= first_line - 1 else {}
        if cut >= len(whole) - 1:
            expected["pid"] = 1234
        assert found.facts == expected
        found.note(more=1)
        crash(first, found)
        (again,) = Ledger(run, 10).orphans()
        assert again.facts == expected | {"more": 1}
        again.abandon()


@pytest.mark.req("X3")
def test_closing_twice_leaves_one_terminal_record(run: str) -> None:
    ledger = Ledger(run, 10)
    entry = ledger.create("b", kind="box")
    entry.note(terminal={"state": "exited"})  # killed between the record and the rename
    crash(ledger, entry)
    (found,) = Ledger(run, 10).orphans()
    assert found.close(state="undone") == {"state": "exited"}
    assert [line["terminal"] for line in done(run)["b"] if "terminal" in line] == [{"state": "exited"}]
    assert Ledger(run, 10).orphans() == []


def test_a_box_has_one_entry(run: str) -> None:
    ledger = Ledger(run, 10)
    entry = ledger.create("b", kind="box")
    with pytest.raises(FileExistsError):
        ledger.create("b", kind="box")
    assert entry.facts == {"kind": "box"}
    entry.close(state="undone")


def test_the_newest_terminal_records_are_kept(run: str) -> None:
    ledger = Ledger(run, 5)
    for number in range(256):
        ledger.create(f"b{number:03}", kind="box").close(state="exited")
        os.utime(Path(run, "done", f"b{number:03}"), ns=(number, number)) if number < 255 else None
    assert sorted(done(run)) == ["b251", "b252", "b253", "b254", "b255"]


@pytest.mark.req("P6")
@pytest.mark.parametrize(
    "text", [b"", b"0 1 2", b"0 1 2 3 4 x", b"-1 1 2 3 4 5", b"1 2 3 4 5 6 7", b"\xff" * 300]
)
def test_a_forged_status_is_no_status(run: str, text: bytes) -> None:
    entry = Ledger(run, 5).create("b", kind="box")
    fd = entry.status_file()
    os.write(fd, BEGUN + text)
    os.close(fd)
    assert entry.status() == (True, None)
    entry.close(state="exited")
    assert os.listdir(Path(run, "ledger")) == []


def test_the_status_that_an_init_left_is_read(run: str) -> None:
    entry = Ledger(run, 5).create("b", kind="box")
    assert entry.status() == (False, None)
    fd = entry.status_file()
    assert entry.status() == (False, None)
    os.write(fd, BEGUN)
    assert entry.status() == (True, None)
    os.write(fd, b"1792 10 20 30 40 1")
    os.close(fd)
    assert entry.status() == (True, Status(1792, 10, 20, 30, 40, 1))
    entry.close(state="exited")


@pytest.mark.req("P6")
def test_a_ledger_that_others_can_write_is_refused(run: str) -> None:
    Path(run, "ledger").mkdir(parents=True)
    Path(run, "ledger").chmod(0o777)
    with pytest.raises(PermissionError, match="writable by it alone"):
        Ledger(run, 5)


def test_a_file_system_without_unnamed_files_does_too(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def without(path: str, flags: int, *args: int, **kw: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no")
        return real(path, flags, *args, **kw)

    monkeypatch.setattr(os, "open", without)
    ledger = Ledger(run, 5)
    entry = ledger.create("b", kind="box")
    with pytest.raises(FileExistsError):
        ledger.create("b", kind="box")
    assert os.listdir(Path(run, "ledger")) == ["b"]
    entry.close(state="exited")
