"""The fixture ``fuzz``: run a check on many random inputs, count them, and say which were not taken as they should.

``pytest tests/fuzz --fuzz-examples 100000 --fuzz-report report.json`` runs as long as wanted.
"""

from __future__ import annotations

import json
import os
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rt1.errors import RT1Error

DEFAULT_EXAMPLES = 60
MAX_CPU_SECONDS = 2.0
MAX_SECONDS = 20.0
"""Of wall time: far above the limit of CPU time, so that a busy machine is no fault."""
MAX_LENGTH = 2000
_SHOWN = 10

Check = Callable[[random.Random], None]


@dataclass
class Counts:
    """What all fuzzers of a session came to."""

    inputs: int = 0
    faults: int = 0


_COUNTS = pytest.StashKey[Counts]()


@dataclass
class Fuzz:
    """Runs a check with random inputs."""

    examples: int
    chosen: bool
    """Whether somebody asked for this number: the inputs are then other ones each time."""
    counts: Counts
    faults: list[str] = field(default_factory=list)

    def check_examples(
        self, check: Check, *, names: str | Path, examples: int | None = None, seconds: float = MAX_CPU_SECONDS
    ) -> None:
        """Fail if the check takes an input wrongly; it reports the seeds, ``check(random.Random(seed))`` repeats one.

        Args:
            check: makes an input from the random generator, reads it, and asserts that what was read is right. It may
                raise an ``RT1Error`` or ``ValueError`` of one line that holds ``names``, and nothing else.
            names: what an error must name: the file.
            examples: default number of inputs, where not given on the command line; for slow readers.
            seconds: CPU time that an input may take, of this process and of those it started and waited for.
        """
        number = self.examples if self.chosen or examples is None else examples

        @settings(
            max_examples=number,
            derandomize=not self.chosen,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(seed=st.integers(0, 2**64 - 1))
        def run(seed: int) -> None:
            self.counts.inputs += 1
            if fault := _fault(check, seed, str(names), seconds):
                self.counts.faults += 1
                self.faults.append(fault)

        run()
        assert not self.faults, f"{len(self.faults)} of {number} inputs\n" + "\n".join(_distinct(self.faults))


def _fault(check: Check, seed: int, names: str, seconds: float) -> str | None:
    wall, cpu = time.monotonic(), sum(os.times()[:4])
    reason = None
    try:
        check(random.Random(seed))
    except (RT1Error, ValueError) as error:
        text = str(error)
        if names not in text or "\n" in text or len(text) > MAX_LENGTH:
            reason = f"not one line that names {names}: {_told(error)}"
    except Exception as error:  # noqa: BLE001 a fault is counted, and the others are still looked for
        reason = _told(error)
    wall, cpu = time.monotonic() - wall, sum(os.times()[:4]) - cpu
    if reason is None and (cpu > seconds or wall > MAX_SECONDS):
        reason = f"took {cpu:.1f} s of CPU time, {wall:.1f} s in all"
    return reason and f"seed {seed}: {reason}"


def _told(error: Exception) -> str:
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__} at {' '.join(places[-4:])}: {error!s:.300}"


def _distinct(faults: list[str]) -> list[str]:
    """Return one fault for each kind of error and place."""
    kinds: dict[str, str] = {}
    for fault in faults:
        told = fault.partition(": ")[2]
        kinds.setdefault(told.partition(": ")[0] if " at " in told else told[:20], fault)
    return list(kinds.values())[:_SHOWN]


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fuzz:
    """The fuzzer of one test; files are not synced to the disk, which takes longer than all the rest."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    examples = request.config.getoption("--fuzz-examples")
    counts = request.config.stash.setdefault(_COUNTS, Counts())
    return Fuzz(examples=examples or DEFAULT_EXAMPLES, chosen=examples is not None, counts=counts)


def pytest_sessionfinish(session: pytest.Session) -> None:
    report = session.config.getoption("--fuzz-report")
    if report is not None:
        counts = session.config.stash.get(_COUNTS, Counts())
        Path(report).write_text(json.dumps({"inputs": counts.inputs, "faults": counts.faults}), encoding="utf-8")
