"""``condor_starterd``: the long-running starter. Started as root it opens its sockets and drops to the condor
account; what needs privilege is done by ``condor_starter_procd``, a process of its own.

Signals: TERM and INT stop it and leave running jobs to the next starterd; QUIT ends every job first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from condor_starter import __version__
from condor_starter.cli import house, places
from condor_starter.daemon import account, background, launch, sockets
from condor_starter.daemon.service import Plan, Starterd
from condor_starter.daemon.store import StateError
from condor_starter.knobs import KnobError, Knobs, gather
from condor_starter.log import StarterLog


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with 2 for one that cannot be understood."""
    parser = argparse.ArgumentParser(prog="condor_starterd", description="Run jobs sent to a unix socket.")
    add = parser.add_argument
    add("--version", action="version", version=__version__)
    add("--run-dir", type=_path, help="sockets: api.sock, intake.sock and procd's (default: STARTER_RUN_DIR)")
    add("--state-dir", type=_path, help="jobs and their records (default: STARTER_STATE_DIR)")
    add("--config", type=_path, action="append", default=[], metavar="FILE", help="knobs, a YAML file")
    add("--set", action="append", default=[], metavar="KNOB=VALUE", dest="knobs", help="one knob")
    add("--log", type=_path, help="log file (default: the terminal in foreground, else $(LOG)/StarterdLog)")
    add("--foreground", "-f", action="store_true", help="stay in the foreground")
    add("--procd", choices=("auto", "wait"), default="auto", help="auto: start one if none listens")
    add("--procd-seconds", type=float, default=30.0, metavar="S", help="how long to wait for procd")
    add("--procd-set", action="append", default=[], metavar="KEY=VALUE", help="for the procd that we start")
    return parser.parse_args(argv)


def _path(text: str) -> Path:
    """Absolute: a daemon's working directory is the root."""
    return Path(text).absolute()


@dataclass(frozen=True, slots=True)
class _Start:
    """Everything that is settled before privilege is dropped."""

    options: argparse.Namespace
    knobs: Knobs
    account: account.Account
    run: Path
    state: Path
    log: StarterLog


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0, 1 (cannot start, said on stderr or in the log), 2 (bad usage)."""
    options = parse(sys.argv[1:] if argv is None else argv)
    ready = None if options.foreground else background.detach()
    try:
        start = _settle(options)
        plan = _prepare(start)
        account.become(start.account)
        return asyncio.run(_serve(start, plan, ready))
    except (StateError, KnobError, account.AccountError, launch.LaunchError, OSError) as e:
        print(f"condor_starterd: {e}", file=sys.stderr)
        return 1


def _settle(options: argparse.Namespace) -> _Start:
    pairs = [pair.partition("=") for pair in options.knobs]
    overrides = {name.strip(): value for name, _, value in pairs}
    for name, path in (("STARTER_RUN_DIR", options.run_dir), ("STARTER_STATE_DIR", options.state_dir)):
        if path:
            overrides[name] = str(path)
    root = os.geteuid() == 0
    knobs = places.for_user(gather(options.config or None, overrides=overrides), os.environ, root)
    who = account.unprivileged(os.environ, knobs.text("CONDOR_IDS"))
    places.make(knobs, who)
    run = Path(knobs.text("STARTER_RUN_DIR"))
    state = Path(knobs.text("STARTER_STATE_DIR"))
    where = options.log or (None if options.foreground else Path(knobs.text("LOG")) / "StarterdLog")
    return _Start(options, knobs, who, run, state, StarterLog(where or sys.stderr))


def _prepare(start: _Start) -> Plan:
    """What may need root: directories, procd, the sockets."""
    options, who = start.options, start.account
    os.umask(0o022)
    _own_directory(start.state, who, 0o700)
    _raise_files()
    if options.procd == "auto" and not launch.listens(start.run):
        settings = [f"{key}={value}" for key, value in house.procd_settings(start.knobs, who).items()]
        log = start.run / "procd.log"  # not in LOG: that is ours, and procd is root
        pid = launch.procd(start.run, [*settings, *options.procd_set], log, options.procd_seconds)
        print(f"condor_starterd: started condor_starter_procd, pid {pid}", file=sys.stderr)
    if sockets.serves(f"{start.run}/intake.sock"):
        raise StateError(
            f"another condor_starterd serves {start.run}: stop it first, or use another --run-dir"
        )
    owner = (who.uid, who.gid)
    return Plan(
        run=start.run,
        state=start.state,
        procd_seconds=options.procd_seconds,
        api=sockets.listen(f"{start.run}/api.sock", 0o666, owner),
        intake=sockets.listen(f"{start.run}/intake.sock", 0o600, owner),
    )


async def _serve(start: _Start, plan: Plan, ready: background.Ready | None) -> NoReturn:
    who = start.account
    start.log.say(f"condor_starterd {__version__} starts as {who.name} ({who.why})", pid=os.getpid())
    daemon = Starterd(plan, start.knobs, start.log)
    if ready:
        daemon.when_ready(ready.tell)
    status = await daemon.run()
    # Jobs that run are left as they are: no task of theirs may be cancelled, which would end its job.
    os._exit(status)


def _own_directory(path: Path, who: account.Account, mode: int) -> None:
    """Make ``path`` for the account; one that is another's is refused later."""
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.geteuid() == 0 == os.fstat(fd).st_uid:  # new, or made for us by a service manager
            os.fchown(fd, who.uid, who.gid)
    finally:
        os.close(fd)


def _raise_files() -> None:
    """Each job needs some descriptors: take as many as we may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
