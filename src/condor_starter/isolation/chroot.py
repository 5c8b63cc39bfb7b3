"""The named-chroot backend's planner: the namespaces' box within a root tree that the admin named. Pure."""

from __future__ import annotations

from condor_starter.isolation import boxes, namespaces
from condor_starter.isolation.boxes import Launch, Site
from condor_starter.isolation.boxplan import BoxPlan
from condor_starter.job import Hold, JobError, JobSpec


def plan(spec: JobSpec, site: Site, launch: Launch) -> BoxPlan:
    """The box for ``spec`` in the tree ``spec.requested_chroot``. procd alone knows where that is.

    The scratch directory has its own path inside the tree; of the host's file system nothing else is there,
    so the working directory and the streams are in the scratch directory or in the tree.
    """
    box = boxes.skeleton(spec, site, launch, "box")
    wanted = dict.fromkeys((*namespaces.namespaces(spec, site), "mnt"))
    private = boxes.private_dirs(site)
    boxes.visible(launch, private, site.path)
    if not launch.argv[0].startswith("/"):
        text = f"Cmd = {spec.cmd} must be a path inside the chroot {spec.requested_chroot}."
        raise JobError(Hold.FAILED_TO_CREATE_PROCESS, 2, text)
    return box._replace(
        namespaces=tuple(n for n in ("pid", "mnt", "ipc", "uts", "cgroup", "net") if n in wanted),
        chroot=spec.requested_chroot,
        private_dirs=private,
        private_dev_shm=site.knobs.flag("MOUNT_PRIVATE_DEV_SHM"),
        binds=namespaces.binds(site),
    )
