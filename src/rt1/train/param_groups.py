"""Parts of the network by name: which parameters a user means by ``backbone`` or ``transformer.layers.7``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from rt1.common.suggest import unknown_name

COMPONENTS = ("backbone", "text", "projection", "token_learner", "transformer", "head")
"""``backbone``: what ImageNet weights fill. ``text``: FiLM and attention to the text, in backbone and transformer.
``projection``: the 1x1 convolution from the feature map to the positions. ``head``: the layers of the logits."""

_TEXT_LAYERS = {"film", "output_film", "condition", "output_condition", "attention_condition", "feed_forward_condition"}


def component(parameter: str) -> str:
    """Return the component that a parameter of :class:`rt1.model.rt1.RT1` belongs to, one of :data:`COMPONENTS`.

    >>> component("backbone.blocks.0.film.add.weight"), component("backbone.stem.weight")
    ('text', 'backbone')
    """
    words = parameter.split(".")
    if words[0] == "text" or _TEXT_LAYERS & set(words):
        return "text"
    return {"backbone.output": "projection", "transformer.output": "head"}.get(".".join(words[:2]), words[0])


def members(model: nn.Module, name: str) -> list[str]:
    """Return the parameters of a component, or those whose name begins with ``name``, whole words only.

    Raises:
        ValueError: no such parameter. The message suggests the closest name.
    """
    names = [parameter for parameter, _ in model.named_parameters()]
    if name in COMPONENTS:
        return [parameter for parameter in names if component(parameter) == name]
    parameters = [parameter for parameter in names if f"{parameter}.".startswith(f"{name}.")]
    if not parameters:
        words = [parameter.split(".") for parameter in names]
        beginnings = {".".join(path[:count]) for path in words for count in range(1, len(path) + 1)}
        raise ValueError(unknown_name("part of the network", name, {*beginnings, *COMPONENTS}))
    return parameters


def split_factor(text: str) -> tuple[str, float]:
    """Read ``name=factor``. The factor is a number of at least 0.

    >>> split_factor("backbone=0.1")
    ('backbone', 0.1)
    """
    name, _, number = text.partition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = -1.0
    if not name or not 0.0 <= factor < float("inf"):
        raise ValueError(f"scale {text!r} must be NAME=FACTOR with a factor of at least 0, as backbone=0.1")
    return name, factor


def factors(model: nn.Module, scale: Sequence[str]) -> dict[str, float]:
    """Return the learning rate factor of each parameter, by name. Of several the last one counts."""
    result = {name: 1.0 for name, _ in model.named_parameters()}
    for name, factor in map(split_factor, scale):
        result |= dict.fromkeys(members(model, name), factor)
    return result


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Freeze the parameters that these names mean."""
    for name in names:
        for parameter in members(model, name):
            model.get_parameter(parameter).requires_grad = False


def training_mode(model: nn.Module, *, batch_norm: bool = True) -> None:
    """Put a network into training mode, except for the BatchNorm of frozen parts.

    ``batch_norm`` False keeps all BatchNorm in evaluation mode.
    """
    model.train()
    for module in model.modules():
        learns = batch_norm and any(parameter.requires_grad for parameter in module.parameters())
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) and not learns:
            module.eval()
