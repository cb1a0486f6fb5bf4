"""What a run trains on: the split, the loaders, and each episode's text embedding."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec
from rt1.checkpoint import CheckpointInfo, Embodiment, SharedInfo
from rt1.common.suggest import unknown_name
from rt1.common.system import command_line
from rt1.data.open_mixture import Samples, WeightedSource, split_sources
from rt1.data.pipeline.loader import Loader
from rt1.data.pipeline.sentences import Sentences
from rt1.data.pipeline.windows import Clips, Windows
from rt1.data.sources.base import (
    CORRECTIONS,
    EpisodeSource,
    all_instructions,
    has_corrections,
    instructions_of,
    optional_members,
)
from rt1.data.sources.concat import Embodiments
from rt1.data.sources.images import image_size
from rt1.data.statistics import source_statistics
from rt1.errors import DataError
from rt1.model.rt1 import RT1Config
from rt1.text.encoder import TextEncoder, TextEncoderIdentity
from rt1.text.paraphrases import Paraphrases
from rt1.text.pieces import UNKNOWN_KEY, check_different, with_unknown
from rt1.train.config import InstructionChoice, TrainConfig


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data of a run: loaders, split and text encoder."""

    source: EpisodeSource
    text_encoder: TextEncoderIdentity | None  # encoder of the text embeddings
    unknown: frozenset[str]  # instructions with pieces that the text encoder does not know
    paraphrases: str | None  # hash of the paraphrases; None without
    train: Loader  # shuffled windows of the training episodes
    held_out: Loader | None  # None where no episode is held out
    held_out_episodes: NDArray[np.int64]

    @property
    def embodiments(self) -> Embodiments:
        """The kinds of robots in the data. Usually one."""
        return self.train.embodiments

    def fit(self, model: RT1Config) -> RT1Config:
        """Return the network's configuration with the data's action dimensions, bins and text embeddings."""
        width = self.train.take(np.array([0])).text_BE.shape[1]
        return fitted(model, list(self.embodiments.specs.values()), width=width, text_encoder=self.text_encoder)


def fitted(
    model: RT1Config, specs: Sequence[ActionSpec], *, width: int, text_encoder: TextEncoderIdentity | None
) -> RT1Config:
    """Return a network's configuration for these actions and text embeddings.

    Args:
        model: the other settings.
        specs: the action spec, or that of each embodiment.
        width: entries of a text embedding.
        text_encoder: encoder of the text embeddings. None: not known, an embedding is one vector.
    """
    text = model.text
    if text_encoder is not None:
        text = dataclasses.replace(text, tokens=text_encoder.tokens, vocabulary=text_encoder.vocabulary)
    return dataclasses.replace(
        model,
        action_tokens=max(spec.size for spec in specs),
        embodiments=tuple(spec.size for spec in specs) if len(specs) > 1 else (),
        bins=specs[0].bins,
        text_width=width,
        text=text,
    )


def prepare_data(
    data: EpisodeSource | Sequence[WeightedSource],
    config: TrainConfig,
    *,
    encoder: TextEncoder | None = None,
    paraphrases: Paraphrases | None = None,
) -> TrainingData:
    """Split the data and build the loaders.

    Args:
        data: recorded episodes, or several data sets and their shares.
        config: window, clip, batch size, seed, held-out share, choice among several instructions.
        encoder: encoder for the instructions. None: the embeddings stored with the episodes.
        paraphrases: further sentences for an instruction. They need an encoder.

    Raises:
        DataError: no episodes, no text embeddings and no encoder, or paraphrases that cannot be used.
    """
    sources = data if isinstance(data, Sequence) else [WeightedSource(source=data)]

    def cut(lengths: NDArray[np.int64], episodes: NDArray[np.int64]) -> Windows | Clips:
        windows = Windows(lengths=lengths, episodes=episodes, window=config.model.window)
        return Clips(windows=windows, group=config.windows_per_clip) if config.windows_per_clip else windows

    split = split_sources(sources, cut=cut, held_out=config.held_out, seed=config.seed)
    text: NDArray[np.float32] | Sentences
    if paraphrases or config.instruction_choice != "first":
        text = several_sentences(split.source, encoder, paraphrases or {}, choice=config.instruction_choice)
    else:
        text = text_embeddings(split.source, encoder)

    def loader(samples: Samples) -> Loader:
        return Loader(
            split.source,
            samples,
            text=text,
            batch_size=config.batch_size // max(1, config.windows_per_clip),
            seed=config.seed,
            threads=config.loader_threads,
        )

    return TrainingData(
        source=split.source,
        text_encoder=_text_encoder([weighted.source for weighted in sources]) if encoder is None else encoder.identity,
        unknown=frozenset(with_unknown(encoder, all_instructions(split.source))),
        paraphrases=checksum(paraphrases) if paraphrases else None,
        train=loader(split.train),
        held_out=None if split.held_out is None else loader(split.held_out),
        held_out_episodes=split.held_out_episodes,
    )


