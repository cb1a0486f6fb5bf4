"""Recorded and predicted actions of an episode, for a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from rt1.actions import FloatArray
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.decoding import each_image
from rt1.envs.base import Image
from rt1.evaluate.episode_choice import ChosenEpisodes, InstructionSource
from rt1.policy.policy import Policy

_READ_AHEAD = 32  # images read in one go


@dataclass(frozen=True, kw_only=True)
class AttentionView:
    """TokenLearner's attention in one image."""

    step: int
    image: Image  # uint8 RGB (H, W, 3)
    map_KRC: FloatArray
    """float32 (K, rows, columns), of each image token the weights on the positions of the image, with sum 1."""


@dataclass(frozen=True, kw_only=True)
class EpisodePlot:
    """One episode: recorded and predicted actions at the same images."""

    title: str
    dimension_names: Sequence[str]
    recorded: FloatArray  # (S, A) recorded actions, physical units
    predicted: FloatArray  # (S, A) predicted actions, physical units
    steps: Sequence[int]  # of the images
    images: Sequence[Image] = field(repr=False)  # uint8 RGB (H, W, 3), at least one
    attention: Sequence[AttentionView] = field(default=(), repr=False)  # TokenLearner's maps

    def __post_init__(self) -> None:
        width = len(self.dimension_names)
        shapes = self.recorded.shape, self.predicted.shape
        if shapes[0] != shapes[1] or shapes[0][1:] != (width,) or not self.images:
            raise ValueError(
                f"episode plot {self.title!r}: recorded {shapes[0]} and predicted {shapes[1]} must both be "
                f"(S, {width}), one column per dimension name, with at least 1 image (got {len(self.images)})"
            )
        if len(self.steps) != len(self.images):
            raise ValueError(f"episode plot {self.title!r}: {len(self.steps)} steps for {len(self.images)} images")


class EpisodeRecorder:
    """Collects an :class:`EpisodePlot` while a policy runs over an episode, with the images to show."""

    def __init__(
        self,
        source: EpisodeSource,
        episode: int,
        *,
        title: str | None = None,
        attention: Callable[[], FloatArray] | None = None,
        images: int = 8,
    ) -> None:
        """Show ``images`` images, the first and the last included, and the policy's latest attention at three of them.

        The default title is the episode's number and instruction.
        """
        self._title = title or f"Episode {episode}: {source.instruction(episode)!r}"
        self._dimension_names, self._maps = source.action_spec.dimension_names, attention
        steps = int(source.lengths[episode])
        self._recorded = source.actions(episode, 0, steps)
        self._shown = np.unique(np.linspace(0, steps - 1, images).round().astype(int)).tolist()
        last = len(self._shown) - 1
        self._looked_at = {self._shown[index] for index in (last // 6, (last + 1) // 2, last - last // 6)}
        self._predicted: list[FloatArray] = []
        self._images: list[Image] = []
        self._attention: list[AttentionView] = []

    def add(self, image: Image, action_A: FloatArray) -> None:
        """Add the policy's latest step: its image and action (A,) in physical units."""
        step = len(self._predicted)
        self._predicted.append(action_A)
        if step in self._shown:
            self._images.append(image.copy())
        if self._maps is not None and step in self._looked_at:
            self._attention.append(AttentionView(step=step, image=image.copy(), map_KRC=self._maps()))

    def plot(self) -> EpisodePlot:
        """Return the plot, after the last step."""
        return EpisodePlot(
            title=self._title,
            dimension_names=self._dimension_names,
            recorded=self._recorded,
            predicted=np.stack(self._predicted),
            steps=self._shown,
            images=self._images,
            attention=self._attention,
        )


def stream_episode(policy: Policy, source: EpisodeSource, episode: int) -> Iterator[tuple[Image, FloatArray]]:
    """Run a policy, just reset, over a recorded episode, and yield each image and the policy's logits.

    Images are uint8 RGB (H, W, 3), logits float32 (A, V).
    """
    steps = int(source.lengths[episode])
    for start, stop in pairwise([*range(0, steps, _READ_AHEAD), steps]):
        for image in each_image(source, episode, start, stop):
            yield image, policy.logits(image)


def episode_plots(
    policy: Policy, source: EpisodeSource, chosen: ChosenEpisodes, words: InstructionSource, *, most: int = 12
) -> list[EpisodePlot]:
    """Return plots of the first episode with an instruction of each task, of at most ``most`` tasks."""
    kind = "held-out episode" if chosen.held_out else "episode"
    plots: dict[str, EpisodePlot] = {}
    for episode in chosen.numbers.tolist():
        instruction, task = words.of(source, episode), source.task(episode) or source.instruction(episode)
        if instruction is None or task in plots or len(plots) == most:
            continue
        policy.reset(instruction)
        title = f"{task}, {kind} {episode}: {source.instruction(episode)!r}"
        watch = EpisodeRecorder(source, episode, title=title, attention=policy.attention_maps)
        for image, logits_AV in stream_episode(policy, source, episode):
            watch.add(image, policy.action_spec.decode_logits(logits_AV)[1])
        plots[task] = watch.plot()
    return list(plots.values())
