"""Write the graphs as files, one function per format."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

import rt1
from rt1.errors import ExportError, first_line
from rt1.policy.engines.openvino import import_openvino
from rt1.policy.engines.program import instruction_set
from rt1.policy.export.graphs import Programs
from rt1.policy.exported import version_of
from rt1.policy.exported_manifest import Format, Precision

PACKAGES: Mapping[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch-export": (),
    "aoti": (),
}
"""Format -> packages it needs besides torch."""

EXTRA: Mapping[Format, str] = {"onnx": "export-onnx", "openvino": "openvino"}
"""Format -> the extra that installs them."""

PRECISIONS: Mapping[Format, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16"),
    "torch-export": ("fp32",),
    "aoti": ("fp32",),
}
"""Format -> precisions that make the policy faster there."""


def check_possible(to: Format, precision: Precision) -> None:
    """Raise :class:`ExportError` where a format cannot be written here: before minutes of work, not after."""
    if precision not in PRECISIONS[to]:
        able = " or ".join(name for name, known in PRECISIONS.items() if precision in known)
        raise ExportError(
            f"precision {precision} cannot be exported to {to}, which has {', '.join(PRECISIONS[to])}. "
            f"Export to {able}, or leave --precision out"
        )
    missing = [name for name in PACKAGES[to] if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"an export to {to} needs {', '.join(missing)}. Run: pip install 'rt1[{EXTRA[to]}]'")
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if to == "aoti" and not any(map(shutil.which, compilers)):
        raise ExportError(
            f"an export to aoti needs a C++ compiler, and {' or '.join(compilers)} is not there. "
            "Install one (Debian: apt-get install g++), or set CXX to yours"
        )


def write_graphs(programs: Programs, folder: Path, *, to: Format, precision: Precision) -> None:
    """Write all graphs into a folder, named as :data:`rt1.policy.exported_manifest.GRAPH_FILES` says."""
    writers: Mapping[Format, Callable[[Programs, Path], None]] = {
        "onnx": _write_onnx,
        "openvino": _write_openvino,
        "torch-export": _write_torch_export,
        "aoti": _write_aoti,
    }
    writers[to](programs, folder)
    if precision == "int8":
        quantize(folder / "decoder.onnx")


def versions(to: Format) -> dict[str, str]:
    """Return the versions of the packages that write an export, and the instruction set."""
    packages = {name: version_of(name) for name in PACKAGES[to]}
    return {"rt1": rt1.__version__, **packages, "torch": torch.__version__, "cpu": instruction_set()}


def installed_versions() -> dict[str, str]:
    """Return the versions of torch and of all packages that some engine needs and that are installed."""
    names = sorted({"torch", *(name for packages in PACKAGES.values() for name in packages)})
    return {name: version_of(name) for name in names if importlib.util.find_spec(name)}


def _write_onnx(programs: Programs, folder: Path) -> None:
    for name, program in programs.named:
        try:
            with _quiet():
                onnx_program = torch.onnx.export(program, dynamo=True, external_data=False, verbose=False)
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise ExportError(
                f"ONNX cannot express this network's {name} ({reason}). Export to torch-export or aoti"
            ) from error
        assert onnx_program is not None
        onnx_program.save(folder / f"{name}.onnx", external_data=False)


def quantize(file: Path) -> None:
    """Quantize the weights of the matrix products to 8 bits and their activations dynamically.

    Weights are unsigned, as the activations are. Without VNNI, kernels add two products of uint8 and int8 in 16 bits,
    which saturate. Signed weights of 7 bits do not saturate, but their error is a third larger.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch:
        quantized = Path(scratch) / file.name
        with _quiet():
            operators = ["MatMul", "Gemm"]
            quantize_dynamic(
                file, quantized, op_types_to_quantize=operators, per_channel=True, weight_type=QuantType.QUInt8
            )
        shutil.copyfile(quantized, file)


def _write_openvino(programs: Programs, folder: Path) -> None:
    openvino = import_openvino()
    for name, program in programs.named:
        with _quiet():
            graph = openvino.convert_model(program)
        inputs, _ = program.example_inputs  # their first dimension, the number of robots, is free
        shapes = (openvino.PartialShape([-1, *example.shape[1:]]) for example in inputs)
        graph.reshape(dict(zip(graph.inputs, shapes, strict=True)))
        with _writing(folder / f"{name}.xml") as file:
            openvino.save_model(graph, str(file), compress_to_fp16=False)


def _write_torch_export(programs: Programs, folder: Path) -> None:
    for name, program in programs.named:
        with _writing(folder / f"{name}.pt2") as file:
            torch.export.save(program, file)


def _write_aoti(programs: Programs, folder: Path) -> None:
    for name, program in programs.named:
        with _quiet():
            torch._inductor.aoti_compile_and_package(  # noqa: SLF001 (documented under this name)
                program, package_path=str(folder / f"{name}.pt2"), inductor_configs={"freezing": True}
            )


@contextmanager
def _writing(file: Path) -> Iterator[Path]:
    """Yield a file. Raise ``OSError`` where a library reports a full disk by another error."""
    try:
        yield file
    except RuntimeError as error:
        raise OSError(f"{file.name} cannot be written ({first_line(error)})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporters' messages to their developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter._registration", "")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
