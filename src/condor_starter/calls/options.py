"""The genuine starter's command line, read as leniently as it reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


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
