"""Cgroup files: what is an error, what is not, and what the error says."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.procd.cgroups import files
from condor_starter.procd.cgroups.usage import divide


@pytest.mark.req("X5")
def test_a_failed_write_names_the_file_and_the_data(tmp_path: Path) -> None:
    (tmp_path / "memory.max").mkdir()
    with pytest.raises(files.CgroupError) as failed:
        files.write(f"{tmp_path}/memory.max", "134217728")
    assert str(failed.value) == f"write '134217728' to {tmp_path}/memory.max: Is a directory"
    assert failed.value.errno == errno.EISDIR
    notes = files.attempt("memory limit", f"{tmp_path}/memory.max", "1")
    assert notes == [f"memory limit: write '1' to {tmp_path}/memory.max: Is a directory"]


def test_what_is_gone_is_none_or_false_and_no_error(tmp_path: Path) -> None:
    gone = f"{tmp_path}/gone"
    assert files.read(gone) is None
    assert files.offer(gone, "1") is False
    assert files.remove(gone) is True
    assert files.remove_tree(gone) is True
    assert files.nested(gone) is False
    assert files.pids(gone) == set()
    assert files.populated(gone) is False
    assert list(files.walk(gone)) == []
    kept = files.Kept(gone)
    assert (kept.read(), kept.number(), kept.fd) == (None, None, -1)
    kept.close()
    assert files.gone(OSError(errno.ENODEV, "")) and not files.gone(OSError(errno.EBUSY, ""))


def test_a_note_tells_when_the_file_is_not_there(tmp_path: Path) -> None:
    assert files.attempt("swap limit", f"{tmp_path}/memory.swap.max", "0") == [
        f"swap limit: write '0' to {tmp_path}/memory.swap.max: No such file or directory"
    ]


@pytest.mark.req("P6")
def test_a_symlink_in_place_of_a_file_or_a_cgroup_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(files.CgroupError, match="symbolic links"):
        files.read(f"{tmp_path}/link")
    with pytest.raises(files.CgroupError, match="symbolic links"):
        files.write(f"{tmp_path}/link", "1")
    top = tmp_path / "top"
    top.mkdir()
    (top / "elsewhere").symlink_to(tmp_path)
    assert len(list(files.walk(str(top)))) == 1


def test_a_walk_meets_every_sub_cgroup_parents_first_and_leaves_children_first(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / "top" / name).mkdir(parents=True)
    seen: list[str] = []
    left: list[str] = []
    before = len(os.listdir("/proc/self/fd"))
    for fd in files.walk(f"{tmp_path}/top", leave=lambda parent, name: left.append(name)):
        seen.append(os.readlink(f"/proc/self/fd/{fd}").removeprefix(f"{tmp_path}/"))
    assert len(os.listdir("/proc/self/fd")) == before
    assert sorted(seen) == ["top", "top/a", "top/a/b", "top/a/b/c", "top/a/d", "top/e"]
    for path in seen[1:]:
        assert seen.index(os.path.dirname(path)) < seen.index(path)
    assert sorted(left) == ["a", "b", "c", "d", "e"]
    assert left.index("c") < left.index("b") < left.index("a") > left.index("d")


def test_a_walk_that_is_given_up_closes_what_it_opened(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    walk = files.walk(str(tmp_path))
    next(walk), next(walk)
    walk.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_tree_is_removed_deepest_first(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / "top" / name).mkdir(parents=True)
    assert files.remove_tree(f"{tmp_path}/top")
    assert os.listdir(tmp_path) == []


def test_what_is_not_empty_stays_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "top" / "a").mkdir(parents=True)
    (tmp_path / "top" / "a" / "busy").write_text("")  # as a process in it would
    (tmp_path / "top" / "b").mkdir()
    assert files.remove_tree(f"{tmp_path}/top") is False
    assert os.listdir(tmp_path / "top") == ["a"]


def test_processes_of_the_whole_subtree_without_those_outside_our_pid_namespace(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "cgroup.procs").write_text("12\n0\n7\n")
    (tmp_path / "a" / "cgroup.procs").write_text("7\n99\n")
    assert files.pids(str(tmp_path)) == {7, 12, 99}


def test_a_kept_file_is_read_anew_each_time_and_opened_once(tmp_path: Path) -> None:
    path = tmp_path / "pids.current"
    path.write_text("3\n")
    kept = files.Kept(str(path))
    before = len(os.listdir("/proc/self/fd"))
    assert kept.number() == 3
    path.write_text("14\n")
    assert kept.number() == 14
    path.write_text("max\n")
    assert kept.number() is None
    assert len(os.listdir("/proc/self/fd")) == before + 1
    kept.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert kept.read() is None


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.integers(0, 2**63)), st.booleans())
def test_a_field_is_found_by_its_whole_name_only(fields: dict[str, int], newline: bool) -> None:
    text = "\n".join(f"{k} {v}" for k, v in fields.items()).encode() + (b"\n" if newline and fields else b"")
    for name, value in fields.items():
        assert files.field(text, name.encode()) == value
        if name[1:] not in fields:
            assert files.field(text, name[1:].encode()) is None


TIMES = st.lists(st.tuples(*[st.integers(0, 10**7)] * 3), min_size=1, max_size=20)


@given(TIMES)
def test_divided_cpu_time_never_falls_and_always_adds_up(steps: list[tuple[int, int, int]]) -> None:
    total = user = system = 0
    last = (0, 0)
    for more, more_user, more_system in steps:
        total, user, system = total + more, user + more_user, system + more_system
        now = divide(total, user, system, last)
        assert now[0] >= last[0] and now[1] >= last[1]
        assert sum(now) == total
        last = now


def test_cpu_time_is_divided_as_the_ticks_are() -> None:
    assert divide(1000, 3, 1, (0, 0)) == (750, 250)
    assert divide(1000, 0, 0, (0, 0)) == (1000, 0)
    assert divide(1000, 0, 5, (0, 0)) == (0, 1000)
