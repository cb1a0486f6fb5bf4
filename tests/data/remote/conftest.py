"""A web server on loopback and the memory store, with data sets of five short episodes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rt1.data.convert import ConvertSettings, convert_source
from rt1.data.open_data import DataOptions, open_data
from rt1.data.remote import store
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings, RLDSWriter

pytest.importorskip("aiohttp", reason="downloads from web servers need aiohttp: the extra http")
pytest.importorskip("pyarrow", reason="LeRobot sets need pyarrow: the extra lerobot")
memory = pytest.importorskip("fsspec.implementations.memory", reason="downloads need fsspec: the extra http")


class WebServer(ThreadingHTTPServer):
    """Serves a folder, and does what some servers do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sends_parts = True
        """Whether it answers requests for a part of a file with that part."""
        self.requests_left = 10**6
        """Number of contents that it sends. Then it answers with status 500."""
        self.checksums: dict[str, str] = {}
        """Content-MD5 of some files that is not the right one."""
        self.lock = threading.Lock()
        self.requests: list[tuple[str, int]] = []
        """Path and first byte of each content sent."""
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def paths(self) -> set[str]:
        return {path for path, _ in self.requests}


class _Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self, *, with_content: bool) -> None:
        name, server = self.path.lstrip("/"), self.server
        path = server.folder / name
        if not path.is_file():
            self.send_error(404)
            return
        with server.lock:  # contents are asked for at the same time
            refused = server.requests_left <= 0
            server.requests_left -= with_content and not refused
        if refused:
            self.send_error(500)
            return
        data = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(match[1]), int(match[2]) + 1) if match and server.sends_parts else (0, len(data))
        self.send_response(206 if match and server.sends_parts else 200)
        md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
        self.send_header("Content-MD5", server.checksums.get(name, md5))
        self.send_header("Content-Length", str(len(data[start:stop])))
        self.end_headers()
        if with_content:
            server.requests.append((name, start))
            self.wfile.write(data[start:stop])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A web server of the folder ``web``. Failed requests are not repeated."""
    monkeypatch.setattr(store, "WAITS", ())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "web").mkdir()
    with WebServer(tmp_path / "web") as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield web
        web.shutdown()
        thread.join()


@pytest.fixture
def upload() -> Iterator[Callable[[Path], str]]:
    """Copy a folder into the memory store and return its address."""
    files = memory.MemoryFileSystem()

    def _upload(folder: Path) -> str:
        files.store.clear()
        files.pseudo_dirs[:] = [""]
        files.put(str(folder), f"/{folder.name}", recursive=True)
        return f"memory://{folder.name}"

    yield _upload
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture(scope="session")
def sets(
    tmp_path_factory: pytest.TempPathFactory, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> dict[str, Path]:
    """The five episodes, two in a file, in each format."""
    root = tmp_path_factory.mktemp("sets")
    writer = RLDSWriter(root / "rlds", settings)
    for shard in writer.missing_shards():
        writer.write_shard(shard, [episodes[i] for i in settings.shard_episodes(shard)])
    writer.finish()
    source = open_data(root / "rlds", DataOptions())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rt1.data.convert._EPISODES_PER_FILE", {"rlds": 2, "lerobot": 2})
        convert_source(source, root / "v3.0", to="lerobot", settings=ConvertSettings(fps=3))
        convert_source(source, root / "v3.0 video", to="lerobot", settings=ConvertSettings(fps=3, video="h264"))
    for version in ("v2.0", "v2.1"):
        _to_v2(root / "v3.0", root / version, version)
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def make_set(sets: dict[str, Path]) -> Callable[[Path, str], Path]:
    """Write the five episodes in a format: rlds, v3.0, v3.0 video, v2.0 or v2.1."""

    def _make(folder: Path, kind: str) -> Path:
        return Path(shutil.copytree(sets[kind], folder, ignore=shutil.ignore_patterns(".rt1-index")))

    return _make


def _to_v2(three: Path, folder: Path, version: str) -> Path:
    """Write a set as LeRobot v2 has it, three episodes in a folder, with a file of some bytes for each video."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    steps = pa.concat_tables([pq.read_table(path) for path in sorted(three.glob("data/*/*.parquet"))])
    rows = pa.concat_tables([pq.read_table(path) for path in sorted(three.glob("meta/episodes/*/*.parquet"))])
    info = json.loads((three / "meta" / "info.json").read_text())
    tasks = pq.read_table(three / "meta" / "tasks.parquet").to_pylist()
    lines: dict[str, list[dict[str, object]]] = {"episodes": [], "tasks": [], "episodes_stats": []}
    lines["tasks"] = [{"task_index": row["task_index"], "task": row["__index_level_0__"]} for row in tasks]
    for row in rows.to_pylist():
        number = row["episode_index"]
        path = folder / f"data/chunk-{number // 3:03d}/episode_{number:06d}.parquet"
        video = folder / f"videos/chunk-{number // 3:03d}/top/episode_{number:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        video.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(steps.filter(pc.equal(steps["episode_index"], number)), path)
        video.write_bytes(b"video %d" % number)
        lines["episodes"].append({name: row[name] for name in ("episode_index", "tasks", "length")})
        lines["episodes_stats"].append({"episode_index": number, "stats": {"action": {"count": [row["length"]]}}})
    (folder / "meta").mkdir()
    info |= {"codebase_version": version, "chunks_size": 3, "total_chunks": 2, "total_videos": 5}
    info |= {"data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"}
    info |= {"video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"}
    info["features"]["top"] = {"dtype": "video", "shape": [24, 32, 3], "names": None}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    stats = "episodes_stats.jsonl" if version == "v2.1" else "stats.json"
    for name, content in lines.items():
        if name != "episodes_stats":
            (folder / "meta" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
    text = "".join(json.dumps(line) + "\n" for line in lines["episodes_stats"])
    (folder / "meta" / stats).write_text(text if version == "v2.1" else "{}")
    return folder