def _text_encoder(sources: Sequence[EpisodeSource]) -> TextEncoderIdentity | None:
    """Return the one encoder of all stored embeddings, or None if the sources do not name it."""
    first, *others = {stored_text_encoder(source) for source in sources}
    if others:
        names = sorted({str(identity and identity.name) for identity in (first, *others)})
        raise DataError(
            f"the data sets' text embeddings come from different encoders: {', '.join(names)}. Name one text encoder "
            "for the instructions of all"
        )
    return first


def text_embeddings(source: EpisodeSource, encoder: TextEncoder | None) -> NDArray[np.float32]:
    """Return float32 (episodes, E): encoded instructions, or the embeddings stored with the episodes."""
    episodes = range(len(source.lengths))
    if encoder is not None:
        sentences = _filled([source.instruction(episode) for episode in episodes], source)
        distinct = sorted(set(sentences))
        vectors = encoder.encode(distinct)
        check_different(distinct, vectors, encoder)
        table = dict(zip(distinct, vectors, strict=True))
        return np.stack([table[sentence] for sentence in sentences])
    rows = []
    for episode in episodes:
        row = source.text_embedding(episode)
        if row is None:
            raise DataError(
                f"{source.name}, episode {episode} has no text embedding. Name a text encoder for its instructions, "
                "such as --text-encoder minilm"
            )
        rows.append(row)
    vectors = np.stack(rows)
    check_different([source.instruction(episode) for episode in episodes], vectors)
    return vectors


def _filled(instructions: list[str], source: EpisodeSource) -> list[str]:
    """Return the instructions of all episodes. Empty ones raise :class:`DataError`."""
    if empty := [episode for episode, instruction in enumerate(instructions) if not instruction.strip()]:
        raise DataError(
            f"{source.name}: the instruction of {len(empty)} of {len(instructions)} episodes is empty, the first is "
            f"episode {empty[0]}. Leave these episodes out with --skip-empty"
        )
    return instructions


def stored_text_encoder(source: EpisodeSource) -> TextEncoderIdentity | None:
    """Return the encoder of a source's stored text embeddings, or None if it names none."""
    stored = optional_members(source).text_encoder
    return None if stored is None else TextEncoderIdentity.from_json(stored)


