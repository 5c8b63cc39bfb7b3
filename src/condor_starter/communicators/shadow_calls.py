"""Remote calls to a shadow over the connection that the startd handed down: one request, one reply, in
lockstep.

A request is ``number, arguments``, a reply ``result, results``; a negative result is followed by an errno.
The shadow only answers; what comes unasked, or the end of the stream, means that it is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from condor_starter.cedar.codec import Reader, Writer
from condor_starter.cedar.errors import CedarError, ProtocolError
from condor_starter.cedar.sessions import SUBMIT_SIDE, Session, make_session
from condor_starter.cedar.stream import Stream

CLOSE = 10
OPEN = 66
WRITE = 120
GET_JOB_INFO = -63
JOB_EXIT = -65
REGISTER_STARTER_INFO = -77
BEGIN_EXECUTION = -78
REGISTER_JOB_INFO = -81
JOB_TERMINATION = -82
ULOG = 284
GET_SEC_SESSION_INFO = 288
EVENT_NOTIFICATION = 304

CALL_SECONDS = 300.0
"""For each message of the shadow; it may have a slow disk."""

_SILENT_ERRORS = frozenset({EVENT_NOTIFICATION})  # no errno behind a negative result
_NEW_FILE = 0x001 | 0x100 | 0x200  # write only, create, truncate: the wire's own flags, not Linux's
_POLICY = '[Encryption="YES";Integrity="YES";CryptoMethods="AES";]'


Reply = tuple[int, Reader]
"""The result, which is not negative, and what follows it."""


class CallFailed(Exception):
    """The shadow answered, and the answer was an error."""

    def __init__(self, number: int, result: int, errno: int) -> None:
        super().__init__(f"the shadow refused remote call {number}: result {result}, errno {errno}")
        self.errno = errno if 0 <= errno < 4096 else 0  # it is the peer's word


class ShadowCalls:
    """The connection to one shadow. Every call raises CedarError once the shadow is lost.

    ``on_lost`` is called once, with the reason, when that happens unless :meth:`close` came first. A call
    goes on when its caller is cancelled: half a call would leave nothing to continue with.
    """

    def __init__(self, stream: Stream, on_lost: Callable[[str], None]) -> None:
        self._stream = stream
        self._on_lost = on_lost
        self._lock = asyncio.Lock()
        self._waiting: asyncio.Future[Reader] | None = None
        self._calls: set[asyncio.Task[Reply]] = set()
        self._lost: CedarError | None = None
        self._listener = asyncio.create_task(self._listen(), name="shadow")

    @property
    def lost(self) -> bool:
        return self._lost is not None

    async def job_ad(self) -> tuple[str, ...]:
        """get_job_info: the job's ad, with the keys of its file transfer."""
        return (await self._call(GET_JOB_INFO))[1].ad()

    async def register_starter(self, ad: Iterable[str]) -> None:
        """register_starter_info: who and where we are, and which version we speak."""
        await self._call(REGISTER_STARTER_INFO, lambda w: w.ad(ad))

    async def sessions(self) -> tuple[Session, Session]:
        """get_sec_session_info: the claim's session, for the shadow to call us, and ours for file
        transfers.
        """
        _, reply = await self._call(GET_SEC_SESSION_INFO, lambda w: w.text(_POLICY).text(_POLICY))
        claim = make_session(reply.text(), reply.text(), reply.text(), SUBMIT_SIDE)
        files = make_session(reply.text(), reply.text(), reply.text(), SUBMIT_SIDE)
        return claim, files

    async def begin_execution(self) -> None:
        """The job is about to be executed; once in a starter's life."""
        await self._call(BEGIN_EXECUTION)

    async def register_job_info(self, ad: Iterable[str]) -> None:
        """An update of the job's ad."""
        await self._call(REGISTER_JOB_INFO, lambda w: w.ad(ad))

    async def event(self, ad: Iterable[str]) -> None:
        """event_notification: for the shadow's own log and statistics."""
        await self._call(EVENT_NOTIFICATION, lambda w: w.ad(ad))

    async def job_termination(self, ad: Iterable[str]) -> None:
        """The job has ended by itself, but what comes now is no job_exit."""
        await self._call(JOB_TERMINATION, lambda w: w.ad(ad))

    async def job_exit(self, status: int, reason: int, ad: Iterable[str]) -> None:
        """The end: the raw wait status, and why it is one. The shadow may hang up afterwards."""
        await self._call(JOB_EXIT, lambda w: w.integer(status).integer(reason).ad(ad))

    async def open(self, path: str) -> int:
        """Make or empty a file on the submit side; the shadow's number for it."""
        number, _ = await self._call(OPEN, lambda w: w.integer(_NEW_FILE).integer(0o666).text(path))
        return number

    async def write(self, number: int, data: bytes) -> int:
        """Write to an open file; how many bytes were written."""
        written, _ = await self._call(WRITE, lambda w: w.integer(number).integer(len(data)).raw(data))
        if not 0 < written <= len(data):
            raise ProtocolError(f"the shadow wrote {written} of {len(data)} bytes")
        return written

    async def close_file(self, number: int) -> None:
        await self._call(CLOSE, lambda w: w.integer(number))

    async def ulog(self, ad: Iterable[str]) -> None:
        """An event for the user log. A critical one is the last word: the shadow answers by hanging up."""
        async with self._lock:
            self._check()
            await self._stream.send(self._stream.writer().integer(ULOG).ad(ad))

    async def close(self) -> None:
        """Hang up. Nobody is told that the shadow is lost from now on."""
        self._lost = self._lost or CedarError("the connection to the shadow was closed")
        tasks = [self._listener, *self._calls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._stream.close()

    async def _call(self, number: int, arguments: Callable[[Writer], object] | None = None) -> Reply:
        message = self._stream.writer().integer(number)
        if arguments is not None:
            arguments(message)
        task = asyncio.create_task(self._exchange(number, message))
        self._calls.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Reply]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # whoever called may have gone

    async def _exchange(self, number: int, message: Writer) -> Reply:
        async with self._lock:
            self._check()
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(self._stream.timeout):
                    await self._stream.send(message)
                    reply = await self._waiting
            except TimeoutError:
                self._lose(f"no reply to remote call {number} within {self._stream.timeout:.0f} s")
                self._check()
            finally:
                self._waiting = None
            result = reply.integer()
            if result < 0:
                errno = reply.integer() if number not in _SILENT_ERRORS and reply.left else 0
                raise CallFailed(number, result, errno)
            return result, reply

    async def _listen(self) -> None:
        try:
            while True:
                reply = await self._stream.receive_ever()
                if self._waiting is None or self._waiting.done():
                    raise ProtocolError("it sent something that nobody asked for")
                self._waiting.set_result(reply)
        except CedarError as e:
            self._lose(str(e))

    def _lose(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._lost = CedarError(f"Lost connection to shadow: {reason}")
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(self._lost)
        self._on_lost(reason)

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lost
