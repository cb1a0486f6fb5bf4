"""The two protocols under which results on all of Meta-World's 50 tasks are published, and these results."""

from __future__ import annotations

from collections.abc import Mapping

from rt1.envs.protocol import EvaluationProtocol, PublishedResult

_EASY = (
    *("button-press-topdown", "button-press-topdown-wall", "button-press", "button-press-wall", "coffee-button"),
    *("dial-turn", "door-close", "door-lock", "door-open", "door-unlock", "drawer-close", "drawer-open"),
    *("faucet-close", "faucet-open", "handle-press-side", "handle-press", "handle-pull-side", "handle-pull"),
    *("lever-pull", "peg-unplug-side", "plate-slide-back-side", "plate-slide-back", "plate-slide-side", "plate-slide"),
    *("reach", "reach-wall", "window-close", "window-open"),
)
_MEDIUM = (
    *("basketball", "bin-picking", "box-close", "coffee-pull", "coffee-push", "hammer", "peg-insert-side"),
    *("push-wall", "soccer", "sweep-into", "sweep"),
)
_HARD = ("assembly", "hand-insert", "pick-out-of-hole", "pick-place", "push-back", "push")
_VERY_HARD = ("disassemble", "pick-place-wall", "shelf-place", "stick-pull", "stick-push")

_SETTING = (
    """LeRobot's setting: camera corner2 at its changed position, the image turned upright, 500 native steps of 80 Hz,
    success at any step, 10 trials per task from seeds that no recording used.""",
    """An action held for several native steps is a setting of the policy: see its control rate. So is the image size.
    Code bases differ in such details. LeRobot renders 480 x 480 pixels, Evo-1 uses 400 steps and a crop.""",
    """Inputs: the policy gets the camera image and the instruction, open-loop replay gets neither, random actions get
    nothing.""",
)


def _named(*tasks: str) -> tuple[str, ...]:
    """Return the names of tasks as the suite has them."""
    return tuple(f"{task}-v3" for task in tasks)


def _published(table: str, scale: float) -> tuple[PublishedResult, ...]:
    """Return the rows of a table: policy, rates of the groups, mean, inputs, separated by "|". "-": not published."""
    results = []
    for line in table.strip().splitlines():
        policy, *rates, score, inputs = (cell.strip() for cell in line.split("|"))
        groups = () if rates[0] == "-" else tuple(round(float(rate) * scale, 3) for rate in rates)
        results.append(
            PublishedResult(policy=policy, groups=groups, score=round(float(score) * scale, 3), inputs=inputs)
        )
    return tuple(results)


METAWORLD_MT50_A = EvaluationProtocol(
    name="metaworld-mt50-a",
    groups={"easy": _named(*_EASY), "medium": _named(*_MEDIUM), "hard": _named(*_HARD, *_VERY_HARD)},
    score="task_mean",
    trials=10,
    env={"camera": "corner2", "max_steps": None},
    published=_published(
        """
        RT-1             | .605 | .042 | .015 | .346 | image, instruction
        Diffusion Policy | .442 | .062 | .095 | .279 |
        SuSIE            | .560 | .196 | .255 | .410 |
        GR-1             | .725 | .327 | .451 | .574 |
        VPP              | .818 | .493 | .526 | .682 |
        S-VAM            | .793 | .607 | .684 | .728 | RGB images, instruction
        DeMUSE           | -    | -    | -    | .832 | RGB, depth and force, instruction
        """,
        1.0,
    ),
    notes=(
        """Protocol A (the table of VPP): one policy, trained on 50 recorded episodes per task, mean over the 50 tasks.
        The settings of the papers are not known in full: neither their camera nor their number of trials. Here the
        trials are those of protocol B.""",
        *_SETTING,
    ),
)
METAWORLD_MT50_B = EvaluationProtocol(
    name="metaworld-mt50-b",
    groups={
        "easy": _named(*_EASY),
        "medium": _named(*_MEDIUM),
        "hard": _named(*_HARD),
        "very_hard": _named(*_VERY_HARD),
    },
    score="mean_of_groups",
    trials=10,
    env={"camera": "corner2", "max_steps": None},
    published=_published(
        """
        Diffusion Policy | 23.1 | 10.7 |  1.9 |  6.1 | 10.5 |
        TinyVLA 1.3B     | 77.6 | 21.5 | 11.4 | 15.8 | 31.6 |
        pi0 3B           | 71.8 | 48.2 | 41.7 | 30.0 | 47.9 |
        SmolVLA 0.45B    | 82.5 | 41.8 | 45.0 | 60.0 | 57.3 |
        SmolVLA 2.25B    | 87.1 | 51.8 | 70.0 | 64.0 | 68.2 |
        ProgVLA 0.1B     | 84.9 | 72.7 | 77.0 | 79.6 | 78.5 |
        Evo-1 0.77B      | 89.2 | 76.8 | 77.2 | 79.2 | 80.6 |
        FabriVLA 0.89B   | 95.0 | 88.2 | 86.7 | 90.0 | 90.0 |
        """,
        0.01,
    ),
    notes=(
        """Protocol B (SmolVLA, LeRobot): one policy, mean of the four groups. RT-1 has no published number under it.
        Most published policies also take the state of the arm as input. Evo-1 was reproduced at 75.8 %.""",
        *_SETTING,
    ),
)
PROTOCOLS: Mapping[str, EvaluationProtocol] = {
    protocol.name: protocol for protocol in (METAWORLD_MT50_A, METAWORLD_MT50_B)
}
