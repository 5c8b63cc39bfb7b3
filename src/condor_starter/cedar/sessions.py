"""Security sessions that nobody has to negotiate: their ids and secrets come by a way that is trusted
already.

A container is ``<id>#[<info>]<secret>``: the startd's claim ids, SessionKey and FamilySessionKey of
CONDOR_PRIVATE_INHERIT; the shadow sends the three parts separately.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from condor_starter.cedar.cipher import derive_key
from condor_starter.cedar.errors import CipherError, ProtocolError

PARENT = "condor@parent"
FAMILY = "condor@family"
SUBMIT_SIDE = "submit-side@matchsession"
MAX_CONTAINER = 16384

_ATTRIBUTE = re.compile(r'\s*(\w+)\s*=\s*(?:"([^"]*)"|([^;"]*))\s*(?:;|\Z)')


@dataclass(frozen=True, slots=True)
class Session:
    """One session: whoever knows its key is ``peer``."""

    id: str
    key: bytes = field(repr=False)
    peer: str  # the peer's name in HTCondor's authorisation, e.g. condor@parent
    version: str = ""  # the peer's version as the session tells it, e.g. "23.9.6"
    commands: frozenset[int] | None = None  # ValidCommands; None: any


def session_from(container: str, peer: str) -> Session:
    """The session in ``container``. Raises ProtocolError for no container, CipherError if AES is not
    offered.
    """
    name, _, rest = container.rpartition("#")
    if not name or len(container) > MAX_CONTAINER:
        raise ProtocolError("a security session without an id")
    if not rest.startswith("["):
        raise ProtocolError("a security session without its policy: the claim has no session of its own")
    info, bracket, secret = rest.partition("]")
    return make_session(name, info + bracket, secret, peer)


def make_session(name: str, info: str, secret: str, peer: str) -> Session:
    """The session of these three parts; ``info`` is ``[Name="value";...]``."""
    policy = parse_policy(info)
    if not name or not secret:
        raise ProtocolError("a security session without id or secret")
    methods = policy.get("cryptomethodslist", "").replace(".", ",") or policy.get("cryptomethods", "")
    if "AES" not in {m.strip().upper() for m in methods.split(",")}:
        raise CipherError(
            f"the peer offers {methods or 'no cipher'}, and this starter speaks AES only: "
            "have AES in SEC_DEFAULT_CRYPTO_METHODS of the pool"
        )
    return Session(name, derive_key(secret), peer, policy.get("shortversion", ""), _commands(policy))


def parse_policy(info: str) -> dict[str, str]:
    """The attributes of ``[A="x";B="y";]`` by their lower-case names. Raises ProtocolError."""
    body = info.strip()
    if not (body.startswith("[") and body.endswith("]")):
        raise ProtocolError("a security session whose policy is not in brackets")
    body, at, found = body[1:-1], 0, {}
    while at < len(body) and (match := _ATTRIBUTE.match(body, at)):
        found[match[1].lower()] = match[2] if match[2] is not None else match[3].strip()
        at = match.end()
    if body[at:].strip():
        raise ProtocolError("a security session whose policy cannot be read")
    return found


def _commands(policy: dict[str, str]) -> frozenset[int] | None:
    words = policy.get("validcommands", "").split(",")
    return frozenset(int(w) for w in words if w.strip().isdigit()) or None


class Keyring:
    """The sessions that this process knows, by id."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def add(self, session: Session) -> None:
        self._sessions[session.id] = session

    def find(self, name: str) -> Session | None:
        """The session with this id, or None."""
        return self._sessions.get(name)

    def of(self, peer: str) -> Session | None:
        """The newest session with this peer, or None."""
        return next((s for s in reversed(self._sessions.values()) if s.peer == peer), None)
