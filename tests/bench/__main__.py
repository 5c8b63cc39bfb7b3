"""``python tests/bench``: every table, printed; ``--write`` makes docs/performance.md out of them."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[0] = str(TESTS)  # run by path: we are the package "bench" among the tests

from bench import box_cycle, killing, machine, memory, page, watching, whole_job  # noqa: E402
from bench.measure import Table  # noqa: E402

PAGE = TESTS.parent / "docs" / "performance.md"
TABLES: dict[str, Callable[[machine.Place, bool], list[Table]]] = {
    "box": lambda place, quick: [box_cycle.measure(place, quick)],
    "memory": memory.measure,
    "kill": lambda place, quick: [killing.measure(place, quick)],
    "sample": lambda place, quick: [watching.samples(place, quick)],
    "oom": lambda place, quick: [watching.out_of_memory(place, quick)],
    "job": whole_job.measure,
}


def main() -> int:
    """Exit status 1 when we cannot measure; a budget that is missed is a figure, not a failure."""
    options = _options()
    if os.geteuid():
        print("bench: needs root: boxes, cgroups and their peers do", file=sys.stderr)
        return 1
    if unknown := set(options.tables) - set(TABLES):
        print(f"bench: no table {min(unknown)!r}; there are {', '.join(TABLES)}", file=sys.stderr)
        return 2
    facts = machine.facts(options.dir)
    print("\n".join(facts), flush=True)
    tables: list[Table] = []
    with machine.place(options.dir) as place:
        for key in options.tables or TABLES:
            tables += _shown(TABLES[key](place, options.quick))
    if options.pool:
        from bench import pool_jobs  # what other tables do without

        tables += _shown(pool_jobs.measure(options.quick))
    if options.write:
        when = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        PAGE.write_text(page.page(facts, when, tables, "" if options.pool else page.NO_POOL))
    return 0


def _shown(tables: Iterable[Table]) -> list[Table]:
    found = []
    for table in tables:
        print(f"\n{page.text(table)}", flush=True)
        found.append(table)
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/bench", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; none: all")
    parser.add_argument(
        "--quick", action="store_true", help="less than a minute; for a look, not for quoting"
    )
    parser.add_argument("--pool", action="store_true", help="one slot of a real pool, too: minutes")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--dir", default="/var/lib", help="where scratch directories on disk are made")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
