"""The commands ``rt1 package`` and ``rt1 push``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.commands.options import text_encoder
from rt1.commands.policy_options import CheckpointPath, EncoderName
from rt1.common.files import scratch_folder
from rt1.hub.card import check_card
from rt1.hub.client import upload
from rt1.hub.names import check_repository
from rt1.policy.package import PACKAGE_FILES, PackageSettings, package


@dataclass(frozen=True, kw_only=True)
class PackageCommand:
    """Write a policy as one folder without training state: weights, instructions, results, model card."""

    checkpoint: CheckpointPath
    out: Path
    """Folder to write. An earlier package in it is replaced."""
    settings: tyro.conf.OmitArgPrefixes[PackageSettings] = field(default_factory=PackageSettings)
    """Content of the package."""
    text_encoder: EncoderName = None

    def run(self, _command: str) -> int:
        """Write the folder, and print its size."""
        folder = package(self.checkpoint, self.out, self.settings, encoder=text_encoder(self.text_encoder), say=print)
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{folder}: {size / 1e6:.2f} MB in {self.settings.precision}, with a model card")
        return 0


@dataclass(frozen=True, kw_only=True)
class PushCommand:
    """Upload a policy and its model card to the Hugging Face Hub, as rt1 package writes it."""

    checkpoint: CheckpointPath
    repository: tyro.conf.Positional[str]
    """Repository USER/NAME. It is created if it is missing."""
    private: bool = False
    """Create a private repository."""
    revision: str | None = None
    """Branch to upload to, created if it is missing. Default: main."""
    settings: tyro.conf.OmitArgPrefixes[PackageSettings] = field(default_factory=PackageSettings)
    """Content of the package."""
    text_encoder: EncoderName = None

    def run(self, _command: str) -> int:
        """Package, check the model card, and upload."""
        check_repository(self.repository)
        with scratch_folder("push") as temporary:
            out = temporary / "policy"
            encoder = text_encoder(self.text_encoder)
            package(self.checkpoint, out, self.settings, address=self.repository, encoder=encoder, say=print)
            check_card(out)
            address = upload(out, self.repository, private=self.private, revision=self.revision, replaced=PACKAGE_FILES)
        revision = "" if self.revision is None else f"@{self.revision}"
        print(f"uploaded: {address}")
        print(f'load it: Policy.from_pretrained("{self.repository}{revision}")')
        return 0
