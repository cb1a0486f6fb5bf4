"""Tensors of weights that came from a file: read with one-line errors, refused where no network can act with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rt1.common.json_files import ErrorKind
from rt1.errors import CheckpointError, first_line
from rt1.model.rt1 import RT1, RT1Config
from rt1.model.timm import TIMM

MAX_WEIGHT = 1e10
"""Largest absolute value of a weight. Trained ones stay far below. Products of two larger ones overflow float32."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def read_safetensors(file: Path, *, error: ErrorKind, cure: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        RT1Error: of the class ``error``: a file that is missing or damaged, or with a type that torch does not have.
    """
    try:
        with safe_open(file, framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}, stream.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as reason:
        raise error(f"{file} is not a whole safetensors file ({first_line(reason)}). {cure}") from reason


def stored_as(tensors: Mapping[str, Tensor], kind: torch.dtype | None) -> dict[str, Tensor]:
    """Return weights in a type of floats for a file. A tensor with a value beyond that type's range stays as it is.

    They are loaded as float32 again. ``None`` changes nothing.
    """
    if kind is None:
        return dict(tensors)
    smaller = {name: t.to(kind) if t.is_floating_point() else t for name, t in tensors.items()}
    return {name: t if t.isfinite().all() else tensors[name] for name, t in smaller.items()}


def weight_problem(tensor: Tensor, kind: torch.dtype = torch.float32, *, most: float = MAX_WEIGHT) -> str | None:
    """Return why a tensor cannot be a weight (or buffer) of type ``kind``. Return None if it can be one.

    float16, bfloat16, float32 and float64 are converted to each other, integers to integers, and nothing else. Absolute
    values are at most ``most``.
    """
    allowed = _FLOATS if kind.is_floating_point else _INTEGERS
    if tensor.dtype not in allowed:
        return f"is {_name(tensor.dtype)}, must be {', '.join(map(_name, allowed[:-1]))} or {_name(allowed[-1])}"
    if not kind.is_floating_point or not tensor.numel():
        return None
    low, high = (float(extreme) for extreme in tensor.detach().aminmax())
    size = max(-low, high)
    if not -float("inf") < low <= high < float("inf"):  # a NaN compares as False
        return "holds a value that is not finite"
    return f"holds a value of size {size:g}. At most {most:g} is sane" if size > most else None


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def first_problem(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> str | None:
    """Return which tensor cannot replace the one of its name in ``targets`` and why. None if all can."""
    for name, target in targets.items():
        if (problem := weight_problem(tensors[name], target.dtype)) is not None:
            return f"{name} {problem}"
    return None


class _NothingDrawn(TorchFunctionMode):
    """Draws no random numbers and counts on the CPU: both would import sympy on ``meta``, which takes a second."""

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else (kwargs or {})["tensor"]
        if func is torch.arange:
            return torch.arange(*args, **{**(kwargs or {}), "device": "cpu"})
        return func(*args, **(kwargs or {}))


def outline(config: RT1Config) -> RT1:
    """Return a network with the shapes of a configuration and without memory for its weights.

    A backbone of timm computes with its weights while it is made, and has them.
    """
    if config.backbone.startswith(TIMM):
        return RT1(config)
    with torch.device("meta"), _NothingDrawn():
        return RT1(config)


def check_same_tensors(tensors: Mapping[str, Tensor], needed: Mapping[str, Tensor], *, what: str, cure: str) -> None:
    """Raise :class:`CheckpointError` unless tensors have the names and shapes of those that are needed.

    ``what`` names the tensors in the error, and ``cure`` is its end.
    """
    for name in sorted(needed.keys() | tensors.keys()):
        if name not in tensors:
            problem = f"lacks {name}"
        elif name not in needed:
            problem = f"has the unknown tensor {name}"
        elif (shape := tuple(tensors[name].shape)) != (rule := tuple(needed[name].shape)):
            problem = f"does not fit: {name} has shape {shape}, the configuration needs {rule}"
        else:
            continue
        raise CheckpointError(f"{what} {problem}. {cure}")
