"""Universal Sentence Encoder from an ONNX file that the user names: the text encoder of Google's RT-1 networks."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.text.encoder import USE_LARGE_5, check_instructions

_FORM = f"It must have one input, strings (B,), and one output, float32 (B, {USE_LARGE_5.width})"


class UseOnnx:
    """Any sentence to its Universal Sentence Encoder (large/5) vector, computed by onnxruntime.

    The file is not checked: another encoder of the same form gives vectors without meaning to the network. An
    instruction's vector does not depend on the batch.
    """

    def __init__(self, path: Path) -> None:
        """Load a model with one input, strings (B,), and one output, float32 (B, 512).

        The tokenizer's operators come from onnxruntime-extensions if that is installed. The identity's hash is that of
        this file, without external weight files.

        Raises:
            ValueError: no such file, no onnxruntime, unknown operators, or other inputs or outputs.
        """
        if not path.is_file():
            raise ValueError(f"the text encoder's file {path} does not exist. Give an ONNX file")
        self._session = _open(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if not (_is_one(inputs, "tensor(string)", ()) and _is_one(outputs, "tensor(float)", (USE_LARGE_5.width,))):
            raise ValueError(
                f"{path} has the inputs {_described(inputs)} and the outputs {_described(outputs)}. {_FORM}. "
                "Export it in that form"
            )
        self._input = inputs[0].name
        with path.open("rb") as file:
            self.identity = replace(USE_LARGE_5, sha256=hashlib.file_digest(file, "sha256").hexdigest())

    def encode(self, instructions: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (B, 512), one row per instruction. An empty instruction raises ``ValueError``."""
        check_instructions(instructions)
        vectors = np.empty((len(instructions), self.identity.width), dtype=np.float32)
        for row, instruction in zip(vectors, instructions, strict=True):
            row[:] = self._session.run(None, {self._input: np.array([instruction], dtype=object)})[0][0]
        return vectors


def _open(path: Path) -> Any:  # noqa: ANN401 (onnxruntime has no types)
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"{path} needs onnxruntime, which is not installed. Run `pip install 'rt1[use]'`") from error
    options = onnxruntime.SessionOptions()
    if importlib.util.find_spec("onnxruntime_extensions") is not None:
        from onnxruntime_extensions import get_library_path

        options.register_custom_ops_library(get_library_path())
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each kind of failure
        reason = " ".join(str(error).rpartition(" failed:")[2].split())[:200]
        cure = "Give a whole ONNX file"
        if "is not a registered" in reason:
            cure = "Run `pip install onnxruntime-extensions`, or export it without operators beyond ONNX' own"
        raise ValueError(f"{path} cannot be loaded by onnxruntime: {reason}. {cure}") from error


def _is_one(values: Sequence[Any], kind: str, row_shape: tuple[int, ...]) -> bool:
    """Return whether there is one value, with a batch of any size, or of one, before the shape of a row."""
    if len(values) != 1 or values[0].type != kind or not values[0].shape:
        return False
    batch, *rest = values[0].shape
    return (batch == 1 or not isinstance(batch, int)) and tuple(rest) == row_shape


def _described(values: Sequence[Any]) -> str:
    return ", ".join(f"{value.name}: {value.type} {value.shape}" for value in values) or "(none)"
