"""Offline evaluation: recorded episodes through the network, as the robot runs it and as training saw it.

*Streaming*: a :class:`~rt1.policy.policy.Policy` takes the images of an episode one after another from an empty
memory, and every step counts. *Windows*: the loader's windows of T steps go through the network at once, as in
validation. Their last steps are counted, and all of their steps. Where a window holds what the policy has in its memory
(:attr:`rt1.evaluate.windowed.WindowBlock.as_streamed`) both must give the same logits up to float32 rounding, and
that covers every step of every episode: the comparison is part of every evaluation.

Memory does not grow with the data: sums, counts, one clip, and the few episodes that are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from rt1.actions import FloatArray, spec_difference
from rt1.common.progress import progress
from rt1.data.sources.base import EpisodeSource
from rt1.errors import DataError
from rt1.evaluate.episode_choice import ChosenEpisodes, Words
from rt1.evaluate.episode_trace import EpisodePlot, EpisodeWatch, named, stream_episode
from rt1.evaluate.scores import ActionScores
from rt1.evaluate.token_counts import TokenCounts
from rt1.evaluate.windowed import WindowBlock, window_blocks
from rt1.policy.agreement import NOTHING_COMPARED, Agreement, compare_logits
from rt1.policy.policy import Policy


@dataclass(kw_only=True)
class OfflineResult:
    """What an offline evaluation counted."""

    source: str
    """Name of the data set."""
    chosen: ChosenEpisodes
    """The episodes."""
    words: Words
    """What the policy was told."""
    streaming: ActionScores
    """Every step, as the robot runs."""
    window_last: ActionScores
    """The last step of every window."""
    window_all: ActionScores
    """All steps of every window, as in training and its validation."""
    counts: TokenCounts
    """Tokens and confidences of the streaming steps."""
    agreement: Agreement = NOTHING_COMPARED
    """Streaming against windows."""
    without_instruction: list[int] = field(default_factory=list)
    """Episodes left out because they have no instruction."""
    plots: list[EpisodePlot] = field(default_factory=list)
    """The episodes shown."""


def evaluate_offline(
    policy: Policy, source: EpisodeSource, chosen: ChosenEpisodes, words: Words, *, shown: int = 4
) -> OfflineResult:
    """Run a policy over recorded episodes and count.

    Args:
        policy: the policy, whose own episode is used.
        source: recorded episodes with the policy's action spec.
        chosen: which of them; see :func:`rt1.evaluate.episode_choice.choose_episodes`.
        words: what it is told; see :func:`rt1.evaluate.episode_choice.choose_words`.
        shown: episodes to plot, evenly spaced among the chosen.

    Raises:
        DataError: another action spec than the policy's, data that cannot be read, or no episode with an instruction.
    """
    _check_action_spec(policy, source)
    if shown < 0:
        raise ValueError(f"{shown} episodes are to be shown; it must be at least 0")
    result = _nothing_counted(policy, source, chosen, words)
    numbers = chosen.numbers.tolist()
    # Words are read as their episode comes: of a large data set they would take minutes before the first step.
    to_show = np.linspace(0, len(numbers) - 1, min(shown, len(numbers))).astype(int).tolist()
    done = 0
    with progress("offline evaluation", int(source.lengths[numbers].sum()), unit="steps") as bar:
        for place, episode in enumerate(numbers):
            told = words.of(source, episode)
            if told is None:
                result.without_instruction.append(episode)
            else:
                policy.reset(told)
                watch = None
                if to_show and place >= to_show[0]:  # the next one with an instruction takes the place of one without
                    del to_show[0]
                    watch = EpisodeWatch(policy, source, episode, title=named(source, episode))
                for steps in _run_episode(policy, source, episode, result, watch):
                    bar.update(done + steps)
                if watch is not None:
                    result.plots.append(watch.plot())
            done += int(source.lengths[episode])
            bar.update(done)
    if len(result.without_instruction) == len(numbers):
        raise DataError(f"no episode of {source.name} that was chosen has an instruction; give others, or embeddings")
    return result


def _nothing_counted(policy: Policy, source: EpisodeSource, chosen: ChosenEpisodes, words: Words) -> OfflineResult:
    spec = policy.action_spec
    return OfflineResult(
        source=source.name,
        chosen=chosen,
        words=words,
        streaming=ActionScores(spec),
        window_last=ActionScores(spec),
        window_all=ActionScores(spec),
        counts=TokenCounts(spec),
    )


def _check_action_spec(policy: Policy, source: EpisodeSource) -> None:
    if source.action_spec != policy.action_spec:
        raise DataError(
            f"the actions of {source.name} are not those of the checkpoint "
            f"({spec_difference(source.action_spec, policy.action_spec)}); evaluate it on data with its own action "
            "spec, or map the data to it (rt1.data.sources.concat.MappedSource)"
        )


def _run_episode(
    policy: Policy, source: EpisodeSource, episode: int, result: OfflineResult, watch: EpisodeWatch | None
) -> Iterator[int]:
    """Count one episode in both forms, a clip at a time, after the policy's reset; yield how many steps are done."""
    streamed = _Streamed(policy, source, episode, watch)
    done = 0
    for block in window_blocks(policy.model, source, episode, policy.text_embedding, cond_scale=policy.cond_scale):
        logits_SAV = streamed.advance(block.start, block.stop)
        action_SA = source.actions(episode, block.start, block.stop)
        new = slice(done - block.start, None)
        _count_streaming(result, logits_SAV[new], action_SA[new])
        _count_windows(result, block, torch.from_numpy(action_SA))
        same_GT = block.as_streamed()
        streamed_NAV, windowed_NAV = (
            logits_SAV[block.step_GT[same_GT] - block.start],
            block.logits_GTAV.numpy()[same_GT],
        )
        result.agreement += compare_logits(streamed_NAV, windowed_NAV)
        done = block.stop
        yield done


class _Streamed:
    """The policy's logits, step after step, kept as far back as a clip reaches."""

    def __init__(self, policy: Policy, source: EpisodeSource, episode: int, watch: EpisodeWatch | None) -> None:
        self._steps, self._watch = stream_episode(policy, source, episode), watch
        self._first = 0
        self._kept: list[FloatArray] = []

    def advance(self, start: int, stop: int) -> FloatArray:
        """Go on until step ``stop`` and return the logits of steps ``start..stop-1``, (S, A, V)."""
        while self._first + len(self._kept) < stop:
            image, logits_AV = next(self._steps)
            if self._watch is not None:
                self._watch.see(image, logits_AV)
            self._kept.append(logits_AV)
        del self._kept[: start - self._first]
        self._first = start
        return np.stack(self._kept)


def _count_streaming(result: OfflineResult, logits_NAV: FloatArray, action_NA: FloatArray) -> None:
    token_NA = result.streaming.action_spec.encode(action_NA)
    result.counts.add(logits_NAV, token_NA)
    result.streaming.add(
        torch.from_numpy(logits_NAV)[None],
        torch.from_numpy(token_NA)[None],
        torch.ones((1, len(token_NA)), dtype=torch.bool),
        torch.from_numpy(action_NA)[None],
    )


def _count_windows(result: OfflineResult, block: WindowBlock, action_SA: torch.Tensor) -> None:
    action_GTA = action_SA[block.step_GT - block.start]
    for scores, mask_GT in ((result.window_last, block.last_steps()), (result.window_all, block.valid_GT)):
        scores.add(block.logits_GTAV, block.token_GTA, torch.from_numpy(mask_GT), action_GTA)
