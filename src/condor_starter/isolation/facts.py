"""What this machine can do, typed: procd's facts, the container engine's, and nothing guessed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the backends can build on."""

    root: bool  # procd is root: other accounts, mounts
    uid: int  # procd's own
    namespaces: frozenset[str]  # names of boxplan.NAMESPACES that can be had
    limits: frozenset[str]  # cgroup controllers that can be had: "memory", "cpu", "pids", ...
    cgroup: str  # "v1", "hybrid", "v2", "none"
    tracker: bool  # a cgroup tracks and kills a job's processes
    chroots: frozenset[str]
    execute: tuple[str, ...]
    missing: Mapping[str, str]  # what cannot be had, and why, in words
    engine: str  # version of a usable container engine, "" = none
    engine_reason: str  # why there is none

    def why_not(self, thing: str) -> str:
        """The reason why ``thing`` (a namespace, "cgroup limits", ...) cannot be had."""
        return self.missing.get(thing, "procd says nothing about it")


def capabilities(facts: Mapping[str, Any], engine: str = "", engine_reason: str = "") -> Capabilities:
    """From procd's facts (its hello reply, also an older procd's) and what is known of the engine."""
    cgroup = facts.get("cgroup") or {}
    return Capabilities(
        root=bool(facts.get("root")),
        uid=int(facts.get("uid", 0)),
        namespaces=frozenset(facts.get("namespaces") or ()),
        limits=frozenset(cgroup.get("controllers") or ()),
        cgroup=str(cgroup.get("kind", "none")),
        tracker=cgroup.get("tracker", "none") != "none",
        chroots=frozenset(facts.get("chroots") or ()),
        execute=tuple(facts.get("execute") or ()),
        missing=dict(facts.get("missing") or {}),
        engine=engine,
        engine_reason=engine_reason or "no container engine was looked for",
    )
