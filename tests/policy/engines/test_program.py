"""Compiled code of torch is loaded only where it fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rt1.errors import ExportError
from rt1.policy.engines.program import ProgramEngine, instruction_set
from rt1.policy.exported_manifest import read_manifest


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
    with pytest.raises(ExportError, match=f"{message}.*Export it again here"):
        ProgramEngine(torch_export[1], manifest)
