"""The folder of a stage while it is worked in: locked, its settings written or compared, and what it replaces set aside.

    with open_stage(config, origin) as stage:          # runs/demo/pretrain
        stage.log(step=12, loss_nats=2.31)             # one line of metrics.jsonl
        stage.finish()                                 # from now on `fledge run` skips it

A stage that is started again with other settings, or whose origin has changed (origin.py: data, tokenizer, weights), is refused
and both are shown, unless it is fresh; then what it left is set aside until the new one is finished, and put back where the new
one ends before it made anything. Folders that hold what fledge did not write are left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fledge import ranks, runs
from fledge.commands import TRAINED
from fledge.config import Made, Stage
from fledge.console import notice
from fledge.provenance import changes, other_code, provenance
from fledge.settings import shares_of, with_paths
from fledge.storage import naming, partial_of, sealed, write_atomic
from fledge.trackers import Tell, tracking

LOCK = "lock"
CHANGES = "changes.diff"
"""How the code differed from its commit, where it did."""
CONFIG = ("where.json", CHANGES, "config.json")
"""What a stage writes before it makes anything."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer_meta.json")
WRITTEN = ("done.json", "checkpoints", "metrics.jsonl", *TOKENIZER, *CONFIG)
"""What it writes into its folder in all. Nothing else there is ever moved or removed, and these in this order: a stage that is
killed meanwhile goes on from whatever is left."""
REPORT = {
    "report.json": '"provenance":',
    "report.md": "# Report card: ",
    "report.html": "<title>Report card: ",
}
"""The files of the report, and what tells ours from others of that name."""


@dataclass
class StageFolder:
    """One stage of a run on the disk. Made by `open_stage`. Of several ranks the first writes."""

    path: Path
    name: str
    made_from: dict[str, str] = field(default_factory=dict)
    """As `runs.made_from` says it: its checkpoints carry it."""
    tell: Tell | None = None
    """Who else is told the metrics (trackers.py)."""

    def log(self, **values: Any) -> None:
        """Append one line to metrics.jsonl; it is on the disk when this returns, though not yet flushed through."""
        if not ranks.is_first():
            return
        path = self.path / "metrics.jsonl"
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if self.tell:
            step = values.pop("step")
            self.tell(step, {name: value for name, value in values.items() if isinstance(value, int | float)})

    def rewind(self, step: int) -> None:
        """Forget metrics of steps after `step` and what was measured at it: a resumed run writes them again."""
        path = self.path / "metrics.jsonl"
        if ranks.is_first() and path.exists():
            kept = [line for line in runs.metrics(self.path) if line.get("step", 0) < step + ("loss_nats" in line)]
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))

    def finish(self, **summary: Any) -> None:
        """Mark the stage as done and keep its summary in done.json. What it replaces goes now."""
        with ranks.first_alone():
            if not ranks.is_first():
                return
            write_atomic(self.path / "done.json", sealed(summary))
            for place in _replaced(self.path):
                _remove(place)
            with contextlib.suppress(OSError):  # there is none, or somebody put something there
                (self.path / "replaced").rmdir()


@contextlib.contextmanager
def open_stage(config: Made, origin: Mapping[str, Any] | None = None) -> Iterator[StageFolder]:
    """The stage's folder, locked for this process; with `fresh` what it left before is set aside. Rank 0 does it for all.

    Args:
        origin: what the stage is made from (origin.py), as JSON; what either side does not know is not compared.

    Raises:
        ValueError: it holds results of other settings or another origin, or what fledge did not write, or another process is
            at work in it, or ranks differ in settings or origin. Nothing has changed then.
    """
    run, name = Path(config.run), runs.stage_name(config)
    path = run / name
    settings = {name: value for name, value in asdict(config).items() if name not in runs.FREE}
    ranks.check_alike({**settings, **(origin or {})})  # a hash says more than a name
    if not ranks.is_first():
        ranks.meet()
        yield StageFolder(path, name, runs.made_from(path))
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(
            f"{path}: a run is a folder, but a file is in its place ({error}); move that, or use another --run"
        ) from None
    with _all_locked(run, [name]):
        if config.fresh:
            _set_aside(path)
        try:
            made_from = _begin(path, config, origin or {})
            begun = runs.begun(path)["provenance"].get("started", "")
            with tracking(getattr(config, "log", "no"), path, settings=settings, begun=begun) as tell:
                ranks.meet()
                yield StageFolder(path, name, made_from, tell)
        except BaseException:
            if config.fresh:
                _put_back(run, [name])
            raise


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if Path(path).exists() else path


def _begin(path: Path, config: Made, origin: Mapping[str, Any]) -> dict[str, str]:
    """Write config.json, or compare with the one there; returns what checkpoints say of it.

    One that stands alone was left by a start that failed before it made anything: a corrected setting replaces it.
    """
    left = sorted(name for name in {*WRITTEN} - {*CONFIG} if (path / name).exists())
    if not left:
        # Apart from the settings, so that what is published of a run names no folder of this machine.
        given = {name: str(getattr(config, name, "")) for name in runs.PATHS}
        where = {name: with_paths(value, _absolute) for name, value in given.items() if value}
        # What is given with its whole path is a path too, alone or in a mixture.
        where = {name: value for name, value in where.items() if any(Path(one).exists() for one in shares_of(value))}
        write_atomic(path / "where.json", json.dumps(where, indent=1))
        (path / CHANGES).unlink(missing_ok=True)
        if found := changes():
            write_atomic(path / CHANGES, found)
        write_atomic(path / "config.json", sealed(_now(config, origin) | {"provenance": provenance()}))
    elif not (path / "config.json").exists():
        raise ValueError(
            f"{path / 'config.json'}: missing beside {', '.join(left)}, so nobody knows their settings. "
            "Put it back, or start the stage again with --fresh."
        )
    check_unchanged(path, config, origin)
    if left and not runs.is_done(path) and (code := other_code(runs.begun(path)["provenance"])):
        notice(f"{path}: {code}")
    return runs.made_from(path)


