"""Initialization of a run from another network's weights, with a report of what is loaded and what is new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from rt1.actions import ActionSpec
from rt1.checkpoint import CheckpointInfo, SharedInfo, load_whole_info, load_whole_model
from rt1.common import json_config
from rt1.data.sources.base import CORRECTIONS, has_corrections
from rt1.model.heads import OUTPUT, POSITIONS
from rt1.model.rt1 import RT1, RT1Config
from rt1.pretrained.convert import load_imagenet
from rt1.text.encoder import TextEncoderIdentity, check_same_encoder
from rt1.train.config import differences
from rt1.train.param_groups import component

_REPORTED_SEPARATELY = {"action_tokens", "bins", "embodiments", "image_tokens", "text_width", "window"}


@dataclass(frozen=True, kw_only=True)
class InitReport:
    """The result of :func:`start_from`."""

    source: str
    loaded: tuple[str, ...]  # names of the loaded tensors
    reinitialized: Mapping[str, tuple[str, ...]]  # reason -> names of the new tensors
    notes: tuple[str, ...] = ()  # further remarks for the user
    corrections: bool = False  # the checkpoint was trained with expert corrections

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        total = len(self.loaded) + sum(map(len, self.reinitialized.values()))
        lines = [f"initialized from {self.source}: {len(self.loaded)} of {total} tensors loaded"]
        for reason, names in self.reinitialized.items():
            shown = ", ".join(names[:3]) + (f", and {len(names) - 3} more" if len(names) > 3 else "")
            lines.append(f"new: {shown} ({reason})")
        return [*lines, *(f"note: {note}" for note in self.notes)]

    def to_json(self) -> dict[str, Any]:
        new = dict(self.reinitialized)
        data = {"source": self.source, "loaded": len(self.loaded), "new": new, "notes": list(self.notes)}
        return data | ({CORRECTIONS: True} if self.corrections else {})


def start_from(
    model: RT1,
    path: Path | str,
    *,
    action_spec: ActionSpec | Mapping[str, ActionSpec],
    text_encoder: TextEncoderIdentity | None,
    new_text: bool = False,
) -> InitReport:
    """Initialize a network from a checkpoint, or from an ImageNet backbone written by ``rt1 convert imagenet``.

    Tensors of the same name and shape are loaded, BatchNorm statistics included. The head is new where the action spec
    differs. Positions are loaded step by step: a shorter window takes those of the first steps, a longer one repeats
    those of the last step.

    Args:
        model: the network, changed in place.
        path: checkpoint or run folder, or the file of a backbone.
        action_spec: the network's actions, or those of each embodiment by name, in the order of the heads. A head is
            loaded from the embodiment of the same name or, if one side has only one, of the same action spec.
        text_encoder: encoder of the data's text embeddings. None: not known.
        new_text: reinitialize the text layers, for another text encoder than the checkpoint's.

    Raises:
        CheckpointError: the folder cannot be used.
        ValueError: the file cannot be used, the text encoder is another one, or nothing fits.
    """
    path = Path(path)
    if path.is_file():
        load_imagenet(model, path)
        with safe_open(path, framework="pt") as file:
            stored = {f"backbone.{key}" for key in file.keys()}  # noqa: SIM118 (no mapping)
        names = tuple(model.state_dict())
        return InitReport(
            source=str(path),
            loaded=tuple(name for name in names if name in stored),
            reinitialized={"not in a backbone's file": tuple(name for name in names if name not in stored)},
        )
    info = load_whole_info(path)
    notes = [] if new_text else _check_text(path, info, text_encoder, model.config.text_width)
    old = load_whole_model(path)
    specs = action_spec if isinstance(action_spec, Mapping) else {"": action_spec}
    reinitialized, loaded = _match(model, _by_new_names(old, info, model, specs), new_text=new_text)
    if not loaded.keys() & {name for name, _ in model.named_parameters()}:
        raise ValueError(f"nothing of {path} fits this network. Give its network's settings, or another checkpoint")
    if POSITIONS in loaded:
        loaded[POSITIONS] = _positions(old, model)
        notes += _positions_notes(old.config, model.config)
    model.load_state_dict(loaded, strict=False)
    if changed := _other_settings(old.config, model.config):
        notes.append(f"settings of the network that are not the checkpoint's: {'; '.join(changed)}")
    return InitReport(
        source=str(path),
        loaded=tuple(loaded),
        reinitialized=reinitialized,
        notes=tuple(notes),
        corrections=has_corrections(info.provenance),
    )


def _check_text(
    path: Path, info: CheckpointInfo | SharedInfo, encoder: TextEncoderIdentity | None, width: int
) -> list[str]:
    """Refuse text embeddings of another encoder. Return a note where it is not known."""
    cure = "Name that text encoder, or reinitialize the text layers (--init-new-text)"
    if info.text_encoder is None or encoder is None:
        if info.model.text_width != width:
            raise ValueError(
                f"{path} takes text embeddings of {info.model.text_width} entries, the data's have {width}. {cure}"
            )
        return ["whether the text embeddings are of the checkpoint's text encoder is not known. They must be"]
    try:
        check_same_encoder(info.text_encoder, encoder)
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded for these text embeddings: {error}. {cure}") from error
    return []


def _by_new_names(
    old: RT1, info: CheckpointInfo | SharedInfo, new: RT1, specs: Mapping[str, ActionSpec]
) -> dict[str, Tensor]:
    """Return a checkpoint's tensors by their names in the new network, without the heads it does not use."""
    if isinstance(info, SharedInfo):
        were = {name: robot.action_spec for name, robot in info.embodiments.items()}
    else:
        were = {str(info.provenance.get("embodiment", "")): info.action_spec}
    tensors = old.state_dict()
    renamed = {name: tensor for name, tensor in tensors.items() if not name.startswith(OUTPUT)}
    origins = dict(zip(were, _heads(old.config), strict=True))
    for (name, spec), prefix in zip(specs.items(), _heads(new.config), strict=True):
        any_name = min(len(were), len(specs)) == 1
        same = [n for n, old_spec in were.items() if old_spec == spec and (n == name or any_name)]
        if same:
            origin = origins[name if name in same else same[0]]
            renamed |= {prefix + ending: tensors[origin + ending] for ending in ("weight", "bias")}
    return renamed


