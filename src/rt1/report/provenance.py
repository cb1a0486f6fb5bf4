"""How an evaluation was made: the last section of every report."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rt1.common.json_config import to_json
from rt1.common.system import PeakMemory, commit, describe_machine
from rt1.data.sources.base import CORRECTED, has_corrections
from rt1.policy.open import describe, policy_folder
from rt1.policy.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How an evaluation was made."""

    title: str
    command: str
    commit: str  # of the code
    machine: str  # processor, cores, memory, in words
    date: str  # day of the evaluation, ISO 8601
    checkpoint: str
    seconds: Mapping[str, float]  # of each stage
    peak_gb: float | None  # peak memory, GB, ``None`` where it was not measured
    parameters: int  # trainable ones
    settings: Mapping[str, str] = field(default_factory=dict)  # setting -> displayed value
    notes: tuple[str, ...] = ()  # sentences

    @property
    def subtitle(self) -> str:
        """The line below the heading."""
        return f"{self.date}, commit {self.commit}, {self.parameters:,} parameters"


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """Provenance that the evaluation does not know itself."""

    title: str = ""  # heading of the page, by default that of its kind of evaluation
    command: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)  # stages before the evaluation and their seconds
    peak_gb: float | None = None  # peak memory of the stages before, GB
    settings: Mapping[str, str] = field(default_factory=dict)  # further settings to show


class ProvenanceRecorder:
    """Measures an evaluation (``with recorder:``) and returns its provenance."""

    def __init__(self, checkpoint: Path | str, context: ReportContext | None, *, embodiment: str | None = None) -> None:
        self.folder, self.info = policy_folder(checkpoint), describe(checkpoint, embodiment=embodiment)
        self._context, self._embodiment = context or ReportContext(), embodiment
        self._memory, self._started, self._seconds = PeakMemory(), 0.0, 0.0

    def __enter__(self) -> ProvenanceRecorder:
        self._started = time.monotonic()
        self._memory.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._memory.__exit__(*error)
        self._seconds = time.monotonic() - self._started

    def facts(self, policy: Policy, *, title: str, settings: Mapping[str, str], notes: Sequence[str]) -> dict[str, Any]:
        """Return the fields of :class:`Provenance` for the report of this evaluation."""
        context = self._context
        options = {} if self._embodiment is None else {"embodiment": self._embodiment}
        if policy.cond_scale != 1.0:
            options["guidance (cond_scale)"] = f"{policy.cond_scale:g}"
        if has_corrections(self.info.provenance):
            options["training"] = CORRECTED
        return {
            "title": context.title or title,
            "command": context.command,
            "commit": commit(),
            "machine": describe_machine(),
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "checkpoint": f"{self.folder.name} at update {self.info.provenance.get('update', '?')}",
            "seconds": {**context.seconds, "evaluate": self._seconds},
            "peak_gb": max(context.peak_gb or 0.0, self._memory.gigabytes),
            "parameters": policy.sizes.parameters,
            "settings": {**context.settings, **settings, **options},
            "notes": tuple(" ".join(note.split()) for note in notes),
        }


def provenance_json(provenance: Provenance) -> dict[str, Any]:
    """Return it as plain data for ``json``."""
    names = ("seconds", "peak_gb", "commit", "command", "machine", "date")
    return to_json({name: getattr(provenance, name) for name in names})
