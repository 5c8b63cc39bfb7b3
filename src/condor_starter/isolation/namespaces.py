"""The cgroup+namespace backend's planner: JobSpec -> BoxPlan. Pure."""

from __future__ import annotations

import os

from condor_starter.isolation import boxes
from condor_starter.isolation.boxes import Launch, Site
from condor_starter.isolation.boxplan import Bind, BoxPlan
from condor_starter.job import Blame, Hold, JobError, JobSpec


def plan(spec: JobSpec, site: Site, launch: Launch) -> BoxPlan:
    """The box for ``spec``. Raises :class:`JobError` for what cannot be built."""
    wanted = namespaces(spec, site)
    box = boxes.skeleton(spec, site, launch, "box")
    if "mnt" not in wanted:
        return box._replace(namespaces=wanted)
    private = boxes.private_dirs(site)
    boxes.visible(launch, private, site.path)
    return box._replace(
        namespaces=wanted,
        private_dirs=private,
        private_dev_shm=site.knobs.flag("MOUNT_PRIVATE_DEV_SHM"),
        binds=binds(site),
    )


def namespaces(spec: JobSpec, site: Site) -> tuple[str, ...]:
    """Those that the knobs and the job want and the machine has, in boxplan's order.

    Raises :class:`JobError` when a job that must have no network cannot be cut off from it: a wish that is
    left out quietly would be a hole.
    """
    knobs, have = site.knobs, site.can.namespaces
    mounts = knobs.flag("PER_JOB_NAMESPACES") and "mnt" in have
    offline = spec.want_network is False or knobs.flag("NO_JOB_NETWORKING")
    if offline and "net" not in have:
        text = (
            f"This job may have no network, but no network namespace can be had: {site.can.why_not('net')}."
        )
        raise JobError(Hold.STARTER_ERROR, 0, text, Blame.SITE)
    wanted = {
        "pid": mounts and knobs.flag("USE_PID_NAMESPACES"),
        "mnt": mounts,
        "ipc": True,
        "uts": True,
        "cgroup": site.can.tracker,
        "net": offline,
    }
    return tuple(n for n, wish in wanted.items() if wish and n in have)


def left_out(spec: JobSpec, site: Site) -> list[str]:
    """What this machine cannot give of what the knobs want, in words: for the log and ``explain``."""
    knobs, can = site.knobs, site.can
    wanted = ["ipc", "uts"]
    if knobs.flag("PER_JOB_NAMESPACES"):
        wanted += ["mnt"] + (["pid"] if knobs.flag("USE_PID_NAMESPACES") else [])
    notes = [f"no {n} namespace: {can.why_not(n)}" for n in wanted if n not in can.namespaces]
    if knobs.text("BASE_CGROUP"):
        lacking = sorted({"memory", "cpu", "pids"} - can.limits)
        notes += [f"no cgroup limit of {n}: {can.why_not('cgroup limits')}" for n in lacking]
    return notes


def binds(site: Site) -> tuple[Bind, ...]:
    """STARTER_BIND: /dir, /dir:/target or /dir:/target:rw."""
    found = []
    for word in site.knobs.words("STARTER_BIND"):
        source, _, rest = word.partition(":")
        target, _, mode = rest.partition(":")
        found.append(Bind(os.path.normpath(source), os.path.normpath(target or source), mode != "rw"))
    return tuple(found)
