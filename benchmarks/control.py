"""How fast is the batched step? RT-1 at full size, one robot, against a matrix product, a bare B3 and itself.

Run it on two cores with nothing else running: ``python benchmarks/control.py``. Ratios are of CPU time (seconds of one
core, all threads added), medians over rounds that take everything in turns. The last line is a JSON object.

Agreement with fp32 is measured twice: ``fast_agreement`` on a network whose transformer has learned to name the colours
of an image (``--updates``), on scenes it has not learned from; ``agreement_random`` on that network before, in which
every rounding grows from layer to layer.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads that spin would count as CPU time

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rt1.policy.autotune import made_up_episodes
from rt1.policy.packed.decoder import StepDecoder
from rt1.policy.packed.encoder import FoldedEncoder
from rt1.policy.packed.layers import Target
from torch import Tensor, nn

from rt1.actions import FloatArray
from rt1.common.system import describe_machine, tree_memory
from rt1.data.open_data import DataOptions, open_data
from rt1.data.sources.images import decode_image
from rt1.model.efficientnet import FiLMEfficientNet
from rt1.model.rt1 import RT1, RT1Config
from rt1.policy.agreement import LEAST_AGREEMENT, compare_logits
from rt1.policy.stepper import SETTINGS, Stepper
from rt1.presets import preset

Images = Sequence[NDArray[np.uint8]]
Episodes = list[tuple[FloatArray, Images]]
ROBOT_RATE = 3.0
"""Steps per second of one robot, Hz."""


def main() -> None:
    """Measure everything, print a table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="rounds of the comparison of times")
    parser.add_argument("--steps", type=int, default=500, help="steps of the spread of latencies")
    parser.add_argument("--agreement-steps", type=int, default=240, help="steps of the comparison with fp32")
    parser.add_argument("--updates", type=int, default=80, help="updates of the transformer before that comparison")
    parser.add_argument("--data", type=Path, help="recorded episodes to look at; default: made-up scenes")
    parser.add_argument("--open-x", help="name of the Open X set that they are")
    parser.add_argument("--long", action="store_true", help="10,000 steps at full size instead of with a small network")
    options = parser.parse_args()
    model = network()
    episodes = list(_episodes(options.data, options.open_x, model.config, options.agreement_steps))
    steppers = make_steppers(model)
    times = measure_times(model, steppers, episodes, options.rounds)
    random_agreement = measure_agreement(steppers, episodes)
    spread = measure_spread(steppers["fp32"], episodes, options.steps)
    growth = measure_growth(steppers["fp32"] if options.long else None)
    gpu = measure_gpu(model, episodes)
    teach_colours(model, updates=options.updates)
    agreement = measure_agreement(make_steppers(model), episodes)
    agreeing = [name for name in steppers if name != "fp32" and agreement[name] >= LEAST_AGREEMENT]
    fast = min(agreeing or ["fp32"], key=times.__getitem__)
    figures: dict[str, float | str | None] = {
        "step_vs_matmul": times["fp32"] / times["matmul"],
        "step_vs_b3": times["fp32"] / times["b3"],
        "step_vs_6_images": times["fp32"] / times["6 images"],
        "fast_vs_fp32": times[fast] / times["fp32"],
        "fast_setting": fast,
        "fast_agreement": agreement[fast],
        "agreement_random": random_agreement[fast],
        "p99_over_p50": spread,
        "memory_growth": growth,
        **gpu,
    }
    print(f"{describe_machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, seconds in times.items():
        shares = [share.get(name, float("nan")) for share in (agreement, random_agreement)]
        print(
            f"{name:12s}{1e3 * seconds:8.1f} ms of CPU time{shares[0]:10.4f} agreement, {shares[1]:.4f} before learning"
        )
    print(json.dumps({name: round(v, 4) if isinstance(v, float) else v for name, v in figures.items()}))


def network() -> RT1:
    """Return RT-1 at full size whose random weights keep the variance: no layer's output fades or explodes.

    FiLM is zero at first and batch normalisation knows no statistics yet: with both left so, the text would change
    nothing and the image hardly anything. FiLM gets small random weights; one pass over scenes of all kinds gives the
    statistics.
    """
    torch.manual_seed(0)
    model = RT1(RT1Config())
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    episodes = list(made_up_episodes(model.config, steps=16 * (model.config.window + 2), seed=1))
    text_XE, image_XHWC = (
        torch.from_numpy(np.stack(found)) for found in zip(*((t, i[0]) for t, i in episodes), strict=True)
    )
    with torch.no_grad():
        model.train().encode(model.prepare(image_XHWC), model.text(text_XE))
    return model.eval()


def make_steppers(model: RT1) -> dict[str, Stepper]:
    """Return a stepper in every setting that this machine's processor has."""
    return {
        name: Stepper(model, setting=name)
        for name in SETTINGS
        if SETTINGS[name].device == "cpu" and SETTINGS[name].obstacle() is None
    }


def teach_colours(model: RT1, *, updates: int, episodes: int = 40, batch: int = 8) -> None:
    """Train the transformer to name each image's colours: sixteen levels of the mean of parts of it, a bin each.

    The images are encoded once, as the network stands; only the transformer learns, in float32.
    """
    target = Target(device=torch.device("cpu"), numbers="fp32")
    encode, window = FoldedEncoder(model, target), model.config.window
    scenes = list(made_up_episodes(model.config, steps=episodes * (window + 2), seed=7))
    tokens = [torch.from_numpy(_tokens(model, encode, text, images)) for text, images in scenes]
    targets = [_levels(images, model.config) for _, images in scenes]
    rng, optimizer = np.random.default_rng(0), torch.optim.AdamW(model.transformer.parameters(), lr=3e-4)
    condition_B = torch.zeros(batch, model.config.text_width)
    for update in range(updates):
        chosen = [(int(rng.integers(episodes)), int(rng.integers(3))) for _ in range(batch)]
        token_BTKE = torch.stack([tokens[number][first : first + window] for number, first in chosen])
        target_BTA = torch.stack([targets[number][first : first + window] for number, first in chosen])
        loss = F.cross_entropy(model.decode(token_BTKE, condition_B).flatten(0, 2), target_BTA.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.transformer.parameters(), 1.0)
        optimizer.step()
        if update % 20 == 0 or update == updates - 1:
            print(f"update {update + 1} of {updates}: loss {loss.item():.2f}", flush=True)


@torch.inference_mode()
def _tokens(model: RT1, encode: FoldedEncoder, text: FloatArray, images: Images) -> FloatArray:
    """Return an episode's image tokens, float32 (T, K, E)."""
    prepared = encode.prepare(model.text(torch.from_numpy(text)[None]))
    found = [encode(model.prepare(torch.from_numpy(image)[None]), prepared)[0] for image in images]
    return torch.cat(found).numpy()


def _levels(images: Images, config: RT1Config) -> Tensor:
    """Return bins (T, A): the mean red, green and blue of the image's eight parts, in sixteen levels."""
    image_THWC = np.stack(images)
    rows, columns = image_THWC.shape[1] // 2, image_THWC.shape[2] // 4
    part_TRHSWC = image_THWC[:, : 2 * rows, : 4 * columns].reshape(len(images), 2, rows, 4, columns, 3)
    level = (part_TRHSWC.mean((2, 4)).reshape(len(images), -1)[:, : config.action_tokens] / 16).astype(np.int64)
    return torch.from_numpy(level * (config.bins // 16))


def measure_times(model: RT1, steppers: dict[str, Stepper], episodes: Episodes, rounds: int) -> dict[str, float]:
    """Return median CPU seconds of everything, taken in turns so that all see the same machine."""
    text, images = episodes[0]
    matrix = torch.randn(2048, 2048)
    image = torch.randn(1, 3, 300, 300).contiguous(memory_format=torch.channels_last)
    bare = BareB3(model.backbone).to(memory_format=torch.channels_last)
    states = {name: stepper.start(text) for name, stepper in steppers.items()}
    calls: dict[str, Callable[[], object]] = {"matmul": lambda: matrix @ matrix, "b3": lambda: bare(image)}
    for name, stepper in steppers.items():
        calls[name] = lambda name=name, stepper=stepper: stepper.step([states[name]], [images[0]])  # type: ignore[misc]
    calls["6 images"] = SixImages(model, text, images)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for _ in range(model.config.window):  # a full window, and every kernel chosen
            for call in calls.values():
                call()
        for _ in range(rounds):
            for name, call in calls.items():
                start = time.process_time()
                call()
                seconds[name].append(time.process_time() - start)
    return {name: float(np.median(found)) for name, found in seconds.items()}


class BareB3(nn.Module):
    """EfficientNet-B3 without text, as anybody would write it: our convolutions, normalisations and gates, no FiLM."""

    def __init__(self, backbone: FiLMEfficientNet) -> None:
        """Share the weights of a backbone."""
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map of normalised images."""
        net = self.backbone
        x = F.silu(net.stem_norm(net.stem(x)))
        for block in net.blocks:
            y = x if block.expand is None else F.silu(block.expand_norm(block.expand(x)))
            y = F.silu(block.depthwise_norm(block.depthwise(y)))
            y = block.project_norm(block.project(block.squeeze(y)))
            x = x + y if block.residual else y
        return F.silu(net.top_norm(net.top(x)))


class SixImages:
    """What a policy without a cache of image tokens does at each step: all images of the window, then one pass."""

    def __init__(self, model: RT1, text: FloatArray, images: Images) -> None:
        """Use the same folded and packed weights as the stepper."""
        target = Target(device=torch.device("cpu"), numbers="fp32")
        self._model, self._images = model, np.stack(images[: model.config.window])
        self._encode, self._decode = FoldedEncoder(model, target), StepDecoder(model, target)
        self._condition = model.text(torch.from_numpy(text)[None])

    def __call__(self) -> Tensor:
        """Return the newest step's logits."""
        condition = self._condition.expand(len(self._images), -1)
        image = self._model.prepare(torch.from_numpy(self._images))
        token, _ = self._encode(image, self._encode.prepare(condition))
        return self._decode(token[None], torch.tensor([len(token) - 1]), self._condition)


def measure_agreement(steppers: dict[str, Stepper], episodes: Episodes) -> dict[str, float]:
    """Return the share of fp32's clear tokens that each setting chooses, too."""
    logits: dict[str, list[FloatArray]] = {name: [] for name in steppers}
    for text, images in episodes:
        for name, stepper in steppers.items():
            state = stepper.start(text)
            logits[name] += [stepper.step([state], [image])[0] for image in images]
    reference = np.stack(logits["fp32"])
    return {name: compare_logits(reference, np.stack(found)).clear_agreement for name, found in logits.items()}


def measure_spread(stepper: Stepper, episodes: Episodes, steps: int) -> float:
    """Return the 99th percentile of a step's time over the median."""
    text, images = episodes[0]
    state, seconds = stepper.start(text), []
    for number in range(steps):
        start = time.perf_counter()
        stepper.step([state], [images[number % len(images)]])
        seconds.append(time.perf_counter() - start)
    return float(np.percentile(seconds, 99) / np.median(seconds))


def measure_growth(stepper: Stepper | None) -> float:
    """Return the growth of the process's memory from 1,000 to 10,000 steps, as a share."""
    stepper = stepper or Stepper(RT1(preset("debug").model))
    image = np.zeros((256, 320, 3), np.uint8)
    state, held = stepper.start(np.ones(stepper.model.config.text_width, np.float32)), []
    for number in range(1, 10_001):
        stepper.step([state], [image])
        if number in (1_000, 10_000):
            held.append(tree_memory())
    first, last = held
    return last / first - 1.0


def measure_gpu(model: RT1, episodes: Episodes) -> dict[str, float | str | None]:
    """Return a step's latency with CUDA graphs and how many robots one GPU serves, or say that it was not run."""
    if not torch.cuda.is_available():
        return {"gpu": "not run: no CUDA device is there", "gpu_step_ms": None, "gpu_robots_at_3_hz": None}
    stepper = Stepper(model, setting="cuda-graphs-bf16")
    text, images = episodes[0]

    def seconds(robots: int) -> float:
        states, found = [stepper.start(text) for _ in range(robots)], []
        for _ in range(model.config.window + 10):
            start = time.perf_counter()
            stepper.step(states, [images[0]] * robots)
            found.append(time.perf_counter() - start)
        return float(np.median(found[model.config.window :]))

    robots, one = 1, seconds(1)
    while robots < 1024 and seconds(2 * robots) <= 1.0 / ROBOT_RATE:
        robots *= 2
    return {"gpu": torch.cuda.get_device_name(), "gpu_step_ms": 1e3 * one, "gpu_robots_at_3_hz": float(robots)}


def _episodes(
    data: Path | None, open_x: str | None, config: RT1Config, steps: int
) -> Iterator[tuple[FloatArray, Images]]:
    """Yield episodes of a random text embedding and images, recorded or made up, of so many steps in all."""
    if data is None:
        yield from made_up_episodes(config, steps=steps, seed=0)
        return
    source, rng = open_data(data, DataOptions(open_x=open_x)), np.random.default_rng(0)
    for episode, length in enumerate(source.lengths):
        text = rng.normal(size=config.text_width).astype(np.float32)
        images = [decode_image(found) for found in source.encoded_images(episode, 0, min(int(length), steps))]
        yield text / np.linalg.norm(text), images
        steps -= len(images)
        if steps <= 0:
            return


if __name__ == "__main__":
    main()
