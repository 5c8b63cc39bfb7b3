"""``starterctl ps``: the jobs of starterd."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from condor_starter.cli.talk import run_dir_argument, talking

_ROW = "{:>6}  {:<12} {:<10} {:>10} {:>9}  {}"


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "ps",
        help="show the jobs of condor_starterd",
        description="Show your jobs; root sees everybody's.",
    )
    parser.add_argument("jobs", metavar="JOB", type=int, nargs="*", help="the job's number (default: all)")
    parser.add_argument("-a", "--all", action="store_true", help="jobs that have ended, too")
    parser.add_argument("--json", action="store_true", help="all that is known, one JSON object a line")
    run_dir_argument(parser)
    parser.set_defaults(handler=handle)


def handle(arguments: argparse.Namespace) -> int:
    """Show them."""
    with talking("ps", arguments) as talk:
        if arguments.jobs:
            jobs = [talk.client.job(number) for number in arguments.jobs]
        else:
            jobs = [j for j in talk.client.jobs() if arguments.all or j["state"] != "done"]
        _show(jobs, arguments.json)
        return 0
    return talk.status


def _show(jobs: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for job in jobs:
            print(json.dumps(job))
        return
    print(_ROW.format("JOB", "USER", "STATE", "SUBMITTED", "MEMORY", "PROGRAM"))
    for job in jobs:
        print(
            _ROW.format(
                job["id"], job["user"] or job["uid"], _state(job), _when(job), _memory(job), job["cmd"]
            )
        )


def _state(job: dict[str, Any]) -> str:
    outcome = job["outcome"]
    return f"{outcome['how']} {outcome['exit_status']}" if outcome else str(job["state"])


def _when(job: dict[str, Any]) -> str:
    return time.strftime("%m/%d %H:%M", time.localtime(job["submitted_at"]))


def _memory(job: dict[str, Any]) -> str:
    kilobytes = (job["usage"] or {}).get("ResidentSetSize")
    return f"{kilobytes / 1024:.1f} MiB" if kilobytes is not None else "-"
