"""``condor_starter``: the genuine program's command line, in a process of its own with a private procd.

The startd gives descriptors and ``CONDOR_INHERIT``; by hand it is ``condor_starter -f -job-input-ad FILE``.
:func:`parse_args` and :func:`serve` are also what starterd uses for a thin client. Imports that cost time
stay inside the functions that need them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from condor_starter.communicators.base import Outcome
    from condor_starter.knobs import Knobs
    from condor_starter.log import StarterLog
    from condor_starter.starter import House


class UsageError(Exception):
    """A command line that cannot be carried out; exit status 1, as the genuine starter's."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. None: not given. File names are as given; "-" is our own stream."""

    log_suffix: str | None = None  # -a: StarterLog.<suffix>; with -a slot1_1 also the slot's name
    second_log: str | None = None  # -a2: "<flags>,<file>"
    local_name: str | None = None
    config: str | None = None  # -c
    log_dir: str | None = None  # -l
    log_to_stderr: bool = False  # -t
    header: str = ""
    slot_name: str | None = None
    schedd_addr: str | None = None
    job_input_ad: str | None = None
    job_output_ad: str | None = None
    job_update_ad: str | None = None
    job_keyword: str | None = None
    job_cluster: int | None = None
    job_proc: int | None = None
    job_subproc: int | None = None
    job_stdin: str | None = None
    job_stdout: str | None = None
    job_stderr: str | None = None
    shadow_host: str | None = None  # the bare word
    gridshell: bool = False
    classad: bool = False  # print what this machine can do, and leave
    version: bool = False

    @property
    def slot(self) -> str:
        """The slot's name: -slot-name, else the log suffix if it names a slot, else "slot1"."""
        if self.slot_name:
            return self.slot_name
        suffix = self.log_suffix or ""
        return suffix if suffix.startswith("slot") else "slot1"


# Daemon options: the letters that tell them apart, the field, and whether a word follows. The first that
# begins with the given word (at least as long as its least form) is meant.
_DAEMON: tuple[tuple[str, str, str, bool], ...] = (
    ("-a2", "-a2", "second_log", True),
    ("-append", "-a", "log_suffix", True),
    ("-background", "-b", "", False),
    ("-config", "-c", "config", True),
    ("-dynamic", "-d", "", False),
    ("-foreground", "-f", "", False),
    ("-kill", "-k", "", True),
    ("-local-name", "-loc", "local_name", True),
    ("-log", "-l", "log_dir", True),
    ("-pidfile", "-pi", "", True),
    ("-port", "-p", "", True),
    ("-quiet", "-q", "", False),
    ("-runfor", "-r", "", True),
    ("-sock", "-so", "", True),
    ("-terminal", "-t", "log_to_stderr", False),
    ("-version", "-v", "version", False),
)

_STARTER: tuple[tuple[str, str, str, bool], ...] = (
    ("-header", "-h", "header", True),
    ("-gridshell", "-g", "gridshell", False),
    ("-schedd-addr", "-sc", "schedd_addr", True),
    ("-slot-name", "-slo", "slot_name", True),
    ("-job-cluster", "-job-c", "job_cluster", True),
    ("-job-input-ad", "-job-i", "job_input_ad", True),
    ("-job-keyword", "-job-k", "job_keyword", True),
    ("-job-output-ad", "-job-o", "job_output_ad", True),
    ("-job-proc", "-job-p", "job_proc", True),
    ("-job-stderr", "-job-stde", "job_stderr", True),
    ("-job-stdin", "-job-stdi", "job_stdin", True),
    ("-job-stdout", "-job-stdo", "job_stdout", True),
    ("-job-subproc", "-job-su", "job_subproc", True),
    ("-job-update-ad", "-job-u", "job_update_ad", True),
)

_NUMBERS = ("job_cluster", "job_proc", "job_subproc")


def parse_args(argv: Sequence[str]) -> Options:
    """Read ``argv`` (without the program's name) as the genuine starter does.

    Daemon options come first and end at the first word that is none; then the starter's own, of which any
    unambiguous beginning is understood; a repeated option's last value counts. Raises :class:`UsageError`.
    """
    words = list(argv)
    if len(words) == 1 and len(words[0]) >= 4 and "-classad".startswith(words[0]):
        return Options(classad=True)
    found: dict[str, Any] = {}
    rest = _take_all(words, _DAEMON, found, stop=True)
    rest = _take_all(rest, _STARTER, found, stop=False)
    for name in _NUMBERS:
        if name in found:
            found[name] = _number(name, found[name])
    options = replace(Options(), **found)
    if not options.version:
        _check(options)
    return options


