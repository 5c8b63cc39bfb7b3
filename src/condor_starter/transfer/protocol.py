"""What both directions of a file transfer have in common: item codes, the go-ahead, the acknowledgement.

A transfer is one connection on which one side sends items and the other takes them::

    sender:  final flag, ad {SandboxSize}
             for each item: its code; its name; [go-ahead]; what belongs to the code
             0
             ad {Result = 0 | 1 (try again) | -1 (hold), HoldReason*}
    other:   the same ad from its side

Before the first item each side asks the other for leave to go on, and is told "always" as a rule: this is
how a schedd limits the transfers that run at the same time.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from condor_starter.cedar.codec import Reader
from condor_starter.cedar.errors import ProtocolError
from condor_starter.cedar.literals import LiteralAd, line
from condor_starter.cedar.stream import Stream
from condor_starter.job import Blame, Hold, JobError

BUFFER = 262144
"""Bytes of a file in one message. The sender says it, and this is what HTCondor says."""

UNREADABLE = 1 << 24
"""In the place of a file's mode: the sender could not open it."""

EMPTY_FILE = 666
"""Stands for the content of an empty file, because an empty message cannot be sent."""

_ALIVE = 300  # seconds: how often the side that lets us wait says that it is alive
_INVALID_GO_AHEAD = 18  # HTCondor's hold code


class Item(enum.IntEnum):
    """What an item is."""

    FINISHED = 0
    FILE = 1
    FILE_ENCRYPTED = 2  # on an AES connection everything is: no difference between the three
    FILE_CLEAR = 3
    PROXY = 4  # an X.509 proxy by delegation
    URL = 5
    MKDIR = 6
    OTHER = 999


@dataclass(frozen=True, slots=True)
class Ack:
    """How one side saw the transfer: ``result`` 0 well, 1 try again, -1 hold."""

    result: int = 0
    code: int = 0
    subcode: int = 0
    reason: str = ""

    @classmethod
    def read(cls, message: Reader) -> Ack:
        """From the peer. An ad without Result is a bad acknowledgement, as for HTCondor: hold code 11."""
        ad = LiteralAd(message.ad())
        message.end()
        if "Result" not in ad:
            return cls(-1, Hold.INVALID_TRANSFER_ACK, 0, "Download acknowledgment missing attribute: Result")
        code, subcode = ad.integer("HoldReasonCode"), ad.integer("HoldReasonSubCode")
        return cls(ad.integer("Result", -1), code, subcode, ad.text("HoldReason"))

    def lines(self, files: int, size: int) -> list[str]:
        """For the peer, with what was transferred."""
        stats = f'[ Protocols = "cedar"; CedarSizeBytes = {size}; CedarFilesCount = {files} ]'
        ad = [line("Result", self.result), f"TransferStats = {stats}"]
        if self.result:
            ad.append(line("HoldReasonCode", self.code))
            ad.append(line("HoldReasonSubCode", self.subcode))
            ad.append(line("HoldReason", self.reason))
        return ad

    def error(self, text: str) -> JobError:
        """The end of the job that this acknowledgement means."""
        if self.result > 0:
            return JobError(Hold.STARTER_ERROR, 0, text, Blame.SYSTEM)
        return JobError(self.code or Hold.INVALID_TRANSFER_ACK, self.subcode, text, Blame.USER)


class GoAhead:
    """The leave that each side gives the other; nothing is said any more once both gave it for always."""

    def __init__(self, stream: Stream, *, downloading: bool) -> None:
        self._stream = stream
        self._downloading = downloading
        self._given = False
        self._got = False
        self.limit = -1  # bytes that the peer takes at most; -1: any number

    async def before_item(self) -> None:
        """Raises JobError when the peer refuses, CedarError for a bad or silent peer."""
        if self._downloading:
            await self._give()
            await self._get()
        else:
            await self._get()
            await self._give()

    async def _give(self) -> None:
        if self._given:
            return
        message = await self._stream.receive()
        alive = message.integer()
        message.end()
        always = [line("Result", 2)]
        if self._downloading:
            always.append(line("MaxTransferBytes", -1))
        answers = [self._stream.writer().ad(always)]
        if alive < _ALIVE:
            answers.insert(0, self._stream.writer().ad([line("Timeout", _ALIVE), line("Result", 0)]))
        await self._stream.send(*answers)
        self._given = True

    async def _get(self) -> None:
        if self._got:
            return
        await self._stream.send(self._stream.writer().integer(_ALIVE))
        usual = self._stream.timeout
        self._stream.timeout = max(usual, _ALIVE + 60)
        while (answer := await self._answer()).integer("Result", -1) == 0:
            self._stream.timeout = max(self._stream.timeout, min(answer.integer("Timeout"), 3600) + 60)
        self._stream.timeout = usual
        if answer.integer("Result", -1) < 0:
            raise _refused(answer)
        self._got = answer.integer("Result") >= 2
        self.limit = answer.integer("MaxTransferBytes", self.limit)

    async def _answer(self) -> LiteralAd:
        message = await self._stream.receive()
        ad = LiteralAd(message.ad())
        message.end()
        if "Result" not in ad:
            raise ProtocolError("a go-ahead without a result")
        return ad


def _refused(answer: LiteralAd) -> JobError:
    text = answer.text("HoldReason") or "The submit side refused the file transfer."
    if answer.flag("TryAgain", True):
        return JobError(Hold.STARTER_ERROR, 0, text, Blame.SYSTEM)
    code = answer.integer("HoldReasonCode") or _INVALID_GO_AHEAD
    return JobError(code, answer.integer("HoldReasonSubCode"), text, Blame.SITE)


def spoken_errno(error: OSError) -> str:
    """``(errno 2) No such file or directory``, as HTCondor's messages have it."""
    return f"(errno {error.errno}) {error.strerror}"
