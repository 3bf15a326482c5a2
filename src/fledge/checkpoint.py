"""Checkpoints: safetensors and JSON, whole or not at all.

    write = copied(folder, model, optimizer, Progress(step=120, cursor=batch.cursor), keep=2)
    write()                                                # at once, or in a thread while training goes on
    progress = resume(folder, model, optimizer)            # None when there is nothing to resume
    model = load_model(Path("runs/demo/sft"))              # the newest weights of a stage
    model, tokenizer = load_pair(Path("runs/demo"), "sft")

A checkpoint is a folder `checkpoints/step-000120` with model.safetensors, optimizer.safetensors, model.json and state.json. Where
a stage may keep other weights than its newest, the newest are in training.safetensors, and model.safetensors has those it keeps.
It is written under another name, flushed to the disk and renamed, so that a killed process leaves the last one or the next
one, never half of one. state.json holds the hash of each file and of itself: damage is noticed when loading, not when training
goes wrong, and the checkpoint before is taken (weights.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fledge import __version__, ranks
from fledge.model.transformer import ModelConfig, Transformer
from fledge.runs import checkpoints, written
from fledge.storage import naming, partial_of, read_record, sealed
from fledge.text.tokenizer import Tokenizer
from fledge.train.optim import MuonAdamW
from fledge.weights import MODEL_FILES, check_tokenizer, newest

Weights = dict[str, Tensor]
"""As of `state_dict`, on the CPU and contiguous."""
TRAINING = "training.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where training stands: `step` optimizer steps are done and the data continues at `cursor`."""

    step: int
    cursor: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """What a stage wants back, such as the seconds spent so far."""
    made_from: dict[str, str] = field(default_factory=dict)
    """As its stage's folder says: what a checkpoint of another training differs in."""


def copied(
    stage: Path,
    model: Transformer,
    optimizer: MuonAdamW,
    progress: Progress,
    *,
    keep: int,
    kept: Weights | None = None,
) -> Callable[[], Path]:
    """Copy what a checkpoint of a stage holds. What is returned writes it, in any thread, while training moves the originals, and
    removes all but the newest `keep`. Of several ranks, which all call both, the first writes.

    Args:
        kept: the weights that others shall load, where they are not those of `model`, with which training goes on.
    """
    state, parts = optimizer.tensors(), weights_of(model)
    final = stage / "checkpoints" / f"step-{progress.step:06d}"
    if not ranks.is_first():
        return lambda: final
    weights = copy_of(parts)
    files = {
        "model.safetensors": _parts(kept or weights),
        "optimizer.safetensors": _parts(copy_of(state)),
        "model.json": [json.dumps(asdict(model.config), indent=1).encode()],
    }
    if kept:
        files[TRAINING] = _parts(weights)
    return partial(_write, final, files, asdict(progress), keep)


def weights_of(model: Transformer) -> Weights:
    """Its weights, whole: of shards, which all ranks put together, on the first rank alone."""
    if not model.whole:
        return model.state_dict()
    from fledge.train.sharded import whole_weights

    return whole_weights(model)


def copy_of(tensors: Weights) -> Weights:
    """In memory of its own, whatever becomes of the originals."""
    layout = torch.contiguous_format
    return {name: each.detach().to("cpu", copy=True, memory_format=layout) for name, each in tensors.items()}


def _write(final: Path, files: Mapping[str, Iterable[Any]], progress: dict[str, Any], keep: int) -> Path:
    root, folder = final.parent, partial_of(final)
    for left in root.glob("*.partial"):  # by a process that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    with naming(final):
        folder.mkdir(parents=True)
        hashes = {name: _write_hashed(folder / name, parts) for name, parts in files.items()}
        state = progress | {"fledge": __version__, "sha256": hashes}
        _write_hashed(folder / "state.json", [sealed(state).encode()])
        _flush(folder)
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    _flush(root)
    for old in written(root.parent)[:-keep]:
        shutil.rmtree(old)
    return final


