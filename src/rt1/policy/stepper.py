"""The batched step: one new image per robot in, one action's logits per robot out, for any number of robots at once.

Shape letters: S robots in one call, T images remembered, K tokens per image, E text or token width, F entries
of a condition, P positions, A action dimensions, V bins.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rt1.actions import FloatArray
from rt1.common.suggest import lookup
from rt1.errors import first_line
from rt1.model.rt1 import RT1
from rt1.policy.base import check_embedding
from rt1.policy.packed.cuda_graphs import Function, Graphs
from rt1.policy.packed.decoder import PlainDecoder, StepDecoder
from rt1.policy.packed.encoder import FoldedEncoder, PlainEncoder
from rt1.policy.packed.layers import Numbers, Target, obstacle, threads_at_most


@dataclass(eq=False, kw_only=True)
class EpisodeState:
    """One robot's episode so far, made by :meth:`Stepper.start`, changed only by :meth:`Stepper.step`."""

    text_E: Tensor
    """Text embedding of the instruction."""
    condition: Tensor
    """The network's condition of it, or of no instruction: (W,), or tokens (S, W)."""
    condition_F: Tensor
    """The image encoder's input computed from the condition, once."""
    token_TKE: Tensor
    """Image tokens of the last images, oldest first; T grows from 0 to the network's window."""
    map_KP: Tensor | None = None
    """TokenLearner's weights on the last image; None before the first one."""
    null: EpisodeState | None = None
    """The same episode without the instruction, where guidance compares with it."""

    @property
    def images(self) -> int:
        return len(self.token_TKE)

    def copy(self) -> EpisodeState:
        return replace(self, null=None if self.null is None else self.null.copy())


class PreparedImage(NamedTuple):
    """An image as the network sees it, made by :meth:`Stepper.prepare`."""

    image_1CHW: Tensor
    """float32 (1, 3, *image_size) in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class StepSetting:
    """How a network is run: one of :data:`SETTINGS`."""

    encoder: Numbers
    """Numbers of the image encoder."""
    decoder: Numbers
    """Numbers of the transformer's linear layers."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Kind of device."""
    graphs: bool = False
    """Record the step as CUDA graphs and replay them: no time is lost between the kernels."""
    threads: int | None = None
    """Threads for each robot of a step, at most torch's number, which is the default. Small matrix products of few bits
    do not benefit from more threads."""

    def obstacle(self) -> str | None:
        """Return in one line why this machine cannot run it, None if it can. The result of one trial is kept."""
        if self.device == "cuda" and not torch.cuda.is_available():
            return "no CUDA device is there"
        targets = [Target(device=torch.device(self.device), numbers=n) for n in (self.encoder, self.decoder)]
        return next((reason for reason in map(obstacle, targets) if reason is not None), None)


SETTINGS: Mapping[str, StepSetting] = {
    "fp32": StepSetting(encoder="fp32", decoder="fp32"),
    "bf16": StepSetting(encoder="bf16", decoder="bf16", threads=1),
    "int8": StepSetting(encoder="bf16", decoder="int8", threads=1),
    "cuda-fp32": StepSetting(encoder="fp32", decoder="fp32", device="cuda"),
    "cuda-bf16": StepSetting(encoder="bf16", decoder="bf16", device="cuda"),
    "cuda-graphs-fp32": StepSetting(encoder="fp32", decoder="fp32", device="cuda", graphs=True),
    "cuda-graphs-bf16": StepSetting(encoder="bf16", decoder="bf16", device="cuda", graphs=True),
}
"""Ways to run a network, by name; ``fp32`` is the one that the others are compared with."""


def packable(model: RT1) -> bool:
    """Say whether all of a network's parts can be packed; others run in ``fp32`` only, as they are."""
    return FoldedEncoder.fits(model) and StepDecoder.fits(model)


