"""The command ``rt1 text-table``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.commands.options import DataFormat
from rt1.common.files import check_replaceable
from rt1.data.open_data import DataOptions, open_data
from rt1.data.sources.base import optional_members
from rt1.data.text_table import harvest_text_table
from rt1.text.encoder import USE_LARGE_5


@dataclass(frozen=True, kw_only=True)
class TextTableCommand:
    """Write the text embeddings of a data set to a table file, which is a text encoder for its sentences."""

    path: tyro.conf.Positional[Path]
    """Folder of the data set."""
    out: Path
    """Table to write, a .safetensors file. Other commands take it as text encoder."""
    encoder: str | None = None
    """Name of the encoder that made the embeddings. Default: the one that the data set names, or Universal Sentence
    Encoder if it names none, as in Open X sets."""
    data: DataFormat = field(default_factory=DataOptions)

    def run(self, _command: str) -> int:
        """Write the table."""
        check_replaceable(self.out, suffix=".safetensors")  # before the data are read
        source = open_data(self.path, self.data)
        stored = optional_members(source).text_encoder
        name = self.encoder or (USE_LARGE_5.name if stored is None else str(stored["name"]))
        # The hash of a known encoder identifies its weights. A table has none, so its file name identifies it.
        is_known = self.encoder is None and stored is not None and bool(stored["sha256"])
        table = harvest_text_table(source, self.out, encoder_name=str(self.out) if is_known else name)
        print(f"{self.out}: {len(table.sentences)} sentences, {table.identity.width} entries each, of {name}")
        return 0
