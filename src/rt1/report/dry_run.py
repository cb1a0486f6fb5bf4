"""The dry run before hardware: recorded episodes sent to a policy server, and a page that compares the actions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray, spec_difference
from rt1.common.files import write_text
from rt1.data.open_data import DataOptions, open_data
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.decoding import each_image
from rt1.evaluate.episode_trace import EpisodePlot, EpisodeRecorder
from rt1.report.html import episode_card, render
from rt1.serve.client import Client
from rt1.serve.robot import ActionLimits

_RT1_RATE = 3.0


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """A server's answers to the images of one recorded episode."""

    plot: EpisodePlot
    limited: FloatArray  # (S, A) predicted actions within the limits of the robot
    seconds: NDArray[np.float64]  # (S,) latency of each action
    action_spec: ActionSpec
    period: float  # seconds between two steps of the episode

    @property
    def late(self) -> NDArray[np.bool_]:
        """(S,) True where the action came after more than a period."""
        return self.seconds > self.period


def replay(
    client: Client,
    folder: Path | str,
    limits: ActionLimits,
    *,
    page: Path | str,
    episodes: Sequence[int] = (0,),
    options: DataOptions | None = None,
) -> Path:
    """Do a dry run of some episodes of a data set, and write the page about them.

    Raises the errors of :func:`rt1.data.open_data.open_data`, which takes ``options``, of :func:`dry_run` and of
    :func:`write_dry_run`, and ``ValueError`` for an unknown episode.
    """
    source = open_data(Path(folder), options or DataOptions())
    if episodes and not 0 <= min(episodes) <= max(episodes) < len(source.lengths):
        raise ValueError(
            f"episodes are {tuple(episodes)}, but {folder} has 0..{len(source.lengths) - 1}. Give some of these"
        )
    return write_dry_run([dry_run(client, source, episode, limits) for episode in episodes], Path(page))


def dry_run(client: Client, source: EpisodeSource, episode: int, limits: ActionLimits) -> DryRun:
    """Send the images of a recorded episode to a server, as fast as it answers. Nothing moves.

    Args:
        client: starts an episode with the recorded instruction, or its text embedding without one. An answer is late
            after more than a period of the policy's control rate, or of 3 Hz if that is unknown.
        source: recorded episodes with the dimensions of the policy's actions. Bounds and bins may differ.
        episode: number of the episode.
        limits: of the robot's actions.

    Raises:
        ValueError: the recording has other actions than the policy, or no instruction.
        ClientError: the server fails.
    """
    spec, recorded_spec = client.action_spec, source.action_spec
    same_choices = np.array_equal(spec.discrete_choices, recorded_spec.discrete_choices)
    if spec.dimension_names != recorded_spec.dimension_names or not same_choices:
        difference = spec_difference(spec, recorded_spec)
        raise ValueError(f"policy and recording have different actions: {difference}. Take a recording of its robot")
    instruction = source.instruction(episode).strip() or source.text_embedding(episode)
    if instruction is None:
        raise ValueError(f"episode {episode} has no instruction. Take another one")
    watch, allowed, seconds = EpisodeRecorder(source, episode), [limits.rest()], []
    client.reset(instruction)
    for image in each_image(source, episode, 0, int(source.lengths[episode])):
        start = time.perf_counter()
        action_A = client.act_vector(image)
        seconds.append(time.perf_counter() - start)
        allowed.append(limits.apply(action_A, allowed[-1]))
        watch.add(image, action_A)
    return DryRun(
        plot=watch.plot(),
        limited=np.stack(allowed[1:]),
        seconds=np.array(seconds),
        action_spec=client.action_spec,
        period=1 / (client.metadata.get("control_rate") or _RT1_RATE),
    )


def write_dry_run(runs: Sequence[DryRun], path: Path) -> Path:
    """Write one self-contained page about dry runs of one policy, and return its path.

    Raises:
        SaveError: the file cannot be written. An older one is unchanged.
        ModuleNotFoundError: matplotlib is not installed.
    """
    page = render(
        "dry_run.html",
        title="Dry run",
        runs=runs,
        **_figures(runs),
        latencies=[1e3 * np.percentile(run.seconds, (50, 95, 99, 100)) for run in runs],
        episodes=[episode_card(run.plot) for run in runs],
    )
    write_text(path, page)
    return path


def _figures(runs: Sequence[DryRun]) -> dict[str, Any]:
    """Return the figures over the steps of all episodes, those of a dimension as (A,)."""
    recorded, predicted, limited = (
        np.concatenate(actions)
        for actions in zip(*((run.plot.recorded, run.plot.predicted, run.limited) for run in runs), strict=True)
    )
    spec, error, changed = runs[0].action_spec, np.abs(predicted - recorded), predicted != limited
    continuous = spec.discrete_choices == 0
    return {
        "steps": len(recorded),
        "error": float((error / (spec.high - spec.low))[:, continuous].mean()) if continuous.any() else None,
        "limited": float(changed.any(axis=1).mean()),
        "late": float(np.concatenate([run.late for run in runs]).mean()),
        "mean_error": error.mean(axis=0),
        "largest_error": error.max(axis=0),
        "recorded": list(zip(recorded.min(axis=0), recorded.max(axis=0), strict=True)),
        "predicted": list(zip(predicted.min(axis=0), predicted.max(axis=0), strict=True)),
        "limited_of_dimension": changed.mean(axis=0),
    }
