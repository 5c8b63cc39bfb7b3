"""AES-256-GCM as CEDAR uses it: one state for both directions of a connection. Pure, no I/O.

Every packet is one GCM message. Its 16-byte nonce is the direction's base IV with the packet's number added
to the first four bytes; the header (end flag and length) is authenticated with it. The first packet of a
direction carries the base IV in front, and authenticates the digests of everything that was said in the
clear before it, so nobody can have meddled with the handshake.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from condor_starter.cedar.errors import CipherError

KEY_SIZE = 32
IV_SIZE = 16
TAG_SIZE = 16
OVERHEAD = IV_SIZE + TAG_SIZE
"""What encryption adds to a packet, at most."""

_LAST_PACKET = 0xFFFFFFFF
_COUNTED = 1 << 20  # bytes of clear traffic in each direction that the digest covers
_SILENCE = bytes(32)  # the digest of a direction in which nothing was said


def derive_key(secret: str) -> bytes:
    """The AES key of a session from its secret. The secret's text itself goes in, not the bytes it spells."""
    kdf = HKDF(algorithm=hashes.SHA256(), length=KEY_SIZE, salt=b"htcondor", info=b"keygen")
    return kdf.derive(secret.encode())


class Transcript:
    """SHA-256 of what was sent and received in the clear, packet headers included."""

    def __init__(self) -> None:
        self._sent = _Digest()
        self._received = _Digest()

    def sent(self, data: bytes) -> None:
        self._sent.add(data)

    def received(self, data: bytes) -> None:
        self._received.add(data)

    def digests(self) -> bytes:
        """64 bytes: the digest of what we sent, then of what we received."""
        return self._sent.value() + self._received.value()


class _Digest:
    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._left = _COUNTED

    def add(self, data: bytes) -> None:
        self._hash.update(data[: self._left])
        self._left -= min(len(data), self._left)

    def value(self) -> bytes:
        return _SILENCE if self._left == _COUNTED else self._hash.digest()


@dataclass(slots=True)
class _Direction:
    """One direction's packet counter and base IV, and whether its first packet has bound the digests."""

    counter: int
    iv: bytes
    bound: bool

    def nonce(self) -> bytes:
        if self.counter >= _LAST_PACKET:
            raise CipherError("the connection has used up its packet numbers; it must be opened anew")
        first = (int.from_bytes(self.iv[:4], "big") + self.counter) & 0xFFFFFFFF
        return first.to_bytes(4, "big") + self.iv[4:]


@dataclass(frozen=True, slots=True)
class CipherState:
    """The state of a connection that another process began and handed to us (CONDOR_INHERIT)."""

    key: bytes = field(repr=False)
    sent_packets: int
    received_packets: int
    iv_sent: bytes
    iv_received: bytes
    sent_bound: bool
    received_bound: bool
    digests: bytes


class Aes:
    """Seals and opens the packets of one connection, in order."""

    def __init__(self, state: CipherState) -> None:
        if len(state.key) != KEY_SIZE:
            raise CipherError(f"an AES key of {len(state.key)} bytes; only {KEY_SIZE} are supported")
        if len(state.digests) != 64 or len(state.iv_sent) != IV_SIZE or len(state.iv_received) != IV_SIZE:
            raise CipherError("an inherited cipher state that is not complete")
        self._aead = AESGCM(state.key)
        self._digests = state.digests
        self._out = _Direction(state.sent_packets, state.iv_sent, state.sent_bound)
        self._in = _Direction(state.received_packets, state.iv_received, state.received_bound)

    @classmethod
    def fresh(cls, key: bytes, digests: bytes) -> Aes:
        """The cipher of a connection whose clear part has just ended."""
        return cls(CipherState(key, 0, 0, os.urandom(IV_SIZE), bytes(IV_SIZE), False, False, digests))

    def sealed_size(self, plain: int) -> int:
        """The payload length of the next packet for ``plain`` bytes, as its header must say it."""
        return plain + TAG_SIZE + (IV_SIZE if self._out.counter == 0 else 0)

    def seal(self, header: bytes, plain: bytes | memoryview) -> bytes:
        """The payload of the next packet that we send."""
        aad = header if self._out.bound else self._digests + header
        sealed = self._aead.encrypt(self._out.nonce(), bytes(plain), aad)
        if self._out.counter == 0:
            sealed = self._out.iv + sealed
        self._out.counter += 1
        self._out.bound = True
        return sealed

    def open(self, header: bytes, payload: bytes) -> bytes:
        """The plain text of the next packet from the peer; raises :class:`CipherError` if it was forged."""
        if self._in.counter == 0:
            self._in.iv, payload = payload[:IV_SIZE], payload[IV_SIZE:]
        if len(self._in.iv) < IV_SIZE or len(payload) < TAG_SIZE:
            raise CipherError("an encrypted packet that is too short")
        aad = header if self._in.bound else self._digests[32:] + self._digests[:32] + header
        try:
            plain = self._aead.decrypt(self._in.nonce(), payload, aad)
        except InvalidTag:
            raise CipherError(
                "a packet that does not authenticate: wrong key, or somebody changed it"
            ) from None
        self._in.counter += 1
        self._in.bound = True
        return plain
