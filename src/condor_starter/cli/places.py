"""Where this process keeps things: execute directory, logs, run directory. Root's are the machine's, an
ordinary user's are his own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from condor_starter.daemon.account import Account
from condor_starter.knobs import Knobs


def for_user(knobs: Knobs, environ: Mapping[str, str], root: bool) -> Knobs:
    """``knobs`` with the places of an ordinary user where he has not set his own."""
    if root:
        return knobs
    home = environ.get("HOME") or os.path.expanduser("~")
    state = Path(environ.get("XDG_STATE_HOME") or f"{home}/.local/state") / "condor_starter"
    runtime = environ.get("XDG_RUNTIME_DIR")
    own = {
        "EXECUTE": state / "execute",
        "STARTER_STATE_DIR": state / "starterd",
        "LOG": state / "log",
        "STARTER_RUN_DIR": Path(runtime) / "condor_starter" if runtime else state / "run",
    }
    wanted = {name: str(path) for name, path in own.items() if not _usable(knobs, name)}
    return knobs.with_(wanted, "an ordinary user's place")


def _usable(knobs: Knobs, name: str) -> bool:
    """True for a place that the user has named himself, or that a pool's configuration gives him."""
    origin = knobs.origin(name)
    return origin != "default" and (origin != "condor_config" or os.access(knobs.text(name), os.W_OK))


def make(knobs: Knobs, who: Account) -> None:
    """Make the directories that are missing; root's for the account ``who``. Raises OSError.

    EXECUTE itself stays root's: scratch directories in it are made by procd.
    """
    execute, log, run = (knobs.text(n) for n in ("EXECUTE", "LOG", "STARTER_RUN_DIR"))
    _make(execute, 0o755, None)
    _make(log, 0o755, who)
    _make(run, 0o755, None)


def _make(path: str, mode: int, owner: Account | None) -> None:
    if os.path.isdir(path):
        return
    os.makedirs(path, mode)
    if owner is not None and os.geteuid() == 0:
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)  # just made, beneath root's directories
