"""The networks Google released, as configurations: what their weights need to be loaded into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rt1.actions import ActionSpec, rt1_action_spec
from rt1.common import json_config
from rt1.common.json_files import read_object
from rt1.common.suggest import lookup
from rt1.errors import CheckpointError
from rt1.model.efficientnet import EfficientNetConfig
from rt1.model.rt1 import RT1Config
from rt1.model.transformer import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A network and the actions it predicts."""

    name: str
    """Name of the released network, or the file it was read from."""
    model: RT1Config
    action: ActionSpec

    def __post_init__(self) -> None:
        if (self.action.size, self.action.bins) != (self.model.action_tokens, self.model.bins):
            action = f"the action has {self.action.size} dimensions of {self.action.bins} bins"
            network = f"the network {self.model.action_tokens} action tokens of {self.model.bins}"
            raise ValueError(f"configuration {self.name}: {action}, {network}. Make them the same")

    def with_action_order(self, order: Sequence[str]) -> Configuration:
        """Return the configuration with the action's parts in another token order. ``order`` names every part once."""
        parts = {part.name: part for part in self.action.parts}
        if sorted(order) != sorted(parts):
            raise ValueError(f"the action order is {list(order)}, must name each of {list(parts)} once")
        return replace(self, action=ActionSpec(parts=tuple(parts[name] for name in order), bins=self.action.bins))


def rt1main() -> Configuration:
    """RT-1 of the paper, trained on Google's kitchen robots. 35,120,544 parameters.

    The token order of the action is that of Google's unit tests and of RT-1-X. The released files do not tell it.
    """
    return Configuration(name="rt1main", model=RT1Config(), action=rt1_action_spec())


def rt1simreal() -> Configuration:
    """RT-1 trained on simulated and real data, with the sizes of :func:`rt1main`."""
    return replace(rt1main(), name="rt1simreal")


def rt1multirobot() -> Configuration:
    """RT-1 trained with a second robot's data: a deeper, wider transformer. 111,144,352 parameters."""
    transformer = TransformerConfig(layers=10, width=1024, heads=8, head_width=256)
    return Configuration(name="rt1multirobot", model=RT1Config(transformer=transformer), action=rt1_action_spec())


def rt1x() -> Configuration:
    """RT-1-X of Open X-Embodiment, its JAX weights: 15 images of 81 tokens, 512 bins. 56,896,809 parameters."""
    model = RT1Config(
        window=15,
        image_tokens=81,
        bins=512,
        mask="rt1x",
        efficientnet=flax_efficientnet(),
        transformer=TransformerConfig(head_width=256, feed_forward="swiglu", hidden=512),
    )
    return Configuration(name="rt1x", model=model, action=rt1_action_spec(bins=512, world_bound=2.0, invalid="none"))


def flax_efficientnet() -> EfficientNetConfig:
    """EfficientNet-B3 as the JAX code has it: TensorFlow's SAME padding, and flax' biased moving variance."""
    return EfficientNetConfig(padding="same", unbiased_moving_variance=False)


RELEASED: Mapping[str, Callable[[], Configuration]] = {
    "rt1main": rt1main,
    "rt1simreal": rt1simreal,
    "rt1multirobot": rt1multirobot,
    "rt1x": rt1x,
}
"""Released networks by name."""


def load_configuration(name: str | Path) -> Configuration:
    """Return a released configuration by name, or one from a JSON file (a name ending in ``.json``).

    The file holds ``{"model": {...}, "action": {...}}``: the fields of :class:`rt1.model.rt1.RT1Config` that differ
    from rt1main's, and an action spec as :meth:`rt1.actions.ActionSpec.to_json` writes it.

    Raises:
        ValueError: an unknown name.
        CheckpointError: a file that cannot be read or does not hold this.
    """
    if Path(name).suffix != ".json":
        return lookup("configuration", str(name), RELEASED)()
    file = Path(name)
    data = read_object(file, error=CheckpointError, cure="Give a JSON file of a network, see docs/weights.md")
    if data.keys() != {"model", "action"}:
        rule = "It must hold 'model' and 'action', see docs/weights.md"
        raise CheckpointError(f"the configuration {file} holds {sorted(data)!r:.200}. {rule}")
    try:
        model = json_config.from_json(RT1Config, data["model"], where="model")
        return Configuration(name=file.name, model=model, action=ActionSpec.from_json(data["action"]))
    except ValueError as error:
        raise CheckpointError(f"the configuration {file}: {error}") from error
