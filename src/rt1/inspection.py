"""What is in a checkpoint or a data set, as text for the terminal."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rt1 import settings
from rt1.actions import ActionSpec, Discrete
from rt1.checkpoint import load_info, load_model, parameter_counts, resolve
from rt1.data.bounds import action_statistics
from rt1.data.episode import EpisodeSource
from rt1.evaluate.offline import decode_steps


def inspect_checkpoint(path: Path | str) -> str:
    """Return a checkpoint's configuration, parameters per component, action spec, text encoder and provenance."""
    folder, info = resolve(path), load_info(path)
    counts = Table("component", "parameters", title=f"checkpoint {folder}")
    for name, count in parameter_counts(load_model(folder)).items():
        counts.add_row(name, f"{count:,}")
    facts = Table("what", "value", title="facts", show_header=False)
    facts.add_row("text encoder", "not known" if info.text_encoder is None else str(info.text_encoder))
    facts.add_row("control rate", "not known" if info.control_rate is None else f"{info.control_rate:g} Hz")
    for name, value in info.provenance.items():
        facts.add_row(name, json.dumps(value))
    facts.add_row("network", json.dumps(settings.to_json(info.model)))
    return _text(counts, _spec_table(info.action_spec), facts)


def inspect_data(source: EpisodeSource) -> str:
    """Return a data set's size, instructions, image size, and actions against their bounds."""
    episodes, spec = len(source.lengths), source.action_spec
    height, width, _ = decode_steps(source, 0, 0, 1)[0].shape
    facts = Table("what", "value", title=f"data set {source.name}", show_header=False)
    facts.add_row("episodes", f"{episodes:,}")
    facts.add_row("steps", f"{int(source.lengths.sum()):,}")
    facts.add_row("steps per episode", f"{source.lengths.min()}..{source.lengths.max()}")
    facts.add_row("image", f"{height} x {width}")
    instructions = Table("instruction", "episodes", title="instructions")
    counted = Counter(source.instruction(episode) for episode in range(episodes))
    for sentence, count in counted.most_common(100):
        instructions.add_row(sentence, str(count))
    if len(counted) > 100:
        instructions.add_row(f"and {len(counted) - 100} more", "")
    return _text(facts, instructions, _action_table(source, spec))


def _action_table(source: EpisodeSource, spec: ActionSpec) -> Table:
    statistics = action_statistics(source)
    table = Table("dimension", "low", "high", "min", "1 %", "mean", "99 %", "max", title="actions against their bounds")
    for index, name in enumerate(spec.dimension_names):
        values = (
            spec.low, spec.high, statistics.minimum, statistics.q01, statistics.mean, statistics.q99, statistics.maximum
        )  # fmt: skip
        table.add_row(name, *(f"{column[index]:.4g}" for column in values))
    constant = statistics.constant_dimensions(spec.dimension_names)
    if constant:
        table.caption = f"constant: {', '.join(constant)}"
    return table


def _spec_table(spec: ActionSpec) -> Table:
    table = Table("part", "dimension", "low", "high", title=f"action, {spec.bins} bins")
    index = 0
    for part in spec.parts:
        for name in part.dimension_names:
            bounds = (
                (f"one of {part.choices}", "")
                if isinstance(part, Discrete)
                else (f"{spec.low[index]:g}", f"{spec.high[index]:g}")
            )
            table.add_row(part.name, name, *bounds)
            index += 1
    return table


def _text(*tables: Table) -> str:
    console = Console(width=110)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return capture.get()
