"""`fledge export`: a model of a run in the form of other programs, with where it comes from.

    main(Export(run="runs/demo", to="hf", out="exports/demo"))
    checked(Path("exports/demo"))["weights"]        # hash of the weights in the run; {} where fledge did not write the folder

fledge.json beside the files has their hashes, and settings and origin of the stage as its run has them. So the chain of hashes that
leads from a score to the text (origin.py) goes on in what was exported, and in what is imported again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fledge import console
from fledge.commands import Export
from fledge.config import check
from fledge.provenance import provenance
from fledge.runs import begun, choose_stage, summary
from fledge.storage import file_hash, partial_of, read_json, read_record, sealed, write_atomic
from fledge.weights import newest

CUSTODY = "fledge.json"
CARD = "README.md"
"""The model card may be edited."""


def main(config: Export) -> None:
    """Write a folder for transformers or a file for llama.cpp, whole or not at all."""
    check(config)
    if config.to == "gguf" and config.remote_code:
        raise ValueError("--remote-code is for --to hf: llama.cpp runs no code that comes with a model")
    if config.to == "hf" and config.weights != "float32":
        raise ValueError(f"--weights {config.weights} is for --to gguf; transformers quantizes when it loads")
    run = Path(config.run)
    stage = choose_stage(run, config.stage)
    out = Path(config.out or f"exports/{run.resolve().name}-{stage}{'.gguf' * (config.to == 'gguf')}")
    if out.exists():
        raise ValueError(f"{out}: is there already; remove it, or choose another --out")
    from fledge.export import gguf, hf
    from fledge.model.device import threads

    threads(config.threads)
    custody, partial = custody_of(run, stage), partial_of(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if config.to == "gguf":
            gguf.write(partial, run, custody, weights=config.weights)
        else:
            partial.mkdir()
            hf.write(partial, run, custody, remote_code=config.remote_code)
            files = {path.name: file_hash(path) for path in sorted(partial.iterdir()) if path.name != CARD}
            write_atomic(partial / CUSTODY, sealed({**custody, "files": files}))
        partial.rename(out)
    finally:
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
    console.say(f"{run}, {stage}{unfinished(custody)}: {out}")


def custody_of(run: Path, stage: str) -> dict[str, Any]:
    """What the run says of the newest weights of a stage."""
    checkpoint, state = newest(run / stage)
    about = {"run": run.resolve().name, "stage": stage, "step": state["step"], "exported": provenance()}
    about |= {"model": read_json(checkpoint / "model.json"), "weights": state["sha256"]["model.safetensors"]}
    kept = begun(run / stage) if (run / stage / "config.json").exists() else {}
    return about | {"begun": kept, "summary": summary(run / stage)}


def unfinished(custody: Mapping[str, Any]) -> str:
    """What is said of weights whose stage has not ended; nothing of imported ones, whose end is not known."""
    ended = custody["summary"] or custody["begun"].get("settings", {}).get("imported")
    return "" if ended else " (not finished)"


def checked(folder: Path) -> dict[str, Any]:
    """fledge.json of a folder whose files are as they were written; empty where there is none.

    Raises:
        FileNotFoundError, ValueError: there is no such folder, or a file is missing or was changed; says which.
    """
    if not folder.is_dir():
        found = "a file, not a folder" if folder.exists() else "no such folder"
        raise FileNotFoundError(f"{folder}: {found}; give one that `fledge export --to hf` or transformers wrote")
    if not (folder / CUSTODY).exists():
        return {}
    advice = "Put it back, or export the model again."
    found = read_record(folder / CUSTODY, advice=advice)
    for path, known in ((folder / Path(name).name, known) for name, known in found.get("files", {}).items()):
        if not path.is_file() or file_hash(path) != known:
            what = "damaged or edited" if path.is_file() else "missing"
            raise ValueError(f"{path}: {what}, {CUSTODY} has another SHA-256. {advice}")
    return found
