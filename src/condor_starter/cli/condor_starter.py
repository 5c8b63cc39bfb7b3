"""``condor_starter``: the genuine program's command line, run in this process with a private procd."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
        return self.log_suffix if (self.log_suffix or "").startswith("slot") else "slot1"  # type: ignore[return-value]


# The daemon options come first, by their first letter; then the starter's, by any prefix (at least the
# length in the third column, where there is one).
_DAEMON_FLAGS: dict[str, tuple[str, str | bool]] = {}


def parse_args(argv: Sequence[str]) -> Options:
    """Read ``argv`` (without the program's name) as the genuine starter does: daemon options first, then its
    own, any unambiguous prefix. Raises :class:`UsageError`.
    """
    options = Options()
    words = list(argv)
    if len(words) == 1 and words[0].startswith("-cla") and "-classad".startswith(words[0]):
        return replace(options, classad=True)
    raise UsageError("not complete yet")


async def serve(options: Options, env: Mapping[str, str], fd_of: Callable[[int], int], house: House) -> int:
    """Run the one job that ``options`` and ``env`` describe and return the starter's exit status.

    ``env`` is the client's environment; ``fd_of(n)`` maps a descriptor number of the client (0, 1, 2 and
    those of CONDOR_INHERIT) to one of ours.
    """
    raise NotImplementedError


def main() -> int:
    """Entry point of the program."""
    try:
        parse_args(sys.argv[1:])
    except UsageError as e:
        print(f"condor_starter: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
