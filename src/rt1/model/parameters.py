"""How many parameters a network has, component by component."""

from __future__ import annotations

from rt1.model.rt1 import RT1

_COMPONENTS = ("efficientnet", "block_films", "projection", "last_film", "token_learner", "transformer")


def parameter_counts(model: RT1) -> dict[str, int]:
    """Return the trainable parameters per component, as the paper and Google's code count them, and ``total``."""
    counts = dict.fromkeys(_COMPONENTS, 0)
    for name, parameter in model.named_parameters():
        counts[_component(name)] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


def _component(name: str) -> str:
    if name.startswith("backbone."):
        if ".film." in name:
            return "block_films"
        return {"output": "projection", "output_film": "last_film"}.get(name.split(".")[1], "efficientnet")
    return name.split(".", maxsplit=1)[0]
