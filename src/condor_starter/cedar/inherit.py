"""CONDOR_INHERIT and CONDOR_PRIVATE_INHERIT: the sockets and secrets that a daemon gets from the one that
started it.

::

    CONDOR_INHERIT = <parent's pid> <parent's sinful> <stream>... 0 <our command port> 0
    <stream>       = 1|2 <socket>                         (1: TCP, 2: UDP)
    <command port> = SharedPort:<path>*<socket> | <stream>...
    <socket>       = fd*state*timeout*tried*len(user)*len(version)*user*version*special*peer*
                     CRYPTO*MESSAGE*MD*
    CRYPTO         = 0 | 2*keylen*protocol*on*[80 hex digits of AES state*]key in hex
    MESSAGE        = digest of sent final*of received final*sent bound*received bound*N*[2N hex digits*]

A connection that is encrypted already goes on exactly where the parent stopped: counters, IVs and digests
are in there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from condor_starter.cedar.cipher import CipherState
from condor_starter.cedar.errors import CipherError, ProtocolError
from condor_starter.cedar.sessions import FAMILY, PARENT, Session, session_from
from condor_starter.cedar.sinful import BadSinful, Sinful

_STREAM, _DATAGRAM = "1", "2"
_AES = 3
_MAX_FD = 1 << 20
_CIPHERS = {0: "no cipher", 1: "BLOWFISH", 2: "3DES"}
_STATE = struct.Struct("=II16s16s")  # counters out and in, in this machine's byte order, and both base IVs


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """One serialised socket. ``fd`` is a number of the process that was started."""

    fd: int
    user: str  # who the peer is, when somebody has asked
    version: str  # the peer's $CondorVersion string, or ""
    peer: str  # the peer's sinful, or ""
    cipher: CipherState | None


@dataclass(frozen=True, slots=True)
class Inheritance:
    """All of CONDOR_INHERIT."""

    parent_pid: int
    parent: Sinful | None
    streams: tuple[InheritedSocket, ...]
    endpoint: str  # the shared-port id of our command port, or ""
    listeners: tuple[InheritedSocket, ...]  # one with an endpoint; else our own TCP listeners


def parse_inherit(text: str) -> Inheritance:
    """Read CONDOR_INHERIT. Raises ProtocolError for what cannot be read, CipherError for another cipher
    than AES.
    """
    words = text.split()
    try:
        pid = int(words.pop(0))
        parent = Sinful.parse(words.pop(0)) if words and words[0].startswith("<") else None
        streams, rest = _sockets(words)
        if rest and rest[0].startswith("SharedPort:"):
            path, _, socket = rest[0].removeprefix("SharedPort:").partition("*")
            return Inheritance(pid, parent, streams, path.rpartition("/")[2], (parse_socket(socket),))
        listeners, _ = _sockets(rest)
        return Inheritance(pid, parent, streams, "", listeners)
    except (IndexError, ValueError) as e:
        what = e if isinstance(e, BadSinful) else type(e).__name__
        raise ProtocolError(f"CONDOR_INHERIT cannot be read: {what}") from None


def parse_socket(text: str) -> InheritedSocket:
    """Read one serialised socket. Raises as :func:`parse_inherit` does, or ValueError."""
    fields = _Fields(text)
    fd = int(fields.next())
    if not 0 <= fd < _MAX_FD:
        raise ValueError("no descriptor's number")
    for _ in ("state", "timeout", "tried"):
        fields.next()
    lengths = int(fields.next()), int(fields.next())
    user, version = fields.sized(lengths[0]), fields.sized(lengths[1])
    fields.next()  # the special state: 1 for a listener
    peer = fields.next()
    return InheritedSocket(fd, user, version.replace("_", " "), peer, _cipher(fields))


def parse_private(text: str) -> list[Session]:
    """The sessions of CONDOR_PRIVATE_INHERIT. Words of other kinds are for other daemons. Raises
    CedarError.
    """
    found = []
    for word in text.split():
        kind, _, container = word.partition(":")
        if kind == "SessionKey":
            found.append(session_from(container, PARENT))
        elif kind == "FamilySessionKey":
            found.append(session_from(container, FAMILY))
    return found


def descriptors(inherited: Inheritance) -> Iterable[int]:
    """Every descriptor number that is named in it."""
    return (s.fd for s in (*inherited.streams, *inherited.listeners))


def _sockets(words: list[str]) -> tuple[tuple[InheritedSocket, ...], list[str]]:
    """The streams up to the word ``0``, and the words behind it. Datagram sockets are not used."""
    found = []
    while words and words[0] != "0":
        kind, socket = words[0], words[1]
        if kind not in (_STREAM, _DATAGRAM):
            break
        if kind == _STREAM:
            found.append(parse_socket(socket))
        words = words[2:]
    return tuple(found), words[1:] if words and words[0] == "0" else words


class _Fields:
    """The ``*``-separated fields of a serialised socket, one after the other."""

    def __init__(self, text: str) -> None:
        self._rest = text

    def next(self) -> str:
        field, star, self._rest = self._rest.partition("*")
        if not star:
            raise ValueError("a field is missing")
        return field

    def sized(self, length: int) -> str:
        """A field that may have a ``*`` in it."""
        field, self._rest = self._rest[:length], self._rest[length:]
        if length < 0 or not self._rest.startswith("*"):
            raise ValueError("a field has another length than it says")
        self._rest = self._rest[1:]
        return field


def _cipher(fields: _Fields) -> CipherState | None:
    size = int(fields.next())
    if size == 0:
        return None
    protocol, _ = int(fields.next()), fields.next()
    if protocol != _AES:
        raise CipherError(
            f"the inherited connection uses {_CIPHERS.get(protocol, 'an unknown cipher')}, and this starter "
            "speaks AES only: have AES first in SEC_DEFAULT_CRYPTO_METHODS of the pool"
        )
    state = bytes.fromhex(fields.next())
    if len(state) != _STATE.size:
        raise ValueError("a cipher state of another length")
    out, into, iv_out, iv_in = _STATE.unpack(state)
    key = bytes.fromhex(fields.next())
    if 2 * len(key) != size:
        raise ValueError("a key has another length than it says")
    fields.next(), fields.next()  # the digests are final as soon as there is a key
    bound_out, bound_in = fields.next() != "0", fields.next() != "0"
    digests = bytes.fromhex(fields.next()) if fields.next() != "0" else bytes(64)
    return CipherState(key, out, into, iv_out, iv_in, bound_out, bound_in, digests)
