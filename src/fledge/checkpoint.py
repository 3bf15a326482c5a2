"""Checkpoints: safetensors and JSON, whole or not at all.

    save(folder, model, optimizer, Progress(step=120, cursor=batch.cursor), keep=2)
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

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fledge import __version__, ranks
from fledge.model.transformer import ModelConfig, Transformer
from fledge.runs import checkpoints, written
from fledge.storage import file_hash, naming, partial_of, read_record, sealed
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


def save(
    stage: Path,
    model: Transformer,
    optimizer: MuonAdamW,
    progress: Progress,
    *,
    keep: int,
    kept: Weights | None = None,
) -> Path:
    """Write a checkpoint of a stage and remove all but the newest `keep`. Of several ranks, which all call it, the first writes.

    Args:
        kept: the weights that others shall load, where they are not those of `model`, with which training goes on.
    """
    state = optimizer.tensors()
    root = stage / "checkpoints"
    final = root / f"step-{progress.step:06d}"
    partial = partial_of(final)
    if not ranks.is_first():
        return final
    for left in root.glob("*.partial"):  # by a process that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    with naming(final, SafetensorError):  # safetensors reports a full disk as an error of its own
        partial.mkdir(parents=True)
        _write(partial, model, state, progress, kept)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _flush(root)
    for old in written(stage)[:-keep]:
        shutil.rmtree(old)
    return final


def remove(stage: Path, step: int) -> None:
    """Remove the checkpoint of a step, if there is one."""
    shutil.rmtree(stage / "checkpoints" / f"step-{step:06d}", ignore_errors=True)


def _write(folder: Path, model: Transformer, optimizer: Weights, progress: Progress, kept: Weights | None) -> None:
    # Contiguous copies on the CPU: safetensors wants no shared or strided storage.
    weights = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(kept or weights, folder / "model.safetensors")
    if kept:
        save_file(weights, folder / TRAINING)
    save_file({name: t.contiguous().cpu() for name, t in optimizer.items()}, folder / "optimizer.safetensors")
    (folder / "model.json").write_text(json.dumps(asdict(model.config), indent=1), encoding="utf-8")
    hashes = {path.name: file_hash(path) for path in sorted(folder.iterdir())}
    state = asdict(progress) | {"fledge": __version__, "sha256": hashes}
    (folder / "state.json").write_text(sealed(state), encoding="utf-8")
    for path in folder.iterdir():
        _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
    trained = (TRAINING,) if keeps else ()
    checkpoint, state = newest(stage, needed=(*MODEL_FILES, "optimizer.safetensors", *trained), steps=steps)
    model.load_state_dict(_tensors(checkpoint / (TRAINING if keeps else "model.safetensors")))
    optimizer.load_tensors(_tensors(checkpoint / "optimizer.safetensors"))
    for damaged in found[found.index(checkpoint) + 1 :]:
        shutil.rmtree(aside := damaged.with_name(damaged.name + ".damaged"), ignore_errors=True)
        damaged.rename(aside)
    return Progress(state["step"], state["cursor"], state["notes"])


def load_config(stage: Path) -> ModelConfig | None:
    """The shape of the newest weights of a stage's folder; None when there are none."""
    return read_config(newest(stage)[0]) if checkpoints(stage) else None


def read_config(checkpoint: Path) -> ModelConfig:
    """The shape of the model in a checkpoint, from its model.json.

    Raises:
        ValueError: it has a field that this version does not know, or lacks one; says which version wrote it.
    """
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
    model.load_state_dict(_tensors(checkpoint / "model.safetensors"))
    return model.to(device).eval()


def load_pair(run: Path, stage: str, *, device: torch.device | str = "cpu") -> tuple[Transformer, Tokenizer]:
    """The model of a stage and the tokenizer that it was trained with.

    Raises:
        FileNotFoundError, ValueError: as `load_model`; or the run has no tokenizer, or another.
    """
    tokenizer = Tokenizer.load(run / "tokenizer")
    check_tokenizer(run / stage, tokenizer)
    return load_model(run / stage, device=device), tokenizer


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as safetensors ({error})") from error
