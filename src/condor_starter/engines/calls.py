"""What is asked of an engine and how its answers are read, in the terms of the ``docker`` package.

Blocking functions of a client, which :class:`~condor_starter.engines.engine.DockerEngine` runs in threads.
They index answers unchecked; whatever that raises means that no docker engine answered.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

from condor_starter.engines.owner import is_dead
from condor_starter.isolation.docker import LABEL, OWNER_LABEL, ContainerSpec, EngineFacts


class EngineError(Exception):
    """The engine refused (``status``: its HTTP status) or could not be asked (0), and its words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class ContainerState:
    """A container as the engine describes it."""

    id: str
    status: str  # created, running, paused, exited, dead ...
    code: int
    oom_killed: bool
    error: str


def facts(version: Any, info: Any) -> EngineFacts:
    """Who the engine is, from its /version and /info."""
    if not isinstance(version, dict) or not isinstance(info, dict) or not version.get("Version"):
        return EngineFacts(reason="the docker engine tells no version")
    options = [str(o) for o in info.get("SecurityOptions") or []]
    return EngineFacts(
        version=str(version["Version"]),
        build=str(version.get("GitCommit") or ""),
        cgroup_driver=str(info.get("CgroupDriver") or ""),
        rootless=any("rootless" in o for o in options),
    )


def labels(found: Any) -> dict[str, str]:
    """The labels of an inspected container."""
    return found["Config"]["Labels"] or {}


def stopped_and_ours(found: Any) -> bool:
    """True for an inspected container that a starter made and that does not run."""
    return labels(found).get(LABEL) == "True" and not found["State"]["Running"]


def state(found: Any) -> ContainerState:
    """An inspected container, typed."""
    told = found["State"]
    return ContainerState(
        id=str(found["Id"]),
        status=str(told.get("Status")),
        code=int(told.get("ExitCode") or 0),
        oom_killed=bool(told.get("OOMKilled")),
        error=str(told.get("Error") or ""),
    )


def pull(api: Any, image: str) -> None:
    """Fetch one image; the engine tells failures in the progress stream, after its 200."""
    repository, tag = _split(image)
    for line in api.pull(repository, tag=tag, stream=True, decode=True):
        if isinstance(line, dict) and line.get("error"):
            raise EngineError(404, str(line["error"]))


def orphans(api: Any) -> list[str]:
    """The ids of the containers that dead starters left."""
    found = api.containers(all=True, filters={"label": [f"{LABEL}=True", OWNER_LABEL]})
    return [str(c["Id"]) for c in found if is_dead(str(c["Labels"].get(OWNER_LABEL)))]


def _split(image: str) -> tuple[str, str]:
    """("registry:port/name", "tag" or "sha256:...") of a full reference."""
    if "@" in image:
        name, _, digest = image.partition("@")
        colon = name.rfind(":")
        return (name[:colon] if colon > name.rfind("/") else name), digest
    name, _, tag = image.rpartition(":")
    return name, tag


def create(api: Any, spec: ContainerSpec) -> str:
    """Make the container; its id."""
    reply = api.create_container(
        spec.image,
        command=None if spec.command is None else list(spec.command),
        entrypoint=None if spec.entrypoint is None else list(spec.entrypoint),
        environment=list(spec.environment),
        hostname=spec.hostname or None,
        user=spec.user,
        working_dir=spec.workdir,
        stdin_open=spec.stdin,
        labels=dict(spec.labels),
        name=spec.name,
        host_config=_host_config(api, spec),
        use_config_proxy=False,  # the job's environment is exactly the plan's
    )
    return str(reply["Id"])


def _host_config(api: Any, spec: ContainerSpec) -> Any:
    from docker.types import LogConfig, Mount

    mounts = [
        Mount(v.target, v.source, type="bind", read_only=v.read_only, propagation="rprivate")
        for v in spec.volumes
    ]
    return api.create_host_config(
        mounts=mounts,
        mem_limit=spec.memory,
        memswap_limit=spec.memory_swap,
        cpu_shares=spec.cpu_shares,
        pids_limit=spec.pids,
        cap_drop=list(spec.cap_drop),
        cap_add=list(spec.cap_add),
        security_opt=list(spec.security_opt),
        group_add=[str(g) for g in spec.groups],
        init=spec.init,
        network_mode=spec.network or None,
        cgroup_parent=spec.cgroup_parent or None,
        shm_size=spec.shm_size,
        oom_score_adj=spec.oom_score_adj,
        log_config=LogConfig(type=spec.log_driver) if spec.log_driver else None,
    )


def attach(api: Any, container: str, stdin: bool) -> socket.socket:
    """The container's streams as a non-blocking socket, the caller's to close."""
    params = {"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1}
    raw = api.attach_socket(container, params=params)
    ours = socket.socket(fileno=os.dup(raw.fileno()))  # without the package's reader and its timeouts
    ours.setblocking(False)
    raw._sock.close()  # a SocketIO's close alone leaves its socket open
    raw.close()
    return ours
