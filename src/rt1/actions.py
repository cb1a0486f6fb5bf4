"""Actions as tokens: which dimensions an action has, their bounds, and the bins the network predicts.

An action is a float32 vector ``(A,)`` in physical units, one entry per dimension and per action token.
A discrete dimension (RT-1's ``terminate_episode``) holds the index of its choice. Files and robots often
name the parts instead. :meth:`ActionSpec.to_dict` and :meth:`ActionSpec.from_dict` go between the two.
The arithmetic is Google's, operation by operation in float32 (docs/network.md): another order of the same
operations gives other tokens at the bin edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from rt1.common.json_config import check_between, from_json, to_json
from rt1.errors import PolicyError

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = NDArray[np.float32]
TokenArray = NDArray[np.int32]

_LARGEST = 1e38
"""Largest bound: the width between two such bounds is finite in float32."""
_MOST_BINS = 1 << 16
HOTTEST = 100
"""Largest temperature. At it all bins of a trained network weigh about the same."""


@dataclass(frozen=True, kw_only=True)
class Continuous:
    """A named group of continuous dimensions, each cut into equal bins between its bounds."""

    name: str
    """Key of the group in an action dict, e.g. ``world_vector``."""
    low: tuple[float, ...]
    """Lower bound per dimension, physical units. Values below are clipped to it."""
    high: tuple[float, ...]
    """Upper bound per dimension, physical units."""
    labels: tuple[str, ...] = ()
    """Name per dimension for tables and plots. Empty means ``name_0, name_1, ...`` (or ``name`` if one)."""

    def __post_init__(self) -> None:
        if not self.low or len(self.low) != len(self.high):
            raise ValueError(
                f"action part {self.name!r} has {len(self.low)} lower and {len(self.high)} upper bounds. "
                "Give one of each per dimension, at least one dimension"
            )
        for low, high in zip(self.low, self.high, strict=True):
            if not (abs(low) <= _LARGEST and abs(high) <= _LARGEST and np.float32(low) < np.float32(high)):
                raise ValueError(
                    f"action part {self.name!r} has bounds [{low}, {high}]. A bound must be finite and low < high. "
                    "Widen the bounds of a constant dimension"
                )
        if self.labels and len(self.labels) != len(self.low):
            raise ValueError(f"action part {self.name!r}: {len(self.labels)} labels for {len(self.low)} dimensions")

    @property
    def size(self) -> int:
        """Number of dimensions, which is also the number of action tokens."""
        return len(self.low)

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """One name per dimension."""
        if self.labels:
            return self.labels
        return (self.name,) if self.size == 1 else tuple(f"{self.name}_{i}" for i in range(self.size))


@dataclass(frozen=True, kw_only=True)
class Discrete:
    """A named choice of one out of several: one dimension, one token, one-hot int32 in an action dict."""

    name: str
    """Key of the choice in an action dict, e.g. ``terminate_episode``."""
    choices: int
    """Number of choices. Tokens ``0..choices-1`` are valid."""
    invalid: Literal["first", "none"] = "first"
    """What a token outside the choices decodes to: the first choice (Google's TensorFlow code) or an
    all-zero vector (Google's JAX code, index -1 here), see docs/network.md."""

    def __post_init__(self) -> None:
        if self.choices < 2:
            raise ValueError(f"action part {self.name!r} has {self.choices} choices. A discrete part needs at least 2")

    @property
    def size(self) -> int:
        """One token."""
        return 1

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """The part's own name."""
        return (self.name,)


ActionPart = Continuous | Discrete


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """The dimensions of an action in token order, and the number of bins they share."""

    bins: int = 256
    """Bins per continuous dimension = size of the token vocabulary V."""
    parts: tuple[ActionPart, ...]
    """Parts in token order."""
    temperature: float = field(default=0.0, compare=False)
    """How a network's logits become a continuous action. 0: the likeliest bin, as Google's code does. Above 0: the mean
    of all bins, weighted by ``softmax(logits / temperature)``. It says nothing of recorded actions, so two specs that
    differ in it alone are equal."""

    def __post_init__(self) -> None:
        check_between(self, 0, HOTTEST, "temperature")
        names = [part.name for part in self.parts]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"action parts are named {names}. Give at least one part and no name twice")
        most = max([2, *(part.choices for part in self.parts if isinstance(part, Discrete))])
        if not most <= self.bins <= _MOST_BINS:
            raise ValueError(
                f"bins is {self.bins}, must be at least {most} to hold every choice of this action, and at most "
                f"{_MOST_BINS}"
            )

    @property
    def size(self) -> int:
        """A: number of dimensions, which is the number of action tokens."""
        return sum(part.size for part in self.parts)

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """One name per dimension, in token order."""
        return tuple(name for part in self.parts for name in part.dimension_names)

    @cached_property
    def discrete_choices(self) -> NDArray[np.int32]:
        """(A,) number of choices of each dimension, 0 where it is continuous."""
        return np.array(
            [c for part in self.parts for c in ([part.choices] if isinstance(part, Discrete) else [0] * part.size)],
            dtype=np.int32,
        )

    @cached_property
    def low(self) -> FloatArray:
        """(A,) lower bounds. 0 for a discrete dimension."""
        return np.array(
            [v for part in self.parts for v in ((0.0,) if isinstance(part, Discrete) else part.low)], dtype=np.float32
        )

    @cached_property
    def high(self) -> FloatArray:
        """(A,) upper bounds. ``choices - 1`` for a discrete dimension."""
        return np.array(
            [v for part in self.parts for v in ((part.choices - 1.0,) if isinstance(part, Discrete) else part.high)],
            dtype=np.float32,
        )

    @overload
    def encode(self, action: FloatArray) -> TokenArray: ...
    @overload
    def encode(self, action: Tensor) -> Tensor: ...
    def encode(self, action: Any) -> Any:
        """Turn actions into tokens.

        Args:
            action: float32 (..., A), physical units, an array or a torch tensor. Values outside the bounds are clipped
                (infinities too).

        Returns:
            int32 (..., A), ``0..bins-1``. The top bin is reached only at the upper bound: Google's encoder truncates.
            A tensor gives a tensor on its device, with the same tokens as the array.

        Raises:
            ValueError: another last dimension, a NaN, or a discrete dimension that is not one of its choices.
        """
        if (values := _of_tensor(action)) is not None:
            return action.float().new_tensor(self.encode(values)).int()  # exact: there are fewer than 2^24 bins
        action = self._checked(action)
        is_discrete = self.discrete_choices > 0
        choice = action[..., is_discrete]
        if ((choice != np.floor(choice)) | (choice < 0) | (choice >= self.discrete_choices[is_discrete])).any():
            raise ValueError(
                f"a discrete dimension of {self._names(is_discrete)} holds a value that is not one of its choices "
                f"0..{(self.discrete_choices[is_discrete] - 1).tolist()}. Give the index of the choice"
            )
        clipped = np.clip(action, self.low, self.high)
        unit = (clipped - self.low) / (self.high - self.low)
        tokens = (unit * np.float32(self.bins - 1)).astype(np.int32)
        return np.where(is_discrete, clipped.astype(np.int32), tokens) if is_discrete.any() else tokens

    @overload
    def decode(self, tokens: NDArray[np.integer[Any]]) -> FloatArray: ...
    @overload
    def decode(self, tokens: Tensor) -> Tensor: ...
    def decode(self, tokens: Any) -> Any:
        """Turn tokens into actions.

        Args:
            tokens: integers (..., A), ``0..bins-1``, an array or a torch tensor.

        Returns:
            float32 (..., A), physical units, within the bounds. An invalid choice of a discrete dimension becomes what
            its part says. A tensor gives a tensor on its device, with the same values as the array.
        """
        if (values := _of_tensor(tokens)) is not None:
            return tokens.float().new_tensor(self.decode(values))
        tokens = np.asarray(tokens, dtype=np.int32)
        self._check_size(tokens.shape)
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.bins):
            raise ValueError(f"action tokens span {tokens.min()}..{tokens.max()}, must lie in 0..{self.bins - 1}")
        unit = tokens.astype(np.float32) / np.float32(self.bins - 1)
        value = self._scaled(unit)
        discrete = [part for part in self.parts if isinstance(part, Discrete)]
        for column, part in zip(np.flatnonzero(self.discrete_choices), discrete, strict=True):
            invalid = 0 if part.invalid == "first" else -1
            value[..., column] = np.where(tokens[..., column] < part.choices, tokens[..., column], invalid)
        return value

    def decode_logits(self, logits: FloatArray) -> tuple[TokenArray, FloatArray]:
        """Return the most likely tokens of logits (..., A, V), int32 (..., A), and the action, float32 (..., A).

        Every action of a network is taken from here. With a temperature a continuous dimension of the action is the
        mean of all bins. A discrete one is always the likeliest choice.

        Raises:
            PolicyError: a logit is not finite. ``argmax`` would choose token 0, the lower bound of a dimension, and the
                robot would move there.
            ValueError: another number of dimensions or bins.
        """
        if np.shape(logits)[-2:] != (self.size, self.bins):
            raise ValueError(
                f"the logits have shape {np.shape(logits)}, the spec has {self.size} dimensions of {self.bins} bins. "
                "Use the action spec that the network was trained with"
            )
        if bad := np.size(logits) - np.count_nonzero(np.isfinite(logits)):
            raise PolicyError(
                f"{bad} of {np.size(logits)} logits are not finite, so there is no action. Use another checkpoint, and "
                "check the weights (rt1 inspect) and the text embedding"
            )
        tokens = logits.argmax(axis=-1).astype(np.int32)
        action = self.decode(tokens)
        return tokens, action if not self.temperature else np.where(self.discrete_choices, action, self._mean(logits))

    def _mean(self, logits: FloatArray) -> FloatArray:
        """Return the mean (..., A) of the bins of logits (..., A, V), in physical units."""
        weight = np.exp((logits - logits.max(axis=-1, keepdims=True)) / np.float32(self.temperature))
        unit = (weight @ np.linspace(0, 1, self.bins, dtype=np.float32)) / weight.sum(axis=-1)
        return self._scaled(unit)

    def _scaled(self, unit: FloatArray) -> FloatArray:
        # Rounding exceeds some upper bounds by one float32 step.
        return np.clip(unit * (self.high - self.low) + self.low, self.low, self.high)

    def out_of_bounds(self, action: FloatArray) -> NDArray[np.bool_]:
        """(..., A) True where a value lies outside its bounds, so that encoding clips it."""
        action = self._checked(action)
        return (action < self.low) | (action > self.high)

    def to_dict(self, action: FloatArray) -> dict[str, NDArray[Any]]:
        """Split (..., A) into named parts: float32 (..., n), or one-hot int32 (..., choices) for a choice."""
        self._check_size(np.shape(action))
        out: dict[str, NDArray[Any]] = {}
        start = 0
        for part in self.parts:
            values = np.asarray(action)[..., start : start + part.size]
            if isinstance(part, Discrete):
                out[part.name] = (values.astype(np.int32) == np.arange(part.choices)).astype(np.int32)
            else:
                out[part.name] = values.astype(np.float32)
            start += part.size
        return out

    def from_dict(self, action: Mapping[str, NDArray[Any]]) -> FloatArray:
        """Join named parts into float32 (..., A). The one-hot vector of a choice becomes its index."""
        missing = [part.name for part in self.parts if part.name not in action]
        if missing:
            raise ValueError(f"the action has no part {missing}. It has {sorted(action)}. Give every part of the spec")
        return np.concatenate([_part_values(part, np.asarray(action[part.name])) for part in self.parts], axis=-1)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``json``, which :meth:`from_json` reads. It names no temperature of 0."""
        return {name: value for name, value in to_json(self).items() if name != "temperature" or value}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ActionSpec:
        """Read what :meth:`to_json` wrote. Anything else raises ``ValueError``."""
        return from_json(ActionSpec, data, where="action spec")

    def _checked(self, action: FloatArray) -> FloatArray:
        action = np.asarray(action, dtype=np.float32)
        self._check_size(action.shape)
        bad: NDArray[np.bool_] = np.any(np.isnan(action).reshape(-1, self.size), axis=0)
        if bad.any():
            raise ValueError(f"the action is NaN in {self._names(bad)}. An action must be a number. Drop that step")
        return action

    def _check_size(self, shape: Sequence[int]) -> None:
        if not shape or shape[-1] != self.size:
            raise ValueError(
                f"the last dimension of shape {tuple(shape)} must be {self.size}: one value per dimension "
                f"{', '.join(self.dimension_names)}"
            )

    def _names(self, mask: NDArray[np.bool_]) -> list[str]:
        return [name for name, is_named in zip(self.dimension_names, mask, strict=True) if is_named]


def _of_tensor(values: Any) -> NDArray[Any] | None:  # noqa: ANN401 (an array or a tensor)
    """Return the values of a torch tensor, or None for anything else. Robots use this file without torch."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else None


