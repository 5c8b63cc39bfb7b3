"""The state of one job that survives the process that runs it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

STAGES = ("accepted", "prepared", "running", "ended", "reported")


@dataclass(slots=True)
class JobRecord:
    """JSON-able, saved whole at each change of stage."""

    id: str  # the source's name for the job, e.g. "12.0"
    box: str = ""  # procd's name for its box
    stage: str = "accepted"  # one of STAGES
    ad: str = ""  # the job's ad, old syntax
    started_at: float | None = None  # wall clock
    plan: dict[str, Any] = field(default_factory=dict)  # backend, execute, scratch, pid, ...: a summary
    exit: dict[str, Any] | None = None  # BoxExit in wire form
    path: Path | None = None  # where save() writes; None: nowhere

    def save(self) -> None:
        """Write to :attr:`path`: a temporary file, then rename, so a reader sees a whole state."""
        if self.path is None:
            return
        state = asdict(self)
        del state["path"]
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(json.dumps(state), encoding="utf-8")
        os.replace(temporary, self.path)

    @classmethod
    def load(cls, path: Path) -> JobRecord:
        """The record at ``path``; raises OSError or ValueError."""
        state = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            raise ValueError(f"{path}: not a job record")
        return cls(**state, path=path)

    def advance(self, stage: str) -> None:
        """Enter ``stage`` and save."""
        self.stage = stage
        self.save()
