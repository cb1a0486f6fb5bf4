"""The command ``rt1 harvest``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.common.files import check_replaceable
from rt1.data.open_data import DataOptions, open_data
from rt1.data.sources.base import optional_members
from rt1.data.text_table import harvest_text_table
from rt1.text.encoder import USE_LARGE_5


@dataclass(frozen=True, kw_only=True)
class HarvestCommand:
    """Write the text embeddings that a data set carries as a table, which then is a text encoder for its sentences."""

    path: tyro.conf.Positional[Path]
    """Folder of the data set."""
    out: Path
    """The table to write, a .safetensors file; other commands take it as text encoder."""
    encoder: str | None = None
    """What made the embeddings; what the data set says of itself if not given, and Universal Sentence Encoder where it
    says nothing, as in Open X sets."""
    data: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    """How to read the data set."""

    def run(self, _command: str) -> int:
        """Harvest."""
        check_replaceable(self.out)  # before the data are read
        source = open_data(self.path, self.data)
        stored = optional_members(source).text_encoder
        name = self.encoder or (USE_LARGE_5.name if stored is None else str(stored["name"]))
        # A table is not the weights that a known encoder's hash stands for: it goes by its own file then.
        is_known = self.encoder is None and stored is not None and bool(stored["sha256"])
        table = harvest_text_table(source, self.out, encoder_name=str(self.out) if is_known else name)
        print(f"{self.out}: {len(table.sentences)} sentences, {table.identity.width} entries each, of {name}")
        return 0
