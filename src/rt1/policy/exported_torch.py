"""An exported policy where torch is installed: the formats torch-export and aoti, and those of the other host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rt1.actions import FloatArray
from rt1.errors import ExportError
from rt1.policy import exported
from rt1.policy.exported import ExportedPolicy, Graphs, checked_policy
from rt1.policy.exported_manifest import Manifest, graph_files, read_manifest
from rt1.text.encoder import TextEncoder


def load_exported(
    folder: Path | str, *, encoder: TextEncoder | None = None, threads: int | None = None
) -> ExportedPolicy:
    """Load an export in any format, as :func:`rt1.policy.exported.load_exported` does for two of them.

    An ``aoti`` export is machine code: load none that you would not run as a program. In torch's formats ``threads``
    are those of the whole process.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    return checked_policy(folder, manifest, load_graphs(folder, manifest, threads=threads), encoder)


def load_graphs(folder: Path, manifest: Manifest, *, threads: int | None = None) -> Graphs:
    if manifest.kind in ("onnx", "openvino"):
        return exported.load_graphs(folder, manifest, threads=threads)
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchGraphs(folder, manifest)


class TorchGraphs:
    """The graphs as torch runs them, on the CPU."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        load: Callable[[str], Callable[..., Tensor]] = _load_program
        if manifest.kind == "aoti":
            _check_fits(folder, manifest)
            load = torch._inductor.aoti_load_package  # noqa: SLF001 (documented under this name)
        self._tokenizer, self._decoder = (load(str(file)) for file in graph_files(manifest.kind, folder))

    @torch.inference_mode()
    def tokenize(self, image_1HWC: FloatArray, text_1E: FloatArray) -> FloatArray:
        return self._tokenizer(torch.from_numpy(image_1HWC), torch.from_numpy(text_1E)).numpy()

    @torch.inference_mode()
    def decode(self, token_1TKE: FloatArray, step_1: NDArray[np.int64], text_1E: FloatArray | None) -> FloatArray:
        text = () if text_1E is None else (torch.from_numpy(text_1E),)
        return self._decoder(torch.from_numpy(token_1TKE), torch.from_numpy(step_1), *text).numpy()


def instruction_set() -> str:
    """Return what torch calls the processor's vector instructions, e.g. ``AVX512``."""
    return torch.backends.cpu.get_cpu_capability()


def _check_fits(folder: Path, manifest: Manifest) -> None:
    """Compiled code fits one version of torch and one kind of processor; on another it would crash."""
    machine = {"torch": torch.__version__, "cpu": instruction_set()}
    for name, value in machine.items():
        if manifest.versions.get(name) != value:
            raise ExportError(
                f"{folder} was compiled for {name} {manifest.versions.get(name)}, here is {value}; export it again here"
            )


def _load_program(file: str) -> Callable[..., Tensor]:
    return torch.export.load(file).module()
