"""The numbers of the commands that daemons send each other, as far as a starter sends or takes them."""

from __future__ import annotations

import enum


class Command(enum.IntEnum):
    """Command numbers; the names are HTCondor's."""

    SHARED_PORT_CONNECT = 75
    SHARED_PORT_PASS_SOCK = 76
    CA_CMD = 1200
    STARTER_VACATE_JOB = 1500  # STARTER_HOLD_JOB before 24.9.2
    DC_RAISESIGNAL = 60000
    DC_CHILDALIVE = 60008
    DC_AUTHENTICATE = 60010
    DC_NOP = 60011
    FILETRANS_UPLOAD = 61000  # named from the server's side: we download
    FILETRANS_DOWNLOAD = 61001


class DcSignal(enum.IntEnum):
    """The signals that exist only as DC_RAISESIGNAL."""

    SUSPEND = 100
    CONTINUE = 101
    SOFTKILL = 102
    HARDKILL = 103
    PCKPT = 104
    REMOVE = 105
    HOLD = 106
