"""What a backbone is, and the models of the package timm as one.

Shape letters: X images, C channels, H height, W width, P positions, D width of a position.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rt1.model.conditioning import Conditioning, conditioner

TIMM = "timm:"
"""What the name of a timm model begins with."""


class Backbone(Protocol):
    """An image tokenizer's first half: normalised images and what conditions them to a grid of positions."""

    def __call__(self, x_XCHW: Tensor, text: Tensor) -> Tensor:
        """Map images (X, 3, H, W) and text, (X, W) or tokens (X, S, W), to positions (X, P, D), row by row."""
        ...


class TimmBackbone(nn.Module):
    """A CNN or ViT of timm; the text conditions the positions after it, since its inside is not ours."""

    def __init__(
        self, name: str, image_size: tuple[int, int], *, text_width: int, output_width: int, conditioning: Conditioning
    ) -> None:
        super().__init__()
        self.network = _timm_network(name, image_size)
        self.grid = timm_grid(name, image_size)
        self.output = nn.Conv2d(self.network.num_features, output_width, 1, bias=False)
        self.output_condition = conditioner(conditioning, text_width, output_width)

    def forward(self, x_XCHW: Tensor, text: Tensor) -> Tensor:
        """Map normalised images (X, 3, H, W) and text to positions (X, P, D)."""
        y_XCHW = _as_map(self.network, self.network.forward_features(x_XCHW), self.grid)
        return self.output_condition(self.output(y_XCHW), text).flatten(2).transpose(1, 2)


@lru_cache(maxsize=16)
def timm_grid(name: str, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of the feature map of ``timm:NAME`` for images of this size.

    Raises:
        ValueError: timm is not installed, has no such model, or the model does not take images of this size.
    """
    with torch.device("meta"):
        network = _timm_network(name, image_size).eval()
        try:
            y = network.forward_features(torch.empty(1, 3, *image_size))
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"{name} does not take images of {image_size[0]}x{image_size[1]}: {error}; give the image_size it was "
                "made for"
            ) from error
    if y.ndim == 3:  # a ViT: tokens, some of them in front of those of the patches
        rows, columns = network.patch_embed.grid_size
        return int(rows), int(columns)
    spatial = y.shape[1:3] if y.shape[-1] == network.num_features else y.shape[2:]
    return int(spatial[0]), int(spatial[1])


def _timm_network(name: str, image_size: tuple[int, int]) -> Any:  # noqa: ANN401 (timm has no types)
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"the backbone {name} needs the package timm ({error}); run: pip install timm") from error
    model = name.removeprefix(TIMM)
    if model not in timm.list_models():
        close = timm.list_models(f"*{model}*")[:5] or ["resnet18", "vit_tiny_patch16_224"]
        raise ValueError(f"timm has no model {model!r}; it has, for instance, {', '.join(close)}")
    sized = {"img_size": image_size} if "vit" in model or "deit" in model else {}
    return timm.create_model(model, pretrained=False, num_classes=0, global_pool="", **sized)


def _as_map(network: Any, y: Tensor, grid: tuple[int, int]) -> Tensor:  # noqa: ANN401 (timm has no types)
    """Bring what a timm model returns to (X, C, H, W): tokens without their prefix, or a map of either layout."""
    if y.ndim == 3:
        return y[:, y.shape[1] - grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
    return y.permute(0, 3, 1, 2) if y.shape[-1] == network.num_features else y
