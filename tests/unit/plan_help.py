"""Jobs, machines and sites for tests of planners: no kernel, no account database."""

from __future__ import annotations

from typing import Any

import classad2

from condor_starter.isolation.boxes import Launch, Site
from condor_starter.isolation.boxplan import NAMESPACES, Identity
from condor_starter.isolation.facts import Capabilities
from condor_starter.job import JobSpec, Streams, spec_from_ad
from condor_starter.knobs import Knobs, load
from condor_starter.sandbox.ads import parse_ad

EVERYTHING = Capabilities(
    root=True,
    uid=0,
    namespaces=frozenset(NAMESPACES),
    limits=frozenset({"memory", "cpu", "pids", "freezer"}),
    cgroup="v2",
    tracker=True,
    chroots=frozenset({"trixie"}),
    execute=("/scratch",),
    missing={},
    engine="",
    engine_reason="none was installed",
)
NOTHING = Capabilities(
    root=False,
    uid=1000,
    namespaces=frozenset(),
    limits=frozenset(),
    cgroup="none",
    tracker=False,
    chroots=frozenset(),
    execute=("/home/u/execute",),
    missing={"mnt": "needs root", "net": "needs root", "cgroup limits": "needs root"},
    engine="",
    engine_reason="",
)


def spec(text: str = "") -> JobSpec:
    """A job of nobody that runs /bin/true, with the lines of ``text`` in its ad."""
    return spec_from_ad(parse_ad('Cmd = "/bin/true"\nOsUser = "nobody"\n' + text))


def knobs(**values: str) -> Knobs:
    """The defaults, with ``values`` on top."""
    return load(environ={}, overrides=values)


def site(
    can: Capabilities = EVERYTHING, job: str = "", machine: dict[str, Any] | None = None, **values: str
) -> Site:
    """A place for a job: slot1_1 with one cpu and 128 MiB, unless ``machine`` says otherwise."""
    ad = classad2.ClassAd()
    ad.update({"Name": "slot1_1@host", "Cpus": 1, "Memory": 128} | (machine or {}))
    return Site(
        can=can,
        knobs=knobs(**values),
        machine=ad,
        job=parse_ad('Cmd = "/bin/true"\n' + job),
        slot="slot1_1",
        box="dir_7.1a2b",
        execute=can.execute[0],
        scratch="dir_7",
        identity=Identity(65534, 65534, (), "nobody"),
    )


def launch(argv: tuple[str, ...] = ("/bin/true",), cwd: str = "/scratch/dir_7", **streams: str) -> Launch:
    """What is started; ``streams`` are stdin, stdout and stderr."""
    return Launch(argv, {"A": "1"}, cwd, Streams(**streams), {})
