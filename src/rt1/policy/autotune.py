"""Measure and remember the fastest backend of the stepper that agrees with fp32 on this machine."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.checkpoint import MODEL_FILE, resolve
from rt1.common.files import user_cache, write_text
from rt1.common.json_config import check_between
from rt1.common.json_files import read_object
from rt1.common.suggest import lookup
from rt1.common.system import processor
from rt1.errors import DataError, SaveError
from rt1.model.rt1 import RT1, RT1Config
from rt1.policy.agreement import LEAST_AGREEMENT, compare_logits
from rt1.policy.stepper import SETTINGS, Stepper, packable

_LOG = logging.getLogger(__name__)
REFERENCE = "fp32"
NEARLY = 1.05
"""More threads must save more than this share of a step's time: what they cost, other work on the machine misses."""
AUTO, TUNE = "auto", "tune"


@dataclass(frozen=True, kw_only=True)
class ActingSettings:
    """How a trained network acts."""

    backend: str = "fp32"
    """How the network runs: fp32, bf16, int8, cuda-graphs-bf16 and others on a GPU. auto takes the fastest backend that
    acts as fp32 does, measured once on this machine."""
    tune: bool = False
    """Measure again which backend auto takes, remember it, and use it."""
    cond_scale: float = 1.0
    """Guidance: above 1 the instruction counts for more, 0 leaves it out; for networks trained with text.drop."""

    def __post_init__(self) -> None:
        check_between(self, 0, 1000, "cond_scale")

    @property
    def choice(self) -> str:
        """The backend as :func:`setting_for` takes it."""
        return TUNE if self.tune else self.backend


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A backend, one of :data:`rt1.policy.stepper.SETTINGS`, and its threads for each robot, None for its default."""

    setting: str
    threads: int | None = None

    def stepper(self, model: RT1, *, cond_scale: float = 1.0) -> Stepper:
        return Stepper(model, setting=self.setting, cond_scale=cond_scale, threads=self.threads)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The result of a measurement."""

    setting: str
    """The fastest setting that agrees with fp32."""
    milliseconds: Mapping[str, float]
    """Median time of a step by setting."""
    agreement: Mapping[str, float]
    """Share of the clear tokens chosen as by fp32, by setting."""
    threads: Mapping[str, int | None]
    """Threads for each robot, by setting: as few as give the time above; None where the processor does not compute."""

    def __post_init__(self) -> None:
        if self.setting not in SETTINGS or SETTINGS[self.setting].obstacle() is not None:
            raise ValueError(f"the setting {self.setting!r} cannot run here; measure again")
        if not isinstance(self.threads[self.setting], int | None):
            raise ValueError(f"threads is {self.threads[self.setting]!r}; it must be a number; measure again")


def setting_for(checkpoint: Path | str, model: RT1, setting: str) -> Choice:
    """Return a setting that can run here, and its number of threads.

    Args:
        checkpoint: the folder that the network was loaded from.
        model: the network.
        setting: one of :data:`rt1.policy.stepper.SETTINGS`; ``auto`` for the fastest that agrees with fp32, as
            remembered or else measured now, in seconds; ``tune`` to measure it again.

    Raises:
        ValueError: an unknown setting.
    """
    if setting not in (AUTO, TUNE):
        lookup("backend", setting, {**SETTINGS, AUTO: None, TUNE: None})
        return Choice(setting=setting)
    result = tuned(model, identity=weights_hash(checkpoint), again=setting == TUNE)
    return Choice(setting=result.setting, threads=result.threads[result.setting])


def tuned(model: RT1, *, identity: str, again: bool = False, file: Path | None = None) -> Tuned:
    """Return the measurement remembered for these weights, this machine, torch and number of threads, or measure.

    Args:
        model: the network.
        identity: a hash of its weights.
        again: measure even if a measurement is stored.
        file: file of the measurements, in the user's cache if None. A file that is damaged or cannot be written gives a
            warning.
    """
    file = user_cache() / "settings.json" if file is None else file
    key = f"{identity} on {_machine()}"
    stored = _read(file)
    if not again and key in stored:
        with suppress(KeyError, TypeError, ValueError):  # of another version, or of a device that is missing now
            return Tuned(**stored[key])
    result = measure(model)
    try:
        write_text(file, json.dumps({**_read(file), key: asdict(result)}, indent=1))
    except SaveError as error:
        warnings.warn(f"the setting is measured again next time: {error}", stacklevel=2)
    return result


