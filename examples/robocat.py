"""RoboCAT-style code here: a Hugging Face data set, MaxViT with text attention, validation, guidance.

docs/migration.md maps the older calls line by line. Needs the extra `huggingface`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import torch

from rt1 import Policy, load_model
from rt1.data.arrays.huggingface import HuggingFaceSource
from rt1.model.maxvit import MaxViTConfig
from rt1.presets import preset
from rt1.text.load import load_text_encoder
from rt1.train.config import TrainConfig
from rt1.train.loop import train

RUN = Path("outputs/robocat")
INSTRUCTIONS = ("please push the lever", "please pull the lever")


def recordings() -> datasets.Dataset:
    """Make twelve short episodes, one row a step; yours come from ``datasets.load_dataset(...)``."""
    rng = np.random.default_rng(0)
    rows = []
    for episode in range(12):
        for step in range(5):
            image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            row = {"image": image.tolist(), "action": [(-0.5, 0.5)[episode % 2], 0.2 * step], "episode_index": episode}
            rows.append({**row, "instruction": INSTRUCTIONS[episode % 2]})
    return datasets.Dataset.from_list(rows)


def settings() -> TrainConfig:
    """The preset ``robocat`` made small: its network is MaxViT-T at 224x224."""
    blocks = MaxViTConfig(stem_channels=16, channels=(16, 32), depths=(1, 1), partition=4, head_width=16)
    base = preset("robocat").model
    transformer = replace(base.transformer, layers=1, width=32, heads=2, head_width=16, hidden=64)
    model = replace(base, maxvit=blocks, image_size=(32, 32), window=2, token_width=32, transformer=transformer)
    return replace(preset("debug"), name="robocat-small", model=model, held_out=0.2, updates=40, batch_size=8)


if __name__ == "__main__":
    encoder = load_text_encoder("word-pieces", instructions=INSTRUCTIONS)  # or "hf:t5-small:tokens=32", "minilm"
    result = train(HuggingFaceSource(recordings()), settings(), RUN, encoder=encoder)
    print(f"{result.updates} updates, best held-out loss {result.best:.2f}, checkpoint {result.run}/best")
    images = torch.zeros(2, 2, 32, 32, 3, dtype=torch.uint8)  # (batch, images, height, width, RGB)
    logits = load_model(RUN).predict(images, torch.from_numpy(encoder.encode(INSTRUCTIONS)))
    print(f"logits {tuple(logits.shape)}")  # (batch, images, actions, bins)
    policy = Policy.from_checkpoint(RUN, cond_scale=3.0)
    policy.reset(INSTRUCTIONS[0])
    print(f"guided action {policy.act_vector(np.zeros((32, 32, 3), np.uint8))}")
