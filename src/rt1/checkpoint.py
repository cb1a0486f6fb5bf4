"""The checkpoint folder: everything needed to act, and everything needed to resume.

    checkpoint.json        what it is: network, action spec, text encoder, provenance
    model.safetensors      the weights to act with
    training.json          progress (absent in converted or exported checkpoints, like the next file)
    training.safetensors   optimizer, and the current weights where model.safetensors holds their average
    README.md              model card, see :mod:`rt1.hub.card`
    instructions.safetensors, results.json    what ``rt1 package`` adds, see :mod:`rt1.policy.package`

A folder is written under another name and then renamed, so it is whole or not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rt1.actions import ActionSpec
from rt1.common import json_config
from rt1.common.files import aside, copy_existing, replacing
from rt1.common.json_files import read_object
from rt1.common.suggest import unknown_name
from rt1.data.statistics import SourceStatistics
from rt1.errors import CheckpointError
from rt1.hub.card import CARD_FILE, CardFacts, card_text, edited_card, write_card
from rt1.hub.names import policy_path
from rt1.model.heads import parameter_counts, single_embodiment
from rt1.model.rt1 import RT1, RT1Config
from rt1.model.weights import check_same_tensors, first_problem, outline, read_safetensors, stored_as, weight_problem
from rt1.text.encoder import TABLE_FILE, TextEncoderIdentity

FORMAT = 1
INFO_FILE, MODEL_FILE = "checkpoint.json", "model.safetensors"
TRAINING_FILE, TRAINING_TENSORS = "training.json", "training.safetensors"
EXPORT_FILE = "export.json"
"""What makes a folder an export, see :mod:`rt1.policy.exported_manifest`, which acts but is no checkpoint."""
RESULTS_FILE = "results.json"
"""Of a packaged policy: the results of an evaluation."""
EXTRA_FILES = (TABLE_FILE, RESULTS_FILE)
"""What a packaged policy may have beside its weights: text embeddings of instructions, and results."""
CHECKPOINT_FILES = (INFO_FILE, MODEL_FILE, TRAINING_FILE, TRAINING_TENSORS, CARD_FILE, *EXTRA_FILES)
_CURE = "Restore it from a copy, or use another checkpoint"
RUN_ORDER = ("last", "best")
"""Inside a run folder, the checkpoint that the run folder itself stands for: the first of these that exists."""


@dataclass(frozen=True, kw_only=True)
class Embodiment:
    """One of several kinds of robots that share a network, which has a head for each."""

    action_spec: ActionSpec
    """Dimensions, bounds and bins of its actions."""
    control_rate: float | None = None
    """Steps per second it was trained at, Hz. None where it is not known."""
    statistics: SourceStatistics | None = None
    """Of its actions, per dimension. None where they are not known."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where its data come from. Of a checkpoint also its weights: command, update, source file."""

    def __post_init__(self) -> None:
        json_config.check_above(self, 0, "control_rate")


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo(Embodiment):
    """What a checkpoint says of itself."""

    model: RT1Config
    """The network."""
    text_encoder: TextEncoderIdentity | None
    """The encoder its text embeddings come from. None where it is not known."""


@dataclass(frozen=True, kw_only=True)
class SharedInfo:
    """What the checkpoint of a network with several heads says of itself."""

    model: RT1Config
    """The network with all heads."""
    embodiments: Mapping[str, Embodiment]
    """By name, in the order of the heads."""
    text_encoder: TextEncoderIdentity | None
    """The encoder its text embeddings come from. None where it is not known."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the weights come from, as far as it is the same for all."""

    def of(self, name: str) -> CheckpointInfo:
        """Return what there is to say of the network of one embodiment alone, see :func:`load_model`."""
        robot = self.embodiments[name]
        return CheckpointInfo(
            model=replace(self.model, embodiments=(), action_tokens=robot.action_spec.size),
            text_encoder=self.text_encoder,
            **{**vars(robot), "provenance": {**self.provenance, **robot.provenance, "embodiment": name}},
        )


