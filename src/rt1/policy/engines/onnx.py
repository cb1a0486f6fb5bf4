"""The engine ``onnx``: ONNX Runtime on the CPU. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rt1.policy.engines.graph import Graph, GraphEngine, one_by_one


class OnnxEngine(GraphEngine):
    """The graphs in ONNX Runtime."""

    def load(self, file: Path, threads: int | None) -> Graph:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors only
        # Threads that spin while they wait take the processor from a server's other work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        names = [port.name for port in session.get_inputs()]

        def run(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
            return session.run(None, {name: inputs[name] for name in names})

        # One scale of 8 bits spans a whole batch: a robot with large activations would leave the others no digits.
        return one_by_one(run) if self.precision == "int8" and file.stem == "decoder" else run
