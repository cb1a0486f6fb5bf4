"""The options of ``--policy.type=rt1``, and the description of the network that ``config.json`` stores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.optim.optimizers import AdamConfig, AdamWConfig, OptimizerConfig
from lerobot.optim.schedulers import CosineDecayWithWarmupSchedulerConfig, LRSchedulerConfig

from rt1.common.json_config import check_at_least
from rt1.envs.metaworld import check_crop
from rt1.policy.lerobot import CONFIG_FILE, read_description
from rt1.presets import preset
from rt1.train.config import TrainConfig


def _identity() -> dict[str, NormalizationMode]:
    return dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)


@PreTrainedConfig.register_subclass("rt1")
@dataclass
class RT1Config(PreTrainedConfig):
    """RT-1's options. LeRobot normalizes nothing: the bounds of the action are part of the action spec."""

    preset: str = "paper"
    """Preset of rt1 that the network, the loss and the optimizer come from."""
    text_encoder: str = "minilm"
    """Text encoder of the instructions, as rt1 train names it."""
    default_task: str = "do the task"
    """Instruction of samples and environments whose task is empty."""
    image_key: str | None = None
    """Key of the camera. It may be left out where there is one."""
    env_hold: int = 1
    """Steps of the environment that each action is held for. A checkpoint, or a data set of rt1, sets it."""
    env_crop: list[float] | None = None
    """Square part of the environment's image that the policy sees: its top, left and side, as shares of the image. A
    checkpoint, or a data set of rt1, sets it. Default: all of the image."""
    init: str | None = None
    """Checkpoint of rt1, or a backbone of rt1 convert imagenet, to start from: what fits is loaded."""
    checkpoint: dict[str, Any] | None = None
    """What rt1's checkpoint.json holds. It is set when the policy is made, and not an option."""
    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=_identity)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "env_hold")
        if self.env_crop is not None:
            check_crop(self.env_crop)
        model = self.train_config.model
        if self.checkpoint is not None:
            model = read_description(self.checkpoint, Path(CONFIG_FILE)).model
        self.n_obs_steps = model.window

    @property
    def train_config(self) -> TrainConfig:
        """The preset."""
        return preset(self.preset)

    @property
    def camera(self) -> str:
        """Key of the image that the network looks at."""
        keys = list(self.image_features)
        if self.image_key is None and len(keys) == 1:
            return keys[0]
        if self.image_key not in keys:
            raise ValueError(
                f"policy.image_key is {self.image_key!r}, the images are {', '.join(keys) or 'none'}. Name one of them"
            )
        return self.image_key

    @property
    def observation_delta_indices(self) -> list[int]:
        return list(range(1 - self.n_obs_steps, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        return self.observation_delta_indices

    @property
    def reward_delta_indices(self) -> None:
        return None

    def validate_features(self) -> None:
        """Raise ``ValueError`` unless there is one camera to look at, and an action."""
        assert self.camera
        if self.action_feature is None:
            raise ValueError("there is no feature 'action'. Give a data set or an environment that has one")

    def get_optimizer_preset(self) -> OptimizerConfig:
        """Return the preset's Adam or AdamW. Keras' form of epsilon is not available in LeRobot."""
        settings = self.train_config.optimizer
        kind = AdamWConfig if settings.kind == "adamw" else AdamConfig
        return kind(
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            grad_clip_norm=settings.clip_norm,
        )

    def get_scheduler_preset(self) -> LRSchedulerConfig | None:
        """Return the preset's cosine with warm-up, None for a constant learning rate."""
        settings = self.train_config.optimizer
        if settings.schedule == "constant":
            return None
        return CosineDecayWithWarmupSchedulerConfig(
            num_warmup_steps=settings.warmup,
            num_decay_steps=self.train_config.updates,
            peak_lr=settings.learning_rate,
            decay_lr=settings.learning_rate * settings.final_fraction,
        )
