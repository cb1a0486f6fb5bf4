"""How fast is the data path? Index, windows, memory and order on a made-up set of fractal's structure.

Run it on two cores with nothing else running: ``python benchmarks/data.py``. Every figure is a ratio or a cost in CPU
time (seconds of one core, all threads added) from this one run. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fractal import NAME, FractalSize, write_fractal

from rt1.data.pipeline.loader import Loader
from rt1.data.pipeline.mixture import Mixture, SampleOrder
from rt1.data.pipeline.windows import Windows
from rt1.data.rlds.open_x import OPEN_X, OpenXSource, open_x_source
from rt1.data.rlds.reader import RLDSSource
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.images import decode_image

WINDOW = 6
BATCH_SIZE = 32
LAYOUT = OPEN_X[NAME].layout()

TARGETS: dict[str, Callable[[float], bool]] = {
    "index_episodes_per_cpu_s": lambda value: value >= 8_000,
    "index_bytes_per_step": lambda value: value <= 60,
    "windows_vs_bare": lambda value: value >= 0.9,
    "windows_vs_tfdata": lambda value: value >= 1.5,
    "rss_growth": lambda value: abs(value) <= 0.05,
    "disk_overhead": lambda value: value < 0.005,
    "order_us": lambda value: value < 1.0,
    "video_windows_vs_bare": lambda value: value >= 0.85,
}


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much is measured."""

    windows: int
    """Windows of the comparison with a bare loop."""
    memory_windows: int
    """Windows until the last look at the memory."""
    small: bool
    """Whether the memory is looked at with small images, which takes seconds instead of minutes."""
    threads: int
    """Threads of the loader."""


