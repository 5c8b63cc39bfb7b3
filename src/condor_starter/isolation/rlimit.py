"""The rlimit backend's planner: a process tree with resource limits, for machines without root. Pure."""

from __future__ import annotations

from condor_starter.isolation import boxes
from condor_starter.isolation.boxes import Launch, Site
from condor_starter.isolation.boxplan import BoxPlan
from condor_starter.job import Blame, Hold, JobError, JobSpec


def plan(spec: JobSpec, site: Site, launch: Launch) -> BoxPlan:
    """The tree for ``spec``. Limits that only a cgroup can hold stay in it: procd says what is missing."""
    if spec.want_network is False or site.knobs.flag("NO_JOB_NETWORKING"):
        text = "This job may have no network, and the rlimit backend cannot take it away."
        raise JobError(Hold.STARTER_ERROR, 0, text, Blame.SITE)
    return boxes.skeleton(spec, site, launch, "tree")


def left_out(site: Site) -> list[str]:
    """What a job in this backend lacks, in words."""
    return [
        "no namespaces: the job sees the machine's processes, /tmp and network",
        "no cgroup: no limit of memory, cpu and processes beyond rlimits",
    ]
