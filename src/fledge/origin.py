"""What a stage is made from, as hashes: data, tokenizer, weights. And its newest checkpoint that is whole.

    with open_stage(config, origin_of(config)) as stage: ...      # kept in config.json, compared whenever the stage is opened
    check_tokenizer(run / "sft", tokenizer.hash)                  # wherever a model and a tokenizer are joined
    checkpoint, state = newest(run / "sft")                       # damaged ones are named and passed over

So a chain of hashes leads from a score to the text: a score names weights, a checkpoint the settings and the origin of its stage,
and an origin the weights before it. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from fledge.config import STAGES, TRAINED, Midtrain, Pretrain, Rl, Stage, Tokenizer
from fledge.console import notice
from fledge.runs import (
    checkpoints,
    differences,
    is_done,
    model_name,
    origin_in,
    read_record,
    settings_of,
    step_of,
    summary,
    trained_stages,
    written,
)
from fledge.text.datasets import find_data, find_generated
from fledge.text.files import RECORDS, TEXTS, find_files
from fledge.text.hub import Dataset, data_home

DRAWN = 32
"""Items of a generated set that stand for all."""
MODEL_FILES = ("model.json", "model.safetensors")


def origin_of(config: Stage, *, known: dict[str, Any] | None = None, lenient: bool = False) -> dict[str, Any]:
    """What a stage would be made from now.

    Args:
        known: parts that the stage has at hand already, such as a hash of the examples that it draws from.
        lenient: leave out what is not there, as a finished stage may: its text moved away, the weights before it deleted.

    Raises:
        FileNotFoundError, ValueError: a part is missing or damaged.
    """
    run, found = Path(config.run), dict(known or {})
    for name, look in _parts(config, run).items():
        try:
            if not found.get(name):
                found[name] = look()
        except (FileNotFoundError, ValueError):
            if not lenient:
                raise
    return {name: value for name, value in found.items() if value}


def _parts(config: Stage, run: Path) -> dict[str, Callable[[], Any]]:
    """Name of a part -> how it is looked up. What is empty is not compared."""
    if isinstance(config, Tokenizer):
        return {"data": lambda: _texts(config.data, config.seed)}
    parts: dict[str, Callable[[], Any]] = {"tokenizer": lambda: tokenizer_hash(run)}
    if isinstance(config, Pretrain):
        parts["data"] = lambda: _texts(config.data, config.seed)
    if isinstance(config, Midtrain | Rl):
        parts[f"weights of {config.start}"] = lambda: weights_hash(run / config.start)
    if isinstance(config, Midtrain):
        parts["data"] = lambda: _chats(config.data, "midtrain" if type(config) is Midtrain else "sft", config.seed)
        if config.replay:
            parts["replayed text"] = lambda: _texts(data_of(run / "pretrain"), config.seed)
    if isinstance(config, Rl) and config.replay_tokens:
        parts["replayed chats"] = lambda: _chats(data_of(run / config.start), "sft", config.seed)
    if isinstance(config, Rl) and Path(config.task).exists():
        parts["task"] = lambda: {config.task: file_hash(Path(config.task))}
    return parts


def parents(config: Stage) -> set[str]:
    """The stages of the run that a stage is made from."""
    if isinstance(config, Tokenizer):
        return set()
    named = [getattr(config, "start", None), getattr(config, "stage", None)]
    replayed = ["pretrain"] if isinstance(config, Midtrain) and config.replay else []
    return {"tokenizer", *filter(None, named), *replayed}


def _texts(data: str, seed: int) -> dict[str, str]:
    found = find_data(data)
    if isinstance(found, Path):
        return find_files(found, TEXTS).fingerprints()
    if isinstance(found, Dataset):
        return {f"{found.repo}/{found.folder}": "hub"}
    return {data: hash_of_draws(lambda index: found.document(seed, index, split="train"))}


def _chats(data: str, stage: Literal["midtrain", "sft"], seed: int) -> dict[str, str]:
    """Empty for a mixture, which takes long to read: the stage that draws from it knows it."""
    if (source := find_generated(data)) is not None:
        return {data: hash_of_draws(lambda index: source.conversation(seed, index, stage=stage))}
    return find_files(Path(data), RECORDS).fingerprints() if Path(data).exists() else {}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; a file that lay unchanged since it was hashed is not read again."""
    about = path.stat()
    # A file changed within the last tick of the clock may change once more without another time.
    is_old = time.time() - about.st_mtime > 2.0
    return _hash(path, about.st_size, about.st_mtime_ns, about.st_ino) if is_old else _hash.__wrapped__(path)


