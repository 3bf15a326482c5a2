"""The hub's client against a server on the loopback that speaks the hub's protocol and serves real parquet files."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fledge.text import documents, hub
from fledge.text.datasets import HUB
from fledge.text.hub import Dataset, Shards, locate
from fledge.text.records import read_records

REPO = "someone/texts"
TEXTS = [f"Document {index} of the shards." + " word" * (index % 9) for index in range(400)]
REVISION = "a" * 40


def parquet(**columns: list[Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=32)
    return buffer.getvalue()


class FakeHub(ThreadingHTTPServer):
    """Files of repositories, and what goes wrong with them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.gets: list[tuple[str, str | None]] = []
        self.broken_transfers = 0
        """So many bodies stop in the middle."""
        self.refusals = 0
        """So many requests are answered with 503."""
        self.damaged: set[str] = set()
        """Paths whose bytes are not those announced."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: FakeHub  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        if self.server.refusals > 0:
            self.server.refusals -= 1
            return self.reply(503, b"busy", body=body)
        if path.startswith("/api/datasets/"):
            return self.listing(path.removeprefix("/api/datasets/"), body=body)
        if path == "/eval_bundle.zip":
            return self.reply(200, self.server.files["bundle"]["zip"], body=body)
        repo, _, rest = path.removeprefix("/datasets/").partition("/resolve/")
        name = rest.partition("/")[2]
        raw = self.server.files.get(repo, {}).get(name)
        if raw is None:
            return self.reply(404, b"", body=body, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": REVISION})
        headers = {"ETag": f'"{hashlib.sha256(raw).hexdigest()}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        if name in self.server.damaged:
            raw = raw[:50] + bytes(20) + raw[70:]
        if not body:
            return self.reply(200, raw, body=False, headers=headers)
        asked = self.headers.get("Range")
        self.server.gets.append((name, asked))
        begin = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if asked:
            headers["Content-Range"] = f"bytes {begin}-{len(raw) - 1}/{len(raw)}"
        cut = None
        if self.server.broken_transfers > 0:
            self.server.broken_transfers -= 1
            cut = (len(raw) - begin) // 2
        return self.reply(206 if asked else 200, raw[begin:], body=True, cut=cut, headers=headers)

    def listing(self, repo: str, *, body: bool) -> None:
        files = self.server.files.get(repo)
        if files is None:
            return self.reply(404, b"{}", body=body, headers={"X-Error-Code": "RepoNotFound"})
        siblings = [
            {
                "rfilename": name,
                "size": len(raw),
                "blobId": "b" * 40,
                "lfs": {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw), "pointerSize": 130},
            }
            for name, raw in files.items()
        ]
        record = {"_id": "1", "id": repo, "sha": REVISION, "siblings": siblings, "private": False, "tags": []}
        return self.reply(200, json.dumps(record).encode(), body=body, headers={"Content-Type": "application/json"})

    def reply(
        self, status: int, raw: bytes, *, body: bool, cut: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(raw))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(raw[:cut])
        if cut is not None:
            self.close_connection = True


@pytest.fixture
def server() -> Iterator[FakeHub]:
    server = FakeHub()
    server.files[REPO] = {
        f"data/shard_{part}.parquet": parquet(text=TEXTS[part * 100 : part * 100 + 100], other=list(range(100)))
        for part in range(4)
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """huggingface_hub as HF_ENDPOINT and HF_HUB_CACHE would set it; the last test sets these."""
    point_at(server.address, monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "PAUSE_SECONDS", 0.01)
    return tmp_path / "cache"


def point_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)


def settle(shards: Shards) -> None:
    """Wait for what is fetched in the background."""
    for thread in shards._ahead.values():
        thread.join()


def records(paths: Path | list[Path]) -> list[dict[str, Any]]:
    return [record for path in ([paths] if isinstance(paths, Path) else paths) for record in read_records(path)]


def texts(path: Path) -> list[str]:
    return [record["text"] for record in records(path)]


def test_shards_are_fetched_one_after_another_as_they_are_asked_for(server: FakeHub) -> None:
    files = Shards(Dataset(REPO))
    assert len(files) == 4
    assert server.gets == []
    assert texts(files[0]) == TEXTS[:100]
    settle(files)
    assert [name for name, _ in server.gets] == ["data/shard_0.parquet", "data/shard_1.parquet"]
    assert texts(files[1]) == TEXTS[100:200]
    settle(files)


def test_what_how_large_and_where_to_is_said_before_and_the_speed_after(
    server: FakeHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settle_me = Shards(Dataset(REPO))
    settle_me[3]
    lines = capsys.readouterr().err.splitlines()
    assert "has 4 files (0.0 MB); fetching only those that the run comes to" in lines[0]
    assert f"fetching {REPO}/data/shard_3.parquet (0.0 MB) from {server.address} to {cache}" in lines[1]
    assert lines[-1].startswith("fledge: fetched data/shard_3.parquet in ")
    assert lines[-1].endswith(" MB/s)")


def test_a_transfer_that_breaks_goes_on_where_it_stopped(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1)
    server.broken_transfers = 1
    file = hub.list_files(Dataset(REPO))[2]
    assert texts(hub.fetch(file)) == TEXTS[200:300]
    assert [asked for _, asked in server.gets] == [None, f"bytes={file.bytes // 2}-"]


def test_what_a_killed_transfer_left_is_never_used(server: FakeHub, cache: Path) -> None:
    file = hub.list_files(Dataset(REPO))[2]
    blobs = cache / f"datasets--{REPO.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{file.sha256}.incomplete").write_bytes(b"not the beginning of the file")
    assert texts(hub.fetch(file)) == TEXTS[200:300]


def test_a_busy_hub_is_asked_again(server: FakeHub) -> None:
    server.refusals = 2
    assert len(hub.list_files(Dataset(REPO))) == 4
    assert server.refusals == 0


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host that does not resolve keeps nobody waiting: a pause would be an hour."""
    point_at("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setattr(hub, "PAUSE_SECONDS", 3600)
    with pytest.raises(ConnectionError, match=r"cannot list someone/texts from http://127.0.0.1:9: .*--local DIR"):
        len(Shards(Dataset(REPO)))
    monkeypatch.setenv("FLEDGE_LOCAL", str(tmp_path))
    with pytest.raises(ConnectionError, match=f"and {tmp_path} does not hold it. Connect"):
        locate("gsm8k/test")


def test_a_hub_that_stays_busy_is_reported_with_what_to_do(server: FakeHub) -> None:
    server.refusals = 1000
    with pytest.raises(ConnectionError, match=r"503.*HF_ENDPOINT to a mirror, or .*--local DIR"):
        hub.list_files(Dataset(REPO))


def test_a_file_that_arrives_damaged_is_refused_and_not_kept(server: FakeHub) -> None:
    server.damaged.add("data/shard_1.parquet")
    file = hub.list_files(Dataset(REPO))[1]
    with pytest.raises(ValueError, match=r"shard_1\.parquet: arrived with hash \w+ instead of"):
        hub.fetch(file)
    server.damaged.clear()
    assert texts(hub.fetch(file)) == TEXTS[100:200]


def test_a_file_damaged_in_the_cache_is_fetched_again(server: FakeHub) -> None:
    file = hub.list_files(Dataset(REPO))[0]
    path = hub.fetch(file).resolve()
    hub.fetch(file)
    assert len(server.gets) == 1
    path.write_bytes(path.read_bytes()[:-100])
    assert texts(hub.fetch(file)) == TEXTS[:100]
    assert len(server.gets) == 2


def test_a_missing_repository_and_a_missing_file_are_named_at_once(server: FakeHub) -> None:
    with pytest.raises(FileNotFoundError, match=r"cannot list no/where from http.*, which has no such file"):
        hub.list_files(Dataset("no/where"))
    with pytest.raises(FileNotFoundError, match=rf"{REPO} holds no other/\*\.parquet"):
        hub.list_files(Dataset(REPO, "other/"))
    file = hub.list_files(Dataset(REPO))[0]
    server.files[REPO].clear()
    with pytest.raises(FileNotFoundError, match=r"shard_0\.parquet from http.*, which has no such file"):
        hub.fetch(file)


def test_without_network_the_fetched_shards_are_used(server: FakeHub) -> None:
    files = Shards(Dataset(REPO))
    files[0]
    settle(files)
    server.refusals = 1000
    again = Shards(Dataset(REPO))
    assert [texts(path) for path in again] == [TEXTS[:100], TEXTS[100:200]]


def test_a_shard_that_fails_in_the_background_is_tried_again_when_it_is_needed(server: FakeHub) -> None:
    files = Shards(Dataset(REPO))
    server.damaged.add("data/shard_1.parquet")
    files[0]
    settle(files)
    server.damaged.clear()
    assert texts(files[1]) == TEXTS[100:200]
    settle(files)


def test_documents_of_a_named_dataset_come_from_its_shards(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    held = next(
        text for text in map(str, count()) if documents.document_hash(text) < documents.VALIDATION_SHARE * 2**64
    )
    server.files[REPO]["data/shard_0.parquet"] = parquet(text=[*TEXTS[:100], held])
    files = Shards(Dataset(REPO))
    monkeypatch.setitem(HUB, "texts", Dataset(REPO))
    monkeypatch.setattr(documents, "Shards", lambda _: files)
    read = [one.text for one in islice(documents.open_documents("texts"), 60)]
    settle(files)
    assert set(read) <= set(TEXTS[:100])
    assert {name for name, _ in server.gets} == {"data/shard_0.parquet", "data/shard_1.parquet"}


def test_a_folder_can_stand_for_what_a_name_would_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_LOCAL", str(tmp_path))
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "a.parquet").write_bytes(parquet(text=TEXTS))
    assert next(documents.open_documents("fineweb-edu")).text in TEXTS
    (tmp_path / "fineweb-edu").mkdir()
    (tmp_path / "fineweb-edu" / "a.parquet").write_bytes(parquet(text=["one", "two"]))
    assert next(documents.open_documents("fineweb-edu")).text in ("one", "two")


def test_task_files_are_found_in_the_local_folder_in_any_of_their_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEDGE_LOCAL", str(tmp_path))
    for name in ("arc/ARC-Easy/test.jsonl", "gsm8k/train.parquet", "HumanEval.jsonl.gz", "eval_bundle.zip"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    for name, found in {
        "arc/ARC-Easy/test": "arc/ARC-Easy/test.jsonl",
        "gsm8k/train": "gsm8k/train.parquet",
        "humaneval/HumanEval": "HumanEval.jsonl.gz",
    }.items():
        assert locate(name) == [tmp_path / found]
    assert hub.locate_bundle() == tmp_path / "eval_bundle.zip"
    with pytest.raises(FileNotFoundError, match=r"nothing/here: not in .*here\.jsonl.*not known on the hub, which has"):
        locate("nothing/here")
    monkeypatch.setenv("FLEDGE_LOCAL", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"--local .*: no such folder"):
        locate("gsm8k/train")
    with pytest.raises(FileNotFoundError, match=r"--local .*: no such folder"):
        documents.describe("fineweb-edu")


def test_task_files_are_fetched_and_read_like_local_ones(server: FakeHub) -> None:
    choices = [{"text": ["a", "b"], "label": ["A", "B"]}]
    server.files["allenai/ai2_arc"] = {
        "ARC-Easy/test-00000-of-00001.parquet": parquet(question=["Why?"], choices=choices, answerKey=["B"]),
        "ARC-Easy/train-00000-of-00001.parquet": parquet(question=["How?"], choices=choices, answerKey=["A"]),
    }
    assert records(locate("arc/ARC-Easy/test")) == [{"question": "Why?", "choices": choices[0], "answerKey": "B"}]
    server.refusals = 1000
    assert records(locate("arc/ARC-Easy/test"))[0]["question"] == "Why?"


def test_a_task_file_in_several_shards_is_these_alone(server: FakeHub) -> None:
    server.files["HuggingFaceTB/smoltalk"] = {
        f"data/all/{split}-0000{part}-of-00002.parquet": parquet(source=[f"{split}{part}"])
        for split in ("train", "test")
        for part in range(2)
    }
    found = locate("smoltalk/train")
    assert [record["source"] for record in records(found)] == ["train0", "train1"]


def test_a_part_of_a_split_is_never_taken_for_the_whole(server: FakeHub) -> None:
    repo = "HuggingFaceTB/smoltalk"
    name = "data/all/test-0000{}-of-00002.parquet"
    server.files[repo] = {name.format(part): parquet(source=[str(part)]) for part in range(2)}
    server.damaged.add(name.format(1))
    with pytest.raises(ValueError, match="arrived with"):
        locate("smoltalk/test")
    server.refusals = 1000
    with pytest.raises(ConnectionError, match=f"cannot list {repo}"):  # and not the first file alone
        locate("smoltalk/test")
    server.refusals = 0
    server.damaged.clear()
    assert len(records(locate("smoltalk/test"))) == 2
    server.refusals = 1000
    assert len(records(locate("smoltalk/test"))) == 2
    server.refusals = 0
    server.files[repo] = {"data/all/test-00000-of-00001.parquet": parquet(source=["a", "b", "c"])}
    assert len(records(locate("smoltalk/test"))) == 3


def test_a_file_damaged_in_the_cache_is_not_used_without_network_either(
    server: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    file = hub.list_files(Dataset(REPO))[0]
    path = hub.fetch(file).resolve()
    raw = path.read_bytes()
    server.refusals = 1000
    assert texts(Shards(Dataset(REPO))[0]) == TEXTS[:100]
    path.write_bytes(raw[:60] + bytes(4) + raw[64:])
    server.refusals = 1000
    with pytest.raises(ConnectionError, match=r"cannot fetch .*shard_0\.parquet .*Connect to the network"):
        Shards(Dataset(REPO))[0]
    assert re.search(r"shard_0\.parquet is damaged \(hash ", capsys.readouterr().err)


def test_without_network_a_file_in_the_store_that_repositories_share_is_used(server: FakeHub) -> None:
    """huggingface_hub can make a blob a link to a file that is called by a hash of another kind."""
    blob = hub.fetch(hub.list_files(Dataset(REPO))[0]).resolve()
    shared = blob.rename(blob.parent / ("c" * 64))
    blob.symlink_to(shared)
    server.refusals = 1000
    assert texts(Shards(Dataset(REPO))[0]) == TEXTS[:100]


def test_the_core_bundle_is_fetched_whole_or_not_at_all(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as bundle:
        bundle.writestr("eval_bundle/core.yaml", "tasks: " * 1000)
    server.files["bundle"] = {"zip": whole.getvalue()[:3000]}
    monkeypatch.setattr(hub, "EVAL_BUNDLE_URL", f"{server.address}/eval_bundle.zip")
    with pytest.raises(
        ConnectionError, match=r"cannot fetch .*eval_bundle.zip: File is not a zip.* put eval_bundle.zip"
    ):
        hub.locate_bundle()
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ConnectionError, match=r"offline mode is enabled.*--local DIR"):
            hub.locate_bundle()
    server.files["bundle"]["zip"] = whole.getvalue()
    path = hub.locate_bundle()
    assert zipfile.ZipFile(path).namelist() == ["eval_bundle/core.yaml"]
    path.write_bytes(path.read_bytes()[:-30])
    assert zipfile.ZipFile(hub.locate_bundle()).namelist() == ["eval_bundle/core.yaml"]


def test_the_mirror_and_the_cache_are_those_of_the_environment(server: FakeHub, tmp_path: Path) -> None:
    code = "from fledge.text.records import read_records; from fledge.text.hub import *; "
    code += f"print(len(list(read_records(Shards(Dataset({REPO!r}))[3]))))"
    mirror = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    mirror["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env={**os.environ, **mirror}, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["100"], done.stderr
    assert f"from {server.address} to {tmp_path}" in done.stderr
    server.refusals = 1000
    offline = {**os.environ, **mirror, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(run, env=offline, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, "only one shard was fetched, so there is no fourth"
    assert "Going on with what the cache has: 1 files" in done.stderr
