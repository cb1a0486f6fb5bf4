"""What is in a checkpoint or a data set, as text for the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text

from rt1.actions import ActionSpec, Discrete
from rt1.checkpoint import CheckpointInfo, Embodiment, SharedInfo, load_outline, load_whole_info, resolve
from rt1.common import json_config
from rt1.data.survey import ActionSurvey, DataSurvey
from rt1.model.heads import parameter_counts
from rt1.report.dataset_checks import Finding, sampling, sizes
from rt1.report.svg import percent

_SENTENCES = 100


def checkpoint_text(path: Path | str) -> str:
    """Return a checkpoint's configuration, parameters per component, action spec, text encoder and provenance."""
    folder, info = resolve(path), load_whole_info(path)
    counts = Table("component", "parameters", title=Text(f"checkpoint {folder}"))
    model, problem = load_outline(folder)
    for name, count in parameter_counts(model).items():
        counts.add_row(name, f"{count:,}")
    facts = {
        "weights": "all finite" if problem is None else f"NOT USABLE: {problem}",
        "text encoder": "not known" if info.text_encoder is None else str(info.text_encoder),
        **({"control rate": _rate(info)} if isinstance(info, CheckpointInfo) else {}),
        **_provenance(info),
        "network": json.dumps(json_config.to_json(info.model)),
    }
    if isinstance(info, CheckpointInfo):
        return _text(counts, _spec_table(info.action_spec), _facts("facts", facts))
    robots = [
        table
        for name, robot in info.embodiments.items()
        for table in (
            _spec_table(robot.action_spec, f"embodiment {name}: "),
            _facts(f"embodiment {name}", {"control rate": _rate(robot), **_provenance(robot)}),
        )
    ]
    return _text(counts, *robots, _facts("facts", facts))


def _rate(robot: CheckpointInfo | Embodiment) -> str:
    return "not known" if robot.control_rate is None else f"{robot.control_rate:g} Hz"


def _provenance(made: CheckpointInfo | SharedInfo | Embodiment) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in made.provenance.items()}


def data_text(survey: DataSurvey, findings: Sequence[Finding]) -> str:
    """Return a data set's size, instructions, image size, actions against their bounds, and what deserves a look."""
    lengths = survey.lengths
    facts = {
        "episodes": f"{len(lengths):,}",
        "steps": f"{survey.steps:,}",
        "steps per episode": f"{lengths.min()}..{lengths.max()}, median {np.median(lengths):g}",
        "image": sizes(survey.images),
        "text embedding": "none stored" if survey.embedding_width is None else f"{survey.embedding_width} entries",
        "sampled": ". ".join(sampling(survey)),
    }
    remarks = [Text(str(finding)) for finding in findings] or [Text("No check found anything.")]
    return _text(
        _facts(f"data set {survey.name}", facts), _instruction_table(survey), _action_table(survey.actions), *remarks
    )


def _facts(title: str, facts: dict[str, str]) -> Table:
    table = Table("what", "value", title=Text(title), show_header=False)
    for name, value in facts.items():
        table.add_row(Text(name), Text(value))
    return table


def _instruction_table(survey: DataSurvey) -> Table:
    table = Table("instruction", "episodes", title="instructions")
    for sentence, count in survey.instructions[:_SENTENCES]:
        table.add_row(Text(sentence if sentence.strip() else "(empty)"), str(count))
    if len(survey.instructions) > _SENTENCES:
        table.add_row(f"and {len(survey.instructions) - _SENTENCES} more", "")
    return table


def _action_table(actions: ActionSurvey) -> Table:
    spec, statistics = actions.spec, actions.statistics
    columns: dict[str, NDArray[np.floating[Any]]] = {
        "low": spec.low,
        "high": spec.high,
        "min": statistics.minimum,
        "1 %": statistics.q01,
        "mean": statistics.mean,
        "99 %": statistics.q99,
        "max": statistics.maximum,
    }
    dimension = Column("dimension", overflow="fold")
    table = Table(dimension, *columns, "outside", "bins", title="actions against their bounds")
    for index, name in enumerate(spec.dimension_names):
        cells = [f"{column[index]:.3g}" for column in columns.values()]
        table.add_row(Text(name), *cells, percent(float(actions.outside[index])), str(actions.bins_used[index]))
    table.caption = f"outside: share of values outside the bounds. bins: of {spec.bins}, from 1 % to 99 %"
    return table


def _spec_table(spec: ActionSpec, of: str = "") -> Table:
    table = Table("part", "dimension", "low", "high", title=Text(f"{of}action, {spec.bins} bins"))
    dimensions = [(part, name) for part in spec.parts for name in part.dimension_names]
    for (part, name), low, high in zip(dimensions, spec.low, spec.high, strict=True):
        bounds = (f"one of {part.choices}", "") if isinstance(part, Discrete) else (f"{low:g}", f"{high:g}")
        table.add_row(Text(part.name), Text(name), *bounds)
    return table


def _text(*parts: RenderableType) -> str:
    console = Console(width=110)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return capture.get()