def _parts(tensors: Weights) -> Iterator[Any]:
    """What a file of safetensors is made of, all float32: as the library writes it, whose file would be read again for its hash.

    Source: github.com/huggingface/safetensors, "Format".
    """
    ordered = sorted(tensors.items())
    ends = list(accumulate((each.nbytes for _, each in ordered), initial=0))
    places = zip(ordered, pairwise(ends), strict=True)
    table = {name: {"dtype": "F32", "shape": [*each.shape], "data_offsets": place} for (name, each), place in places}
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    yield from (each.flatten().numpy() for _, each in ordered)


def _write_hashed(path: Path, parts: Iterable[Any]) -> str:
    """Write a file, flushed through to the disk, and return the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in parts:  # both leave Python to other threads meanwhile
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _flush(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open folders
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(stage: Path, step: int) -> None:
    """Remove the checkpoint of a step, if there is one."""
    shutil.rmtree(stage / "checkpoints" / f"step-{step:06d}", ignore_errors=True)


def resume(
    stage: Path, model: Transformer, optimizer: MuonAdamW, *, steps: int | None = None, keeps: bool = False
) -> Progress | None:
    """Load the newest checkpoint that is whole into model and optimizer; None when there is none.

    Those passed over are renamed to `step-000120.damaged`: they count no longer, and nothing is lost.

    Args:
        steps: of the whole stage; a checkpoint beyond is of another training.
        keeps: the stage was saved with `kept`.

    Raises:
        ValueError: there are checkpoints, and none is whole.
    """
    if not (found := written(stage)):
        return None
    keeps = keeps and any((one / TRAINING).exists() for one in found)  # a version before kept no others of this stage
    trained = (TRAINING,) if keeps else ()
    checkpoint, state = newest(stage, needed=(*MODEL_FILES, "optimizer.safetensors", *trained), steps=steps)
    weights = read_tensors(checkpoint / (TRAINING if keeps else "model.safetensors"))
    if model.whole:
        from fledge.train.sharded import load

        load(model, weights)
    else:
        model.load_state_dict(weights)
    optimizer.load_tensors(read_tensors(checkpoint / "optimizer.safetensors"))
    for damaged in found[found.index(checkpoint) + 1 :]:
        shutil.rmtree(aside := damaged.with_name(damaged.name + ".damaged"), ignore_errors=True)
        damaged.rename(aside)
    return Progress(state["step"], state["cursor"], state["notes"])


def load_config(stage: Path) -> ModelConfig | None:
    """The shape of the newest weights of a stage's folder; None when there are none."""
    return read_config(newest(stage)[0]) if checkpoints(stage) else None


def read_config(checkpoint: Path) -> ModelConfig:
    """The shape of the model in a checkpoint. Where this version has other fields, a ValueError says which one wrote it."""
    path = checkpoint / "model.json"
    found = read_record(path, advice=f"Delete {checkpoint}, or start the stage again with --fresh.")
    try:
        return ModelConfig(**found)
    except TypeError as error:  # Python names the field
        # Checkpoints did not say their version before 0.1.0 was out.
        writer = read_record(checkpoint / "state.json", advice="It is damaged").get("fledge", "before 0.1.0")
        raise ValueError(
            f"{path}: written by fledge {writer}; this is {__version__}, which reads other fields ({error}). "
            "Open the run with the code that trained it, or start the stage again with --fresh."
        ) from None


def load_model(stage: Path, *, device: torch.device | str = "cpu") -> Transformer:
    """The newest weights of a stage's folder that are whole, float32, in evaluation mode.

    Raises:
        FileNotFoundError: the stage has no checkpoint.
        ValueError: none is whole.
    """
    checkpoint, _ = newest(stage)
    model = Transformer(read_config(checkpoint))
    model.load_state_dict(read_tensors(checkpoint / "model.safetensors"))
    return model.to(device).eval()


def load_pair(run: Path, stage: str, *, device: torch.device | str = "cpu") -> tuple[Transformer, Tokenizer]:
    """The model of a stage and the tokenizer that it was trained with; raises as `load_model`, or for another tokenizer."""
    tokenizer = Tokenizer.load(run / "tokenizer")
    check_tokenizer(run / stage, tokenizer)
    return load_model(run / stage, device=device), tokenizer


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises ValueError where it is no safetensors."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as safetensors ({error})") from error
