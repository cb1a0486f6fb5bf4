"""Make the clip of the README: one policy and one scene, two instructions, side by side.

    python tools/site/clip.py outputs/demo/run docs/pictures/two_instructions.webp --trial 1

Both halves start from the same initial state of the same task. Only the instruction differs.
"""

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rt1 import Policy
from rt1.checkpoint import load_info
from rt1.envs.base import TaskSuite
from rt1.envs.registry import suite_of
from rt1.simulate.rollout import Episode, PolicyController
from rt1.simulate.seeds import trial_seed

SIZE, CAPTION = 360, 40  # pixels


def main() -> None:
    """Run the policy once for each instruction and write the clip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy")
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", default="faucet-open")
    parser.add_argument("--instructions", nargs=2, default=["open the faucet", "close the faucet"])
    parser.add_argument("--trial", type=int, default=0, help="initial state, as in rt1 evaluate")
    parser.add_argument("--steps", type=int, default=36)
    options = parser.parse_args()
    policy = Policy.from_pretrained(options.policy)
    suite = suite_of(load_info(options.policy).provenance)
    seed = trial_seed(0, options.trial)
    scenes = [
        snapshots(policy, suite, options.task, seed, sentence, options.steps) for sentence in options.instructions
    ]
    with closing(suite.open(options.task, render=False)) as env:
        env.reset(seed)
        frames = [
            np.concatenate([env.picture(scene, SIZE) for scene in pair], axis=1) for pair in zip(*scenes, strict=True)
        ]
    pictures = [captioned(frame, options.instructions) for frame in frames]
    pictures += pictures[-1:] * 10  # a rest before it begins again
    options.out.parent.mkdir(parents=True, exist_ok=True)
    milliseconds = round(1000 / suite.control_rate)
    pictures[0].save(options.out, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, quality=70)
    print(f"{options.out}: {len(pictures)} pictures, {options.out.stat().st_size / 1e3:.0f} kB")


def snapshots(policy: Policy, suite: TaskSuite, task: str, seed: int, sentence: str, steps: int) -> list[Any]:
    """Return the scenes of an episode under an instruction, ``steps`` + 1 of them. The last one stays."""
    controller = PolicyController(policy)
    with closing(suite.open(task)) as env:
        episode = Episode(env, controller, seed=seed, instruction=sentence, keep_snapshots=True, max_steps=steps)
        while not episode.done:
            episode.step(controller.act(episode.observation))
    scenes = list(episode.result().snapshots)
    return scenes + scenes[-1:] * (steps + 1 - len(scenes))


def captioned(frame: np.ndarray, sentences: list[str]) -> Image.Image:
    """Return a picture with one sentence above each half."""
    picture = Image.new("RGB", (frame.shape[1], frame.shape[0] + CAPTION), "white")
    picture.paste(Image.fromarray(frame), (0, CAPTION))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=20)
    for number, sentence in enumerate(sentences):
        draw.text(((number + 0.5) * SIZE, CAPTION / 2), f"“{sentence}”", fill="black", font=font, anchor="mm")
    return picture


if __name__ == "__main__":
    main()
