"""A trained policy as a folder to give away: weights, model card, instructions, results. No optimizer state."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from rt1.actions import FloatArray
from rt1.checkpoint import (
    INFO_FILE,
    MODEL_FILE,
    RESULTS_FILE,
    CheckpointInfo,
    SharedInfo,
    card_facts,
    load_whole_info,
    load_whole_model,
    robots_of,
    save_checkpoint,
)
from rt1.common.files import write_text
from rt1.common.folders import check_outside, replacing_alone
from rt1.envs.registry import EnvSettings, tasks_of
from rt1.errors import DataError
from rt1.hub.card import CARD_FILE, CardFacts, card_text, check_card, edited_card, read_results, write_card
from rt1.hub.names import shipped_name
from rt1.policy.export.exporter import EXPORT_FILES, export_facts
from rt1.policy.exported import is_export, stored_table
from rt1.policy.exported_manifest import MANIFEST_FILE, read_manifest
from rt1.policy.open import policy_folder, weights_hash
from rt1.text.encoder import TABLE_FILE, TableEncoder, TextEncoder, check_same_encoder
from rt1.text.load import load_identified

PACKAGE_FILES = (INFO_FILE, MODEL_FILE, *EXPORT_FILES)
"""Names of the files that a package may have."""
LARGEST_TABLE = 1_000_000
"""Bytes of text embeddings that are stored without being asked for."""

WeightType = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class PackageSettings:
    """What a package holds."""

    precision: WeightType = "float32"
    """Type the weights are stored in. float16 takes half the space and is loaded as float32."""
    instructions: tuple[str, ...] = ()
    """Sentences whose text embeddings are stored. Default: those of the tasks, if they take at most 1 MB."""
    results: Path | None = None
    """File results.json of rt1 evaluate for these weights. Default: the file that an earlier package holds."""
    license: str = "unknown"
    """License of the weights, as the Hugging Face Hub writes it: apache-2.0, mit, cc-by-4.0, other."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.+-]+", self.license):
            raise ValueError(f"license is {self.license!r}, must be the identifier of a license. Use apache-2.0")


