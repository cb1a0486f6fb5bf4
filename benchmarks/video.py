"""How fast are the clips of a video-mode LeRobot set, against a loop that only seeks, decodes and resizes?"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import av
import cv2
import numpy as np

from rt1.actions import ActionSpec, Continuous
from rt1.data.lerobot.metadata import LeRobotSettings
from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.lerobot.writer import LeRobotWriter
from rt1.data.pipeline.loader import Loader
from rt1.data.pipeline.windows import Clips, Windows
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings
from rt1.data.sources.images import encode_jpeg

WINDOW, WINDOWS_PER_CLIP = 6, 8
STEPS = WINDOW + WINDOWS_PER_CLIP - 1
BATCH_SIZE, ROUNDS, FPS = 8, 5, 10
SIZE, RESIZED = (256, 320), (300, 300)
LENGTH = 45
Clip = tuple[str, float]
"""Video file, and time of the first image."""


class CountingSource(LeRobotSource):
    """A source that counts the images read from it."""

    def __init__(self, folder: Path) -> None:
        """Open a set and begin to count."""
        super().__init__(folder)
        self.read: list[int] = []

    def images(self, episode: int, start: int, stop: int) -> list[np.ndarray]:
        """Read and count images."""
        self.read.append(stop - start)
        return super().images(episode, start, stop)


def measure_video(folder: Path, *, episodes: int, clips: int, threads: int) -> dict[str, float]:
    """Return windows per CPU second of the loader and of the bare loop, in turns, and their ratio."""
    source = CountingSource(_write(folder, episodes))
    windows = Windows(lengths=source.lengths, episodes=np.arange(len(source.lengths)), window=WINDOW)
    grouped = Clips(windows=windows, group=WINDOWS_PER_CLIP)
    text = np.zeros((len(source.lengths), 8), np.float32)
    loader = Loader(source, grouped, text=text, batch_size=BATCH_SIZE, seed=0, threads=threads)
    bare_clips = _bare_clips(folder, clips)
    pool = ThreadPoolExecutor(threads)
    containers = [_opened(bare_clips[0][0]) for _ in range(threads)]
    with closing(loader.stream(0)) as stream:  # what is made once, the batches' memory, is made
        for _ in itertools.islice(stream, 4):
            pass
    source.read.clear()
    batches = max(1, clips // BATCH_SIZE // ROUNDS)
    bare = ours = 0.0
    for number in range(ROUNDS):
        part = bare_clips[number * batches * BATCH_SIZE :][: batches * BATCH_SIZE]
        start = time.process_time()
        _bare(part, pool, containers)
        bare += time.process_time() - start
        stream = loader.stream(number * batches)
        start = time.process_time()
        for batch in itertools.islice(stream, batches):
            for image_THWC, valid_T in zip(batch.images[0].image_NTHWC, batch.valid_BT, strict=True):
                _resize(image_THWC[valid_T])
        stream.close()  # no thread is at work from here on; what was decoded ahead is counted too
        ours += time.process_time() - start
    images = ROUNDS * batches * BATCH_SIZE * STEPS
    read = sum(source.read)
    pool.shutdown()
    return {
        "video_windows_per_cpu_s": read / ours * WINDOWS_PER_CLIP / STEPS,
        "video_windows_vs_bare": (read / ours) / (images / bare),
    }


def _write(folder: Path, episodes: int) -> Path:
    spec = ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 7, high=(1.0,) * 7),))
    recording = RecordingSettings(
        name="video", image_size=SIZE, action_spec=spec, episodes=episodes, episodes_per_shard=episodes, outcomes=()
    )
    settings = LeRobotSettings(recording=recording, fps=FPS, video="av1")
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)

    def read(number: int) -> RecordedEpisode:
        images = []
        for step in range(LENGTH):
            image = np.roll(scene, 3 * number, axis=1)
            cv2.circle(image, (20 + 6 * step, 60 + 3 * number % 150), 18, (230, 40, 40), -1)
            images.append(encode_jpeg(np.ascontiguousarray(image, np.uint8)))
        actions = rng.uniform(-1, 1, (LENGTH, 7)).astype(np.float32)
        return RecordedEpisode(
            images=images, actions=actions, instruction="push", text_embedding=None, task="push", success=None,
            seed=None, episode_id=number,
        )  # fmt: skip

    LeRobotWriter(folder, settings).write(read)
    return folder


def _bare_clips(folder: Path, clips: int) -> list[Clip]:
    source = LeRobotSource(folder)
    rng = np.random.default_rng(1)
    files = sorted(map(str, folder.glob("videos/*/*/*.mp4")))
    assert len(files) == 1, files
    episodes = rng.integers(len(source.lengths), size=clips)
    starts = rng.integers(LENGTH - STEPS + 1, size=clips)
    return [(files[0], (LENGTH * e + s) / FPS) for e, s in zip(episodes.tolist(), starts.tolist(), strict=True)]


def _bare(clips: list[Clip], pool: ThreadPoolExecutor, containers: list[av.container.InputContainer]) -> None:
    """Seek to the clips, decode and resize, in as many plain threads as the loader has."""
    list(pool.map(_bare_loop, containers, (clips[number :: len(containers)] for number in range(len(containers)))))


def _bare_loop(container: av.container.InputContainer, clips: list[Clip]) -> None:
    stream = container.streams.video[0]
    assert stream.time_base is not None
    for _, start in clips:
        first = round(start / float(stream.time_base))
        container.seek(first, stream=stream)
        frames = (frame for frame in container.decode(stream) if frame.pts is not None and frame.pts >= first)
        _resize(frame.to_ndarray(format="rgb24") for frame in itertools.islice(frames, STEPS))


def _opened(path: str) -> av.container.InputContainer:
    container = av.open(path)
    container.streams.video[0].codec_context.thread_count = 1
    return container


def _resize(images: Iterable[np.ndarray]) -> None:
    for image in images:
        cv2.resize(image, RESIZED)
