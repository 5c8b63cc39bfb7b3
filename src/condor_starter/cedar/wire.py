"""CEDAR's framing, without any I/O: bytes in, messages out, and the other way round.

::

    packet  = end:u8 | length:u32 big-endian | payload[length]
    message = packets until one with end = 1

With a key set each packet's payload is encrypted (:mod:`condor_starter.cedar.cipher`); whatever is in the
buffer is looked at only when a message is asked for, so a key may be set between two messages that arrived
together.
"""

from __future__ import annotations

import struct

from condor_starter.cedar.cipher import OVERHEAD, Aes, Transcript
from condor_starter.cedar.errors import ProtocolError

HEADER = struct.Struct(">BI")
MAX_PACKET = 1 << 20
"""Longest payload of one packet, HTCondor's own limit."""

MAX_MESSAGE = 16 << 20
"""Longest message that we take: a job ad with a megabyte of environment is far below it."""

_CHUNK = MAX_PACKET - OVERHEAD
_LAST_FLAG = 10  # HTCondor's readers take any end flag up to this one


class Wire:
    """One connection's framing and cipher state."""

    def __init__(self, cipher: Aes | None = None, *, limit: int = MAX_MESSAGE) -> None:
        self._cipher = cipher
        self._limit = limit
        self._transcript = Transcript()
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def encrypted(self) -> bool:
        """Whether strings carry their length now (see :mod:`condor_starter.cedar.codec`)."""
        return self._cipher is not None

    @property
    def idle(self) -> bool:
        """No byte has come that was not part of a message already taken."""
        return not self._buffer and not self._parts

    def set_key(self, key: bytes) -> None:
        """Encrypt from here on, in both directions. Nothing may be sent in the clear afterwards."""
        if self._cipher is not None or self._parts:
            raise ProtocolError("a key was to be set in the middle of an encrypted or unfinished message")
        self._cipher = Aes.fresh(key, self._transcript.digests())

    def forget_clear(self) -> None:
        """Leave what was said so far out of the digests: it was for the shared port, not for the peer."""
        self._transcript = Transcript()

    def pack(self, payload: bytes) -> bytes:
        """The packets of one message. An empty message is nothing at all, as HTCondor's is."""
        packets = []
        view = memoryview(payload)
        for start in range(0, len(payload), _CHUNK):
            piece = view[start : start + _CHUNK]
            packets.append(self._packet(piece, start + _CHUNK >= len(payload)))
        return b"".join(packets)

    def feed(self, data: bytes) -> None:
        """Take what came from the socket."""
        self._buffer += data

    def next_message(self) -> bytes | None:
        """The next whole message, or None when more bytes are needed. Raises CedarError; then close."""
        while (packet := self._next_packet()) is not None:
            end, payload = packet
            self._size += len(payload)
            if self._size > self._limit:
                raise ProtocolError(f"a message of more than {self._limit} bytes")
            self._parts.append(payload)
            if end:
                message = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts, self._size = [], 0
                return message
        return None

    def _packet(self, piece: memoryview, end: bool) -> bytes:
        if self._cipher is None:
            packet = HEADER.pack(end, len(piece)) + piece
            self._transcript.sent(packet)
            return packet
        header = HEADER.pack(end, self._cipher.sealed_size(len(piece)))
        return header + self._cipher.seal(header, piece)

    def _next_packet(self) -> tuple[bool, bytes] | None:
        if len(self._buffer) < HEADER.size:
            return None
        end, length = HEADER.unpack_from(self._buffer)
        if end > _LAST_FLAG or not 1 <= length <= MAX_PACKET:
            raise ProtocolError(f"not a CEDAR packet: end flag {end}, length {length}")
        whole = HEADER.size + length
        if len(self._buffer) < whole:
            return None
        packet = bytes(self._buffer[:whole])
        del self._buffer[:whole]
        if self._cipher is None:
            self._transcript.received(packet)
            return bool(end), packet[HEADER.size :]
        return bool(end), self._cipher.open(packet[: HEADER.size], packet[HEADER.size :])