def _heads(config: RT1Config) -> list[str]:
    """Return the prefix of each head's parameters."""
    return [f"{OUTPUT}{head}." for head in range(len(config.embodiments))] or [OUTPUT]


def _match(
    model: RT1, tensors: Mapping[str, Tensor], *, new_text: bool
) -> tuple[dict[str, tuple[str, ...]], dict[str, Tensor]]:
    """Return the names of the new tensors by reason, and the tensors to load."""
    loaded = {}
    reinitialized: dict[str, list[str]] = {}
    for name, initial in model.state_dict().items():
        skipped = 1 if name == POSITIONS else 0  # windows may differ
        if component(name) == "head" and name not in tensors:
            reason = "the action spec is another one: its tokens mean other actions"
        elif new_text and component(name) == "text" and not name.endswith((".multiply.bias", ".add.bias")):
            reason = "the text layers are reinitialized"
        elif name not in tensors:
            reason = "not in the checkpoint"
        elif tensors[name].shape[skipped:] != initial.shape[skipped:]:
            reason = "another shape in the checkpoint"
        else:
            loaded[name] = tensors[name]
            continue
        reinitialized.setdefault(reason, []).append(name)
    return {reason: tuple(names) for reason, names in reinitialized.items()}, loaded


def _positions(old: RT1, new: RT1) -> Tensor:
    """Return the new position table (L, D): per step, image and action tokens in order from the old one."""
    was, now = old.config, new.config
    old_TSD = old.transformer.position_LD.detach().unflatten(0, (was.window, was.step_tokens))
    new_TSD = new.transformer.position_LD.detach().clone().unflatten(0, (now.window, now.step_tokens))
    images = min(was.image_tokens, now.image_tokens)
    actions = min(was.step_tokens - was.image_tokens, now.step_tokens - now.image_tokens)
    step_T = torch.arange(now.window).clamp(max=was.window - 1)
    new_TSD[:, :images] = old_TSD[step_T, :images]
    first, then = was.image_tokens, now.image_tokens
    new_TSD[:, then : then + actions] = old_TSD[step_T, first : first + actions]
    return new_TSD.flatten(0, 1)


def _positions_notes(was: RT1Config, now: RT1Config) -> Iterable[str]:
    if now.window < was.window:
        yield f"window of {was.window} steps then, {now.window} now: positions of the first {now.window} steps"
    if now.window > was.window:
        yield f"window of {was.window} steps then, {now.window} now: the others begin with the last one's positions"
    for name in ("image_tokens", "action_tokens"):
        before, after = getattr(was, name), getattr(now, name)
        if before != after:
            both = min(before, after)
            yield f"{before} {name.replace('_', ' ')} then, {after} now: positions of the first {both} of each step"


def _other_settings(was: RT1Config, now: RT1Config) -> list[str]:
    """Return ``name: value then, value now`` for the settings that differ and are not reported separately."""
    texts = differences(json_config.to_json(was), json_config.to_json(now))
    return [text for text in texts if text.partition(":")[0] not in _REPORTED_SEPARATELY]
