"""Which recorded episodes a checkpoint is evaluated on, and which words it is told for each."""

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
from rt1.text.encoder import TextEncoder, TextEncoderIdentity, check_same_encoder

EpisodeChoice = Literal["all", "held-out"] | int
"""``all``, ``held-out``, or so many, evenly spaced, of those that would be taken otherwise."""


@dataclass(frozen=True, kw_only=True)
class ChosenEpisodes:
    """Episodes and why these."""

    numbers: NDArray[np.int64]  # ascending; at least one
    reason: str  # a sentence for the report
    held_out: bool | None
    """True where the checkpoint was trained on none of them, False where on some; None where it is not known."""


def choose_episodes(
    source: EpisodeSource, provenance: Mapping[str, Any], wanted: EpisodeChoice | None = None
) -> ChosenEpisodes:
    """Choose the episodes to evaluate on.

    Args:
        source: recorded episodes.
        provenance: of the checkpoint; it names its data set and the episodes held out from training.
        wanted: the user's wish; None takes the held-out episodes if this is the data set of the training, else all.

    Raises:
        DataError: no episodes, held-out ones are wanted of a data set that the checkpoint does not name, or a number
            below 1.
    """
    total = len(source.lengths)
    if total == 0:
        raise DataError(f"{source.name} has no episodes; give another data set or split")
    if isinstance(wanted, int) and wanted < 1:
        raise DataError(f"--episodes is {wanted}; it must be at least 1, or all, or held-out")
    own = (provenance.get("source"), provenance.get("episodes")) == (source.name, total)
    held_out = np.array(sorted(provenance.get("held_out_episodes", ())) if own else (), dtype=np.int64)
    if len(held_out) and wanted != "all":
        reason = f"the {len(held_out)} episodes held out from training"
        chosen = ChosenEpisodes(numbers=held_out, reason=reason, held_out=True)
    elif len(held_out):
        reason = f"all {total} episodes; the policy was trained on {total - len(held_out)} of them"
        chosen = ChosenEpisodes(numbers=np.arange(total), reason=reason, held_out=False)
    else:
        why = _why_all(source, provenance)
        if wanted == "held-out":
            raise DataError(f"no held-out episodes are known: {why}; leave out --episodes, or give --episodes all")
        reason = f"all {total} episodes: {why}"
        chosen = ChosenEpisodes(numbers=np.arange(total), reason=reason, held_out=False if own else None)
    if not isinstance(wanted, int) or wanted >= len(chosen.numbers):
        return chosen
    places = np.linspace(0, len(chosen.numbers) - 1, wanted).round().astype(int)
    reason = f"{wanted}, evenly spaced, of {chosen.reason}"
    return ChosenEpisodes(numbers=chosen.numbers[places], reason=reason, held_out=chosen.held_out)


def _why_all(source: EpisodeSource, provenance: Mapping[str, Any]) -> str:
    """Say why no episode is known to be held out."""
    name, episodes = provenance.get("source"), provenance.get("episodes")
    if name is None:
        return "the checkpoint does not say what it was trained on"
    if (name, episodes) == (source.name, len(source.lengths)):
        return "the policy was trained on this data set with nothing held out"
    return (
        f"the policy was trained on {name} ({episodes} episodes), this is {source.name} ({len(source.lengths)}); "
        "whether it has seen some of them is not known (the held-out ones are, where --data is as in training)"
    )


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the policy is told for an episode: its sentence, or the text embedding stored with it."""

    stored: bool  # whether it is the stored embedding
    origin: str  # source of the text embeddings, in words

    def of(self, source: EpisodeSource, episode: int) -> str | FloatArray | None:
        """Return the sentence or the float32 (E,) embedding of an episode; None where it has an empty sentence."""
        if not self.stored:
            return source.instruction(episode) if source.instruction(episode).strip() else None
        embedding = source.text_embedding(episode)
        if embedding is None:
            raise DataError(
                f"{source.name}, episode {episode} has no text embedding, others have; name a text encoder for all "
                "with --text-encoder"
            )
        return embedding


def choose_words(source: EpisodeSource, info: CheckpointInfo, encoder: TextEncoder | None = None) -> Words:
    """Decide between the stored text embeddings and the sentences.

    An encoder that was given encodes the sentences. Otherwise the stored embeddings are taken if they are, as far as is
    known, of the checkpoint's encoder; else the checkpoint's encoder encodes the sentences.
    """
    if encoder is not None:
        return Words(stored=False, origin=f"the instructions, encoded by {encoder.identity.name}")
    named = optional_members(source).text_encoder
    identity = None if named is None else TextEncoderIdentity.from_json(named)
    embedding = source.text_embedding(0)
    if embedding is not None and embedding.shape == (info.model.text_width,) and _fits(info, identity):
        maker = "not named" if identity is None else identity.name
        return Words(stored=True, origin=f"stored with the data (encoder: {maker})")
    maker = "no encoder" if info.text_encoder is None else info.text_encoder.name
    return Words(stored=False, origin=f"the instructions, encoded by {maker}")


def _fits(info: CheckpointInfo, identity: TextEncoderIdentity | None) -> bool:
    if info.text_encoder is None or identity is None:
        return True
    try:
        check_same_encoder(info.text_encoder, identity)
    except ValueError:
        return False
    return True
