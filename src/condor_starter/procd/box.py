"""One box in procd's keeping, from its ledger entry to its terminal record.

    made -> starting -> running -> draining -> exited -> removing -> (gone)

``draining`` is the time between the end of the main process (or a kill) and the death of the last process
in the box. An init that has left its status, and nothing else behind, counts as dead as soon as the kernel
has closed its descriptors: from then on it only gives back what it held (a millisecond for its mounts), and
``removing`` waits for that. :meth:`Box.transition` is the only place where the state changes. Nothing here
blocks for longer than a freeze: what has to wait is a callback of the loop.
"""

from __future__ import annotations

import enum
import errno
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any, Protocol

from condor_starter.isolation.boxplan import BoxExit, BoxPlan, Identity, Usage, to_wire
from condor_starter.procd import collect, faultpoint, fds, syscalls
from condor_starter.procd.boxinit import BoxInit
from condor_starter.procd.cgroups import foreign
from condor_starter.procd.cgroups.base import Base
from condor_starter.procd.cgroups.files import CgroupError
from condor_starter.procd.cgroups.tracker import Tracker
from condor_starter.procd.descent import start_time
from condor_starter.procd.family import Family, needed
from condor_starter.procd.ledger import Entry, Status
from condor_starter.procd.loop import Loop
from condor_starter.procd.mountplan import plan_mounts
from condor_starter.procd.settings import Settings
from condor_starter.procd.spares import Order, Spare, Spares
from condor_starter.procd.tree import Tree
from condor_starter.procd.volumes import Scratch

DRAIN_SECONDS = 30.0
"""What is not dead this long after SIGKILL is reported with its kernel stack, not waited for."""

FREEZE_SECONDS = 2.0
REMOVE_SECONDS = 2.0
_RETRY = 0.01

Answer = Callable[[dict[str, Any]], None]
"""Takes the reply to a request."""


class State(enum.Enum):
    MADE = "made"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    EXITED = "exited"
    REMOVING = "removing"


_NEXT = {
    State.MADE: {State.STARTING, State.RUNNING, State.DRAINING, State.REMOVING},
    State.STARTING: {State.RUNNING, State.DRAINING},
    State.RUNNING: {State.DRAINING},
    State.DRAINING: {State.EXITED},
    State.EXITED: {State.REMOVING},
    State.REMOVING: set(),
}


class Refused(Exception):
    """A request that this box cannot answer now: (step, errno, text, blame)."""


def refuse(step: str, number: int, text: str, blame: str = "system") -> Refused:
    return Refused(step, number, text, blame)


class Keeper(Protocol):
    """What a box needs of the server that keeps it."""

    loop: Loop
    settings: Settings
    private: bool
    spares: Spares

    def base(self) -> Base: ...
    def renew_base(self) -> Base: ...
    def exited(self, ended: BoxExit) -> None: ...
    def kill_strays(self) -> None: ...
    def gone(self, box: str) -> None: ...


