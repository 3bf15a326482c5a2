"""Data sets by name: found in a local folder, in the cache, or fetched from the Hugging Face hub, whole and checked.

    locate("gsm8k/train")                          # files of a task's records, for read_records
    Shards(HUB["climbmix"])[0]                     # path of the first shard; the next one is fetched meanwhile

What is fetched is said first: what, how large, where to. A file counts as there when its size and hash are those the hub
announced, whenever it is opened. The transfers are huggingface_hub's: a broken one goes on where it stopped, after a kill the
file is fetched anew, a partial file is never used. It reads its own variables (HF_ENDPOINT for a mirror, HF_HOME for the
cache, HF_HUB_OFFLINE); everything that has been fetched works offline.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fledge.console import notice
from fledge.storage import file_hash, write_atomic
from fledge.text.files import RECORDS, find_files

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".zip")
EVAL_BUNDLE = "eval_bundle"
EVAL_BUNDLE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
"""The CORE bundle of DCLM as the reference publishes it; it is not on the hub."""
PAUSE_SECONDS = 1.0
"""Before a busy server is asked again; doubled each time."""
REMEDY = "Connect to the network, set HF_ENDPOINT to a mirror, or give the files in a folder with --local DIR"


@dataclass(frozen=True)
class Dataset:
    """A repository of parquet shards; `folder` is the part of it that we mean."""

    repo: str
    folder: str = ""

    def holds(self, file: RemoteFile) -> bool:
        """Whether a file of the repository belongs to it."""
        return file.path.startswith(self.folder) and file.path.endswith(".parquet")


TASK_FILES = {
    "arc/ARC-Easy": Dataset("allenai/ai2_arc", "ARC-Easy/{split}-"),
    "arc/ARC-Challenge": Dataset("allenai/ai2_arc", "ARC-Challenge/{split}-"),
    "gsm8k": Dataset("openai/gsm8k", "main/{split}-"),
    "mmlu": Dataset("cais/mmlu", "all/{split}-"),
    "humaneval": Dataset("openai/openai_humaneval", "openai_humaneval/test-"),
    "smoltalk": Dataset("HuggingFaceTB/smoltalk", "data/all/{split}-"),
}
"""Where the files of tasks come from: the first part of their name, and the split as its last."""


class RemoteFile(NamedTuple):
    """A file as the hub announced it."""

    repo: str
    revision: str
    path: str
    bytes: int
    sha256: str
    """Hex digits. Of a small file the hub announces none; then the size alone is checked."""

    def damage(self, path: Path) -> str | None:
        """What is wrong with a copy; None: it is the file announced."""
        if (size := path.stat().st_size) != self.bytes:
            return f"{size} bytes instead of {self.bytes}"
        if len(self.sha256) != 64 or (found := file_hash(path)) == self.sha256:
            return None
        return f"hash {found[:12]} instead of {self.sha256[:12]}"


def list_files(dataset: Dataset) -> list[RemoteFile]:
    """Parquet files whose path begins with the data set's folder, sorted.

    Raises:
        ConnectionError: the hub cannot be reached.
        FileNotFoundError: there is no such repository, or no such file in it.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    repo = dataset.repo
    with explained(f"list {repo} from {constants.ENDPOINT}"):
        listing = json.loads(_get(f"{constants.ENDPOINT}/api/datasets/{repo}?blobs=true", headers=build_hf_headers()))
    files = [
        RemoteFile(repo, listing["sha"], file["rfilename"], file["size"], (file.get("lfs") or {}).get("sha256", ""))
        for file in listing["siblings"]
    ]
    if not (found := sorted(filter(dataset.holds, files))):
        raise FileNotFoundError(f"{constants.ENDPOINT}: {repo} holds no {dataset.folder}*.parquet")
    return found


