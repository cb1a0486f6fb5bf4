"""The episodes of an offline evaluation, and their instructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.checkpoint import CheckpointInfo
from rt1.data.sources.base import EpisodeSource, optional_members
from rt1.errors import DataError
from rt1.policy.exported_manifest import Manifest
from rt1.text.encoder import TextEncoder, TextEncoderIdentity, check_same_encoder

EpisodeChoice = Literal["all", "held-out"] | int
"""``all``, ``held-out``, or so many, evenly spaced, of those that would be taken otherwise."""


@dataclass(frozen=True, kw_only=True)
class ChosenEpisodes:
    """Episodes to evaluate on, and why these."""

    numbers: NDArray[np.int64]  # ascending, at least one
    reason: str  # a sentence for the report
    held_out: bool | None
    """True where the checkpoint was trained on none of them, False where on some, None where it is not known."""


def choose_episodes(
    source: EpisodeSource, provenance: Mapping[str, Any], choice: EpisodeChoice | None = None
) -> ChosenEpisodes:
    """Choose the episodes to evaluate on.

    Args:
        source: recorded episodes.
        provenance: of the checkpoint. It names its data set and the episodes held out from training.
        choice: None: the held-out episodes if this is the training's data set, else all.

    Raises:
        DataError: no episodes, unknown held-out episodes, or a number below 1.
    """
    total = len(source.lengths)
    if total == 0:
        raise DataError(f"{source.name} has no episodes. Give another data set or split")
    if isinstance(choice, int) and choice < 1:
        raise DataError(f"--episodes is {choice}, must be at least 1, or all, or held-out")
    is_training_data = (provenance.get("source"), provenance.get("episodes")) == (source.name, total)
    numbers = sorted(provenance.get("held_out_episodes", ())) if is_training_data else ()
    held_out, episodes = np.array(numbers, dtype=np.int64), np.arange(total)
    is_held_out = False if is_training_data else None
    if len(held_out) and choice != "all":
        episodes, is_held_out = held_out, True
        reason = f"the {len(held_out)} {'episode' if len(held_out) == 1 else 'episodes'} held out from training"
    elif len(held_out):
        reason = f"all {total} episodes. The policy was trained on {total - len(held_out)} of them"
    else:
        why = _why_all(source, provenance)
        if choice == "held-out":
            raise DataError(f"no held-out episodes are known: {why}. Leave out --episodes, or give --episodes all")
        reason = f"all {total} episodes: {why}"
    if isinstance(choice, int) and choice < len(episodes):
        episodes = episodes[np.linspace(0, len(episodes) - 1, choice).round().astype(int)]
        reason = f"{choice}, evenly spaced, of {reason}"
    return ChosenEpisodes(numbers=episodes, reason=reason, held_out=is_held_out)


def _why_all(source: EpisodeSource, provenance: Mapping[str, Any]) -> str:
    """Return why no episode is known to be held out."""
    name, episodes = provenance.get("source"), provenance.get("episodes")
    if name is None:
        return "the checkpoint does not say what it was trained on"
    if (name, episodes) == (source.name, len(source.lengths)):
        return "the policy was trained on this data set with nothing held out"
    return (
        f"the policy was trained on {name} ({episodes} episodes), this is {source.name} ({len(source.lengths)}). "
        "Whether it has seen some of them is not known (the held-out ones are, where --data is as in training)"
    )


@dataclass(frozen=True, kw_only=True)
class InstructionSource:
    """The source of the instructions: sentences, or the text embeddings stored with the episodes."""

    stored: bool  # whether it is the stored embedding
    origin: str  # source of the text embeddings, in words

    def of(self, source: EpisodeSource, episode: int) -> str | FloatArray | None:
        """Return the sentence or the float32 (E,) embedding of an episode, or None if its sentence is empty."""
        if not self.stored:
            return source.instruction(episode) if source.instruction(episode).strip() else None
        embedding = source.text_embedding(episode)
        if embedding is None:
            raise DataError(
                f"{source.name}, episode {episode} has no text embedding, others have. Name a text encoder for all "
                "with --text-encoder"
            )
        return embedding


def instruction_source(
    source: EpisodeSource, info: CheckpointInfo | Manifest, encoder: TextEncoder | None = None
) -> InstructionSource:
    """Decide between the stored text embeddings and the sentences.

    A given encoder encodes the sentences. Otherwise the stored embeddings are used unless they are of another encoder
    than the checkpoint's. Then the checkpoint's encoder encodes the sentences.
    """
    if encoder is not None:
        return InstructionSource(stored=False, origin=f"the instructions, encoded by {encoder.identity.name}")
    named = optional_members(source).text_encoder
    identity = None if named is None else TextEncoderIdentity.from_json(named)
    embedding = source.text_embedding(0)
    width = info.sizes.text_width if isinstance(info, Manifest) else info.model.text_width
    if embedding is not None and embedding.shape == (width,) and _fits(info, identity):
        maker = "not named" if identity is None else identity.name
        return InstructionSource(stored=True, origin=f"stored with the data (encoder: {maker})")
    maker = "no encoder" if info.text_encoder is None else info.text_encoder.name
    return InstructionSource(stored=False, origin=f"the instructions, encoded by {maker}")


def _fits(info: CheckpointInfo | Manifest, identity: TextEncoderIdentity | None) -> bool:
    if info.text_encoder is None or identity is None:
        return True
    try:
        check_same_encoder(info.text_encoder, identity)
    except ValueError:
        return False
    return True
