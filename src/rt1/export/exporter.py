"""From a checkpoint to an exported folder: trace, write, compare with the network, and keep it if both agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rt1.actions import FloatArray
from rt1.checkpoint import CheckpointInfo, load_info
from rt1.common.folders import replacing_alone
from rt1.common.json_config import check_at_least, check_between
from rt1.data.sources.base import EpisodeSource
from rt1.errors import ExportError
from rt1.export.compare import Trial, TrialSize, compare, generated_trials, recorded_trials
from rt1.export.formats import check_possible, versions, write_graphs
from rt1.export.graphs import trace
from rt1.policy.exported import ExportedPolicy
from rt1.policy.exported_manifest import (
    GRAPH_FILES,
    MANIFEST_FILE,
    REFERENCE_FILE,
    TABLE_FILE,
    Comparison,
    Format,
    Manifest,
    Precision,
    Sizes,
    sha256,
)
from rt1.policy.exported_reference import save_reference
from rt1.policy.exported_torch import load_graphs
from rt1.policy.policy import Policy
from rt1.text.encoder import TableEncoder, TextEncoder

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.1}
"""Logit difference that passes where none is given, as a share of the largest logit. Float32 differs by its rounding
alone. In lower precision the agreement of the tokens decides."""

EXPORT_FILES = (MANIFEST_FILE, REFERENCE_FILE, TABLE_FILE, *(name for names in GRAPH_FILES.values() for name in names))


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What is exported and how closely it must follow the network."""

    to: Format
    """Format: onnx and openvino act without torch, torch-export and aoti (compiled for this machine) with it."""
    precision: Precision = "fp32"
    """Numbers it computes in: int8 is for onnx, bf16 for openvino on processors that have it."""
    embodiment: str | None = None
    """Which embodiment acts, where the checkpoint has several."""
    instructions: tuple[str, ...] = ()
    """Sentences whose text embeddings are stored in the export. All sentences of a text table are stored."""
    tolerance: float | None = None
    """Largest logit difference allowed, as a share of the largest logit; 0.0001 for fp32 and 0.1 for the others if not
    given."""
    agreement: float = 0.99
    """Least share of equal tokens, of those whose logit is at least 0.05 above the next."""
    episodes: int = 2
    """Episodes it is compared on."""
    steps: int | None = None
    """Steps of each episode; 4 more than the window if not given, and never fewer than one more."""
    seed: int = 0
    """Seed of generated images and embeddings."""

    def __post_init__(self) -> None:
        check_between(self, 0, 1, "agreement")
        check_at_least(self, 0, "tolerance", "seed")
        check_at_least(self, 1, "steps")
        check_at_least(self, 2, "episodes")  # for a reset between them

    def steps_for(self, window: int) -> int:
        steps = window + 4 if self.steps is None else self.steps
        if steps <= window:
            raise ValueError(
                f"steps is {steps}; it must be more than the window of {window} images, so that images are forgotten"
            )
        return steps


