"""A policy: an engine that runs the network, the state of an episode, and the decoding of its tokens.

With a checkpoint it needs torch. With an exported folder it needs the library of its format alone:

    from rt1.policy.policy import Policy

    policy = Policy.from_export("exported")
    policy.reset("open the drawer")
    action = policy.act(image)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.common.json_config import check_between
from rt1.errors import ExportError
from rt1.hub.names import policy_path
from rt1.policy.base import BasePolicy, Instruction
from rt1.policy.engines.base import AUTO, Engine, EngineChoice, engine_choice
from rt1.policy.exported import open_export, stored_table
from rt1.policy.exported_manifest import Manifest, Sizes
from rt1.policy.stepper import EpisodeState, PreparedImage, Stepper
from rt1.text.encoder import TABLE_FILE, TableEncoder, TextEncoder, TextEncoderIdentity, check_same_encoder
from rt1.text.pieces import UNKNOWN_KEY, encode_known

if TYPE_CHECKING:
    from rt1.checkpoint import CheckpointInfo
    from rt1.model.rt1 import RT1

EncodeText = Callable[[str], NDArray[np.float32]]
_EXPORT_AGAIN = "Give its text embedding, or export again with --instructions and this sentence"


@dataclass(frozen=True, kw_only=True)
class ActingSettings:
    """How a trained network acts."""

    engine: str | None = None
    """What runs the network: torch, onnx or openvino, with a precision behind a colon (torch:bf16, onnx:int8,
    openvino:bf16). auto takes the fastest that acts as torch in fp32 does, measured once on this machine.
    Default: torch, or the library of an exported folder."""
    device: str = "cpu"
    """Device of the engine torch, as torch names it. auto takes the accelerator (cuda, mps, xpu) if there is one."""
    cond_scale: float = 1.0
    """Guidance: above 1 the instruction counts for more, 0 leaves it out. For networks trained with text.drop."""

    def __post_init__(self) -> None:
        check_between(self, 0, 1000, "cond_scale")
        if self.engine not in (None, AUTO):
            engine_choice(self.engine)


class Policy(BasePolicy):
    """RT-1 with its episode, for one robot: a stepper and an episode state of :mod:`rt1.policy.stepper`.

    Not thread-safe. Use one policy per robot: :meth:`new_session` gives another robot one with the same network. Or
    hold the episodes yourself and step them all as one batch: :meth:`start` and :meth:`step`.
    """

    def __init__(
        self, model: RT1 | Engine | Stepper, action_spec: ActionSpec, *, encode_text: EncodeText | None = None
    ) -> None:
        """Wrap what runs a network.

        Args:
            model: the network, which torch runs on the CPU then, an engine, or a stepper to share.
            action_spec: dimensions and bins it was trained with.
            encode_text: instruction to float32 (E,). Without it only embeddings can be given to :meth:`reset`.
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
        engine: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> Policy:
        """Load a policy from a checkpoint, a run folder, an exported folder, or by name.

        Args:
            path: the folder, the name of a shipped policy, or ``user/name[@revision]`` on the Hugging Face Hub, see
                :func:`rt1.hub.names.policy_path`.
            embodiment: which one it is to act as, where the network has several.
            text_encoder: encoder for instructions. The one the checkpoint names is loaded if this is None.
            cond_scale: guidance, see :class:`rt1.policy.stepper.Stepper`. 1 is the network as it is.
            engine: ``torch``, ``onnx`` or ``openvino``, with a precision behind a colon (``openvino:bf16``), or
                ``auto`` for the fastest that agrees with the network. None: ``torch``, or the export's own.
            device: where torch runs, as torch names it. ``auto`` for the accelerator, where there is one.
            threads: threads of the other engines. The library decides if None.

        Raises:
            CheckpointError: the folder cannot be used, or there is no policy of that name.
            ExportError: an export does not act here as the network does.
            ValueError: ``text_encoder`` is not the one the network was trained with, ``cond_scale`` is not 1 and it was
                not trained for guidance, or the engine cannot run here.
        """
        from rt1.policy.open import describe, open_engine, policy_folder

        folder, info = policy_folder(path), describe(path, embodiment=embodiment)
        if isinstance(info, Manifest):
            label = str(EngineChoice(info.kind, info.precision))
            if engine not in (None, AUTO, label) and str(engine_choice(engine)) != label:
                raise ExportError(f"{path} is an export for {label}, not for {engine}. Leave --engine out")
            if device not in ("cpu", AUTO):
                raise ExportError(f"device is {device}, {path} is an export for the CPU. Leave --device out")
            return cls.from_export(folder, text_encoder=text_encoder, cond_scale=cond_scale, threads=threads)
        encode_text = text_function(info, text_encoder)
        if text_encoder is None and (table := stored_table(folder)) is not None:
            encode_text = _stored_first(table, encode_text)
        opened = open_engine(path, engine or "torch", embodiment=embodiment, device=device, threads=threads)
        return cls(Stepper(opened, cond_scale=cond_scale), info.action_spec, encode_text=encode_text)

    from_pretrained = from_checkpoint
    """Name of :meth:`from_checkpoint` in other libraries."""

    @classmethod
    def from_export(
        cls,
        folder: Path | str,
        *,
        text_encoder: TextEncoder | None = None,
        cond_scale: float = 1.0,
        threads: int | None = None,
    ) -> Policy:
        """Load a policy from what ``rt1 export`` has written. No torch is needed for ``onnx`` and ``openvino``.

        Args:
            folder: the exported folder.
            text_encoder: encoder for instructions. The sentences stored in the export if None.
            cond_scale: guidance, see :class:`rt1.policy.stepper.Stepper`.
            threads: threads that compute. The library decides if None.

        Raises:
            ExportError: the folder cannot be used, or it does not act here as the network does.
            ValueError: ``text_encoder`` is not the one the network was trained with.
            ModuleNotFoundError: the library is not installed.
        """
        folder = policy_path(folder)
        engine, manifest = open_export(folder, threads=threads)
        if text_encoder is not None:
            encode_text = text_function(manifest, text_encoder)
        elif TABLE_FILE in manifest.files:
            encode_text = _stored_first(TableEncoder.load(folder / TABLE_FILE), None, cure=_EXPORT_AGAIN)
        else:
            encode_text = _without_table(manifest.text_encoder)
        return cls(Stepper(engine, cond_scale=cond_scale), manifest.action_spec, encode_text=encode_text)

    @property
    def model(self) -> RT1:
        """The network, where torch runs it."""
        from rt1.policy.engines.torch import TorchEngine

        engine = self.stepper.engine
        if not isinstance(engine, TorchEngine):
            raise AttributeError(f"the engine {engine.label} has no torch network. Use Policy.sizes, or engine='torch'")
        return engine.model

    @property
    def sizes(self) -> Sizes:
        """Sizes of the network."""
        return self.stepper.engine.sizes

    @property
    def engine(self) -> str:
        """What runs the network, for example ``onnx:int8``."""
        return self.stepper.engine.label

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
            raise RuntimeError("act() was called before reset(). Call reset(instruction) at the start of an episode")
        return self._state

    @property
    def text_embedding(self) -> FloatArray:
        """Text embedding of the policy's own episode, float32 (E,)."""
        return self.state.text_E

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
        given: Any = instruction
        if given is None or (isinstance(given, str) and not given.strip()):
            raise ValueError(f"the instruction is {given!r}, must say something. Give a sentence")
        if not isinstance(instruction, str):
            return np.asarray(instruction)
        if self._encode_text is None:
            raise ValueError(
                f"the instruction {instruction!r} needs a text encoder. Give its text embedding, or a text encoder "
                "when loading the policy"
            )
        return self._encode_text(instruction)


