"""A house of one's own: a private procd as our child, privilege dropped, an engine if a job wants one."""

from __future__ import annotations

import os
from collections.abc import Mapping

from condor_starter.cli import places
from condor_starter.daemon.account import Account, become, unprivileged
from condor_starter.knobs import Knobs
from condor_starter.procd.client import Procd
from condor_starter.starter import House


def account(knobs: Knobs, environ: Mapping[str, str]) -> Account:
    """Who we become. Raises AccountError."""
    return unprivileged(environ, knobs.text("CONDOR_IDS"))


def procd_settings(knobs: Knobs, who: Account) -> dict[str, str]:
    """What a private procd is told: the admin's knobs, which procd.conf's other lines still bound."""
    settings = {
        "execute": knobs.text("EXECUTE"),
        "run": knobs.text("STARTER_RUN_DIR"),
        "client": str(who.uid),
        "base_cgroup": knobs.text("BASE_CGROUP"),
    }
    if knobs.words("NAMED_CHROOT"):
        settings["named_chroot"] = ",".join(knobs.words("NAMED_CHROOT"))
    if knobs.words("STARTER_BIND"):
        settings["bind_allow"] = ",".join(w.partition(":")[0] for w in knobs.words("STARTER_BIND"))
    return settings


async def open_house(knobs: Knobs, environ: Mapping[str, str]) -> tuple[House, Account]:
    """Start a private procd with the ids that we have, then become the unprivileged account for good.

    Raises AccountError, OSError, ProcdGone (procd could not start: it said why on stderr).
    """
    who = account(knobs, environ)
    places.make(knobs, who)
    procd = await Procd.spawn(procd_settings(knobs, who))
    try:
        if os.geteuid() == 0:
            become(who)
        facts, _ = await procd.hello()
    except BaseException:
        await procd.close()
        raise
    return House(procd, knobs, facts, one_job=True), who


async def close_house(house: House) -> None:
    """End procd, and with it whatever it still holds."""
    if house.engine is not None:
        await house.engine.close()
    await house.procd.close()