class Box:
    """One box; see the module's text for its life."""

    def __init__(self, keeper: Keeper, entry: Entry, scratch: Scratch) -> None:
        self.id = entry.box
        self.state = State.MADE
        self.exit: BoxExit | None = None
        self.identity: Identity | None = None
        self.family: Family = Tree(0)
        self._keeper = keeper
        self._entry = entry
        self._scratch = scratch
        self._kind: str = entry.facts["kind"]
        self._init = BoxInit(keeper.loop, self._init_ends, self._init_gone)
        self._when_gone: Callable[[], None] | None = None
        self._empty_fd = -1
        self._killed = False
        self._cgroup_path = ""
        self._pid_namespace = False
        self._drain_until = 0.0
        self._begun = False
        self._status: Status | None = None
        self._failure = ("", 0, "")  # step, errno, text of a start that failed

    def transition(self, to: State) -> None:
        """Change the state; an illegal edge is a bug and is told as one."""
        if to not in _NEXT[self.state]:
            raise refuse("state", errno.EINVAL, f"box {self.id}: {self.state.value} cannot become {to.value}")
        self.state = to

    @property
    def scratch_fd(self) -> int:
        """The scratch directory's descriptor."""
        return self._scratch.fd

    # -- starting ---------------------------------------------------------------------------------

    def start(self, plan: BoxPlan, passed: list[int], answer: Answer) -> None:
        """Carry out ``plan``; ``answer`` gets the reply or the failed step. Raises Refused, OSError."""
        for name in ("kind", "execute", "scratch", "cgroup"):
            if getattr(plan, name) != self._entry.facts[name]:
                raise refuse(
                    "check", errno.EINVAL, f"box {self.id}: {name} is not what the box was made with"
                )
        self.transition(State.STARTING)
        self.identity = plan.identity
        try:
            if plan.kind == "container":
                self._start_container(plan, answer)
            else:
                self._start_init(plan, passed, answer)
        except OSError as e:
            step = "cgroup" if isinstance(e, CgroupError) else "clone"
            self._failed(step, e.errno or errno.EIO, str(e))
            raise refuse(step, e.errno or errno.EIO, f"box {self.id}: {e}") from e

    def _start_container(self, plan: BoxPlan, answer: Answer) -> None:
        base = needed(self._keeper.base(), plan.kind)
        self._entry.note(**self._will_make(plan, base))
        self._own_container(plan)
        notes = self._make_cgroup(plan, base)
        answer({"pid": 0, "notes": notes, "cgroup_parent": self._cgroup_path})
        self.transition(State.RUNNING)

    def _start_init(self, plan: BoxPlan, passed: list[int], answer: Answer) -> None:
        """The init makes the job's view of the files while we make its cgroup; then it joins, and goes on."""
        base = needed(self._keeper.base(), plan.kind)
        spare = self._keeper.spares.take(plan.namespaces)
        notes: list[str] = []
        self._init.take(spare, lambda message: self._started(message, notes, answer))
        if isinstance(self.family, Tree):
            self.family.init = spare.pid
        self._pid_namespace = "pid" in plan.namespaces
        self._order(plan, passed, spare, self._will_make(plan, base))
        notes += self._make_cgroup(plan, base)
        spare.go(self.family.join_files(with_v2=True) if isinstance(self.family, Tracker) else [])
        self._keeper.spares.prepare(plan.namespaces)

    def _will_make(self, plan: BoxPlan, base: Base) -> dict[str, Any]:
        """For the ledger: what is about to be made."""
        dirs = Tracker.plan(base, plan.cgroup)
        return {"dirs": dirs, "identity": to_wire(plan.identity), "limited": plan.limits.memory}

    def _make_cgroup(self, plan: BoxPlan, base: Base) -> list[str]:
        faultpoint.point("cgroup")
        if not base.dirs:
            return [*self.family.limit(plan.limits), *base.notes]
        self._cgroup_path = f"{base.path}/{plan.cgroup}"
        try:
            self.family = tracker = Tracker.create(base, plan.cgroup)
        except CgroupError as e:
            if e.errno != errno.ENOENT:
                raise
            self.family = tracker = Tracker.create(needed(self._keeper.renew_base(), plan.kind), plan.cgroup)
        tracker.oom_fd()  # v1 counts a limit's victims only from the moment somebody has asked to be told
        return tracker.limit(plan.limits)

    def _own_container(self, plan: BoxPlan) -> None:
        faultpoint.point("own")
        if os.geteuid() == 0:
            who = plan.identity
            fds.own_tree(self._scratch.fd, who.uid, who.gid, self._keeper.settings.client_uid())

    def _order(self, plan: BoxPlan, passed: list[int], spare: Spare, facts: dict[str, Any]) -> None:
        """Write ``facts`` and the init's pid into the ledger, then give it its order."""
        root_fd = self._open_root(plan.chroot) if plan.chroot else -1
        status_fd = self._entry.status_file()
        try:
            self._entry.note(**facts, pid=spare.pid, started=start_time(spare.pid))
            faultpoint.point("clone")
            pause_at, marker = faultpoint.armed()
            order = Order(
                plan=plan,
                mounts=tuple(plan_mounts(plan)),
                from_uid=self._keeper.settings.client_uid(),
                die_with_us=self._keeper.private,
                has_root=root_fd >= 0,
                pause_at=pause_at,
            )
            with_it = [fd for fd in (status_fd, self._scratch.fd, root_fd, marker) if fd >= 0]
            spare.send(order, with_it + passed)
        finally:
            os.close(status_fd)
            if root_fd >= 0:
                os.close(root_fd)

    @property
    def pid(self) -> int:
        """The init's pid while it lives; 0 when there is none."""
        return self._init.pid

    def _started(self, message: dict[str, Any], notes: list[str], answer: Answer) -> None:
        if "step" in message:
            self._failure = (message["step"], message["errno"], message["text"])
            blame = "user" if message["step"] in ("cwd", "stdin", "stdout", "stderr", "exec") else "system"
            answer({"error": dict(message, blame=blame)})
            return  # the init is about to exit: its pidfd tells
        if self.state is State.STARTING:
            self.transition(State.RUNNING)
        faultpoint.point("run")
        answer({"pid": self._init.pid, "notes": notes + message["notes"], "cgroup_parent": self._cgroup_path})

    def _open_root(self, name: str) -> int:
        """O_PATH of a named chroot's tree; one that others could change is the site's fault."""
        try:
            return fds.open_secure(self._keeper.settings.chroots[name])
        except OSError as e:
            number = e.errno or errno.EIO
            self._failed("chroot", number, str(e))
            raise refuse("chroot", number, f"named chroot {name}: {e}", "site") from e

    def _failed(self, step: str, number: int, text: str) -> None:
        """A start that failed in procd itself: nothing runs; what was made goes with destroy."""
        self._failure = (step, number, text)
        if self._init.pid:
            self._init.dismiss()
        else:
            self._drain()

    # -- running ----------------------------------------------------------------------------------

    def signal(self, signum: int) -> None:
        """Send ``signum`` to the job's main process (its init forwards)."""
        if signum in (signal.SIGKILL, signal.SIGSTOP) or not 0 < signum < signal.NSIG:
            raise refuse("signal", errno.EINVAL, f"signal {signum}: use kill and freeze")
        if self.state is not State.RUNNING or not self._init.pid:
            raise refuse("signal", errno.ESRCH, f"box {self.id} does not run")
        self._init.signal(signum)

    def freeze(self) -> None:
        self._must_run("freeze")
        if not self.family.freeze(FREEZE_SECONDS):
            raise refuse("freeze", errno.ETIMEDOUT, f"box {self.id}: not frozen in {FREEZE_SECONDS} seconds")

    def thaw(self) -> None:
        self._must_run("thaw")
        self.family.thaw()

    def kill(self) -> None:
        """SIGKILL everything; the exit event follows when nothing is left."""
        self._must_run("kill")
        self._killed = True
        self.family.kill()
        if self.state is State.STARTING:
            self._init.signal(signal.SIGKILL)  # it may not have joined its cgroup yet
        if not self._init.pid and self.state is State.RUNNING:
            self._drain()  # a container's box: nobody else tells us

    def usage(self) -> Usage:
        if self.exit is not None:
            return self.exit.usage
        return self.family.usage()

    def _must_run(self, step: str) -> None:
        if self.state not in (State.STARTING, State.RUNNING, State.DRAINING):
            raise refuse(step, errno.ESRCH, f"box {self.id} does not run: it is {self.state.value}")

    # -- ending -----------------------------------------------------------------------------------

    def _init_ends(self) -> None:
        """The init runs no more. Is that the end of the box?"""
        if self.state is not State.RUNNING or not self._pid_namespace:
            return
        self._begun, self._status = self._entry.status()
        if self._status is not None and self._status.leftovers == 0:
            self._drain(empty=True)

    def _init_gone(self) -> None:
        """The init is reaped: see that nothing outlives it."""
        if self.state in (State.EXITED, State.REMOVING):
            if self._when_gone is not None:
                self._when_gone()
            return
        self._begun, self._status = self._entry.status()
        told = self._status is not None
        if isinstance(self.family, Tree) and not told:
            self._keeper.kill_strays()  # the subreaper was killed: what it left is ours now
        self._drain(empty=self._pid_namespace and told)

    def _drain(self, empty: bool = False) -> None:
        """``empty``: the kernel says so: pid 1 of a pid namespace is the last to go (pid_namespaces(7))."""
        faultpoint.point("collect")
        self.transition(State.DRAINING)
        self._drain_until = time.monotonic() + DRAIN_SECONDS
        if empty:
            self._ended()
            return
        if isinstance(self.family, Tracker) and (fd := self.family.empty_fd()) >= 0:
            self._empty_fd = fd
        self._drain_on()

    def _drain_on(self) -> None:
        """Look again until the box is empty: at once when the kernel tells, else every few milliseconds."""
        if self.state is not State.DRAINING:
            return
        if self.family.populated() and time.monotonic() < self._drain_until:
            self.family.kill()
            self._wait_empty()
            self._keeper.loop.after(_RETRY, self._drain_on)
            return
        self._ended()

    def _wait_empty(self) -> None:
        """Most boxes are empty within a millisecond: a short look saves a round of the loop."""
        if self._empty_fd >= 0:
            poll = select.poll()
            poll.register(self._empty_fd, select.POLLPRI)
            poll.poll(1)

    def _ended(self) -> None:
        self.transition(State.EXITED)
        self.exit = self._collect()
        self._entry.note(exit=to_wire(self.exit))
        self._keeper.exited(self.exit)

    def _collect(self) -> BoxExit:
        family = self.family
        if self._status is None:  # we never had a pidfd of its init
            self._begun, self._status = self._entry.status()
        return collect.exit_of(
            collect.Evidence(
                box=self.id,
                kind=self._kind,
                status=self._status,
                begun=self._begun,
                usage=family.usage(),
                tree=isinstance(family, Tree),
                oom=isinstance(family, Tracker) and family.oom_struck(),
                killed=self._killed,
                failure=self._failure,
                undead=family.processes() if time.monotonic() >= self._drain_until else [],
            )
        )

    def destroy(self, answer: Answer) -> None:
        """Remove cgroup and scratch, close the ledger entry, then ``answer``. Raises Refused, OSError."""
        self.transition(State.REMOVING)
        faultpoint.point("remove")
        if self._init.pid:
            self._when_gone = lambda: self._remove_later(answer)
        else:
            self._remove(answer)

    def _remove_later(self, answer: Answer) -> None:
        try:
            self._remove(answer)
        except OSError as e:
            told = {"step": "destroy", "errno": e.errno or errno.EIO, "text": str(e), "blame": "system"}
            answer({"error": told})

    def _remove(self, answer: Answer) -> None:
        left = self.family.remove(REMOVE_SECONDS)
        if self._kind == "container":
            left = "; ".join(filter(None, (left, foreign.remove(self._cgroup_path))))
        self.family.close()
        if self._scratch.remove():
            self._close(left, answer)
        else:
            self._remove_elsewhere(left, answer)

    def _remove_elsewhere(self, left: str, answer: Answer) -> None:
        """A large scratch directory: a child removes it, the loop waits for the child."""
        pid, pidfd = syscalls.clone(0)
        if pid == 0:
            code = 1
            try:
                self._scratch.remove(-1)
                code = 0
            finally:
                os._exit(code)

        def removed() -> None:
            self._keeper.loop.unwatch(pidfd)
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            os.close(pidfd)
            failed = "scratch directory could not be removed" if result is None or result.si_status else ""
            self._close("; ".join(filter(None, (left, failed))), answer)

        self._keeper.loop.watch(pidfd, removed)

    def _close(self, left: str, answer: Answer) -> None:
        faultpoint.point("close")
        self._scratch.close()
        record = self._entry.close(
            state="exited" if self.exit else "undone",
            exit=to_wire(self.exit) if self.exit else None,
            left=left,
            ended_at=time.time(),
        )
        self._keeper.gone(self.id)
        answer({"left": left, "record": record})

    def abandon(self) -> None:
        """Let go without undoing: our successor adopts the box."""
        self._entry.abandon()

    # -- after a crash ----------------------------------------------------------------------------

    def adopt(self) -> None:
        """Take over a box that a dead procd left: it runs on, or its end is collected, or it is as made."""
        facts = self._entry.facts
        if dirs := facts.get("dirs"):
            self.family = Tracker.reopen(dirs)
            self._cgroup_path = f"{self._keeper.base().path}/{facts['cgroup']}"
        if who := facts.get("identity"):
            self.identity = Identity(who["uid"], who["gid"], tuple(who["groups"]), who["name"])
        if ended := facts.get("exit"):
            self.exit = BoxExit(**{**ended, "usage": Usage(**ended["usage"])})
            self.state = State.EXITED
        elif facts.get("pid"):
            self.state = State.RUNNING
            if not self._init.rejoin(facts["pid"], facts["started"]):
                self._drain()
            elif isinstance(self.family, Tree):
                self.family.init = facts["pid"]
        elif self._kind == "container" and dirs:
            self.state = State.RUNNING

    def undo(self, answer: Answer) -> None:
        """Kill, collect and destroy, whatever the state: nothing of this box remains."""
        match self.state:
            case State.MADE | State.EXITED:
                self.destroy(answer)
            case State.REMOVING:
                return
            case _:
                if self.state is not State.DRAINING:
                    self.kill()
                self._keeper.loop.after(_RETRY, lambda: self.undo(answer))
