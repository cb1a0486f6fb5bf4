"""Exports in torch's own formats as an engine: ``torch-export`` and ``aoti``, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from rt1.errors import ExportError
from rt1.policy.engines.graph import Graph, GraphEngine
from rt1.policy.exported_manifest import Manifest

INPUTS = {
    "condition": ("text", "dropped"),
    "tokenizer": ("image", "condition"),
    "decoder": ("tokens", "step", "condition"),
}
"""Graph -> names of its inputs in order. The last of ``condition`` is missing where there is no guidance."""


class ProgramEngine(GraphEngine):
    """The graphs as torch runs them. An ``aoti`` export is machine code: load none that you would not run."""

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int | None = None) -> None:
        """Load the graphs. The ``threads`` are those of the whole process."""
        self._is_compiled = manifest.kind == "aoti"
        if self._is_compiled:
            _check_fits(folder, manifest)
        if threads is not None:
            torch.set_num_threads(threads)
        super().__init__(folder, manifest)

    def load(self, file: Path, threads: int | None) -> Graph:  # noqa: ARG002
        names = INPUTS[file.stem] if file.stem != "condition" or self.sizes.guidance else INPUTS[file.stem][:1]
        program: Callable[..., Any]
        if self._is_compiled:
            program = torch._inductor.aoti_load_package(str(file))  # noqa: SLF001 (documented under this name)
        else:
            program = torch.export.load(str(file)).module()

        @torch.inference_mode()
        def run(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
            outputs = program(*(torch.from_numpy(inputs[name]) for name in names))
            return [y.numpy().copy() for y in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]

        return run


def instruction_set() -> str:
    """Return what torch calls the processor's vector instructions, e.g. ``AVX512``."""
    return torch.backends.cpu.get_cpu_capability()


def _check_fits(folder: Path, manifest: Manifest) -> None:
    """Compiled code fits one version of torch and one kind of processor. On another it would crash."""
    machine = {"torch": torch.__version__, "cpu": instruction_set()}
    for name, value in machine.items():
        if manifest.versions.get(name) != value:
            raise ExportError(
                f"{folder} was compiled for {name} {manifest.versions.get(name)}, here is {value}. Export it again here"
            )
