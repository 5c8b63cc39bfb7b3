"""The plan of one box: plain data that an unprivileged planner makes and procd checks and carries out.

This module is the only thing that the privileged side shares with the rest, so it imports nothing
but ``typing`` (procd's memory is every fork's cost) and does no I/O. Wire form: JSON, see
:func:`to_wire` and :func:`from_wire`.

A plan is a wish. procd checks every field against *its own* configuration before it acts: which
uids, which bind sources, which named chroots, which execute directories. A plan never carries a host
path that procd follows on the job's behalf: scratch directories are names beneath a configured
execute directory, chroots are names, bind sources must match the admin's list.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

NAMESPACES = ("pid", "mnt", "ipc", "uts", "cgroup", "net")
"""The namespaces that a plan may ask for, by their /proc/PID/ns names (namespaces(7))."""

KINDS = ("box", "tree", "container")
"""What procd builds:

* ``box``: namespaces and (where there are any) a cgroup: the cgroup+namespace and chroot backends;
* ``tree``: rlimits and process-tree tracking only: the rlimit backend, needs no root;
* ``container``: a cgroup with limits and a scratch directory but no process: a container engine
  puts its container's cgroup beneath it.
"""


class PlanError(ValueError):
    """A plan that is not well formed; the text names the field and what is wrong with it."""


class Identity(NamedTuple):
    """Who the job runs as: numeric ids only; ``name`` is for messages and is never looked up."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    name: str = ""


class Limits(NamedTuple):
    """Limits of the box's cgroup; None means no limit."""

    memory: int | None = None  # bytes
    swap: int | None = None  # bytes beyond memory; 0 = none (HTCondor's DISABLE_SWAP_FOR_JOB)
    cpu_shares: int | None = None  # HTCondor's number: 100 x Cpus; v1 cpu.shares, v2 cpu.weight
    pids: int | None = None  # processes and threads


class Rlimit(NamedTuple):
    """One setrlimit(2); ``name`` without the RLIMIT_ prefix, -1 = unlimited. Clamped to what procd has."""

    name: str
    soft: int
    hard: int


class Bind(NamedTuple):
    """A host directory shown in the box. Only sources on procd's allow-list are accepted."""

    source: str
    target: str
    read_only: bool = True


class Stdio(NamedTuple):
    """One standard stream: a path opened *inside the box, as the job's user*, or a passed descriptor.

    Exactly one of the two is set; both None means /dev/null. ``fd`` is an index into the descriptors
    that come with the start request. Relative paths are relative to ``cwd``.
    """

    path: str | None = None
    fd: int | None = None
    append: bool = False


class BoxPlan(NamedTuple):
    """Everything that procd needs to build, run and remove one box."""

    box: str  # unique id, [A-Za-z0-9_.-]{1,64}; names the ledger entry
    cgroup: str  # last component of the box's cgroup, [A-Za-z0-9_.@+-]{1,120}
    kind: str  # one of KINDS
    execute: str  # execute directory: must be one of procd's configured ones
    scratch: str  # name of the scratch directory beneath ``execute``, one component
    identity: Identity
    argv: tuple[str, ...]  # argv[0] is executed; a path in the job's view
    env: tuple[str, ...]  # "NAME=value", the whole environment
    cwd: str  # a path in the job's view
    stdin: Stdio = Stdio()
    stdout: Stdio = Stdio()
    stderr: Stdio = Stdio()
    namespaces: tuple[str, ...] = ()  # subset of NAMESPACES
    hostname: str = ""  # for the uts namespace
    chroot: str = ""  # name of a configured named chroot; "" = the host's root
    private_dirs: tuple[str, ...] = ()  # MOUNT_UNDER_SCRATCH: absolute, e.g. ("/tmp", "/var/tmp")
    private_dev_shm: bool = True  # MOUNT_PRIVATE_DEV_SHM
    binds: tuple[Bind, ...] = ()
    limits: Limits = Limits()
    rlimits: tuple[Rlimit, ...] = ()
    nice: int = 0  # 0..19
    oom_score_adj: int = 800  # the job goes first
    umask: int = 0o022
    no_new_privs: bool = True


class Usage(NamedTuple):
    """One usage sample of a box, summed over everything that ever ran in it; None = not known here."""

    user_usec: int = 0
    system_usec: int = 0
    memory_bytes: int | None = None  # anonymous + shared memory now
    memory_peak_bytes: int | None = None
    processes: int | None = None  # now
    oom_kills: int = 0
    read_bytes: int | None = None
    write_bytes: int | None = None
    read_ops: int | None = None
    write_ops: int | None = None


class BoxExit(NamedTuple):
    """How a box ended. Sent once everything in the box is dead."""

    box: str
    status: int  # raw wait(2) status of the job's main process; -1: unknown (the init was killed)
    usage: Usage
    duration_usec: int  # from exec to exit, monotonic
    oom: bool  # the kernel's OOM killer struck inside the box's own limit
    error: str = ""  # set when the job never ran: "step: ENOENT: text"
    errno: int = 0
    step: str = ""  # the plan step that failed: "exec", "stdin", "stdout", "stderr", "cwd", "mount", ...
    killed: bool = False  # ended by a kill request
    leftovers: int = 0  # processes of the job that outlived its main process and were killed
    begun: bool = True  # False: certainly nothing of the job was ever executed


