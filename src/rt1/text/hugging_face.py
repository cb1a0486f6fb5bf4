"""Any text encoder of Hugging Face (BERT, T5, CLIP and their kin) by the package transformers."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rt1.errors import first_line
from rt1.text.encoder import HUGGING_FACE, TextEncoderIdentity, check_instructions
from rt1.text.pieces import Pieces, warn_of_unknown

Pooling = Literal["mean", "cls", "eos", "tokens"]
POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "eos", "tokens")

_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_ENDLESS = 1_000_000  # tokenizers without a limit state a far larger number


class HuggingFaceEncoder:
    """Instructions to vectors by a pretrained encoder. Its weights must be safetensors, and none of its code is run.

    Instructions of one length are encoded together without padding. The batch changes only the last bits of a vector.
    """

    def __init__(self, name: str, *, pooling: Pooling = "mean", tokens: int = 32) -> None:
        """Load a model.

        Args:
            name: folder, or name on the hub, which is used only for files that are not in its local cache.
            pooling: ``mean`` over the tokens, the first (``cls``), the last (``eos``), or all ``tokens``.
            tokens: with ``tokens``: the most an instruction may have.

        Raises:
            ValueError: transformers is not installed, or the model is missing, cannot be used or takes fewer tokens.
        """
        folder, self._model, self._tokenizer = _load(name)
        self._pooling = pooling
        positions = getattr(self._model.config, "max_position_embeddings", _ENDLESS)
        self._longest = int(min(self._tokenizer.model_max_length, positions, _ENDLESS))
        count = tokens if pooling == "tokens" else 1
        if count > self._longest:
            raise ValueError(f"{count} tokens were asked of {name}, which takes at most {self._longest}. Ask for fewer")
        self._limit = count if pooling == "tokens" else self._longest
        self.identity = TextEncoderIdentity(
            name=f"{HUGGING_FACE}{name}:{pooling}" + (f"={tokens}" if pooling == "tokens" else ""),
            sha256=_content_hash(folder),
            width=int(self._model.config.hidden_size) * count,
            tokens=count,
        )

    def encode(self, instructions: Sequence[str] | Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return float32 (B, E), one row per instruction, a sentence or its token ids.

        Raises:
            ValueError: an empty instruction, or one with more tokens than the model or ``tokens`` takes.
        """
        rows = np.zeros((len(instructions), self.identity.width), dtype=np.float32)
        by_length: dict[int, list[int]] = defaultdict(list)
        all_ids = self._ids(instructions)
        for index, ids in enumerate(all_ids):
            if not 0 < len(ids) <= self._limit:
                more = ", or train with a larger tokens=N" if self._limit < len(ids) <= self._longest else ""
                raise ValueError(
                    f"instruction {index} ({str(instructions[index])[:80]!r}) has {len(ids)} tokens. "
                    f"{self.identity.name} takes 1 to {self._limit}. Give a sentence of that length{more}"
                )
            by_length[len(ids)].append(index)
        for members in by_length.values():
            with torch.inference_mode():
                hidden_BLD = self._model(input_ids=torch.tensor([all_ids[i] for i in members])).last_hidden_state
                vectors = self._pool(hidden_BLD.float()).numpy()
            rows[members, : vectors.shape[1]] = vectors
        return rows

    def pieces(self, instruction: str) -> Pieces:
        """Return the tokens of an instruction. A tokenizer without offsets names the whole of it as unknown."""
        tokens = self._tokenizer([instruction], add_special_tokens=False)  # CLIP's end is its unknown token, too
        ids, number = tuple(tokens.input_ids[0]), self._tokenizer.unk_token_id
        spans = tokens.encodings[0].offsets if tokens.encodings else [(0, len(instruction))] * len(ids)
        unknown = (instruction[start:stop] for (start, stop), token in zip(spans, ids, strict=True) if token == number)
        return Pieces(ids=ids, unknown=tuple(dict.fromkeys(unknown)))

    def _ids(self, instructions: Sequence[str] | Sequence[Sequence[int]]) -> list[list[int]]:
        if all(isinstance(instruction, str) for instruction in instructions):
            sentences = [str(instruction) for instruction in instructions]
            check_instructions(sentences)
            warn_of_unknown(self, sentences)
            return self._tokenizer(list(instructions)).input_ids
        return [[int(token) for token in instruction] for instruction in instructions]

    def _pool(self, hidden_BLD: torch.Tensor) -> torch.Tensor:
        if self._pooling == "mean":
            return hidden_BLD.mean(1)
        if self._pooling == "tokens":
            return hidden_BLD.flatten(1)
        return hidden_BLD[:, 0 if self._pooling == "cls" else -1]


def _load(name: str) -> tuple[Path, Any, Any]:
    """Return the folder of a model, the model and its tokenizer."""
    try:
        import transformers
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(f"{HUGGING_FACE}{name} needs {error.name}. Run: pip install 'rt1[transformers]'") from error
    folder = Path(name)
    try:
        folder = folder if folder.is_dir() else Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:  # offline, unknown, or no name of a repository
        raise ValueError(
            f"{name} is no folder, is not in the local cache, and the hub did not give it ({type(error).__name__}). "
            f"Give the folder of a model, or fetch it once where there is a network: hf download {name}"
        ) from error
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        clip = "CLIPTextModel"
        kinds = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "clip": clip, "clip_text_model": clip}
        kind = getattr(transformers, kinds.get(config.model_type, "AutoModel"))
        with _without_bars(transformers.utils.logging):
            model = kind.from_pretrained(folder, use_safetensors=True, dtype=torch.float32).eval()
        return folder, model, transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # each kind of model and of tokenizer has errors of its own
        raise ValueError(f"{name} cannot be used as a text encoder: {first_line(error)}") from error


@contextmanager
def _without_bars(logging: Any) -> Iterator[None]:  # noqa: ANN401 (a module of an optional package)
    """Hide the progress bar of transformers, which it draws for short loads, too."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _content_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _FILES for path in folder.glob(pattern)):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
