"""CEDAR's typed values: what the payload of a message is made of. Pure, no I/O.

Every integer, boolean and enum is eight bytes, big-endian. A string ends in a NUL, and on an encrypted
connection its length (with the NUL) stands before it. An ad is a count, that many ``Name = expression``
strings, and two type names that are empty today.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from condor_starter.cedar.errors import ProtocolError

_INT = struct.Struct(">q")
MAX_STRING = 10 << 20
"""Longest string, HTCondor's own limit."""

MAX_ATTRIBUTES = 20_000
"""Attributes of one ad. HTCondor takes a million; no ad that a starter sees has more than some hundreds."""

_NULL = 0xAD  # stands for a NULL pointer, without a NUL behind it
_SECRET_FOLLOWS = "ZKM"  # in the place of an attribute that is sent as a secret after it
_NO_TYPE = ("", "(unknown type)")


class Writer:
    """Builds the payload of one message; methods can be chained."""

    def __init__(self, encrypted: bool) -> None:
        self._encrypted = encrypted
        self._parts: list[bytes] = []

    def integer(self, value: int) -> Writer:
        """Raises ValueError for what does not fit into 64 bits."""
        try:
            self._parts.append(_INT.pack(value))
        except struct.error:
            raise ValueError(f"{value} does not fit into 64 bits") from None
        return self

    def text(self, value: str) -> Writer:
        """A string; raises ValueError for one with a NUL in it."""
        data = value.encode("utf-8", "surrogateescape")
        if b"\0" in data:
            raise ValueError("a string with a NUL byte cannot be sent")
        if self._encrypted:
            self._parts.append(_INT.pack(len(data) + 1))
        self._parts.append(data + b"\0")
        return self

    def raw(self, data: bytes) -> Writer:
        """Bytes as they are; the reader knows how many."""
        self._parts.append(data)
        return self

    def ad(self, lines: Iterable[str]) -> Writer:
        """An ad, one ``Name = expression`` a line."""
        lines = list(lines)
        self.integer(len(lines))
        for line in lines:
            self.text(line)
        return self.text("").text("")

    def payload(self) -> bytes:
        """The whole payload."""
        return b"".join(self._parts)


class Reader:
    """Reads the payload of one message, front to back. Every method raises ProtocolError for what is not
    there.
    """

    def __init__(self, payload: bytes, encrypted: bool) -> None:
        self._data = payload
        self._encrypted = encrypted
        self._at = 0

    def integer(self) -> int:
        return int(_INT.unpack(self.raw(_INT.size))[0])

    def text(self) -> str:
        """A string; a NULL is an empty one. Bytes that are not UTF-8 come as surrogates (os.fsdecode)."""
        data = self._sized() if self._encrypted else self._delimited()
        return data.decode("utf-8", "surrogateescape")

    def raw(self, size: int) -> bytes:
        """``size`` bytes as they are."""
        end = self._at + size
        if size < 0 or end > len(self._data):
            raise ProtocolError(f"a message that is too short: {size} bytes expected, {self.left} left")
        data = self._data[self._at : end]
        self._at = end
        return data

    def ad(self) -> tuple[str, ...]:
        """The lines of an ad."""
        count = self.integer()
        if not 0 <= count <= min(MAX_ATTRIBUTES, self.left):
            raise ProtocolError(f"an ad that is said to have {count} attributes")
        lines = [self._attribute() for _ in range(count)]
        for name, kind in (("MyType", self.text()), ("TargetType", self.text())):
            if kind not in _NO_TYPE and '"' not in kind:
                lines.append(f'{name} = "{kind}"')
        return tuple(lines)

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def end(self) -> None:
        """Raises ProtocolError unless everything was read: the peer means another message than we do."""
        if self.left:
            raise ProtocolError(f"{self.left} bytes more in a message than were expected")

    def _attribute(self) -> str:
        line = self.text()
        return self.text() if line == _SECRET_FOLLOWS else line

    def _sized(self) -> bytes:
        size = self.integer()
        if not 1 <= size <= MAX_STRING:
            raise ProtocolError(f"a string of {size} bytes")
        data = self.raw(size)
        if data == bytes((_NULL,)):
            return b""
        if data.find(b"\0") != size - 1:
            raise ProtocolError("a string that does not end where it says")
        return data[:-1]

    def _delimited(self) -> bytes:
        if self.left and self._data[self._at] == _NULL:
            self._at += 1
            return b""
        end = self._data.find(b"\0", self._at, self._at + MAX_STRING)
        if end < 0:
            raise ProtocolError("a string without an end")
        data = self._data[self._at : end]
        self._at = end + 1
        return data
