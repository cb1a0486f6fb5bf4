"""What a run starts from: another network's weights where they fit, and an account of what is taken and what new."""

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
from rt1.model.heads import OUTPUT, POSITIONS
from rt1.model.rt1 import RT1, RT1Config
from rt1.pretrained.convert import load_imagenet
from rt1.text.encoder import TextEncoderIdentity, check_same_encoder
from rt1.train.changes import differences
from rt1.train.parts import component

_TOLD_ELSEWHERE = {"action_tokens", "bins", "embodiments", "image_tokens", "text_width", "window"}


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a network started from."""

    source: str
    loaded: tuple[str, ...]  # names of the loaded tensors
    fresh: Mapping[str, tuple[str, ...]]  # reason -> names of the new tensors
    notes: tuple[str, ...] = ()  # further remarks for the user

    def lines(self) -> list[str]:
        """Return the account in words."""
        total = len(self.loaded) + sum(map(len, self.fresh.values()))
        lines = [f"starts from {self.source}: {len(self.loaded)} of {total} tensors taken over"]
        for reason, names in self.fresh.items():
            shown = ", ".join(names[:3]) + (f", and {len(names) - 3} more" if len(names) > 3 else "")
            lines.append(f"new: {shown} ({reason})")
        return [*lines, *(f"note: {note}" for note in self.notes)]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json``."""
        return {"source": self.source, "loaded": len(self.loaded), "new": dict(self.fresh), "notes": list(self.notes)}


def start_from(
    model: RT1,
    path: Path | str,
    *,
    action_spec: ActionSpec | Mapping[str, ActionSpec],
    text_encoder: TextEncoderIdentity | None,
    new_text: bool = False,
) -> Start:
    """Fill a network with what fits of a checkpoint, or of an ImageNet backbone written by ``rt1 convert imagenet``.

    Tensors of the same name and shape are taken over, BatchNorm statistics included. The head starts anew where the
    action spec differs: its tokens mean other actions. Positions are taken over step by step: a shorter window has
    those of the first steps and gives what the longer one gave of them; a longer one repeats the last step's.

    Args:
        model: the network, at its random start; changed in place.
        path: checkpoint or run folder, or the file of a backbone.
        action_spec: what the network is to act in; or that of each embodiment by name, in the order of the heads. A
            head is taken over from the embodiment of its name; where one side has one only, of its action spec.
        text_encoder: where the text embeddings of the data come from; None where it is not known.
        new_text: let all that multiplies the text start anew, for another text encoder than the checkpoint's.

    Raises:
        CheckpointError: the folder cannot be used.
        ValueError: the file cannot be used, the text encoder is another one, or nothing fits.
    """
    path = Path(path)
    if path.is_file():
        load_imagenet(model, path)
        with safe_open(path, framework="pt") as file:
            there = {f"backbone.{key}" for key in file.keys()}  # noqa: SIM118 (no mapping)
        names = tuple(model.state_dict())
        return Start(
            source=str(path),
            loaded=tuple(name for name in names if name in there),
            fresh={"not in a backbone's file": tuple(name for name in names if name not in there)},
        )
    info = load_whole_info(path)
    notes = [] if new_text else _check_text(path, info, text_encoder, model.config.text_width)
    old = load_whole_model(path)
    specs = action_spec if isinstance(action_spec, Mapping) else {"": action_spec}
    fresh, taken = _sorted_out(model, _by_new_names(old, info, model, specs), new_text=new_text)
    if not taken.keys() & {name for name, _ in model.named_parameters()}:
        raise ValueError(f"nothing of {path} fits this network; give its network's settings, or another checkpoint")
    if POSITIONS in taken:
        taken[POSITIONS] = _positions(old, model)
        notes += _positions_notes(old.config, model.config)
    model.load_state_dict(taken, strict=False)
    if changed := _other_settings(old.config, model.config):
        notes.append(f"settings of the network that are not the checkpoint's: {'; '.join(changed)}")
    return Start(source=str(path), loaded=tuple(taken), fresh=fresh, notes=tuple(notes))


