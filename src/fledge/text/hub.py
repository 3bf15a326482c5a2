"""Data sets by name: found in a local folder, in the cache, or fetched from the Hugging Face hub, whole and checked.

    locate("gsm8k/train")                          # path of a task's records, for read_jsonl
    Shards(HUB["climbmix"])[0]                     # path of the first shard; the next one is fetched meanwhile

What is fetched is said first: what, how large, where to. A file counts as there when its size and hash are those the hub
announced; a broken transfer goes on where it stopped (after a kill with that file), and a partial file is never used.
huggingface_hub reads its own variables (HF_ENDPOINT for a mirror, HF_HOME for the cache, HF_HUB_OFFLINE); everything that
has been fetched works offline.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

from fledge.text.files import read_jsonl as read_jsonl

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".zip")
EVAL_BUNDLE = "eval_bundle"
EVAL_BUNDLE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
"""The CORE bundle of DCLM as the reference publishes it; it is not on the hub."""


@dataclass(frozen=True)
class Dataset:
    """A repository of parquet shards; `folder` is the part of it that we mean."""

    repo: str
    folder: str = ""


TASK_FILES = {
    "arc/ARC-Easy": Dataset("allenai/ai2_arc", "ARC-Easy/{split}-"),
    "arc/ARC-Challenge": Dataset("allenai/ai2_arc", "ARC-Challenge/{split}-"),
    "gsm8k": Dataset("openai/gsm8k", "main/{split}-"),
    "mmlu": Dataset("cais/mmlu", "all/{split}-"),
    "humaneval": Dataset("openai/openai_humaneval", "openai_humaneval/test-"),
    "smoltalk": Dataset("HuggingFaceTB/smoltalk", "data/all/{split}-"),
}
"""Where the files of tasks come from: the first part of their name, and the split as its last."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub announces it. Large files have a sha256, small ones git's own hash."""

    repo: str
    revision: str
    path: str
    bytes: int
    sha256: str | None
    git_sha1: str | None

    def problem_of(self, path: Path) -> str | None:
        """What is wrong with a copy; None: it is the file announced."""
        size = path.stat().st_size
        if size != self.bytes:
            return f"{size} bytes instead of {self.bytes}"
        if self.sha256:
            digest, expected = hashlib.sha256(), self.sha256
        elif self.git_sha1:
            digest, expected = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), self.git_sha1
        else:
            return None
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return None if digest.hexdigest() == expected else f"hash {digest.hexdigest()[:12]} instead of {expected[:12]}"