def package(
    policy: Path | str,
    out: Path,
    settings: PackageSettings,
    *,
    address: str | None = None,
    encoder: TextEncoder | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write a policy as a folder that acts by itself. The averaged weights are taken if the run has them.

    A model card that somebody changed is copied, from the policy or else the earlier package. Otherwise one is written.

    Args:
        policy: checkpoint, run or exported folder, or the name of a policy.
        out: folder to write. It replaces an earlier package only when it is complete.
        settings: what it holds.
        address: what loads it, for the model card. None: its folder.
        encoder: text encoder of the instructions. None: the one that the checkpoint names.
        say: called with one line for what is left out.

    Raises:
        CheckpointError: the checkpoint cannot be used, or its model card is malformed.
        ExportError: the export cannot be used.
        DataError: the results cannot be read, or are those of other weights.
        ValueError: instructions that cannot be encoded, or settings that an export does not have.
        SaveError: ``out`` holds other files, or the disk is full or read-only.
    """
    folder = policy_folder(policy)
    results = _results(folder, settings.results)
    check_outside(out, folder)
    address = address or shipped_name(out)
    make, first = (_copy_export, MANIFEST_FILE) if is_export(folder) else (_save, INFO_FILE)
    with replacing_alone(out, holding=(first, *PACKAGE_FILES)) as new:
        edited = _edited(folder, say) or _edited(out, say)
        facts = make(folder, new, settings, encoder, say)
        name = out.absolute().name if address is None else address.rpartition("/")[2]
        facts = replace(facts, name=name, license=settings.license, results=results)
        facts = facts if address is None else replace(facts, address=address)
        write_card(new, edited or card_text(facts))
        if results:
            results |= {"weights": weights_hash(new)} if results.get("weights") else {}  # stored in float16, for one
            write_text(new / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
    return out


def _results(folder: Path, given: Path | None) -> dict[str, Any]:
    """Return the results of an evaluation of a policy: those given, else those stored with it. Others are refused.

    Results of earlier versions do not name the weights that were evaluated.
    """
    path = given or folder / RESULTS_FILE
    if given is None and not path.is_file():
        return {}
    results = read_results(path)
    if results.get("weights") not in (None, weights_hash(folder)):
        raise DataError(
            f"{path} has the results of other weights or another action spec than {folder}. Give results.json of "
            f"rt1 evaluate {folder}"
        )
    return results


def _edited(folder: Path, say: Callable[[str], None]) -> str | None:
    """Return the model card of a folder if somebody changed it. A malformed one is refused."""
    text = edited_card(folder)
    if text is not None:
        check_card(folder)
        say(f"{folder / CARD_FILE} was changed by hand and is copied as it is")
    return text


def _save(
    folder: Path,
    new: Path,
    settings: PackageSettings,
    encoder: TextEncoder | None,
    say: Callable[[str], None],
) -> CardFacts:
    model, info = load_whole_model(folder), load_whole_info(folder)
    table = _table(folder, info, settings.instructions, encoder, say)
    save_checkpoint(new, model=model, info=info, weights=getattr(torch, settings.precision))
    if table is not None:
        table.save(new / TABLE_FILE)
    return replace(card_facts(model, info, new), instructions=() if table is None else table.sentences)


def _copy_export(
    folder: Path,
    new: Path,
    settings: PackageSettings,
    _encoder: TextEncoder | None,
    _say: Callable[[str], None],
) -> CardFacts:
    if settings.precision != "float32" or settings.instructions:
        raise ValueError(f"{folder} is an export, whose precision and instructions are fixed. Leave them out")
    manifest = read_manifest(folder)
    new.mkdir()
    for name in (MANIFEST_FILE, *manifest.files):
        shutil.copyfile(folder / name, new / name)
    table = stored_table(folder)
    return export_facts(manifest, new, () if table is None else table.sentences)


def _table(
    folder: Path,
    info: CheckpointInfo | SharedInfo,
    instructions: Sequence[str],
    encoder: TextEncoder | None,
    say: Callable[[str], None],
) -> TableEncoder | None:
    """Return the text embeddings to store: those of the sentences asked for, else of the tasks', and those stored."""
    stored = stored_table(folder)
    vectors = {} if stored is None else dict(zip(stored.sentences, stored.encode(stored.sentences), strict=True))
    try:
        sentences = [sentence for sentence in instructions or _sentences(info) if sentence not in vectors]
        vectors |= _embeddings(info, sentences, encoder, most=None if instructions else LARGEST_TABLE)
    except (ValueError, ModuleNotFoundError) as error:
        if instructions:
            raise
        say(f"the instructions of the tasks are not stored: {error}. Name some with --instructions")
    identity = info.text_encoder
    return TableEncoder(vectors, "instructions" if identity is None else identity.name) if vectors else None


def _embeddings(
    info: CheckpointInfo | SharedInfo, sentences: Sequence[str], encoder: TextEncoder | None, *, most: int | None
) -> dict[str, FloatArray]:
    """Return the text embedding of each sentence, at most ``most`` bytes. A policy with its own encoder needs none."""
    identity = info.text_encoder
    if not sentences or (identity is not None and identity.definition):
        return {}
    if identity is None:
        raise ValueError("the checkpoint names no text encoder")
    encoder = load_identified(identity) if encoder is None else encoder
    check_same_encoder(identity, encoder.identity)
    vectors = encoder.encode(sentences)
    if most is not None and vectors.nbytes > most:
        raise ValueError(f"their {len(sentences)} text embeddings take {vectors.nbytes} bytes, more than {most}")
    return dict(zip(sentences, vectors, strict=True))


def _sentences(info: CheckpointInfo | SharedInfo) -> list[str]:
    """Return the sentences of the tasks that a policy was trained on, with their paraphrases."""
    sentences = []
    for made in (robot.provenance for robot in robots_of(info).values() if robot.provenance.get("env")):
        suite = EnvSettings().suite_of(made)
        sentences += [sentence for task in tasks_of(suite, made) for sentence in suite.sentences(task)]
    return list(dict.fromkeys(filter(None, sentences)))
