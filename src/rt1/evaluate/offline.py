"""Offline evaluation: recorded episodes through the network, as the robot runs it and as training saw it.

*Streaming*: a :class:`~rt1.policy.policy.Policy` takes the images of an episode one after another from an empty
memory, and every step counts. *Windows*: the loader's windows of T steps go through the network at once, as in
validation. Their last steps are counted, and all of their steps. Where a window holds what the policy has in its memory
(:attr:`rt1.evaluate.offline.WindowBlock.as_streamed`) both must give the same logits up to float32 rounding, and
that covers every step of every episode: the comparison is part of every evaluation.

Memory does not grow with the data: sums, counts, one clip, and the few episodes that are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rt1.actions import FloatArray, spec_difference
from rt1.common.progress import progress
from rt1.data.pipeline.loader import Loader
from rt1.data.pipeline.windows import Clips, Windows
from rt1.data.sources.base import EpisodeSource
from rt1.errors import DataError
from rt1.evaluate.episode_choice import ChosenEpisodes, InstructionSource
from rt1.evaluate.episode_trace import EpisodePlot, EpisodeRecorder, stream_episode
from rt1.evaluate.scores import ActionScores, TokenCounts
from rt1.model.rt1 import RT1
from rt1.policy.agreement import NOTHING_COMPARED, Agreement, compare_logits
from rt1.policy.policy import Policy
from rt1.policy.stepper import guided


@dataclass(kw_only=True)
class OfflineResult:
    """The scores and counts of an offline evaluation."""

    source: str  # data set
    chosen: ChosenEpisodes
    words: InstructionSource  # source of the instructions
    streaming: ActionScores  # every step, as the robot runs
    window_last: ActionScores  # the last step of every window
    window_all: ActionScores  # all steps of every window, as in training and its validation
    counts: TokenCounts  # tokens and confidences of the streaming steps
    agreement: Agreement = NOTHING_COMPARED  # streaming against windows
    without_instruction: list[int] = field(default_factory=list)  # skipped episodes
    plots: list[EpisodePlot] = field(default_factory=list)

    @property
    def scores(self) -> dict[str, ActionScores]:
        """The scores of each kind by its name on the page."""
        return {
            "streaming": self.streaming,
            "windows, last steps": self.window_last,
            "windows, all steps": self.window_all,
        }


def evaluate_offline(
    policy: Policy, source: EpisodeSource, chosen: ChosenEpisodes, words: InstructionSource, *, shown: int = 4
) -> OfflineResult:
    """Run a policy over recorded episodes and score its predictions.

    Args:
        policy: its current episode is replaced.
        source: recorded episodes with the policy's action spec.
        chosen: see :func:`rt1.evaluate.episode_choice.choose_episodes`.
        words: see :func:`rt1.evaluate.episode_choice.choose_words`.
        shown: episodes to plot, evenly spaced among the chosen.

    Raises:
        DataError: another action spec than the policy's, data that cannot be read, or no episode with an instruction.
    """
    _check_action_spec(policy, source)
    if shown < 0:
        raise ValueError(f"shown is {shown}, must be at least 0. Use 0 to show no episode")
    spec = policy.action_spec
    result = OfflineResult(
        source=source.name,
        chosen=chosen,
        words=words,
        streaming=ActionScores(spec),
        window_last=ActionScores(spec),
        window_all=ActionScores(spec),
        counts=TokenCounts(spec),
    )
    numbers = chosen.numbers.tolist()

    to_show = np.linspace(0, len(numbers) - 1, min(shown, len(numbers))).astype(int).tolist()
    done = 0
    with progress("offline evaluation", int(source.lengths[numbers].sum()), unit="steps") as bar:
        for index, episode in enumerate(numbers):
            instruction = words.of(source, episode)  # read here: all at once can take minutes before the first step
            if instruction is None:
                result.without_instruction.append(episode)
            else:
                policy.reset(instruction)
                watch = None
                if to_show and index >= to_show[0]:  # the next one with an instruction replaces one without
                    del to_show[0]
                    watch = EpisodeRecorder(source, episode, attention=policy.attention_maps)
                for steps in _run_episode(policy, source, episode, result, watch):
                    bar.update(done + steps)
                if watch is not None:
                    result.plots.append(watch.plot())
            done += int(source.lengths[episode])
            bar.update(done)
    if len(result.without_instruction) == len(numbers):
        raise DataError(f"no episode of {source.name} that was chosen has an instruction. Give others, or embeddings")
    return result


def _check_action_spec(policy: Policy, source: EpisodeSource) -> None:
    if source.action_spec != policy.action_spec:
        raise DataError(
            f"the actions of {source.name} are not those of the checkpoint "
            f"({spec_difference(source.action_spec, policy.action_spec)}). Evaluate it on data with its own action "
            "spec, or map the data to it (rt1.data.sources.concat.MappedSource)"
        )


def _run_episode(
    policy: Policy, source: EpisodeSource, episode: int, result: OfflineResult, watch: EpisodeRecorder | None
) -> Iterator[int]:
    """Count one episode in both forms, a clip at a time, and yield the number of steps done."""
    steps = stream_episode(policy, source, episode)
    logits: list[FloatArray] = []  # as far back as a clip reaches
    first = done = 0
    for block in window_blocks(policy.model, source, episode, policy.text_embedding, cond_scale=policy.cond_scale):
        for image, logits_AV in islice(steps, block.stop - done):
            logits.append(logits_AV)
            if watch is not None:
                watch.add(image, policy.action_spec.decode_logits(logits_AV)[1])
        del logits[: block.start - first]
        logits_SAV, first = np.stack(logits), block.start
        action_SA = source.actions(episode, block.start, block.stop)
        new = slice(done - block.start, None)
        _count_streaming(result, logits_SAV[new], action_SA[new])
        _count_windows(result, block, torch.from_numpy(action_SA))
        same_GT = block.as_streamed()
        streamed_NAV = logits_SAV[block.step_GT[same_GT] - block.start]
        result.agreement += compare_logits(streamed_NAV, block.logits_GTAV.numpy()[same_GT])
        done = block.stop
        yield done


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


GROUP = 16
"""Windows cut from a clip: the images they share are encoded once."""
_IMAGES = 8  # encoded at once, which bounds the memory whatever their size


@dataclass(frozen=True, kw_only=True)
class WindowBlock:
    """Some neighbouring windows of an episode."""

    start: int  # first step of the first window
    stop: int  # exclusive last step of the last window
    step_GT: NDArray[np.int64]  # step of the episode, at padding any readable step
    valid_GT: NDArray[np.bool_]  # false at padding, after the end of a short episode
    token_GTA: Tensor  # recorded action tokens
    logits_GTAV: Tensor  # float32

    def last_steps(self) -> NDArray[np.bool_]:
        """Return bool (G, T), True at the last step of each window, which a policy acts on."""
        followed = np.zeros_like(self.valid_GT)
        followed[:, :-1] = self.valid_GT[:, 1:]
        return self.valid_GT & ~followed

    def as_streamed(self) -> NDArray[np.bool_]:
        """Return bool (G, T), True where the network sees exactly what a policy has in its memory at that step.

        That is every step of the episode's first window, and the last step of every other. Until the window is full, a
        policy's memory holds the episode's first images at the first positions, as the first window does.
        """
        full = np.zeros_like(self.valid_GT)
        full[:, -1] = True
        return self.valid_GT & (full | (self.step_GT[:, :1] == 0))


@torch.inference_mode()
def window_blocks(
    model: RT1, source: EpisodeSource, episode: int, text_E: FloatArray, *, cond_scale: float = 1.0
) -> Iterator[WindowBlock]:
    """Yield all windows of an episode without padding in front, as in validation during training.

    ``model`` is in evaluation mode, on the CPU. ``text_E`` is float32 (E,). For ``cond_scale`` see
    :class:`rt1.policy.stepper.Stepper`.
    """
    windows = Windows(lengths=source.lengths, episodes=np.array([episode]), window=model.config.window)
    clips = Clips(windows=windows, group=GROUP)
    text = np.broadcast_to(text_E, (len(source.lengths), len(text_E)))
    loader = Loader(source, clips, text=text, batch_size=1, seed=0)
    drops = (None,) if cond_scale == 1.0 else (None, torch.ones(1, dtype=torch.bool))  # guidance compares with no text
    conditions = [model.text(torch.from_numpy(text_E)[None], drop) for drop in drops]
    for number, batch in enumerate(loader.in_order()):
        assert batch.cuts is not None
        present = batch.cuts.valid_BGT[0].any(axis=1)
        place_GT, valid_GT = batch.cuts.index_BGT[0][present], batch.cuts.valid_BGT[0][present]
        start = int(clips.places(np.array([number])).starts[0])
        image_SHWC = torch.from_numpy(batch.images[0].image_NTHWC[0][batch.valid_BT[0]])
        logits = [_logits(model, image_SHWC, place_GT, condition_1) for condition_1 in conditions]
        yield WindowBlock(
            start=start,
            stop=start + len(image_SHWC),
            step_GT=start + place_GT,
            valid_GT=valid_GT,
            token_GTA=torch.from_numpy(batch.token_BTA)[0][place_GT],
            logits_GTAV=logits[0] if cond_scale == 1.0 else guided(logits[0], logits[1], cond_scale),
        )


def _logits(model: RT1, image_SHWC: Tensor, place_GT: NDArray[np.int64], condition_1: Tensor) -> Tensor:
    """Return logits (G, T, A, V) of windows cut from consecutive images. Padding comes after the real steps."""
    pieces = [
        model.encode(model.prepare(piece), condition_1.expand(len(piece), *condition_1.shape[1:]))
        for piece in image_SHWC.split(_IMAGES)
    ]
    windows = len(place_GT)
    return model.decode(torch.cat(pieces)[place_GT], condition_1.expand(windows, *condition_1.shape[1:]))
