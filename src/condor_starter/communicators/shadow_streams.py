"""Standard streams that the job wants written where it was submitted (stream_output, stream_error).

They are kept in the sandbox like the others while the job runs, and written to their places by remote calls
when it has ended: what a user sees later than with HTCondor's starter is complete, and no job waits for a
slow submit side.
"""

from __future__ import annotations

import asyncio
import os

from condor_starter.communicators.shadow_calls import CallFailed, ShadowCalls
from condor_starter.communicators.wire import WireAd
from condor_starter.job import Hold, JobError
from condor_starter.sandbox.worker import SandboxWorker

_PIECE = 1 << 18


def streamed(job: WireAd) -> set[str]:
    """The attributes, Out and Err, of the streams that this job wants streamed."""
    return {name for name in ("Out", "Err") if job.flag(f"Stream{name}", False)}


async def write_back(calls: ShadowCalls, worker: SandboxWorker, source: str, path: str) -> None:
    """Write the sandbox's file ``source`` to ``path`` of the submit side.

    Raises JobError when the shadow cannot write it, CedarError when it is lost, OSError for a bad sandbox.
    """
    fd = await worker.open(source)
    try:
        number = await calls.open(path)
        while data := await asyncio.to_thread(os.read, fd, _PIECE):
            while data:
                data = data[await calls.write(number, data) :]
        await calls.close_file(number)
    except CallFailed as e:
        text = f"Failed to write '{path}' on the submit side: errno {e.errno} ({os.strerror(e.errno)})"
        raise JobError(Hold.UNABLE_TO_OPEN_OUTPUT, e.errno, text) from None
    finally:
        os.close(fd)
