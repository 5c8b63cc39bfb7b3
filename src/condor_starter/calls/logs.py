"""Where the StarterLog of a slot is."""

from __future__ import annotations

from pathlib import Path

from condor_starter.knobs import Knobs


def log_path(knobs: Knobs, suffix: str) -> Path:
    """The StarterLog of one slot: STARTER_LOG or $(LOG)/StarterLog, with ``.suffix``."""
    base = knobs.text("STARTER_LOG") or f"{knobs.text('LOG')}/StarterLog"
    safe = "".join(c if c.isalnum() or c in "_.-@" else "_" for c in suffix)
    return Path(f"{base}.{safe}" if safe else base)
