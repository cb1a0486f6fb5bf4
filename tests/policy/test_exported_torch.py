"""The host with torch: every format, and compiled code only where it fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.errors import ExportError
from rt1.policy import exported
from rt1.policy.exported_manifest import read_manifest
from rt1.policy.exported_torch import TorchGraphs, instruction_set, load_exported


def test_it_also_loads_what_needs_no_torch(
    onnx_export: tuple[Path, Path], images: list[NDArray[np.uint8]], embedding: FloatArray
) -> None:
    one, other = load_exported(onnx_export[1], threads=1), exported.load_exported(onnx_export[1], threads=1)
    for policy in (one, other):
        policy.reset(embedding)
    np.testing.assert_array_equal(one.logits(images[0]), other.logits(images[0]))


def test_a_memory_is_not_changed_by_later_steps(
    torch_export: tuple[Path, Path], images: list[NDArray[np.uint8]], embedding: FloatArray
) -> None:
    policy = load_exported(torch_export[1], threads=1)
    policy.reset(embedding)
    first = policy.logits(images[0])
    kept = first.copy()
    policy.logits(images[1])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"torch": "1.0", "cpu": instruction_set()}, "was compiled for torch 1.0, here is"),
        ({"cpu": "Z80"}, "was compiled for"),
    ],
)
def test_code_compiled_for_another_machine_is_refused(
    torch_export: tuple[Path, Path], versions: dict[str, str], message: str
) -> None:
    manifest = replace(read_manifest(torch_export[1]), kind="aoti", versions=versions)
    with pytest.raises(ExportError, match=f"{message}.*export it again here"):
        TorchGraphs(torch_export[1], manifest)
