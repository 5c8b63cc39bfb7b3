"""What the tracker writes where, on fake trees of every kind: no root and no kernel needed."""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path

import pytest

from condor_starter.isolation.boxplan import Limits, Usage
from condor_starter.procd.cgroups import base as base_module
from condor_starter.procd.cgroups import files
from condor_starter.procd.cgroups.base import base, remove_base
from condor_starter.procd.cgroups.tracker import CgroupError, Tracker
from unit.cgroup_fake import V1_FILES, V2_FILES, FakeTree, fake_v1, fake_v2, install

FULL = Limits(memory=1 << 30, swap=1 << 20, cpu_shares=200, pids=99)


@pytest.mark.req("G1", "G3", "G6")
@pytest.mark.parametrize("together", [False, True])
def test_limits_on_v1_go_to_each_controllers_own_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    tree, layout = fake_v1(tmp_path, monkeypatch, together=together)
    box = Tracker.create(base(layout, "htcondor", root=True), "slot1")
    assert box.limit(FULL) == []
    cpu = "cpu,cpuacct" if together else "cpu"
    assert tree.text("memory/htcondor/slot1/memory.limit_in_bytes") == str(1 << 30)
    assert tree.text("memory/htcondor/slot1/memory.memsw.limit_in_bytes") == str((1 << 30) + (1 << 20))
    assert tree.text(f"{cpu}/htcondor/slot1/cpu.shares") == "200"
    assert tree.text("pids/htcondor/slot1/pids.max") == "99"
    assert len(box.join_files()) == (4 if together else 5), "a shared directory is joined once"
    box.close()


@pytest.mark.req("G1", "G3", "G6")
def test_limits_on_v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, layout = fake_v2(tmp_path, monkeypatch)
    made = base(layout, "htcondor", root=True)
    assert (made.kind, made.path) == ("v2", "/htcondor")
    box = Tracker.create(made, "slot1")
    assert box.limit(FULL) == []
    written = {name: tree.text(f"v2/htcondor/slot1/{name}") for name in ("memory.max", "memory.swap.max")}
    assert written == {"memory.max": str(1 << 30), "memory.swap.max": str(1 << 20)}
    assert tree.text("v2/htcondor/slot1/memory.oom.group") == "1"
    assert tree.text("v2/htcondor/slot1/cpu.weight") == "200"
    assert tree.text("v2/htcondor/slot1/pids.max") == "99"
    assert box.join_files() == []
    assert box.join_files(with_v2=True) == [f"{tmp_path}/v2/htcondor/slot1/cgroup.procs"]
    box.close()


@pytest.mark.req("G3")
def test_no_limits_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, layout = fake_v2(tmp_path, monkeypatch)
    box = Tracker.create(base(layout, "htcondor", root=True), "slot1")
    assert box.limit(Limits()) == []
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "cpu.weight", "pids.max"):
        assert tree.text(f"v2/htcondor/slot1/{name}") == ""
    box.close()


@pytest.mark.req("X5")
def test_every_limit_that_cannot_be_had_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, layout = fake_v1(tmp_path, monkeypatch)
    only = layout._replace(v1={"freezer": layout.v1["freezer"]})
    made = base(only, "htcondor", root=True)
    missing = ("memory", "cpu", "cpuacct", "pids")
    assert made.notes == tuple(f"no {c} controller" for c in missing)
    box = Tracker.create(made, "slot1")
    assert box.limit(FULL) == [
        "memory limit: no memory controller here",
        "cpu shares: no cpu controller here",
        "process limit: no pids controller here",
    ]
    box.close()


@pytest.mark.req("X5")
def test_swap_that_the_kernel_does_not_count_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, layout = fake_v1(tmp_path, monkeypatch)
    box = Tracker.create(base(layout, "htcondor", root=True), "slot1")
    os.unlink(f"{tmp_path}/memory/htcondor/slot1/memory.memsw.limit_in_bytes")
    (note,) = box.limit(Limits(memory=1 << 20, swap=0))
    assert note.startswith("swap limit: write '1048576' to ")
    assert note.endswith("memory.memsw.limit_in_bytes: No such file or directory")
    assert tree.text("memory/htcondor/slot1/memory.limit_in_bytes") == "1048576"
    assert box.limit(Limits(swap=0)) == ["swap limit: v1 can limit swap only together with memory"]
    box.close()


