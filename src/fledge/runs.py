"""A run is a folder; each stage of it has a folder with its resolved settings, its metrics and its checkpoints.

    with open_stage(config) as stage:                  # runs/demo/pretrain: locked, config.json written or compared
        stage.log(step=12, loss_nats=2.31)             # one line of metrics.jsonl, and the live line of the terminal
        stage.finish()                                 # from now on `fledge run` skips it

Files appear whole or not at all (`write_atomic`). A stage that is started again with other settings is refused, with both
values shown, unless it is fresh.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fledge.config import STAGES, TRAINED, Stage
from fledge.settings import nearest

# Settings that may change between two starts of one stage: they change where and how fast, not what.
FREE = {"run", "device", "threads", "local", "keep", "compile", "device_tokens", "save_every"}
LOCK = "lock"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file by `content`, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A full disk does not say which file it could not take: this does."""
    try:
        yield
    except OSError as error:
        partial = path.with_name(path.name + ".partial")
        partial.unlink(missing_ok=True)
        raise OSError(
            f"{path}: could not be written ({error}). What was there before is untouched; "
            "free some space and start again, or choose another --run."
        ) from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError names the file when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def stage_name(config: Stage) -> str:
    """pretrain for a Pretrain config, and so on."""
    return next(name for name, kind in STAGES.items() if type(config) is kind)


@dataclass
class StageFolder:
    """One stage of a run on the disk. Made by `open_stage`."""

    path: Path
    name: str

    @property
    def run(self) -> Path:
        return self.path.parent

    def log(self, **values: Any) -> None:
        """Append one line to metrics.jsonl; it is on the disk when this returns, though not yet flushed through."""
        path = self.path / "metrics.jsonl"
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def rewind(self, step: int) -> None:
        """Forget metrics of steps after `step` and what was measured at it: a resumed run writes them again."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            kept = [line for line in metrics(self.path) if line.get("step", 0) < step + ("loss_nats" in line)]
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))

    def finish(self, **summary: Any) -> None:
        """Mark the stage as done and keep its summary in done.json."""
        write_atomic(self.path / "done.json", json.dumps(summary, indent=1))


def metrics(stage: Path) -> list[dict[str, Any]]:
    """All lines of a stage's metrics.jsonl; a last line that a kill cut short is left out."""
    path = stage / "metrics.jsonl"
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def is_done(stage: Path) -> bool:
    """Whether the stage ran to its end."""
    return (stage / "done.json").exists()


def summary(stage: Path) -> dict[str, Any]:
    """What the stage said when it finished; empty when it has not."""
    return read_json(stage / "done.json") if is_done(stage) else {}


