"""The commands as users call them, on directories of a test's own, and a look at what they left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import leaks
from condor_starter.sandbox.ads import parse_ad

ROOT = os.geteuid() == 0
STRANGER = 54321
"""A uid without any account: an ordinary user as seen from root's tests."""

PATIENCE = 60.0


class Ran(NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str


class Hand:
    """Somebody who runs jobs by hand: ``user`` is None for the account of the tests."""

    def __init__(self, base: Path, name: str, user: int | None = None) -> None:
        self.user = user
        self.name = name
        self.execute, self.log, self.run_dir = base / "execute", base / "log", base / "run"
        self.home = base / "home"  # where jobs of anybody may write
        self.home.mkdir(exist_ok=True)
        self.home.chmod(0o1777)
        if user is not None:
            os.chown(base, user, user)

    def env(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "_CONDOR_EXECUTE": str(self.execute),
            "_CONDOR_LOG": str(self.log),
            "_CONDOR_STARTER_RUN_DIR": str(self.run_dir),
            "_CONDOR_BASE_CGROUP": self.name,
            **(extra or {}),
        }

    def start(self, program: str, *args: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start ``starterctl`` or ``condor_starter`` in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", f"condor_starter.cli.{program}", *args],
            env=self.env(env),
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **self.ids(),
        )

    def ids(self) -> dict[str, object]:
        if self.user is None:
            return {}
        return {"user": self.user, "group": self.user, "extra_groups": []}

    def call(self, program: str, *args: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Ran:
        """Run it to its end."""
        process = self.start(program, *args, env=env)
        out, err = process.communicate(stdin, timeout=PATIENCE)
        return Ran(process.returncode, out, err)

    def run(self, *args: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Ran:
        """``starterctl run`` with a job ad's text, or with arguments as they are."""
        if args and "=" in args[0]:
            return self.call("starterctl", "run", *args[1:], "-", stdin=args[0], env=env)
        return self.call("starterctl", "run", *args, stdin=stdin, env=env)

    def starter(self, *args: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Ran:
        """``condor_starter`` with the genuine flags."""
        return self.call("condor_starter", *args, stdin=stdin, env=env)

    def write(self, name: str, text: str) -> Path:
        """A file that everybody may read."""
        path = self.home / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def output_ad(self, path: Path) -> dict[str, object]:
        """The attributes of an output ad."""
        ad = parse_ad(path.read_text())
        return {name: ad.eval(name) for name in ad.keys()}  # noqa: SIM118

    def log_text(self, slot: str = "slot1") -> str:
        return (self.log / f"StarterLog.{slot}").read_text()

    def left(self) -> list[str]:
        """Whatever of jobs is still there: scratch directories, ledger entries, cgroups, processes."""
        left = [str(p) for p in self.execute.iterdir()] if self.execute.exists() else []
        ledger = self.run_dir / "ledger"
        left += [str(p) for p in ledger.iterdir()] if ledger.exists() else []
        left += [c for c in leaks.cgroups() if f"/{self.name}/" in c and not c.endswith("/supervisor")]
        return left


def sh(script: str, *lines: str, **attributes: object) -> str:
    """A job ad: ``script`` under /bin/sh, as nobody, with more lines and attributes."""
    quoted = script.replace("'", "''").replace('"', '\\"')
    text = f'Cmd = "/bin/sh"\nArguments = "-c \'{quoted}\'"\nOsUser = "nobody"\n'
    for name, value in attributes.items():
        text += f'{name} = "{value}"\n' if isinstance(value, str | Path) else f"{name} = {value}\n"
    return text + "\n".join(lines) + "\n"
