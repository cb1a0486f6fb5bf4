"""Shared fixtures: one torch thread, the folder of reference material, and small ones of everything.

An environment, a source of episodes, a network, a text encoder, a checkpoint: none needs a simulator or a download.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.checkpoint import CheckpointInfo, load_info, save_checkpoint
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings, RLDSWriter
from rt1.data.sources.images import encode_jpeg
from rt1.envs.base import Image, Observation, StepResult
from rt1.envs.gl import choose_gl
from rt1.envs.metaworld import MetaWorldConfig, MetaWorldSuite
from rt1.envs.registry import suite_to_json
from rt1.errors import RenderingError
from rt1.model.rt1 import RT1
from rt1.presets import preset
from rt1.text.encoder import TableEncoder

with suppress(RenderingError):  # the fixture `gl` skips what needs it
    choose_gl()  # before any test imports MuJoCo, which reads it once and for all

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script's `&` starts the tests so, and they send Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ("tests.fixtures.reference", "tests.fixtures.exports", "tests.fixtures.hub")

torch.set_num_threads(1)  # a tiny training test takes 1 s with one thread and up to 60 s on a busy machine


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of ``tests/fuzz``: pytest takes options from this folder's ``conftest.py`` alone."""
    group = parser.getgroup("fuzz")
    group.addoption("--fuzz-examples", type=int, help="random inputs per fuzzer, other ones at each run")
    group.addoption("--fuzz-report", help="file for the numbers of inputs and faults of all fuzzers, JSON")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference numbers and real data beside the checkout (``RT1_SHARED`` overrides it)."""
    folder = Path(os.environ.get("RT1_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference material at {folder}; set RT1_SHARED to its folder")
    return folder


@dataclass(kw_only=True)
class MemorySource:
    """A few episodes in memory, each with its own colours, actions and sentence."""

    lengths: NDArray[np.int64]
    images: list[list[bytes]]
    moves: list[FloatArray]
    embeddings: FloatArray
    action_spec: ActionSpec
    before_read: Callable[[int], None]
    """Called with the number of the episode before its actions are read."""
    name: str = "memory"

    def instruction(self, episode: int) -> str:
        return SENTENCES[episode % len(SENTENCES)]

    def text_embedding(self, episode: int) -> FloatArray | None:
        return self.embeddings[episode % len(SENTENCES)]

    def task(self, episode: int) -> str:
        return f"task-{episode % len(SENTENCES)}"

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        return self.images[episode][start:stop]

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        self.before_read(episode)
        return self.moves[episode][start:stop]


SENTENCES = ("open the drawer", "close the drawer")


@pytest.fixture(scope="session")
def make_source() -> Callable[..., MemorySource]:
    """Make a source of episodes with these lengths; equal arguments give equal episodes."""

    def make(
        *lengths: int,
        size: tuple[int, int] = (48, 48),
        bins: int = 16,
        dimensions: int = 3,
        name: str = "memory",
        before_read: Callable[[int], None] = lambda _: None,
    ) -> MemorySource:
        rng = np.random.default_rng(0)

        def image() -> bytes:
            coarse = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
            return encode_jpeg(np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8))

        return MemorySource(
            lengths=np.array(lengths, dtype=np.int64),
            images=[[image() for _ in range(length)] for length in lengths],
            moves=[rng.uniform(-1, 1, (length, dimensions)).astype(np.float32) for length in lengths],
            embeddings=rng.normal(size=(len(SENTENCES), 8)).astype(np.float32),
            action_spec=ActionSpec(
                parts=(Continuous(name="move", low=(-1.0,) * dimensions, high=(1.0,) * dimensions),), bins=bins
            ),
            before_read=before_read,
            name=name,
        )

    return make


@pytest.fixture
def make_network() -> Callable[..., RT1]:
    """Make the smallest network for the actions and embeddings of :class:`MemorySource`, no weight zero."""

    def make(window: int = 2) -> RT1:
        torch.manual_seed(7)
        model = RT1(dataclasses.replace(preset("debug").model, **SIZES, window=window))
        for parameter in model.parameters():
            if not parameter.any():  # FiLM and biases start at zero: the text would change nothing
                torch.nn.init.normal_(parameter, std=0.5)
        return model.eval()

    return make


SIZES: dict[str, Any] = {"action_tokens": 3, "bins": 16, "text_width": 8}


@pytest.fixture(scope="session")
def gl() -> str:
    """The GL library that Meta-World renders with; skips where there is none."""
    pytest.importorskip("metaworld", reason="Meta-World is not installed")
    try:
        return choose_gl()
    except RenderingError as error:
        pytest.skip(str(error))


class PointEnv:
    """A dot that is to reach a square; it ignores the third dimension of its action. Satisfies ``Env``."""

    control_rate = 10.0

    def __init__(self, *, max_steps: int = 12) -> None:
        self.action_spec = ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 3, high=(1.0,) * 3),), bins=16)
        self.instruction = SENTENCES[0]
        self.max_steps = max_steps
        self.task = "reach-square"
        self.executed: list[FloatArray] = []
        """Actions since the last reset."""
        self.closed = False
        self._dot: NDArray[np.float64] | None = None
        self._square = np.zeros(2)

    def reset(self, seed: int) -> Observation:
        self._dot, self._square = np.random.default_rng(seed).uniform(-0.9, 0.9, (2, 2))
        self.executed = []
        return self._observe()

    def step(self, action: FloatArray) -> StepResult:
        if self._dot is None:
            raise RuntimeError("step() was called before reset(). Call reset(seed) first")
        if self.action_spec.out_of_bounds(action).any():
            raise ValueError(f"action {action.tolist()} lies outside [-1, 1]. Clip it first")
        self.executed.append(action)
        self._dot = np.clip(self._dot + 0.2 * action[:2], -1.0, 1.0)
        success = bool(np.abs(self._dot - self._square).max() < 0.1)
        return StepResult(
            observation=self._observe(), success=success, done=success or len(self.executed) >= self.max_steps
        )

    def expert_action(self) -> FloatArray:
        """Return the action that sees the state: straight to the square, third dimension 1."""
        assert self._dot is not None
        return np.append(np.clip((self._square - self._dot) / 0.2, -1.0, 1.0), 1.0).astype(np.float32)

    def close(self) -> None:
        self.closed = True

    def _observe(self) -> Observation:
        image: Image = np.zeros((16, 16, 3), dtype=np.uint8)
        assert self._dot is not None
        for channel, place in enumerate((self._dot, self._square)):
            row, column = np.round((place + 1) * 7).astype(int)
            image[row : row + 2, column : column + 2, channel] = 255
        return Observation(image=image)


@pytest.fixture
def make_env() -> Callable[..., Any]:
    """Open a :class:`PointEnv`."""
    return PointEnv


@dataclasses.dataclass(kw_only=True)
class PointSuite:
    """Tasks that all open a :class:`PointEnv`. Satisfies ``TaskSuite``."""

    task_sentences: dict[str, tuple[str, ...]] = dataclasses.field(
        default_factory=lambda: {"near": SENTENCES[:2], "far": SENTENCES[1:2]}
    )
    """Sentences by task."""
    make_env: Callable[..., Any] = PointEnv
    max_steps: int = 12
    before_open: Callable[[], None] = lambda: None
    """Called before an environment opens."""
    opened: list[Any] = dataclasses.field(default_factory=list)
    """Every environment opened so far."""
    name: str = "points"
    image_size: tuple[int, int] = (16, 16)
    control_rate: float = 10.0

    def __getstate__(self) -> dict[str, Any]:
        return self.settings

    @property
    def settings(self) -> dict[str, Any]:
        return {"max_steps": self.max_steps}

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.task_sentences)

    def open(self, task: str, *, render: bool = True) -> Any:
        del render
        self.before_open()
        assert all(env.closed for env in self.opened), "one environment at a time"
        env = self.make_env(max_steps=self.max_steps)
        env.instruction = next(iter(self.task_sentences[task]), "")
        self.opened.append(env)
        return env

    def sentences(self, task: str) -> tuple[str, ...]:
        return self.task_sentences[task]

    def expert(self, task: str) -> Any:
        return None if task == "far" else PointEnv.expert_action

    def same_scene_task(self, task: str) -> str | None:
        return {"near": "far", "far": "near"}.get(task)


@pytest.fixture
def make_suite() -> Callable[..., Any]:
    """Make a :class:`PointSuite`."""
    return PointSuite


TASKS = ("faucet-open", "faucet-close", "hammer", "peg-insert-side", "handle-press")


@pytest.fixture(scope="session")
def table() -> TableEncoder:
    """A text encoder of 8 entries for the sentences of five Meta-World tasks and of :class:`MemorySource`."""
    rng = np.random.default_rng(0)
    sentences = [*SENTENCES, *(sentence for task in TASKS for sentence in MetaWorldSuite().sentences(task))]
    return TableEncoder({sentence: rng.normal(size=8) for sentence in sentences}, "table")


@pytest.fixture(scope="session")
def table_file(table: TableEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "table.safetensors"
    table.save(path)
    return path


@pytest.fixture(scope="session")
def small_world() -> MetaWorldSuite:
    """Meta-World seen by 16 pixels and driven at 4 Hz: a trial of 25 steps at most."""
    return MetaWorldSuite(config=MetaWorldConfig(image_size=16, control_rate=4.0))


@pytest.fixture(scope="session")
def make_checkpoint(table: TableEncoder, small_world: MetaWorldSuite) -> Callable[..., Path]:
    """Save an untrained policy for the faucets of Meta-World that was told the bounds -bound..bound."""

    def make(
        folder: Path, *, bound: float = 1.0, names: tuple[str, ...] = ("hand_x", "hand_y", "hand_z", "gripper")
    ) -> Path:
        low, high = (-bound,) * len(names), (bound,) * len(names)
        spec = ActionSpec(parts=(Continuous(name="all", low=low, high=high, labels=names),), bins=16)
        torch.manual_seed(7)
        sizes: dict[str, Any] = {"action_tokens": spec.size, "bins": spec.bins, "text_width": table.identity.width}
        model = RT1(dataclasses.replace(preset("debug").model, **sizes))
        provenance = {"tasks": ["faucet-open-v3", "faucet-close-v3"], "env": suite_to_json(small_world), "update": 7}
        info = CheckpointInfo(
            model=model.config,
            action_spec=spec,
            text_encoder=table.identity,
            control_rate=4.0,
            provenance={**provenance, "held_out_episodes": [1, 2, 3]},
        )
        return save_checkpoint(folder, model=model, info=info)

    return make


@pytest.fixture
def steady(make_steady: Callable[[Path], Path], tmp_path: Path) -> Path:
    return make_steady(tmp_path)


@pytest.fixture(scope="session")
def make_steady(gl: str, make_checkpoint: Callable[..., Path]) -> Callable[[Path], Path]:
    """Save a policy that moves down, always: it presses Meta-World's handle and moves no faucet."""
    assert gl  # for its trials

    def make(folder: Path) -> Path:
        info = load_info(make_checkpoint(folder / "untrained"))
        model = RT1(dataclasses.replace(info.model, readout="last_token"))
        tokens = info.action_spec.encode(np.array([(0.0, 0.0, -1.0, 0.0)], dtype=np.float32))[0]
        with torch.no_grad():
            model.transformer.output.weight.zero_()
            model.transformer.output.bias.view(model.config.action_tokens, -1)[range(4), tokens] = 9.0
        return save_checkpoint(folder / "steady", model=model, info=dataclasses.replace(info, model=model.config))

    return make