def main() -> None:
    """Measure everything, print a table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=680, help="episodes of 45 steps on average, 1.5 MB each")
    parser.add_argument("--windows", type=int, default=3_000, help="windows of the comparison with a bare loop")
    parser.add_argument("--memory-windows", type=int, default=100_000, help="windows until the last look at the memory")
    parser.add_argument("--full-memory", action="store_true", help="look at the memory with full images: minutes")
    parser.add_argument("--threads", type=int, default=2, help="threads of the loader")
    parser.add_argument("--folder", type=Path, help="where the data set is made and kept; default: a folder removed")
    parser.add_argument("--video", action="store_true", help="clips of a LeRobot set with AV1 videos, and nothing else")
    options = parser.parse_args()
    amounts = Amounts(
        windows=options.windows,
        memory_windows=options.memory_windows,
        small=not options.full_memory,
        threads=options.threads,
    )
    folder = options.folder or Path(tempfile.mkdtemp(prefix="rt1-benchmark-"))
    try:
        if options.video:
            from video import measure_video

            report(measure_video(folder / "video", episodes=40, clips=options.windows // 6, threads=options.threads))
            return
        size = FractalSize(episodes=options.episodes)
        report(measure(write_fractal(folder / f"episodes-{size.episodes}", size), amounts))
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def measure(folder: Path, amounts: Amounts) -> dict[str, float | None]:
    """Return all figures of a data set."""
    figures: dict[str, float | None] = dict(measure_index(folder))
    source = open_x_source(folder, dataset=NAME)
    bare, ours = measure_windows(source, amounts)
    tf_data = windows_of_tf_data(folder, amounts.windows)
    figures |= {
        "windows_per_cpu_s": ours,
        "windows_vs_bare": ours / bare,
        "windows_vs_tfdata": None if tf_data is None else ours / tf_data,
        "rss_growth": measure_memory(folder.parent, source, amounts),
        "order_us": measure_order(),
    }
    return figures


def measure_index(folder: Path) -> dict[str, float]:
    """Index the data set three times from the page cache, as it lies there after reading it from disk once."""
    index = folder / ".rt1-index"
    data_bytes = sum(path.stat().st_size for path in folder.glob("*.tfrecord-*"))
    seconds = []
    source = None
    for _ in range(3):
        shutil.rmtree(index, ignore_errors=True)
        start = time.process_time()
        source = RLDSSource(folder, layout=LAYOUT)
        seconds.append(time.process_time() - start)
    assert source is not None
    index_bytes = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
    return {
        "index_episodes_per_cpu_s": len(source.lengths) / min(seconds),
        "steps_per_episode": float(source.lengths.mean()),
        "index_bytes_per_step": index_bytes / float(source.lengths.sum()),
        "disk_overhead": index_bytes / data_bytes,
    }


def measure_windows(source: OpenXSource, amounts: Amounts) -> tuple[float, float]:
    """Return windows per CPU second of a loop that only decodes, and of the loader, in turns."""
    counting = CountingSource(source)
    loader = _loader(counting, amounts.threads)
    rounds = 5
    batches = max(1, amounts.windows // BATCH_SIZE // rounds)
    with closing(loader.stream(0)) as stream:  # what is made once, the batches' memory, is made
        for _ in itertools.islice(stream, 4):
            pass
    encoded = _encoded_images(source, batches * BATCH_SIZE)
    bare = ours = 0.0
    counting.windows = 0
    for number in range(rounds):
        bare += _bare(encoded, amounts.threads)
        start = time.process_time()
        stream = loader.stream(number * batches)
        for _ in itertools.islice(stream, batches):
            pass
        stream.close()  # no thread is at work from here on; what was decoded ahead is counted too
        ours += time.process_time() - start
    return rounds * batches * BATCH_SIZE / bare, counting.windows / ours


class CountingSource:
    """A source that counts the windows read from it."""

    def __init__(self, source: OpenXSource) -> None:
        """Begin to count."""
        self.windows = 0
        self.source = source
        self.name, self.action_spec, self.lengths = source.name, source.action_spec, source.lengths
        self.instruction, self.task, self.text_embedding = source.instruction, source.task, source.text_embedding
        self.actions = source.actions

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        """Read and count a window."""
        self.windows += 1
        return self.source.encoded_images(episode, start, stop)


def _loader(source: EpisodeSource, threads: int) -> Loader:
    windows = Windows(lengths=source.lengths, episodes=np.arange(len(source.lengths)), window=WINDOW)
    text = np.zeros((len(source.lengths), 512), np.float32)
    return Loader(source, windows, text=text, batch_size=BATCH_SIZE, seed=0, threads=threads)


def _encoded_images(source: OpenXSource, windows: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    images: list[bytes] = []
    while len(images) < windows * WINDOW:
        episode = int(rng.integers(len(source.lengths)))
        start = int(rng.integers(source.lengths[episode] - WINDOW + 1))
        images += source.encoded_images(episode, start, start + WINDOW)
    return images


def _bare(encoded: list[bytes], threads: int) -> float:
    """Return the CPU seconds of the calls alone, in as many plain threads: two busy cores are each slower than one."""

    def loop(part: list[bytes]) -> None:
        for data in part:
            decode_image(data)

    workers = [threading.Thread(target=loop, args=(encoded[number::threads],)) for number in range(threads)]
    start = time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.process_time() - start


def measure_memory(folder: Path, source: OpenXSource, amounts: Amounts) -> float:
    """Return by which share the resident memory grows from a twentieth of the windows to all of them."""
    loader = _loader(source, amounts.threads)
    if amounts.small:
        size = FractalSize(episodes=200, distinct_images=60, height=32, width=40, seed=1)
        loader = _loader(open_x_source(write_fractal(folder / "small", size), dataset=NAME), amounts.threads)
    early = 0.0
    with closing(loader.stream(0)) as stream:
        for number, _ in enumerate(stream, start=1):
            if early == 0.0 and number * BATCH_SIZE >= amounts.memory_windows // 20:
                early = _resident()
            if number * BATCH_SIZE >= amounts.memory_windows:
                break
        return _resident() / early - 1.0


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return float(pages * resource.getpagesize())


def measure_order() -> float:
    """Return microseconds of CPU per sample for order and places in a mixture of four sources of 4 million steps."""
    lengths = np.random.default_rng(0).integers(20, 61, 100_000)
    every = np.tile(lengths, 4)
    windows = [
        Windows(lengths=every, episodes=np.arange(len(lengths)) + part * len(lengths), window=WINDOW)
        for part in range(4)
    ]
    order = SampleOrder(Mixture(parts=tuple(windows), weights=(150.0, 50.0, 20.0, 5.0)), seed=0)
    order.samples(0, BATCH_SIZE)
    batches = 20_000
    start = time.process_time()
    for number in range(batches):
        order.samples(number * BATCH_SIZE, BATCH_SIZE)
    return (time.process_time() - start) / (batches * BATCH_SIZE) * 1e6


def windows_of_tf_data(folder: Path, windows: int) -> float | None:
    """Return windows per CPU second of a tf.data + tfds pipeline on the same files; None without TensorFlow."""
    if not (importlib.util.find_spec("tensorflow") and importlib.util.find_spec("tensorflow_datasets")):
        return None
    stream = _tf_data_stream(folder)
    for _ in range(BATCH_SIZE):
        next(stream)
    start = time.process_time()
    for _ in range(windows):
        next(stream)
    return windows / (time.process_time() - start)


def _tf_data_stream(folder: Path) -> Iterator[object]:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder))
    skip = {"steps": {"observation": {"image": tfds.decode.SkipDecoding()}}}
    data = builder.as_dataset(split="train", shuffle_files=True, decoders=skip).repeat()
    data = data.interleave(
        lambda episode: (
            episode["steps"]
            .map(lambda step: step["observation"]["image"])
            .window(WINDOW, shift=1, drop_remainder=True)
            .flat_map(lambda window: window.batch(WINDOW))
        ),
        cycle_length=16,
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    data = data.shuffle(1_000).map(
        lambda encoded: tf.map_fn(tf.io.decode_jpeg, encoded, fn_output_signature=tf.uint8),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return iter(data.prefetch(4))


def report(figures: Mapping[str, float | None]) -> None:
    """Print the table and the JSON object."""
    print(f"{'figure':28} {'value':>12}  target")
    for name, value in figures.items():
        shown = "not run" if value is None else f"{value:,.4g}"
        verdict = "" if name not in TARGETS or value is None else ("met" if TARGETS[name](value) else "MISSED")
        print(f"{name:28} {shown:>12}  {verdict}")
    asked = {name: value for name, value in figures.items() if name != "steps_per_episode"}
    print(json.dumps({name: None if value is None else round(value, 5) for name, value in asked.items()}))


if __name__ == "__main__":
    main()