@dataclass(frozen=True)
class Hub:
    """A hub and the cache for it. None: as huggingface_hub is set."""

    endpoint: str | None = None
    cache: str | None = None
    attempts: int = 5
    pause_seconds: float = 1.0

    @property
    def address(self) -> str:
        """For messages."""
        from huggingface_hub import constants

        return self.endpoint or constants.ENDPOINT

    @property
    def folder(self) -> Path:
        """Where files are kept."""
        from huggingface_hub import constants

        return Path(self.cache or constants.HF_HUB_CACHE)

    def list_files(self, dataset: Dataset) -> list[RemoteFile]:
        """Parquet files whose path begins with the data set's folder, sorted.

        Raises:
            ConnectionError: the hub cannot be reached.
            FileNotFoundError: there is no such repository, or no such file in it.
        """
        from huggingface_hub import HfApi

        info = self._retry(
            f"list {dataset.repo}",
            lambda: HfApi(endpoint=self.endpoint).dataset_info(dataset.repo, files_metadata=True, timeout=30),
        )
        files = [
            RemoteFile(
                repo=dataset.repo,
                revision=info.sha or "main",
                path=file.rfilename,
                bytes=file.size or 0,
                sha256=file.lfs.sha256 if file.lfs else None,
                git_sha1=None if file.lfs else file.blob_id,
            )
            for file in info.siblings or []
            if file.rfilename.startswith(dataset.folder) and file.rfilename.endswith(".parquet")
        ]
        if not files:
            raise FileNotFoundError(f"{self.address}: {dataset.repo} holds no {dataset.folder}*.parquet")
        return sorted(files, key=lambda file: file.path)

    def cached_files(self, dataset: Dataset) -> list[Path]:
        """What has been fetched of a data set before, without asking the hub."""
        name = "datasets--" + dataset.repo.replace("/", "--")
        revision = self.folder / name / "refs" / "main"
        snapshots = self.folder / name / "snapshots"
        if revision.is_file():
            snapshot = snapshots / revision.read_text().strip()
        else:  # fetched by revision alone: the newest
            snapshot = max(snapshots.glob("*"), key=lambda path: path.stat().st_mtime, default=snapshots)
        paths = sorted(path for path in snapshot.rglob("*.parquet") if path.is_file())
        return [path for path in paths if path.relative_to(snapshot).as_posix().startswith(dataset.folder)]

    def fetch(self, file: RemoteFile, *, quiet: bool = False) -> Path:
        """The file's path in the cache, where it is put first if it is not there; checked either way.

        Raises:
            ConnectionError: no attempt succeeded.
            FileNotFoundError: the hub has no such file.
            ValueError: what arrives is not what the hub announced.
        """
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        known = {"repo_type": "dataset", "revision": file.revision, "cache_dir": self.cache}
        cached = try_to_load_from_cache(file.repo, file.path, **known)
        force = False
        if isinstance(cached, str):
            if (problem := file.problem_of(Path(cached))) is None:
                return Path(cached)
            _say(f"{cached} is damaged ({problem}) and is fetched again")
            force = True
        _say(f"fetching {file.repo}/{file.path} ({_megabytes(file.bytes)}) from {self.address} to {self.folder}")
        began = time.monotonic()
        for last in (False, True):
            path = self._retry(
                f"fetch {file.repo}/{file.path}",
                lambda force=force: hf_hub_download(
                    file.repo, file.path, endpoint=self.endpoint, force_download=force, **known
                ),
                quiet=quiet,
            )
            problem = file.problem_of(Path(path))
            if problem is None:
                seconds = time.monotonic() - began
                speed = file.bytes / 1e6 / max(seconds, 1e-3)
                _say(f"fetched {file.path} in {seconds:.1f} s ({speed:.1f} MB/s)")
                return Path(path)
            force = True
            if last:
                Path(path).resolve().unlink(missing_ok=True)
                raise ValueError(
                    f"{file.repo}/{file.path}: arrived twice with {problem}. Expected is what {self.address} announces; "
                    "try again later, or another mirror (HF_ENDPOINT)"
                )
        raise AssertionError("the second round returns or raises")

    def _retry(self, what: str, act, *, quiet: bool = False, remedy: str | None = None):
        """What `act` returns; a failure that may pass is tried again after a pause that doubles.

        Args:
            remedy: what to do, where it has nothing to do with the hub.
        """
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
        )

        for attempt in range(1, self.attempts + 1):
            try:
                with _without_bars(quiet):
                    return act()
            except GatedRepoError as error:
                raise ConnectionError(f"cannot {what}: access needs an account and consent; {error}") from error
            except Exception as error:
                # Which errors a transfer raises depends on the HTTP library that huggingface_hub's version uses.
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise OSError(errno.ENOSPC, f"cannot {what}: no space left in {self.folder}; free some") from error
                gone = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
                if gone or isinstance(error, RepositoryNotFoundError):
                    raise FileNotFoundError(f"cannot {what}: {self.address} has no such file ({error})") from error
                offline = isinstance(error, OfflineModeIsEnabled) or isinstance(error.__cause__, OfflineModeIsEnabled)
                if offline or attempt == self.attempts:
                    reason = str(error.__cause__ or error).strip().splitlines()[0]
                    tried = "offline mode is on" if offline else f"{attempt} attempts failed"
                    place = "" if remedy else f" from {self.address}"
                    do = remedy or (
                        "Connect to the network, set HF_ENDPOINT to a mirror, or give the files in a folder with --local DIR"
                    )
                    raise ConnectionError(f"cannot {what}{place}: {tried} ({reason}). {do}") from error
                _say(f"attempt {attempt} of {self.attempts} to {what} failed ({error}); trying again")
                time.sleep(self.pause_seconds * 2 ** (attempt - 1))
        raise AssertionError("attempts is at least 1")


