"""Where the boxes' cgroups live: the base, made ready once when procd starts.

For root ``<mount>/<name>`` in each hierarchy that is used. In the v2 tree others live too, so there

* root in a leaf of a delegated cgroup (systemd's Delegate=yes and DelegateSubgroup=) uses the leaf's sibling;
* root straight in a delegated cgroup does *not* divide it while the machine's top is to be had: after a crash
  with boxes alive systemd could not start the service again in a cgroup whose sub-cgroups have controllers
  (measured on 252: status=219/CGROUP for ever), and no box could be adopted;
* an ordinary user, and root in a container, have nothing but their own cgroup: every process of it steps
  aside into the leaf ``supervisor``, since v2 allows none beside sub-cgroups with controllers.

systemd leaves a controller alone that a cgroup beneath passes on to its children: the kernel says EBUSY.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from condor_starter.procd.cgroups import files
from condor_starter.procd.cgroups.detect import Layout

V1_USED = ("memory", "cpu", "cpuacct", "pids", "freezer")
V2_USED = ("memory", "cpu", "pids", "io")
SUPERVISOR = "supervisor"
_MOVE_ROUNDS = 10  # a process that forks while we move it leaves a child behind for the next round
_NONE: dict[str, str] = {}


class Base(NamedTuple):
    """A base that is ready for boxes. ``kind`` "none" means that there is none, and ``notes`` say why."""

    kind: str = "none"  # "none", "v1", "hybrid", "v2": what can be used, not what is mounted
    dirs: dict[str, str] = _NONE  # "v2" or a v1 controller -> the base's directory
    name: str = ""  # "htcondor"
    path: str = ""  # the same as a cgroup path, "/htcondor": for a container engine's cgroup parent
    controllers: tuple[str, ...] = ()  # that limit or count here, v1 and v2
    notes: tuple[str, ...] = ()  # what could not be had, in words

    @property
    def tracker(self) -> str:
        """The tree that tracks and kills: "v2", "v1" or "none"."""
        return "v2" if "v2" in self.dirs else "v1" if self.dirs else "none"


def base(layout: Layout, name: str, root: bool) -> Base:
    """Make the base ``name`` ("htcondor", or "a/b") ready. Never raises for what the machine lacks."""
    name = name.strip("/")
    if not name or any(part in ("", ".", "..", SUPERVISOR) for part in name.split("/")):
        raise ValueError(f"not a name for a base cgroup: {name!r}")
    notes: list[str] = []
    dirs = _v1_dirs(layout, name, notes)
    controllers = [c for c in V1_USED if c in dirs]
    top = _v2_top(layout, root, notes) if layout.v2 else ""
    if top:
        wanted = [c for c in V2_USED if c not in layout.v1]
        unified, had = _v2_dir(top, name, wanted, notes)
        if unified:
            dirs["v2"] = unified
            controllers += had
    if not dirs:
        return Base(notes=tuple(notes) or ("no cgroup file system is mounted",))
    kind = "v1" if "v2" not in dirs else "hybrid" if len(dirs) > 1 else "v2"
    missing = [c for c in _expected(kind) if c not in controllers]
    notes += [f"no {c} controller" for c in missing if not any(n.startswith(f"{c}:") for n in notes)]
    path = (top if kind == "v2" else "")[len(layout.v2) :] + "/" + name
    return Base(kind, dirs, name, path, tuple(controllers), tuple(notes))


def _expected(kind: str) -> tuple[str, ...]:
    return V2_USED if kind == "v2" else V1_USED if kind == "v1" else ("memory", "cpu", "pids")


def _v1_dirs(layout: Layout, name: str, notes: list[str]) -> dict[str, str]:
    dirs = {}
    for controller in V1_USED:
        mount = layout.v1.get(controller)
        if mount is None:
            continue
        try:
            path = files.make_all(mount, name, _hierarchical)
        except files.CgroupError as e:
            notes.append(f"{controller}: {e}")
            continue
        if os.access(path, os.W_OK | os.X_OK):
            dirs[controller] = path
        else:
            notes.append(f"{controller}: {path} is not writable")
    return dirs


def _hierarchical(path: str) -> None:
    """Before Linux 5.11 a v1 memory cgroup counts its children only when told to, before it has any."""
    if files.read(f"{path}/memory.use_hierarchy") == b"0\n":
        files.attempt("", f"{path}/memory.use_hierarchy", "1")


def _v2_top(layout: Layout, root: bool, notes: list[str]) -> str:
    """The directory beneath which the base goes; "" when there is none for us."""
    own, above = layout.own, os.path.dirname(layout.own)
    if root and layout.kind == "hybrid":
        return layout.v2
    if own and own != layout.v2 and _in_leaf(own, above) and _ours(above, layout.v2, root):
        return above
    if root and _machine_top(layout.v2):
        return layout.v2
    if own and _ours(own, layout.v2, root):
        notes += _step_aside(own)
        return own
    if root:
        return layout.v2
    notes.append(f"v2: our own cgroup {own or '(not mounted here)'} is not delegated to us")
    return ""


def _in_leaf(own: str, above: str) -> bool:
    """We have stepped aside: an earlier procd or our parent did it, or systemd (DelegateSubgroup=)."""
    return os.path.basename(own) == SUPERVISOR or _marked(above)


def _marked(path: str) -> bool:
    """Whether systemd marked the cgroup as delegated (CGROUP_DELEGATION.md)."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _machine_top(mount: str) -> bool:
    """Whether it is the machine's root cgroup, the only one without cgroup.type, and can be written to."""
    return not os.path.exists(f"{mount}/cgroup.type") and os.access(mount, os.W_OK)


