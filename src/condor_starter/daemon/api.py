"""The HTTP API of starterd. A job runs as the account that submitted it; users see only their own jobs.

=======  ================================  ==========================================================
POST     /v1/jobs                          body: an ad in old or new syntax; 201 with the job
GET      /v1/jobs                          the caller's jobs (root: all); ``?state=running`` selects
GET      /v1/jobs/N                        one job; ``?ad=1`` with its ads
DELETE   /v1/jobs/N                        forget a job that has ended
POST     /v1/jobs/N/suspend, continue,     202; ``?reason=...`` travels into the job's record
         remove, vacate
GET      /v1/jobs/N/tail                   bytes of ``?stream=stdout|stderr`` from ``&offset=`` (below
                                           zero: from the end); headers X-Offset, X-Next-Offset, X-Done
GET      /v1/jobs/N/log                    the job's StarterLog, its last MiB
GET      /v1/jobs/N/wait                   the job once it has ended, or as it is after ``?timeout=`` seconds
GET      /v1/health, /v1/metrics           anybody
POST     /v1/drain                         root: take no more jobs, end when the last has ended; ``?kill=1``
=======  ================================  ==========================================================

For example::

    curl --unix-socket /run/condor_starter/api.sock --data-binary @hello.ad http://localhost/v1/jobs
    curl --unix-socket /run/condor_starter/api.sock 'http://localhost/v1/jobs/1/wait?timeout=30'
    curl --unix-socket /run/condor_starter/api.sock 'http://localhost/v1/jobs/1/tail?stream=stdout'

Errors are ``{"error": "one sentence"}`` with a status that fits.
"""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

from aiohttp import web

from condor_starter.communicators.base import Ask, Request
from condor_starter.daemon import admission, metrics, tail
from condor_starter.daemon.httpd import REQUEST_SECONDS, ApiError, Peer, answer, caller
from condor_starter.daemon.job import Job, Phase
from condor_starter.daemon.jobs import Jobs
from condor_starter.daemon.link import ProcdLink
from condor_starter.job import BadAd, spec_from_ad
from condor_starter.sandbox.ads import parse_ad

LONGEST_WAIT = 60.0
LOG_BYTES = 1 << 20
ASKS = {
    "suspend": Ask.SUSPEND,
    "continue": Ask.CONTINUE,
    "remove": Ask.REMOVE,
    "vacate": Ask.VACATE_SOFT,
}


class Service(Protocol):
    """What the API needs of the daemon around it."""

    jobs: Jobs
    link: ProcdLink
    draining: bool

    def drain(self, kill: bool) -> None:
        """Take no more jobs and end with the last one; ``kill``: end them now."""


