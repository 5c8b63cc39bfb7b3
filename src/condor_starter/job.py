"""What a job asks for, typed and frozen: JobSpec, and the one error type that a job can end in.

Pure: no I/O, no logging. :func:`spec_from_ad` lives here too, so that the names of the job ad's attributes
appear in one place.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from condor_starter import attributes
from condor_starter.arguments import SyntaxProblem, environment_v1, environment_v2, split_v1, split_v2
from condor_starter.attributes import BadAttribute

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""


class Blame(enum.Enum):
    """Who caused a failure. The user's fault holds the job; the site's or the system's requeues it."""

    USER = "user"
    SITE = "site"
    SYSTEM = "system"


class Hold(enum.IntEnum):
    """HTCondor's HoldReasonCode values that a starter produces (>= 1000: vacate codes, not holds)."""

    FAILED_TO_CREATE_PROCESS = 6
    UNABLE_TO_OPEN_OUTPUT = 7
    UNABLE_TO_OPEN_INPUT = 8
    INVALID_TRANSFER_ACK = 11
    TRANSFER_OUTPUT_ERROR = 12
    TRANSFER_INPUT_ERROR = 13
    IWD_ERROR = 14
    UNABLE_TO_INIT_USER_LOG = 22
    FAILED_TO_ACCESS_USER_ACCOUNT = 23
    JOB_OUT_OF_RESOURCES = 34
    INVALID_DOCKER_IMAGE = 35
    STARTER_ERROR = 1007
    CONTAINER_ERROR = 1021
    SCRATCH_DIR_ERROR = 1024


OUT_OF_MEMORY = 102  # subcode of JOB_OUT_OF_RESOURCES
OUT_OF_DISK = 104


class JobError(Exception):
    """A failure for the job's sake. Everything that can go wrong with one job ends in this type.

    ``code``/``subcode`` are HTCondor's hold codes, or a vacate code >= 1000 (then the job is requeued,
    not held). ``text`` is one sentence for the user: what, where, what to do.
    """

    def __init__(self, code: int, subcode: int, text: str, blame: Blame = Blame.USER) -> None:
        super().__init__(text)
        self.code = int(code)
        self.subcode = subcode
        self.text = text
        self.blame = blame

    @property
    def holds(self) -> bool:
        """True if the job is to be held; False if it is to be run again elsewhere."""
        return 0 < self.code < 1000 and self.subcode > -1000


class BadAd(JobError):
    """The ad itself is unusable: missing or mistyped attributes, a syntax error. Exit status 2 by hand."""

    def __init__(self, text: str) -> None:
        super().__init__(Hold.FAILED_TO_CREATE_PROCESS, 0, text, Blame.USER)


class Universe(enum.IntEnum):
    """The JobUniverse values that this starter runs."""

    VANILLA = 5
    LOCAL = 12


@dataclass(frozen=True, slots=True)
class DockerSpec:
    """The docker universe part of a job."""

    image: str  # as the user wrote it, without docker://, with a tag or digest
    network: str = ""  # DockerNetworkType: "", "none", "host", "nat" or a configured name
    override_entrypoint: bool = False
    pull_policy: str = ""  # DockerPullPolicy


