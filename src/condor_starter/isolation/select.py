"""Which backend a job gets, and why not another one. Pure: capabilities x JobSpec x knobs."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from condor_starter.isolation.facts import Capabilities
from condor_starter.job import Blame, Hold, JobError, JobSpec
from condor_starter.knobs import Knobs


class Backend(enum.Enum):
    """The ways to box a job, most particular first."""

    DOCKER = "docker"
    CHROOT = "chroot"
    NAMESPACES = "namespaces"
    RLIMIT = "rlimit"


@dataclass(frozen=True, slots=True)
class Reason:
    """What speaks for or against one backend for one job here."""

    backend: Backend
    possible: bool
    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend, and a reason for each of them."""

    backend: Backend
    reasons: tuple[Reason, ...]

    def lines(self) -> list[str]:
        """The choice in lines for people."""
        mark = {True: "+", False: "-"}
        chosen = next(r for r in self.reasons if r.backend is self.backend)
        rest = [r for r in self.reasons if r is not chosen]
        lines = [f"Backend {self.backend.value}: {chosen.text}"]
        return lines + [f"  {mark[r.possible]} not {r.backend.value}: {r.text}" for r in rest]


def select(spec: JobSpec, can: Capabilities, knobs: Knobs) -> Choice:
    """The backend for ``spec``. Raises :class:`JobError` when the one that it needs cannot be had here."""
    reasons = (_docker(spec, can), _chroot(spec, can), _namespaces(can, knobs), _rlimit(can))
    wish = knobs.text("STARTER_BACKEND").lower()
    if spec.docker is not None:
        return _needed(reasons[0], reasons, Hold.CONTAINER_ERROR, Blame.SITE)
    if spec.requested_chroot:
        if "mnt" not in can.namespaces:  # not for want of a better name
            return _needed(reasons[1], reasons, Hold.STARTER_ERROR, Blame.SITE)
        return _needed(reasons[1], reasons, Hold.FAILED_TO_CREATE_PROCESS, Blame.USER)
    if wish in ("namespaces", "rlimit"):
        wanted = next(r for r in reasons if r.backend.value == wish)
        return _needed(wanted, reasons, Hold.STARTER_ERROR, Blame.SITE)
    if wish != "auto":
        text = f"STARTER_BACKEND = {wish} is unknown: write auto, namespaces or rlimit."
        raise JobError(Hold.STARTER_ERROR, 0, text, Blame.SITE)
    return Choice(Backend.NAMESPACES if reasons[2].possible else Backend.RLIMIT, reasons)


def _needed(reason: Reason, reasons: tuple[Reason, ...], code: Hold, blame: Blame) -> Choice:
    if reason.possible:
        return Choice(reason.backend, reasons)
    raise JobError(code, 0, f"This job needs the backend {reason.backend.value}: {reason.text}", blame)


def _docker(spec: JobSpec, can: Capabilities) -> Reason:
    if spec.docker is None:
        return Reason(Backend.DOCKER, bool(can.engine), "the job names no image (WantDocker, DockerImage)")
    if not can.engine:
        return Reason(Backend.DOCKER, False, f"there is no usable engine here: {can.engine_reason}")
    return Reason(Backend.DOCKER, True, f"the job names the image {spec.docker.image}; engine {can.engine}")


def _chroot(spec: JobSpec, can: Capabilities) -> Reason:
    name = spec.requested_chroot
    known = ", ".join(sorted(can.chroots)) or "there are none"
    if not name:
        return Reason(Backend.CHROOT, bool(can.chroots), "the job has no RequestedChroot")
    if "mnt" not in can.namespaces:
        return Reason(Backend.CHROOT, False, f"no mount namespace can be had: {can.why_not('mnt')}")
    if name not in can.chroots:
        text = f"RequestedChroot = {name[:60]!r} is no named chroot of this machine ({known})"
        return Reason(Backend.CHROOT, False, text)
    return Reason(Backend.CHROOT, True, f"the job has RequestedChroot = {name}")


def _namespaces(can: Capabilities, knobs: Knobs) -> Reason:
    if not can.root and not can.namespaces:
        text = f"procd does not run as root, and {can.why_not('mnt')}"
        return Reason(Backend.NAMESPACES, False, text)
    if not can.namespaces and not can.tracker:
        return Reason(Backend.NAMESPACES, False, f"neither namespaces nor a cgroup: {can.why_not('mnt')}")
    cgroup = can.cgroup if knobs.text("BASE_CGROUP") else "none (BASE_CGROUP is empty)"
    limits = ", ".join(sorted(can.limits & {"memory", "cpu", "pids"})) or "none"
    names = ",".join(sorted(can.namespaces)) or "none"
    text = f"namespaces {names}; cgroup {cgroup}, limits: {limits}"
    return Reason(Backend.NAMESPACES, True, text)


def _rlimit(can: Capabilities) -> Reason:
    how = (
        "what namespaces and cgroups give is left out"
        if can.namespaces or can.tracker
        else "works everywhere"
    )
    return Reason(Backend.RLIMIT, True, f"rlimits and the tracking of the process tree; {how}")
