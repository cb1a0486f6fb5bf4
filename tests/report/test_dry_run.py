"""The dry run: recorded images to a server, what it answers beside what was recorded, and nothing moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import ActionSpec, FloatArray
from rt1.data.open_data import DataOptions, open_data
from rt1.data.rlds.schema import RT1_FILE
from rt1.data.sources.images import decode_image
from rt1.envs.base import Image
from rt1.model.rt1 import RT1
from rt1.policy.policy import Policy
from rt1.policy.stepper import Stepper
from rt1.report.dry_run import dry_run, replay, write_dry_run
from rt1.serve.robot import ActionLimits
from rt1.text.encoder import TableEncoder

LENGTHS = (5, 3)


@dataclass
class LocalClient:
    """The part of a client that a dry run uses, with the policy in this process."""

    policy: Policy
    metadata: dict[str, Any] = field(default_factory=lambda: {"control_rate": 4.0})

    @property
    def action_spec(self) -> ActionSpec:
        return self.policy.action_spec

    def reset(self, instruction: str | FloatArray) -> None:
        self.policy.reset(instruction)

    def act_vector(self, image: Image) -> FloatArray:
        return self.policy.act_vector(image)


@pytest.fixture
def make_client(make_network: Callable[..., RT1], table: TableEncoder) -> Callable[[ActionSpec], Any]:
    """Return a client of a policy with these actions."""
    stepper = Stepper(make_network(window=3))
    return lambda spec: LocalClient(Policy(stepper, spec, encode_text=lambda text: table.encode([text])[0]))


@pytest.fixture
def client(make_client: Callable[[ActionSpec], Any], make_source: Callable[..., Any]) -> Any:
    """A client of a policy with the actions of the recorded episodes."""
    return make_client(make_source(*LENGTHS).action_spec)


def test_the_answers_are_the_policys_and_stand_beside_what_was_recorded(
    client: Any, make_source: Callable[..., Any]
) -> None:
    source = make_source(*LENGTHS)
    client.reset(source.instruction(1))
    alone = np.stack([client.act_vector(decode_image(data)) for data in source.encoded_images(1, 0, 3)])
    limits = ActionLimits(spec=client.action_spec, max_change=0.05)
    run = dry_run(client, source, 1, limits)
    np.testing.assert_array_equal(run.plot.predicted, alone)
    np.testing.assert_array_equal(run.plot.recorded, source.actions(1, 0, 3))
    assert run.seconds.shape == (3,)
    assert run.period == 0.25
    previous = limits.rest()
    for limited, action in zip(run.limited, alone, strict=True):
        np.testing.assert_array_equal(limited, limits.apply(action, previous))
        previous = limited


def test_a_recording_of_another_robot_is_refused(client: Any, make_source: Callable[..., Any]) -> None:
    limits = ActionLimits(spec=client.action_spec)
    with pytest.raises(ValueError, match=r"different actions.*move_0, move"):
        dry_run(client, make_source(*LENGTHS, dimensions=5), 0, limits)


def test_a_recording_may_have_other_bounds_and_bins(client: Any, make_source: Callable[..., Any]) -> None:
    source = make_source(*LENGTHS)
    (part,) = source.action_spec.parts
    wider = replace(part, low=tuple(2 * low for low in part.low), high=tuple(3 * high for high in part.high))
    source.action_spec = ActionSpec(parts=(wider,), bins=512)
    run = dry_run(client, source, 0, ActionLimits(spec=client.action_spec))
    np.testing.assert_array_equal(run.plot.recorded, source.actions(0, 0, 5))
    assert run.action_spec == client.action_spec


def test_the_page_shows_each_episode_and_each_dimension(
    client: Any, make_source: Callable[..., Any], read_page: Callable[[str], Any], hostile: str, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    source = make_source(*LENGTHS)
    limits = ActionLimits(spec=client.action_spec, max_change=0.05)
    runs = [dry_run(client, source, episode, limits) for episode in range(2)]
    runs[0] = replace(runs[0], plot=replace(runs[0].plot, title=hostile))
    page = read_page(write_dry_run(runs, tmp_path / "page.html").read_text())
    assert "2 recorded episodes, 8 steps, nothing moved" in page.text
    assert page.text.count(hostile) == 2
    assert page.text.count("Episode 1: 'close the drawer'") == 2
    assert len(page.attributes("svg")) == 6
    assert len(page.attributes("img")) == 8


def test_a_data_set_is_replayed_by_its_folder(
    client: Any, make_source: Callable[..., Any], write_recording: Any, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    folder = write_recording(tmp_path / "set", make_source(*LENGTHS))
    limits = ActionLimits(spec=client.action_spec)
    page = replay(client, folder, limits, page=tmp_path / "page.html", episodes=(1,))
    assert "1 recorded episode, 3 steps" in page.read_text()


def test_a_recording_of_another_program_is_replayed_by_its_keys(
    make_client: Callable[[ActionSpec], Any], make_source: Callable[..., Any], write_recording: Any, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    folder = write_recording(tmp_path / "set", make_source(*LENGTHS))
    for file in (RT1_FILE, "recording.json"):
        (folder / file).unlink()
    options = DataOptions(action_keys=("action",))
    client = make_client(replace(open_data(folder, options).action_spec, bins=16))  # the network's
    limits = ActionLimits(spec=client.action_spec)
    page = replay(client, folder, limits, page=tmp_path / "page.html", episodes=(1,), options=options)
    assert "1 recorded episode, 3 steps" in page.read_text()
    with pytest.raises(ValueError, match=r"\(0, 2\), .* has 0\.\.1"):
        replay(client, folder, limits, page=tmp_path / "none.html", episodes=(0, 2), options=options)
