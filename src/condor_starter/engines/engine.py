"""A docker engine on this machine, by its HTTP API through the ``docker`` package.

The package is blocking and slow to import: it is imported by the first call, and every call runs in a small
pool of threads that all jobs share. Only unix sockets: the scratch directory and the cgroup of a container
are this machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from condor_starter.engines import calls
from condor_starter.engines.calls import ContainerState, EngineError
from condor_starter.engines.events import Events, Watch
from condor_starter.isolation.boxplan import Usage
from condor_starter.isolation.docker import (
    BOX_LABEL,
    ContainerSpec,
    EngineFacts,
    cannot_create,
    cannot_pull,
    cannot_run,
    engine_failed,
    usage_of,
)
from condor_starter.knobs import Knobs

DEFAULT_HOST = "unix:///var/run/docker.sock"
PROBE_TIMEOUT = 10
CALL_TIMEOUT = 60
PULL_SILENCE = 600
"""Seconds: one answer to a probe, to a call; the longest silence of the engine while it fetches an image."""

_T = TypeVar("_T")
_NOT_EXECUTED = (126, 127)


class DockerEngine:
    """One engine. Methods raise :class:`JobError` with the right blame unless they say otherwise."""

    def __init__(self, host: str = DEFAULT_HOST) -> None:
        self.host = host
        self.facts: EngineFacts | None = None  # of the last probe
        self._clients = threading.local()
        self._made: list[Any] = []  # every thread's client, to be closed
        self._calls = ThreadPoolExecutor(4, "docker-call")
        self._swept = False
        self.events = Events(self._open_events)

    @classmethod
    def find(cls, knobs: Knobs, environ: Mapping[str, str] | None = None) -> DockerEngine:
        """The engine that the knob DOCKER_HOST, the variable of that name or the default names. No I/O."""
        environ = os.environ if environ is None else environ
        return cls(knobs.text("DOCKER_HOST") or environ.get("DOCKER_HOST", "") or DEFAULT_HOST)

    async def probe(self) -> EngineFacts:
        """Ask the engine who it is. Never raises: without a usable engine the facts say why."""
        try:
            self.facts = await self._call(lambda api: calls.facts(api.version(), api.info()), PROBE_TIMEOUT)
        except EngineError as e:
            self.facts = EngineFacts(reason=e.text)
        return self.facts

    async def need_image(self, image: str, pull: str = "") -> None:
        """Have ``image`` here: fetch it if it is missing (or always, or never). Hold 35 if it cannot be."""
        if pull != "always" and await self._has_image(image):
            return
        if pull == "never":
            raise cannot_pull(image, "it is not on this machine, and the job's pull policy is never")
        try:
            await self._apart(lambda api: calls.pull(api, image), PULL_SILENCE)
        except EngineError as e:
            if e.status == 0 and _unreachable(self.host):
                raise engine_failed(f"cannot pull image {image}", e.text) from e
            raise cannot_pull(image, e.text) from e

    async def create(self, spec: ContainerSpec) -> str:
        """Make the container; returns its id. A leftover of the same name is removed first."""
        try:
            return await self._create(spec)
        except EngineError as e:
            if e.status in (400, 404):
                raise cannot_create(spec.image, e.text) from e
            raise engine_failed("cannot create the container", e.text) from e

    async def attach(self, container: str, stdin: bool) -> socket.socket:
        """The container's multiplexed output, and its input; non-blocking, the caller's to close."""
        try:
            return await self._call(lambda api: calls.attach(api, container, stdin))
        except EngineError as e:
            raise engine_failed("cannot attach to the container", e.text) from e

    async def watch(self, container: str) -> Watch:
        """What happens to the container from now on."""
        try:
            return await self.events.watch(container)
        except EngineError as e:
            raise engine_failed("cannot watch the container", e.text) from e

    async def start(self, container: str) -> None:
        """Run it. A command that cannot be executed holds the job, anything else is the engine's fault."""
        try:
            await self._call(lambda api: api.start(container))
        except EngineError as e:
            state = await self.state(container)
            if state is not None and state.code in _NOT_EXECUTED:
                raise cannot_run(e.text) from e
            raise engine_failed("cannot start the container", e.text) from e

    async def state(self, container: str) -> ContainerState | None:
        """The container as it is now; None if there is none."""
        try:
            return await self._call(lambda api: calls.state(api.inspect_container(container)))
        except EngineError as e:
            if e.status == 404:
                return None
            raise engine_failed("cannot inspect the container", e.text) from e

    async def signal(self, container: str, number: int) -> None:
        """Send a signal to the container's main process (by its init, if it has one)."""
        await self._quietly(lambda api: api.kill(container, number), "cannot signal the container", 404, 409)

    async def pause(self, container: str) -> None:
        """The engine's own suspend, where the container is not in a cgroup of ours."""
        await self._quietly(lambda api: api.pause(container), "cannot pause the container")

    async def unpause(self, container: str) -> None:
        """Continue after :meth:`pause`."""
        await self._quietly(lambda api: api.unpause(container), "cannot unpause the container")

    async def usage(self, container: str) -> Usage:
        """The engine's own count, where the container is not in a cgroup of ours."""
        try:
            return await self._call(lambda api: usage_of(api.stats(container, stream=False)))
        except EngineError as e:
            raise engine_failed("cannot measure the container", e.text) from e

    async def remove(self, container: str) -> None:
        """Kill and remove the container and its anonymous volumes; one that is gone already is no error."""
        remove = lambda api: api.remove_container(container, v=True, force=True)  # noqa: E731
        await self._quietly(remove, "cannot remove the container", 404)

    async def remove_box(self, box: str, name: str) -> None:
        """The same for the container ``name``, but only if it was made for ``box``."""
        try:
            found = await self._call(lambda api: calls.labels(api.inspect_container(name)))
        except EngineError as e:
            if e.status == 404:
                return
            raise engine_failed("cannot inspect the container", e.text) from e
        if found.get(BOX_LABEL) == box:
            await self.remove(name)

    async def sweep(self) -> list[str]:
        """Remove what dead starters left, running or not, at the first call; the containers' ids."""
        if self._swept:
            return []
        self._swept = True
        try:
            left = await self._call(calls.orphans)
        except EngineError as e:
            raise engine_failed("cannot list containers", e.text) from e
        for container in left:
            await self.remove(container)
        return left

    async def close(self) -> None:
        """Let go of the engine: its event stream and our threads."""
        self.events.close()
        while self._made:
            self._made.pop().close()
        self._calls.shutdown(wait=False, cancel_futures=True)

    async def _has_image(self, image: str) -> bool:
        try:
            await self._call(lambda api: api.inspect_image(image))
        except EngineError as e:
            if e.status == 404:
                return False
            if e.status == 400:
                raise cannot_pull(image, e.text) from e
            raise engine_failed(f"cannot look for image {image}", e.text) from e
        return True

    async def _create(self, spec: ContainerSpec) -> str:
        try:
            return await self._call(lambda api: calls.create(api, spec))
        except EngineError as e:
            if e.status != 409 or not await self._is_leftover(spec.name):
                raise
        await self.remove(spec.name)
        return await self._call(lambda api: calls.create(api, spec))

    async def _is_leftover(self, name: str) -> bool:
        """A stopped container of a starter, which no living box can own: names are unique to a box."""
        return await self._call(lambda api: calls.stopped_and_ours(api.inspect_container(name)))

    async def _quietly(self, work: Callable[[Any], object], what: str, *ignored: int) -> None:
        try:
            await self._call(work)
        except EngineError as e:
            if e.status not in ignored:
                raise engine_failed(what, e.text) from e

    async def _call(self, work: Callable[[Any], _T], timeout: int = CALL_TIMEOUT) -> _T:  # noqa: ASYNC109
        """Run ``work(client)`` in a thread. A cancelled call is waited for: what it made must be known."""
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._calls, self._guarded, work, timeout)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])
            raise

    async def _apart(self, work: Callable[[Any], None], timeout: int) -> None:  # noqa: ASYNC109
        """The same for what may take very long: a thread of its own, which a cancelled caller leaves behind
        and which does not hold up the end of this process."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def run() -> None:
            error: EngineError | None = None
            try:
                self._guarded(work, timeout)
            except EngineError as e:
                error = e
            finally:
                self._close_client()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_settle, done, error)

        threading.Thread(target=run, name="docker-pull", daemon=True).start()
        await done

    def _guarded(self, work: Callable[[Any], _T], timeout: int) -> _T:
        if reason := _unreachable(self.host):  # said better here, and the package leaks a socket then
            raise EngineError(0, reason)
        import requests
        import urllib3
        from docker.errors import APIError, DockerException

        try:
            return work(self._client(timeout))
        except APIError as e:
            raise EngineError(e.status_code or 0, _words(e.explanation) or str(e)) from e
        except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as e:
            raise EngineError(0, str(e)) from e
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            # the package indexes replies unchecked: an engine that talks nonsense ends here
            raise EngineError(0, f"not a docker engine's answer: {e!r}") from e

    def _client(self, timeout: int) -> Any:
        """This thread's client (a requests session is not for several threads), made on first use."""
        client = getattr(self._clients, "client", None)
        if client is None:
            from docker import APIClient

            client = self._clients.client = APIClient(base_url=self.host, version="auto", timeout=timeout)
            self._made.append(client)
        client.timeout = timeout
        return client

    def _close_client(self) -> None:
        """This thread ends, and its client with it."""
        client = getattr(self._clients, "client", None)
        if client is not None and client in self._made:
            self._made.remove(client)
            client.close()

    def _open_events(self, filters: dict[str, Any]) -> Any:
        return self._guarded(lambda api: api.events(filters=filters, decode=True), CALL_TIMEOUT)


def _settle(done: asyncio.Future[None], error: EngineError | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _words(explanation: Any) -> str:
    return explanation.decode(errors="replace") if isinstance(explanation, bytes) else str(explanation or "")


def _unreachable(host: str) -> str:
    """Why nobody listens there, in words; "" if somebody does. Does not wait."""
    if not host.startswith("unix://"):
        return f"DOCKER_HOST is {host}: only an engine of this machine (unix://...) can be used"
    path = host.removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return ""  # its queue is full: it is there, and slow
        except PermissionError:
            return f"{path}: permission denied for uid {os.geteuid()}: make it a member of the socket's group"
        except OSError as e:
            return f"no docker engine at {path}: {e.strerror or e}"
    return ""
