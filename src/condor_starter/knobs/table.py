"""The one table of every knob: ``knobs.yaml``, read once a process."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from condor_starter.knobs.values import convert

_FILE = Path(__file__).with_name("knobs.yaml")
TYPES = ("text", "integer", "number", "flag", "size", "words", "expression")


@dataclass(frozen=True, slots=True)
class Knob:
    """One row. ``name`` may hold ``<n>`` for a slot number, as in ``SLOT<n>_USER``."""

    name: str
    type: str  # one of TYPES
    default: Any
    doc: str
    since: str
    differs: str = ""  # how and why the default differs from HTCondor's; "" if it does not


@functools.cache
def table() -> dict[str, Knob]:
    """All knobs by name. Raises ValueError for a malformed table (a bug, not a user's error)."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    rows = yaml.load(_FILE.read_text(encoding="utf-8"), Loader=loader)
    knobs = {name: Knob(name=name, **row) for name, row in rows.items()}
    for knob in knobs.values():
        if knob.type not in TYPES:
            raise ValueError(f"{_FILE.name}: {knob.name}: unknown type {knob.type!r}")
    return {k.name: replace(k, default=convert(k.type, k.default)) for k in knobs.values()}


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], Knob]]:
    return [
        (re.compile(re.escape(k.name).replace("<n>", r"\d+(?:_\d+)?") + r"\Z"), k)
        for k in table().values()
        if "<n>" in k.name
    ]


def find(name: str) -> Knob | None:
    """The row for ``name`` (any case), or None for a knob that this starter does not know."""
    upper = name.upper()
    if knob := table().get(upper):
        return knob
    return next((k for pattern, k in _patterns() if pattern.match(upper)), None)
