"""``starterctl doctor``: what this machine can do for jobs, and what to do about the rest."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from condor_starter.cli.common import OUR_FAILURE, failures, gather_knobs, knob_arguments

if TYPE_CHECKING:
    from condor_starter.daemon.account import Account
    from condor_starter.isolation.facts import Capabilities
    from condor_starter.knobs import Knobs


class Finding(NamedTuple):
    """One thing that was looked at."""

    mark: str  # "ok", "--" (less than could be had) or "!!" (jobs cannot run)
    what: str
    found: str
    advice: str = ""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="say what this machine can do, and what to do about the rest",
        description="Look at privilege, namespaces, cgroups, directories, accounts and the container engine. "
        "ok: there. --: jobs run with less. !!: jobs cannot run.",
    )
    knob_arguments(parser)
    parser.set_defaults(handler=handle)


def handle(arguments: argparse.Namespace) -> int:
    """Print the findings; 0, or 231 if jobs cannot run here."""
    with failures("starterctl doctor") as failed:
        return asyncio.run(_doctor(gather_knobs(arguments)))
    return failed.status


async def _doctor(knobs: Knobs) -> int:
    from condor_starter.cli.house import close_house, open_house

    house, who = await open_house(knobs, os.environ)
    try:
        await house.need_engine()
        can = house.capabilities()
    finally:
        await close_house(house)
    found = findings(can, knobs, who, house.facts)
    for row in found:
        print(f"{row.mark} {row.what:22} {row.found}")
        if row.advice:
            print(f"   {'':22} -> {row.advice}")
    return OUR_FAILURE if any(row.mark == "!!" for row in found) else 0


def findings(can: Capabilities, knobs: Knobs, who: Account, facts: dict[str, Any]) -> list[Finding]:
    """Everything that is looked at, in the order in which it matters."""
    machine = facts.get("machine", {})
    return [
        Finding("ok", "machine", " ".join(f"{k} {v}" for k, v in machine.items())),
        _privilege(can),
        Finding("ok", "our account", f"{who.name} ({who.uid}:{who.gid}), {who.why}"),
        *(_namespace(can, name) for name in ("pid", "mnt", "ipc", "uts", "cgroup", "net")),
        *_cgroups(can, knobs),
        *(_directory(knobs, name) for name in ("EXECUTE", "LOG", "STARTER_RUN_DIR")),
        _chroots(can),
        _engine(can),
        _configuration(knobs),
    ]


def _privilege(can: Capabilities) -> Finding:
    if can.root:
        return Finding("ok", "privilege", "procd runs as root: boxes for any account")
    advice = "start as root, or run condor_starter_procd as a service, for boxes with namespaces and cgroups"
    return Finding("--", "privilege", f"procd runs as uid {can.uid}: every job runs as this account", advice)


def _namespace(can: Capabilities, name: str) -> Finding:
    if name in can.namespaces:
        return Finding("ok", f"{name} namespace", "there")
    return Finding("--", f"{name} namespace", "cannot be had", can.why_not(name))


def _cgroups(can: Capabilities, knobs: Knobs) -> list[Finding]:
    if not knobs.text("BASE_CGROUP"):
        advice = "set BASE_CGROUP = htcondor for limits, suspend and complete kill"
        return [Finding("--", "cgroups", "switched off by BASE_CGROUP", advice)]
    tracks = (
        "tracks, freezes and kills" if can.tracker else "no tracker: processes are found by their parents"
    )
    rows = [Finding("ok" if can.tracker else "--", "cgroups", f"{can.cgroup}; {tracks}")]
    for name in ("memory", "cpu", "pids"):
        if name in can.limits:
            rows.append(Finding("ok", f"{name} limit", "there"))
        else:
            rows.append(Finding("--", f"{name} limit", "cannot be had", can.why_not("cgroup limits")))
    return rows


def _directory(knobs: Knobs, name: str) -> Finding:
    path = knobs.text(name)
    found = f"{path} ({knobs.origin(name)})"
    if not os.path.isdir(path):
        return Finding("!!", name, f"{found} does not exist", f"make it, or set {name}")
    flags = os.statvfs(path).f_flag
    if name == "EXECUTE" and flags & os.ST_NOEXEC:
        return Finding("--", name, f"{found} is mounted noexec", "transferred programs cannot run there")
    if flags & os.ST_RDONLY:
        return Finding("!!", name, f"{found} is read-only", f"mount it read-write, or set {name}")
    free = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize >> 20
    return Finding("ok", name, f"{found}, {free} MiB free")


def _chroots(can: Capabilities) -> Finding:
    if can.chroots:
        return Finding("ok", "named chroots", ", ".join(sorted(can.chroots)))
    return Finding(
        "--", "named chroots", "none", "NAMED_CHROOT = name=/directory, if jobs want other userlands"
    )


def _engine(can: Capabilities) -> Finding:
    if can.engine:
        return Finding("ok", "container engine", f"docker {can.engine}")
    return Finding("--", "container engine", "none: docker jobs cannot run", can.engine_reason)


def _configuration(knobs: Knobs) -> Finding:
    changed = [f"{name} ({origin})" for name, (_, origin) in knobs.changed().items()]
    return Finding(
        "ok", "knobs", f"{len(changed)} not at their default" + "".join(f"\n{'':26}{c}" for c in changed)
    )
