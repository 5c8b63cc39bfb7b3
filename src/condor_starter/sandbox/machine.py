"""The machine's ad for jobs that no startd brings: what this machine offers a local slot."""

from __future__ import annotations

import functools
import math
import os
import platform
import socket
from typing import Any

import classad2

from condor_starter.job import JobSpec

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""

_ARCHES = {"x86_64": "X86_64", "i686": "INTEL", "aarch64": "aarch64", "ppc64le": "ppc64le"}


def machine_ad(slot: str, execute: str, spec: JobSpec | None = None) -> ClassAd:
    """The ad of a slot that is cut to what ``spec`` requests, as a partitionable slot would be.

    Cpus: a whole number, Memory: MiB, Disk: KiB. What the job does not request is the whole machine's.
    """
    host = host_name()
    cpus = math.ceil(spec.request_cpus) if spec else total_cpus()
    memory = (spec and spec.request_memory_mb) or total_memory_mb()
    ad = classad2.ClassAd()
    ad.update(
        {
            "MyType": "Machine",
            "Name": f"{slot}@{host}",
            "Machine": host,
            "SlotID": 1,
            "OpSys": "LINUX",
            "Arch": _ARCHES.get(platform.machine(), platform.machine()),
            "Cpus": cpus,
            "Memory": memory,
            "Disk": free_disk_kb(execute),
            "TotalCpus": total_cpus(),
            "TotalMemory": total_memory_mb(),
        }
    )
    return ad


@functools.cache
def host_name() -> str:
    """This host's name, in full where it knows it without asking a name server."""
    return socket.gethostname()


@functools.cache
def total_cpus() -> int:
    """The cpus that this process may use."""
    return len(os.sched_getaffinity(0))


@functools.cache
def total_memory_mb() -> int:
    """The machine's memory in MiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20


def free_disk_kb(directory: str) -> int:
    """KiB that are free in the file system of ``directory``; 0 if it does not exist."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize >> 10
