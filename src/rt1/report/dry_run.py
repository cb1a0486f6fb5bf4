"""The dry run before hardware: a recorded episode sent to a policy server, predicted against recorded on one page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray, spec_difference
from rt1.data.decoding import each_image
from rt1.data.episode import EpisodeSource
from rt1.data.open_data import DataOptions, open_data
from rt1.evaluate.episode_plot import EpisodePlot, named
from rt1.files import write_text
from rt1.report import html as markup
from rt1.report.episodes import episode_cards
from rt1.report.svg import percent
from rt1.serve.client import Client
from rt1.serve.robot import ActionLimits

_SHOWN = 8
_RT1_RATE = 3.0


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a server answered to the images of one recorded episode."""

    plot: EpisodePlot
    """Recorded and predicted actions, some images."""
    told: FloatArray
    """(S, A) what the robot would have been told: the predicted actions within its limits."""
    seconds: NDArray[np.float64]
    """(S,) from sending an image to having its action."""
    action_spec: ActionSpec
    """Dimensions and bounds."""
    period: float
    """Seconds between two steps of the episode."""


def replay(
    client: Client,
    folder: Path,
    limits: ActionLimits,
    *,
    page: Path,
    episodes: Sequence[int] = (0,),
    options: DataOptions | None = None,
) -> Path:
    """Do a dry run of some episodes of a data set, write the page about them, and return its path.

    ``options`` say what the data set does not say of itself, see :class:`rt1.data.open_data.DataOptions`. The errors
    are those of :func:`rt1.data.open_data.open_data`, :func:`dry_run` and :func:`write_dry_run`, and ``ValueError`` for
    the number of an episode that is not there.
    """
    source = open_data(folder, options or DataOptions())
    if episodes and not 0 <= min(episodes) <= max(episodes) < len(source.lengths):
        raise ValueError(
            f"episodes are {tuple(episodes)}; {folder} has 0..{len(source.lengths) - 1}; give some of these"
        )
    return write_dry_run([dry_run(client, source, episode, limits) for episode in episodes], page)


def dry_run(client: Client, source: EpisodeSource, episode: int, limits: ActionLimits) -> DryRun:
    """Send the images of a recorded episode to a server, as fast as it answers; nothing moves.

    Args:
        client: starts a new episode with the recorded instruction, or its text embedding where there is no sentence;
            an answer is late where it takes longer than a period of the policy's control rate, else of RT-1's 3 Hz.
        source: recorded episodes, with the action's dimensions that the server's policy has. Bounds and bins may be
            others: what is compared are physical units.
        episode: number of the episode.
        limits: what the robot may be told.

    Raises:
        ValueError: the recording has other actions than the policy, or no instruction.
        ClientError: the server fails.
    """
    ours, theirs = client.action_spec, source.action_spec
    same_choices = np.array_equal(ours.discrete_choices, theirs.discrete_choices)
    if ours.dimension_names != theirs.dimension_names or not same_choices:
        difference = spec_difference(ours, theirs)
        raise ValueError(f"policy and recording have different actions: {difference}; take a recording of its robot")
    told = source.instruction(episode).strip() or source.text_embedding(episode)
    if told is None:
        raise ValueError(f"episode {episode} has no instruction; take another one")
    steps = int(source.lengths[episode])
    shown = np.unique(np.linspace(0, steps - 1, _SHOWN).round().astype(int)).tolist()
    predicted, allowed, seconds, images = [], [limits.rest()], [], []
    client.reset(told)
    for step, image in enumerate(each_image(source, episode, 0, steps)):
        start = time.perf_counter()
        predicted.append(client.act_vector(image))
        seconds.append(time.perf_counter() - start)
        allowed.append(limits.apply(predicted[-1], allowed[-1]))
        if step in shown:
            images.append(image)
    plot = EpisodePlot(
        title=named(source, episode),
        dimension_names=source.action_spec.dimension_names,
        recorded=source.actions(episode, 0, steps),
        predicted=np.stack(predicted),
        steps=shown,
        images=images,
    )
    return DryRun(
        plot=plot,
        told=np.stack(allowed[1:]),
        seconds=np.array(seconds),
        action_spec=client.action_spec,
        period=1 / (client.metadata.get("control_rate") or _RT1_RATE),
    )


def write_dry_run(runs: Sequence[DryRun], path: Path, *, title: str = "Dry run") -> Path:
    """Write one self-contained page about dry runs of one policy, and return its path.

    Raises:
        SaveError: the file cannot be written; an older one is untouched.
        ModuleNotFoundError: matplotlib is not installed.
    """
    seconds = np.concatenate([run.seconds for run in runs])
    body = markup.fill(
        "rt1.report",
        "templates/dry_run.html",
        cards=episode_cards([run.plot for run in runs]),
        dimensions=_dimension_table(runs),
        latency=_latency_table(runs),
    )
    subtitle = f"{len(runs)} recorded episode{'s' if len(runs) > 1 else ''}, {len(seconds)} steps; nothing moved"
    write_text(path, markup.page(title=title, subtitle=subtitle, headline=_headline(runs), body=body))
    return path


def _headline(runs: Sequence[DryRun]) -> str:
    spec, (recorded, predicted, told) = runs[0].action_spec, _joined(runs)
    continuous = spec.discrete_choices == 0
    of_range = np.abs(predicted - recorded)[:, continuous] / (spec.high - spec.low)[continuous]
    late = np.concatenate([run.seconds > run.period for run in runs])
    error = percent(float(of_range.mean())) if continuous.any() else "\N{EN DASH}"
    return markup.headline(
        [
            ("policy", "Error", error, "mean, of the range"),
            ("policy", "Limited", percent(float((predicted != told).any(axis=1).mean())), "of the actions"),
            ("policy", "Late", percent(float(late.mean())), f"over {1e3 * runs[0].period:.0f} ms"),
            ("recorded", "Steps", str(len(recorded)), "recorded"),
        ]
    )


def _dimension_table(runs: Sequence[DryRun]) -> str:
    recorded, predicted, told = _joined(runs)
    off = np.abs(predicted - recorded)
    rows = [
        (
            markup.escape(name),
            f"{off[:, index].mean():.3g}",
            f"{off[:, index].max():.3g}",
            f"{recorded[:, index].min():.3g} to {recorded[:, index].max():.3g}",
            f"{predicted[:, index].min():.3g} to {predicted[:, index].max():.3g}",
            percent(float((predicted[:, index] != told[:, index]).mean())),
        )
        for index, name in enumerate(runs[0].plot.dimension_names)
    ]
    return markup.table(("", "Mean error", "Largest", "Recorded", "Predicted", "Limited"), rows)


def _latency_table(runs: Sequence[DryRun]) -> str:
    rows = []
    for run in runs:
        p50, p95, p99 = np.percentile(run.seconds, (50, 95, 99)) * 1e3
        late = int((run.seconds > run.period).sum())
        cells = [f"{value:.1f}" for value in (p50, p95, p99, 1e3 * run.seconds.max())]
        rows.append((markup.escape(run.plot.title), *cells, f"{late} of {len(run.seconds)}"))
    return markup.table(("", "p50", "p95", "p99", "Largest", "Late"), rows)


def _joined(runs: Sequence[DryRun]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return recorded, predicted and told actions of all steps, (S, A) each."""
    return (
        np.concatenate([run.plot.recorded for run in runs]),
        np.concatenate([run.plot.predicted for run in runs]),
        np.concatenate([run.told for run in runs]),
    )
