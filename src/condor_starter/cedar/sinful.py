"""Sinful strings: the addresses of daemons,
``<127.0.0.1:9618?addrs=127.0.0.1-9618&noUDP&sock=startd_1_2>``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

_SINFUL = re.compile(r"<(\[[0-9A-Fa-f:.%]{2,64}\]|[\w.-]{1,255}):(\d{1,5})(?:\?([^<>\s]*))?>\Z")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%-]{2,64}\]|[\w.]+(?:-[\w.]+)*?)-(\d{1,5})\Z")
_SAFE = "[]:+,./_-~@"


class BadSinful(ValueError):
    """Text that is no daemon's address."""


@dataclass(frozen=True, slots=True)
class Sinful:
    """One daemon's address. ``params`` keeps its order; a key without a value has ""."""

    host: str  # without brackets
    port: int
    params: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Sinful:
        """Raises :class:`BadSinful`."""
        match = _SINFUL.match(text.strip())
        if match is None or not int(match[2]) < 65536:
            raise BadSinful(f"{text[:200]!r} is no address of a daemon")
        pairs = (item.partition("=") for item in (match[3] or "").split("&"))
        params = tuple((unquote(k), unquote(v)) for k, _, v in pairs if k)  # one without a name is none
        return cls(match[1].strip("[]"), int(match[2]), params)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        words = [quote(k, safe=_SAFE) + (f"={quote(v, safe=_SAFE)}" if v else "") for k, v in self.params]
        return f"<{host}:{self.port}{'?' + '&'.join(words) if words else ''}>"

    def param(self, name: str) -> str | None:
        """The value of one parameter; None if it is not there."""
        return next((v for k, v in self.params if k == name), None)

    def with_sock(self, endpoint: str) -> Sinful:
        """The same shared port, another endpoint behind it."""
        others = tuple((k, v) for k, v in self.params if k not in ("sock", "CCBID", "PrivAddr", "PrivNet"))
        return Sinful(self.host, self.port, (*others, ("sock", endpoint)))

    def addresses(self) -> list[tuple[str, int]]:
        """Hosts and ports to try, the first one first."""
        found = [(self.host, self.port)]
        for word in (self.param("addrs") or "").split("+"):
            if match := _ADDRESS.match(word):
                address = (match[1].strip("[]"), int(match[2]))
                if address not in found and address[1] < 65536:
                    found.append(address)
        return found[:8]
