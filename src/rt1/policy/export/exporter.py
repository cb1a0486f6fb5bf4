"""From a checkpoint to an exported folder: trace, write, compare with the network, and keep it if both agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rt1.checkpoint import MODEL_FILE, RESULTS_FILE, CheckpointInfo, load_info, load_model, resolve
from rt1.common.folders import replacing_alone
from rt1.common.json_config import check_at_least, check_between
from rt1.data.sources.base import EpisodeSource
from rt1.errors import ExportError
from rt1.hub.card import CARD_FILE, CardFacts, card_text, edited_card, write_card
from rt1.policy.base import check_embedding
from rt1.policy.engines.torch import TorchEngine
from rt1.policy.export.compare import Trial, TrialSize, compare, generated_trials, recorded_trials
from rt1.policy.export.formats import check_possible, versions, write_graphs
from rt1.policy.export.graphs import trace
from rt1.policy.exported import load_graphs, stored_table
from rt1.policy.exported_manifest import (
    GRAPH_FILES,
    MANIFEST_FILE,
    REFERENCE_FILE,
    Comparison,
    Format,
    Manifest,
    Precision,
    Sizes,
    sha256,
)
from rt1.policy.exported_reference import MOST_STEPS, save_reference
from rt1.policy.stepper import Stepper
from rt1.text.encoder import TABLE_FILE, TableEncoder, TextEncoder, check_same_encoder
from rt1.text.load import load_identified

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.1}
"""Logit difference that passes where none is given, as a share of the largest logit. Float32 differs by its rounding
alone. In lower precision the agreement of the tokens decides."""

EXPORT_FILES = (
    MANIFEST_FILE,
    REFERENCE_FILE,
    TABLE_FILE,
    CARD_FILE,
    RESULTS_FILE,
    *(name for names in GRAPH_FILES.values() for name in names),
)


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
    """Largest logit difference allowed, as a share of the largest logit. 0.0001 for fp32 and 0.1 for the others if not
    given."""
    agreement: float = 0.99
    """Least share of equal tokens, of those whose logit is at least 0.05 above the next."""
    episodes: int = 2
    """Episodes it is compared on."""
    steps: int | None = None
    """Steps of each episode. 4 more than the window if not given, and never fewer than one more."""
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
                f"steps is {steps}, must be more than the window of {window} images, so that images are forgotten"
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
        source: recorded episodes to compare on. Generated images if None.
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
    steps = settings.steps_for(info.model.window)
    table = _table(info, encoder, settings.instructions, stored_table(resolve(checkpoint)))
    network = TorchEngine(load_model(checkpoint, embodiment=settings.embodiment))
    with replacing_alone(out, holding=EXPORT_FILES) as temporary:
        temporary.mkdir()
        say(f"tracing and writing {settings.to}, {settings.precision}")
        write_graphs(trace(network.model), temporary, to=settings.to, precision=settings.precision)
        if table is not None:
            table.save(temporary / TABLE_FILE)
        manifest = _describe(temporary, info, settings, network.sizes, resolve(checkpoint) / MODEL_FILE)
        trials = _trials(source, settings, network.sizes, steps)
        say(f"comparing with the network on {settings.episodes * steps} images")
        exported = Stepper(load_graphs(temporary, manifest))
        agreement = compare(Stepper(network), exported, trials[: settings.episodes], info.action_spec)
        comparison = Comparison(
            **vars(agreement),
            images="generated" if source is None else "recorded",
            tolerance=TOLERANCES[settings.precision] if settings.tolerance is None else settings.tolerance,
            least_agreement=settings.agreement,
        )
        _check(comparison, settings)
        manifest = replace(manifest, comparison=comparison)
        save_reference(Stepper(network), temporary, manifest, ((trial.embedding, trial.images) for trial in trials))
        manifest = replace(manifest, files={**manifest.files, REFERENCE_FILE: sha256(temporary / REFERENCE_FILE)})
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest.to_json(), indent=1), encoding="utf-8")
        card = edited_card(out) or card_text(export_facts(manifest, out, () if table is None else table.sentences))
        write_card(temporary, card)
    return manifest


def export_facts(manifest: Manifest, folder: Path, instructions: Sequence[str]) -> CardFacts:
    """Return what the model card of an export tells."""
    sizes = manifest.sizes
    return CardFacts(
        name=folder.absolute().name,
        form=f"exported for {manifest.kind} in {manifest.precision}",
        window=sizes.window,
        image_size=sizes.image_size,
        text_width=sizes.text_width,
        parameters=sizes.parameters,
        robots={"": manifest},
        text_encoder=None if manifest.text_encoder is None else manifest.text_encoder.name,
        provenance=manifest.provenance,
        instructions=instructions,
    )


def _trials(source: EpisodeSource | None, settings: ExportSettings, sizes: Sizes, steps: int) -> list[Trial]:
    """Return episodes enough for the comparison and for the reference steps."""
    size = TrialSize(
        episodes=max(settings.episodes, MOST_STEPS // steps),
        steps=steps,
        text_width=sizes.text_width,
        vocabulary=sizes.vocabulary,
    )
    return generated_trials(size, settings.seed) if source is None else recorded_trials(source, size, settings.seed)


def _table(
    info: CheckpointInfo, encoder: TextEncoder | None, instructions: Sequence[str], packaged: TableEncoder | None
) -> TableEncoder | None:
    """Return the text embeddings to store: those of the sentences asked for, and all of a table."""
    identity = info.text_encoder
    if encoder is not None and identity is not None:
        check_same_encoder(identity, encoder.identity)
    if encoder is None and packaged is not None and {*instructions} <= {*packaged.sentences}:
        encoder = packaged
    stored = encoder.sentences if isinstance(encoder, TableEncoder) else ()
    sentences = list(dict.fromkeys((*instructions, *stored)))
    if not sentences:
        return None
    if encoder is None and identity is None:
        raise ValueError(f"the instruction {sentences[0]!r} needs a text encoder. Give one with --text-encoder")
    encoder = load_identified(identity) if encoder is None and identity is not None else encoder
    assert encoder is not None
    vectors = dict(zip(sentences, encoder.encode(sentences), strict=True))
    for vector in vectors.values():
        check_embedding(vector, info.model.text_width, vocabulary=info.model.text.vocabulary)
    return TableEncoder(vectors, "instructions" if identity is None else identity.name)


def _describe(folder: Path, info: CheckpointInfo, settings: ExportSettings, sizes: Sizes, weights: Path) -> Manifest:
    return Manifest(
        kind=settings.to,
        precision=settings.precision,
        sizes=sizes,
        action_spec=info.action_spec,
        text_encoder=info.text_encoder,
        control_rate=info.control_rate,
        comparison=None,
        versions=versions(settings.to),
        files={file.name: sha256(file) for file in sorted(folder.iterdir())},
        weights=sha256(weights),
        provenance=info.provenance,
    )


def _check(comparison: Comparison, settings: ExportSettings) -> None:
    difference, largest = comparison.logit_difference, comparison.largest_logit
    if not difference <= comparison.tolerance * largest:  # True for NaN
        raise ExportError(
            f"the export's logits differ from the network's by up to {difference:.3g} (of up to {largest:.3g}), the "
            f"tolerance is {comparison.tolerance:g} of that. Nothing was kept. Raise --tolerance if that is good "
            "enough, or take another format or precision"
        )
    if comparison.clear_agreement < settings.agreement:
        raise ExportError(
            f"the export's tokens are the network's in {comparison.clear_agreement:.2%} of the "
            f"{comparison.clear_tokens} clear ones, {settings.agreement:.2%} is required. Nothing was kept. Lower "
            "--agreement if that is good enough, or take another format or precision"
        )