def _take_all(
    words: list[str], table: tuple[tuple[str, str, str, bool], ...], found: dict[str, Any], stop: bool
) -> list[str]:
    """Take the options of ``table`` off ``words``; ``stop``: at the first that is none. Returns the rest."""
    i = 0
    while i < len(words):
        word = words[i]
        row = next((r for r in table if r[0].startswith(word) and len(word) >= len(r[1])), None)
        if row is None and stop:
            break
        if row is None and word.startswith("-"):
            raise UsageError(f"{word} is not an option, or it is the beginning of more than one")
        if row is None:
            found["shadow_host"] = word
            i += 1
            continue
        _, _, name, follows = row
        if follows and i + 1 == len(words):
            raise UsageError(f"{row[0]} needs a value")
        if name:
            found[name] = words[i + 1] if follows else True
        i += 2 if follows else 1
    return words[i:]


def _number(name: str, word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise UsageError(f"-{name.replace('_', '-')} needs a number, not {word!r}")
    return int(word)


def _check(options: Options) -> None:
    """The rules between options."""
    local = options.job_input_ad or options.job_keyword
    if options.shadow_host and local:
        raise UsageError("a shadow's host and -job-input-ad or -job-keyword exclude each other")
    if not options.shadow_host and not local:
        raise UsageError("nothing to run: give -job-input-ad FILE, or a shadow's host")
    if options.schedd_addr and not options.job_input_ad:
        raise UsageError("-schedd-addr needs -job-input-ad")
    if options.job_input_ad == "-" == options.job_stdin:
        raise UsageError("the job's ad and its standard input cannot both be our standard input")
    if options.job_output_ad == "-" == options.job_stdout:
        raise UsageError("the output ad and the job's standard output cannot both be our standard output")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose starter we are: our own process, or a thin client that handed everything over."""

    env: Mapping[str, str]
    fd_of: Callable[[int], int]
    pid: int  # the startd knows the starter, and names its scratch directory, by this
    cwd: str  # "" = our own
    signals: asyncio.Queue[int]  # signals that it gets

    @overload
    def path(self, name: str) -> str: ...
    @overload
    def path(self, name: None) -> None: ...
    def path(self, name: str | None) -> str | None:
        """A file name of the command line, as we can open it; "-" and None stay what they are."""
        return name if name in (None, "-") or not self.cwd else f"{self.cwd}/{name}"


async def serve(
    options: Options,
    env: Mapping[str, str],
    fd_of: Callable[[int], int],
    house: House,
    *,
    pid: int = 0,
    cwd: str = "",
    signals: asyncio.Queue[int] | None = None,
) -> int:
    """Run the one job that ``options`` and ``env`` describe and return the starter's exit status.

    ``env`` is the client's environment; ``fd_of(n)`` maps a descriptor number of the client (0, 1, 2 and
    those of CONDOR_INHERIT) to one of ours; ``pid`` and ``cwd`` are the client's (0 and "": our own); what
    it is signalled comes through ``signals``.
    """
    from condor_starter.cedar.version import CONDOR_PLATFORM, CONDOR_VERSION
    from condor_starter.knobs import KnobError
    from condor_starter.starter import House

    caller = Caller(env, fd_of, pid or os.getpid(), cwd, signals or asyncio.Queue())
    try:
        knobs = house.knobs.with_environ(env)
    except KnobError as e:
        print(f"condor_starter: {e}", file=sys.stderr)
        return 1
    shared, house = house, House(house.procd, knobs, house.facts, house.engine)
    with ExitStack() as stack:
        log = open_log(options, knobs, stack, caller.pid)
        log.banner("condor_starter", CONDOR_VERSION, CONDOR_PLATFORM)
        serve_one = _serve_shadow if options.shadow_host else _serve_local
        status = await serve_one(options, caller, house, log)
        log.goodbye(status)
    shared.engine = shared.engine or house.engine
    return status


def open_log(options: Options, knobs: Knobs, stack: ExitStack, pid: int) -> StarterLog:
    """The StarterLog that ``options`` ask for, of the starter ``pid``: a file of the slot, or stderr."""
    from condor_starter.cli.places import log_path
    from condor_starter.log import StarterLog

    if options.log_to_stderr:
        return StarterLog(sys.stderr, options.header, pid=pid)
    if options.log_dir:
        knobs = knobs.with_({"LOG": options.log_dir})
    path, limit = log_path(knobs, options.log_suffix or ""), knobs.integer("MAX_STARTER_LOG")
    log = StarterLog(path, options.header, limit=limit, pid=pid)
    stack.callback(log.close)
    return log


async def _serve_shadow(options: Options, caller: Caller, house: House, log: StarterLog) -> int:
    """A job of a pool: the shadow is at the other end of a socket that the startd passed on."""
    from condor_starter.cedar.errors import CedarError
    from condor_starter.communicators.shadow import open_shadow
    from condor_starter.starter import run_job

    assert options.shadow_host is not None
    try:
        comm = await open_shadow(options.shadow_host, caller.env, caller.fd_of, log, house.knobs, caller.pid)
    except CedarError as e:
        log.say(f"Failed to initialize JobInfoCommunicator, aborting: {e}")
        return 1
    listening = asyncio.create_task(_pass_on(caller.signals, comm.signal))
    try:
        await run_job(house, comm, log)
    finally:
        listening.cancel()
    return comm.exit_status


async def _pass_on(signals: asyncio.Queue[int], to: Callable[[int], None]) -> None:
    while True:
        to(await signals.get())


async def _serve_local(options: Options, caller: Caller, house: House, log: StarterLog) -> int:
    """A job from a file or from stdin. 0 whenever the job was tried, 1 for a bad ad or account."""
    from condor_starter.cli import local
    from condor_starter.job import JobError

    log.say("Starter running a local job with no shadow")
    with ExitStack() as stack:
        try:
            comm = local.communicator(options, caller, house, log, stack)
        except (JobError, OSError) as e:
            log.say(f"Failed to initialize JobInfoCommunicator, aborting: {e}")
            print(f"condor_starter: {e}", file=sys.stderr)
            return 1
        outcome = await local.run(house, comm, log, caller.signals)
    return _status(outcome)


def _status(outcome: Outcome) -> int:
    from condor_starter.job import BadAd, Hold
    from condor_starter.sandbox.accounts import NoAccount

    error = outcome.error
    refused = isinstance(error, BadAd | NoAccount) or (
        error is not None and error.code == Hold.SCRATCH_DIR_ERROR
    )
    if refused and outcome.status is None:
        print(f"condor_starter: {error}", file=sys.stderr)
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the program: exit status as HTCondor's, 1 for usage errors (said on stderr)."""
    try:
        options = parse_args(sys.argv[1:] if argv is None else argv)
    except UsageError as e:
        print(f"condor_starter: {e}", file=sys.stderr)
        return 1
    if options.version:
        from condor_starter.cli.probe import version

        print(version())
        return 0
    if options.classad:
        from condor_starter.cli.probe import main as probe

        return probe()
    return _run(options)


def _run(options: Options) -> int:
    from condor_starter.cli.places import for_user
    from condor_starter.daemon.account import AccountError
    from condor_starter.knobs import KnobError, gather
    from condor_starter.procd.client import ProcdGone

    try:
        etc = [Path(options.config)] if options.config else None
        knobs = gather(etc, local_name=options.local_name or "")
        knobs = for_user(knobs, os.environ, os.geteuid() == 0)
        return asyncio.run(_alone(options, knobs))
    except (KnobError, AccountError, ProcdGone, OSError) as e:
        print(f"condor_starter: {e}", file=sys.stderr)
        return 1


async def _alone(options: Options, knobs: Knobs) -> int:
    """Serve in this process, with a private procd."""
    from condor_starter.cli.house import close_house, open_house
    from condor_starter.cli.local import hear

    with ExitStack() as stack:
        heard = hear(stack)
        house, _ = await open_house(knobs, os.environ)
        try:
            return await serve(options, os.environ, lambda fd: fd, house, signals=heard)
        finally:
            await close_house(house)


if __name__ == "__main__":
    sys.exit(main())
