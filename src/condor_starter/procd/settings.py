"""procd's own configuration: a root-owned file of ``key = value`` lines that no job and no client can change.

What stands here bounds what a BoxPlan may ask for. A private procd takes overrides from the command line
of the process that started it (which had our privileges, or we would have none).
"""

from __future__ import annotations

import os
import pwd
import stat
from typing import NamedTuple


class SettingsError(Exception):
    """The configuration cannot be used; the text says file, line and what to do."""


class Settings(NamedTuple):
    """Everything procd may be told, with its defaults."""

    execute: tuple[str, ...] = ("/var/lib/condor/execute",)  # directories that hold scratch directories
    run: str = "/run/condor_starter"  # ledger/, done/, procd.sock
    client: str = "condor"  # account (or uid) that may connect and that fills fresh scratch directories
    min_uid: int = 1000  # jobs run as this uid or above ...
    allow_users: tuple[str, ...] = ("nobody",)  # ... or as one of these accounts; never as uid 0
    named_chroot: tuple[str, ...] = ()  # NAME=/directory
    bind_allow: tuple[str, ...] = ()  # directories that plans may bind, they and what is beneath them
    base_cgroup: str = "htcondor"  # "" = no cgroups
    keep_done: int = 1000  # terminal records kept in done/
    pause_at: str = ""  # fault injection for tests: stop for ever at this step

    @property
    def chroots(self) -> dict[str, str]:
        """Named chroots: name to directory."""
        return dict(c.split("=", 1) for c in self.named_chroot)

    def client_uid(self) -> int:
        """The uid of ``client``; raises SettingsError for an account that does not exist."""
        return account_uid(self.client)


def account_uid(name: str) -> int:
    """The uid of an account name or of digits."""
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise SettingsError(f"no account {name!r} on this machine: create it, or name another one") from None


def load(path: str, overrides: list[str]) -> Settings:
    """Settings from the file at ``path`` (none: defaults) and from ``key=value`` overrides.

    Raises SettingsError for an unknown key, a bad value, or a file that others could have written.
    """
    values: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as f:
            _must_be_ours(path, os.fstat(f.fileno()))
            for number, line in enumerate(f, 1):
                line = line.partition("#")[0].strip()
                if line:
                    _take(values, line, f"{path}:{number}")
    except FileNotFoundError:
        pass
    for text in overrides:
        _take(values, text, f"--set {text}")
    return _check(Settings(**{k: _convert(k, v) for k, v in values.items()}))  # type: ignore[arg-type]


def _must_be_ours(path: str, st: os.stat_result) -> None:
    if st.st_uid not in (0, os.geteuid()) or st.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(
            f"{path}: must belong to root and be writable by nobody else (chown root, chmod 644)"
        )


def _take(values: dict[str, str], text: str, where: str) -> None:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or key not in Settings._fields:
        raise SettingsError(f"{where}: unknown setting {key!r}; known are {', '.join(Settings._fields)}")
    values[key] = value.strip()


def _convert(key: str, value: str) -> object:
    default = Settings._field_defaults[key]
    if isinstance(default, tuple):
        return tuple(v.strip() for v in value.split(",") if v.strip())
    if isinstance(default, int):
        if not value.isdigit():
            raise SettingsError(f"{key}: expected a number, got {value!r}")
        return int(value)
    return value


def _check(settings: Settings) -> Settings:
    for key in ("execute", "bind_allow"):
        for path in getattr(settings, key):
            _absolute(key, path)
    for chroot in settings.named_chroot:
        name, equals, path = chroot.partition("=")
        if not (name and equals):
            raise SettingsError(f"named_chroot: expected NAME=/directory, got {chroot!r}")
        _absolute("named_chroot", path)
    _absolute("run", settings.run)
    if settings.min_uid < 1:
        raise SettingsError("min_uid: must be at least 1: jobs never run as root")
    return settings


def _absolute(key: str, path: str) -> None:
    if not path.startswith("/") or path.startswith("//") or os.path.normpath(path) != path:
        raise SettingsError(f"{key}: expected an absolute path without '..' or '//', got {path!r}")
