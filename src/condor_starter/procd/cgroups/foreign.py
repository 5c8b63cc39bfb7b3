"""The directories that a container engine makes beneath a box's cgroup where we have none.

An engine puts a container into every v1 hierarchy, also into those that we do not use (cpuset, blkio,
devices, name=systemd), and makes the parents there. It removes its own, never the parents: those are ours.
"""

from __future__ import annotations

import os

from condor_starter.procd.cgroups import files
from condor_starter.procd.cgroups.detect import parse_mounts, visible


def remove(path: str) -> str:
    """Remove the cgroup ``path`` ("/htcondor/box") from every v1 hierarchy; "" or, in words, what stayed."""
    if not path.strip("/") or ".." in path.split("/"):
        return ""
    mountinfo = os.fsdecode(files.read("/proc/self/mountinfo") or b"")
    left = []
    for mount in visible(parse_mounts(mountinfo)):
        if mount.fstype == "cgroup" and mount.root == "/" and "ro" not in mount.options:
            left += _remove(mount.point + path)
    return f"cgroups of the container not removed: {', '.join(left)}" if left else ""


def _remove(directory: str) -> list[str]:
    if not os.path.isdir(directory):
        return []
    try:
        return [] if files.remove_tree(directory) else [directory]
    except files.CgroupError as e:
        return [str(e)]
