"""What a run's checkpoints say of themselves: of one embodiment, or of each that shares the network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rt1.checkpoint import CheckpointInfo, Embodiment, SharedInfo
from rt1.data.sources.base import EpisodeSource, optional_members
from rt1.data.statistics import source_statistics
from rt1.model.rt1 import RT1Config
from rt1.train.config import TrainConfig
from rt1.train.data import TrainingData


def checkpoint_info(network: RT1Config, config: TrainConfig, data: TrainingData) -> CheckpointInfo | SharedInfo:
    """Return what is known before the first update; actions are read for their statistics."""
    found = data.embodiments
    robots = {
        name: _embodiment(source, found.own_numbers(head, data.held_out_episodes))
        for head, (name, source) in enumerate(found.sources.items())
    }
    if found.several:
        provenance = {"preset": config.name, "source": data.source.name, "episodes": len(data.source.lengths)}
        return SharedInfo(model=network, embodiments=robots, text_encoder=data.text_encoder, provenance=provenance)
    (robot,) = robots.values()
    return CheckpointInfo(
        model=network,
        action_spec=robot.action_spec,
        text_encoder=data.text_encoder,
        control_rate=robot.control_rate,
        statistics=robot.statistics,
        provenance={"preset": config.name, **robot.provenance},
    )


def _embodiment(source: EpisodeSource, held_out: NDArray[np.int64]) -> Embodiment:
    details = optional_members(source).details
    return Embodiment(
        action_spec=source.action_spec,
        control_rate=details.get("control_rate"),
        statistics=source_statistics(source),
        provenance={
            "source": source.name,
            "episodes": len(source.lengths),
            "held_out_episodes": held_out.tolist(),
            "tasks": sorted({source.task(episode) for episode in range(len(source.lengths))} - {""}),
            **({"env": details["env"]} if "env" in details else {}),
        },
    )


def acting_info(info: CheckpointInfo | SharedInfo) -> CheckpointInfo:
    """Return what the policy that trials are run with says of itself: the only one, or the one with an environment."""
    if isinstance(info, CheckpointInfo):
        return info
    names = [name for name, robot in info.embodiments.items() if robot.provenance.get("env")]
    if len(names) != 1:
        raise ValueError(
            f"closed-loop trials need one embodiment with an environment; of {', '.join(info.embodiments)} there are "
            f"{len(names)} ({', '.join(names) or 'none'}); leave the trials out (--closed-loop.every 0)"
        )
    return info.of(names[0])