@dataclass(frozen=True, slots=True)
class Streams:
    """Names of the standard streams as the job means them: relative to its working directory.

    None or "/dev/null" is no stream. In a transferred job stdout and stderr are written to
    ``_condor_stdout`` and ``_condor_stderr`` in the scratch directory and renamed by the submit side.
    """

    stdin: str | None = None
    stdout: str | None = None
    stderr: str | None = None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What one job asks for. Sizes in bytes unless the name says otherwise."""

    cluster: int
    proc: int
    universe: Universe
    owner: str  # the account to run as: OsUser, else User without its domain, else Owner, else ""
    cmd: str  # Cmd, unresolved
    args: tuple[str, ...]
    environment: dict[str, str]
    iwd: str  # "" = the scratch directory
    streams: Streams
    transfer_files: bool  # inputs and outputs travel; the scratch directory is the working directory
    transfer_executable: bool
    transfer_input: tuple[str, ...]
    transfer_output: tuple[str, ...] | None  # None: every changed top-level file
    kill_sig: int
    remove_kill_sig: int
    hold_kill_sig: int
    request_cpus: float
    request_memory_mb: int | None
    core_size: int
    nice: int
    requested_chroot: str  # RequestedChroot: a name of NAMED_CHROOT, or ""
    want_network: bool | None  # None: the admin's default
    docker: DockerSpec | None

    @property
    def id(self) -> str:
        """``cluster.proc``, as every log line names it."""
        return f"{self.cluster}.{self.proc}"


T = TypeVar("T")
MAX_PATH = 4096  # PATH_MAX of Linux
MAX_WORD = 131072  # MAX_ARG_STRLEN: the longest argument or NAME=value that execve(2) takes
MAX_WORDS = 2 << 20  # characters of all arguments and variables together

_UNIVERSES = {"vanilla": 5, "local": 12, "docker": 5, "container": 5}
_OTHER_UNIVERSES = {1: "standard", 4: "pvm", 7: "scheduler", 9: "grid", 10: "java", 11: "parallel", 13: "vm"}


def spec_from_ad(ad: ClassAd, *, filesystem_domain: str = "", transfers: bool = True) -> JobSpec:
    """What the job in ``ad`` asks for. Raises :class:`BadAd` with one sentence: what, where, what to do.

    ``filesystem_domain`` is this machine's FILESYSTEM_DOMAIN: a job of the same domain that says
    ShouldTransferFiles = "IF_NEEDED" needs none. ``transfers=False``: whoever brought the job moves no files.
    """
    try:
        return _spec(ad, filesystem_domain, transfers)
    except BadAttribute as e:
        raise BadAd(f"The job ad cannot be used: {e}") from None


def _spec(ad: ClassAd, filesystem_domain: str, transfers: bool) -> JobSpec:
    docker = _docker(ad)
    moves = transfers and _transfers(ad, filesystem_domain)
    kill = _signal(ad, "KillSig", signal.SIGTERM)
    spec = JobSpec(
        cluster=_id(ad, "ClusterId", 1),
        proc=_id(ad, "ProcId", 0),
        universe=_universe(ad),
        owner=_owner(ad),
        cmd=_cmd(ad, docker),
        args=_arguments(ad),
        environment=_environment(ad),
        iwd=_path(ad, "Iwd") or "",
        streams=Streams(_path(ad, "In"), _path(ad, "Out"), _path(ad, "Err")),
        transfer_files=moves,
        transfer_executable=moves and attributes.flag(ad, "TransferExecutable", True),
        transfer_input=attributes.names(ad, "TransferInput") or (),
        transfer_output=attributes.names(ad, "TransferOutput"),
        kill_sig=kill,
        remove_kill_sig=_signal(ad, "RemoveKillSig", kill),
        hold_kill_sig=_signal(ad, "HoldKillSig", kill),
        request_cpus=_at_least(ad, "RequestCpus", attributes.number(ad, "RequestCpus"), 1.0),
        request_memory_mb=_positive(ad, "RequestMemory"),
        core_size=attributes.integer(ad, "CoreSize", 0) or 0,
        nice=0,
        requested_chroot=attributes.text(ad, "RequestedChroot") or "",
        want_network=_maybe_flag(ad, "WantJobNetworking"),
        docker=docker,
    )
    _bounded(spec)
    return spec


def _id(ad: ClassAd, name: str, default: int) -> int:
    value = attributes.integer(ad, name, default)
    if value is None or not 0 <= value < 2**31:
        raise BadAttribute(f"{name} = {value} is no job number: write one from 0 to 2147483647.")
    return value


def _universe(ad: ClassAd) -> Universe:
    value = attributes.value_of(ad, "JobUniverse")
    if value is None:
        return Universe.VANILLA
    found = _UNIVERSES.get(value.lower()) if isinstance(value, str) else value
    if type(found) is int and found in (5, 12):
        return Universe(found)
    name = _OTHER_UNIVERSES.get(found, "") if isinstance(found, int) else ""
    told = f"{value!r}" + (f" ({name})" if name else "")
    raise BadAttribute(
        f"JobUniverse = {told} is not supported here: use 5 (vanilla or docker) or 12 (local)."
    )


def _owner(ad: ClassAd) -> str:
    user = (attributes.text(ad, "User") or "").partition("@")[0]
    owner = attributes.text(ad, "OsUser") or user or attributes.text(ad, "Owner") or ""
    if len(owner) > 256 or any(c in owner for c in "/:\n"):
        raise BadAttribute(f"OsUser, User or Owner = {owner[:40]!r} is no account name.")
    return owner


def _cmd(ad: ClassAd, docker: DockerSpec | None) -> str:
    cmd = _path(ad, "Cmd")
    if not cmd and docker is None:
        raise BadAttribute('Cmd is missing: write Cmd = "/path/of/the/program".')
    return cmd or ""


def _path(ad: ClassAd, name: str) -> str | None:
    value = attributes.text(ad, name)
    if value is not None and len(value.encode("utf-8", "surrogatepass")) >= MAX_PATH:
        raise BadAttribute(f"{name} is longer than a path can be ({MAX_PATH - 1} bytes): shorten it.")
    return value or None


def _arguments(ad: ClassAd) -> tuple[str, ...]:
    if (new := attributes.text(ad, "Arguments")) is not None:
        return tuple(_read("Arguments", split_v2, new))
    return tuple(split_v1(attributes.text(ad, "Args") or ""))


def _environment(ad: ClassAd) -> dict[str, str]:
    if (new := attributes.text(ad, "Environment")) is not None:
        return _read("Environment", environment_v2, new)
    delimiter = (attributes.text(ad, "EnvDelim") or ";")[:1]
    return _read("Env", lambda old: environment_v1(old, delimiter), attributes.text(ad, "Env") or "")


def _read(name: str, reader: Callable[[str], T], string: str) -> T:
    try:
        return reader(string)
    except SyntaxProblem as e:
        raise BadAttribute(f"{name} {e}.") from None


def _signal(ad: ClassAd, name: str, default: int) -> int:
    """A signal by number or by name, with or without SIG, in any case."""
    value = attributes.value_of(ad, name)
    if value is None:
        return int(default)
    if isinstance(value, str):
        word = value.strip().upper()
        number = getattr(signal, word if word.startswith("SIG") else f"SIG{word}", None)
        value = int(word) if word.isdigit() else number
    if type(value) is bool or not isinstance(value, int) or not 0 < value < signal.NSIG:
        raise BadAttribute(f'{name} names no signal of this system: write a name such as "SIGTERM".')
    return int(value)


def _transfers(ad: ClassAd, filesystem_domain: str) -> bool:
    wish = (attributes.text(ad, "ShouldTransferFiles") or "NO").upper()
    if wish not in ("YES", "NO", "IF_NEEDED"):
        raise BadAttribute(f'ShouldTransferFiles = "{wish[:40]}" is unknown: write YES, NO or IF_NEEDED.')
    shared = (attributes.text(ad, "FileSystemDomain") or "").lower() == filesystem_domain.lower() != ""
    return wish == "YES" or (wish == "IF_NEEDED" and not shared)


def _positive(ad: ClassAd, name: str) -> int | None:
    value = attributes.integer(ad, name)
    if value is not None and not 0 < value < 2**40:
        raise BadAttribute(f"{name} = {value} makes no sense: write a positive number of MiB.")
    return value


def _at_least(ad: ClassAd, name: str, value: float | None, default: float) -> float:
    if value is not None and not 0 < value < 2**20:
        raise BadAttribute(f"{name} = {value} makes no sense: write a positive number.")
    return default if value is None else value


def _maybe_flag(ad: ClassAd, name: str) -> bool | None:
    return attributes.flag(ad, name) if attributes.value_of(ad, name) is not None else None


def _docker(ad: ClassAd) -> DockerSpec | None:
    named = str(attributes.value_of(ad, "JobUniverse")).lower() == "docker"
    wants = named or attributes.flag(ad, "WantDocker")
    container = attributes.flag(ad, "WantContainer")
    if container and not wants and not attributes.flag(ad, "WantDockerImage"):
        raise BadAttribute("WantContainer without WantDockerImage asks for an image that is not docker's.")
    if not wants and not container:
        return None
    image = attributes.text(ad, "DockerImage") or attributes.text(ad, "ContainerImage") or ""
    return DockerSpec(
        image=_image(image.removeprefix("docker://")),
        network=attributes.text(ad, "DockerNetworkType") or "",
        override_entrypoint=attributes.flag(ad, "DockerOverrideEntrypoint"),
        pull_policy=attributes.text(ad, "DockerPullPolicy") or "",
    )


def _image(image: str) -> str:
    """With a tag: ``:latest`` unless there is a tag or a digest. A ``:`` before ``/`` is a port."""
    if not image.strip():
        raise BadAttribute('DockerImage is missing: write DockerImage = "name:tag".')
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"


def _bounded(spec: JobSpec) -> None:
    """Refuse what execve(2) would refuse, before anything is built for it."""
    words = [*spec.args, *(f"{k}={v}" for k, v in spec.environment.items())]
    longest = max((len(w) for w in words), default=0)
    if longest >= MAX_WORD:
        raise BadAttribute(f"one argument or variable has {longest} characters; {MAX_WORD - 1} is the most.")
    if sum(map(len, words)) > MAX_WORDS:
        raise BadAttribute(f"arguments and environment together exceed {MAX_WORDS} characters: use a file.")
