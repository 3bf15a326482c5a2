"""The models of a run: loaded when first asked for, unloaded when memory is needed.

    run = open_run(Path("runs/demo"))                       # everything but the weights
    pool = ModelPool(run.entries, run.tokenizer, memory_bytes=8 << 30)
    async with pool.borrow("sft") as model:
        model.engine().submit(...)

A model in use is never unloaded. With several devices each model has one engine per device, and a request goes to the one
with the least to do.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any

from fledge.checkpoint import load_model, read_config
from fledge.evals.results import proposed
from fledge.infer.engine import Engine
from fledge.model.transformer import Transformer
from fledge.origin import data_of
from fledge.runs import choose_stage, model_name, trained_stages
from fledge.serve.api import ApiError
from fledge.tasks.identity import speaker
from fledge.text.tokenizer import Tokenizer
from fledge.weights import check_tokenizer, newest


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model that can be asked for."""

    name: str
    """As clients say it: base, midtrain, sft, rl."""
    context: int
    bytes: int
    """Memory of its weights, before it is loaded; the cache comes on top and is known after."""
    load: Callable[[str], Transformer]
    """device -> model; runs in a thread."""
    raw: bool = False
    """Whether it was never shown a conversation, and goes on with the plain text of one."""
    created: int = 0
    """When its weights were written, in seconds since 1970."""
    suggestions: Sequence[Sequence[str]] = ()
    """Conversations to begin with, each what the user says turn by turn: what these weights were measured to get right."""


@dataclass(frozen=True)
class Run:
    """What a run offers to talk to."""

    tokenizer: Tokenizer
    entries: list[Entry]
    """Its stages that have weights, in the order of training."""
    name: str
    """What the model calls itself."""


def open_run(path: Path, *, stage: str | None = None) -> Run:
    """Everything but the weights.

    Args:
        stage: only this one (pretrain, also called base; midtrain, sft, rl).

    Raises:
        FileNotFoundError, ValueError: there is no such run or stage, or it has no weights.
    """
    last = choose_stage(path, stage)
    tokenizer = Tokenizer.load(path / "tokenizer")
    entries = [_entry(path / name, tokenizer) for name in ([last] if stage else trained_stages(path))]
    # A model speaks as the data did that it learned to converse from, where that says who speaks.
    for folder in (path / name for name in ("sft", "midtrain", "pretrain") if (path / name / "config.json").exists()):
        with suppress(FileNotFoundError):
            if (name := speaker(data_of(folder), texts=folder.name == "pretrain")) is not None:
                return Run(tokenizer, entries, name or path.name)
    return Run(tokenizer, entries, path.name)


def _entry(folder: Path, tokenizer: Tokenizer) -> Entry:
    def load(device: str) -> Transformer:
        check_tokenizer(folder, tokenizer)  # again: the run may have been trained anew since the server began
        return load_model(folder, device=device)

    check_tokenizer(folder, tokenizer)
    checkpoint, state = newest(folder)
    config = read_config(checkpoint)
    weights, raw = (checkpoint / "model.safetensors").stat(), folder.name == "pretrain"
    scores = folder.parent / "eval" / f"{folder.name}.json"
    suggestions = proposed(scores, weights=state["sha256"]["model.safetensors"])
    return Entry(
        name=model_name(folder.name),
        context=config.context,
        bytes=weights.st_size,
        load=load,
        raw=raw,
        created=int(weights.st_mtime),
        suggestions=[] if raw else suggestions,
    )


@dataclass
class LoadedModel:
    """A model in memory."""

    entry: Entry
    engines: list[Engine]
    users: int = 0

    def engine(self) -> Engine:
        """The engine with the least to do."""
        return min(self.engines, key=lambda engine: len(engine.running) + len(engine.waiting))


@dataclass
class ModelPool:
    """All models of a run."""

    entries: Sequence[Entry]
    tokenizer: Tokenizer
    memory_bytes: int
    devices: Sequence[str] = ("cpu",)
    about: dict[str, Any] = field(default_factory=dict)
    """What /v1/models tells about every model: tools, name."""
    engine_settings: dict[str, Any] = field(default_factory=dict)
    loaded: dict[str, LoadedModel] = field(default_factory=dict)
    """Least recently used first."""
    retired: Counter[str] = field(default_factory=Counter)
    """Counts of engines that were unloaded."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def entry(self, name: str | None) -> Entry:
        """The entry of that name; None: the last stage's.

        Raises:
            ApiError: 404, there is none.
        """
        for entry in self.entries:
            if entry.name == (name or self.entries[-1].name):
                return entry
        names = ", ".join(entry.name for entry in self.entries)
        raise ApiError(f"model {short(name)} does not exist; this run has {names}", status=404, code="model_not_found")

    @asynccontextmanager
    async def borrow(self, name: str | None) -> AsyncIterator[LoadedModel]:
        """The model, loaded; it stays in memory while borrowed."""
        entry = self.entry(name)
        if entry.name not in self.loaded:
            async with self.lock:  # one model is loaded at a time; those in memory do not wait for it
                if entry.name not in self.loaded:
                    self.loaded[entry.name] = await self._load(entry)
        model = self.loaded[entry.name] = self.loaded.pop(entry.name)  # the last one used
        model.users += 1
        try:
            yield model
        finally:
            model.users -= 1

    async def _load(self, entry: Entry) -> LoadedModel:
        await self._make_room(entry.bytes * len(self.devices))
        engines = await asyncio.to_thread(
            lambda: [Engine(entry.load(place), self.tokenizer, **self.engine_settings) for place in self.devices]
        )
        await self._make_room(sum(engine.bytes for engine in engines))
        for engine in engines:
            engine.start()
        return LoadedModel(entry, engines)

    async def _make_room(self, wanted: int) -> None:
        """Unload the least recently used models that nobody uses until `wanted` bytes fit, as far as there are any."""

        def is_short() -> bool:
            return sum(engine.bytes for engine in self.engines) + wanted > self.memory_bytes

        for name, model in list(self.loaded.items()):
            if is_short() and model.users == 0:
                await self._unload(name)
        if self.loaded and is_short():
            raise ApiError("every model in memory is in use; try again later", status=503, retry_after=5)

    async def _unload(self, name: str) -> None:
        model = self.loaded.pop(name)
        for engine in model.engines:
            await asyncio.to_thread(engine.close)
            self.retired += engine.counts

    @property
    def engines(self) -> list[Engine]:
        """All engines in memory."""
        return [engine for model in self.loaded.values() for engine in model.engines]

    @property
    def counts(self) -> Counter[str]:
        """Totals over all engines there were."""
        return sum((engine.counts for engine in self.engines), Counter(self.retired))

    async def close(self) -> None:
        """Stop every engine; what it still answers ends as cancelled."""
        async with self.lock:
            for name in list(self.loaded):
                await self._unload(name)
