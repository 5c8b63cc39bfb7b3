"""What a job asks for, typed and frozen: JobSpec, and the one error type that a job can end in.

Pure: no I/O, no logging. ``from_ad`` (see :func:`condor_starter.job.JobSpec`) lives here too, so that the
ClassAd's attribute names appear in one place.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


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
