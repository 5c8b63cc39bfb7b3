"""The docker backend's planner: what a job asks for, as the container that an engine is asked to make.

Pure: no engine, no I/O, no log. What the engine refuses or reports is mapped here too (``refused``,
``out_of_memory``, ``wait_status`` ...), so that the words users see and the blame stand in one place.
Facts: HTCondor's docker universe (the starter's docker_proc and docker-api), the distribution project's
reference grammar for image names, docker's HTTP API 1.41.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from condor_starter.isolation.boxplan import BoxPlan, Identity, Limits, Stdio, Usage
from condor_starter.job import OUT_OF_MEMORY, Blame, DockerSpec, Hold, JobError, JobSpec
from condor_starter.knobs import Knobs

LABEL = "org.htcondorproject"
"""Label of every container of a starter, value "True": the startd prunes stopped ones by it at boot."""

BOX_LABEL = "org.htcondorproject.box"
"""Our label: the box (procd's id) that the container belongs to."""

OWNER_LABEL = "org.htcondorproject.starter"
"""Our label: the starter process that made the container (engines.owner)."""

MAX_IMAGE = 512
MAX_ID = 2**31 - 1
_MOST_WORDS = 511  # of an engine's answer in a hold reason


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a probe found: a usable engine, or the reason why there is none."""

    version: str = ""  # "20.10.24"; "" = no usable engine
    build: str = ""  # the engine's commit
    reason: str = ""  # why not, in words for the StarterLog; "" if usable
    cgroup_driver: str = ""  # "cgroupfs" or "systemd"
    rootless: bool = False

    @property
    def usable(self) -> bool:
        """True if jobs can be given to this engine."""
        return bool(self.version)

    @property
    def takes_our_cgroup(self) -> bool:
        """True if a container can be put beneath a cgroup of ours.

        With the systemd driver a parent must be a slice of systemd's; a rootless engine has only its own.
        """
        return self.cgroup_driver == "cgroupfs" and not self.rootless


@dataclass(frozen=True, slots=True)
class Volume:
    """A host directory in the container; the source exists, docker never makes it."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container, as the engine is asked for it. Everything else is the engine's default."""

    name: str
    image: str  # with tag or digest
    entrypoint: tuple[str, ...] | None  # None: the image's own
    command: tuple[str, ...] | None  # None: the image's own
    environment: tuple[str, ...]  # NAME=value; the engine puts the image's own variables before them
    user: str  # "uid:gid", never 0
    groups: tuple[int, ...]
    volumes: tuple[Volume, ...]
    workdir: str
    memory: int | None  # bytes
    memory_swap: int | None  # bytes, memory and swap together; None: the engine's default
    cpu_shares: int | None
    pids: int | None
    cap_drop: tuple[str, ...]
    cap_add: tuple[str, ...]
    security_opt: tuple[str, ...]
    init: bool
    network: str  # "" = the engine's default (NAT)
    hostname: str  # "" = the engine's choice
    labels: tuple[tuple[str, str], ...]
    log_driver: str
    pull: str  # "always", "never", or "" = when it is not there
    shm_size: int | None = None  # bytes
    stdin: bool = False
    oom_score_adj: int = 800  # the job goes first
    cgroup_parent: str = ""  # "" = the engine's own; set when the box is there


def plan(
    spec: JobSpec,
    knobs: Knobs,
    *,
    box: str,
    slot: str,
    machine: str,
    scratch: str,
    identity: Identity,
    limits: Limits,
    environment: Mapping[str, str],
) -> ContainerSpec:
    """The container for ``spec``. ``scratch`` is the scratch directory's path, the same inside and outside;
    ``box`` is procd's id of the box; ``machine`` the host's name.

    Raises :class:`JobError`: 35 for an image name that is none, 1021 for an identity or a network that
    is not allowed here.
    """
    docker = spec.docker
    if docker is None:
        raise ValueError(f"job {spec.id} is no docker job")
    entrypoint, command = _command(spec, docker)
    network = _network(spec, docker, knobs)
    drop = knobs.flag("DOCKER_DROP_ALL_CAPABILITIES")
    return ContainerSpec(
        name=container_name(spec, slot, box),
        image=image_reference(docker.image),
        entrypoint=entrypoint,
        command=command,
        environment=tuple(f"{n}={v}" for n, v in environment.items()),
        user=_user(identity),
        groups=tuple(g for g in identity.groups if g not in (0, identity.gid)),
        volumes=(Volume(scratch, scratch),),
        workdir=scratch,
        memory=limits.memory,
        memory_swap=None if limits.memory is None or limits.swap is None else limits.memory + limits.swap,
        cpu_shares=limits.cpu_shares,
        pids=limits.pids,
        cap_drop=("ALL",) if drop else (),
        cap_add=("SYS_PTRACE",) if drop else (),
        security_opt=("no-new-privileges",) if drop else (),
        init=knobs.flag("DOCKER_RUN_UNDER_INIT"),
        network=network,
        hostname="" if network == "host" else _hostname(spec, machine),
        labels=((LABEL, "True"), (BOX_LABEL, box)),
        log_driver="none" if knobs.flag("DOCKER_LOG_DRIVER_NONE") else "",
        pull=_pull(docker),
        shm_size=knobs.integer("DOCKER_SHM_SIZE") or None,
        stdin=spec.streams.stdin not in (None, "", "/dev/null"),
    )


def box_plan(
    container: ContainerSpec,
    *,
    box: str,
    cgroup: str,
    execute: str,
    scratch: str,
    identity: Identity,
    limits: Limits,
    streams: tuple[Stdio, Stdio, Stdio] = (Stdio(), Stdio(), Stdio()),
) -> BoxPlan:
    """procd's part of a container: scratch directory and cgroup with limits, no process of procd's own.

    ``scratch`` is the directory's name beneath ``execute``; ``streams`` are stdin, stdout and stderr, as
    descriptors or as names in the scratch directory.
    """
    return BoxPlan(
        box=box,
        cgroup=cgroup,
        kind="container",
        execute=execute,
        scratch=scratch,
        identity=identity,
        argv=("docker", container.image, *(container.command or ())),  # for logs: procd executes nothing
        env=(),
        cwd=container.workdir,
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        limits=limits,
    )


def container_name(spec: JobSpec, slot: str, box: str) -> str:
    """``HTCJob<cluster>_<proc>_<slot>_PID<...>``: HTCondor's name, made unique by the box's id.

    The engine allows [a-zA-Z0-9_.-]; anything else becomes ``_``.
    """
    name = f"HTCJob{spec.cluster}_{spec.proc}_{slot or 'slot'}_PID{box}"
    return re.sub(r"[^a-zA-Z0-9_.-]", "_", name)[:128]


_DOMAIN_PART = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,128}"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)(?P<tag>:{_TAG})?(?P<digest>@{_DIGEST})?"
)


