"""A network of random weights that acts as a trained one: its transformer has learned to name the colors of an image.

Logits of random weights lie so close together that every rounding changes tokens. A trained policy's do not.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rt1.actions import rt1_action_spec
from rt1.checkpoint import CheckpointInfo, save_checkpoint
from rt1.common.processor import instructions
from rt1.model.rt1 import RT1, RT1Config
from rt1.policy.engines.program import instruction_set
from rt1.policy.engines.torch import TorchEngine
from rt1.policy.export.compare import TrialSize, generated_trials
from rt1.policy.stepper import Stepper


def trained_checkpoint(folder: Path, config: RT1Config, *, updates: int) -> Path:
    """Return a checkpoint of a network that has learned for so many updates, trained now if it is not in the folder."""
    out = folder / f"updates-{updates}"
    if not out.is_dir():
        model = network(config)
        teach_colors(model, updates=updates)
        spec = replace(rt1_action_spec(), bins=config.bins)
        save_checkpoint(out, model=model, info=CheckpointInfo(model=config, action_spec=spec, text_encoder=None))
    return out


def _trials(config: RT1Config, *, episodes: int, seed: int) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Return episodes of a text embedding and images two longer than the window."""
    size = TrialSize(
        episodes=episodes, steps=config.window + 2, text_width=config.text_width, vocabulary=config.text.vocabulary
    )
    return [(trial.embedding, np.stack(trial.images)) for trial in generated_trials(size, seed)]


def network(config: RT1Config) -> RT1:
    """Return a network whose random weights keep the variance: no layer's output fades or explodes.

    FiLM is zero at first and batch normalization has no statistics yet: with both left so, the text would change
    nothing and the image hardly anything. FiLM gets small random weights; one pass over images gives the statistics.
    """
    torch.manual_seed(0)
    model = RT1(config)
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    text, images = zip(*_trials(config, episodes=16, seed=1), strict=True)
    with torch.no_grad():
        image = model.prepare(torch.from_numpy(np.stack([of_episode[0] for of_episode in images])))
        model.train().encode(image, model.text(torch.from_numpy(np.stack(text))))
    return model.eval()


def teach_colors(model: RT1, *, updates: int, episodes: int = 24, batch: int = 8) -> None:
    """Train the transformer to name each image's colors: sixteen levels of the mean of parts of it, a bin each.

    The images are encoded once, as the network stands; only the transformer learns, in float32, on all cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    stepper, window = Stepper(TorchEngine(model)), model.config.window
    tokens, targets, texts = [], [], []
    for text, image_THWC in _trials(model.config, episodes=episodes, seed=7):
        state = stepper.start(text)
        prepared = np.stack([stepper.prepare(image).image_HWC for image in image_THWC])
        condition = np.repeat(state.condition[None], len(prepared), axis=0)
        tokens.append(torch.from_numpy(stepper.engine.encode(prepared, condition)[0]))
        targets.append(_levels(image_THWC, model.config))
        texts.append(torch.from_numpy(text))
    random, optimizer = np.random.default_rng(0), torch.optim.AdamW(model.transformer.parameters(), lr=3e-4)
    for update in range(updates):
        windows = [(int(random.integers(episodes)), int(random.integers(3))) for _ in range(batch)]
        token_BTKE = torch.stack([tokens[number][first : first + window] for number, first in windows])
        target_BTA = torch.stack([targets[number][first : first + window] for number, first in windows])
        condition = model.text(torch.stack([texts[number] for number, _ in windows])).detach()
        loss = F.cross_entropy(model.decode(token_BTKE, condition).flatten(0, 2), target_BTA.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.transformer.parameters(), 1.0)
        optimizer.step()
        if update % 20 == 0 or update == updates - 1:
            print(f"update {update + 1} of {updates}: loss {loss.item():.2f}", flush=True)
    torch.set_num_threads(threads)


def _levels(image_THWC: NDArray[np.uint8], config: RT1Config) -> Tensor:
    """Return bins (T, A): the mean red, green and blue of the image's eight parts, in sixteen levels."""
    rows, columns = image_THWC.shape[1] // 2, image_THWC.shape[2] // 4
    part_TRHSWC = image_THWC[:, : 2 * rows, : 4 * columns].reshape(len(image_THWC), 2, rows, 4, columns, 3)
    level = (part_TRHSWC.mean((2, 4)).reshape(len(image_THWC), -1)[:, : config.action_tokens] / 16).astype(np.int64)
    return torch.from_numpy(level * (config.bins // 16))


def cpu_isa() -> str:
    """Return the vector instructions that matter: what torch names them, and whether they have bfloat16."""
    return instruction_set() + (" BF16" if "avx512_bf16" in instructions() else "")
