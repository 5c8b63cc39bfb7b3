"""The privileged server: takes plans from its client, keeps the boxes, tells how they end.

See protocol.py for what is said. Every request is checked (check.py) before anything is made; a request that
fails answers with the step, the errno and who is to blame, and leaves nothing half made that the ledger
does not know.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from condor_starter import __version__
from condor_starter.isolation.boxplan import BoxExit, BoxPlan, PlanError, from_wire, to_wire
from condor_starter.procd import check, descent, faultpoint, protocol, syscalls, worker
from condor_starter.procd.box import Box, Refused, refuse
from condor_starter.procd.cgroups import foreign
from condor_starter.procd.cgroups.base import Base
from condor_starter.procd.cgroups.base import base as make_base
from condor_starter.procd.cgroups.detect import own_procs, read_layout
from condor_starter.procd.ledger import Ledger
from condor_starter.procd.loop import Loop
from condor_starter.procd.settings import Settings
from condor_starter.procd.spares import Spares
from condor_starter.procd.volumes import Scratch

MAX_CLIENTS = 16
MAX_BOXES = 4096
STRAY_SECONDS = 2.0
Answer = Callable[[dict[str, Any]], None]


class Server:
    """All of procd: the loop, the boxes and the clients."""

    def __init__(self, settings: Settings, private: bool, spares: Spares) -> None:
        """``private``: one client, and nothing outlives it. Raises OSError, SettingsError."""
        self.settings = settings
        self.private = private
        self.spares = spares
        self.loop = Loop()
        self._ledger = Ledger(settings.run, settings.keep_done)
        self._boxes: dict[str, Box] = {}
        self._clients: dict[int, socket.socket] = {}
        self._base: Base | None = None
        self._procs: str | None = None  # cgroup.procs of a cgroup that we are in
        self._helpers: set[int] = set()  # pids of sandbox workers
        if settings.pause_at:
            faultpoint.arm(settings.pause_at, settings.run)
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)

    # -- what a Box needs of us -------------------------------------------------------------------

    def base(self) -> Base:
        """Where our cgroups live; made on first use."""
        if self._base is None:
            name = self.settings.base_cgroup
            off = Base("none", {}, notes=("base_cgroup is empty: cgroups are off",))
            self._base = make_base(read_layout(), name, os.geteuid() == 0) if name else off
        return self._base

    def renew_base(self) -> Base:
        """The base has vanished: another procd, at its end, took the empty one away. Make it again."""
        self._base = None
        return self.base()

    def leave(self) -> None:
        """Our last act: the nursery and, unless others use it, the base cgroup go."""
        self.spares.close()
        if self._base is None:
            return
        for path in reversed(self._base.dirs.values()):
            try:
                os.rmdir(path)
            except OSError:
                return  # somebody's boxes are in it
        foreign.remove(self._base.path)  # where only a container engine has made it

    def exited(self, ended: BoxExit) -> None:
        """Tell every client that a box has ended."""
        for client in list(self._clients.values()):
            self._send(client, {"event": "exit", "exit": to_wire(ended)})

    def kill_strays(self) -> None:
        """Kill our descendants that belong to no living init: the leftovers of one that was killed."""
        keep = {b.pid for b in self._boxes.values()} | self._helpers | self.spares.pids()
        descent.kill_children(timeout=STRAY_SECONDS, keep=frozenset(keep - {0}))

    def gone(self, box: str) -> None:
        del self._boxes[box]

    # -- life -------------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Take over or undo what a dead procd left: a private one's boxes die, a listening one's go on."""
        for entry in self._ledger.orphans():
            keep = entry.facts.get("keep", False)
            if self.private and keep:
                entry.abandon()
                continue
            self._take_over(entry, keep)

    def _take_over(self, entry: Any, keep: bool) -> None:
        facts = entry.facts
        if "terminal" in facts or "execute" not in facts:
            entry.close(state="undone", exit=None, left="", ended_at=0)
            return
        scratch = Scratch(facts["execute"], facts["scratch"])
        try:
            scratch.open()
        except OSError:
            pass  # not made yet, or removed already
        box = self._boxes[entry.box] = Box(self, entry, scratch)
        box.adopt()
        if not keep:
            box.undo(lambda _: None)

    def listen(self, sock: socket.socket) -> None:
        """Serve clients that connect to ``sock``."""
        sock.setblocking(False)
        self.loop.watch(sock.fileno(), lambda: self._accept(sock))

    def serve(self, client: socket.socket) -> None:
        """Serve one connected client."""
        client.setblocking(False)
        self._clients[client.fileno()] = client
        self.loop.watch(client.fileno(), lambda: self._read(client))

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        _, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, self.settings.client_uid()) or len(self._clients) >= MAX_CLIENTS:
            client.close()
            return
        self.serve(client)

    def _read(self, client: socket.socket) -> None:
        try:
            got = protocol.receive(client)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            got = None  # a client that does not speak our language is let go
        if got is None:
            self._drop(client)
            return
        message, passed = got
        try:
            self._handle(client, message, passed)
        finally:
            for fd in passed:
                os.close(fd)

    def _drop(self, client: socket.socket) -> None:
        if self._clients.pop(client.fileno(), None) is None:
            return
        self.loop.unwatch(client.fileno())
        client.close()
        if self.private:
            self._wind_up()

    def stop(self) -> None:
        """SIGTERM: a private procd takes everything down, a listening one leaves its boxes to the next."""
        if self.private:
            self._wind_up()
        else:
            self.loop.running = False

    def _wind_up(self) -> None:
        """Our one client is gone: kill and remove everything, then end."""
        for box in list(self._boxes.values()):
            try:
                box.undo(lambda _: None)
            except (Refused, OSError):
                box.abandon()  # the ledger keeps it for the next sweep
                self._boxes.pop(box.id, None)
        self._end_when_empty()

    def _end_when_empty(self) -> None:
        if self._boxes:
            self.loop.after(0.01, self._end_when_empty)
        else:
            self.loop.running = False

    def _send(self, client: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        try:
            protocol.send(client, message, fds)
        except OSError:
            self._drop(client)  # it does not read, or it is gone: our boxes do not wait for it

    # -- requests ---------------------------------------------------------------------------------

    def _handle(self, client: socket.socket, message: dict[str, Any], passed: list[int]) -> None:
        number = message.get("id")

        def answer(reply: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
            if client.fileno() in self._clients:
                self._send(client, {"id": number, **reply}, fds)

        try:
            operation = getattr(self, f"_op_{message.get('op')}", None)
            if operation is None:
                raise refuse("request", errno.ENOSYS, f"no operation {message.get('op')!r}")
            operation(message, passed, answer)
        except Refused as e:
            step, code, text, blame = e.args
            answer({"error": {"step": step, "errno": code, "text": text, "blame": blame}})
        except PlanError as e:
            answer({"error": {"step": "check", "errno": errno.EPERM, "text": str(e), "blame": "site"}})
        except OSError as e:
            text = {"step": str(message.get("op")), "errno": e.errno or errno.EIO, "text": str(e)}
            answer({"error": {**text, "blame": "system"}})
        except (KeyError, TypeError) as e:
            text = {"step": "request", "errno": errno.EINVAL, "text": f"malformed request: {e!r}"}
            answer({"error": {**text, "blame": "system"}})

    def _box(self, message: dict[str, Any]) -> Box:
        box = self._boxes.get(message["box"])
        if box is None:
            raise refuse("request", errno.ENOENT, f"no box {message['box']!r}")
        return box

    def _op_hello(self, message: dict[str, Any], passed: list[int], answer: Answer) -> None:
        boxes = [
            {"box": b.id, "state": b.state.value, "exit": to_wire(b.exit) if b.exit else None}
            for b in self._boxes.values()
        ]
        answer({"version": protocol.VERSION, "facts": facts(self.settings, self.base()), "boxes": boxes})

    def _op_expect(self, message: dict[str, Any], passed: list[int], answer: Answer) -> None:
        if self._procs is None:
            self._procs = own_procs() if self.base().dirs else ""  # base() may move us: first
        self.spares.expect(self._procs)

    def _op_make(self, message: dict[str, Any], passed: list[int], answer: Answer) -> None:
        wanted = {k: str(message[k]) for k in ("box", "kind", "execute", "scratch", "cgroup")}
        check.names(**wanted, settings=self.settings)
        if len(self._boxes) >= MAX_BOXES:
            raise refuse("make", errno.EAGAIN, f"{MAX_BOXES} boxes are the most that one procd keeps")
        scratch = Scratch(wanted["execute"], wanted["scratch"])
        if scratch.exists():  # not ours: to record it would be to remove it some day
            scratch.close()
            raise refuse("make", errno.EEXIST, f"{scratch.path} exists already", "site")
        box = wanted.pop("box")
        entry = self._ledger.create(box, **wanted, keep=not self.private)
        self._boxes[box] = Box(self, entry, scratch)
        faultpoint.point("record")
        try:
            scratch.make(self.settings.client_uid())
        except OSError:
            self._boxes[box].undo(lambda _: None)
            raise
        answer({"path": scratch.path})

    def _op_start(self, message: dict[str, Any], passed: list[int], answer: Answer) -> None:
        plan: BoxPlan = from_wire(BoxPlan, message["plan"])
        check.plan(plan, len(passed), self.settings)
        self._box({"box": plan.box}).start(plan, passed, answer)

    def _op_signal(self, message: dict[str, Any], passed: list[int], answer: Answer) -> None:
        self._box(message).signal(int(message["signal"]))
        answer({})

    def _op_freeze(self, message: dict[str, Any], passed: list[int], answer: Answer) -> None:
        self._box(message).freeze()
        answer({})

    def _op_thaw(self, message: dict[str, Any], passed: list[int], answer: Answer) -> None:
        self._box(message).thaw()
        answer({})

    def _op_kill(self, message: dict[str, Any], passed: list[int], answer: Answer) -> None:
        self._box(message).kill()
        answer({})

    def _op_usage(self, message: dict[str, Any], passed: list[int], answer: Answer) -> None:
        answer({"usage": to_wire(self._box(message).usage())})

    def _op_worker(self, message: dict[str, Any], passed: list[int], answer: Callable[..., None]) -> None:
        box = self._box(message)
        if box.identity is None:
            raise refuse("worker", errno.EAGAIN, f"box {box.id} has not been started: nobody owns its files")
        pid, pidfd, sock = worker.fork_worker(box.scratch_fd, box.identity)
        self._helpers.add(pid)
        self.loop.watch(pidfd, lambda: self._worker_ended(pid, pidfd))
        with sock:
            answer({}, (sock.fileno(),))

    def _worker_ended(self, pid: int, pidfd: int) -> None:
        self._helpers.discard(pid)
        self.loop.unwatch(pidfd)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)

    def _op_destroy(self, message: dict[str, Any], passed: list[int], answer: Answer) -> None:
        self._box(message).destroy(answer)

    def _op_sweep(self, message: dict[str, Any], passed: list[int], answer: Answer) -> None:
        """Undo every box that no living procd holds, also those that a listening one meant to keep."""
        pending: list[str] = []
        records: list[dict[str, Any]] = []

        def undone(box: str, reply: dict[str, Any]) -> None:
            records.append({"box": box, **reply["record"]})
            pending.remove(box)
            if not pending:
                answer({"boxes": records})

        orphans = self._ledger.orphans()
        pending += [e.box for e in orphans]
        if not pending:
            answer({"boxes": []})
        for entry in orphans:
            self._take_over(entry, keep=True)
            box = self._boxes.get(entry.box)
            if box is None:
                undone(entry.box, {"record": entry.facts["terminal"]})
            else:
                box.undo(lambda reply, name=entry.box: undone(name, reply))  # type: ignore[misc]


def facts(settings: Settings, base: Base) -> dict[str, Any]:
    """What this procd can do on this machine, and the reasons for what it cannot: for select and doctor."""
    admin = syscalls.has_capability(syscalls.CAP_SYS_ADMIN)
    missing = {}
    have = []
    for name in syscalls.NAMESPACE_FLAGS:
        if not os.path.exists(f"/proc/self/ns/{name}"):
            missing[name] = f"this kernel has no {name} namespaces"
        elif not admin:
            missing[name] = "needs root with CAP_SYS_ADMIN; run condor_starter_procd as root"
        else:
            have.append(name)
    for note in base.notes:
        missing[f"cgroup {note.partition(':')[0]}"] = note
    return {
        "version": __version__,
        "uid": os.geteuid(),
        "root": os.geteuid() == 0,
        "cgroup": {
            "kind": base.kind,
            "controllers": list(base.controllers),
            "base": base.path,
            "tracker": base.tracker,
        },
        "namespaces": have,
        "missing": missing,
        "chroots": sorted(settings.chroots),
        "execute": list(settings.execute),
        "min_uid": settings.min_uid,
        "machine": {"kernel": os.uname().release, "arch": os.uname().machine, "cpus": os.cpu_count() or 1},
    }
