"""From a job's ad to everything that is about to be done for it: selection, account, environment, plan.

What :func:`understand` and :func:`box_plan` return is what the starter carries out and ``starterctl
explain`` prints.
Nothing is made here; the account database is looked into.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from condor_starter import attributes
from condor_starter.attributes import BadAttribute
from condor_starter.isolation import boxes, chroot, docker, facts, namespaces, rlimit, select
from condor_starter.isolation.boxes import Launch, Site
from condor_starter.isolation.boxplan import BoxPlan
from condor_starter.isolation.docker import ContainerSpec
from condor_starter.isolation.facts import Capabilities
from condor_starter.isolation.select import Backend, Choice
from condor_starter.job import BadAd, Hold, JobError, JobSpec, Streams
from condor_starter.knobs import Knobs
from condor_starter.sandbox import accounts
from condor_starter.sandbox.accounts import Account
from condor_starter.sandbox.environment import Place, job_environment
from condor_starter.sandbox.machine import host_name

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""

KIND = {
    Backend.DOCKER: "container",
    Backend.CHROOT: "box",
    Backend.NAMESPACES: "box",
    Backend.RLIMIT: "tree",
}


@dataclass(frozen=True, slots=True)
class Source:
    """What the source of a job says about it, beside the ad."""

    slot: str
    machine: ClassAd
    box: str
    scratch: str
    own_accounts: bool  # its accounts are ours: False for a shadow of another UID_DOMAIN


@dataclass(frozen=True, slots=True)
class Draft:
    """A job, understood: what will be done for it, and why so."""

    spec: JobSpec
    choice: Choice
    site: Site
    account: Account
    cwd: str
    notes: tuple[str, ...]  # what the machine cannot give

    @property
    def kind(self) -> str:
        """The kind of box, for procd."""
        return KIND[self.choice.backend]

    @property
    def cgroup(self) -> str:
        """The last component of the box's cgroup."""
        return boxes.cgroup_name(self.site)


def understand(spec: JobSpec, ad: ClassAd, can: Capabilities, knobs: Knobs, source: Source) -> Draft:
    """Select, find the account, name everything. Raises :class:`JobError` for a job that cannot run here."""
    choice = select.select(spec, can, knobs)
    account = accounts.choose(
        spec, knobs, root=can.root, uid=can.uid, slot=source.slot, as_owner=_as_owner(ad, source)
    )
    site = Site(
        can=can,
        knobs=knobs,
        machine=source.machine,
        job=ad,
        slot=source.slot,
        box=source.box,
        execute=_execute(knobs, can),
        scratch=source.scratch,
        identity=account.identity,
    )
    spec = replace(spec, nice=boxes.nice(site))
    in_scratch = spec.transfer_files or not spec.iwd or choice.backend is Backend.DOCKER
    cwd = site.path if in_scratch else spec.iwd
    return Draft(spec, choice, site, account, cwd, tuple(_left_out(choice.backend, spec, site)))


def _as_owner(ad: ClassAd, source: Source) -> bool:
    try:
        return source.own_accounts and attributes.flag(ad, "RunAsOwner", True)
    except BadAttribute as e:
        raise BadAd(f"The job ad cannot be used: {e}") from None


def _execute(knobs: Knobs, can: Capabilities) -> str:
    """EXECUTE, if procd makes scratch directories there; else procd's own first."""
    wish = os.path.normpath(knobs.text("EXECUTE"))
    return wish if wish in can.execute or not can.execute else can.execute[0]


def _left_out(backend: Backend, spec: JobSpec, site: Site) -> list[str]:
    match backend:
        case Backend.NAMESPACES | Backend.CHROOT:
            return namespaces.left_out(spec, site)
        case Backend.RLIMIT:
            return rlimit.left_out(site)
        case Backend.DOCKER:
            return []


def environment(found: Draft, inherited: Mapping[str, str]) -> dict[str, str]:
    """The job's whole environment."""
    site = found.site
    private = found.kind == "box" and "mnt" in site.can.namespaces and site.knobs.flag("PER_JOB_NAMESPACES")
    place = Place(
        scratch=site.path,
        cwd=found.cwd,
        tmp="/tmp" if private and "/tmp" in boxes.private_dirs(site) else site.path,
        slot=site.slot.partition("@")[0],
        home=found.account.home,
        starter_pid=os.getpid(),
    )
    return job_environment(found.spec, site.knobs, place, site.machine, inherited, {})


def box_plan(found: Draft, streams: Streams, fds: Mapping[str, int], inherited: Mapping[str, str]) -> BoxPlan:
    """The box. ``fds``: streams that are descriptors, by the index in what is passed. Raises JobError."""
    spec, site = found.spec, found.site
    if found.choice.backend is Backend.DOCKER:
        _in_container(streams, found)
        launch = Launch((), {}, found.cwd, streams, fds)
        return boxes.skeleton(spec, site, launch, "container")
    launch = Launch((program(found), *spec.args), environment(found, inherited), found.cwd, streams, fds)
    match found.choice.backend:
        case Backend.CHROOT:
            return chroot.plan(spec, site, launch)
        case Backend.NAMESPACES:
            return namespaces.plan(spec, site, launch)
        case Backend.RLIMIT:
            return rlimit.plan(spec, site, launch)


def _in_container(streams: Streams, found: Draft) -> None:
    """A container's streams are files of the scratch directory: the engine does not write elsewhere."""
    for name, code in (
        ("stdin", Hold.UNABLE_TO_OPEN_INPUT),
        ("stdout", Hold.UNABLE_TO_OPEN_OUTPUT),
        ("stderr", Hold.UNABLE_TO_OPEN_OUTPUT),
    ):
        path = getattr(streams, name)
        if path not in (None, "/dev/null") and not boxes.beneath(
            os.path.normpath(os.path.join(found.cwd, path)), found.site.path
        ):
            text = f"The {name} of a docker job, {path}, is not in its scratch directory: name a file in it."
            raise JobError(code, 0, text)


def container(found: Draft, inherited: Mapping[str, str]) -> ContainerSpec:
    """The container of a docker job. Raises JobError."""
    return docker.plan(
        found.spec,
        found.site.knobs,
        box=found.site.box,
        slot=found.site.slot,
        machine=host_name(),
        scratch=found.site.path,
        identity=found.site.identity,
        limits=boxes.limits(found.site),
        environment=environment(found, inherited),
    )


def log_lines(spec: JobSpec, plan: BoxPlan) -> Iterator[str]:
    """What the StarterLog says before a job is started, in HTCondor's words."""
    yield f"Starting a {spec.universe.name} universe job with ID: {spec.id}"
    yield f"IWD: {plan.cwd}"
    for name, words in (("stdin", "Input"), ("stdout", "Output"), ("stderr", "Error")):
        if path := getattr(plan, name).path:
            yield f"{words} file: {os.path.join(plan.cwd, path)}"
    yield f"Renice expr evaluated to {plan.nice}"
    yield f"Running job as user {plan.identity.name or plan.identity.uid}"
    yield f"About to exec {' '.join(plan.argv) or spec.cmd}"


def program(found: Draft) -> str:
    """The path that is executed: a transferred program lies in the scratch directory."""
    spec = found.spec
    if spec.transfer_files and spec.transfer_executable:
        return f"{found.site.path}/{spec.cmd.rpartition('/')[2]}"
    return os.path.normpath(os.path.join(found.cwd, spec.cmd))


__all__ = ["Draft", "Source", "box_plan", "container", "environment", "facts", "program", "understand"]
