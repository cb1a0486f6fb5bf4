"""The control step: one new image per robot in, one action's logits per robot out, for any number of robots at once.

Shape letters: S robots in one call, T images remembered, K tokens per image, E token width, P positions, A action
dimensions, V bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rt1.actions import FloatArray
from rt1.model.rt1 import RT1


@dataclass(eq=False, kw_only=True)
class Memory:
    """One robot's episode so far; made by :meth:`ControlStep.start`, changed only by :meth:`ControlStep.step`."""

    text_E: Tensor
    """Text embedding of the instruction."""
    token_TKE: Tensor
    """Image tokens of the last images, oldest first; T grows from 0 to the network's window."""
    map_KP: Tensor | None = None
    """TokenLearner's weights on the last image; None before the first one."""


class ControlStep:
    """A network ready to act. It holds no episode; each robot has its :class:`Memory`. Not thread-safe.

    Each step encodes the one new image, reuses the image tokens of the images before it, and runs the transformer once
    (spec section 9). An episode starts empty: the first image stands at the first place of the window.
    """

    def __init__(self, model: RT1) -> None:
        """Take a network; it is put into evaluation mode."""
        self.model = model.eval()

    def start(self, embedding: FloatArray) -> Memory:
        """Return the memory of a new episode.

        Args:
            embedding: text embedding of the instruction, float32 (E,); it is copied.

        Raises:
            ValueError: another shape than the network takes, or values that are not finite.
        """
        config = self.model.config
        if embedding.shape != (config.text_width,):
            raise ValueError(
                f"the text embedding has shape {embedding.shape}; this network takes ({config.text_width},); use the "
                "encoder it was trained with"
            )
        if not np.isfinite(embedding).all():
            raise ValueError("the text embedding holds a value that is not finite; compute it again")
        return Memory(
            text_E=torch.from_numpy(np.array(embedding, dtype=np.float32)),
            token_TKE=torch.zeros(0, config.image_tokens, config.token_width),
        )

    @torch.inference_mode()
    def step(self, memories: Sequence[Memory], images: Sequence[NDArray[Any]]) -> FloatArray:
        """Take one new image into each memory and return float32 logits (S, A, V).

        Each robot's logits are those it would get alone, up to the rounding of float32. When an image is refused no
        memory has changed.

        Args:
            memories: S memories, each once; their episodes may be of any length.
            images: S images, RGB (H, W, 3), uint8 in [0, 255] or float in [0, 1], each of any size.

        Raises:
            ValueError: something that is no image, a memory given twice, or unequal numbers of both.
        """
        if len(memories) != len(images) or not memories:
            raise ValueError(f"{len(memories)} memories and {len(images)} images; give one image for each robot")
        if len(set(map(id, memories))) != len(memories):
            raise ValueError("the same memory was given twice; a robot takes one image per step")
        image_SCHW = torch.cat([self._prepare(image) for image in images])
        text_SE = torch.stack([memory.text_E for memory in memories])
        position_SPE = self.model.encode_positions(image_SCHW, text_SE)
        token_SKE, map_SKP = self.model.token_learner.pool(position_SPE)
        for memory, token_KE, map_KP in zip(memories, token_SKE, map_SKP, strict=True):
            earlier_TKE = memory.token_TKE[max(0, len(memory.token_TKE) + 1 - self.model.config.window) :]
            memory.token_TKE = torch.cat([earlier_TKE, token_KE[None]])
            memory.map_KP = map_KP.clone()  # not a view, which would keep all robots' maps
        return self._decode(memories).numpy()

    def attention_maps(self, memory: Memory) -> FloatArray:
        """Return TokenLearner's weights on the last image, float32 (K, rows, columns); each map's sum is 1."""
        if memory.map_KP is None:
            raise ValueError("there are no attention maps before the first image; take a step first")
        return memory.map_KP.float().unflatten(1, self.model.config.grid).numpy()

    def _prepare(self, image: NDArray[Any]) -> Tensor:
        if image.ndim != 3:
            raise ValueError(f"the image has shape {image.shape}; it must be one RGB image (H, W, 3)")
        return self.model.prepare(torch.from_numpy(np.array(image, order="C"))[None]).float()

    def _decode(self, memories: Sequence[Memory]) -> Tensor:
        """Return each robot's logits of its newest step, (S, A, V)."""
        lengths = [len(memory.token_TKE) for memory in memories]
        text_SE = torch.stack([memory.text_E for memory in memories])
        if len(set(lengths)) == 1:
            token_STKE = torch.stack([memory.token_TKE for memory in memories])
            return self.model.decode_step(token_STKE, lengths[0] - 1, text_SE)
        # Zeros behind the shorter episodes: later steps are causally invisible.
        token_STKE = torch.nn.utils.rnn.pad_sequence([memory.token_TKE for memory in memories], batch_first=True)
        return self.model.decode(token_STKE, text_SE)[torch.arange(len(lengths)), torch.tensor(lengths) - 1]
