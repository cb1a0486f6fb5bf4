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
    """A CNN or ViT of timm. The text conditions the positions after it, since its layers are not ours."""

    def __init__(
        self, name: str, image_size: tuple[int, int], *, text_width: int, output_width: int, conditioning: Conditioning
    ) -> None:
        super().__init__()
        self.network = _timm_network(name, image_size)
        _, unused = _probe(name, image_size)
        for parameter_name, parameter in self.network.named_parameters():
            parameter.requires_grad_(parameter_name not in unused)  # what only classification uses learns nothing
        self.output = nn.Conv2d(self.network.num_features, output_width, 1, bias=False)
        self.output_condition = conditioner(conditioning, text_width, output_width)

    def forward(self, x_XCHW: Tensor, text: Tensor) -> Tensor:
        """Map normalised images (X, 3, H, W) and text to positions (X, P, D)."""
        y_XCHW = _as_map(self.network, self.network.forward_features(x_XCHW))
        assert y_XCHW is not None
        return self.output_condition(self.output(y_XCHW), text).flatten(2).transpose(1, 2)


def timm_grid(name: str, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of the feature map of ``timm:NAME`` for images of this size.

    Raises:
        ValueError: timm is not installed, has no such model, the model does not take images of this size, or it gives
            no grid of positions.
    """
    grid, _ = _probe(name, image_size)
    return grid


@lru_cache(maxsize=16)
def _probe(name: str, image_size: tuple[int, int]) -> tuple[tuple[int, int], frozenset[str]]:
    """Return a timm model's grid, and the names of the parameters that its feature map does not depend on.

    An image without memory for its numbers goes through the model.
    """
    timm = _timm(name)
    size = "x".join(map(str, image_size))
    native_size = "x".join(map(str, timm.get_pretrained_cfg(name.removeprefix(TIMM)).input_size[1:]))
    with torch.device("meta"), torch.enable_grad():
        try:
            network = _timm_network(name, image_size).eval()
            y = network.forward_features(torch.empty(1, 3, *image_size))
        except (AssertionError, RuntimeError) as error:
            why = (str(error) or "it says no more").splitlines()[0]
            raise ValueError(f"{name} does not take images of {size} ({why}). It was made for {native_size}") from error
        y_XCHW = _as_map(network, y)
        if y_XCHW is None:
            output = list(y.shape[1:]) if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise ValueError(
                f"{name} gives {output} for an image of {size}, which is no map and not the tokens of a "
                "grid. Use another model, such as a CNN, a ViT or a Swin"
            )
        y.sum().backward()
    unused = frozenset(name for name, parameter in network.named_parameters() if parameter.grad is None)
    return (y_XCHW.shape[2], y_XCHW.shape[3]), unused


def _as_map(network: Any, y: Any) -> Tensor | None:  # noqa: ANN401 (timm has no types)
    """Return what a timm model returns, a map of either layout or tokens, as (X, C, H, W). None if it is neither."""
    if not isinstance(y, Tensor):
        return None
    if y.ndim == 3 and y.shape[-1] == network.num_features:
        rows, columns = getattr(getattr(network, "patch_embed", None), "grid_size", (0, 0))
        prefix = int(getattr(network, "num_prefix_tokens", 0))  # tokens in front of those of the patches
        if rows * columns == y.shape[1] - prefix > 0:
            return y[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
    if y.ndim == 4:
        y_XCHW = y.permute(0, 3, 1, 2) if str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC") else y
        if y_XCHW.shape[1] == network.num_features:
            return y_XCHW
    return None


def _timm(name: str) -> Any:  # noqa: ANN401 (timm has no types)
    """Return the package timm, if it is installed and has the model."""
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"the backbone {name} needs the package timm ({error}). Run: pip install timm") from error
    model = name.removeprefix(TIMM)
    if model not in timm.list_models():
        close = timm.list_models(f"*{model}*")[:5] or ["resnet18", "vit_tiny_patch16_224"]
        raise ValueError(f"timm has no model {model!r}. It has, for instance, {', '.join(close)}")
    return timm


def _timm_network(name: str, image_size: tuple[int, int]) -> Any:  # noqa: ANN401 (timm has no types)
    timm, model = _timm(name), name.removeprefix(TIMM)
    # Models whose positions depend on the image's size say so, and are made for this one.
    sized = {"img_size": image_size} if timm.get_pretrained_cfg(model).fixed_input_size else {}
    return timm.create_model(model, pretrained=False, num_classes=0, **sized)
