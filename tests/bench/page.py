"""The tables as text, and docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence

from bench.measure import Table

INTRODUCTION = """\
# How fast, how large

What `make bench` measured last, on the machine below. Each table's ways were run in turn within one run, so
a noisy neighbour disturbs all of them alike; quoted are medians, with the tenth and the ninetieth
percentile, and the ratio to the first line. A figure without percentiles was taken once.

To repeat it: `make bench`, as root, on a machine with nothing else to do; peers that are not installed are
named and left out (`apt-get install crun runc bubblewrap gcc`). `python tests/bench --help` says how to run
one table, a quick round, or the pool's, and `--write` makes this page. The page is written by that program:
the words below say what was done and whether the budget was met, not whether anybody likes it.
"""

NO_POOL = """\
## In a pool

Not measured in this run: `python tests/bench --pool` does.
"""


def text(table: Table) -> str:
    """For a terminal."""
    rows = table.rows()
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    out = [f"== {table.title}"]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(row[1:-1], widths[1:], strict=True)),
            row[-1],
        ]
        out.append("  " + "  ".join(cells).rstrip())
    out += [f"  {v}" for v in table.verdicts()]
    out += [f"  not here: {m}" for m in table.missing]
    return "\n".join([*out, f"  {table.load}"])


def markdown(table: Table) -> str:
    """For the page."""
    head, *rows = table.rows()
    out = [f"## {table.title}", "", table.what, "", _row(head), _row(["---", *["---:"] * 4, "---"])]
    out += [_row(row) for row in rows]
    out += ["", *(f"* {v}" for v in table.verdicts()), *(f"* not measured: {m}" for m in table.missing)]
    return "\n".join([*out, f"* {table.load}", ""])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def page(facts: Sequence[str], when: str, tables: Sequence[Table], last: str) -> str:
    """The whole page."""
    machine = "\n".join(f"* {fact}" for fact in (*facts, f"measured {when}"))
    parts = [INTRODUCTION, machine + "\n", *(markdown(t) for t in tables), last]
    return "\n".join(parts).rstrip() + "\n"
