"""A run is a folder; each stage of it has a folder with its resolved settings, its metrics and its checkpoints.

    with open_stage(config) as stage:                  # runs/demo/pretrain: locked, config.json written or compared
        stage.log(step=12, loss_nats=2.31)             # one line of metrics.jsonl, and the live line of the terminal
        stage.finish()                                 # from now on `fledge run` skips it

Files appear whole or not at all (`write_atomic`). A stage that is started again with other settings, or whose origin has
changed (origin.py: data, tokenizer, weights), is refused and both are shown, unless it is fresh; then what it left is set aside
until the new one is finished. Folders that hold what fledge did not write are left alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fledge.config import STAGES, TRAINED, Stage
from fledge.console import notice
from fledge.settings import nearest

# Settings that may change between two starts of one stage: they change where and how fast, not what; and what saves a run whose
# rates were too high.
FREE = {"run", "fresh", "device", "threads", "local", "keep", "compile", "device_tokens", "save_every", "rate_share"}
PATHS = ("data", "task")
"""Settings that may be paths: what lies there is compared, not how it is called."""
LOCK = "lock"
WRITTEN = (
    "config.json",
    "where.json",
    "metrics.jsonl",
    "done.json",
    "tokenizer.json",
    "tokenizer_meta.json",
    "checkpoints",
)
"""What a stage writes into its folder. Nothing else there is ever moved or removed."""
REPORT = {
    "report.json": '"provenance":',
    "report.md": "# Report card: ",
    "report.html": "<title>Report card: ",
}
"""The files of the report, and what tells ours from others of that name."""
STEP = re.compile(r"step-(\d+)")


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
        with contextlib.suppress(OSError):
            path.with_name(path.name + ".partial").unlink(missing_ok=True)
        raise OSError(
            f"{path}: could not be written ({error}). What was there before is untouched; "
            f"{remedy(error)} and start again, or choose another --run."
        ) from error


def remedy(error: Exception) -> str:
    """What to do about a file that could not be written."""
    kind = getattr(error, "errno", None)
    if kind in (errno.ENOENT, errno.ENOTDIR):
        return "the folder was removed or moved meanwhile: put it back"
    if kind in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "allow writing there"
    return "free some space"


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError names the file when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def sealed(record: Mapping[str, Any]) -> str:
    """JSON of a record with its own hash in it, so that damage is noticed when it is read."""
    whole = json.loads(json.dumps(record))  # as it will be read: tuples are lists
    return json.dumps({**whole, "seal": _seal(whole)}, indent=1)


def _seal(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read_record(path: Path, *, advice: str) -> dict[str, Any]:
    """The JSON object in a file that `sealed` wrote, or fledge before there were seals.

    Raises:
        ValueError: the file holds something else; `advice` says what to do.
    """
    try:
        found = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}. {advice}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). {advice}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {type(found).__name__} found, but one object {{...}} was written. {advice}")
    seal = found.pop("seal", None)
    if seal not in (None, _seal(found)):
        raise ValueError(f"{path}: damaged or edited, what it says does not give the hash in it. {advice}")
    return found


def stage_name(config: Stage) -> str:
    """pretrain for a Pretrain config, and so on."""
    return next(name for name, kind in STAGES.items() if type(config) is kind)


@dataclass
class StageFolder:
    """One stage of a run on the disk. Made by `open_stage`."""

    path: Path
    name: str
    made_from: dict[str, str] = field(default_factory=dict)
    """Hashes of the tokenizer, and of settings and origin, that the stage was begun with: its checkpoints carry them."""

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
        """Mark the stage as done and keep its summary in done.json. What it replaces goes now."""
        write_atomic(self.path / "done.json", sealed(summary))
        for place in _replaced(self.path):
            _remove(place)
        with contextlib.suppress(OSError):  # there is none, or somebody put something there
            (self.path / "replaced").rmdir()


def metrics(stage: Path) -> list[dict[str, Any]]:
    """All lines of a stage's metrics.jsonl. A last line that a kill cut short is left out; of others that is said."""
    path = stage / "metrics.jsonl"
    lines, strange = [], []
    text = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(text, 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        # A true step is no number either, though Python counts it as one.
        if isinstance(found, dict) and type(found.get("step", 0)) is int:
            lines.append(found)
        elif number < len(text) or found is not None:
            strange.append(str(number))
    if strange:
        notice(
            f"{path}: left out, not one object with a step: line {', '.join(strange[:5])}; somebody changed the file"
        )
    return lines


def is_done(stage: Path) -> bool:
    """Whether the stage ran to its end."""
    return (stage / "done.json").exists()


def summary(stage: Path) -> dict[str, Any]:
    """What the stage said when it finished; empty when it has not."""
    if not is_done(stage):
        return {}
    path, advice = stage / "done.json", "Remove it and start the stage again: it finishes once more."
    found = read_record(path, advice=advice)
    if not isinstance(found.get("total_seconds", 0.0), int | float):
        raise ValueError(f"{path}: total_seconds is no number. {advice}")
    return found


@contextlib.contextmanager
def open_stage(config: Stage, origin: Mapping[str, Any] | None = None) -> Iterator[StageFolder]:
    """The stage's folder, locked for this process; with `fresh` what it left before is set aside.

    Args:
        origin: what the stage is made from (origin.py), as JSON; what either side does not know is not compared.

    Raises:
        ValueError: it holds results of other settings or another origin, or what fledge did not write, or another process is
            at work in it. Nothing has changed then.
    """
    run, name = Path(config.run), stage_name(config)
    path = run / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(
            f"{path}: a run is a folder, but a file is in its place ({error}); move that, or use another --run"
        ) from None
    with _all_locked(run, [name]):
        if getattr(config, "fresh", False):
            _set_aside(path)
        yield StageFolder(path, name, _settle_config(path, config, origin or {}))


def _settle_config(path: Path, config: Stage, origin: Mapping[str, Any]) -> dict[str, str]:
    """Write config.json, or refuse when it differs in what matters from the one there; returns what checkpoints say of it.

    One that stands alone was left by a start that failed before it made anything: a corrected setting replaces it.
    """
    file = path / "config.json"
    left = {entry.name for entry in path.iterdir()} & {*WRITTEN} - {"config.json", "where.json"}
    if left and not file.exists():
        raise ValueError(
            f"{file}: missing beside {', '.join(sorted(left))}, so nobody knows their settings. "
            "Put it back, or start the stage again with --fresh."
        )
    if not left:
        settings = {
            name: _portable(name, value) for name, value in asdict(config).items() if name not in ("run", "fresh")
        }
        here = {name: str(Path(value).absolute()) for name in PATHS if _is_path(value := getattr(config, name, ""))}
        # Apart from the settings, so that what is published of a run names no folder of this machine.
        write_atomic(path / "where.json", json.dumps(here, indent=1))
        write_atomic(file, sealed({"settings": settings, "origin": origin, "provenance": provenance()}))
    elif changes := changes_of(path, config, origin):
        raise ValueError(f"{path}: {changes}")
    found = read_record(file, advice="Start the stage again with --fresh.")
    if left and not is_done(path) and (code := _other_code(found.get("provenance"))):
        notice(f"{path}: {code}")
    if not (origin := origin_in(path)):  # begun before origins were kept
        return {}
    whole = hashlib.sha256(json.dumps([found["settings"], origin], sort_keys=True).encode()).hexdigest()
    return {"stage": whole, **{name: origin[name] for name in ("tokenizer",) if name in origin}}


def _portable(name: str, value: Any) -> Any:
    """A setting as config.json has it: of an absolute path the name alone."""
    return Path(value).name if name in PATHS and isinstance(value, str) and Path(value).is_absolute() else value


def _is_path(value: str) -> bool:
    return bool(value) and Path(value).exists()


def _other_code(then: Any) -> str:
    """In words that a stage goes on with other code than it was begun with; empty where it is the same."""
    now = provenance()
    if not isinstance(then, dict) or then.get("code") in (None, now["code"]):
        return ""
    return f"begun by other code (fledge {then.get('fledge')}, {str(then.get('commit'))[:12]}); goes on with this one"


def changes_of(path: Path, config: Stage, origin: Mapping[str, Any]) -> str:
    """What was changed since a stage was begun, and what to do; empty where nothing was.

    Raises:
        ValueError: config.json is not as it was written.
    """
    found, was = settings_of(path), origin_in(path)
    both = was.keys() & origin.keys()
    settings = [
        f"{key} was {found.get(key)!r}, now {value!r}"
        for key, value in sorted(asdict(config).items())
        if key not in FREE
        and _differ(_portable(key, found.get(key)), _portable(key, value))
        # The same files are the same data, however the path is written; where their name is the same too, see below.
        and not (
            key in PATHS and key in both and (_alike(found.get(key), value) or not differences(was, origin, {key}))
        )
    ]
    changed = differences(was, origin, both)
    # Steps follow from the data; data of another name, or generated from another seed, are another setting.
    if settings and not (changed and not any(told.startswith((*PATHS, "seed")) for told in settings)):
        return (
            f"begun with other settings: {'; '.join(settings)}. "
            "Use the same settings to go on, another --run, or --fresh to begin again."
        )
    if changed:
        if is_done(path):
            return f"finished; since then {'; '.join(changed)}. --fresh trains it again; put that back to keep it."
        steps = f" (step {step_of(whole[-1])})" if (whole := checkpoints(path)) else ""
        return f"begun{steps}; since then {'; '.join(changed)}. Put that back to go on, or begin again with --fresh."
    return ""


def _alike(one: Any, other: Any) -> bool:
    return Path(str(one)).resolve().name == Path(str(other)).resolve().name


def differences(was: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """What differs between two origins, in words.

    differences({"data": {"a.txt": "5 bytes, 1f"}}, {"data": {"a.txt": "5 bytes, 2e"}}, ["data"])   # ["data: a.txt changed"]
    """
    found = []
    for name in sorted(names):
        one, two = was[name], now[name]
        if not (isinstance(one, dict) and isinstance(two, dict)):
            if one != two:
                found.append(f"the {name} changed ({str(one)[:12]} then, {str(two)[:12]} now)")
            continue
        if len(one) == len(two) == 1 and [*one.values()] == [*two.values()]:
            continue  # a single file may be called otherwise
        told = [f"{file} changed" for file in one.keys() & two.keys() if one[file] != two[file]]
        told += [f"{file} is new" for file in two.keys() - one.keys()]
        told += [f"{file} is gone" for file in one.keys() - two.keys()]
        if told:
            more = f" and {len(told) - 5} more" if len(told) > 5 else ""
            found.append(f"{name}: {', '.join(sorted(told)[:5])}{more}")
    return found


def _differ(found: Any, wanted: Any) -> bool:
    """Whether a setting was changed. None and auto are no change: they stand for what is derived."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return any(_differ(found.get(key), value) for key, value in wanted.items() if key not in FREE)
    return found != wanted and not any(value in (None, "auto") for value in (found, wanted))


def settings_of(stage: Path) -> dict[str, Any]:
    """The settings that a stage was begun with, from its config.json.

    Raises:
        ValueError: the file is not as it was written.
    """
    path = stage / "config.json"
    advice = 'Put back {"settings": {...}}, or start the stage again with --fresh.'
    found = read_record(path, advice=advice).get("settings")
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds no settings, somebody changed it. {advice}")
    return found


def origin_in(stage: Path) -> dict[str, Any]:
    """What a stage was made from, from its config.json; empty where it was begun before that was kept."""
    found = read_record(stage / "config.json", advice="Start the stage again with --fresh.").get("origin", {})
    return found if isinstance(found, dict) else {}


def begin_again(run: Path, names: Iterable[str]) -> None:
    """Set aside everything that stages left in the run, each until its new one is finished.

    Raises:
        ValueError: another process is at work in one of them, or one holds what fledge did not write. Nothing was touched.
    """
    there = [name for name in names if (run / name).is_dir()]
    with _all_locked(run, there):
        for name in there:
            _set_aside(run / name)


@contextlib.contextmanager
def _all_locked(run: Path, names: list[str]) -> Iterator[None]:
    """Hold stages of a run. Who holds the tokenizer holds all: nothing trains, or is measured, while it is replaced."""
    others = [name for name in (*TRAINED, "eval") if (run / name).is_dir()] if "tokenizer" in names else []
    check_ours(run, names)
    with contextlib.ExitStack() as stack:
        for name in dict.fromkeys([*names, *others]):
            stack.enter_context(locked(run / name))
        yield


def check_ours(run: Path, names: Iterable[str]) -> None:
    """Raise ValueError where a stage's folder, or a file of the report, is there and fledge did not write it."""
    for path in (run / name for name in names):
        strange = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
        if not _is_ours(path, strange):
            raise ValueError(
                f"{path}: holds {', '.join(strange[:3]) or 'other text'}, but nothing that says fledge wrote it. "
                "Move it away, or choose another folder for the run."
            )


def _is_ours(path: Path, names: list[str]) -> bool:
    """Whether a folder is empty or has one of the marks of a stage, or a file that of the report."""
    if path.is_file():
        return path.name not in REPORT or REPORT[path.name] in path.read_text(encoding="utf-8", errors="replace")
    with contextlib.suppress(ValueError, OSError):
        if settings_of(path):
            return True
    with contextlib.suppress(OSError):  # settings that cannot be read: the lock holds the number of a process of ours
        if (path / LOCK).read_text(encoding="utf-8", errors="replace").isdecimal():
            return True
    marks = (path / "tokenizer_meta.json").is_file() or (path / "replaced").is_dir() or checkpoints(path)
    begun = {LOCK, "where.json", "checkpoints"}  # killed before its settings were written
    return bool(marks) or all(name in begun or name.endswith(".partial") for name in names)


def _set_aside(path: Path) -> None:
    """Move what a stage left into its `replaced` folder; what holds nothing to go back to is removed."""
    if is_done(path) or checkpoints(path):
        taken = [int(place.name) for place in _replaced(path)]
        place = path / "replaced" / str(max(taken, default=0) + 1)
        place.mkdir(parents=True)
        for name in WRITTEN:
            if os.path.lexists(path / name):
                (path / name).rename(place / name)
        notice(f"{path}: what was there stays in {place} until the new one is finished")
    else:
        _remove(path)


def _replaced(path: Path) -> list[Path]:
    return [place for place in (path / "replaced").glob("*") if place.name.isdecimal()]


def _remove(folder: Path) -> None:
    """Remove what a stage wrote, and the folder where nothing else is in it. Links are removed, not what they lead to."""
    for path in (entry for name in WRITTEN for entry in (folder / name, folder / f"{name}.partial")):
        if path.is_dir() and not path.is_symlink():
            for each in path.iterdir():
                if STEP.match(each.name):
                    shutil.rmtree(each)
            with contextlib.suppress(OSError):
                path.rmdir()
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def has_result(run: Path, name: str) -> bool:
    """Whether a stage was finished, an evaluation begun (`evaluate sft`), or the report written."""
    kind, _, stage = name.partition(" ")
    if kind == "report":
        return (run / "report.json").exists()
    return (run / "eval" / f"{stage}.json").exists() if kind == "evaluate" else is_done(run / name)


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
    """What a number needs to be traced: version, commit, hash of the code, time, Python."""
    from fledge import __version__

    return {
        "fledge": __version__,
        "commit": commit(),
        "code": code_hash(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
    }


@cache
def commit() -> str:
    """The commit of our code, marked where files differ from it; our version where git knows nothing of them.

    An installed package may lie in a work tree of somebody else's: what is not among the files of a tree is not described by it.
    """
    from fledge import __version__

    folder = Path(__file__).resolve().parent
    # Without optional locks: looking must not keep the user from a commit at the same moment.
    git = ["git", "--no-optional-locks", "-C", str(folder)]
    # Without tags --always names the commit, in full and with a mark.
    describe = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    # Within a hook these name the repository of the user.
    apart = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    settings: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "env": apart}
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], **settings)
        return subprocess.run([*git, *describe], **settings).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"fledge {__version__}"


@cache
def code_hash() -> str:
    """Hash of the package's own source, wherever it is installed."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def newest_run(root: Path = Path("runs")) -> Path | None:
    """The run folder under `root` that was worked on last."""
    stages = list(root.glob("*/*/config.json"))
    return max(stages, key=lambda path: path.stat().st_mtime).parents[1] if stages else None


def checkpoints(stage: Path) -> list[Path]:
    """Whole checkpoints of a stage, oldest first."""
    return [path for path in written(stage) if (path / "state.json").exists()]


def written(stage: Path) -> list[Path]:
    """Folders that were whole checkpoints once, oldest first."""
    # Not `step-000012.partial`: a process was killed while it wrote that one. Nor one that was found damaged.
    found = (path for path in (stage / "checkpoints").glob("step-*") if STEP.fullmatch(path.name) and path.is_dir())
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """step-000120 -> 120."""
    return int(checkpoint.name.removeprefix("step-"))


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