class Shards(Sequence[Path]):
    """The files of a data set in order, each fetched when it is asked for, the next one meanwhile in the background.

    Without network it holds what has been fetched before.
    """

    def __init__(self, dataset: Dataset, hub: Hub | None = None) -> None:
        self.dataset, self.hub = dataset, hub or Hub()
        self._threads: dict[int, threading.Thread] = {}

    @cached_property
    def _files(self) -> list[RemoteFile] | list[Path]:
        try:
            files = self.hub.list_files(self.dataset)
        except ConnectionError as error:
            if cached := self.hub.cached_files(self.dataset):
                _say(f"{error}. Going on with the {len(cached)} files of {self.dataset.repo} in {self.hub.folder}")
                return cached
            raise
        size = _megabytes(sum(file.bytes for file in files))
        _say(f"{self.dataset.repo} has {len(files)} files ({size}); fetching only those that the run comes to")
        return files

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if index >= len(self):
            raise IndexError(index)
        if thread := self._threads.pop(index, None):
            thread.join()
        path = self._fetch(index, quiet=False)
        if index + 1 < len(self) and index + 1 not in self._threads:
            thread = threading.Thread(target=self._fetch_ahead, args=(index + 1,), name="fledge-fetch", daemon=True)
            self._threads[index + 1] = thread
            thread.start()
        return path

    def _fetch(self, index: int, *, quiet: bool) -> Path:
        file = self._files[index]
        if not isinstance(file, Path):
            return self.hub.fetch(file, quiet=quiet)
        check_cached(file)
        return file

    def _fetch_ahead(self, index: int) -> None:
        try:
            self._fetch(index, quiet=True)
        except (OSError, ValueError) as error:
            _say(f"{error}. It is tried again when the run comes to it")


def data_home() -> Path | None:
    """The folder of data sets already downloaded, from FLEDGE_LOCAL (`--local DIR` sets it); None: there is none.

    Raises:
        FileNotFoundError: it is named and does not exist.
    """
    named = os.environ.get("FLEDGE_LOCAL")
    if named and not Path(named).is_dir():
        raise FileNotFoundError(
            f"--local {named}: no such folder; give one in the layout of the task files, or leave it out"
        )
    return Path(named) if named else None


def locate(name: str, *, hub: Hub | None = None) -> Path:
    """The file of a task's records, or the folder where there are several, fetched if it is not there; for `read_jsonl`.

        locate("arc/ARC-Easy/test")     # with --local data: data/arc/ARC-Easy/test.jsonl.gz

    Args:
        name: `arc/ARC-Easy/test`, `gsm8k/train`, `mmlu/auxiliary_train`, `humaneval/HumanEval`, `smoltalk/train`,
            `eval_bundle`; an ending such as .jsonl.gz says nothing.
            In the data home, which is looked into first, it may lie as .jsonl, .jsonl.gz, .jsonl.zst, .parquet or .zip.

    Raises:
        FileNotFoundError: neither there nor known to be anywhere else.
        ConnectionError: it would have to be fetched and cannot be.
    """
    for ending in sorted(ENDINGS, key=len, reverse=True):
        name = name.removesuffix(ending)
    if path := _find_at_home(name):
        return path
    hub = hub or Hub()
    if name == EVAL_BUNDLE:
        return _fetch_bundle(hub)
    head, _, split = name.rpartition("/")
    if head not in TASK_FILES:
        raise FileNotFoundError(
            f"{name}: not in {data_home() or 'a local folder (none given: --local DIR)'} as one of "
            f"{', '.join(name.rpartition('/')[2] + ending for ending in ENDINGS)}, "
            f"and not known on the hub, which has {', '.join([*TASK_FILES, EVAL_BUNDLE])}"
        )
    source = TASK_FILES[head]
    dataset = Dataset(source.repo, source.folder.format(split=split))
    try:
        files = hub.list_files(dataset)
    except ConnectionError:
        paths = hub.cached_files(dataset)
        if not _is_whole(paths):
            raise
        for path in paths:
            check_cached(path)
    else:
        paths = [hub.fetch(file) for file in files]
    return paths[0] if len(paths) == 1 else _linked(paths, hub.folder.parent / "fledge" / name)


