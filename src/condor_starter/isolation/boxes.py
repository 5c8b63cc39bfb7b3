"""What the plans of all backends have in common: names, limits, streams, visibility. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from condor_starter import attributes
from condor_starter.attributes import BadAttribute
from condor_starter.isolation.boxplan import BoxPlan, Identity, Limits, Rlimit, Stdio
from condor_starter.isolation.facts import Capabilities
from condor_starter.job import Blame, Hold, JobError, JobSpec, Streams
from condor_starter.knobs import Knobs

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""

MIB = 1048576


@dataclass(frozen=True, slots=True)
class Site:
    """Everything beside the JobSpec that a planner needs: where, as whom, under which names."""

    can: Capabilities
    knobs: Knobs
    machine: ClassAd  # the slot's ad
    job: ClassAd  # the job's ad: for the admin's expressions only
    slot: str  # e.g. "slot1_1"
    box: str
    execute: str
    scratch: str  # name beneath execute
    identity: Identity

    @property
    def path(self) -> str:
        """The scratch directory, in the host's view and in the job's."""
        return f"{self.execute}/{self.scratch}"


@dataclass(frozen=True, slots=True)
class Launch:
    """What is executed, in which environment, with which streams."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    streams: Streams
    fds: Mapping[str, int]  # streams that are descriptors: name -> index of what is passed


def cgroup_name(site: Site) -> str:
    """HTCondor's name (execute directory and slot), made unique by the scratch directory's.

    A cgroup that could not be removed (a process that the kernel cannot kill) must not give its usage to
    the slot's next job.
    """
    name = f"{site.execute}_{machine_name(site)}_{site.scratch}"
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "_.@+-") else "_" for c in name)
    return clean if len(clean) <= 120 else "_" + clean[-119:]


def machine_name(site: Site) -> str:
    """The slot's full name: slot1_1@host."""
    name = site.machine.get("Name")
    return name if isinstance(name, str) and name else site.slot


def limits(site: Site) -> Limits:
    """The limits of the job's cgroup, from the slot's ad and the admin's policy."""
    knobs = site.knobs
    memory = _memory(site)
    pids = knobs.integer("STARTER_JOB_PIDS")
    return Limits(
        memory=memory,
        swap=0 if memory is not None and knobs.flag("DISABLE_SWAP_FOR_JOB") else None,
        cpu_shares=max(2, int(100 * _slot(site, "Cpus", 1))),
        pids=pids if pids > 0 else None,
    )


def _memory(site: Site) -> int | None:
    """Bytes: CGROUP_MEMORY_LIMIT_POLICY hard (the slot's Memory) or custom (an expression); else none."""
    match site.knobs.text("CGROUP_MEMORY_LIMIT_POLICY").strip('" ').lower():
        case "hard":
            megabytes = _slot(site, "Memory", 0)
        case "custom":
            megabytes = _number(expression(site, "CGROUP_HARD_MEMORY_LIMIT_EXPR"), 0)
        case _:
            return None
    return int(megabytes * MIB) or None


def expression(site: Site, knob: str) -> Any:
    """The value of an expression knob for this job; None when it is empty or undefined."""
    text = site.knobs.text(knob)
    if not text:
        return None
    try:
        return attributes.evaluate(text, site.machine, site.job)
    except BadAttribute as e:
        raise JobError(Hold.STARTER_ERROR, 0, f"The knob {knob} of this machine: {e}", Blame.SITE) from None


def _slot(site: Site, name: str, default: float) -> float:
    """A number of the slot's ad."""
    try:
        return _number(attributes.number(site.machine, name), default)
    except BadAttribute as e:
        raise JobError(Hold.STARTER_ERROR, 0, f"The machine's ad: {e}", Blame.SITE) from None


def _number(value: Any, default: float) -> float:
    return float(value) if type(value) in (int, float) and 0 < value < 2**40 else default


def rlimits(spec: JobSpec, site: Site) -> tuple[Rlimit, ...]:
    """core: the job's CoreSize (negative: unlimited); stack: unlimited; as: STARTER_RLIMIT_AS in MiB."""
    core = spec.core_size if spec.core_size >= 0 else -1
    space = int(_number(expression(site, "STARTER_RLIMIT_AS"), 0) * MIB)
    fixed = (Rlimit("CORE", core, core), Rlimit("STACK", -1, -1))
    return (*fixed, Rlimit("AS", space, space)) if space else fixed


def nice(site: Site) -> int:
    """JOB_RENICE_INCREMENT, within 0..19."""
    return max(0, min(19, int(_number(expression(site, "JOB_RENICE_INCREMENT"), 0))))


def private_dirs(site: Site) -> tuple[str, ...]:
    """MOUNT_UNDER_SCRATCH: a plain list, or an expression that gives one. Absolute and normal paths only."""
    text = site.knobs.text("MOUNT_UNDER_SCRATCH").strip()
    if text and not text.startswith("/"):
        value = expression(site, "MOUNT_UNDER_SCRATCH")
        if value is not None and not isinstance(value, str):
            why = "The knob MOUNT_UNDER_SCRATCH of this machine does not give a string."
            raise JobError(Hold.STARTER_ERROR, 0, why, Blame.SITE)
        text = value or ""
    found = (os.path.normpath(d) for d in text.replace(",", " ").split() if d.startswith("/"))
    return tuple(dict.fromkeys(d for d in found if not beneath(site.path, d)))


def beneath(path: str, directory: str) -> bool:
    """True if ``path`` is ``directory`` or lies in it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def visible(launch: Launch, private: tuple[str, ...], scratch: str) -> None:
    """Raise :class:`JobError` for a working directory or program that a private directory hides.

    Streams are not hidden: procd opens the host's files where a private directory covers them.
    """
    for name, path, code in (
        ("The working directory (Iwd)", launch.cwd, Hold.IWD_ERROR),
        ("The program (Cmd)", launch.argv[0], Hold.FAILED_TO_CREATE_PROCESS),
    ):
        full = os.path.normpath(os.path.join(launch.cwd, path)) if path else ""
        hidden = next((d for d in private if beneath(full, d)), None)
        if hidden and not beneath(full, scratch):
            text = (
                f"{name} is {full}, but {hidden} is private to each job on this machine "
                "(MOUNT_UNDER_SCRATCH): use another directory."
            )
            raise JobError(code, 2, text)


def stdio(launch: Launch, name: str) -> Stdio:
    """One stream of the plan."""
    if name in launch.fds:
        return Stdio(fd=launch.fds[name])
    path = getattr(launch.streams, name)
    return Stdio() if path in (None, "", "/dev/null") else Stdio(path=path)


def skeleton(spec: JobSpec, site: Site, launch: Launch, kind: str) -> BoxPlan:
    """The part of a plan that every backend has."""
    if not launch.cwd.startswith("/"):
        raise JobError(Hold.IWD_ERROR, 2, f"Iwd = {launch.cwd} is not an absolute path: write one.")
    return BoxPlan(
        box=site.box,
        cgroup=cgroup_name(site),
        kind=kind,
        execute=site.execute,
        scratch=site.scratch,
        identity=site.identity,
        argv=launch.argv,
        env=tuple(f"{n}={v}" for n, v in launch.env.items()),
        cwd=launch.cwd,
        stdin=stdio(launch, "stdin"),
        stdout=stdio(launch, "stdout"),
        stderr=stdio(launch, "stderr"),
        private_dev_shm=False,
        limits=limits(site),
        rlimits=rlimits(spec, site),
        nice=nice(site),
    )
