"""``condor_starter -classad``: what this machine can do, one attribute a line, for the startd that asks."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from condor_starter.calls.logs import log_path
from condor_starter.cedar.version import CONDOR_VERSION
from condor_starter.cli.places import for_user
from condor_starter.engines.docker import DockerEngine
from condor_starter.isolation.docker import attributes
from condor_starter.knobs import KnobError, Knobs, gather
from condor_starter.log import StarterLog

MAX_LINE = 1000
"""Characters: the startd reads lines of less than 1024 bytes, and one bad line spoils the whole answer."""


def version() -> str:
    """The version line that HTCondor's tools know."""
    return CONDOR_VERSION


def main() -> int:
    """Print the attributes; exit status 0, or 1 if the configuration cannot be read."""
    try:
        knobs = for_user(gather(), os.environ, os.geteuid() == 0)
    except KnobError as e:
        print(f"condor_starter: {e}", file=sys.stderr)
        return 1
    found = machine_attributes(knobs) | asyncio.run(_engine(knobs))
    sys.stdout.write("".join(lines(found)))
    return 0


def machine_attributes(knobs: Knobs) -> dict[str, Any]:
    """What does not depend on an engine. Only what this starter does is claimed."""
    names = ",".join(w.partition("=")[0] for w in knobs.words("NAMED_CHROOT"))
    found: dict[str, Any] = {
        "CondorVersion": CONDOR_VERSION,
        "IsDaemonCore": True,
        "HasFileTransfer": True,
        "HasPerFileEncryption": True,  # every file is
        "HasTransferInputRemaps": True,
        "HasOsUser": True,
        "HasJICLocalStdin": True,
        "HasJobNetworking": not knobs.flag("NO_JOB_NETWORKING"),
    }
    if names:
        # condor_submit writes RequestedChroot's requirement with a misspelt name (edChroot): both
        found |= {"NamedChroot": names, "edChroot": names}
    return found


async def _engine(knobs: Knobs) -> dict[str, Any]:
    engine = DockerEngine.find(knobs)
    try:
        facts = await engine.probe()
        if not facts.usable:
            _tell(knobs, f"No container engine, so no docker jobs: {facts.reason}")
        return dict(attributes(facts))
    finally:
        await engine.close()


def _tell(knobs: Knobs, text: str) -> None:
    """To whoever looks: stderr, and the log that HTCondor's starter has for its probing."""
    print(f"condor_starter: {text}", file=sys.stderr)
    log = StarterLog(log_path(knobs, "testing"))
    log.say(text)
    log.close()


def lines(found: dict[str, Any]) -> list[str]:
    """Old-ClassAd lines; one that would be too long or would not parse is left out."""
    text = [f"{name} = {_literal(value)}\n" for name, value in found.items()]
    return [line for line in text if len(line) < MAX_LINE and line.count("\n") == 1]


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, str):
        return '"' + value.replace('"', "'").replace("\\", "/") + '"'
    return str(value)