def robots_of(info: CheckpointInfo | SharedInfo) -> Mapping[str, Embodiment]:
    """Return all embodiments by name. The name of the only one is empty."""
    return info.embodiments if isinstance(info, SharedInfo) else {"": info}


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What resuming needs beyond the weights."""

    progress: Mapping[str, Any]
    """Plain data: update, best value so far, configuration of the run."""
    tensors: Mapping[str, Tensor]
    """Optimizer moments and other tensors by name."""


def save_checkpoint(
    folder: Path | str,
    *,
    model: RT1,
    info: CheckpointInfo | SharedInfo,
    training: TrainingState | None = None,
    weights: torch.dtype | None = None,
    extras: Path | None = None,
) -> Path:
    """Write a checkpoint folder in one go. What was there stays until the new one is complete.

    Args:
        folder: where to write. A model card there that somebody changed stays as it is.
        model: the network.
        info: its description.
        training: what resuming needs. None: nothing.
        weights: type of floats that the weights are stored in, see :func:`stored_as`. None: the network's.
        extras: folder whose :data:`EXTRA_FILES` are copied. None: none.

    Raises:
        CheckpointError: the action specs are not the network's.
        SaveError: the folder holds other files, or the disk is full or read-only.
    """
    folder = Path(folder)
    _check_specs(info, model.config)
    with replacing(folder, holding=CHECKPOINT_FILES) as temporary:
        temporary.mkdir()
        _save_tensors(stored_as(model.state_dict(), weights), temporary / MODEL_FILE)
        if training is not None:
            _save_tensors(training.tensors, temporary / TRAINING_TENSORS)
            (temporary / TRAINING_FILE).write_text(json.dumps(training.progress, indent=1), encoding="utf-8")
        (temporary / INFO_FILE).write_text(json.dumps(info_to_json(info), indent=1), encoding="utf-8")
        if extras is not None:
            copy_existing(extras, temporary, EXTRA_FILES)
        card = edited_card(folder) or card_text(card_facts(model, info, folder))
        write_card(temporary, card)
    return folder


def card_facts(model: RT1, info: CheckpointInfo | SharedInfo, folder: Path) -> CardFacts:
    """Return what the model card of a checkpoint tells."""
    folder = folder.absolute()
    return CardFacts(
        name=folder.parent.name if folder.name in RUN_ORDER else folder.name,
        form="a checkpoint",
        window=model.config.window,
        image_size=model.config.image_size,
        text_width=model.config.text_width,
        parameters=parameter_counts(model)["total"],
        robots=robots_of(info),
        text_encoder=None if info.text_encoder is None else info.text_encoder.name,
        provenance=info.provenance,
    )


def _check_specs(info: CheckpointInfo | SharedInfo, model: RT1Config) -> None:
    sizes = model.embodiments or (model.action_tokens,)
    specs = [robot.action_spec for robot in robots_of(info).values()]
    if [(spec.size, spec.bins) for spec in specs] != [(size, model.bins) for size in sizes]:
        text = ", ".join(f"{spec.size} dimensions of {spec.bins} bins" for spec in specs)
        raise CheckpointError(
            f"the action spec has {text}, the network {', '.join(map(str, sizes))} of {model.bins}. Give the "
            "spec the network was built for"
        )


def resolve(path: Path | str) -> Path:
    """Return the checkpoint folder that ``path`` means: itself, or the last (else the best) one of a run folder.

    ``path`` may be the name of a policy, see :func:`rt1.hub.names.policy_path`.
    """
    path = policy_path(path)
    last, best = (path / name for name in RUN_ORDER)
    # A run that is killed between the two renames of saving leaves its newest checkpoint aside.
    for candidate in (path, last, aside(last), best):
        if (candidate / INFO_FILE).is_file():
            return candidate
    if (path / EXPORT_FILE).is_file():
        raise CheckpointError(
            f"{path} is an export, which acts by itself (rt1 serve, Policy.from_export). Give its checkpoint"
        )
    what = "is not there" if not path.exists() else f"holds no {INFO_FILE}, last/ or best/"
    raise CheckpointError(f"{path} {what}. Give a checkpoint folder or the output folder of a training run")


def load_info(path: Path | str, *, embodiment: str | None = None) -> CheckpointInfo:
    """Read what a checkpoint says of itself, without its weights.

    Args:
        path: checkpoint or run folder.
        embodiment: which one, where the network has several. What is read is then of its network alone.

    Raises:
        CheckpointError: a damaged file, another format, an embodiment it does not have, or none named where it has
            several.
    """
    return _of_one(path, load_whole_info(path), embodiment)


def load_whole_info(path: Path | str) -> CheckpointInfo | SharedInfo:
    """Read what a checkpoint says of itself, of all its embodiments where it has several."""
    file = resolve(path) / INFO_FILE
    return info_from_json(read_object(file, error=CheckpointError, cure=_CURE), file)


def load_model(path: Path | str, *, embodiment: str | None = None) -> RT1:
    """Load a network from a checkpoint (or run) folder, in evaluation mode, on the CPU.

    Args:
        path: the folder.
        embodiment: which one's, where the network has several: the trunk with its head, and nothing of the others.

    Raises:
        CheckpointError: a missing or damaged file, another format, tensors that do not fit the configuration, or an
            embodiment as :func:`load_info` does not take it.
    """
    folder = resolve(path)
    info = load_whole_info(folder)
    _of_one(folder, info, embodiment)  # refuses a name that is missing or unknown
    model = load_whole_model(folder)
    if embodiment is None or isinstance(info, CheckpointInfo):
        return model
    return single_embodiment(model, list(info.embodiments).index(embodiment))


def load_whole_model(path: Path | str) -> RT1:
    """Load a network as :func:`load_model`, with all its heads."""
    folder = resolve(path)
    return build_model(load_whole_info(folder).model, folder / INFO_FILE, folder / MODEL_FILE)


def build_model(config: RT1Config, file: Path, weights: Path, *, prefix: str = "") -> RT1:
    """Return a network with the weights of a safetensors file, in evaluation mode, on the CPU.

    Args:
        config: the network.
        file: the file that describes it, for errors.
        weights: the safetensors file.
        prefix: beginning of the names of all its tensors, before their names in the network.
    """
    # The tensors are compared before the memory for the weights is taken: a description may ask for any amount.
    tensors = read_weights(_outline(config, file), weights, prefix=prefix)
    model = RT1(config)
    model.load_state_dict(tensors)
    return model.eval()


def load_outline(path: Path | str) -> tuple[RT1, str | None]:
    """Return a checkpoint's network without weights, and why its weights cannot be used (None where they can).

    Raises:
        CheckpointError: as :func:`load_model`, except for what the weights hold.
    """
    folder = resolve(path)
    model = _outline(load_whole_info(folder).model, folder / INFO_FILE)
    return model, first_problem(_fitting_tensors(model, folder / MODEL_FILE), model.state_dict())


def _outline(config: RT1Config, file: Path) -> RT1:
    try:
        return outline(config)
    except ValueError as error:
        raise CheckpointError(f"{file} describes no network that can be made: {error}. {_CURE}") from error


def _of_one(path: Path | str, info: CheckpointInfo | SharedInfo, embodiment: str | None) -> CheckpointInfo:
    """Return the description of one embodiment, or refuse the name."""
    if isinstance(info, CheckpointInfo):
        if embodiment is not None and embodiment != info.provenance.get("embodiment"):
            raise CheckpointError(f"{path} has one embodiment. Leave out the name {embodiment!r}")
        return info
    if embodiment is None:
        names = ", ".join(info.embodiments)
        raise CheckpointError(f"{path} has several embodiments: {names}. Name one with embodiment=...")
    if embodiment not in info.embodiments:
        raise CheckpointError(f"{path}: {unknown_name('embodiment', embodiment, info.embodiments)}")
    return info.of(embodiment)


def load_weights(model: RT1, folder: Path) -> None:
    """Fill a network with a checkpoint's weights. Every tensor must be there, fit, and be finite."""
    model.load_state_dict(read_weights(model, folder / MODEL_FILE))