def _ours(path: str, mount: str, root: bool) -> bool:
    """We may divide it: an ordinary user what is writable, root what is marked or a container's top."""
    if root:
        return _marked(path) or (path == mount and not _machine_top(mount))
    needed = (path, f"{path}/cgroup.procs", f"{path}/cgroup.subtree_control")
    return all(os.access(p, os.W_OK) for p in needed)


def _step_aside(own: str) -> list[str]:
    """Move every process of our own cgroup into its leaf; notes of what did not work."""
    leaf = f"{own}/{SUPERVISOR}"
    try:
        if not os.path.isdir(leaf):
            files.make(leaf)
        for _ in range(_MOVE_ROUNDS):
            pids = (files.read(f"{own}/cgroup.procs") or b"").decode().split()
            if not pids:
                return []
            for pid in pids:
                _move(pid, leaf)
    except files.CgroupError as e:
        return [f"v2: {e}"]
    return [f"v2: processes {' '.join(pids)} stay in {own}"]


def _move(pid: str, leaf: str) -> None:
    try:
        files.write(f"{leaf}/cgroup.procs", pid)
    except files.CgroupError as e:
        if e.errno != errno.ESRCH:  # it ended meanwhile
            raise


def _v2_dir(top: str, name: str, wanted: list[str], notes: list[str]) -> tuple[str, list[str]]:
    """The base's directory, or "", and the controllers that its children will have."""
    refused: dict[str, str] = {}
    try:
        _enable(top, wanted, refused)
        made = files.make_all(top, name, lambda path: _enable(path, wanted, refused))
    except files.CgroupError as e:
        notes.append(f"v2: {e}")
        return "", []
    had = (files.read(f"{made}/cgroup.subtree_control") or b"").decode().split()
    notes += [f"{c}: {refused[c]}" for c in wanted if c not in had and c in refused]
    return made, [c for c in wanted if c in had]


def _enable(path: str, wanted: list[str], refused: dict[str, str]) -> None:
    """Pass on each controller by itself, so that one refusal costs no other."""
    control = f"{path}/cgroup.subtree_control"
    available = (files.read(f"{path}/cgroup.controllers") or b"").decode().split()
    enabled = (files.read(control) or b"").decode().split()
    for controller in wanted:
        if controller in available and controller not in enabled:
            for note in files.attempt("", control, f"+{controller}"):
                refused[controller] = note.removeprefix(": ")


def remove_base(made: Base) -> None:
    """Remove the base's directories where nothing is left in them: for tests and for uninstalling."""
    for path in dict.fromkeys(made.dirs.values()):
        for _ in made.name.split("/"):
            if not files.remove(path):
                break
            path = os.path.dirname(path)
