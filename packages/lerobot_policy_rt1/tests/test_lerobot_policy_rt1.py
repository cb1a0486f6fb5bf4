"""The policy in LeRobot's own programs: training, loading, rollouts, and the exact way there and back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs.configs import MetaworldEnv
from lerobot.policies.factory import get_policy_class, make_policy, make_pre_post_processors
from lerobot.scripts import lerobot_eval, lerobot_train
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot_policy_rt1.modeling_rt1 import _stored

from rt1 import Policy
from rt1.cli import main
from rt1.errors import CheckpointError
from rt1.policy.lerobot import PREFIX, write_lerobot

KEY = "observation.image"


@pytest.fixture(autouse=True)
def _plugins() -> None:
    register_third_party_plugins()


def _load(folder: Path) -> tuple[torch.nn.Module, object, object]:
    config = PreTrainedConfig.from_pretrained(folder)
    config.pretrained_path = folder
    config.device = "cpu"
    policy = make_policy(config, env_cfg=MetaworldEnv(obs_type="pixels"))
    return policy, *make_pre_post_processors(config, pretrained_path=str(folder))


def _observation(images: np.ndarray, tasks: list[str]) -> dict[str, object]:
    """Return what LeRobot makes of the images of a vector environment."""
    return {KEY: torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, "task": tasks}


def _run(program: object, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lerobot", *options])
    program.main()


def test_policy_and_plug_in_give_the_same_20_actions_bit_for_bit(checkpoint: Path, tmp_path: Path) -> None:
    write_lerobot(checkpoint, tmp_path / "lerobot")
    plug_in, before, after = _load(tmp_path / "lerobot")
    policy = Policy.from_checkpoint(checkpoint)
    images = np.random.default_rng(1).integers(0, 256, (20, 1, 60, 80, 3), dtype=np.uint8)
    observations = [_observation(image, ["open the faucet"]) for image in images]
    policy.reset("open the faucet")
    expected = np.stack([policy.act_vector(image) for (image,) in images])
    actions = [after(plug_in.select_action(before(observation))) for observation in observations]
    np.testing.assert_array_equal(torch.cat(actions).numpy(), expected)
    stored = [_stored(observation[KEY])[0].numpy() for observation in observations]
    logits = [
        one.episode_logits("open the faucet", images_NHWC)
        for one, images_NHWC in ((plug_in._acting.policy, stored), (policy, images[:, 0]))
    ]
    np.testing.assert_array_equal(*logits)
    assert len(np.unique(logits[0], axis=0)) == 20, "the images must matter"
    plug_in.reset()
    (again,) = plug_in.predict_action_chunk(before(observations[0]))
    np.testing.assert_array_equal(again.numpy(), expected[:1])


def test_twenty_updates_by_lerobot_train_save_a_policy_that_becomes_a_checkpoint_of_rt1(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    _run(
        lerobot_train,
        monkeypatch,
        *("--policy.type=rt1", "--policy.preset=debug", "--policy.device=cpu", "--policy.push_to_hub=false"),
        *("--dataset.repo_id=small", f"--dataset.root={dataset}", f"--output_dir={out}"),
        *("--steps=20", "--batch_size=4", "--num_workers=0", "--log_freq=5", "--save_freq=20", "--wandb.enable=false"),
    )
    saved = out / "checkpoints" / "last" / "pretrained_model"
    assert main(["convert", "checkpoint", str(saved), "--to", "rt1", "--out", str(tmp_path / "back")]) == 0
    policy, before, _ = _load(saved)
    back = Policy.from_checkpoint(tmp_path / "back")
    assert [part.name for part in back.action_spec.parts] == ["hand", "gripper"], "rt1's notes give the spec"
    image = np.random.default_rng(2).integers(0, 256, (1, 48, 64, 3), dtype=np.uint8)
    back.reset("do the task")
    action = policy.select_action(before(_observation(image, [""])))
    np.testing.assert_array_equal(action[0].numpy(), back.act_vector(image[0]))
    # The folder continues by --policy.path, too.
    _run(
        lerobot_train,
        monkeypatch,
        *(f"--policy.path={saved}", "--policy.device=cpu", "--policy.push_to_hub=false"),
        *("--dataset.repo_id=small", f"--dataset.root={dataset}", f"--output_dir={tmp_path / 'more'}"),
        *("--steps=1", "--batch_size=4", "--num_workers=0", "--wandb.enable=false"),
    )
    assert (tmp_path / "more" / "checkpoints" / "last" / "pretrained_model" / "model.safetensors").is_file()


def test_the_loss_of_a_window_ignores_the_padding_before_an_episode(checkpoint: Path, tmp_path: Path) -> None:
    write_lerobot(checkpoint, tmp_path / "lerobot")
    policy, _, _ = _load(tmp_path / "lerobot")
    rng = np.random.default_rng(3)
    image = torch.from_numpy(rng.integers(0, 256, (1, 2, 3, 48, 64), dtype=np.uint8)).float() / 255
    image[:, 0] = image[:, 1]  # as LeRobot pads
    action = torch.from_numpy(rng.uniform(-1, 1, (1, 2, 4)).astype(np.float32))
    batch = {KEY: image, "action": action, "task": ["open the faucet"]}
    padded, _ = policy(batch | {"action_is_pad": torch.tensor([[True, False]])})
    alone, _ = policy({KEY: image[:, 1:], "action": action[:, 1:], "task": batch["task"]})
    torch.testing.assert_close(padded, alone)
    losses, _ = policy(batch, reduction="none")
    assert losses.shape == (1,)


def test_several_environments_act_as_one_batch_and_reset_starts_anew(checkpoint: Path, tmp_path: Path) -> None:
    write_lerobot(checkpoint, tmp_path / "lerobot")
    policy, _, _ = _load(tmp_path / "lerobot")
    images = np.random.default_rng(4).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    first = policy.select_action(_observation(images, ["open the faucet", "", "close the faucet"]))
    policy.select_action(_observation(images, ["open the faucet", "", "close the faucet"]))
    policy.reset()
    alone = policy.select_action(_observation(images[1:2], ["do the task"]))
    np.testing.assert_array_equal(alone, first[1:2])


def test_an_action_is_held_and_the_policy_sees_a_crop(checkpoint: Path, tmp_path: Path) -> None:
    write_lerobot(checkpoint, tmp_path / "lerobot")
    plain, _, _ = _load(tmp_path / "lerobot")
    file = tmp_path / "lerobot" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"env_hold": 3, "env_crop": [0.25, 0.5, 0.5]}))
    policy, _, _ = _load(tmp_path / "lerobot")
    images = np.random.default_rng(5).integers(0, 256, (7, 1, 48, 64, 3), dtype=np.uint8)
    actions = [policy.select_action(_observation(image, ["open the faucet"])) for image in images]
    seen = [plain.select_action(_observation(image[:, 12:36, 32:], ["open the faucet"])) for image in images[::3]]
    np.testing.assert_array_equal(torch.cat(actions), torch.cat(seen)[[0, 0, 0, 1, 1, 1, 2]])
    policy.reset()
    again = policy.select_action(_observation(images[0], ["open the faucet"]))
    np.testing.assert_array_equal(again, actions[0])
    for option, words in (({"env_hold": 0}, "env_hold is 0"), ({"env_crop": [0.5, 0.5]}, "crop is")):
        with pytest.raises(ValueError, match=words):
            PreTrainedConfig.get_choice_class("rt1")(preset="debug", device="cpu", **option)


def test_one_episode_of_meta_world_by_lerobot_eval(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rt1.envs.gl import choose_gl
    from rt1.errors import RenderingError

    try:
        choose_gl()
    except RenderingError as error:
        pytest.skip(str(error))
    monkeypatch.setattr("metaworld.sawyer_xyz_env.SawyerXYZEnv.max_path_length", 20)  # of 500
    write_lerobot(checkpoint, tmp_path / "lerobot")
    _run(
        lerobot_eval,
        monkeypatch,
        *(f"--policy.path={tmp_path / 'lerobot'}", "--policy.device=cpu", f"--output_dir={tmp_path / 'eval'}"),
        *("--env.type=metaworld", "--env.task=faucet-open-v3", "--env.obs_type=pixels"),
        *("--eval.n_episodes=1", "--eval.batch_size=1"),
    )
    results = json.loads((tmp_path / "eval" / "eval_info.json").read_text())
    assert results["overall"]["n_episodes"] == 1


def test_weights_that_lack_a_tensor_are_refused_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "lerobot"
    write_lerobot(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors[PREFIX + "pixel_mean"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks pixel_mean") as caught:
        _load(folder)
    assert "\n" not in str(caught.value)


def test_a_new_policy_without_a_data_set_and_an_unknown_camera_are_refused() -> None:
    config = PreTrainedConfig.get_choice_class("rt1")(preset="debug", device="cpu")
    with pytest.raises(ValueError, match=r"statistics of 'action'.*--policy\.path"):
        make_policy(config, env_cfg=MetaworldEnv(obs_type="pixels"))
    config.image_key = "observation.images.wrist"
    with pytest.raises(ValueError, match=r"image_key.*observation\.image"):
        get_policy_class("rt1")(config)
