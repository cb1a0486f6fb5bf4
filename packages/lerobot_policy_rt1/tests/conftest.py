"""A small data set that rt1 writes, and a checkpoint of rt1."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before LeRobot is imported: everything is on disk
os.environ.setdefault("WANDB_MODE", "disabled")

import numpy as np
import pytest
import torch

from rt1 import RT1, ActionSpec, Continuous, network_config
from rt1.checkpoint import CheckpointInfo, save_checkpoint
from rt1.data.lerobot.metadata import LeRobotSettings
from rt1.data.lerobot.writer import LeRobotWriter
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings
from rt1.data.sources.images import encode_png
from rt1.text.load import load_text_encoder

SPEC = ActionSpec(
    parts=(
        Continuous(name="hand", low=(-1.0, -1.0, -1.0), high=(1.0, 1.0, 1.0)),
        Continuous(name="gripper", low=(-1.0,), high=(1.0,)),
    )
)
IMAGE_KEY = "observation.image"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of 8 steps of noise with two instructions."""
    folder = tmp_path_factory.mktemp("data") / "small"
    rng = np.random.default_rng(0)

    def episode(number: int) -> RecordedEpisode:
        images = rng.integers(0, 256, (8, 48, 64, 3), dtype=np.uint8)
        return RecordedEpisode(
            images=[encode_png(image) for image in images],
            actions=rng.uniform(-1, 1, (8, 4)).astype(np.float32),
            instruction=("open the faucet", "close the faucet")[number % 2],
            text_embedding=None,
            task="faucet",
            success=None,
            seed=None,
            episode_id=number,
        )

    recording = RecordingSettings(name="small", image_size=(48, 64), action_spec=SPEC, episodes=3, outcomes=())
    settings = LeRobotSettings(recording=recording, fps=10, image_key=IMAGE_KEY)
    LeRobotWriter(folder, settings).write(episode)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An untrained network for Meta-World's action with no weight zero, so that text and images matter."""
    encoder = load_text_encoder("minilm")
    torch.manual_seed(7)
    model = RT1(network_config("debug", SPEC, encoder.identity))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    info = CheckpointInfo(model=model.config, action_spec=SPEC, text_encoder=encoder.identity)
    return save_checkpoint(tmp_path / "checkpoint", model=model, info=info)
