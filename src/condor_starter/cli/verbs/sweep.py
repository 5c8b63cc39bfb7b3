"""``starterctl sweep``: undo what starters that died left behind."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import TYPE_CHECKING, Any

from condor_starter.cli.common import failures, gather_knobs, knob_arguments

if TYPE_CHECKING:
    from condor_starter.knobs import Knobs


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "sweep",
        help="remove processes, cgroups and scratch directories that dead starters left",
        description="Undo every box in the machine's ledger that no living procd keeps.",
    )
    knob_arguments(parser)
    parser.set_defaults(handler=handle)


def handle(arguments: argparse.Namespace) -> int:
    """Sweep; 0 if nothing is left, 231 if something could not be removed."""
    with failures("starterctl sweep") as failed:
        return asyncio.run(_sweep(gather_knobs(arguments)))
    return failed.status


async def _sweep(knobs: Knobs) -> int:
    from condor_starter.cli.common import OUR_FAILURE
    from condor_starter.cli.house import close_house, open_house

    house, _ = await open_house(knobs, os.environ)
    try:
        records = await house.procd.sweep()
    finally:
        await close_house(house)
    for record in records:
        left = f", left: {record['left']}" if record.get("left") else ""
        print(f"{record['box']}: {record.get('state', 'undone')}{left}")
    print(f"{len(records)} boxes swept, ledger {knobs.text('STARTER_RUN_DIR')}")
    return OUR_FAILURE if any(r.get("left") for r in records) else 0