@lru_cache(maxsize=4096)
def _hash(path: Path, *about: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    named = str(settings_of(stage).get("data", "world"))
    where = read_record(stage / "where.json", advice="Remove it.") if (stage / "where.json").exists() else {}
    if not isinstance(was := where.get("data"), str):
        return named
    home = data_home()
    places = [*([home / Path(was).name] if home else []), Path(named), Path(was)]
    there = list(dict.fromkeys(place.absolute() for place in places if place.exists()))
    endings, known = TEXTS if stage.name in ("tokenizer", "pretrain") else RECORDS, origin_in(stage).get("data")
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


def tokenizer_hash(run: Path) -> str:
    """SHA-256 of the run's tokenizer.

    Raises:
        FileNotFoundError: the run has none.
    """
    path = run / "tokenizer" / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent}: no tokenizer.json; train a tokenizer first (fledge tokenizer)")
    return file_hash(path)


def check_tokenizer(stage: Path, tokenizer: str) -> None:
    """Raise ValueError unless the weights of a stage were trained with the tokenizer of this hash."""
    if not (whole := checkpoints(stage)):
        return
    try:
        state = read_record(whole[-1] / "state.json", advice="")
        known = state.get("made_from", {}).get("tokenizer") or summary(stage).get("tokenizer_hash")
    except (AttributeError, ValueError, OSError):
        return  # damage is named where the weights are read
    if known and known != tokenizer:
        raise ValueError(
            f"{stage.parent}: its tokenizer is not the one that {model_name(stage.name)} was trained with "
            f"({str(known)[:12]} then, {tokenizer[:12]} now). Put that back, or train {stage.name} with --fresh."
        )


def weights_hash(stage: Path, *, needed: Iterable[str] = MODEL_FILES) -> str:
    """Hash of the newest weights of a stage whose needed files are whole; with none needed, of those it says it has.

    Raises:
        FileNotFoundError, ValueError: there are none.
    """
    return str(newest(stage, needed=needed)[1]["sha256"].get("model.safetensors"))


def newest(
    stage: Path, *, needed: Iterable[str] = MODEL_FILES, check: Callable[[Path, dict[str, Any]], None] | None = None
) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint whose needed files are as they were written, and its state; damaged ones are named.

    Args:
        check: raises ValueError for one that is not to be taken.

    Raises:
        FileNotFoundError: the stage has no checkpoint.
        ValueError: none is whole.
    """
    problems: list[str] = []
    for checkpoint in reversed(written(stage)):
        try:
            state = read_state(checkpoint, needed=needed)
            if check:
                check(checkpoint, state)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        if problems:
            notice(
                f"{'; '.join(problems)}. Taken is {checkpoint.name} before it; `fledge {stage.name}` trains the rest again."
            )
        return checkpoint, state
    if problems:
        raise ValueError(
            f"{'; '.join(problems)}. No other checkpoint is left: put the files back, or start {stage.name} with --fresh."
        )
    trained = trained_stages(stage.parent)
    raise FileNotFoundError(
        f"{stage}: no checkpoint found. Stages of {stage.parent} that have one: {', '.join(trained) or 'none'}. "
        f"Train it with `fledge {stage.name} --run {stage.parent}` or choose another."
    )


def read_state(checkpoint: Path, *, needed: Iterable[str] = (*MODEL_FILES, "optimizer.safetensors")) -> dict[str, Any]:
    """state.json of a checkpoint; it and the needed files are as they were written.

    Raises:
        ValueError: a file is missing or has changed; says which.
    """
    path = checkpoint / "state.json"
    state = read_record(path, advice="It is not taken")
    kinds = {"step": int, "cursor": dict, "notes": dict, "sha256": dict}
    if wrong := [name for name, kind in kinds.items() if type(state.get(name)) is not kind]:
        raise ValueError(f"{path}: damaged, without {', '.join(wrong)} as it was written")
    if state["step"] != step_of(checkpoint):
        raise ValueError(f"{path}: damaged, says step {state['step']}")
    for name in needed:
        file = checkpoint / name
        if not file.is_file():
            raise ValueError(f"{file}: missing")
        if file_hash(file) != state["sha256"].get(name):
            raise ValueError(f"{file}: damaged, its SHA-256 is not the one written in state.json")
    return state


def broken_links(run: Path) -> Iterator[str]:
    """What in a run is no longer made from what lies there: each finished stage against its origin, in words."""
    for name in ("tokenizer", *TRAINED):
        stage = run / name
        if not is_done(stage) or not (stage / "config.json").exists() or not (was := origin_in(stage)):
            continue
        kind, settings = STAGES[name], settings_of(stage)
        plain = {each.name for each in fields(kind)} & {"start", "data", "task", "replay", "replay_tokens", "seed"}
        given = {key: settings[key] for key in plain if key in settings}
        try:
            given |= {"data": data_of(stage)} if "data" in given else {}
        except FileNotFoundError:
            continue
        now = origin_of(kind(run=str(run), **given), lenient=True)
        yield from (f"{name}: {told}" for told in differences(was, now, was.keys() & now.keys()))
