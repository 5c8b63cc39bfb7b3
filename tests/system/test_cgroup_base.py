"""Where the base goes on a real kernel: as root, in a cgroup that was given to us, and as an ordinary user.

Delegation is a rule of the v2 tree, so what systemd or an admin would do is done here by hand in a cgroup of
our own, with processes of our own in it. A hybrid machine's v2 tree has the same rules, but no controllers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from condor_starter.procd.cgroups import files
from condor_starter.procd.cgroups.base import base, remove_base
from condor_starter.procd.cgroups.detect import Layout
from condor_starter.procd.cgroups.tracker import Tracker
from system.cgroup_help import HERE, PATIENCE, fresh_base, layouts, spawn_in

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes real cgroups: needs root")
SOURCE = str(Path(files.__file__).parents[3])
NOBODY = 65534

# Run by a process in a cgroup: makes its base there as procd would, and a box with a process, which it ends.
PROBE = """
import json, os, sys, time
sys.path.insert(0, sys.argv[1])
from condor_starter.procd.cgroups.detect import Layout, read_layout
from condor_starter.procd.cgroups.tracker import Tracker, base
uid, name, said = int(sys.argv[2]), sys.argv[3], {}
if uid:
    os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
here = read_layout()
made = base(Layout("v2", {}, here.v2, here.v2_controllers, here.own), name, uid == 0)
said.update(kind=made.kind, dirs=made.dirs, path=made.path, notes=made.notes, controllers=made.controllers)
said["own"] = read_layout().own
if made.kind != "none":
    box = Tracker.create(made, "box")
    child = os.fork()
    if child == 0:
        for path in box.join_files(with_v2=True):
            with open(path, "w") as f: f.write("0")
        time.sleep(600)
        os._exit(0)
    while not box.processes(): time.sleep(0.01)
    said["seen"] = box.processes() == [child]
    said["frozen"] = box.freeze(20)
    said["left"] = box.remove(20)
    said["status"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    box.close()
print(json.dumps(said))
"""


@pytest.fixture
def unit() -> Iterator[str]:
    """A v2 cgroup of our own, as a service manager makes one for a service."""
    path = f"{HERE.v2}/test-unit-{os.getpid()}-{time.monotonic_ns()}"
    os.mkdir(path)
    yield path
    left = Tracker.reopen({"v2": path})
    assert left.remove(PATIENCE) == ""
    left.close()


def probe(cgroup: str, uid: int, name: str = "jobs", inside: Path | None = None) -> dict[str, Any]:
    """What PROBE says in ``cgroup`` with ``uid``; ``inside`` is where a container has its v2 tree."""
    argv = [sys.executable, "-I", "-S", "-c", PROBE, SOURCE, str(uid), name]
    if inside is not None:
        script = 'mount -t cgroup2 none "$0" && exec "$@"'
        argv = ["unshare", "--cgroup", "--mount", "sh", "-c", script, str(inside), *argv]
    process = spawn_in([f"{cgroup}/cgroup.procs"], *argv, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=PATIENCE * 3)
    assert process.returncode == 0
    said: dict[str, Any] = json.loads(out)
    return said


def give(path: str, uid: int) -> None:
    """Delegate ``path`` to ``uid`` as cgroup-v2.rst says: the directory, and its files to move and divide."""
    for name in ("", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"):
        os.chown(path + name, uid, uid)


def worked(said: dict[str, Any]) -> bool:
    return (said["seen"], said["frozen"], said["left"], said["status"]) == (True, True, "", -9)


@pytest.mark.req("G1", "X1")
@pytest.mark.parametrize("kind", layouts())
def test_root_has_its_base_at_the_top_of_every_hierarchy(kind: str) -> None:
    layout = layouts()[kind]
    name = f"test-cgroup-{os.getpid()}/inner"
    with fresh_base(layout, name) as made:
        assert made.kind == kind
        assert made.tracker == ("v2" if layout.v2 else "v1")
        assert {"memory", "cpu", "pids"} <= set(made.controllers)
        assert made.notes == ()
        assert all(path.endswith(f"/{name}") and os.path.isdir(path) for path in made.dirs.values())
        assert made.path.endswith(f"/{name}")
        again = base(layout, name, root=True)
        assert again == made, "a second procd finds the same base"
    assert not any(os.path.exists(os.path.dirname(path)) for path in made.dirs.values())


@pytest.mark.req("P7")
def test_root_in_a_container_steps_aside_and_divides_its_top(unit: str, tmp_path: Path) -> None:
    sibling = spawn_in([f"{unit}/cgroup.procs"], "sleep", "600")
    try:
        said = probe(unit, 0, inside=tmp_path)
        assert worked(said), said
        assert said["dirs"] == {"v2": f"{tmp_path}/jobs"}
        assert said["path"] == "/jobs"
        assert said["own"] == f"{tmp_path}/supervisor"
        assert (files.read(f"{unit}/cgroup.procs") or b"") == b"", "nobody is left where v2 wants nobody"
        assert files.read(f"{unit}/supervisor/cgroup.procs") == b"%d\n" % sibling.pid
    finally:
        sibling.kill()
        sibling.wait(PATIENCE)


@pytest.mark.req("P7", "X3")
def test_root_straight_in_a_delegated_cgroup_stays_out_of_it_so_that_its_service_can_start_again(
    unit: str,
) -> None:
    os.setxattr(unit, "trusted.delegate", b"1")
    name = os.path.basename(unit) + "-jobs"
    said = probe(unit, 0, name)
    os.rmdir(said["dirs"]["v2"])
    assert worked(said), said
    assert said["dirs"] == {"v2": f"{HERE.v2}/{name}"}
    assert said["own"] == unit
    assert not any(os.path.isdir(f"{unit}/{entry}") for entry in os.listdir(unit))


@pytest.mark.req("P7")
@pytest.mark.parametrize("mark", ["trusted.delegate", "user.delegate"])
def test_root_in_a_leaf_of_a_delegated_cgroup_uses_the_leafs_sibling(unit: str, mark: str) -> None:
    os.setxattr(unit, mark, b"1")
    os.mkdir(f"{unit}/main")  # DelegateSubgroup=main
    said = probe(f"{unit}/main", 0)
    assert worked(said), said
    assert said["dirs"] == {"v2": f"{unit}/jobs"}
    assert said["path"] == f"{unit}/jobs".removeprefix(HERE.v2)
    assert said["own"] == f"{unit}/main"


@pytest.mark.req("P5")
def test_an_ordinary_user_divides_a_cgroup_that_was_given_to_him(unit: str) -> None:
    give(unit, NOBODY)
    said = probe(unit, NOBODY, "a/b")
    assert worked(said), said
    assert said["dirs"] == {"v2": f"{unit}/a/b"}
    assert worked(probe(f"{unit}/supervisor", NOBODY, "a/b"))


@pytest.mark.req("P5", "X5")
def test_an_ordinary_user_with_nothing_is_told_why(unit: str) -> None:
    said = probe(unit, NOBODY)
    assert said["kind"] == "none"
    assert said["dirs"] == {}
    assert said["notes"] == [f"v2: our own cgroup {unit} is not delegated to us"]
    assert not any(os.path.isdir(f"{unit}/{name}") for name in os.listdir(unit))


@pytest.mark.req("P5", "G2")
def test_a_job_of_our_own_user_cannot_lock_us_out_by_permissions(unit: str) -> None:
    give(unit, NOBODY)
    code = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from condor_starter.procd.cgroups.tracker import Tracker
os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
box = sys.argv[2] + "/box"
os.mkdir(box); os.mkdir(box + "/inner")
child = os.fork()
if child == 0:
    with open(box + "/inner/cgroup.procs", "w") as f: f.write("0")
    time.sleep(600)
while not open(box + "/inner/cgroup.procs").read(): time.sleep(0.01)
for name in ("inner/cgroup.procs", "inner", "cgroup.kill", "cgroup.procs"):
    os.chmod(f"{box}/{name}", 0)
tracker = Tracker.reopen({"v2": box})
assert tracker.processes() == [child], tracker.processes()
assert tracker.remove(20) == ""
assert os.waitpid(child, 0)[1] == 9
"""
    argv = (sys.executable, "-I", "-S", "-c", code, SOURCE, unit)
    assert spawn_in([f"{unit}/cgroup.procs"], *argv).wait(PATIENCE * 3) == 0


@pytest.mark.req("P7", "X5")
def test_without_any_cgroup_file_system_there_is_a_reason_and_no_exception() -> None:
    made = base(Layout("none", {}), "jobs", root=True)
    assert (made.kind, made.tracker, made.dirs) == ("none", "none", {})
    assert made.notes == ("no cgroup file system is mounted",)


@pytest.mark.req("G1")
def test_a_base_in_use_is_not_removed() -> None:
    with fresh_base(HERE) as made:
        box = Tracker.create(made, "box")
        remove_base(made)
        assert all(os.path.isdir(path) for path in box.dirs.values())
        assert box.remove(PATIENCE) == ""
        box.close()
