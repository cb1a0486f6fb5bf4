"""The command ``rt1 export``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.common.files import check_replaceable
from rt1.data.open_data import DataOptions, open_data
from rt1.export.exporter import EXPORT_FILES, ExportSettings, export
from rt1.policy.exported_manifest import TABLE_FILE, Manifest
from rt1.text.load import load_text_encoder


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a policy as two graphs for ONNX Runtime, OpenVINO or torch, compared with the network step by step."""

    checkpoint: tyro.conf.Positional[Path]
    """Checkpoint or run folder."""
    out: Path
    """Folder to write; an earlier export there is replaced."""
    export: tyro.conf.OmitArgPrefixes[ExportSettings]
    """What to export."""
    data: Path | None = None
    """Data set whose images it is compared on; generated ones if not given."""
    options: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    """What the data set does not say of itself."""
    text_encoder: str | None = None
    """Text encoder of the instructions: minilm, a table file, or an .onnx file; the one the checkpoint names if not
    given."""

    def run(self, _command: str) -> int:
        """Export."""
        check_replaceable(self.out, EXPORT_FILES)  # before anything is read
        source = None if self.data is None else open_data(self.data, self.options)
        encoder = None if self.text_encoder is None else load_text_encoder(self.text_encoder)
        manifest = export(
            self.checkpoint,
            self.out,
            self.export,
            encoder=encoder,
            source=source,
            say=lambda stage: print(f"{stage} ...", flush=True),
        )
        print(_summary(manifest))
        size = sum((self.out / name).stat().st_size for name in manifest.files)
        print(f"export: {self.out} ({size / 1e6:.1f} MB); docs/export.md shows how to act with it")
        return 0


def _summary(manifest: Manifest) -> str:
    found = manifest.comparison
    assert found is not None
    where = "recorded images" if found.images == "recorded" else "generated images (give --data for recorded ones)"
    equal = f"{found.tokens_agreeing} of {found.tokens}"
    clear = f"{found.clear_tokens_agreeing} of {found.clear_tokens}"
    lines = [
        f"compared on {found.steps} steps of {where}:",
        f"  largest logit difference {found.logit_difference:.2g}, largest logit {found.largest_logit:.3g}",
        f"  equal tokens {equal}, of the clear ones {clear}",
    ]
    if TABLE_FILE not in manifest.files:
        lines.append("it holds no instruction, so it takes text embeddings only; add some with --instructions")
    return "\n".join(lines)