@pytest.mark.req("G8")
def test_usage_is_read_from_v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, layout = fake_v1(tmp_path, monkeypatch)
    box = Tracker.create(base(layout, "htcondor", root=True), "slot1")
    assert box.usage() == Usage(3000, 1000, 1024, 4096, 3, 2)
    box.close()


@pytest.mark.req("G8")
def test_usage_is_read_from_v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, layout = fake_v2(tmp_path, monkeypatch)
    box = Tracker.create(base(layout, "htcondor", root=True), "slot1")
    assert box.usage() == Usage(20, 10, 111, 7000, 4, 1, 15, 26, 4, 6)
    box.close()


@pytest.mark.req("G8")
def test_what_an_older_kernel_does_not_count_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, layout = fake_v2(tmp_path, monkeypatch)
    box = Tracker.create(base(layout, "htcondor", root=True), "slot1")
    for name in ("memory.peak", "memory.stat", "io.stat", "pids.current", "memory.events"):
        os.unlink(f"{box.dirs['v2']}/{name}")
    assert box.usage() == Usage(20, 10)
    assert box.oom_fd() == -1
    box.close()


@pytest.mark.req("X1")
def test_a_split_machine_uses_each_controller_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hybrid with memory on v2 (cgroup_no_v1=memory) and the rest on v1."""
    rest = {name: kind for name, kind in V1_FILES.items() if name != "memory"}
    tree = install(FakeTree(tmp_path, {**rest, "v2": V2_FILES}), monkeypatch)
    mounts = {name: f"{tmp_path}/{name}" for name in rest}
    layout = base_module.Layout("hybrid", mounts, f"{tmp_path}/v2", ("memory",), f"{tmp_path}/v2")
    made = base(layout, "htcondor", root=True)
    assert (made.kind, made.tracker) == ("hybrid", "v2")
    assert tree.text("v2/htcondor/cgroup.subtree_control").startswith("+")
    box = Tracker.create(made, "slot1")
    assert box.limit(FULL) == []
    assert tree.text("v2/htcondor/slot1/memory.max") == str(1 << 30)
    assert tree.text("cpu/htcondor/slot1/cpu.shares") == "200"
    assert tree.text("v2/htcondor/slot1/cpu.weight") == ""
    assert box.usage()[:3] == (3000, 1000, 111)
    box.close()


@pytest.mark.req("X3")
def test_the_plan_makes_nothing_and_create_makes_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, layout = fake_v1(tmp_path, monkeypatch, together=True)
    made = base(layout, "a/b", root=True)
    before = list(tree.made)
    plan = Tracker.plan(made, "slot1")
    assert tree.made == before
    assert plan["cpu"] == plan["cpuacct"] == f"{tmp_path}/cpu,cpuacct/a/b/slot1"
    box = Tracker.create(made, "slot1")
    assert box.dirs == plan
    assert sorted(tree.made[len(before) :]) == sorted(set(plan.values()))
    assert box.remove(1) == ""
    assert not any(os.path.exists(path) for path in plan.values())
    box.close()
    remove_base(made)
    assert not any(os.path.exists(f"{path}/a") for path in layout.v1.values())


@pytest.mark.req("X5")
def test_a_hierarchy_that_refuses_is_left_out_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, layout = fake_v1(tmp_path, monkeypatch)
    made = base(layout, "htcondor", root=True)
    tree.refuse = lambda path: errno.ENOSPC if "/memory/" in path else 0
    box = Tracker.create(made, "slot1")
    assert set(box.dirs) == {"cpu", "cpuacct", "pids", "freezer"}
    assert box.limit(Limits(memory=1 << 20)) == [
        f"memory: make cgroup {tmp_path}/memory/htcondor/slot1: No space left on device",
        "memory limit: no memory controller here",
    ]
    assert box.oom_fd() == -1 and box.oom_kills() == 0 and not box.oom_struck()
    box.close()


@pytest.mark.req("X3")
def test_when_what_tracks_cannot_be_made_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, layout = fake_v1(tmp_path, monkeypatch)
    made = base(layout, "htcondor", root=True)
    tree.refuse = lambda path: errno.ENOMEM if "/freezer/" in path else 0
    with pytest.raises(CgroupError, match=r"make cgroup .*/freezer/htcondor/slot1: Cannot allocate memory"):
        Tracker.create(made, "slot1")
    assert not any(os.path.exists(path) for path in Tracker.plan(made, "slot1").values())


@pytest.mark.req("P6")
@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc"])
def test_a_box_is_one_component_beneath_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _, layout = fake_v2(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="not a name for a cgroup"):
        Tracker.plan(base(layout, "htcondor", root=True), name)


@pytest.mark.req("P6")
@pytest.mark.parametrize("name", ["", "/", "a//b", "../x", "a/..", ".", "supervisor", "a/supervisor"])
def test_a_base_has_a_plain_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _, layout = fake_v2(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="not a name for a base cgroup"):
        base(layout, name, root=True)


@pytest.mark.req("P7", "X5")
def test_a_base_that_cannot_be_made_is_none_with_the_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, layout = fake_v1(tmp_path, monkeypatch)
    tree.refuse = lambda path: errno.EROFS
    made = base(layout, "htcondor", root=True)
    assert (made.kind, made.tracker, made.dirs) == ("none", "none", {})
    assert made.notes[0] == f"memory: make cgroup {tmp_path}/memory/htcondor: Read-only file system"
    assert len(made.notes) == 5


@pytest.mark.req("P7")
def test_v2_passes_its_controllers_on_all_the_way_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, layout = fake_v2(tmp_path, monkeypatch)
    asked: list[tuple[str, str]] = []
    really = files.attempt

    def attempt(what: str, path: str, data: str) -> list[str]:
        asked.append((path.removeprefix(f"{tmp_path}/v2/"), data))
        return really(what, path, data)

    monkeypatch.setattr(files, "attempt", attempt)
    base(layout, "a/b", root=True)
    for level in ("", "a/", "a/b/"):
        for controller in ("memory", "cpu", "pids", "io"):
            assert (f"{level}cgroup.subtree_control", f"+{controller}") in asked
    assert tree.made == [f"{tmp_path}/v2/a", f"{tmp_path}/v2/a/b"]


@pytest.mark.req("P7")
def test_an_old_v1_memory_tree_is_told_to_count_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(V1_FILES["memory"], "memory.use_hierarchy", "0\n")
    tree, layout = fake_v1(tmp_path, monkeypatch)
    base(layout, "a/b", root=True)
    assert tree.text("memory/a/memory.use_hierarchy") == "1\n"
    assert tree.text("memory/memory.use_hierarchy") == "0\n", "the machine's own top is not ours to change"


@pytest.mark.req("G2")
def test_v1_kill_freezes_signals_each_process_of_every_hierarchy_and_thaws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, layout = fake_v1(tmp_path, monkeypatch)
    box = Tracker.create(base(layout, "htcondor", root=True), "slot1")
    (tmp_path / "memory/htcondor/slot1/inner").mkdir()
    (tmp_path / "memory/htcondor/slot1/inner/cgroup.procs").write_text("1000001\n")
    (tmp_path / "freezer/htcondor/slot1/cgroup.procs").write_text("1000002\n")
    killed: list[tuple[int, int, str]] = []
    state = "freezer/htcondor/slot1/freezer.state"
    monkeypatch.setattr(os, "kill", lambda pid, signum: killed.append((pid, signum, tree.text(state))))
    box.kill()
    assert sorted(killed) == [(1000001, 9, "FROZEN"), (1000002, 9, "FROZEN")]
    assert tree.text(state) == "THAWED"
    assert box.processes() == [1000001, 1000002]
    assert box.populated()
    box.close()


@pytest.mark.req("G2")
def test_v2_without_cgroup_kill_kills_one_by_one_while_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, layout = fake_v2(tmp_path, monkeypatch)
    box = Tracker.create(base(layout, "htcondor", root=True), "slot1")
    os.unlink(f"{box.dirs['v2']}/cgroup.kill")
    Path(box.dirs["v2"], "cgroup.procs").write_text("1000001\n")
    killed: list[tuple[int, str]] = []
    freeze = "v2/htcondor/slot1/cgroup.freeze"
    monkeypatch.setattr(os, "kill", lambda pid, signum: killed.append((pid, tree.text(freeze))))
    box.kill()
    assert killed == [(1000001, "1")]
    assert tree.text(freeze) == "0"
    box.close()


@pytest.mark.req("X2")
def test_the_room_imports_only_what_a_tiny_privileged_process_may() -> None:
    allowed = {"__future__", "collections.abc", "errno", "os", "select", "time", "typing"}
    ours = ("condor_starter.procd.cgroups", "condor_starter.isolation.boxplan")
    for path in Path(base_module.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name in allowed or name.startswith(ours), f"{path.name} imports {name}"