def image_reference(image: str) -> str:
    """``image`` in full: without ``docker://``, with ``:latest`` if it has neither tag nor digest.

    Raises :class:`JobError` 35 for what the reference grammar of docker's registries does not allow, so
    that an option, a path or a control character in the ad never reaches an engine.
    """
    name = image.removeprefix("docker://")
    match = _REFERENCE.fullmatch(name) if len(name) <= MAX_IMAGE else None
    if match is None or len(match["name"]) > 255:
        raise JobError(
            Hold.INVALID_DOCKER_IMAGE,
            0,
            f"Invalid docker image name {_shown(image)}: it is [registry[:port]/]name[:tag], in lower case",
        )
    return name if match["tag"] or match["digest"] else f"{name}:latest"


def _shown(text: str) -> str:
    """Hostile text for a hold reason: quoted, control characters escaped, short."""
    return ascii(text if len(text) <= 80 else text[:80] + "...")


def _command(spec: JobSpec, docker: DockerSpec) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """(entrypoint, command): a transferred executable is ./basename in the scratch directory, another one a
    path in the image, and no executable the image's default. Never one of the execute machine's."""
    if not spec.cmd:
        return None, spec.args or None
    travels = spec.transfer_files and spec.transfer_executable
    program = "./" + spec.cmd.rpartition("/")[2] if travels else spec.cmd
    if docker.override_entrypoint:
        return (program,), spec.args
    return None, (program, *spec.args)


def _user(identity: Identity) -> str:
    if not (0 < identity.uid <= MAX_ID and 0 < identity.gid <= MAX_ID):
        raise JobError(
            Hold.CONTAINER_ERROR,
            0,
            f"A container does not run as uid {identity.uid}, gid {identity.gid}: choose another user.",
            Blame.SITE,
        )
    return f"{identity.uid}:{identity.gid}"


def _network(spec: JobSpec, docker: DockerSpec, knobs: Knobs) -> str:
    wanted = docker.network
    if spec.want_network is False or wanted.lower() == "none":
        return "none"
    if wanted.lower() in ("", "nat"):
        return ""
    if wanted.lower() == "host":
        return "host"
    if wanted not in knobs.words("DOCKER_NETWORKS"):
        raise JobError(
            Hold.CONTAINER_ERROR,
            0,
            f"The docker network {_shown(wanted)} is not one of this machine's DOCKER_NETWORKS.",
            Blame.SITE,
        )
    return wanted


