"""An exported folder as an engine that is checked on this machine: numpy and ONNX Runtime or OpenVINO, no torch."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path

import rt1
from rt1.common.files import user_cache, write_text
from rt1.common.processor import instructions, processor
from rt1.errors import ExportError, RT1Error, SaveError, first_line
from rt1.policy.engines.graph import GraphEngine
from rt1.policy.engines.onnx import OnnxEngine
from rt1.policy.engines.openvino import OpenVinoEngine
from rt1.policy.exported_manifest import MANIFEST_FILE, Manifest, read_manifest, sha256
from rt1.policy.exported_reference import check_reference
from rt1.policy.stepper import Stepper
from rt1.text.encoder import TABLE_FILE, TableEncoder

_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""Format -> package that runs it. torch where it is not listed."""


def is_export(folder: Path) -> bool:
    """Return whether a folder is an export and not a checkpoint."""
    return (folder / MANIFEST_FILE).is_file()


def stored_table(folder: Path) -> TableEncoder | None:
    """Return the text embeddings by sentence that an exported or a packaged folder holds, or None."""
    file = folder / TABLE_FILE
    return TableEncoder.load(file) if file.is_file() else None


def open_export(folder: Path, *, threads: int | None = None) -> tuple[GraphEngine, Manifest]:
    """Return the engine of an export whose reference steps agree on this machine, and its description.

    Raises:
        ExportError: the folder cannot be used, or it does not act here as where it was exported.
        ModuleNotFoundError: the library that runs it is not installed.
    """
    manifest = read_manifest(folder)
    engine = load_graphs(folder, manifest, threads=threads)
    record = _check_record(folder, manifest)
    if not record.is_file():
        check_reference(Stepper(engine), folder, manifest)
        with suppress(SaveError, OSError):  # without a record the reference steps are taken next time, too
            record.parent.mkdir(parents=True, exist_ok=True)
            write_text(record, f"{folder.resolve()}\n")
    return engine, manifest


def _check_record(folder: Path, manifest: Manifest) -> Path:
    """Return the file that exists once this export has agreed with this library on this processor.

    The description in the export names the content of its other files.
    """
    package = _PACKAGES.get(manifest.kind, "torch")
    libraries = [rt1.__version__, package, version_of(package)]
    machine = [sha256(folder / MANIFEST_FILE), processor(), instructions(), *libraries]
    return user_cache() / "checked" / hashlib.sha256("\n".join(machine).encode()).hexdigest()[:32]


def version_of(package: str) -> str:
    """Return the version of an installed package, also of one whose distribution has another name (onnxruntime-gpu)."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(import_module(package).__version__)


def load_graphs(folder: Path, manifest: Manifest, *, threads: int | None = None) -> GraphEngine:
    """Load the graphs of an export, unchecked. torch is imported only for its own formats."""
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