def _now(config: Stage, origin: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage is begun with, as config.json has it."""
    settings = asdict(config).items()
    return {"settings": {k: runs.portable(k, v) for k, v in settings if k not in ("run", "fresh")}, "origin": origin}


def check_unchanged(path: Path, config: Stage, origin: Mapping[str, Any]) -> None:
    """Raise ValueError where a stage was begun with other settings or made from something else, or its config.json is damaged."""
    if found := runs.changes(runs.begun(path), _now(config, origin)):
        steps = f" (step {runs.step_of(whole[-1])})" if (whole := runs.checkpoints(path)) else ""
        raise ValueError(
            f"{path}: {'finished' if runs.is_done(path) else f'begun{steps}'}; since then {'; '.join(found)}. "
            f"Put that back to go on with it, use another --run, or begin again with --fresh (`fledge run`: --from {path.name})."
        )


def begin_again(run: Path, names: Iterable[str]) -> None:
    """Set aside everything that stages left in the run, each until its new one is finished.

    Raises:
        ValueError: another process is at work in one of them, or one holds what fledge did not write. Nothing was touched.
    """
    with _all_locked(run, names) as there:
        for name in there:
            _set_aside(run / name)


def put_back(run: Path, names: Iterable[str]) -> None:
    """Undo `begin_again` where it led to nothing: a mistake in the data shows only when it is read."""
    with _all_locked(run, names) as there:
        _put_back(run, there)


def _put_back(run: Path, names: Iterable[str]) -> None:
    if any(_holds_something(run / name) for name in names):
        return
    for path in (run / name for name in names):
        if there := sorted(_replaced(path), key=lambda place: int(place.name)):
            _remove(path)
            for name in reversed(WRITTEN):
                if os.path.lexists(there[-1] / name):
                    (there[-1] / name).rename(path / name)
            for folder in (there[-1], path / "replaced"):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            notice(f"{path}: nothing new was made; what was there is back")


def _holds_something(path: Path) -> bool:
    """Whether a stage left what can be gone back to."""
    return runs.is_done(path) or bool(runs.checkpoints(path))


def _set_aside(path: Path) -> None:
    """Move what a stage left into its `replaced` folder; what holds nothing to go back to is removed."""
    if not _holds_something(path):
        _remove(path)
        return
    place = path / "replaced" / str(1 + max((int(place.name) for place in _replaced(path)), default=0))
    place.mkdir(parents=True)
    for name in WRITTEN:
        if os.path.lexists(path / name):
            (path / name).rename(place / name)
    notice(f"{path}: what was there stays in {place} until the new one is finished")


def _replaced(path: Path) -> list[Path]:
    return [place for place in (path / "replaced").glob("*") if place.name.isdecimal()]


def _remove(folder: Path) -> None:
    """Remove what a stage wrote, and the folder where nothing else is in it. Links are removed, not what they lead to."""
    for path in (entry for name in WRITTEN for entry in (folder / name, partial_of(folder / name))):
        if path.is_dir() and not path.is_symlink():
            for each in path.iterdir():
                if runs.STEP.match(each.name):
                    shutil.rmtree(each)
            with contextlib.suppress(OSError):
                path.rmdir()
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


# Whose it is


def check_ours(run: Path, names: Iterable[str]) -> None:
    """Raise ValueError where a stage's folder, or a file of the report, is there and fledge did not write it."""
    for path in (run / name for name in names):
        # Killed right after it was set aside, a stage has nothing but what it had before.
        if path.exists() and not _is_ours(path) and not any(map(_is_ours, _replaced(path))):
            what = ", ".join(sorted(entry.name for entry in path.iterdir())[:3]) if path.is_dir() else "other text"
            raise ValueError(
                f"{path}: holds {what}, but nothing that says fledge wrote it. "
                "Move it away, or choose another folder for the run."
            )


def _is_ours(path: Path) -> bool:
    """A report has its mark. A stage's folder has a lock with the number of a process or, copied without it, settings."""
    if path.is_file():
        return REPORT.get(path.name, "") in path.read_text(encoding="utf-8", errors="replace")
    with contextlib.suppress(ValueError, OSError):
        if runs.begun(path)["settings"]:
            return True
    with contextlib.suppress(OSError):
        if (path / LOCK).read_text(encoding="utf-8", errors="replace").isdecimal():
            return True
    return all(entry.name == LOCK for entry in path.iterdir())


@contextlib.contextmanager
def _all_locked(run: Path, names: Iterable[str]) -> Iterator[list[str]]:
    """Hold those stages of a run that are there. Who holds the tokenizer holds all: nothing trains, or is measured, meanwhile."""
    there = [name for name in names if (run / name).is_dir()]
    others = [name for name in (*TRAINED, "eval") if (run / name).is_dir()] if "tokenizer" in there else []
    check_ours(run, there)
    with contextlib.ExitStack() as stack:
        for name in dict.fromkeys([*there, *others]):
            stack.enter_context(locked(run / name))
        yield there


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the folder for this process, with which the hold ends, however it dies; ValueError where another holds it."""
    with naming(path / LOCK):  # the opening alone: errors within are not of this file
        file = (path / LOCK).open("a+", encoding="utf-8")
    with file:
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
