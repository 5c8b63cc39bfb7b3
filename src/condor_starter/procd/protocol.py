"""The wire between procd and its clients, in prose first.

A SOCK_SEQPACKET unix socket; one JSON object a packet, descriptors by SCM_RIGHTS. A client sends requests
``{"id": n, "op": name, ...}``; procd answers each with one reply ``{"id": n, ...}`` or ``{"id": n, "error":
{"step", "errno", "text", "blame"}}``, in any order, and sends events ``{"event": "exit", "exit": BoxExit}``
to every client. A packet larger than INLINE bytes travels as a sealed memfd: ``{"id": n, "op": name,
"body": true}`` with the memfd as its first descriptor (a job's environment may be megabytes).

| op      | request                                  | reply                                                 |
|---------|------------------------------------------|-------------------------------------------------------|
| hello   |                                          | version, facts, boxes: [{box, state, exit, cgroups}]  |
| expect  |                                          | no reply: a hint that a box will be made soon         |
| make    | box, kind, execute, scratch, cgroup      | path: the scratch directory, owned by the caller      |
| start   | plan (BoxPlan), descriptors              | pid, notes (what is not to be had), cgroup_parent     |
| signal  | box, signal                              | nothing; to the job's main process                    |
| freeze  | box                                      | nothing; returns when everything is frozen            |
| thaw    | box                                      | nothing                                               |
| kill    | box                                      | nothing, at once; the exit event follows when empty   |
| usage   | box                                      | usage (Usage)                                         |
| worker  | box                                      | one descriptor: the sandbox worker's socket           |
| destroy | box                                      | nothing; cgroup, scratch and ledger entry are gone    |
| sweep   |                                          | boxes: terminal records of what was undone            |

States of a box: ``made`` (scratch exists, nothing runs), ``running``, ``exited`` (everything in it is dead,
its exit is known and kept until destroy). A *private* procd (one client, by inherited descriptor) kills and
destroys everything when that client closes; a listening procd keeps its boxes for the next client.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from condor_starter.procd.passing import receive_fds, send_fds

VERSION = 1
INLINE = 65536
MAX_FDS = 16
MAX_BODY = 8 << 20

encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: json.dumps makes one for each call


def send(sock: socket.socket, message: dict[str, Any], fds: tuple[int, ...] | list[int] = ()) -> None:
    """Send one message; raises BlockingIOError when the peer does not read, OSError when it is gone."""
    data = encode(message).encode()
    if len(data) <= INLINE:
        send_fds(sock, data, list(fds))
        return
    body = os.memfd_create("procd-message", os.MFD_CLOEXEC)
    try:
        os.write(body, data)
        head = {k: message[k] for k in ("id", "op", "event") if k in message} | {"body": True}
        send_fds(sock, json.dumps(head).encode(), [body, *fds])
    finally:
        os.close(body)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One message and its descriptors, which the caller now owns; None at the end of the stream.

    Raises BlockingIOError when there is nothing yet, ValueError for a packet that is no message.
    """
    data, fds, flags = receive_fds(sock, INLINE + 1, MAX_FDS)
    if not data:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("packet cut short")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ValueError("not an object")
        if message.get("body") is True:
            message = json.loads(_body(fds.pop(0)))
        return message, fds
    except (ValueError, IndexError, RecursionError) as e:
        for fd in fds:
            os.close(fd)
        raise ValueError(f"not a message: {e}") from None


def _body(fd: int) -> bytes:
    try:
        size = os.fstat(fd).st_size
        if size > MAX_BODY:
            raise ValueError(f"body of {size} bytes is too large")
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)