class Step(NamedTuple):
    """One numbered step of a plan: what is done, what undoes it, and where it can be interrupted."""

    number: int
    name: str
    describe: str
    undo: str


# The steps of every kind, in order: executor, journal, sweep and fault injection all use these names.
_STEPS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "box": (
        ("record", "write the box into the ledger, make {scratch}", "close the entry: one terminal record"),
        ("clone", "an init with new namespaces {namespaces}", "kill the init"),
        ("own", "give the scratch directory to {user}", "remove {scratch} beneath {execute}"),
        ("mounts", "private {private}, binds {binds}, /proc, root {root}", "gone with the namespace"),
        ("cgroup", "meanwhile make {cgroup}, set {limits}; the init joins", "kill what is in it, remove it"),
        ("identity", "rlimits, ids {user}, no_new_privs, no capability", "gone with the process"),
        ("cwd", "change to {cwd} as {user}", "gone with the process"),
        ("stdio", "open stdin, stdout and stderr as {user}", "gone with the process"),
        ("exec", "start {argv}", "kill the cgroup"),
        ("run", "wait for the main process", "kill the cgroup"),
        ("collect", "kill the rest, read the final usage", "nothing"),
        ("remove", "remove the cgroup, then the scratch directory", "do it again"),
        ("close", "write the terminal record and remove the ledger entry", "do it again"),
    ),
}
_STEPS["tree"] = tuple(s for s in _STEPS["box"] if s[0] not in ("mounts",))
_STEPS["container"] = tuple(
    s for s in _STEPS["box"] if s[0] in ("record", "own", "cgroup", "run", "collect", "remove", "close")
)


def steps(plan: BoxPlan) -> tuple[Step, ...]:
    """The numbered steps that carry out ``plan``, first to last, with what undoes each."""
    words = {
        "user": plan.identity.name or str(plan.identity.uid),
        "scratch": plan.scratch,
        "execute": plan.execute,
        "cgroup": plan.cgroup,
        "limits": describe_limits(plan.limits),
        "namespaces": ",".join(plan.namespaces) or "(none)",
        "private": ",".join(plan.private_dirs) or "(none)",
        "binds": ",".join(b.target for b in plan.binds) or "(none)",
        "root": plan.chroot or "of the host",
        "argv": " ".join(plan.argv),
        "cwd": plan.cwd,
    }
    return tuple(
        Step(i, name, what.format(**words), undo.format(**words))
        for i, (name, what, undo) in enumerate(_STEPS[plan.kind], 1)
    )


def describe_limits(limits: Limits) -> str:
    """The limits in words, for logs and ``explain``: ``memory=128 MiB, swap=0, cpu_shares=100``."""
    words = []
    if limits.memory is not None:
        words.append(f"memory={limits.memory // 1048576} MiB")
    words += [f"{n}={v}" for n, v in limits._asdict().items() if n != "memory" and v is not None]
    return ", ".join(words) or "no limits"


def to_wire(value: Any) -> Any:
    """A named tuple of this module as JSON-ready dicts, lists and scalars."""
    if isinstance(value, tuple):
        if hasattr(value, "_asdict"):
            return {k: to_wire(v) for k, v in value._asdict().items()}
        return [to_wire(v) for v in value]
    return value


def from_wire(cls: type, data: Any, where: str = "plan") -> Any:
    """The named tuple ``cls`` from what :func:`to_wire` made; raises :class:`PlanError` on anything else.

    Strict: unknown keys, missing keys, wrong types and NUL bytes are refused, by name.
    """
    if not isinstance(data, dict):
        raise PlanError(f"{where}: expected an object, got {type(data).__name__}")
    fields = _FIELDS.get(cls) or _learn(cls)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in fields:
            raise PlanError(f"{where}: unknown field {key!r}")
        hint, optional, many = fields[key]
        if many:
            values[key] = _list(hint, value, f"{where}.{key}")
        elif value is None and optional:
            values[key] = None
        else:
            values[key] = _one(hint, value, where, key)
    try:
        return cls(**values)
    except TypeError as e:
        raise PlanError(f"{where}: {e}") from None


_FIELDS: dict[type, dict[str, tuple[Any, bool, bool]]] = {}
"""Per class and field: (type, may be None, is a list of that type)."""


def _learn(cls: type) -> dict[str, tuple[Any, bool, bool]]:
    fields: dict[str, tuple[Any, bool, bool]] = {}
    for name, hint in get_type_hints(cls).items():
        origin = get_origin(hint)
        inner = get_args(hint)[0] if origin is not None else hint
        fields[name] = (inner, origin is not None and origin is not tuple, origin is tuple)
    _FIELDS[cls] = fields
    return fields


def _list(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    if type(value) is not list:
        raise PlanError(f"{where}: expected a list, got {type(value).__name__}")
    return tuple([_one(hint, v, where, str(i)) for i, v in enumerate(value)])


def _one(hint: Any, value: Any, where: str, key: str) -> Any:
    if type(value) is hint:  # bool is not an int here
        if hint is str and "\0" in value:
            raise PlanError(f"{where}.{key}: has a NUL byte")
        return value
    if issubclass(hint, tuple):
        return from_wire(hint, value, f"{where}.{key}")
    raise PlanError(f"{where}.{key}: expected {hint.__name__}, got {type(value).__name__}")
