"""From LeRobot's data set to what rt1's checkpoint says of itself: network, action spec, text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lerobot_policy_rt1.configuration_rt1 import RT1Config
from rt1.actions import ActionSpec
from rt1.checkpoint import CheckpointInfo
from rt1.data.lerobot.schema import RT1_FILE
from rt1.data.rlds.schema import RecorderNotes, read_recorder_notes
from rt1.data.statistics import spec_between
from rt1.presets import network_config
from rt1.text.load import load_text_encoder
from rt1.text.pieces import UNKNOWN_KEY, with_unknown


def describe(config: RT1Config, dataset_stats: dict[str, Any] | None, dataset_meta: Any) -> CheckpointInfo:
    """Return the description of a new network.

    Args:
        config: preset, text encoder, default task.
        dataset_stats: LeRobot's statistics. The bounds of the action are its minimum and maximum, unless rt1 wrote the
            data set and noted its action spec.
        dataset_meta: LeRobot's metadata, for the rate, the tasks and the notes of rt1. None: not known.

    Raises:
        ValueError: no statistics of the action.
    """
    notes = RecorderNotes()
    if dataset_meta is not None:
        notes = read_recorder_notes(Path(dataset_meta.root) / RT1_FILE, name=str, image_key=str)
    spec = notes.action_spec or _spec(dataset_stats)
    tasks = (
        None if dataset_meta is None else [str(task).strip() or config.default_task for task in _tasks(dataset_meta)]
    )
    encoder = load_text_encoder(config.text_encoder, instructions=tasks)
    unknown = sorted(with_unknown(encoder, tasks or []))
    _, *size = config.image_features[config.camera].shape
    return CheckpointInfo(
        model=network_config(config.preset, spec, encoder.identity),
        action_spec=spec,
        text_encoder=encoder.identity,
        control_rate=None if dataset_meta is None else float(dataset_meta.fps),
        provenance={
            "preset": config.preset,
            "source": "" if dataset_meta is None else str(dataset_meta.repo_id),
            "image_size": list(size),
            **({"env": notes.details["env"]} if "env" in notes.details else {}),
            **({UNKNOWN_KEY: unknown} if unknown else {}),
        },
    )


def _spec(dataset_stats: dict[str, Any] | None) -> ActionSpec:
    statistics = (dataset_stats or {}).get("action")
    if statistics is None:
        raise ValueError(
            "a new policy of type rt1 takes the bounds of its action from a data set, and there are no statistics of "
            "'action'. Give --dataset.repo_id, or a trained policy by --policy.path"
        )
    low, high = (np.asarray(statistics[key], dtype=np.float64) for key in ("min", "max"))
    return spec_between(low, high, parts={"action": len(low)})


def _tasks(dataset_meta: Any) -> list[str]:
    """Return the tasks of a data set: the rows' names of LeRobot's table."""
    return list(dataset_meta.tasks.index)
