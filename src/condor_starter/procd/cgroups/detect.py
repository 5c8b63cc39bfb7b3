"""Where this machine's control groups are, by /proc/self/mountinfo and /proc/self/cgroup (cgroups(7)).

Every v1 controller is looked up in the mount table by itself: some machines mount each alone, most mount cpu
and cpuacct together, and a controller that is mounted nowhere cannot be had. A named v1 hierarchy
(``name=systemd``) limits and counts nothing and is left out.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from condor_starter.procd.cgroups import files


class Layout(NamedTuple):
    """The control groups that can be seen from here."""

    kind: str  # "none", "v1", "hybrid" (v1 controllers and a v2 tree), "v2"
    v1: dict[str, str]  # controller -> mount point; co-mounted controllers share one
    v2: str = ""  # mount point of the v2 tree, "" without one
    v2_controllers: tuple[str, ...] = ()  # those that v2 has at its mount point
    own: str = ""  # our own v2 cgroup as an absolute directory, "" when it is outside what is mounted


class Mount(NamedTuple):
    """One line of mountinfo."""

    number: int
    parent: int
    root: str  # which directory of the file system is mounted
    point: str  # where
    options: tuple[str, ...]  # of the mount and of the file system together
    fstype: str


def read_layout() -> Layout:
    """The layout of this process, now."""
    mountinfo = os.fsdecode(files.read("/proc/self/mountinfo") or b"")
    self_cgroup = os.fsdecode(files.read("/proc/self/cgroup") or b"")
    layout = detect(mountinfo, self_cgroup)
    if not layout.v2:
        return layout
    text = files.read(f"{layout.v2}/cgroup.controllers") or b""
    return layout._replace(v2_controllers=tuple(text.decode().split()))


def own_procs() -> str:
    """The cgroup.procs of a cgroup that this process is in, in whichever hierarchy; "" when none shows."""
    mounts = visible(parse_mounts(os.fsdecode(files.read("/proc/self/mountinfo") or b"")))
    paths = parse_self_cgroup(os.fsdecode(files.read("/proc/self/cgroup") or b""))
    for mount in mounts:
        names = {"cgroup": mount.options, "cgroup2": ("",)}.get(mount.fstype, ())
        for name in names:
            if name in paths and (own := own_directory(mount, paths[name])):
                return f"{own}/cgroup.procs"
    return ""


def detect(mountinfo: str, self_cgroup: str) -> Layout:
    """The layout that the two files describe; v2_controllers stays empty, as neither file names them."""
    mounts = visible(parse_mounts(mountinfo))
    paths = parse_self_cgroup(self_cgroup)
    v1: dict[str, str] = {}
    for mount in mounts:
        if mount.fstype == "cgroup":
            v1.update(
                {name: mount.point for name in mount.options if name in paths and _better(v1, name, mount)}
            )
    unified = [m for m in mounts if m.fstype == "cgroup2"]
    v2 = min(unified, key=lambda m: ("ro" in m.options, m.root != "/"), default=None)
    kind = ("hybrid" if v1 else "v2") if v2 else ("v1" if v1 else "none")
    if v2 is None:
        return Layout(kind, v1)
    return Layout(kind, v1, v2.point, (), own_directory(v2, paths.get("", "")))


def _better(found: dict[str, str], controller: str, mount: Mount) -> bool:
    return controller not in found or (mount.root == "/" and "ro" not in mount.options)


def parse_mounts(mountinfo: str) -> list[Mount]:
    """The lines of mountinfo in order; lines that are not of its form are passed over."""
    mounts = []
    for line in mountinfo.split("\n"):
        left, dash, right = line.partition(" - ")
        head, tail = left.split(" "), right.split(" ")
        if not dash or len(head) < 6 or len(tail) < 3 or not (head[0].isdigit() and head[1].isdigit()):
            continue
        options = (*head[5].split(","), *tail[2].split(","))
        mounts.append(
            Mount(int(head[0]), int(head[1]), unescape(head[3]), unescape(head[4]), options, tail[0])
        )
    return mounts


def unescape(text: str) -> str:
    """``\\040`` and its like, as the kernel writes space, tab, newline, backslash and # in mount paths."""
    first, *rest = text.split("\\")
    out = [first]
    for part in rest:
        code = part[:3]
        if len(code) == 3 and all(c in "01234567" for c in code):
            out.append(chr(int(code, 8) & 0xFF) + part[3:])
        else:
            out.append("\\" + part)
    return "".join(out)


def visible(mounts: list[Mount]) -> list[Mount]:
    """The mounts whose own mount point really leads to them: none that a later mount lies over."""
    children: dict[tuple[int, str], Mount] = {}
    known = {m.number for m in mounts}
    for m in mounts:
        children[(m.parent if m.parent in known else -1, m.point)] = m
    return [m for m in mounts if _lookup(m.point, children) == m.number]


def _lookup(path: str, children: dict[tuple[int, str], Mount]) -> int:
    """The mount that the kernel reaches by ``path``: -1 stands for whatever lies outside the table."""
    here, prefix = -1, ""
    for part in path.split("/") if path != "/" else [""]:
        prefix = f"{prefix}/{part}" if part else "/"
        while (over := children.get((here, prefix))) is not None and over.number != here:
            here = over.number
        prefix = prefix.rstrip("/")
    return here


def parse_self_cgroup(text: str) -> dict[str, str]:
    """Controller -> our cgroup's path in its hierarchy; "" is the v2 tree. Named hierarchies are left out."""
    paths: dict[str, str] = {}
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        names, colon, path = rest.partition(":")
        if not colon or not number.isdigit():
            continue
        if names or number == "0":
            paths.update({n: path for n in names.split(",") if not n.startswith("name=")})
    return paths


def own_directory(mount: Mount, path: str) -> str:
    """The directory of the cgroup ``path`` beneath ``mount``; "" when the mount does not show it."""
    root = "" if mount.root == "/" else mount.root
    if not path.startswith("/") or not (path + "/").startswith(root + "/") or path.endswith(" (deleted)"):
        return ""
    return (mount.point.rstrip("/") + path[len(root) :]).rstrip("/") or "/"
