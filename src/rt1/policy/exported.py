"""An exported policy on a robot: numpy and ONNX Runtime or OpenVINO, no torch.

    from rt1.policy.exported import load_exported

    policy = load_exported("exported")
    policy.reset("open the drawer")
    action = policy.act(image)

Shape letters: T window, K tokens per image, E text or token width, A action dimensions, V bins.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.common.suggest import unknown_name
from rt1.errors import ExportError
from rt1.policy.base import BasePolicy, Instruction, check_embedding
from rt1.policy.exported_image import prepare_image
from rt1.policy.exported_manifest import TABLE_FILE, Manifest, graph_files, read_manifest
from rt1.policy.exported_reference import check_reference
from rt1.text.encoder import TableEncoder, TextEncoder, check_same_encoder
from rt1.text.pieces import encode_known


class Graphs(Protocol):
    """The two halves of the network in one runtime."""

    def tokenize(self, image_1HWC: FloatArray, text_1E: FloatArray) -> FloatArray:
        """Turn a prepared image, float32 in [0, 1], and a text embedding into image tokens (1, K, E)."""
        ...

    def decode(self, token_1TKE: FloatArray, step_1: NDArray[np.int64], text_1E: FloatArray | None) -> FloatArray:
        """Turn a window's image tokens into the logits (1, A, V) of one of its steps; later ones are not looked at.

        The text embedding is given where :attr:`rt1.policy.exported_manifest.Sizes.decoder_text` says so.
        """
        ...


class ExportedPolicy(BasePolicy):
    """Acts as :class:`~rt1.policy.policy.Policy` does, in another runtime. One per robot, not thread-safe."""

    def __init__(self, manifest: Manifest, graphs: Graphs, *, encoder: TextEncoder | None = None) -> None:
        """Start without an episode. Without an ``encoder``, :meth:`reset` takes embeddings only."""
        self.manifest = manifest
        self.action_spec = manifest.action_spec
        self._graphs = graphs
        self._encoder = encoder
        self._text_1E: FloatArray | None = None
        sizes = manifest.sizes
        self._token_1TKE = np.zeros((1, sizes.window, sizes.image_tokens, sizes.token_width), dtype=np.float32)
        self._images = 0

    def new_session(self) -> ExportedPolicy:
        """Return a policy for another robot: the same graphs and text encoder, no episode."""
        return ExportedPolicy(self.manifest, self._graphs, encoder=self._encoder)

    with_own_memory = new_session
    """Earlier name of :meth:`new_session`."""

    def reset(self, instruction: Instruction) -> None:
        """Forget the last episode and take an instruction: a sentence, or its text embedding, float32 (E,).

        Raises:
            ValueError: a sentence without a stored embedding, or an embedding that does not fit the network.
        """
        embedding = self._encode(instruction) if isinstance(instruction, str) else np.asarray(instruction)
        check_embedding(embedding, self.manifest.sizes.text_width)
        self._text_1E = np.array(embedding, dtype=np.float32)[None]
        self._images = 0

    def logits(self, image: NDArray[Any]) -> FloatArray:
        """Take a new image into the episode and return float32 logits (A, V)."""
        if self._text_1E is None:
            raise RuntimeError("act() was called before reset(); call reset(instruction) at the start of an episode")
        prepared_1HWC = prepare_image(image, self.manifest.sizes.image_size)[None]
        token_1KE = self._graphs.tokenize(prepared_1HWC, self._text_1E)
        if self._images == self.manifest.sizes.window:
            self._token_1TKE[:, :-1] = self._token_1TKE[:, 1:]
            self._images -= 1
        # Later steps may hold any values: no step attends to a later one.
        self._token_1TKE[:, self._images] = token_1KE
        self._images += 1
        text_1E = self._text_1E if self.manifest.sizes.decoder_text else None
        return self._graphs.decode(self._token_1TKE, np.array([self._images - 1]), text_1E)[0]

    def _encode(self, sentence: str) -> FloatArray:
        cure = "give its text embedding, or export again with --instructions and this sentence"
        if self._encoder is None:
            identity = self.manifest.text_encoder
            source = "" if identity is None else f" of {identity}"
            raise ValueError(
                f"this export holds no table of text embeddings{source}, only embeddings are taken; {cure}"
            )
        if isinstance(self._encoder, TableEncoder) and sentence not in self._encoder.sentences:
            raise ValueError(f"{unknown_name('instruction', sentence, self._encoder.sentences)}; {cure}")
        return encode_known(self._encoder, sentence)


def load_exported(
    folder: Path | str, *, encoder: TextEncoder | None = None, threads: int | None = None
) -> ExportedPolicy:
    """Load an export in the formats ``onnx`` and ``openvino``; :mod:`rt1.policy.exported_torch` loads the others, too.

    Args:
        folder: what ``rt1 export`` has written.
        encoder: encoder for instructions; the sentences stored in the export if None.
        threads: threads that compute; the runtime decides if None.

    Raises:
        ExportError: the folder cannot be used, needs torch, or does not act here as where it was exported.
        ValueError: ``encoder`` is not the one the network was trained with.
        ModuleNotFoundError: the runtime is not installed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    return checked_policy(folder, manifest, load_graphs(folder, manifest, threads=threads), encoder)