def read_weights(model: RT1, file: Path, *, prefix: str = "") -> dict[str, Tensor]:
    """Return the weights of a network from a safetensors file, whose names begin with ``prefix``.

    Raises:
        CheckpointError: a missing or damaged file, tensors that do not fit, or values that no network can act with, see
            :func:`rt1.model.weights.weight_problem`.
    """
    tensors = _fitting_tensors(model, file, prefix=prefix)
    if (problem := first_problem(tensors, model.state_dict())) is not None:
        raise CheckpointError(f"{file}: {problem}. Use another checkpoint")
    return tensors


def _fitting_tensors(model: RT1, file: Path, *, prefix: str = "") -> dict[str, Tensor]:
    """Read the weights of a network. Names and shapes are checked, values are not."""
    tensors = {name.removeprefix(prefix): tensor for name, tensor in _load_tensors(file).items()}
    cure = "Its description and weights do not belong together"
    check_same_tensors(tensors, model.state_dict(), what=str(file), cure=cure)
    return tensors


def load_training(path: Path | str) -> TrainingState:
    """Read what resuming needs. A checkpoint without it (converted, exported) raises :class:`CheckpointError`."""
    folder = resolve(path)
    _check_there(folder / TRAINING_FILE)
    progress = read_object(folder / TRAINING_FILE, error=CheckpointError, cure=_CURE)
    tensors = _load_tensors(folder / TRAINING_TENSORS)
    for name, tensor in tensors.items():  # squares of gradients are of any size
        if (problem := weight_problem(tensor, tensor.dtype, most=float("inf"))) is not None:
            raise CheckpointError(f"{folder / TRAINING_TENSORS}: {name} {problem}. {_CURE}")
    return TrainingState(progress=progress, tensors=tensors)


