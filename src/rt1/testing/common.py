"""What all checkers share: refusals, members, types."""

from __future__ import annotations

import json
from typing import NoReturn

import numpy as np

from rt1.actions import ActionSpec


def refuse(message: str) -> NoReturn:
    raise ValueError(message)


def check_members(thing: object, protocol: str, values: tuple[str, ...], methods: tuple[str, ...]) -> None:
    if missing := [name for name in values + methods if not hasattr(thing, name)]:
        wanted = ", ".join([*values, *(f"{name}()" for name in methods)])
        refuse(f"{type(thing).__name__} has no {', '.join(missing)}. {protocol} asks for {wanted}")
    for name in methods:
        if not callable(getattr(thing, name)):
            refuse(f"{name} is {getattr(thing, name)!r}, must be a method of {type(thing).__name__}")


def check_spec(spec: object) -> None:
    if not isinstance(spec, ActionSpec):
        refuse(f"action_spec is {spec!r}, must be an rt1.actions.ActionSpec")


def plain(value: object) -> object:
    """Forget the declared type: what an adapter really holds is the question."""
    return value


def is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def is_rate(rate: object) -> bool:
    return isinstance(rate, int | float) and 0.0 < rate < np.inf


def is_floats(array: object, dimensions: int) -> bool:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != dimensions or not array.size:
        return False
    return bool(np.isfinite(array).all())


def words(array: object) -> str:
    if not isinstance(array, np.ndarray):
        return type(array).__name__
    finite = "" if array.dtype.kind != "f" or np.isfinite(array).all() else ", not all finite"
    return f"{array.dtype} {array.shape}{finite}"