@contextlib.contextmanager
def open_stage(config: Stage, *, folder: str | None = None) -> Iterator[StageFolder]:
    """The stage's folder, locked for this process.

    Raises:
        ValueError: it holds results of other settings, or another process is at work in it.
    """
    name = stage_name(config)
    path = Path(config.run) / (folder or name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(
            f"{path}: a run is a folder, but a file is in its place ({error}); move that, or use another --run"
        ) from None
    with locked(path):
        _settle_config(path, config)
        yield StageFolder(path, name)


def _settle_config(path: Path, config: Stage) -> None:
    """Write config.json, or refuse when it differs in what matters from the one there.

    One that stands alone was left by a start that failed before it made anything: a corrected setting replaces it.
    """
    file, wanted = path / "config.json", asdict(config)
    if file.exists() and {entry.name for entry in path.iterdir()} - {file.name, LOCK}:
        found = settings_of(path)
        changed = [
            f"{key} was {found.get(key)!r}, now {value!r}"
            for key, value in sorted(wanted.items())
            if key not in FREE and _differ(found.get(key), value)
        ]
        if changed:
            raise ValueError(
                f"{path}: begun with other settings: {'; '.join(changed)}. "
                "Use the same settings to go on, another --run, or --fresh to begin again."
            )
        return
    write_atomic(file, json.dumps({"settings": wanted, "provenance": provenance()}, indent=1))


def _differ(found: Any, wanted: Any) -> bool:
    """Whether a setting was changed. None and auto are no change: they stand for what is derived."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return any(_differ(found.get(key), value) for key, value in wanted.items())
    return found != wanted and not any(value in (None, "auto") for value in (found, wanted))


def settings_of(stage: Path) -> dict[str, Any]:
    """The settings that a stage was begun with, from its config.json.

    Raises:
        ValueError: the file is not as it was written.
    """
    found = read_json(stage / "config.json")
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        raise ValueError(
            f"{stage / 'config.json'}: holds no settings, somebody changed it. "
            'Put back {"settings": {...}}, or start the stage again with --fresh.'
        )
    return found["settings"]


def data_of(stage: Path) -> str:
    """The data that a stage was trained on; the embedded world where nothing says it."""
    return settings_of(stage).get("data", "world") if (stage / "config.json").exists() else "world"


def begin_again(run: Path, name: str) -> None:
    """Remove everything a stage left in the run, or an evaluation (`evaluate sft`; `evaluate`: all), or the report.

    Raises:
        ValueError: another process is at work in it.
    """
    for path in results(run, name):
        if path.is_dir() and (path / LOCK).exists():
            with locked(path):
                _empty(path)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    """Remove all but the lock, which this process holds."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def results(run: Path, name: str) -> list[Path]:
    """The files and folders that hold what a stage, an evaluation or the report leaves in the run."""
    kind, _, stage = name.partition(" ")
    if kind == "report":
        return [*(run / f"report.{ending}" for ending in ("json", "md", "html")), run / "plots"]
    if kind == "evaluate":
        return [run / "eval" / f"{trained}.json" for trained in ([stage] if stage else TRAINED)]
    return [run / name]


def has_result(run: Path, name: str) -> bool:
    """Whether a stage was finished, an evaluation begun, or the report written."""
    first = results(run, name)[0]
    return is_done(first) if name in TRAINED or name == "tokenizer" else first.exists()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the folder for this process. The system ends the hold with the process, however that dies.

    Raises:
        ValueError: another process holds it.
    """
    with (path / LOCK).open("a+", encoding="utf-8") as file:
        try:
            _hold(file.fileno())
        except OSError:
            file.seek(0)
            raise ValueError(
                f"{path}: process {file.read().strip() or 'unknown'} is at work here. Wait for it, or use another --run."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _hold(handle: int) -> None:
    """Lock an open file for this process, or raise OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, 1 << 20, os.SEEK_SET)  # a locked byte cannot be read there, so not one of the number's
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def provenance() -> dict[str, Any]:
    """What a number needs to be traced: version, commit, time, Python."""
    from fledge import __version__

    root = Path(__file__).resolve().parents[2]
    # Without tags --always names the commit, in full and with a mark where files differ from it.
    describe = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        commit = subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "fledge": __version__,
        "commit": commit,
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
    }


def newest_run(root: Path = Path("runs")) -> Path | None:
    """The run folder under `root` that was worked on last."""
    stages = list(root.glob("*/*/config.json"))
    return max(stages, key=lambda path: path.stat().st_mtime).parents[1] if stages else None


def checkpoints(stage: Path) -> list[Path]:
    """Whole checkpoints of a stage, oldest first."""
    # Not `step-000012.partial`: a process was killed while it wrote that one.
    found = (stage / "checkpoints").glob("step-*[0-9]/state.json")
    return sorted((path.parent for path in found), key=lambda path: int(path.name.split("-")[1]))


def trained_stages(run: Path) -> list[str]:
    """Stages of a run that have weights, in the order of training."""
    return [name for name in TRAINED if checkpoints(run / name)]


def model_name(stage: str) -> str:
    """What people call the model of a stage: base after pretraining, else as the stage."""
    return "base" if stage == "pretrain" else stage


def choose_stage(run: Path, wanted: str | None) -> str:
    """The stage asked for, or the last that has weights.

    Raises:
        FileNotFoundError: the run does not exist or holds no weights.
        ValueError: there is no such stage.
    """
    if not run.exists():
        others = sorted(str(path) for path in run.parent.glob("*") if path.is_dir())
        raise FileNotFoundError(f"{run}: no such run.{nearest(str(run), others)} `fledge run demo` makes one.")
    there = trained_stages(run)
    wanted = "pretrain" if wanted == "base" else wanted
    if wanted is not None and wanted not in TRAINED:
        raise ValueError(f"stage {wanted!r} is not one of {', '.join(TRAINED)}.{nearest(wanted, TRAINED)}")
    if not there or (wanted and wanted not in there):
        raise FileNotFoundError(
            f"{run}: no weights{f' of stage {wanted}' if wanted else ''}. Stages that have some: {', '.join(there) or 'none'}. "
            f"Train with `fledge run` or `fledge {wanted or 'pretrain'} --run {run}`."
        )
    return wanted or there[-1]
