"""Shared fixtures: one torch thread, the folder of reference material, a source of episodes in memory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.data.images import encode_jpeg
from rt1.model.rt1 import RT1
from rt1.presets import preset

torch.set_num_threads(1)  # a tiny training test takes 1 s with one thread and up to 60 s on a busy machine


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference numbers and real data beside the checkout (``RT1_SHARED`` overrides it)."""
    folder = Path(os.environ.get("RT1_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference material at {folder}; set RT1_SHARED to its folder")
    return folder


@dataclass(kw_only=True)
class MemorySource:
    """A few episodes in memory, each with its own colours, actions and sentence."""

    lengths: NDArray[np.int64]
    images: list[list[bytes]]
    moves: list[FloatArray]
    embeddings: FloatArray
    action_spec: ActionSpec
    before_read: Callable[[int], None]
    """Called with the number of the episode before its actions are read."""
    name: str = "memory"

    def instruction(self, episode: int) -> str:
        return SENTENCES[episode % len(SENTENCES)]

    def text_embedding(self, episode: int) -> FloatArray | None:
        return self.embeddings[episode % len(SENTENCES)]

    def task(self, episode: int) -> str:
        return f"task-{episode % len(SENTENCES)}"

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        return self.images[episode][start:stop]

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        self.before_read(episode)
        return self.moves[episode][start:stop]


SENTENCES = ("open the drawer", "close the drawer")


@pytest.fixture(scope="session")
def make_source() -> Callable[..., MemorySource]:
    """Make a source of episodes with these lengths; equal arguments give equal episodes."""

    def make(
        *lengths: int,
        size: tuple[int, int] = (48, 48),
        bins: int = 16,
        before_read: Callable[[int], None] = lambda _: None,
    ) -> MemorySource:
        rng = np.random.default_rng(0)

        def image() -> bytes:
            coarse = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
            return encode_jpeg(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST))

        return MemorySource(
            lengths=np.array(lengths, dtype=np.int64),
            images=[[image() for _ in range(length)] for length in lengths],
            moves=[rng.uniform(-1, 1, (length, 3)).astype(np.float32) for length in lengths],
            embeddings=rng.normal(size=(len(SENTENCES), 8)).astype(np.float32),
            action_spec=ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 3, high=(1.0,) * 3),), bins=bins),
            before_read=before_read,
        )

    return make


@pytest.fixture
def make_network() -> Callable[..., RT1]:
    """Make the smallest network for the actions and embeddings of :class:`MemorySource`, every weight at random."""

    def make(window: int = 2) -> RT1:
        torch.manual_seed(7)
        model = RT1(dataclasses.replace(preset("debug").model, **SIZES, window=window))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)  # FiLM starts at zero: the text would change nothing
        return model.eval()

    return make


SIZES: dict[str, Any] = {"action_tokens": 3, "bins": 16, "text_width": 8}
