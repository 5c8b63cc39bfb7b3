"""Our command port as the startd and the shadow use it: their commands become requests to the job.

The port itself is :mod:`condor_starter.cedar.server`; here is what each command means and who may send it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from condor_starter.cedar.commands import Command, DcSignal
from condor_starter.cedar.errors import ProtocolError
from condor_starter.cedar.literals import lines
from condor_starter.cedar.server import Incoming
from condor_starter.cedar.sessions import FAMILY, PARENT, SUBMIT_SIDE, Session
from condor_starter.communicators.base import Ask, Request

_DAEMONS = frozenset({Command.DC_RAISESIGNAL, Command.STARTER_VACATE_JOB, Command.CA_CMD, Command.DC_NOP})
_ALLOWED = {
    PARENT: _DAEMONS,
    FAMILY: _DAEMONS,
    SUBMIT_SIDE: frozenset({Command.CA_CMD, Command.DC_NOP}),
}

_SIGNALS: dict[int, Ask] = {
    DcSignal.SUSPEND: Ask.SUSPEND,
    DcSignal.CONTINUE: Ask.CONTINUE,
    DcSignal.SOFTKILL: Ask.VACATE_SOFT,
    DcSignal.HARDKILL: Ask.VACATE_FAST,
    DcSignal.REMOVE: Ask.REMOVE,
    DcSignal.HOLD: Ask.HOLD,
    signal.SIGTERM: Ask.VACATE_SOFT,
    signal.SIGQUIT: Ask.VACATE_FAST,
    signal.SIGINT: Ask.VACATE_FAST,
    signal.SIGUSR1: Ask.REMOVE,
}

_VACATE_SINCE = (24, 9, 2)
_FIRST_VACATE_CODE = 1000
MAX_REASON = 4096


def allowed(command: int, session: Session) -> bool:
    """Whether the session's peer may send ``command``."""
    return command in _ALLOWED.get(session.peer, ()) and (
        session.commands is None or session.peer == PARENT or command in session.commands
    )


def ask_for_signal(number: int) -> Ask | None:
    """What a signal means, real or DC_RAISESIGNAL's; None: nothing (SIGHUP, a checkpoint)."""
    return _SIGNALS.get(number)


class Commands:
    """Handles the commands of one starter's port."""

    def __init__(self, ask: Callable[[Request], None], startd: tuple[int, int, int]) -> None:
        """``startd``: its version, which decides what STARTER_VACATE_JOB means."""
        self._ask = ask
        self._startd = startd

    async def handle(self, incoming: Incoming) -> None:
        """Carry out one command. Raises CedarError."""
        match incoming.command:
            case Command.DC_RAISESIGNAL:
                await self._raise_signal(incoming)
            case Command.STARTER_VACATE_JOB:
                await self._vacate(incoming)
            case Command.CA_CMD:
                await self._reconnect(incoming)
            case Command.DC_NOP:
                pass
            case _:
                raise ProtocolError(f"command {incoming.command} is not known here")

    async def _raise_signal(self, incoming: Incoming) -> None:
        message = await incoming.stream.receive()
        number = message.integer()
        message.end()
        if (ask := ask_for_signal(number)) is not None:
            self._ask(Request(ask, f"signal {number} from the startd"))

    async def _vacate(self, incoming: Incoming) -> None:
        """STARTER_VACATE_JOB: reason, code, subcode, soft. Answered before it is carried out."""
        message = await incoming.stream.receive()
        reason, code, subcode = message.text()[:MAX_REASON], message.integer(), message.integer()
        soft = bool(message.integer())
        message.end()
        await incoming.stream.send(incoming.stream.writer().integer(1))
        vacates = code <= 0 or code >= _FIRST_VACATE_CODE or subcode <= -_FIRST_VACATE_CODE
        if vacates and self._startd >= _VACATE_SINCE:
            self._ask(Request(Ask.VACATE_SOFT if soft else Ask.VACATE_FAST, reason, code, subcode))
        else:
            self._ask(Request(Ask.HOLD, reason, code, subcode))

    async def _reconnect(self, incoming: Incoming) -> None:
        """A shadow that wants its job back. We never say HasReconnect, so it should not."""
        (await incoming.stream.receive()).ad()
        refusal = {"Result": "InvalidState", "ErrorString": "this starter does not reconnect to shadows"}
        await incoming.stream.send(incoming.stream.writer().ad(lines(refusal)))
