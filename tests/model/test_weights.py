"""Tensors from files: which can be weights, and the outline of a network that needs no memory for them."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rt1.errors import CheckpointError
from rt1.model.rt1 import RT1, RT1Config
from rt1.model.weights import MAX_WEIGHT, first_problem, outline, read_safetensors, weight_problem
from rt1.presets import preset


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_floats_are_weights(kind: torch.dtype) -> None:
    assert weight_problem(torch.tensor([-3.0, 0.0, 5.0], dtype=kind)) is None
    assert weight_problem(torch.zeros(0, dtype=kind)) is None


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (torch.tensor([1.0, float("nan")]), "holds a value that is not finite"),
        (torch.tensor([1.0, float("-inf")], dtype=torch.float16), "holds a value that is not finite"),
        (torch.tensor([-2 * MAX_WEIGHT]), "holds a value of size 2e+10. At most 1e+10 is sane"),
        (torch.tensor([1]), "is int64, must be float16, bfloat16, float32 or float64"),
        (torch.tensor([True]), "is bool, must be float16, bfloat16, float32 or float64"),
        (torch.tensor([1j]), "is complex64, must be float16, bfloat16, float32 or float64"),
    ],
)
def test_other_tensors_are_no_weights(tensor: torch.Tensor, problem: str) -> None:
    assert weight_problem(tensor) == problem
    assert first_problem({"w": tensor}, {"w": torch.zeros(1)}) == f"w {problem}"


def test_an_outline_has_the_shapes_of_the_network_and_no_weights() -> None:
    config = preset("debug").model
    outlined = {name: tensor.shape for name, tensor in outline(config).state_dict().items()}
    assert outlined == {name: tensor.shape for name, tensor in RT1(config).state_dict().items()}


def test_an_outline_of_a_huge_network_takes_no_memory_and_no_time() -> None:
    start = time.perf_counter()
    model = outline(dataclasses.replace(RT1Config(), token_width=60_000))
    assert next(model.parameters()).is_meta
    assert time.perf_counter() - start < 5


def test_a_file_that_is_no_safetensors_is_one_line_of_the_callers_error(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2)}, file, metadata={"of": "me"})
    tensors, metadata = read_safetensors(file, error=CheckpointError, cure="restore it")
    assert (tensors["a"].tolist(), metadata) == ([1.0, 1.0], {"of": "me"})
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"w\.safetensors .*restore it") as caught:
        read_safetensors(file, error=CheckpointError, cure="restore it")
    assert "\n" not in str(caught.value)
