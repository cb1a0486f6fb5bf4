"""What a backbone is, and the models of the package timm as one.

Shape letters: X images, C channels, H height, W width, P positions, D width of a position.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple, Protocol

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
        self.grid = timm_grid(name, image_size)
        self.network = _timm_network(name, image_size)
        unused = _probe(name, image_size).unused
        for parameter_name, parameter in self.network.named_parameters():
            parameter.requires_grad_(parameter_name not in unused)  # what is only for classifying learns nothing
        self.output = nn.Conv2d(self.network.num_features, output_width, 1, bias=False)
        self.output_condition = conditioner(conditioning, text_width, output_width)

    def forward(self, x_XCHW: Tensor, text: Tensor) -> Tensor:
        """Map normalised images (X, 3, H, W) and text to positions (X, P, D)."""
        y_XCHW = _as_map(self.network, self.network.forward_features(x_XCHW), self.grid)
        return self.output_condition(self.output(y_XCHW), text).flatten(2).transpose(1, 2)


def timm_grid(name: str, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of the feature map of ``timm:NAME`` for images of this size.

    Raises:
        ValueError: timm is not installed, has no such model, the model does not take images of this size, or it gives
            no grid of positions.
    """
    return _probe(name, image_size).grid


class _Probe(NamedTuple):
    """What a timm model does with an image, found out by giving it one without memory for its numbers."""

    grid: tuple[int, int]
    """Height and width of the positions it gives."""
    unused: frozenset[str]
    """Parameters that they do not depend on."""


@lru_cache(maxsize=16)
def _probe(name: str, image_size: tuple[int, int]) -> _Probe:
    timm = _timm(name)
    size = "x".join(map(str, image_size))
    made_for = "x".join(map(str, timm.get_pretrained_cfg(name.removeprefix(TIMM)).input_size[1:]))
    with torch.device("meta"), torch.enable_grad():
        try:
            network = _timm_network(name, image_size).eval()
            y = network.forward_features(torch.empty(1, 3, *image_size))
        except (AssertionError, RuntimeError) as error:
            why = (str(error) or "it says no more").splitlines()[0]
            raise ValueError(f"{name} does not take images of {size} ({why}); it was made for {made_for}") from error
        grid = _grid(network, y) if isinstance(y, Tensor) else None
        if grid is None:
            given = list(y.shape[1:]) if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise ValueError(
                f"{name} gives {given} for an image of {size}, which is no map and not the tokens of a "
                "grid; use another model, such as a CNN, a ViT or a Swin"
            )
        y.sum().backward()
    return _Probe(grid=grid, unused=frozenset(n for n, p in network.named_parameters() if p.grad is None))


def _grid(network: Any, y: Tensor) -> tuple[int, int] | None:  # noqa: ANN401 (timm has no types)
    """Return the grid of what a timm model returns, a map or tokens; None if it is neither."""
    if y.ndim == 3 and y.shape[-1] == network.num_features:  # tokens, some of them in front of those of the patches
        rows, columns = getattr(getattr(network, "patch_embed", None), "grid_size", (0, 0))
        own = int(getattr(network, "num_prefix_tokens", 0))
        return (int(rows), int(columns)) if rows * columns == y.shape[1] - own > 0 else None
    if y.ndim == 4 and (y.shape[-1] if _is_channels_last(network) else y.shape[1]) == network.num_features:
        rows, columns = y.shape[1:3] if _is_channels_last(network) else y.shape[2:]
        return int(rows), int(columns)
    return None


def _is_channels_last(network: Any) -> bool:  # noqa: ANN401 (timm has no types)
    return str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")


def _timm(name: str) -> Any:  # noqa: ANN401 (timm has no types)
    """Return the package timm, where it is installed and has the model."""
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"the backbone {name} needs the package timm ({error}); run: pip install timm") from error
    model = name.removeprefix(TIMM)
    if model not in timm.list_models():
        close = timm.list_models(f"*{model}*")[:5] or ["resnet18", "vit_tiny_patch16_224"]
        raise ValueError(f"timm has no model {model!r}; it has, for instance, {', '.join(close)}")
    return timm


def _timm_network(name: str, image_size: tuple[int, int]) -> Any:  # noqa: ANN401 (timm has no types)
    timm, model = _timm(name), name.removeprefix(TIMM)
    # Models whose positions depend on the image's size say so, and are made for the one they are told.
    sized = {"img_size": image_size} if timm.get_pretrained_cfg(model).fixed_input_size else {}
    return timm.create_model(model, pretrained=False, num_classes=0, **sized)


def _as_map(network: Any, y: Tensor, grid: tuple[int, int]) -> Tensor:  # noqa: ANN401 (timm has no types)
    """Bring what a timm model returns to (X, C, H, W): tokens without their prefix, or a map of either layout."""
    if y.ndim == 3:
        return y[:, y.shape[1] - grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
    return y.permute(0, 3, 1, 2) if _is_channels_last(network) else y
