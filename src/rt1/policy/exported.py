"""An exported folder as an engine that is checked on this machine: numpy and ONNX Runtime or OpenVINO, no torch."""

from __future__ import annotations

from pathlib import Path

from rt1.errors import ExportError, RT1Error, first_line
from rt1.policy.engines.graph import GraphEngine
from rt1.policy.engines.onnx import OnnxEngine
from rt1.policy.engines.openvino import OpenVinoEngine
from rt1.policy.exported_manifest import MANIFEST_FILE, Manifest, read_manifest
from rt1.policy.exported_reference import check_reference
from rt1.policy.stepper import Stepper


def is_export(folder: Path) -> bool:
    """Return whether a folder is an export and not a checkpoint."""
    return (folder / MANIFEST_FILE).is_file()


def open_export(folder: Path, *, threads: int | None = None) -> tuple[GraphEngine, Manifest]:
    """Return the engine of an export whose reference steps agree on this machine, and its description.

    Raises:
        ExportError: the folder cannot be used, or it does not act here as where it was exported.
        ModuleNotFoundError: the library that runs it is not installed.
    """
    manifest = read_manifest(folder)
    engine = load_graphs(folder, manifest, threads=threads)
    check_reference(Stepper(engine), folder, manifest)
    return engine, manifest


def load_graphs(folder: Path, manifest: Manifest, *, threads: int | None = None) -> GraphEngine:
    """Load the graphs of an export, unchecked; torch is imported only for its own formats."""
    kinds: dict[str, type[GraphEngine]] = {"onnx": OnnxEngine, "openvino": OpenVinoEngine}
    if manifest.kind not in kinds:
        from rt1.policy.engines.program import ProgramEngine

        kinds[manifest.kind] = ProgramEngine
    try:
        return kinds[manifest.kind](folder, manifest, threads=threads)
    except (RT1Error, ModuleNotFoundError):
        raise
    except Exception as error:  # of libraries with classes of their own
        raise ExportError(
            f"{folder} does not load in {manifest.kind} here: {first_line(error)}. Export again on this machine"
        ) from error