def cached_files(dataset: Dataset) -> list[RemoteFile]:
    """What has been fetched of a data set before, as the cache says without asking the hub; of the newest revision there."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    snapshots = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=dataset.repo, repo_type="dataset"), "snapshots")
    newest = max(snapshots.glob("*"), key=lambda path: path.stat().st_mtime, default=snapshots)
    files = []
    for path in filter(Path.exists, newest.rglob("*.parquet")):
        # The cache links a name to a blob that is called by the hash which the hub announced. That may be a link too, into a
        # store with names of another kind: one link alone is followed.
        blob, name = os.path.basename(os.readlink(path)) if path.is_symlink() else path.name, path.relative_to(newest)
        files.append(RemoteFile(dataset.repo, newest.name, name.as_posix(), path.stat().st_size, blob))
    return sorted(filter(dataset.holds, files))


def fetch(file: RemoteFile, *, quiet: bool = False) -> Path:
    """The file's path in the cache, where it is put first if it is not there; checked either way.

    Raises:
        ConnectionError: it would have to be fetched and cannot be.
        FileNotFoundError: the hub has no such file.
        ValueError: what arrives is not what the hub announced.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import silent_tqdm

    name, source, damage = f"{file.repo}/{file.path}", constants.ENDPOINT, None
    where: dict[str, Any] = {"repo_type": "dataset", "revision": file.revision}
    # A bar of a transfer in the background would write over the run's own line.
    bar: dict[str, Any] = {"tqdm_class": silent_tqdm if quiet else None}
    tell = notice if try_to_load_from_cache(file.repo, file.path, **where) is None else lambda _: None
    for again in (False, True):
        began = time.monotonic()
        tell(f"fetching {name} ({_megabytes(file.bytes)}) from {source} to {constants.HF_HUB_CACHE}")
        with explained(f"fetch {name} from {source}"):
            path = Path(hf_hub_download(file.repo, file.path, force_download=again, **where, **bar))
        if (damage := file.damage(path)) is None:
            seconds = max(time.monotonic() - began, 1e-3)
            tell(f"fetched {file.path} in {seconds:.1f} s ({file.bytes / 1e6 / seconds:.1f} MB/s)")
            return path
        tell = notice
        tell(f"{path} is damaged ({damage})")
    path.resolve().unlink()
    raise ValueError(
        f"{name}: arrived with {damage}. Expected is what {source} announces; "
        "try again later, or another mirror (HF_ENDPOINT)"
    )


def _get(url: str, *, headers: dict[str, str] | None = None) -> bytes:
    """What stands at an address. A busy server is asked three times, one that cannot be reached once."""
    from huggingface_hub.utils import hf_raise_for_status, http_backoff

    # huggingface_hub would also wait 24 seconds in all for a host whose name nobody knows.
    patience = {"max_retries": 2, "base_wait_time": PAUSE_SECONDS, "retry_on_exceptions": ()}
    reply = http_backoff("GET", url, **patience, headers=headers, timeout=30)
    hf_raise_for_status(reply)
    return reply.content


