"""RT-1 as LeRobot's policy: rt1's network, loss and batched step behind LeRobot's calls.

Shape letters: B samples or robots, T window, C channels, H height, W width, A action dimensions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lerobot.policies.pretrained import PreTrainedPolicy
from numpy.typing import NDArray
from torch import Tensor

from lerobot_policy_rt1.configuration_rt1 import RT1Config
from lerobot_policy_rt1.description import describe
from rt1.checkpoint import info_to_json, read_weights
from rt1.data.pipeline.augment import augment
from rt1.envs.registry import lerobot_options
from rt1.model.loss import action_loss
from rt1.model.rt1 import RT1
from rt1.policy.base import recorded_size
from rt1.policy.batched import BatchedPolicy
from rt1.policy.engines.torch import TorchEngine
from rt1.policy.lerobot import CONFIG_FILE, PREFIX, read_description
from rt1.policy.policy import Policy, text_function
from rt1.policy.stepper import Stepper
from rt1.preprocess import resize, to_float
from rt1.train.optim import make_optimizer
from rt1.train.warm_start import start_from

_LOG = logging.getLogger(__name__)
_ROUNDING = 1e-3  # of an image that was uint8, in steps of 1/255


class RT1Policy(PreTrainedPolicy):
    """A network of rt1 with the text encoder of its instructions. It acts as :class:`rt1.Policy` does."""

    config_class = RT1Config
    name = "rt1"
    _fsdp_wrap_modules: tuple[str, ...] = ()

    def __init__(
        self, config: RT1Config, dataset_stats: dict[str, Any] | None = None, dataset_meta: Any = None, **_: Any
    ) -> None:
        """Make the network that the configuration describes, or describe a new one by the data set's statistics.

        Raises:
            ValueError: no camera, or a new network without a data set. One line.
        """
        super().__init__(config)
        config.validate_features()
        is_new = config.checkpoint is None
        if is_new:
            info = describe(config, dataset_stats, dataset_meta)
            config.checkpoint = info_to_json(info)
            if (config.env_hold, config.env_crop) == (1, None):
                vars(config).update(lerobot_options(info.provenance))
        self.info = read_description(config.checkpoint, Path(CONFIG_FILE))
        self.network = RT1(self.info.model)  # contiguous: LeRobot saves no other optimizer state
        if is_new and config.init is not None:
            report = start_from(
                self.network, config.init, action_spec=self.info.action_spec, text_encoder=self.info.text_encoder
            )
            _LOG.info("\n".join(report.lines()))
        encode_text = text_function(self.info, None)
        if encode_text is None:
            raise ValueError("the checkpoint names no text encoder, so tasks cannot be encoded. Train with one")
        self._encode_text = cache(encode_text)
        self._acting: BatchedPolicy | None = None
        self._held: list[Tensor] = []  # the last action, once for each further step that it is held
        self._updates = 0

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Return the parameters in the groups of the preset: biases, norms and positions do not decay."""
        groups = make_optimizer(self.network, self.config.train_config.optimizer).param_groups
        return [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]

    def forward(self, batch: dict[str, Any], reduction: str = "mean") -> tuple[Tensor, dict[str, float]]:
        """Return the loss of windows, a scalar or (B,) with reduction ``none``, and numbers for the log.

        LeRobot pads an episode's first windows in front. rt1 begins an episode at the first place of the window, so
        the padding is moved behind the real steps, which cannot see it.
        """
        action_BTA, image_BTCHW = batch["action"], batch[self.config.camera]
        padded_BT = batch.get("action_is_pad")
        if padded_BT is None:
            padded_BT = torch.zeros(action_BTA.shape[:2], dtype=torch.bool, device=action_BTA.device)
        steps = action_BTA.shape[1]
        order_BT = (torch.arange(steps, device=padded_BT.device) + padded_BT.sum(1, keepdim=True)).clamp(max=steps - 1)
        sample_B1 = torch.arange(len(order_BT), device=order_BT.device)[:, None]
        mask_BT = torch.arange(steps, device=padded_BT.device) < (~padded_BT).sum(1, keepdim=True)
        text_BE, dropped_B = self._text(batch)
        image_BTCHW = self._prepared(image_BTCHW[sample_B1, order_BT])
        logits_BTAV = self.network(image_BTCHW, self.network.text(text_BE, dropped_B))
        token_BTA = self.info.action_spec.encode(action_BTA[sample_B1, order_BT])
        rows = [slice(None)] if reduction == "mean" else [slice(row, row + 1) for row in range(len(mask_BT))]
        losses = torch.stack([self._loss(logits_BTAV[row], token_BTA[row], mask_BT[row]) for row in rows])
        right_BTA = (logits_BTAV.detach().argmax(-1) == token_BTA)[mask_BT]
        return losses if reduction == "none" else losses[0], {"accuracy": right_BTA.float().mean().item()}

    def update(self) -> None:
        """Count an update of the weights, which LeRobot tells. The random crops follow from it."""
        self._updates += 1

    def train(self, mode: bool = True) -> RT1Policy:  # noqa: FBT001, FBT002 (torch's)
        """Switch the mode. The network that acts has a copy of the weights, which training makes outdated."""
        self._acting, self._held = None, []
        return super().train(mode)

    def reset(self) -> None:
        """Forget the episodes of all robots."""
        self._held = []
        if self._acting is not None:
            self._acting.reset()

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """Return the actions for one new image per robot, float32 (B, A), physical units.

        A robot whose task changes starts a new episode. :meth:`reset` starts new episodes for all. The policy looks at
        the image of every ``env_hold``-th call and repeats its action in between.
        """
        if self._held:
            return self._held.pop()
        if self._acting is None:
            engine = TorchEngine(self.network, device=str(self.network.pixel_mean.device))
            self._acting = BatchedPolicy(Policy(Stepper(engine), self.info.action_spec, encode_text=self._encode_text))
        size = recorded_size(self.info.provenance)
        images = _cropped(_stored(batch[self.config.camera]), self.config.env_crop, size).cpu().numpy()
        action_BA = torch.from_numpy(self._acting.act_vectors(list(images), self._tasks(batch, len(images))))
        self._held = [action_BA.clone() for _ in range(self.config.env_hold - 1)]
        return action_BA

    def predict_action_chunk(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """Return the one action of :meth:`select_action` as a chunk, (B, 1, A)."""
        return self.select_action(batch)[:, None]

    @classmethod
    def _load_as_safetensor(cls, model: RT1Policy, model_file: str, map_location: str, strict: bool) -> RT1Policy:  # noqa: ARG003, FBT001
        """Load the weights. Every tensor must be there and fit, where LeRobot would only log it."""
        model.network.load_state_dict(read_weights(model.network, Path(model_file), prefix=PREFIX))
        model._acting = None
        return model

    def _tasks(self, batch: dict[str, Any], count: int) -> list[str]:
        tasks = batch.get("task") or [""] * count
        tasks = [tasks] * count if isinstance(tasks, str) else tasks
        return [task if task.strip() else self.config.default_task for task in tasks]

    def _text(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Return the text embeddings (B, E), and which samples do without them."""
        device, drop = self.network.pixel_mean.device, self.info.model.text.drop
        tasks = self._tasks(batch, len(batch["action"]))
        text_BE = torch.from_numpy(np.stack([self._encode_text(task) for task in tasks])).to(device)
        return text_BE, torch.rand(len(tasks), device=device) < drop if self.training and drop else None

    def _prepared(self, image_BTCHW: Tensor) -> Tensor:
        """Return the images as rt1 trains on them: augmented at their size, then stretched to the network's."""
        image_XCHW = to_float(_stored(image_BTCHW.flatten(0, 1)))
        if self.training:
            config, rows = self.config.train_config, np.arange(len(image_BTCHW))
            image_BTCHW = image_XCHW.unflatten(0, image_BTCHW.shape[:2])
            seed = torch.initial_seed() % (1 << 32)
            image_XCHW = augment(image_BTCHW, rows, config.augment, seed=seed, update=self._updates).flatten(0, 1)
        size = self.info.model.image_size
        return resize(image_XCHW, size).unflatten(0, image_BTCHW.shape[:2])

    def _loss(self, logits_BTAV: Tensor, token_BTA: Tensor, mask_BT: Tensor) -> Tensor:
        config = self.config.train_config
        spread_A = None
        if config.target_spread:
            is_continuous_A: NDArray[np.bool_] = self.info.action_spec.discrete_choices == 0
            spread_A = config.target_spread * torch.from_numpy(is_continuous_A).to(logits_BTAV)
        return action_loss(logits_BTAV, token_BTA, mask_BT=mask_BT, spread_A=spread_A, smoothing=config.label_smoothing)


def _cropped(image_XHWC: Tensor, crop: Sequence[float] | None, size: tuple[int, int] | None) -> Tensor:
    """Return the part of the images that the policy sees, averaged to the size of the recorded images if it is larger.

    The network's own resizing skips pixels, so that edges differ from those of the recorded images.
    """
    if crop is None:
        return image_XHWC
    height, width = image_XHWC.shape[-3:-1]
    top, left, rows, columns = (
        round(share * side) for share, side in zip((*crop, crop[2]), (height, width, height, width), strict=True)
    )
    image_XHWC = image_XHWC[..., top : top + rows, left : left + columns, :]
    if size is None or rows <= size[0]:
        return image_XHWC
    mean_XHWC = F.interpolate(image_XHWC.movedim(-1, -3).float(), size=size, mode="area").movedim(-3, -1)
    return mean_XHWC if image_XHWC.is_floating_point() else mean_XHWC.round().to(torch.uint8)


def _stored(image_XCHW: Tensor) -> Tensor:
    """Return LeRobot's float images (X, 3, H, W) as (X, H, W, 3), uint8 where they were before.

    LeRobot divides by 255. rt1 multiplies by 1/255, as Google's code does, which differs in the last bit.
    """
    image_XHWC = image_XCHW.movedim(-3, -1)
    if image_XHWC.dtype == torch.uint8:
        return image_XHWC
    levels = image_XHWC * 255.0
    return levels.round().to(torch.uint8) if (levels - levels.round()).abs().max() < _ROUNDING else image_XHWC