def _pull(docker: DockerSpec) -> str:
    wanted = docker.pull_policy.lower()
    return wanted if wanted in ("always", "never") else ""


def _hostname(spec: JobSpec, machine: str) -> str:
    """``<owner>-<cluster>.<proc>-<machine>``, cut to the 63 characters that a host name may have."""
    name = re.sub(r"[^A-Za-z0-9.-]", "-", f"{spec.owner}-{spec.cluster}.{spec.proc}-{machine}")
    return name[:63].strip("-.")


def wait_status(code: int) -> int:
    """The engine's exit code as a raw wait(2) status: 128+N, as shells and inits report it, is signal N."""
    return code - 128 if 128 < code <= 128 + 64 else (code & 0xFF) << 8


def out_of_memory(limit: int | None) -> JobError:
    """The hold for a container that its memory limit (bytes) ended."""
    size = f"memory limit of {limit // 1048576} Mb" if limit else "the machine's memory"
    return JobError(Hold.JOB_OUT_OF_RESOURCES, OUT_OF_MEMORY, f"Docker job has gone over {size}")


def cannot_pull(image: str, reason: str) -> JobError:
    """The hold for an image that is not here and cannot be fetched; ``reason`` is the engine's."""
    return JobError(Hold.INVALID_DOCKER_IMAGE, 0, f"Cannot pull image {image}: {_one_line(reason)}")


def cannot_create(image: str, reason: str) -> JobError:
    """The hold for a container that the engine will not make from this image."""
    text = f"Unable to create a container of image {image}: {_one_line(reason)}"
    return JobError(Hold.INVALID_DOCKER_IMAGE, 0, text)


def cannot_run(reason: str) -> JobError:
    """The hold for a command that the container's runtime cannot execute."""
    return JobError(Hold.FAILED_TO_CREATE_PROCESS, 0, f"Error running docker job: {_one_line(reason)}")


def engine_failed(what: str, reason: str) -> JobError:
    """The engine's own failure: nobody's job is held for it, it runs again elsewhere."""
    return JobError(Hold.CONTAINER_ERROR, 0, f"Docker: {what}: {_one_line(reason)}", Blame.SYSTEM)


def _one_line(text: str) -> str:
    """An engine's answer for a hold reason: one line, printable, at most 511 characters."""
    return "".join(c if c.isprintable() else " " for c in text.strip())[:_MOST_WORDS]


def usage_of(stats: Mapping[str, Any]) -> Usage:
    """The engine's stats as usage. Page cache is not the job's memory: rss (v1), or anon + shmem (v2)."""
    cpu = stats.get("cpu_stats", {}).get("cpu_usage", {})
    memory = stats.get("memory_stats", {})
    parts = memory.get("stats", {})
    used = parts.get("rss", parts.get("anon", 0) + parts.get("shmem", 0) if parts else memory.get("usage"))
    return Usage(
        user_usec=int(cpu.get("usage_in_usermode", 0)) // 1000,
        system_usec=int(cpu.get("usage_in_kernelmode", 0)) // 1000,
        memory_bytes=used,
        memory_peak_bytes=memory.get("max_usage"),
        processes=stats.get("pids_stats", {}).get("current"),
    )


def attributes(facts: EngineFacts) -> dict[str, str | bool]:
    """What ``condor_starter -classad`` says of the engine; empty without a usable one."""
    if not facts.usable:
        return {}
    version = f"Docker version {facts.version}, build {facts.build or 'unknown'}"
    return {"HasDocker": True, "HasDockerURL": True, "HasContainer": True, "DockerVersion": version}


def describe(spec: ContainerSpec) -> list[str]:
    """The container in lines of words, for ``explain``."""
    command = "the image's own command" if spec.command is None else " ".join(spec.command)
    if spec.entrypoint:
        command = " ".join((*spec.entrypoint, *(spec.command or ())))
    lines = [
        f"container {spec.name} of image {spec.image}",
        f"runs {command} in {spec.workdir} as {spec.user}, groups {list(spec.groups)}",
        f"memory {spec.memory}, memory+swap {spec.memory_swap}, cpu shares {spec.cpu_shares}",
        f"capabilities -{','.join(spec.cap_drop)} +{','.join(spec.cap_add)}, {','.join(spec.security_opt)}",
        f"network {spec.network or 'default (NAT)'}, hostname {spec.hostname or '(of the engine)'}",
        f"init {spec.init}, log driver {spec.log_driver or '(default)'}, pull {spec.pull or 'if missing'}",
    ]
    return lines + [
        f"volume {v.source} at {v.target}{' read-only' if v.read_only else ''}" for v in spec.volumes
    ]
