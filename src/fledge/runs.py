"""What lies in a run: a folder, and in it one of each stage with its settings, its metrics and its checkpoints.

    trained_stages(run), checkpoints(run / "sft")[-1]
    begun(run / "sft")["settings"]["tokens"], summary(run / "sft")["steps"]
    changes(begun(run / "sft"), now)                   # ["tokens changed (1000 then, 2000 now)"]

Nothing here writes; folder.py does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fledge.commands import TRAINED
from fledge.config import Stage
from fledge.console import notice
from fledge.settings import nearest, with_paths
from fledge.storage import json_hash, read_record

# Settings that may change between two starts of one stage: they change where and how fast, not what; and what saves a run whose
# rates were too high.
FREE = {
    "run",
    "fresh",
    "ranks",
    "log",
    "device",
    "threads",
    "keep",
    "compile",
    "device_tokens",
    "recompute",
    "shard",
    "save_every",
    "rate_share",
}
PATHS = ("data", "task")
"""Settings that may be paths: what lies there is compared, not how it is called."""
UNREAD = "hub"
"""Stands in an origin where others have a hash: what was meant is known by name alone."""
STEP = re.compile(r"step-(\d+)")


def stage_name(config: Stage) -> str:
    """pretrain for a Pretrain config, and so on."""
    return type(config).__name__.lower()


def model_name(stage: str) -> str:
    """What people call the model of a stage: base after pretraining, else as the stage."""
    return "base" if stage == "pretrain" else stage


def newest_run(root: Path = Path("runs")) -> Path | None:
    """The run folder under `root` that was worked on last."""
    stages = list(root.glob("*/*/config.json"))
    return max(stages, key=lambda path: path.stat().st_mtime).parents[1] if stages else None


# What a stage was begun with


def begun(stage: Path) -> dict[str, Any]:
    """`settings`, `origin` (origin.py; empty in runs of before it was kept) and `provenance`, from the config.json of a stage.

    Raises:
        ValueError: the file is not as it was written.
    """
    path = stage / "config.json"
    advice = "Put it back as it was, or start the stage again with --fresh."
    found = {"origin": {}, "provenance": {}} | read_record(path, advice=advice)
    lost = [name for name in ("settings", "origin", "provenance") if not isinstance(found.get(name), dict)]
    if lost:
        raise ValueError(f"{path}: holds no {', '.join(lost)}, somebody changed it. {advice}")
    return found


def made_from(stage: Path) -> dict[str, str]:
    """Hashes of the tokenizer, and of settings and origin, that a stage was begun with: its checkpoints carry them.

    Empty where it was begun before origins were kept. Raises as `begun` does.
    """
    found = begun(stage)
    kept = found["origin"]
    return {"stage": json_hash([found["settings"], kept]), "tokenizer": kept.get("tokenizer", "")} if kept else {}


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two of what `begun` gives, in words.

    Where the origins say what lies behind a setting, that is compared, and not how it is called. What either side does not
    know, or leaves to be derived (None, auto), is not compared.
    """
    both = was["origin"].keys() & now["origin"].keys()
    found = [told for name in sorted(both) if (told := _changed(name, was["origin"][name], now["origin"][name]))]
    before = dict(flat(was["settings"]))
    for name, value in sorted(flat(now["settings"])):
        old = before.get(name)
        is_derived = any(each in (None, "auto") for each in (old, value))
        if old != value and name not in both and not is_derived:
            found.append(f"{name} changed ({old!r} then, {value!r} now)")
    return found


def flat(settings: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    """Those that make a difference, with dotted names for settings within settings."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{under}{name}.")
        elif name not in FREE:
            yield under + name, portable(name, value)


def portable(name: str, value: Any) -> Any:
    """A setting without folders of this machine: of an absolute path the name alone."""
    if name not in PATHS or not isinstance(value, str):
        return value
    return with_paths(value, lambda path: Path(path).name if Path(path).is_absolute() else path)


def _changed(name: str, was: Any, now: Any) -> str:
    """What differs in a part of an origin, a hash or {file: hash}; empty where nothing does.

    _changed("data", {"a.txt": "5 bytes, 1f"}, {"a.txt": "5 bytes, 2e"})      # "data: a.txt changed"
    """
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return f"the {name} changed ({str(was)[:12]} then, {str(now)[:12]} now)" if was != now else ""
    if len(was) == len(now) == 1 and [*was.values()] == [*now.values()] != [UNREAD]:
        return ""  # a single file may be called otherwise
    told = [f"{file} changed" for file in was.keys() & now.keys() if was[file] != now[file]]
    told += [f"{file} is new" for file in now.keys() - was.keys()]
    told += [f"{file} is gone" for file in was.keys() - now.keys()]
    more = f" and {len(told) - 5} more" if len(told) > 5 else ""
    return f"{name}: {', '.join(sorted(told)[:5])}{more}" if told else ""


# What it has reached


def metrics(stage: Path) -> list[dict[str, Any]]:
    """All lines of a stage's metrics.jsonl. A last line that a kill cut short is left out; of others that is said."""
    path = stage / "metrics.jsonl"
    lines, strange = [], []
    read = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    text = read.splitlines()
    for number, line in enumerate(text, 1):
        if found := measured(line):
            lines.append(found)
        elif number < len(text) or read.endswith("\n"):
            strange.append(str(number))
    if strange:
        notice(
            f"{path}: left out, not one object of numbers with a step: line {', '.join(strange[:5])}; somebody changed the file"
        )
    return lines


def measured(line: str | bytes) -> dict[str, Any] | None:
    """A line of the metrics: numbers with a step, and maybe samples of texts; None where it is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    # True is an int to Python, so types are compared and not asked.
    kinds = {name: type(value) for name, value in found.items()} if isinstance(found, dict) else {}
    kinds.pop("samples", None)
    return found if kinds.get("step") is int and {*kinds.values()} <= {int, float} else None


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


def choose_stage(run: Path, wanted: str | None) -> str:
    """The stage asked for, or the last that has weights.

    Raises:
        FileNotFoundError: the run does not exist or holds no weights.
        ValueError: there is no such stage.
    """
    if not run.exists():
        others = sorted(str(path) for path in run.parent.glob("*") if path.is_dir())
        raise FileNotFoundError(f"{run}: no such run.{nearest(str(run), others)} `fledge run demo` makes one.")
    there, known = trained_stages(run), ("base", *TRAINED)
    if wanted is not None and wanted not in known:
        raise ValueError(f"stage {wanted!r} is not one of {', '.join(known)}.{nearest(wanted, known)}")
    wanted = "pretrain" if wanted == "base" else wanted
    if not there or (wanted and wanted not in there):
        raise FileNotFoundError(
            f"{run}: no weights{f' of stage {wanted}' if wanted else ''}. Stages that have some: {', '.join(there) or 'none'}. "
            f"Train with `fledge run` or `fledge {wanted or 'pretrain'} --run {run}`."
        )
    return wanted or there[-1]
