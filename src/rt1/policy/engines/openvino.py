"""The engine ``openvino``: OpenVINO on the CPU. No torch."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rt1.policy.engines.graph import Graph, GraphEngine, one_by_one


class OpenVinoEngine(GraphEngine):
    """The graphs in OpenVINO. With ``bf16`` the transformer computes in bfloat16.

    The image tokens stay in float32: in bfloat16 one of 20 clear action tokens changes (docs/results.md).
    """

    def load(self, file: Path, threads: int | None) -> Graph:
        bf16 = self.precision == "bf16" and file.stem == "decoder"
        # On a processor with bf16 OpenVINO would otherwise choose it.
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}
        if threads is not None:
            hints["INFERENCE_NUM_THREADS"] = str(threads)
        core = import_openvino().Core()
        model = core.read_model(str(file))
        names = [port.get_any_name() for port in model.inputs]
        is_fixed = file.stem == "tokenizer"  # convolutions of one fixed shape are faster, in batches, too
        if is_fixed:
            model.reshape({port: [1, *list(port.get_partial_shape())[1:]] for port in model.inputs})
        request = core.compile_model(model, "CPU", hints).create_infer_request()
        lock = threading.Lock()  # a request runs once at a time

        def run(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
            with lock:
                outputs = request.infer({name: inputs[name] for name in names}).to_tuple()
                return [output.copy() for output in outputs]

        return one_by_one(run) if is_fixed else run


def import_openvino() -> Any:  # noqa: ANN401 (an optional package)
    """Import OpenVINO without its usage reports: at import it would send one over the network."""
    name = "openvino_telemetry"
    if name in sys.modules:
        import openvino

        return openvino
    sys.modules[name] = None  # type: ignore[assignment] # to OpenVINO it is not installed
    try:
        import openvino
    finally:
        del sys.modules[name]
    return openvino
