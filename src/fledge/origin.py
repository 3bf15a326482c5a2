"""What a stage is made from, as hashes: data, tokenizer, weights.

    with open_stage(config, origin_of(config)) as stage: ...      # kept in config.json, compared whenever the stage is opened
    data_of(run / "pretrain")                                     # where its text lies now
    list(broken_links(run))                                       # ["sft: data: chats.jsonl changed"]

So a chain of hashes leads from a score to the text: a score names weights, a checkpoint the settings and the origin of its stage,
and an origin the weights before it. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fledge.commands import STAGES, TRAINED
from fledge.config import Midtrain, Pretrain, Rl, Stage, Tokenizer
from fledge.runs import UNREAD, begun, changes, checkpoints, is_done
from fledge.settings import shares_of, with_paths
from fledge.storage import read_record
from fledge.tasks import all_tasks, own
from fledge.tasks.identity import ENDING, is_identity
from fledge.text import tokenizer
from fledge.text.datasets import find_data, find_generated
from fledge.text.files import RECORDS, TEXTS, find_files
from fledge.text.hub import Dataset, data_home
from fledge.weights import weights_hash

DRAWN = 32
"""Items of a generated set that stand for all."""


class Part(NamedTuple):
    """One thing that a stage is made from."""

    name: str
    source: str
    """The stage of the run that makes it; empty: it comes from outside."""
    look: Callable[[], Any]
    """Its hash, or {file: hash}. What is empty is not compared."""


def parts_of(config: Stage) -> Iterator[Part]:
    """What a stage is made from: the one place that says so."""
    run, start = Path(config.run), getattr(config, "start", "")
    if isinstance(config, Tokenizer | Pretrain):
        yield Part("data", "", lambda: _texts(config.data, config.seed))
    if not isinstance(config, Tokenizer):
        yield Part("tokenizer", "tokenizer", lambda: tokenizer.Tokenizer.load(run / "tokenizer").hash)
    if isinstance(config, Midtrain | Rl):
        yield Part(f"weights of {start}", start, lambda: weights_hash(run / start))
    if isinstance(config, Midtrain):
        kind = "midtrain" if type(config) is Midtrain else "sft"
        yield Part("data", "", lambda: _chats(config.data, kind, config.seed))
        if config.replay:
            yield Part("replayed text", "pretrain", lambda: _texts(data_of(run / "pretrain"), config.seed))
    if isinstance(config, Rl):
        if config.replay_tokens:
            yield Part("replayed chats", start, lambda: _chats(data_of(run / start), "sft", config.seed))
        task = own.file_of(config.task) or Path(config.task)  # an identity file, or a name
        if task.exists() and config.task not in all_tasks():  # a folder may be called gsm8k
            yield Part("task", "", lambda: find_files(task, (*RECORDS, ".py", ".txt")).fingerprints())


def origin_of(
    config: Stage, *, known: dict[str, Any] | None = None, left: Iterable[str] = (), lenient: bool = False
) -> dict[str, Any]:
    """What a stage would be made from now.

    Args:
        known: parts that the stage has at hand already, such as a hash of the examples that it draws from.
        left: stages still to be done: what they make is left out.
        lenient: leave out what is not there, as a finished stage may: its text moved away, the weights before it deleted.

    Raises:
        FileNotFoundError, ValueError: a part is missing or damaged.
    """
    found = dict(known or {})
    for part in parts_of(config):
        try:
            if not found.get(part.name) and part.source not in left:
                found[part.name] = part.look()
        except (FileNotFoundError, ValueError):
            if not lenient:
                raise
    return {name: value for name, value in found.items() if value}


def _texts(data: str, seed: int) -> dict[str, str]:
    if len(shares := shares_of(data)) > 1:
        parts = {f"source {number}: ": _texts(name, seed) for number, name in enumerate(shares, 1)}
        return _shares(data) | {part + file: value for part, found in parts.items() for file, value in found.items()}
    [data] = shares
    found = find_data(data)
    if isinstance(found, Path):
        return find_files(found, TEXTS).fingerprints()
    if isinstance(found, Dataset):
        return {f"{found.repo}/{found.folder}": UNREAD}
    return {data: hash_of_draws(lambda index: found.document(seed, index, split="train"))}


def _shares(data: str) -> dict[str, str]:
    """How sources are mixed, of which their files say nothing."""
    shares = shares_of(data).values()
    return {"the shares": ":".join(f"{share:g}" for share in shares)} if len(shares) > 1 else {}


def _chats(data: str, stage: Literal["midtrain", "sft"], seed: int) -> dict[str, str]:
    """Empty for public sets, which take long to read: the stage that draws from them knows them."""
    found = _shares(data)
    for name in shares_of(data):
        if (source := find_generated(name)) is not None:
            found[name] = hash_of_draws(lambda index, source=source: source.conversation(seed, index, stage=stage))
        elif Path(name).exists():
            found |= find_files(Path(name), (ENDING,) if is_identity(name) else RECORDS).fingerprints()
    return found


def hash_of(items: Iterable[Any]) -> str:
    """Hash of what items are, such as the examples of a task, in their order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr(item).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:32]