class Stepper:
    """A network ready to act. It holds no episode: each robot has its :class:`EpisodeState`. Not thread-safe.

    Each step encodes the one new image, reuses the image tokens of the past images, and runs the transformer once
    (docs/network.md). An episode starts empty, with its first image at the first position of the window.
    """

    def __init__(
        self, model: RT1, *, setting: str = "fp32", cond_scale: float = 1.0, threads: int | None = None
    ) -> None:
        """Fold and pack a network's weights as they are now.

        Args:
            model: the network; it is put into evaluation mode and stays where it is.
            setting: one of :data:`SETTINGS`.
            cond_scale: s of classifier-free guidance: logits are ``null + s * (cond - null)``, computed as one batch.
                1 is the network without guidance and its cost, 0 ignores the instruction.
            threads: CPU threads for each robot of a step, at least 1; the setting's default if None.

        Raises:
            ValueError: a setting that is unknown or does not run here or with this network, no thread, a negative
                scale, or a scale other than 1 for a network trained without text dropout.
        """
        if model.config.embodiments:
            raise ValueError(
                f"this network has {len(model.config.embodiments)} embodiments; load the network of one: "
                "load_model(checkpoint, embodiment=NAME)"
            )
        self.model = model.eval()
        self.cond_scale = _checked_scale(cond_scale, model)
        self.setting = setting
        choice = lookup("backend", setting, SETTINGS)
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1, or None for the setting's default")
        self._threads = choice.threads if threads is None else threads
        self._device = torch.device(choice.device)
        if setting != "fp32" and not packable(model):
            raise ValueError(
                f"the setting {setting!r} is for EfficientNet with FiLM, action tokens and an unconditioned "
                "transformer; this network has another part; use 'fp32'"
            )
        reason = choice.obstacle() or self._pack(choice)
        if reason is not None:
            raise ValueError(f"the setting {setting!r} cannot run here: {reason}; use 'fp32', or 'auto'")

    def _pack(self, choice: StepSetting) -> str | None:
        """Pack the weights and try a step. Return in one line why the setting fails here, None if it runs."""
        model = self.model
        encoder, decoder = (Target(device=self._device, numbers=n) for n in (choice.encoder, choice.decoder))
        folds, packs = FoldedEncoder.fits(model), StepDecoder.fits(model)
        try:
            # oneDNN's layout of small weights depends on the number of threads. Another number packs at every step.
            with torch.inference_mode(), threads_at_most(self._threads):
                encode: FoldedEncoder | PlainEncoder = FoldedEncoder(model, encoder) if folds else PlainEncoder(model)
                decode: StepDecoder | PlainDecoder = StepDecoder(model, decoder) if packs else PlainDecoder(model)
            self._text = copy.deepcopy(model.text).to(self._device)
            self._prepare_condition = encode.prepare
            self._encode: Function = Graphs(encode) if choice.graphs else encode
            self._decode: Function = Graphs(decode) if choice.graphs else decode
            if self.setting != "fp32":
                state = self.start(np.zeros(model.config.text_width, np.float32))
                self.step([state], [np.zeros((*model.config.image_size, 3), np.uint8)])
        except RuntimeError as error:
            if self.setting == "fp32":
                raise
            return first_line(error)
        return None

    @torch.inference_mode()
    def start(self, embedding: FloatArray) -> EpisodeState:
        """Return the state of a new episode for a text embedding, float32 (E,), as :func:`check_embedding` allows."""
        check_embedding(embedding, self.model.config.text_width, vocabulary=self.model.config.text.vocabulary)
        text_E = torch.from_numpy(np.array(embedding, dtype=np.float32)).to(self._device)
        state = self._state(text_E, None)
        if self.cond_scale != 1.0:
            state.null = self._state(text_E, torch.ones(1, dtype=torch.bool, device=self._device))
        return state

    def _state(self, text_E: Tensor, dropped_1: Tensor | None) -> EpisodeState:
        config = self.model.config
        condition = self._text(text_E[None], dropped_1)
        return EpisodeState(
            text_E=text_E,
            condition=condition[0],
            condition_F=self._prepare_condition(condition)[0],
            token_TKE=torch.zeros(0, config.image_tokens, config.token_width, device=self._device),
        )

    @torch.inference_mode()
    def step(self, states: Sequence[EpisodeState], images: Sequence[NDArray[Any] | PreparedImage]) -> FloatArray:
        """Take one new image into each episode and return float32 logits (S, A, V).

        Each robot's logits are those it would get alone, up to the rounding of float32. If an image is refused, no
        episode changes.

        Args:
            states: S different episodes of any length.
            images: S images as for :meth:`prepare`, or its results.

        Raises:
            ValueError: an invalid image, the same episode twice, or unequal numbers of both.
        """
        if len(states) != len(images) or not states:
            raise ValueError(f"{len(states)} episodes and {len(images)} images; give one image for each robot")
        if len(set(map(id, states))) != len(states):
            raise ValueError("the same episode was given twice; a robot takes one image per step")
        with threads_at_most(None if self._threads is None else self._threads * len(states)):
            prepared = [image if isinstance(image, PreparedImage) else self.prepare(image) for image in images]
            image_SCHW = torch.cat([image.image_1CHW for image in prepared])
            nulls = [state.null for state in states if state.null is not None]
            if not nulls:
                return self._logits(states, image_SCHW).cpu().numpy()
            both_SAV = self._logits([*states, *nulls], torch.cat([image_SCHW, image_SCHW]))
            cond_SAV, null_SAV = both_SAV.chunk(2)
            return guided(cond_SAV, null_SAV, self.cond_scale).cpu().numpy()

    def _logits(self, states: Sequence[EpisodeState], image_SCHW: Tensor) -> Tensor:
        token_SKE, map_SKP = self._encode(image_SCHW, torch.stack([state.condition_F for state in states]))
        for state, token_KE, map_KP in zip(states, token_SKE, map_SKP, strict=True):
            earlier_TKE = state.token_TKE[max(0, state.images + 1 - self.model.config.window) :]
            state.token_TKE = torch.cat([earlier_TKE, token_KE[None]])
            state.map_KP = map_KP.clone()  # not a view, which would keep all robots' maps
        # Shorter episodes are padded with zeros: later steps are causally invisible.
        token_STKE = pad_sequence([state.token_TKE for state in states], batch_first=True)
        step_S = torch.tensor([state.images - 1 for state in states], device=self._device)
        return self._decode(token_STKE, step_S, torch.stack([state.condition for state in states]))

    def attention_maps(self, state: EpisodeState) -> FloatArray:
        """Return TokenLearner's weights on the last image, float32 (K, rows, columns); each map's sum is 1."""
        if state.map_KP is None:
            raise ValueError("there are no attention maps before the first image; take a step first")
        return state.map_KP.float().unflatten(1, self.model.config.grid).cpu().numpy()

    @torch.inference_mode()
    def prepare(self, image: NDArray[Any]) -> PreparedImage:
        """Return an image as the network's input. Several threads may call this.

        Args:
            image: RGB (H, W, 3), uint8 in [0, 255] or float in [0, 1], any size.

        Raises:
            ValueError: another shape or dtype, or values outside [0, 1].
        """
        if image.ndim != 3:
            raise ValueError(f"the image has shape {image.shape}; it must be one RGB image (H, W, 3)")
        image_1HWC = torch.from_numpy(np.array(image, order="C"))[None].to(self._device)
        return PreparedImage(self.model.prepare(image_1HWC).float())


def guided(cond: Tensor, null: Tensor, scale: float) -> Tensor:
    """Return logits moved from those without the instruction to those with it, and beyond for a scale above 1."""
    return null + scale * (cond - null)


def _checked_scale(scale: float, model: RT1) -> float:
    if not (math.isfinite(scale) and scale >= 0.0):
        raise ValueError(f"cond_scale is {scale}; it must be a number of at least 0; 1 is the network as it is")
    if scale != 1.0 and model.config.text.drop == 0.0:
        raise ValueError(
            f"cond_scale is {scale}, but this network was trained with the text in every sample (text.drop is 0) and "
            "knows no action without it; use 1, or train with --model.text.drop 0.1"
        )
    return scale