@contextmanager
def explained(what: str, *, remedy: str = REMEDY) -> Iterator[None]:
    """Within, errors of huggingface_hub become ours: one sentence, and what to do."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ConnectionError(f"cannot {what}: access needs an account and consent; {error}") from error
    except Exception as error:  # which ones depends on the HTTP library that huggingface_hub's version uses
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            place = f"no space left in {constants.HF_HUB_CACHE}"
            raise OSError(errno.ENOSPC, f"cannot {what}: {place}; free some") from error
        missing = isinstance(error, errors.EntryNotFoundError | errors.RepositoryNotFoundError)
        if missing and not isinstance(error, errors.LocalEntryNotFoundError):
            raise FileNotFoundError(f"cannot {what}, which has no such file ({error})") from error
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        looked = f", and {home} does not hold it" if (home := data_home()) else ""
        raise ConnectionError(f"cannot {what}: {reason.rstrip('.')}{looked}. {remedy}") from error


class Shards:
    """The files of a data set in order, each fetched when it is asked for, the next one meanwhile in the background.

    Without network it holds what has been fetched before, or where `whole` is asked for all files or none.

    Raises:
        ConnectionError, FileNotFoundError: as `list_files`, and nothing usable has been fetched before.
    """

    def __init__(self, dataset: Dataset, *, whole: bool = False) -> None:
        self._ahead: dict[int, threading.Thread] = {}
        try:
            self._files = list_files(dataset)
            told = f"{dataset.repo} has"
        except ConnectionError as error:
            self._files = cached_files(dataset)
            # Names such as test-00000-of-00003.parquet say how many files a split has.
            wanted = re.search(r"-of-(\d+)\.parquet$", self._files[0].path) if self._files and whole else None
            if not self._files or (wanted and len(self._files) != int(wanted[1])):
                raise
            told = f"{error}. Going on with what the cache has:"
        size = _megabytes(sum(file.bytes for file in self._files))
        notice(f"{told} {len(self._files)} files ({size}); fetching only those that the run comes to")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Path:
        file = self._files[index]
        if thread := self._ahead.pop(index, None):
            thread.join()
        path = fetch(file)
        if (coming := index + 1) < len(self) and coming not in self._ahead:
            # A daemon, so that a run which is stopped does not wait for it.
            self._ahead[coming] = threading.Thread(target=self._fetch_ahead, args=(coming,), daemon=True)
            self._ahead[coming].start()
        return path

    def _fetch_ahead(self, index: int) -> None:
        try:
            fetch(self._files[index], quiet=True)
        except (OSError, ValueError) as error:
            notice(f"{error}. It is tried again when the run comes to it")


def data_home() -> Path | None:
    """The folder of data sets already downloaded, if FLEDGE_LOCAL (`--local DIR`) names one; FileNotFoundError if in vain."""
    named = os.environ.get("FLEDGE_LOCAL")
    if named and not Path(named).is_dir():
        raise FileNotFoundError(
            f"--local {named}: no such folder; give one in the layout of the task files, or leave it out"
        )
    return Path(named) if named else None


def locate(name: str) -> list[Path]:
    """The files of a task's records, fetched if they are not there; for `read_records`.

        locate("arc/ARC-Easy/test")     # with --local data: [data/arc/ARC-Easy/test.jsonl.gz]

    Args:
        name: `arc/ARC-Easy/test`, `gsm8k/train`, `mmlu/auxiliary_train`, `humaneval/HumanEval`, `smoltalk/train`.

    Raises:
        FileNotFoundError: neither in the data home nor known to be anywhere else.
        ConnectionError: it would have to be fetched and cannot be.
    """
    if path := find_at_home(name):
        return find_files(path, RECORDS).files if path.is_dir() else [path]
    head, _, split = name.rpartition("/")
    if head not in TASK_FILES:
        raise FileNotFoundError(
            f"{name}: not in {data_home() or 'a local folder (none given: --local DIR)'} as one of "
            f"{', '.join(split + ending for ending in ENDINGS)}, and not known on the hub, which has {', '.join(TASK_FILES)}"
        )
    source = TASK_FILES[head]
    files = Shards(Dataset(source.repo, source.folder.format(split=split)), whole=True)
    return [files[index] for index in range(len(files))]


def find_at_home(name: str) -> Path | None:
    """What the data home has of this name, as a file with one of `ENDINGS`, or as it is called; None: it has none."""
    if (home := data_home()) is None:
        return None
    bases = [home / name, home / name.rpartition("/")[2]]
    candidates = [base.with_name(base.name + ending) for base in bases for ending in (*ENDINGS, "")]
    return next((path for path in candidates if path.exists()), None)


def locate_bundle() -> Path:
    """The zip of CORE's tasks, fetched if it is not there, or the folder that it holds, from the data home.

    The zip names no hash, so the check is that of its own sums.

    Raises:
        ConnectionError: it would have to be fetched and cannot be.
    """
    from huggingface_hub import constants, get_hf_file_metadata
    from huggingface_hub.utils import WeakFileLock

    if found := find_at_home(EVAL_BUNDLE):
        return found
    path = Path(constants.HF_HUB_CACHE).parent / "fledge" / f"{EVAL_BUNDLE}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    remedy = f"Connect to the network, or put {EVAL_BUNDLE}.zip in a folder and give that with --local DIR"
    with WeakFileLock(path.with_suffix(".lock")):  # the ranks of a machine: one fetches it
        if zipfile.is_zipfile(path):
            return path
        if path.exists():
            notice(f"{path} is damaged and is fetched again")
        with explained(f"fetch {EVAL_BUNDLE_URL}", remedy=remedy):
            size = get_hf_file_metadata(EVAL_BUNDLE_URL, token=False).size or 0
            notice(f"fetching {EVAL_BUNDLE_URL} ({_megabytes(size)}) to {path}")
            raw = _get(EVAL_BUNDLE_URL)
            if broken := zipfile.ZipFile(io.BytesIO(raw)).testzip():
                raise ValueError(f"{broken} arrived damaged")
        write_atomic(path, raw)
    return path


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
