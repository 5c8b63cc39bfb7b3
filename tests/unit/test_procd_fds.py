"""Work beneath a directory descriptor: nothing outside is ever touched, whatever stands inside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from condor_starter.procd import fds


def directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


@pytest.mark.req("S1", "P6")
def test_removal_takes_all_of_it_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("keep")
    box = tmp_path / "box"
    deep = box
    for _ in range(200):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    (box / "link").symlink_to(outside)
    (box / "dangling").symlink_to("/no/such")
    os.mkfifo(box / "fifo")
    (box / "closed").mkdir()
    (box / "closed" / "inside").touch()
    (box / "closed").chmod(0)
    Path(os.fsdecode(os.fsencode(box) + b"/\xff\n")).touch()
    parent = directory(tmp_path)
    assert fds.remove_tree(parent, "box")
    os.close(parent)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside"]
    assert (outside / "keep").read_text() == "keep"


def test_removal_stops_at_its_budget_and_goes_on_later(tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    for number in range(20):
        (tmp_path / "box" / str(number)).touch()
    parent = directory(tmp_path)
    assert not fds.remove_tree(parent, "box", 8)
    assert len(list((tmp_path / "box").iterdir())) == 12
    assert fds.remove_tree(parent, "box", 100)
    assert fds.remove_tree(parent, "box")  # a second time is no error
    os.close(parent)


@pytest.mark.req("P6")
def test_a_link_in_the_place_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "keep").touch()
    (tmp_path / "box").symlink_to("real")
    parent = directory(tmp_path)
    with pytest.raises(OSError):
        fds.remove_tree(parent, "box")
    with pytest.raises(OSError):
        fds.open_beneath(parent, "box/keep")
    with pytest.raises(OSError):
        fds.open_beneath(parent, "../" + tmp_path.name)
    os.close(parent)
    with pytest.raises(OSError):
        fds.open_directory(str(tmp_path / "box"))
    assert (tmp_path / "real" / "keep").exists()


@pytest.mark.req("C2", "P6")
def test_a_tree_that_others_can_change_is_not_secure(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("ownership is root's to judge")
    tree = tmp_path / "a" / "tree"
    tree.mkdir(parents=True)
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    os.close(fds.open_secure(str(tree)))
    (tmp_path / "a").chmod(0o777)
    with pytest.raises(PermissionError, match="a can be changed by others"):
        fds.open_secure(str(tree))
    (tmp_path / "a").chmod(0o755)
    os.chown(tree, 65534, 65534)
    with pytest.raises(PermissionError, match="tree can be changed by others"):
        fds.open_secure(str(tree))


@pytest.mark.req("P6")
def test_own_tree_leaves_other_peoples_files_and_hard_links(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("chown needs root")
    box = tmp_path / "box"
    (box / "sub").mkdir(parents=True)
    (box / "sub" / "mine").touch()
    (box / "linked").touch()
    os.link(box / "linked", tmp_path / "elsewhere")
    (box / "foreign").touch()
    os.chown(box / "foreign", 7, 7)
    (box / "link").symlink_to(tmp_path / "elsewhere")
    fd = directory(box)
    fds.own_tree(fd, 65534, 65534, 0)
    os.close(fd)
    owners = {p.name: p.lstat().st_uid for p in [box, *box.rglob("*"), tmp_path / "elsewhere"]}
    assert owners == {
        "box": 65534,
        "sub": 65534,
        "mine": 65534,
        "link": 65534,
        "linked": 0,
        "foreign": 7,
        "elsewhere": 0,
    }