def hash_of_draws(pick: Callable[[int], Any]) -> str:
    """Hash of the first items of an endless source."""
    return hash_of(pick(index) for index in range(DRAWN))


def data_of(stage: Path) -> str:
    """The data that a stage was trained on: a name, or where the files lie now; the embedded world where nothing says it.

    A path is looked for where it was, as it was written, and by its name in the data home; what did not change counts first.

    Raises:
        ValueError: config.json is not as it was written.
        FileNotFoundError: the files are in none of these places.
    """
    if not (stage / "config.json").exists():
        return "world"
    kept = begun(stage)
    if "data" not in kept["settings"] and "start" in kept["settings"]:  # rl: it speaks as what it began with
        return data_of(stage.parent / kept["settings"]["start"])
    named = str(kept["settings"].get("data", "world"))
    where = read_record(stage / "where.json", advice="Remove it.") if (stage / "where.json").exists() else {}
    if not isinstance(was := where.get("data"), str):
        return named

    def places(was: str, named: str) -> list[Path]:
        home = data_home()
        found = [*([home / Path(was).name] if home else []), Path(named), Path(was)]
        return list(dict.fromkeys(place.absolute() for place in found if place.exists()))

    if len(shares_of(was)) > 1:  # what is missing is missed when it is opened
        return with_paths(was, lambda name: str(next(iter(places(name, Path(name).name)), name)))
    there = places(was, named)
    endings, known = TEXTS if stage.name in ("tokenizer", "pretrain") else RECORDS, kept["origin"].get("data")
    for place in there[:-1]:
        with contextlib.suppress(ValueError):
            if find_files(place, endings).fingerprints() == known:
                return str(place)
    if there:
        return str(there[-1])
    raise FileNotFoundError(
        f"{stage}: the data it was trained on is gone: {was}. Put it back, give the folder that holds "
        f"{Path(was).name!r} with --local, or train without it (--replay 0, --replay-tokens 0)."
    )


def text_of(run: Path) -> dict[str, Any]:
    """What a run was pretrained on, as `open_documents` takes it. Raises as `data_of`."""
    stage = run / "pretrain"
    settings = begun(stage)["settings"] if (stage / "config.json").exists() else {}
    return {"data": data_of(stage), "column": settings.get("column", Pretrain.column)}


def broken_links(run: Path) -> Iterator[str]:
    """What in a run is no longer made from what lies there: each finished stage against its origin, in words."""
    for name in ("tokenizer", *TRAINED):
        stage, kind = run / name, STAGES[name]
        if not is_done(stage) or not (stage / "config.json").exists():
            continue
        try:
            weights_hash(stage, needed=()) if checkpoints(stage) else None
        except ValueError:  # whose message has the path, and the report is published
            yield f"{name}: the weights there are damaged, or of another training"
        was = begun(stage)
        given = {each.name: was["settings"][each.name] for each in fields(kind) if each.name in was["settings"]}
        try:
            given |= {"data": data_of(stage)} if "data" in given else {}
        except FileNotFoundError:
            continue
        now = origin_of(kind(**{**given, "run": str(run)}), lenient=True)
        yield from (f"{name}: {told}" for told in changes(was, {"settings": {}, "origin": now}))