def info_to_json(info: CheckpointInfo | SharedInfo) -> dict[str, Any]:
    """Return what a checkpoint says of itself as plain data, the content of ``checkpoint.json``."""
    data = {"format": FORMAT, **json_config.to_json(info)}
    if isinstance(info, SharedInfo):  # a list: its order is that of the heads
        data["embodiments"] = [{"name": name, **robot} for name, robot in data["embodiments"].items()]
    return data


def current_names(network: Any) -> Any:  # noqa: ANN401 (whatever a file held)
    """Return a network's settings as saved, with the names that settings have today."""
    if not isinstance(network, Mapping) or "heads" not in network:
        return network
    return {"embodiments" if name == "heads" else name: value for name, value in network.items()}


def info_from_json(data: Mapping[str, Any], file: Path) -> CheckpointInfo | SharedInfo:
    """Read what :func:`info_to_json` returned, found in a file. Anything else raises :class:`CheckpointError`."""
    if data.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} has format {data.get('format')!r}. This version of rt1 reads format {FORMAT}. "
            "Use the version that wrote it, or convert the weights again"
        )
    try:
        info = _info_from_json(data)
        _check_specs(info, info.model)
    except KeyError as error:
        raise CheckpointError(f"{file} lacks {error}. {_CURE}") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{file} cannot be used: {error}") from error
    return info


def _info_from_json(data: Mapping[str, Any]) -> CheckpointInfo | SharedInfo:
    kind: type[CheckpointInfo | SharedInfo] = SharedInfo if "embodiments" in data else CheckpointInfo
    values = _fields(kind, data)
    values["model"] = current_names(values["model"])
    if kind is SharedInfo:
        robots = [(_fields(Embodiment, robot), robot["name"]) for robot in values["embodiments"]]
        values["embodiments"] = {str(name): robot for robot, name in robots}
    return json_config.from_json(kind, values, where="checkpoint")


def _fields(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a description. Only the statistics may be missing."""
    if not isinstance(data, Mapping):
        raise TypeError(f"an embodiment is {data!r:.80}, must be an object")
    return {field.name: {"statistics": None, **data}[field.name] for field in fields(kind)}


def _save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, file)


def _load_tensors(file: Path) -> dict[str, Tensor]:
    _check_there(file)
    return read_safetensors(file, error=CheckpointError, cure=_CURE)[0]


def _check_there(file: Path) -> None:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing. A checkpoint needs it. Restore it, or use another checkpoint")
    try:
        file.open("rb").close()  # safetensors calls a file that may not be read missing
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}. Check who may read it") from error