def measure(model: RT1, *, steps: int = 32, seed: int = 0) -> Tuned:
    """Take the same ``steps`` over generated images in each setting, in turns, and return the fastest that agrees.

    A setting that cannot run here is skipped, with the reason in the log.
    """
    steppers = {choice: stepper for name in SETTINGS for choice, stepper in _steppers(model, name).items()}
    names = list(dict.fromkeys(choice.setting for choice in steppers))
    seconds: dict[Choice, list[float]] = {choice: [] for choice in steppers}
    logits: dict[Choice, list[FloatArray]] = {choice: [] for choice in steppers}
    for embedding, images in made_up_episodes(model.config, steps=steps, seed=seed):
        states = {choice: stepper.start(embedding) for choice, stepper in steppers.items()}
        for image in images:
            for choice, stepper in steppers.items():
                start = time.perf_counter()
                logits[choice].append(stepper.step([states[choice]], [image])[0])
                seconds[choice].append(time.perf_counter() - start)
    medians = {choice: 1e3 * float(np.median(times)) for choice, times in seconds.items()}
    best = {name: _fewest_threads({c: m for c, m in medians.items() if c.setting == name}) for name in names}
    reference = np.stack(logits[best[REFERENCE]])
    agreements = {name: compare_logits(reference, np.stack(logits[choice])) for name, choice in best.items()}
    eligible = [
        name
        for name, agreement in agreements.items()
        if name == REFERENCE or (agreement.clear_tokens and agreement.clear_agreement >= LEAST_AGREEMENT)
    ]
    return Tuned(
        setting=min(eligible, key=lambda name: medians[best[name]]),
        milliseconds={name: medians[choice] for name, choice in best.items()},
        agreement={name: agreement.clear_agreement for name, agreement in agreements.items()},
        threads={name: choice.threads for name, choice in best.items()},
    )


def _steppers(model: RT1, name: str) -> dict[Choice, Stepper]:
    device_is_there = SETTINGS[name].device == "cpu" or torch.cuda.is_available()
    if name != REFERENCE and not (device_is_there and packable(model)):
        return {}
    try:
        choices = [Choice(setting=name, threads=threads) for threads in _thread_numbers(name)]
        return {choice: choice.stepper(model) for choice in choices}
    except ValueError as error:
        if name == REFERENCE:
            raise
        _LOG.warning("auto leaves out a setting: %s", error)
        return {}


def _thread_numbers(name: str) -> list[int | None]:
    """Return the numbers of threads to try: 1, 4, 16 and so on, and all that torch has."""
    if SETTINGS[name].device != "cpu":
        return [None]
    most = torch.get_num_threads()
    return [*(4**power for power in range(most.bit_length()) if 4**power < most), most]


def _fewest_threads(milliseconds: Mapping[Choice, float]) -> Choice:
    """Return, of the choices that take hardly longer than the fastest, the one with the fewest threads."""
    least = min(milliseconds.values())
    return min((c for c, time_ms in milliseconds.items() if time_ms <= NEARLY * least), key=lambda c: c.threads or 0)


def made_up_episodes(
    config: RT1Config, *, steps: int, seed: int
) -> Iterator[tuple[FloatArray, Sequence[NDArray[np.uint8]]]]:
    """Yield episodes of a text embedding and images: drifting soft-edged blobs of color with a little noise."""
    rng = np.random.default_rng(seed)
    length = config.window + 2
    for first in range(0, steps, length):
        scene = rng.uniform(0, 255, (6, 8, 3)).astype(np.float32)
        drift = rng.normal(0, 12, scene.shape).astype(np.float32)
        images = []
        for step in range(min(length, steps - first)):
            image = cv2.resize(scene + step * drift, (320, 256), interpolation=cv2.INTER_CUBIC)
            images.append(np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8))
        if config.text.vocabulary:
            text = rng.integers(1, config.text.vocabulary, config.text_width).astype(np.float32)
        else:
            text = rng.normal(size=config.text_width).astype(np.float32)
            text /= np.linalg.norm(text)
        yield text, images


def weights_hash(checkpoint: Path | str) -> str:
    with (resolve(checkpoint) / MODEL_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{processor()}, {device}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return read_object(file, cure="it is written again")
    except DataError as error:
        warnings.warn(str(error), stacklevel=3)
        return {}
