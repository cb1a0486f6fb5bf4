"""The released configurations: sizes of the paper and of the spec, and configurations from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rt1.actions import rt1_action_spec
from rt1.common.json_config import to_json
from rt1.model.rt1 import RT1, RT1Config
from rt1.pretrained.released import RELEASED, Configuration, load_configuration, rt1main, rt1x


@pytest.mark.parametrize(
    ("name", "parameters", "sequence"),
    [
        ("rt1main", 35_120_544, 114),
        ("rt1simreal", 35_120_544, 114),
        ("rt1multirobot", 111_275_936 - 131_584, 114),
        ("rt1x", 56_896_809, 1380),
    ],
)
def test_a_released_network_has_its_parameters_and_sequence(name: str, parameters: int, sequence: int) -> None:
    configuration = RELEASED[name]()
    assert configuration.name == name
    with torch.device("meta"):
        model = RT1(configuration.model)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.config.sequence_length == sequence


def test_rt1x_has_its_own_bins_bounds_and_quirks() -> None:
    configuration = rt1x()
    assert configuration.action.bins == 512
    assert configuration.action.high[1] == 2.0
    assert (configuration.model.mask, configuration.model.efficientnet.padding) == ("rt1x", "same")
    assert configuration.model.efficientnet.grid((300, 300)) == (10, 10)


def test_a_released_configuration_comes_back_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"model": to_json(rt1x().model), "action": rt1x().action.to_json()}))
    loaded = load_configuration(file)
    assert (loaded.name, loaded.model, loaded.action) == ("mine.json", rt1x().model, rt1x().action)


def test_the_action_order_can_be_changed() -> None:
    names = [part.name for part in rt1main().action.parts]
    turned = rt1main().with_action_order(names[::-1])
    assert [part.name for part in turned.action.parts] == names[::-1]
    with pytest.raises(ValueError, match="must name each of"):
        rt1main().with_action_order([*names[:-1], "gripper"])


def test_an_action_of_another_size_than_the_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"11 dimensions of 512 bins.*11 action tokens of 256"):
        Configuration(name="mine", model=RT1Config(), action=rt1_action_spec(bins=512))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"model": {}}', r"holds \['model'\]. It must hold 'model' and 'action'"),
        ("[]", "holds a list"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_configuration(tmp_path / "mine.json")


def test_an_unknown_setting_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    data: dict[str, Any] = {"model": {"windows": 6}, "action": rt1_action_spec().to_json()}
    (tmp_path / "mine.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="did you mean 'window'"):
        load_configuration(tmp_path / "mine.json")


def test_a_missing_file_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.json: No such file"):
        load_configuration(tmp_path / "nothing.json")
    with pytest.raises(ValueError, match="did you mean 'rt1main'"):
        load_configuration("rt1mian")