class Api:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[web.RouteDef]:
        """All routes, for :class:`~condor_starter.daemon.httpd.HttpServer`."""
        job = "/v1/jobs/{number:[0-9]{1,15}}"
        return [
            web.post("/v1/jobs", self.submit),
            web.get("/v1/jobs", self.list),
            web.get(job, self.show),
            web.delete(job, self.forget),
            web.post(job + "/{ask:suspend|continue|remove|vacate}", self.ask),
            web.get(job + "/tail", self.tail),
            web.get(job + "/log", self.log),
            web.get(job + "/wait", self.wait),
            web.get("/v1/health", self.health),
            web.get("/v1/metrics", self.metrics),
            web.post("/v1/drain", self.drain),
        ]

    async def submit(self, request: web.Request) -> web.Response:
        """POST /v1/jobs"""
        peer = caller(request)
        if self._service.draining:
            raise ApiError(503, "This starter takes no more jobs: it is being stopped.")
        admission.room(self._service.jobs, peer)
        text = await _body(request)
        try:
            ad = parse_ad(text)
            spec = spec_from_ad(ad, transfers=False)
        except BadAd as e:
            raise ApiError(400, e.text) from None
        user = admission.settle_owner(ad, peer, self._service.link.facts)
        try:
            job = self._service.jobs.submit(text, ad, spec, admission.submission(peer, user, spec))
        except OSError as e:
            raise ApiError(507, f"The job cannot be recorded: {e.strerror}.") from None
        return answer(job.view(), 201)

    async def list(self, request: web.Request) -> web.Response:
        """GET /v1/jobs"""
        peer = caller(request)
        state = request.query.get("state")
        mine = [j for j in self._service.jobs if peer.uid in (0, j.submission.uid)]
        return answer({"jobs": [j.view() for j in mine if state in (None, j.phase.value)]})

    async def show(self, request: web.Request) -> web.Response:
        """GET /v1/jobs/N"""
        job = self._job(request)
        view = job.view()
        if request.query.get("ad"):
            view["ad"] = job.journal.fact("ad")
            view["final_ad"] = job.journal.fact("final")
        return answer(view)

    async def forget(self, request: web.Request) -> web.Response:
        """DELETE /v1/jobs/N"""
        job = self._job(request)
        if job.phase is not Phase.DONE:
            raise ApiError(409, f"Job {job.number} has not ended: remove it first.")
        self._service.jobs.forget(job)
        return answer({"forgotten": job.number})

    async def ask(self, request: web.Request) -> web.Response:
        """POST /v1/jobs/N/suspend, continue, remove, vacate"""
        job = self._job(request)
        word = request.match_info["ask"]
        peer = caller(request)
        reason = request.query.get("reason", f"{word} by uid {peer.uid}")[:500]
        if not self._service.jobs.ask(job, Request(ASKS[word], reason)):
            raise ApiError(409, f"Job {job.number} is {job.phase.value}: it cannot {word}.")
        return answer(job.view(), 202)

    async def tail(self, request: web.Request) -> web.Response:
        """GET /v1/jobs/N/tail"""
        job = self._job(request)
        stream = request.query.get("stream", "stdout")
        if stream not in ("stdout", "stderr"):
            raise ApiError(400, "stream must be stdout or stderr.")
        part = tail.read(job, stream, _number(request, "offset", 0), _number(request, "limit", tail.MOST))
        headers = {"X-Offset": str(part.offset), "X-Next-Offset": str(part.offset + len(part.data))}
        headers["X-Done"] = "true" if job.phase is Phase.DONE else "false"
        return web.Response(body=part.data, headers=headers, content_type="application/octet-stream")

    async def log(self, request: web.Request) -> web.Response:
        """GET /v1/jobs/N/log"""
        text = self._job(request).journal.log_text(LOG_BYTES)
        return web.Response(body=text, content_type="text/plain", charset="utf-8")

    async def wait(self, request: web.Request) -> web.Response:
        """GET /v1/jobs/N/wait"""
        job = self._job(request)
        seconds = min(LONGEST_WAIT, max(0, _number(request, "timeout", 30)))
        try:
            async with asyncio.timeout(seconds):
                await job.done.wait()
        except TimeoutError:
            pass  # the caller asks again
        return answer(job.view())

    async def health(self, request: web.Request) -> web.Response:
        """GET /v1/health: 503 while procd is away or we are being stopped"""
        up, draining = self._service.link.up, self._service.draining
        state = "draining" if draining else "ok" if up else "no condor_starter_procd"
        view = {"state": state, "pid": os.getpid(), "jobs": len(self._service.jobs.alive())}
        return answer(view, 200 if up and not draining else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /v1/metrics"""
        text = metrics.text(self._service.jobs, self._service.link)
        return web.Response(text=text, content_type="text/plain")

    async def drain(self, request: web.Request) -> web.Response:
        """POST /v1/drain"""
        if caller(request).uid not in (0, os.getuid()):
            raise ApiError(403, "Only root can stop this starter.")
        self._service.drain(kill=bool(request.query.get("kill")))
        return answer({"jobs": len(self._service.jobs.alive())}, 202)

    def _job(self, request: web.Request) -> Job:
        """The job that the path names; another user's is as good as none."""
        peer: Peer = caller(request)
        number = int(request.match_info["number"])
        job = self._service.jobs.get(number)
        if job is None or peer.uid not in (0, job.submission.uid):
            raise ApiError(404, f"You have no job {number} here.")
        return job


async def _body(request: web.Request) -> str:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            data = await request.read()
    except TimeoutError:
        raise ApiError(408, "The ad did not arrive in time.") from None
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ApiError(400, "The ad is not UTF-8 text.") from None


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if len(text) > 18 or not text.removeprefix("-").isdecimal() or not text.isascii():
        raise ApiError(400, f"{name} must be a whole number.")
    return int(text)
