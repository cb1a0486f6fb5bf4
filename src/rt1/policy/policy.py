"""A policy: the network, the state of its episode, and the decoding of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.checkpoint import CheckpointInfo, load_info, load_model
from rt1.model.rt1 import RT1
from rt1.policy.autotune import setting_for
from rt1.policy.base import BasePolicy, Instruction
from rt1.policy.stepper import EpisodeState, PreparedImage, Stepper
from rt1.text.encoder import TextEncoder, check_same_encoder
from rt1.text.load import load_identified
from rt1.text.pieces import UNKNOWN_KEY, encode_known


class Policy(BasePolicy):
    """RT-1 with its episode, for one robot: a stepper and an episode state of :mod:`rt1.policy.stepper`.

    Not thread-safe. Use one policy per robot: :meth:`new_session` gives another robot one with the same network. Or
    hold the episodes yourself and step them all as one batch: :meth:`start` and :meth:`step`.
    """

    def __init__(
        self,
        model: RT1 | Stepper,
        action_spec: ActionSpec,
        *,
        encode_text: Callable[[str], NDArray[np.float32]] | None = None,
    ) -> None:
        """Wrap a network.

        Args:
            model: the network, which is put into evaluation mode, or a stepper to share.
            action_spec: dimensions and bins it was trained with.
            encode_text: instruction to float32 (E,); without it only embeddings can be given to :meth:`reset`.
        """
        self.stepper = model if isinstance(model, Stepper) else Stepper(model)
        self.action_spec = action_spec
        self._encode_text = encode_text
        self._state: EpisodeState | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        *,
        embodiment: str | None = None,
        text_encoder: TextEncoder | None = None,
        cond_scale: float = 1.0,
        setting: str = "fp32",
    ) -> Policy:
        """Load a policy from a checkpoint or run folder.

        Args:
            path: the folder.
            embodiment: which one it is to act as, where the network has several.
            text_encoder: encoder for instructions; the one the checkpoint names is loaded if this is None.
            cond_scale: guidance, see :class:`rt1.policy.stepper.Stepper`; 1 is the network as it is.
            setting: how the network is run, as for :func:`rt1.policy.autotune.setting_for`.

        Raises:
            CheckpointError: the folder cannot be used.
            ValueError: ``text_encoder`` is not the one the network was trained with, ``cond_scale`` is not 1 and it was
                not trained for guidance, or the setting cannot run here.
        """
        info = load_info(path, embodiment=embodiment)
        model = load_model(path, embodiment=embodiment)
        stepper = setting_for(path, model, setting).stepper(model, cond_scale=cond_scale)
        return cls(stepper, info.action_spec, encode_text=_text_function(info, text_encoder))

    @property
    def model(self) -> RT1:
        return self.stepper.model

    @property
    def setting(self) -> str:
        """How the network is run: one of :data:`rt1.policy.stepper.SETTINGS`."""
        return self.stepper.setting

    @property
    def cond_scale(self) -> float:
        """Scale of the guidance, 1 for the network as it is."""
        return self.stepper.cond_scale

    @property
    def state(self) -> EpisodeState:
        """The policy's own episode so far.

        Raises:
            RuntimeError: there is none yet.
        """
        if self._state is None:
            raise RuntimeError("act() was called before reset(); call reset(instruction) at the start of an episode")
        return self._state

    @property
    def text_embedding(self) -> FloatArray:
        """Text embedding of the policy's own episode, float32 (E,)."""
        return self.state.text_E.cpu().numpy()

    def new_session(self) -> Policy:
        """Return a policy for another robot with the same network and text encoder, without an episode."""
        return Policy(self.stepper, self.action_spec, encode_text=self._encode_text)

    with_own_memory = new_session
    """Earlier name of :meth:`new_session`."""

    def reset(self, instruction: Instruction) -> None:
        """Forget the last episode and take an instruction: a sentence, or its text embedding, float32 (E,)."""
        self._state = self.start(instruction)

    def logits(self, image: NDArray[Any]) -> FloatArray:
        """Take a new image into the episode and return float32 logits (A, V)."""
        return self.step([self.state], [image])[0]

    def attention_maps(self) -> FloatArray:
        """Return where TokenLearner looked in the last image, float32 (K, rows, columns), each map's sum 1."""
        return self.stepper.attention_maps(self.state)

    def start(self, instruction: Instruction) -> EpisodeState:
        """Return the state of a new episode, apart from the policy's own. The instruction is as for :meth:`reset`."""
        return self.stepper.start(self._embed(instruction))

    def step(self, states: Sequence[EpisodeState], images: Sequence[NDArray[Any] | PreparedImage]) -> FloatArray:
        """Take one new image into each episode and return float32 logits (S, A, V), as :meth:`Stepper.step` does."""
        return self.stepper.step(states, images)

    def prepare(self, image: NDArray[Any]) -> PreparedImage:
        """Return an image as the network's input for :meth:`step`, as :meth:`Stepper.prepare` does."""
        return self.stepper.prepare(image)

    def _embed(self, instruction: Instruction) -> NDArray[np.float32]:
        if not isinstance(instruction, str):
            return np.asarray(instruction)
        if self._encode_text is None:
            raise ValueError(
                f"the instruction {instruction!r} needs a text encoder; give its text embedding, or a text encoder "
                "when loading the policy"
            )
        return self._encode_text(instruction)


def _text_function(info: CheckpointInfo, encoder: TextEncoder | None) -> Callable[[str], NDArray[np.float32]] | None:
    """Return instruction -> vector with the checkpoint's encoder, loaded at its first use."""
    identity = info.text_encoder
    if encoder is not None and identity is not None:
        check_same_encoder(identity, encoder.identity)
    if encoder is None and identity is None:
        return None

    stored = info.provenance.get(UNKNOWN_KEY)
    trained = [str(sentence) for sentence in stored] if isinstance(stored, list) else []

    def encode(instruction: str) -> NDArray[np.float32]:
        nonlocal encoder
        if encoder is None:
            assert identity is not None
            encoder = load_identified(identity)
        return encode_known(encoder, instruction, trained=trained)

    return encode
