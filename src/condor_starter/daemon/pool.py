"""A pool's job, brought by a thin client: the genuine command line and environment, run in our process."""

from __future__ import annotations

from condor_starter.calls.options import UsageError, parse_args
from condor_starter.calls.serve import serve as serve_options
from condor_starter.daemon.intake import Client
from condor_starter.starter import House


async def serve(client: Client, house: House) -> int:
    """Run the job of ``client``; the starter's exit status."""
    try:
        options = parse_args(client.argv[1:])
    except UsageError:
        return 1
    return await serve_options(
        options,
        client.env,
        client.fd_of,
        house,
        pid=client.pid,
        cwd=client.cwd,
        signals=client.signals,
    )
