"""Checkpoints: safetensors and JSON, whole or not at all.

    save(folder, model, optimizer, Progress(step=120, cursor=batch.cursor), keep=2)
    progress = resume(folder, model, optimizer)            # None when there is nothing to resume
    model = load_model(Path("runs/demo/sft"))              # the newest weights of a stage

A checkpoint is a folder `checkpoints/step-000120` with model.safetensors, optimizer.safetensors, model.json and state.json.
It is written under another name, flushed to the disk and renamed, so that a killed process leaves the last one or the next
one, never half of one. state.json holds the hash of each file: damage is noticed when loading, not when training goes wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fledge import __version__
from fledge.model.transformer import ModelConfig, Transformer
from fledge.runs import checkpoints, read_json, trained_stages
from fledge.train.optim import MuonAdamW

PARTIAL = ".partial"


@dataclass(frozen=True)
class Progress:
    """Where training stands: `step` optimizer steps are done and the data continues at `cursor`."""

    step: int
    cursor: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """What a stage wants back, such as the seconds spent so far."""


def save(stage: Path, model: Transformer, optimizer: MuonAdamW | None, progress: Progress, *, keep: int) -> Path:
    """Write a checkpoint of a stage and remove all but the newest `keep`."""
    root = stage / "checkpoints"
    final = root / f"step-{progress.step:06d}"
    partial = root / f"{final.name}{PARTIAL}"
    for left in root.glob(f"*{PARTIAL}"):  # by a process that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write(partial, model, optimizer, progress)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"{final}: the checkpoint could not be written ({error}). Earlier ones are untouched; "
            "free some space or choose another --run, then start again: it goes on from the last one."
        ) from error
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _flush(root)
    for old in checkpoints(stage)[:-keep]:
        shutil.rmtree(old)
    return final


def _write(folder: Path, model: Transformer, optimizer: MuonAdamW | None, progress: Progress) -> None:
    # Contiguous copies on the CPU: safetensors wants no shared or strided storage.
    weights = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    if optimizer is not None:
        save_file(
            {name: t.contiguous().cpu() for name, t in optimizer.tensors().items()}, folder / "optimizer.safetensors"
        )
    (folder / "model.json").write_text(json.dumps(asdict(model.config), indent=1), encoding="utf-8")
    hashes = {path.name: file_hash(path) for path in sorted(folder.iterdir())}
    state = asdict(progress) | {"fledge": __version__, "sha256": hashes}
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
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


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resume(stage: Path, model: Transformer, optimizer: MuonAdamW) -> Progress | None:
    """Load the newest checkpoint into model and optimizer; None when there is none."""
    if not (found := checkpoints(stage)):
        return None
    newest = found[-1]
    state = read_state(newest)
    model.load_state_dict(_tensors(newest / "model.safetensors"))
    optimizer.load_tensors(_tensors(newest / "optimizer.safetensors"))
    return Progress(state["step"], state["cursor"], state["notes"])


def load_config(stage: Path) -> ModelConfig | None:
    """The shape of the newest weights of a stage's folder; None when there are none."""
    if not (found := checkpoints(stage)):
        return None
    return read_config(found[-1])


def read_config(checkpoint: Path) -> ModelConfig:
    """The shape of the model in a checkpoint, from its model.json.

    Raises:
        ValueError: it has a field that this version does not know, or lacks one; says which version wrote it.
    """
    path = checkpoint / "model.json"
    found = read_json(path)
    known = {each.name: each.default is MISSING for each in fields(ModelConfig)}
    unknown = [name for name in found if name not in known]
    lacking = [name for name, is_needed in known.items() if is_needed and name not in found]
    if not unknown and not lacking:
        return ModelConfig(**found)
    # Checkpoints did not say their version before 0.1.0 was out.
    writer = read_json(checkpoint / "state.json").get("fledge", "before 0.1.0")
    wrong = [f"does not know {', '.join(map(repr, unknown))}"] if unknown else []
    wrong += [f"needs {', '.join(map(repr, lacking))}"] if lacking else []
    raise ValueError(
        f"{path}: written by fledge {writer}; this is {__version__}, which {' and '.join(wrong)}. "
        "Open the run with the code that trained it, or start the stage again with --fresh."
    )


def load_model(stage: Path, *, device: torch.device | str = "cpu") -> Transformer:
    """The newest weights of a stage's folder, float32, in evaluation mode.

    Raises:
        FileNotFoundError: the stage has no checkpoint.
        ValueError: the newest checkpoint is damaged.
    """
    if not (found := checkpoints(stage)):
        trained = trained_stages(stage.parent)
        raise FileNotFoundError(
            f"{stage}: no checkpoint found. Stages of {stage.parent} that have one: {', '.join(trained) or 'none'}. "
            f"Train it with `fledge {stage.name} --run {stage.parent}` or choose another."
        )
    newest = found[-1]
    read_state(newest)
    model = Transformer(read_config(newest))
    model.load_state_dict(_tensors(newest / "model.safetensors"))
    return model.to(device).eval()


def read_state(checkpoint: Path) -> dict[str, Any]:
    """state.json of a checkpoint whose files are as they were written.

    Raises:
        ValueError: a file is missing or has changed; says which, and what to do.
    """
    advice = f"Delete {checkpoint} to go on from the checkpoint before it, or start the stage again with --fresh."
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        expected = state["sha256"]
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{checkpoint / 'state.json'}: damaged ({error}). {advice}") from error
    for name, wanted in expected.items():
        path = checkpoint / name
        if not path.exists():
            raise ValueError(f"{path}: missing. {advice}")
        if file_hash(path) != wanted:
            raise ValueError(f"{path}: damaged, its SHA-256 is not the one written in state.json. {advice}")
    return state


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as safetensors ({error})") from error
