"""How many parameters a network has, component by component."""

from __future__ import annotations

from rt1.model.rt1 import RT1


def parameter_counts(model: RT1) -> dict[str, int]:
    """Return the trainable parameters per component, as the paper and Google's code count them, and ``total``."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        component = _component(name, model.config.backbone)
        counts[component] = counts.get(component, 0) + parameter.numel()
    return {**counts, "total": sum(counts.values())}


def _component(name: str, backbone: str) -> str:
    if not name.startswith("backbone."):
        return name.split(".", maxsplit=1)[0]
    if ".film." in name or ".condition." in name:
        return "block_films"
    own = {"output": "projection", "output_film": "last_film", "output_condition": "last_film"}
    return own.get(name.split(".")[1], backbone)