def _is_whole(paths: Sequence[Path]) -> bool:
    """Whether these are all files of a split: names such as test-00000-of-00003.parquet say how many it has."""
    wanted = re.search(r"-of-(\d+)\.parquet$", paths[0].name) if paths else None
    return bool(paths) and (wanted is None or len(paths) == int(wanted[1]))


def check_cached(path: Path) -> None:
    """Raise ValueError where a file of the cache has another hash than the name it is kept under, which the hub announced."""
    name = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name):
        sha256, git_sha1 = (name, None) if len(name) == 64 else (None, name)
        size = path.stat().st_size
        kept = RemoteFile(repo="", revision="", path="", bytes=size, sha256=sha256, git_sha1=git_sha1)
        if problem := kept.problem_of(path):
            raise ValueError(f"{path}: damaged ({problem}); connect to the network, so that it is fetched again")


def _find_at_home(name: str) -> Path | None:
    if (home := data_home()) is None:
        return None
    bases = [home / name, home / name.rpartition("/")[2]]
    candidates = [base.with_name(base.name + ending) for base in bases for ending in (*ENDINGS, "")]
    return next((path for path in candidates if path.exists()), None)


def _linked(paths: list[Path], folder: Path) -> Path:
    """A folder that holds these files and no others of their repository."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.parquet"):
        if old.name not in {path.name for path in paths}:  # of another revision, cut into other files
            old.unlink()
    for path in paths:
        link = folder / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    return folder


def _fetch_bundle(hub: Hub, url: str = EVAL_BUNDLE_URL) -> Path:
    """The zip of CORE's tasks; it names no hash, so the check is that of its own sums."""
    path = hub.folder.parent / "fledge" / f"{EVAL_BUNDLE}.zip"
    if path.exists():
        if zipfile.is_zipfile(path):
            return path
        _say(f"{path} is damaged and is fetched again")
    from huggingface_hub import constants

    remedy = f"Connect to the network, or put {EVAL_BUNDLE}.zip in a folder and give that with --local DIR"
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError(f"cannot fetch {url}: offline mode is on. {remedy}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")

    def load() -> None:
        with urllib.request.urlopen(url, timeout=30) as reply, partial.open("wb") as file:
            _say(f"fetching {url} ({_megabytes(int(reply.headers.get('Content-Length') or 0))}) to {path}")
            while block := reply.read(1 << 20):
                file.write(block)
        with zipfile.ZipFile(partial) as bundle:
            if broken := bundle.testzip():
                raise ValueError(f"{broken} arrived damaged")

    hub._retry(f"fetch {url}", load, remedy=remedy)
    partial.replace(path)
    return path


class _without_bars:  # reads as a phrase behind `with`
    """No progress bars of huggingface_hub: a background transfer would write over the run's own line."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def __enter__(self) -> None:
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars

        self.quiet = self.quiet and not are_progress_bars_disabled()
        if self.quiet:
            disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        from huggingface_hub.utils import enable_progress_bars

        if self.quiet:
            enable_progress_bars()


def _say(line: str) -> None:
    print(f"fledge: {line}", file=sys.stderr)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