def _part_values(part: ActionPart, values: NDArray[Any]) -> FloatArray:
    width = part.choices if isinstance(part, Discrete) else part.size
    if values.shape[-1:] != (width,):
        raise ValueError(f"action part {part.name!r} has shape {values.shape}. Its last dimension must be {width}")
    if not isinstance(part, Discrete):
        return values.astype(np.float32)
    if not ((values == 0) | (values == 1)).all() or not (values.sum(axis=-1) == 1).all():
        raise ValueError(
            f"action part {part.name!r} must be one-hot over {part.choices} choices, got {values.tolist()}"
        )
    return values.argmax(axis=-1, keepdims=True).astype(np.float32)


def spec_difference(one: ActionSpec, other: ActionSpec) -> str:
    """Return in words the first way in which two action specs that are not equal differ."""
    if one.dimension_names != other.dimension_names:
        return f"the dimensions {', '.join(one.dimension_names)} and {', '.join(other.dimension_names)}"
    if one.bins != other.bins:
        return f"{one.bins} and {other.bins} bins"
    parts = [", ".join(part.name for part in spec.parts) for spec in (one, other)]
    if parts[0] != parts[1]:
        return f"the parts {parts[0]} and {parts[1]}"
    bounds = [", ".join(f"{low:g}..{high:g}" for low, high in zip(s.low, s.high, strict=True)) for s in (one, other)]
    return f"the bounds {bounds[0]} and {bounds[1]}"


def rt1_action_spec(
    *, bins: int = 256, world_bound: float = 1.0, invalid: Literal["first", "none"] = "first"
) -> ActionSpec:
    """Return the 11-dimensional action of RT-1 (docs/network.md). RT-1-X has 512 bins and ``world_bound`` 2."""
    half_pi, pi = float(np.float32(np.pi / 2)), float(np.float32(np.pi))
    return ActionSpec(
        bins=bins,
        parts=(
            Discrete(name="terminate_episode", choices=3, invalid=invalid),
            Continuous(name="world_vector", low=(-world_bound,) * 3, high=(world_bound,) * 3),
            Continuous(name="rotation_delta", low=(-half_pi,) * 3, high=(half_pi,) * 3),
            Continuous(name="gripper_closedness_action", low=(-1.0,), high=(1.0,)),
            Continuous(name="base_displacement_vertical_rotation", low=(-pi,), high=(pi,)),
            Continuous(name="base_displacement_vector", low=(-1.0, -1.0), high=(1.0, 1.0)),
        ),
    )