def checked_policy(folder: Path, manifest: Manifest, graphs: Graphs, encoder: TextEncoder | None) -> ExportedPolicy:
    """Return the policy of an export whose reference steps agree on this machine; others raise ``ExportError``."""
    if encoder is None:
        encoder = TableEncoder.load(folder / TABLE_FILE) if TABLE_FILE in manifest.files else None
    elif manifest.text_encoder is not None:
        check_same_encoder(manifest.text_encoder, encoder.identity)
    policy = ExportedPolicy(manifest, graphs, encoder=encoder)
    check_reference(policy.new_session(), folder, manifest)
    return policy


def load_graphs(folder: Path, manifest: Manifest, *, threads: int | None = None) -> Graphs:
    """Load the graphs of an export in ``onnx`` or ``openvino``; another format raises :class:`ExportError`."""
    if manifest.kind == "onnx":
        return OnnxGraphs(folder, threads)
    if manifest.kind == "openvino":
        return OpenVinoGraphs(folder, manifest, threads)
    raise ExportError(
        f"{folder} is a {manifest.kind} export, which needs torch; load it with rt1.policy.exported_torch.load_exported"
    )


class OnnxGraphs:
    """The graphs in ONNX Runtime, on the CPU."""

    def __init__(self, folder: Path, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors only
        self._tokenizer, self._decoder = (
            onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            for file in graph_files("onnx", folder)
        )

    def tokenize(self, image_1HWC: FloatArray, text_1E: FloatArray) -> FloatArray:
        return self._tokenizer.run(None, {"image": image_1HWC, "text": text_1E})[0]

    def decode(self, token_1TKE: FloatArray, step_1: NDArray[np.int64], text_1E: FloatArray | None) -> FloatArray:
        return self._decoder.run(None, _decoder_inputs(token_1TKE, step_1, text_1E))[0]


_HINTS = {"fp32": "f32", "bf16": "bf16"}
"""Precision -> OpenVINO's word for it."""


class OpenVinoGraphs:
    """The graphs in OpenVINO, on the CPU."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int | None) -> None:
        core = import_openvino().Core()
        # On a processor with bf16 OpenVINO would otherwise choose it.
        hints: dict[str, str] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[manifest.precision]}
        if threads is not None:
            hints["INFERENCE_NUM_THREADS"] = str(threads)
        self._tokenizer, self._decoder = (
            core.compile_model(str(file), "CPU", hints).create_infer_request()
            for file in graph_files("openvino", folder)
        )

    def tokenize(self, image_1HWC: FloatArray, text_1E: FloatArray) -> FloatArray:
        return self._tokenizer.infer({"image": image_1HWC, "text": text_1E})[0].copy()

    def decode(self, token_1TKE: FloatArray, step_1: NDArray[np.int64], text_1E: FloatArray | None) -> FloatArray:
        return self._decoder.infer(_decoder_inputs(token_1TKE, step_1, text_1E))[0].copy()


def _decoder_inputs(tokens: FloatArray, step: NDArray[np.int64], text: FloatArray | None) -> dict[str, NDArray[Any]]:
    return {"tokens": tokens, "step": step} if text is None else {"tokens": tokens, "step": step, "text": text}


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
