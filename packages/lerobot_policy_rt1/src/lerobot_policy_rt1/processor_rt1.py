"""LeRobot's steps before and after the policy: batches and devices. They change no value."""

from __future__ import annotations

from typing import Any

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    NormalizerProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    UnnormalizerProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from torch import Tensor

from lerobot_policy_rt1.configuration_rt1 import RT1Config
from rt1.policy.lerobot import POSTPROCESSOR_FILE, PREPROCESSOR_FILE

Statistics = dict[str, dict[str, Tensor]]


def make_rt1_pre_post_processors(
    config: RT1Config, dataset_stats: Statistics | None = None
) -> tuple[PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[Tensor, Tensor]]:
    """Return what LeRobot does before and after the policy.

    The normalizers do nothing in the mode ``IDENTITY``. ``lerobot-train --policy.path`` asks for them by name.
    """
    inputs, outputs = config.input_features or {}, config.output_features or {}
    modes = config.normalization_mapping
    before = [
        RenameObservationsProcessorStep(rename_map={}),
        AddBatchDimensionProcessorStep(),
        DeviceProcessorStep(device=config.device),
        NormalizerProcessorStep(features={**inputs, **outputs}, norm_map=modes, stats=dataset_stats),
    ]
    after = [
        UnnormalizerProcessorStep(features=outputs, norm_map=modes, stats=dataset_stats),
        DeviceProcessorStep(device="cpu"),
    ]
    return (
        PolicyProcessorPipeline(steps=before, name=PREPROCESSOR_FILE.removesuffix(".json")),
        PolicyProcessorPipeline(
            steps=after,
            name=POSTPROCESSOR_FILE.removesuffix(".json"),
            to_transition=policy_action_to_transition,
            to_output=transition_to_policy_action,
        ),
    )