def export(
    checkpoint: Path | str,
    out: Path | str,
    settings: ExportSettings,
    *,
    encoder: TextEncoder | None = None,
    source: EpisodeSource | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Export a checkpoint, compare the export with it, and keep it only if they agree.

    Args:
        checkpoint: checkpoint or run folder.
        out: the folder to write. It replaces an earlier export only if the comparison passes.
        settings: what to export.
        encoder: text encoder of the instructions, by default the one the checkpoint names.
        source: recorded episodes to compare on; generated images if None.
        say: called with one line before each stage.

    Raises:
        ExportError: the export is not possible here, or it differs from the network.
        CheckpointError: the checkpoint cannot be used.
        SaveError: ``out`` holds other files, or the disk is full or read-only.
        LockedError: another process exports to ``out``.
    """
    out = Path(out)
    check_possible(settings.to, settings.precision)
    info = load_info(checkpoint, embodiment=settings.embodiment)
    settings.steps_for(info.model.window)
    policy = Policy.from_checkpoint(checkpoint, embodiment=settings.embodiment, text_encoder=encoder)
    table = _table(policy, info, encoder, settings.instructions)
    with replacing_alone(out, holding=EXPORT_FILES) as temporary:
        temporary.mkdir()
        say(f"tracing and writing {settings.to}, {settings.precision}")
        write_graphs(trace(policy.model), temporary, to=settings.to, precision=settings.precision)
        if table is not None:
            table.save(temporary / TABLE_FILE)
        manifest = _describe(temporary, info, settings)
        trials = _trials(policy, source, settings)
        say(f"comparing with the network on {sum(len(trial.images) for trial in trials)} images")
        exported = ExportedPolicy(manifest, load_graphs(temporary, manifest))
        comparison = compare(
            policy,
            exported,
            trials,
            images="generated" if source is None else "recorded",
            tolerance=TOLERANCES[settings.precision] if settings.tolerance is None else settings.tolerance,
        )
        _check(comparison, settings)
        save_reference(exported, temporary, manifest, embedding=trials[0].embedding, images=trials[0].images)
        files = {**manifest.files, REFERENCE_FILE: sha256(temporary / REFERENCE_FILE)}
        manifest = replace(manifest, comparison=comparison, files=files)
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest.to_json(), indent=1), encoding="utf-8")
    return manifest


def _table(
    policy: Policy, info: CheckpointInfo, encoder: TextEncoder | None, instructions: Sequence[str]
) -> TableEncoder | None:
    """Return the text embeddings to store: those of the sentences asked for, and all of a table."""
    stored = encoder.sentences if isinstance(encoder, TableEncoder) else ()
    vectors: dict[str, FloatArray] = {}
    for sentence in dict.fromkeys((*instructions, *stored)):
        policy.reset(sentence)
        vectors[sentence] = policy.text_embedding
    name = "instructions" if info.text_encoder is None else info.text_encoder.name
    return TableEncoder(vectors, name) if vectors else None


def _describe(folder: Path, info: CheckpointInfo, settings: ExportSettings) -> Manifest:
    network = info.model
    return Manifest(
        kind=settings.to,
        precision=settings.precision,
        sizes=Sizes(
            window=network.window,
            image_size=network.image_size,
            text_width=network.text_width,
            image_tokens=network.image_tokens,
            token_width=network.token_width,
            decoder_text=network.transformer.condition is not None,
        ),
        action_spec=info.action_spec,
        text_encoder=info.text_encoder,
        control_rate=info.control_rate,
        comparison=None,
        versions=versions(settings.to),
        files={file.name: sha256(file) for file in sorted(folder.iterdir())},
        provenance=info.provenance,
    )


def _trials(policy: Policy, source: EpisodeSource | None, settings: ExportSettings) -> list[Trial]:
    network = policy.model.config
    size = TrialSize(
        episodes=settings.episodes,
        steps=settings.steps_for(network.window),
        text_width=network.text_width,
        vocabulary=network.text.vocabulary,
    )
    return generated_trials(size, settings.seed) if source is None else recorded_trials(source, size, settings.seed)


def _check(comparison: Comparison, settings: ExportSettings) -> None:
    difference, largest = comparison.logit_difference, comparison.largest_logit
    if not difference <= comparison.tolerance * largest:  # True for NaN
        raise ExportError(
            f"the export's logits differ from the network's by up to {difference:.3g} (of up to {largest:.3g}), the "
            f"tolerance is {comparison.tolerance:g} of that; nothing was kept; raise --tolerance if that is good "
            "enough, or take another format or precision"
        )
    if comparison.clear_agreement < settings.agreement:
        raise ExportError(
            f"the export's tokens are the network's in {comparison.clear_agreement:.2%} of the "
            f"{comparison.clear_tokens} clear ones, {settings.agreement:.2%} is required; nothing was kept; lower "
            "--agreement if that is good enough, or take another format or precision"
        )