def _check_text(
    path: Path, info: CheckpointInfo | SharedInfo, given: TextEncoderIdentity | None, width: int
) -> list[str]:
    """Refuse text embeddings of another encoder; return a note where it is not known."""
    cure = "name that text encoder, or let the text layers start anew (--init-new-text)"
    if info.text_encoder is None or given is None:
        if info.model.text_width != width:
            raise ValueError(
                f"{path} takes text embeddings of {info.model.text_width} entries, the data's have {width}; {cure}"
            )
        return ["whether the text embeddings are of the checkpoint's text encoder is not known; they must be"]
    try:
        check_same_encoder(info.text_encoder, given)
    except ValueError as error:
        raise ValueError(f"{path} cannot be gone on from with these text embeddings: {error}; or {cure}") from error
    return []


def _by_new_names(
    old: RT1, info: CheckpointInfo | SharedInfo, new: RT1, specs: Mapping[str, ActionSpec]
) -> dict[str, Tensor]:
    """Return a checkpoint's tensors by their names in the new network, without heads that it has no use for."""
    if isinstance(info, SharedInfo):
        were = {name: robot.action_spec for name, robot in info.embodiments.items()}
    else:
        were = {str(info.provenance.get("embodiment", "")): info.action_spec}
    theirs = old.state_dict()
    found = {name: tensor for name, tensor in theirs.items() if not name.startswith(OUTPUT)}
    origins = dict(zip(were, _heads(old.config), strict=True))
    for (name, spec), prefix in zip(specs.items(), _heads(new.config), strict=True):
        same = [own for own, its in were.items() if its == spec and (own == name or min(len(were), len(specs)) == 1)]
        if same:
            origin = origins[name if name in same else same[0]]
            found |= {prefix + ending: theirs[origin + ending] for ending in ("weight", "bias")}
    return found


def _heads(config: RT1Config) -> list[str]:
    """Return what the names of each head's parameters begin with."""
    return [f"{OUTPUT}{head}." for head in range(len(config.embodiments))] or [OUTPUT]


def _sorted_out(
    model: RT1, theirs: Mapping[str, Tensor], *, new_text: bool
) -> tuple[dict[str, tuple[str, ...]], dict[str, Tensor]]:
    """Return the reasons why tensors start anew with their names, and the tensors to take over."""
    taken = {}
    fresh: dict[str, list[str]] = {}
    for name, own in model.state_dict().items():
        if component(name) == "head" and name not in theirs:
            reason = "the action spec is another one: its tokens mean other actions"
        elif new_text and component(name) == "text" and not name.endswith((".multiply.bias", ".add.bias")):
            reason = "the text starts anew"
        elif name not in theirs:
            reason = "not in the checkpoint"
        elif theirs[name].shape != own.shape and not _can_be_placed(name, theirs[name], own):
            reason = "another shape in the checkpoint"
        else:
            taken[name] = theirs[name]
            continue
        fresh.setdefault(reason, []).append(name)
    return {reason: tuple(names) for reason, names in fresh.items()}, taken


def _can_be_placed(name: str, theirs: Tensor, own: Tensor) -> bool:
    return name == POSITIONS and theirs.shape[1] == own.shape[1]


def _positions(old: RT1, new: RT1) -> Tensor:
    """Return the new position table (L, D): the old one step by step, image tokens and action tokens each in order."""
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
            kept = min(before, after)
            yield f"{before} {name.replace('_', ' ')} then, {after} now: positions of the first {kept} of each step"


def _other_settings(was: RT1Config, now: RT1Config) -> list[str]:
    """Return ``name: value then, value now`` for settings that differ, except those told about on their own."""
    found = differences(json_config.to_json(was), json_config.to_json(now))
    return [text for text in found if text.partition(":")[0] not in _TOLD_ELSEWHERE]
