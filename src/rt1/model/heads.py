"""From a network with a head for each embodiment to the plain network of one of them, and counts of parameters."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from rt1.model.rt1 import RT1

POSITIONS = "transformer.position_LD"
OUTPUT = "transformer.output."
"""Prefix of the names of the output layer's parameters. The number of a head follows it."""


def single_embodiment(model: RT1, number: int) -> RT1:
    """Return the network of one embodiment: the trunk and its head, without the other heads and longer actions' tokens.

    It gives what ``model`` gives for samples of this embodiment, up to the rounding of float32.

    Args:
        model: a network with several embodiments. It stays as it is, the tensors are copied.
        number: number of the embodiment.
    """
    config = model.config
    if not 0 <= number < len(config.embodiments):
        raise ValueError(f"embodiment {number} is unknown. This network has {len(config.embodiments)}, counted from 0")
    plain = RT1(replace(config, embodiments=(), action_tokens=config.embodiments[number]))
    tensors = model.state_dict()
    position_TSD = tensors[POSITIONS].unflatten(0, (config.window, config.step_tokens))
    # The image tokens of a step come first, then its action tokens in order.
    tensors[POSITIONS] = position_TSD[:, : plain.config.step_tokens].flatten(0, 1)
    plain.load_state_dict({name: tensors[name.replace(OUTPUT, f"{OUTPUT}{number}.")] for name in plain.state_dict()})
    return plain.train(model.training)


def parameter_counts(model: RT1) -> dict[str, int]:
    """Return the trainable parameters per component, as the paper and Google's code count them, and ``total``."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[_component(name, model.config.backbone)] += parameter.numel()
    return {**counts, "total": counts.total()}


def _component(name: str, backbone: str) -> str:
    if not name.startswith("backbone."):
        return name.split(".", maxsplit=1)[0]
    if ".film." in name or ".condition." in name:
        return "block_films"
    components = {"output": "projection", "output_film": "last_film", "output_condition": "last_film"}
    return components.get(name.split(".")[1], backbone)
