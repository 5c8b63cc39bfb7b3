"""The pool's configuration, read with the installed HTCondor's own tool: we do not parse that language."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping

SECONDS = 20.0
"""The longest that condor_config_val may take; it usually takes 20 ms."""

_SETTING = re.compile(r"^([A-Za-z_][\w.]*)[ \t]*=(.*)\n # at: (.*)$", re.MULTILINE)
_DEFAULT_CONFIG = "/etc/condor/condor_config"


def pool_configuration(environ: Mapping[str, str], local_name: str = "") -> dict[str, str]:
    """What the pool's configuration sets, names in capitals; empty where HTCondor is not configured.

    HTCondor's own defaults are left out: ours are in knobs.yaml. Values for the starter alone
    (``STARTER.NAME``, ``<local name>.NAME``) take the place of general ones. Read once a process.
    Raises OSError or :class:`subprocess.SubprocessError` if the tool fails.
    """
    path = environ.get("PATH", os.defpath)
    tool = shutil.which("condor_config_val", path=path)
    config = environ.get("CONDOR_CONFIG", _DEFAULT_CONFIG)
    if tool is None or not (config == "ONLY_ENV" or os.path.exists(config)):
        return {}
    return _read(tool, config, local_name, path)


@functools.lru_cache(maxsize=8)
def _read(tool: str, config: str, local_name: str, path: str) -> dict[str, str]:
    local = ["-local-name", local_name] if local_name else []
    done = subprocess.run(
        [tool, "-subsystem", "STARTER", *local, "-verbose", "-expand", "-dump"],
        env={"PATH": path, "CONDOR_CONFIG": config, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return parse_dump(done.stdout, local_name)


def parse_dump(text: str, local_name: str = "") -> dict[str, str]:
    """The settings in the output of ``condor_config_val -verbose -dump`` that somebody made.

    A setting is a line ``NAME = value``, followed by lines that begin with `` #``: ``# at: <place>`` among
    them, where ``<Default>`` stands for the built-in table.
    """
    settings: dict[str, str] = {}
    special: dict[str, str] = {}
    prefixes = ("STARTER.", *((f"{local_name.upper()}.",) if local_name else ()))
    for match in _SETTING.finditer(text):
        name, value, place = match[1].upper(), match[2].strip(), match[3]
        if place.startswith("<Default"):
            continue
        prefix = next((p for p in prefixes if name.startswith(p)), "")
        (special if prefix else settings)[name[len(prefix) :]] = value
    return settings | special
