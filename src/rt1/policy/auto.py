"""The engines of a checkpoint on this machine: which of them run, how fast they are, and whether they agree."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rt1.actions import FloatArray
from rt1.checkpoint import MODEL_FILE, load_model, resolve
from rt1.common.files import user_cache, write_text
from rt1.common.json_config import from_json
from rt1.common.json_files import read_object
from rt1.common.processor import instructions, processor
from rt1.common.suggest import lookup
from rt1.common.system import tree_memory
from rt1.errors import DataError, SaveError, first_line
from rt1.policy.agreement import LEAST_AGREEMENT, compare_logits
from rt1.policy.cache import cached_export
from rt1.policy.engines.base import CHOICES, Engine, EngineChoice, engine_choice
from rt1.policy.engines.torch import TorchEngine
from rt1.policy.export.compare import Trial, TrialSize, generated_trials
from rt1.policy.export.formats import installed_versions
from rt1.policy.exported import open_export
from rt1.policy.exported_manifest import Sizes, sha256
from rt1.policy.stepper import Stepper

_LOG = logging.getLogger(__name__)
REFERENCE = EngineChoice("torch", "fp32")
MATRIX = 2048
"""Rows and columns of the matrices whose product is the unit of ``products``."""


@dataclass(frozen=True, kw_only=True)
class EngineResult:
    """What an engine needs for a step, and how it agrees with the network."""

    milliseconds: float
    """Median time of a step."""
    products: float
    """The same in products of two float32 matrices of 2048 x 2048, measured in turns with the steps."""
    agreement: float
    """Share of the clear tokens that are the network's, as torch computes it in fp32."""
    clear_tokens: int
    """Tokens that were clear."""
    megabytes: float
    """Memory that loading and running it added, MB."""

    @property
    def agrees(self) -> bool:
        return bool(self.clear_tokens) and self.agreement >= LEAST_AGREEMENT


def fastest(checkpoint: Path | str, *, embodiment: str | None = None, device: str = "cpu") -> EngineChoice:
    """Return the fastest engine that agrees with the network, as remembered for this machine, or measured now.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    stored: Any = _read(_file()).get(_key(checkpoint, embodiment, device))
    with suppress(TypeError, ValueError):  # of another version
        return best({name: from_json(EngineResult, result, where=name) for name, result in dict(stored).items()})
    return best(measure(checkpoint, embodiment=embodiment, device=device))


def best(results: Mapping[str, EngineResult]) -> EngineChoice:
    """Return the fastest engine that agrees with the network."""
    agreeing = [name for name, result in results.items() if result.agrees] or [str(REFERENCE)]
    return engine_choice(min(agreeing, key=lambda name: lookup("engine", name, results).milliseconds))


def measure(
    checkpoint: Path | str, *, embodiment: str | None = None, device: str = "cpu", steps: int = 32
) -> dict[str, EngineResult]:
    """Take the same steps with every engine that runs here, in turns. Remember and return the results by engine.

    An engine that does not run here is left out with one line. A cache that cannot be written gives a warning.
    """
    model = load_model(checkpoint, embodiment=embodiment)
    steppers: dict[str, Stepper] = {}
    megabytes: dict[str, float] = {}
    for choice in CHOICES:
        before = tree_memory()
        try:
            if choice.name == "torch":
                engine: Engine = TorchEngine(model, precision=choice.precision, device=device)
            else:
                engine, _ = open_export(cached_export(checkpoint, choice, embodiment=embodiment))
        except (ValueError, RuntimeError, OSError, ModuleNotFoundError) as error:
            if choice == REFERENCE:
                raise
            _LOG.warning("the engine %s is left out: %s", choice, first_line(error))
            continue
        stepper = steppers[str(choice)] = Stepper(engine)
        for trial in _trials(engine.sizes, 1, seed=1):
            stepper.episode_logits(trial.embedding, trial.images)
        megabytes[str(choice)] = max(0.0, (tree_memory() - before) / 1e6)
    results = compare_engines(steppers, megabytes, steps=steps)
    remember(checkpoint, results, embodiment=embodiment, device=device)
    return results


def remember(
    checkpoint: Path | str, results: Mapping[str, EngineResult], *, embodiment: str | None = None, device: str = "cpu"
) -> None:
    """Store the results of a checkpoint on this machine in the user's cache, or warn where that is not possible."""
    stored = {name: asdict(result) for name, result in results.items()}
    try:
        write_text(_file(), json.dumps({**_read(_file()), _key(checkpoint, embodiment, device): stored}, indent=1))
    except SaveError as error:
        warnings.warn(f"the engines are measured again next time: {error}", stacklevel=3)


def compare_engines(
    steppers: Mapping[str, Stepper],
    megabytes: Mapping[str, float],
    *,
    steps: int,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, EngineResult]:
    """Take the same steps with several engines in turns, the first of which is the reference."""
    left, right = torch.randn(2, MATRIX, MATRIX)
    seconds: dict[str, list[float]] = {name: [] for name in ("", *steppers)}
    logits: dict[str, list[FloatArray]] = {name: [] for name in steppers}
    sizes = next(iter(steppers.values())).engine.sizes
    for trial in _trials(sizes, steps, seed):
        states = {name: stepper.start(trial.embedding) for name, stepper in steppers.items()}
        for image in trial.images:
            start = clock()
            torch.mm(left, right)
            seconds[""].append(clock() - start)
            for name, stepper in steppers.items():
                start = clock()
                logits[name].append(stepper.step([states[name]], [image])[0])
                seconds[name].append(clock() - start)
    product = float(np.median(seconds[""]))
    reference = np.stack(next(iter(logits.values())))
    results = {}
    for name in steppers:
        agreement, median = compare_logits(reference, np.stack(logits[name])), float(np.median(seconds[name]))
        results[name] = EngineResult(
            milliseconds=1e3 * median,
            products=median / product,
            agreement=agreement.clear_agreement,
            clear_tokens=agreement.clear_tokens,
            megabytes=megabytes[name],
        )
    return results


def _trials(sizes: Sizes, steps: int, seed: int) -> Sequence[Trial]:
    length = sizes.window + 2
    size = TrialSize(
        episodes=-(-steps // length), steps=length, text_width=sizes.text_width, vocabulary=sizes.vocabulary
    )
    return generated_trials(size, seed)


def _file() -> Path:
    return user_cache() / "engines.json"


def _key(checkpoint: Path | str, embodiment: str | None, device: str) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    weights = sha256(resolve(checkpoint) / MODEL_FILE)[:32]
    # Clouds give processors with different instructions one name.
    machine = f"{processor()} {hashlib.sha256(instructions().encode()).hexdigest()[:8]}"
    return f"{weights} {embodiment or ''} on {machine}, {device}, {torch.get_num_threads()} threads, {packages}"


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return read_object(file, cure="It is written again")
    except DataError as error:
        warnings.warn(str(error), stacklevel=1)  # one place, so that reading the file twice prints it once
        return {}
