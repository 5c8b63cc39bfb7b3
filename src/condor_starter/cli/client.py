"""A client of starterd's API on its unix socket: for starterctl and for tests."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote, urlencode

ANSWER_SECONDS = 90.0
IDLE_SECONDS = 5.0


RUN = "/run/condor_starter"


def default_socket(run_dir: str | None, environ: Mapping[str, str]) -> str:
    """The API's socket: of ``run_dir``, of _CONDOR_STARTER_RUN_DIR, of the machine's starterd, of our own."""
    run = run_dir or environ.get("_CONDOR_STARTER_RUN_DIR")
    if not run and not os.path.exists(f"{RUN}/api.sock") and os.geteuid():
        home = environ.get("HOME", "")
        state = environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
        runtime = environ.get("XDG_RUNTIME_DIR")
        run = f"{runtime}/condor_starter" if runtime else f"{state}/condor_starter/run"
    return f"{run or RUN}/api.sock"


class ApiFailure(Exception):
    """starterd refused, or is not there: the HTTP status (0: not there) and one sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """One connection, kept open; not for several threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection = _Connection(path)
        self._used = 0.0

    def submit(self, ad: bytes) -> dict[str, Any]:
        """Hand in a job; returns it. Raises ApiFailure."""
        return self._json("POST", "/v1/jobs", body=ad)

    def jobs(self, state: str | None = None) -> list[dict[str, Any]]:
        """Our jobs (root: all)."""
        return list(self._json("GET", "/v1/jobs", {"state": state} if state else {})["jobs"])

    def job(self, number: int) -> dict[str, Any]:
        """One job."""
        return self._json("GET", f"/v1/jobs/{number}")

    def wait(self, number: int, seconds: float = 30) -> dict[str, Any]:
        """The job, as soon as it has ended or after ``seconds`` (at most 60)."""
        return self._json("GET", f"/v1/jobs/{number}/wait", {"timeout": str(int(seconds))})

    def ask(self, number: int, word: str, reason: str = "") -> dict[str, Any]:
        """suspend, continue, remove or vacate."""
        return self._json("POST", f"/v1/jobs/{number}/{quote(word)}", {"reason": reason} if reason else {})

    def forget(self, number: int) -> None:
        """Remove the record of a job that has ended."""
        self._json("DELETE", f"/v1/jobs/{number}")

    def tail(self, number: int, stream: str, offset: int) -> tuple[bytes, int, bool]:
        """A piece of a stream: the bytes, the offset after them, and whether the job has ended."""
        answer, data = self._ask("GET", f"/v1/jobs/{number}/tail", {"stream": stream, "offset": str(offset)})
        return data, int(answer.headers["X-Next-Offset"]), answer.headers["X-Done"] == "true"

    def log(self, number: int) -> bytes:
        """The job's StarterLog."""
        return self._ask("GET", f"/v1/jobs/{number}/log")[1]

    def get(self, path: str) -> bytes:
        """Any other resource: /v1/health, /v1/metrics."""
        return self._ask("GET", path)[1]

    def drain(self, kill: bool = False) -> None:
        """Stop the starter once its jobs have ended; ``kill``: end them."""
        self._json("POST", "/v1/drain", {"kill": "1"} if kill else {})

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _json(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> dict[str, Any]:
        value = json.loads(self._ask(method, path, query, body)[1])
        assert isinstance(value, dict)
        return value

    def _ask(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        target = path + ("?" + urlencode(query) if query else "")
        try:
            answer, data = self._send(method, target, body)
        except (OSError, http.client.HTTPException) as e:
            self.close()
            raise ApiFailure(0, f"No condor_starterd at {self._path} ({e}): is it started?") from e
        if answer.status >= 400:
            raise ApiFailure(answer.status, _sentence(data) or answer.reason)
        return answer, data

    def _send(self, method: str, target: str, body: bytes | None) -> tuple[http.client.HTTPResponse, bytes]:
        """On the open connection, unless it has been idle for so long that the other side may close it."""
        if time.monotonic() - self._used > IDLE_SECONDS:
            self.close()
        self._connection.request(method, target, body)
        answer = self._connection.getresponse()
        data = answer.read()
        self._used = time.monotonic()
        return answer, data


def _sentence(data: bytes) -> str:
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        return data[:200].decode("utf-8", "replace")