@pytest.fixture
def write_recording(table: TableEncoder) -> Callable[[Path, MemorySource], Path]:
    """Write a source as our recorder would, whatever its images hold."""

    def write(folder: Path, source: MemorySource, *, size: tuple[int, int] = (48, 48)) -> Path:
        recording = RecordingSettings(
            name="memory",
            image_size=size,
            action_spec=source.action_spec,
            episodes=len(source.lengths),
            episodes_per_shard=2,
            text_encoder=table.identity.to_json(),
        )
        writer = RLDSWriter(folder, recording)
        for shard in writer.missing_shards():
            writer.write_shard(shard, [_recorded(source, episode) for episode in recording.shard_episodes(shard)])
        writer.finish()
        return folder

    return write


def _recorded(source: MemorySource, episode: int) -> RecordedEpisode:
    return RecordedEpisode(
        images=source.images[episode],
        actions=source.moves[episode],
        instruction=source.instruction(episode),
        text_embedding=source.text_embedding(episode),
        task=source.task(episode),
        success=True,
        seed=2 * episode,
        episode_id=episode,
    )


@pytest.fixture
def full_disk() -> Callable[[int], None]:
    """Let no file grow beyond a number of bytes for the rest of the test, or until called with -1."""
    resource = pytest.importorskip("resource", reason="only Unix can limit the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before if size < 0 else (size, before[1]))

    return limit


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """End the limit of ``full_disk`` with the test itself, before pytest reports: its output may be a file, too."""
    if importlib.util.find_spec("resource") is None:
        return (yield)
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
