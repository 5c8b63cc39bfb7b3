"""The job's environment, by HTCondor's rules. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from condor_starter import attributes
from condor_starter.arguments import environment_v1, environment_v2
from condor_starter.job import JobSpec
from condor_starter.knobs import Knobs

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""

JOB_AD = ".job.ad"
MACHINE_AD = ".machine.ad"
_SCRATCH_MARK = "#CoNdOrScRaTcHdIr#"  # condor_submit's $$(CondorScratchDir)
_NEVER_INHERITED = ("CONDOR_INHERIT", "CONDOR_PRIVATE", "_CONDOR_ANCESTOR_")


class Place(NamedTuple):
    """Where the job is, in its own view."""

    scratch: str  # the scratch directory
    cwd: str  # the working directory
    tmp: str  # where temporary files go: /tmp if it is private, else the scratch directory
    slot: str  # the slot's name without the host, e.g. "slot1_1"
    home: str  # the account's home directory; "" = none
    starter_pid: int


def job_environment(
    spec: JobSpec,
    knobs: Knobs,
    place: Place,
    machine: ClassAd,
    inherited: Mapping[str, str],
    extra: Mapping[str, str],
) -> dict[str, str]:
    """The whole environment of ``spec``'s job.

    ``inherited`` is the starter's own environment, of which the job gets what the admin allows; ``extra`` is
    what the source of the job adds (``_CONDOR_OUTPUT_CLASSAD`` ...). Later layers win: inherited,
    STARTER_JOB_ENVIRONMENT, the job's own, then what is computed here.
    """
    env = _inherit(knobs.text("JOB_INHERITS_STARTER_ENVIRONMENT"), inherited)
    env |= _admin(knobs.text("STARTER_JOB_ENVIRONMENT"))
    env |= spec.environment
    cpus = str(max(1, int(attributes.number(machine, "Cpus") or 1)))
    for name in knobs.words("STARTER_NUM_THREADS_ENV_VARS"):
        env.setdefault(name, cpus)
    env |= _computed(knobs, place)
    env |= _assigned(machine)
    env |= extra
    if place.home and knobs.flag("STARTER_SETS_HOME_ENV"):
        env["HOME"] = place.home
    return {n: v.replace(_SCRATCH_MARK, place.scratch) for n, v in env.items()}


def _computed(knobs: Knobs, place: Place) -> dict[str, str]:
    return {
        "_CONDOR_SCRATCH_DIR": place.scratch,
        "_CONDOR_SLOT": place.slot,
        "_CONDOR_JOB_AD": f"{place.scratch}/{JOB_AD}",
        "_CONDOR_MACHINE_AD": f"{place.scratch}/{MACHINE_AD}",
        "_CONDOR_JOB_IWD": place.cwd,
        "_CONDOR_JOB_PIDS": "",
        "_CONDOR_BIN": knobs.text("BIN"),
        "BATCH_SYSTEM": "HTCondor",
        "CONDOR_STARTER_PID": str(place.starter_pid),
        **dict.fromkeys(("TMPDIR", "TMP", "TEMP"), place.tmp),
        **dict.fromkeys(("APPTAINER_CACHEDIR", "SINGULARITY_CACHEDIR"), place.scratch),
    }


def _assigned(machine: ClassAd) -> dict[str, str]:
    """``_CONDOR_AssignedGPUs`` and the like: what of each custom resource is this slot's."""
    found = {n: machine.get(n) for n in machine.keys() if n.lower().startswith("assigned")}  # noqa: SIM118
    return {f"_CONDOR_{n}": v for n, v in found.items() if isinstance(v, str)}


def _inherit(rule: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """``true``, ``false``, or a list of NAME, PREFIX* and !NAME: the last that matches decides."""
    word = rule.strip().lower()
    if word in ("", "false", "no", "0"):
        return {}
    patterns = ["*"] if word in ("true", "yes", "1") else rule.replace(",", " ").split()
    return {n: v for n, v in inherited.items() if _matches(n, patterns)}


def _matches(name: str, patterns: list[str]) -> bool:
    if name.upper().startswith(_NEVER_INHERITED):
        return False
    verdict = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if bare == name or (bare.endswith("*") and name.startswith(bare[:-1])):
            verdict = not pattern.startswith("!")
    return verdict


def _admin(string: str) -> dict[str, str]:
    """STARTER_JOB_ENVIRONMENT: new syntax in double quotes (``""`` is one), else old syntax."""
    text = string.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return environment_v2(text[1:-1].replace('""', '"'))
    return environment_v1(text)
