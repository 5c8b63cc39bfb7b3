"""``starterctl explain``: what would be done with a job ad here, and why; nothing is run."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import TYPE_CHECKING, Any

from condor_starter.cli.common import ad_argument, failures, gather_knobs, knob_arguments

if TYPE_CHECKING:
    from condor_starter.draft import Draft
    from condor_starter.isolation.boxplan import BoxPlan
    from condor_starter.isolation.docker import ContainerSpec
    from condor_starter.knobs import Knobs


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "explain",
        help="print which backend a job ad would get, why, and the whole plan",
        description="Print the selection with its reasons and the numbered plan, without running anything.",
    )
    ad_argument(parser)
    parser.add_argument("--slot", default="slot1", metavar="NAME", help="slot name (default: %(default)s)")
    knob_arguments(parser)
    parser.set_defaults(handler=handle)


def handle(arguments: argparse.Namespace) -> int:
    """Print it; 0, 2 for a bad ad, 230 for a job that would be held, 231 for one that cannot run here."""
    with failures("starterctl explain") as failed:
        return asyncio.run(_explain(arguments, gather_knobs(arguments)))
    return failed.status


async def _explain(arguments: argparse.Namespace, knobs: Knobs) -> int:
    from condor_starter import draft
    from condor_starter.calls import local
    from condor_starter.cli.house import close_house, open_house
    from condor_starter.isolation.select import Backend
    from condor_starter.job import spec_from_ad
    from condor_starter.log import StarterLog
    from condor_starter.sandbox.machine import machine_ad

    ad = local.load_ad(arguments.ad, lambda fd: fd, StarterLog(None))
    spec = spec_from_ad(ad, transfers=False)
    house, _ = await open_house(knobs, os.environ)
    try:
        if spec.docker is not None:
            await house.need_engine()
        machine = machine_ad(arguments.slot, knobs.text("EXECUTE"), spec)
        source = draft.Source(arguments.slot, machine, "explained", f"dir_{os.getpid()}", True)
        found = draft.understand(spec, ad, house.capabilities(), knobs, source)
        plan = draft.box_plan(found, found.spec.streams, {}, os.environ)
        container = draft.container(found, os.environ) if found.choice.backend is Backend.DOCKER else None
    finally:
        await close_house(house)
    print("\n".join(report(found, plan, container, knobs)))
    return 0


def report(found: Draft, plan: BoxPlan, container: ContainerSpec | None, knobs: Knobs) -> list[str]:
    """The explanation, line by line."""
    from condor_starter.isolation.docker import describe
    from condor_starter.log import escape

    lines = [f"Job {found.spec.id}", *found.choice.lines()]
    lines += [f"  ! {note}" for note in found.notes]
    lines += [
        "",
        f"Account: {plan.identity.name} ({plan.identity.uid}:{plan.identity.gid}), {found.account.why}",
    ]
    lines += [*_box(plan), *_environment(plan)]
    if container is not None:
        lines += ["", "Container:", *(f"  {line}" for line in describe(container))]
    lines += ["", "Steps:", *_steps(plan)]
    changed = knobs.changed()
    if changed:
        lines += ["", "Knobs that are not at their default:"]
        lines += [f"  {name} = {value!r}  ({origin})" for name, (value, origin) in changed.items()]
    return [escape(line) for line in lines]


def _box(plan: BoxPlan) -> list[str]:
    from condor_starter.isolation.boxplan import describe_limits

    rows = {
        "Program": " ".join(plan.argv) or "(the container's)",
        "Directory": plan.cwd,
        "Scratch": f"{plan.execute}/{plan.scratch}",
        "Cgroup": plan.cgroup if plan.kind != "tree" else "(none)",
        "Limits": describe_limits(plan.limits),
        "Rlimits": ", ".join(f"{r.name} {_amount(r.soft)}" for r in plan.rlimits) or "(none)",
        "Namespaces": ", ".join(plan.namespaces) or "(none)",
        "Private": ", ".join([*plan.private_dirs, *(["/dev/shm"] if plan.private_dev_shm else [])])
        or "(none)",
        "Binds": ", ".join(f"{b.source} at {b.target}" for b in plan.binds) or "(none)",
        "Root": plan.chroot or "the host's",
    }
    streams = {n: getattr(plan, n) for n in ("stdin", "stdout", "stderr")}
    rows |= {n: s.path or ("(ours)" if s.fd is not None else "/dev/null") for n, s in streams.items()}
    return [f"{name + ':':11} {value}" for name, value in rows.items()]


def _amount(limit: int) -> str:
    return "unlimited" if limit < 0 else str(limit)


def _environment(plan: BoxPlan) -> list[str]:
    return ["", f"Environment ({len(plan.env)}):", *(f"  {e}" for e in sorted(plan.env))] if plan.env else []


def _steps(plan: BoxPlan) -> list[str]:
    from condor_starter.isolation.boxplan import steps

    lines = []
    for step in steps(plan):
        lines.append(f"  {step.number:2} {step.name:9} {step.describe}")
        lines.append(f"     {'undo':9} {step.undo}")
    return lines
