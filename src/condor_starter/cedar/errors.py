"""What can go wrong on a CEDAR connection. All of it is a ConnectionError: the connection is of no more
use.
"""

from __future__ import annotations


class CedarError(ConnectionError):
    """A CEDAR connection that cannot go on; the text says what was wrong, never what was secret."""


class ProtocolError(CedarError):
    """The peer sent what the protocol does not allow: a bad length, an unfinished string, too much."""


class CipherError(CedarError):
    """A packet that does not authenticate, or a peer that does not speak AES."""


class PeerClosed(CedarError):
    """The peer closed the connection."""


class Refused(CedarError):
    """The peer answered, and said no: an unknown session, a command that it does not allow."""
