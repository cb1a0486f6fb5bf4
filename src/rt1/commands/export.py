"""The command ``rt1 export``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.commands.options import DataFormat, text_encoder
from rt1.commands.policy_options import CheckpointPath, EncoderName
from rt1.common.files import check_replaceable
from rt1.data.open_data import DataOptions, open_data
from rt1.policy.export.exporter import EXPORT_FILES, ExportSettings, export
from rt1.policy.exported_manifest import Manifest
from rt1.text.encoder import TABLE_FILE


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Export a policy to ONNX Runtime, OpenVINO or torch, and compare it with the network step by step."""

    checkpoint: CheckpointPath
    out: Path
    """Folder to write. An earlier export in it is replaced."""
    export: tyro.conf.OmitArgPrefixes[ExportSettings]
    """Settings of the export."""
    data: Path | None = None
    """Data set with the images of the comparison. Default: generated images."""
    text_encoder: EncoderName = None
    options: DataFormat = field(default_factory=DataOptions)

    def run(self, _command: str) -> int:
        """Export."""
        check_replaceable(self.out, EXPORT_FILES)  # before anything is read
        source = None if self.data is None else open_data(self.data, self.options)
        manifest = export(
            self.checkpoint,
            self.out,
            self.export,
            encoder=text_encoder(self.text_encoder),
            source=source,
            say=lambda stage: print(f"{stage} ...", flush=True),
        )
        print(_summary(manifest))
        size = sum((self.out / name).stat().st_size for name in manifest.files)
        print(f"export: {self.out} ({size / 1e6:.1f} MB). docs/export.md shows how to use it")
        return 0


def _summary(manifest: Manifest) -> str:
    comparison = manifest.comparison
    assert comparison is not None
    where = "recorded images" if comparison.images == "recorded" else "generated images (give --data for recorded ones)"
    equal = f"{comparison.tokens_agreeing} of {comparison.tokens}"
    clear = f"{comparison.clear_tokens_agreeing} of {comparison.clear_tokens}"
    lines = [
        f"compared on {comparison.steps} steps of {where}:",
        f"  largest logit difference {comparison.logit_difference:.2g}, largest logit {comparison.largest_logit:.3g}",
        f"  equal tokens {equal}, equal clear tokens {clear}",
    ]
    if TABLE_FILE not in manifest.files:
        lines.append("it holds no instructions and takes only text embeddings. Add instructions with --instructions")
    return "\n".join(lines)