def text_function(info: CheckpointInfo | Manifest, encoder: TextEncoder | None) -> EncodeText | None:
    """Return instruction -> vector with the encoder of a network, loaded at its first use. None: it is not known."""
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
            from rt1.text.load import load_identified

            assert identity is not None
            encoder = load_identified(identity)
        return encode_known(encoder, instruction, trained=trained)

    return encode


def _stored_first(
    table: TableEncoder, encode: EncodeText | None, *, cure: str = "Give one of them, or its text embedding"
) -> EncodeText:
    """Return instruction -> vector of the sentences that a policy's folder holds, and of others by its text encoder."""

    def encode_text(instruction: str) -> NDArray[np.float32]:
        if instruction in table.sentences:
            return table.encode([instruction])[0]
        if encode is None:
            raise ValueError(f"{table.unknown(instruction)}. {cure}")
        try:
            return encode(instruction)
        except (ValueError, ModuleNotFoundError) as error:
            raise ValueError(f"{table.unknown(instruction)}. Another one needs the text encoder ({error})") from error

    return encode_text


def _without_table(identity: TextEncoderIdentity | None) -> EncodeText:
    def refuse(_instruction: str) -> NDArray[np.float32]:
        source = "" if identity is None else f" of {identity}"
        raise ValueError(f"this export has no table of text embeddings{source}. {_EXPORT_AGAIN}")

    return refuse
