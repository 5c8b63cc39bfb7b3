"""Counters in Prometheus' text format."""

from __future__ import annotations

from collections import Counter

from condor_starter.daemon.job import Phase
from condor_starter.daemon.jobs import Jobs
from condor_starter.daemon.link import ProcdLink


def text(jobs: Jobs, link: ProcdLink) -> str:
    """All metrics; O(jobs)."""
    phases = Counter(j.phase for j in jobs)
    lines = ["# TYPE condor_starter_jobs gauge"]
    lines += [f'condor_starter_jobs{{state="{p.value}"}} {phases[p]}' for p in Phase]
    lines += ["# TYPE condor_starter_jobs_ended_total counter"]
    lines += [f'condor_starter_jobs_ended_total{{how="{how}"}} {n}' for how, n in jobs.ended.items()]
    lines += ["# TYPE condor_starter_jobs_adopted_total counter"]
    lines += [f"condor_starter_jobs_adopted_total {jobs.adopted}"]
    lines += ["# TYPE condor_starter_procd_up gauge", f"condor_starter_procd_up {int(link.up)}"]
    lines += ["# TYPE condor_starter_procd_reconnects_total counter"]
    lines += [f"condor_starter_procd_reconnects_total {link.reconnected}"]
    return "\n".join(lines) + "\n"