def several_sentences(
    source: EpisodeSource,
    encoder: TextEncoder | None,
    paraphrases: Paraphrases,
    *,
    choice: InstructionChoice = "first",
) -> Sentences:
    """Return each episode's instructions and their paraphrases, every different sentence encoded once.

    Raises:
        DataError: no text encoder, or paraphrases that fit no instruction of the data. Where some do and others do
            not, a warning says how many do not.
    """
    if encoder is None:
        raise DataError(
            "paraphrases and several instructions need a text encoder, since only one text embedding is stored with an "
            "episode. Name the encoder that made these, minilm for instance"
        )
    episodes = range(len(source.lengths))
    own = [(source.instruction(e),) if choice == "first" else instructions_of(source, e) for e in episodes]
    _filled([sentences[0] for sentences in own], source)
    instructions = {instruction for sentences in own for instruction in sentences}
    if unused := sorted(paraphrases.keys() - instructions):
        message = unknown_name("instruction", unused[0], instructions)
        if len(unused) == len(paraphrases):
            raise DataError(f"no paraphrase fits an instruction of {source.name}: {message}")
        warnings.warn(
            f"paraphrases of {len(unused)} of {len(paraphrases)} instructions are not used: {message}", stacklevel=2
        )
    choices = [
        tuple(dict.fromkeys(sentence for one in sentences for sentence in (one, *paraphrases.get(one, ()))))
        for sentences in own
    ]
    distinct = sorted({sentence for sentences in choices for sentence in sentences})
    numbers = {sentence: number for number, sentence in enumerate(distinct)}
    vectors, originals = encoder.encode(distinct), sorted(instructions)
    check_different(originals, vectors[[numbers[sentence] for sentence in originals]], encoder)
    return Sentences(
        vector_RE=vectors,
        rows=np.array([numbers[sentence] for sentences in choices for sentence in sentences], dtype=np.int64),
        counts=np.array([len(sentences) for sentences in choices], dtype=np.int64),
        in_turn=choice == "all",
    )


def checksum(paraphrases: Paraphrases) -> str:
    """Return a hash of paraphrases that does not depend on the order of the instructions."""
    return hashlib.sha256(json.dumps(dict(paraphrases), sort_keys=True).encode()).hexdigest()


def checkpoint_info(network: RT1Config, config: TrainConfig, data: TrainingData) -> CheckpointInfo | SharedInfo:
    """Return the description of a new run's checkpoints. Reads the actions for their statistics."""
    embodiments = data.embodiments
    robots = {
        name: _embodiment(source, embodiments.own_numbers(head, data.held_out_episodes), data.unknown, config)
        for head, (name, source) in enumerate(embodiments.sources.items())
    }
    if embodiments.several:
        provenance = {
            "preset": config.name,
            **_command(),
            "source": data.source.name,
            "episodes": len(data.source.lengths),
        }
        return SharedInfo(model=network, embodiments=robots, text_encoder=data.text_encoder, provenance=provenance)
    (robot,) = robots.values()
    return CheckpointInfo(
        model=network,
        action_spec=robot.action_spec,
        text_encoder=data.text_encoder,
        control_rate=robot.control_rate,
        statistics=robot.statistics,
        provenance={"preset": config.name, **_command(), **robot.provenance},
    )


def _command() -> dict[str, str]:
    command = command_line()
    return {} if command is None else {"command": command}


def _embodiment(
    source: EpisodeSource, held_out: NDArray[np.int64], unknown: frozenset[str], config: TrainConfig
) -> Embodiment:
    details = optional_members(source).details
    unknown = unknown.intersection(all_instructions(source) if unknown else ())
    return Embodiment(
        action_spec=dataclasses.replace(source.action_spec, temperature=config.temperature),
        control_rate=details.get("control_rate"),
        statistics=source_statistics(source),
        provenance={
            "source": source.name,
            "episodes": len(source.lengths),
            "held_out_episodes": held_out.tolist(),
            "tasks": sorted({source.task(episode) for episode in range(len(source.lengths))} - {""}),
            "image_size": list(image_size(source.encoded_images(0, 0, 1)[0])),
            **({"env": details["env"]} if "env" in details else {}),
            **({CORRECTIONS: True} if has_corrections(details) else {}),
            **({UNKNOWN_KEY: sorted(unknown)} if unknown else {}),
        },
    )


def trial_info(info: CheckpointInfo | SharedInfo) -> CheckpointInfo:
    """Return the description of the policy in trials: the only embodiment, or the one with an environment."""
    if isinstance(info, CheckpointInfo):
        return info
    names = [name for name, robot in info.embodiments.items() if robot.provenance.get("env")]
    if len(names) != 1:
        raise ValueError(
            f"closed-loop trials need one embodiment with an environment. Of {', '.join(info.embodiments)} there are "
            f"{len(names)} ({', '.join(names) or 'none'}). Leave the trials out (--closed-loop.every 0)"
        )
    return info.of(names[0])
