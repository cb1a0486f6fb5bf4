"""What an exported folder holds and says of itself. No torch.

    export.json            this description
    condition.*                 graph: text embedding to condition, once an episode
    tokenizer.*                 graph: prepared image and condition to image tokens and attention maps
    decoder.*                   graph: the window's image tokens and the condition to the logits of one step
    reference.safetensors       reference steps and the network's logits, checked once on each machine
    instructions.safetensors    text embeddings by sentence, where some were given

The names of the files follow from the format, never from the description.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rt1.actions import ActionSpec
from rt1.common import json_config
from rt1.common.json_files import read_object
from rt1.common.suggest import lookup
from rt1.errors import ExportError
from rt1.policy.agreement import Agreement
from rt1.text.encoder import TextEncoderIdentity

FORMAT = 3
MANIFEST_FILE, REFERENCE_FILE = "export.json", "reference.safetensors"
_CURE = "Restore it from a copy, or export again"

Format = Literal["onnx", "openvino", "torch-export", "aoti"]
Precision = Literal["fp32", "bf16", "int8"]

GRAPHS = ("condition", "tokenizer", "decoder")
_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "openvino": (".xml", ".bin"),
    "torch-export": (".pt2",),
    "aoti": (".pt2",),
}
GRAPH_FILES: Mapping[str, tuple[str, ...]] = {
    kind: tuple(graph + suffix for suffix in suffixes for graph in GRAPHS) for kind, suffixes in _SUFFIXES.items()
}
"""Format -> files of the three graphs in order, then what belongs to them."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the host must know of the network."""

    window: int
    """T: images the policy looks at, newest last."""
    image_size: tuple[int, int]
    """Height and width the image is stretched to, pixels."""
    grid: tuple[int, int]
    """Rows and columns of TokenLearner's maps."""
    text_width: int
    """E: entries of the text embedding."""
    vocabulary: int = 0
    """Word pieces whose ids a text embedding holds. 0 where it holds vectors."""
    guidance: bool
    """Whether it was trained without the text, too, so that guidance is possible."""
    image_tokens: int
    """K: tokens per image."""
    token_width: int
    """Entries of an image token."""
    parameters: int
    """Trainable parameters."""

    def __post_init__(self) -> None:
        counts = ("window", "image_size", "grid", "text_width", "image_tokens", "token_width", "parameters")
        json_config.check_at_least(self, 1, *counts)
        json_config.check_at_least(self, 0, "vocabulary")


@dataclass(frozen=True, kw_only=True)
class Comparison(Agreement):
    """How the exported policy and the network it was made from differ on the same images."""

    images: Literal["recorded", "generated"]
    """Where the images come from."""
    tolerance: float
    """Largest logit difference that was let pass, as a share of the largest logit."""
    least_agreement: float
    """Share of the clear tokens that must be equal, here and on each machine that acts."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an exported folder says of itself."""

    kind: Format
    precision: Precision
    sizes: Sizes
    action_spec: ActionSpec
    text_encoder: TextEncoderIdentity | None
    """The encoder its text embeddings come from. None where it is not known."""
    control_rate: float | None
    """Steps per second it was trained at, Hz. None where it is not known."""
    comparison: Comparison | None
    """How it differs from the network it was made from. None only until both have been compared."""
    versions: Mapping[str, str]
    """Package -> version it was made with. ``cpu`` is the instruction set."""
    files: Mapping[str, str]
    """File name -> SHA-256 of its content."""
    weights: str
    """SHA-256 of the weights it was made from."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the weights come from, as the checkpoint says."""

    def __post_init__(self) -> None:
        rate = self.control_rate
        if rate is not None and (type(rate) not in (int, float) or not 0 < rate < float("inf")):
            raise ValueError(f"the control rate is {rate!r:.80}, must be a number of steps per second")
        texts: tuple[object, ...] = (self.weights, *self.files, *self.files.values(), *self.versions.values())
        if not all(isinstance(text, str) and text.isprintable() for text in texts):
            raise ValueError("the files and versions hold something else than printable text")
        if paths := [name for name in self.files if Path(name).name != name]:
            raise ValueError(f"its file {paths[0]!r:.80} is a path, must be a name without folders")

    def to_json(self) -> dict[str, Any]:
        data = {"format": FORMAT, **json_config.to_json(self)}
        return {**data, "digest": _digest(data)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Manifest:
        """Read what :meth:`to_json` wrote. Anything else raises ``ValueError``."""
        if data.get("format") != FORMAT:
            raise ExportError(
                f"its format is {data.get('format')!r}. This version of rt1 reads format {FORMAT}. Export again"
            )
        lookup("export format", str(data["kind"]), GRAPH_FILES)
        lookup("precision", str(data["precision"]), dict.fromkeys(get_args(Precision)))
        encoder = data["text_encoder"]
        return Manifest(
            kind=data["kind"],
            precision=data["precision"],
            sizes=json_config.from_json(Sizes, data["sizes"], where="sizes"),
            action_spec=ActionSpec.from_json(data["action_spec"]),
            text_encoder=None if encoder is None else TextEncoderIdentity.from_json(encoder),
            control_rate=data["control_rate"],
            comparison=json_config.from_json(Comparison, data["comparison"], where="comparison"),
            versions=dict(data["versions"]),
            files=dict(data["files"]),
            weights=data["weights"],
            provenance=dict(data["provenance"]),
        )


def graph_files(kind: Format, folder: Path) -> tuple[Path, ...]:
    """Return the files that the three graphs of a format are loaded from."""
    return tuple(folder / name for name in GRAPH_FILES[kind][: len(GRAPHS)])


def read_manifest(folder: Path) -> Manifest:
    """Read an exported folder's description and check its files.

    Raises:
        ExportError: no export, another format, a missing or changed file.
    """
    file = folder / MANIFEST_FILE
    if not file.is_file():
        raise ExportError(f"{folder} holds no {MANIFEST_FILE}. Give a folder that rt1 export has written")
    data = read_object(file, error=ExportError, cure=_CURE)
    try:
        manifest = Manifest.from_json(data)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ExportError(f"{file} cannot be used: {error}. {_CURE}") from error
    for name in sorted({*GRAPH_FILES[manifest.kind], REFERENCE_FILE, *manifest.files}):
        path = folder / Path(name).name
        if name not in manifest.files or not path.is_file() or sha256(path) != manifest.files[name]:
            raise ExportError(f"{path} is missing or not the file that was exported. {_CURE}")
    if data.get("digest") not in (None, _digest(data)):  # earlier versions wrote none
        raise ExportError(f"{file} was changed after the export, for instance its action bounds. {_CURE}")
    return manifest


def _digest(data: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a description's entries: one wrong digit in a bound would give wrong actions."""
    entries = {name: value for name, value in data.items() if name != "digest"}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
