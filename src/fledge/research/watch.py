"""`fledge watch`: a page of this machine that shows runs as they are trained, or as they were.

    fledge watch runs/demo            # a run, a sweep, or a folder of runs

The page (static/watch.html) asks every two seconds for the state, and for curves where that says they have grown. Everything comes
from the files that training writes: nothing is written here, and no process is asked.
"""

from __future__ import annotations

import contextlib
import getpass
import math
import socket
import time
from pathlib import Path
from threading import Lock
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fledge import console
from fledge.commands import TRAINED, Watch
from fledge.config import check
from fledge.research.curves import AXES, Lines
from fledge.runs import flat, is_done
from fledge.serve.access import Access
from fledge.serve.api import ApiError
from fledge.serve.connections import Server
from fledge.serve.fields import Json
from fledge.serve.site import site
from fledge.settings import nearest, within
from fledge.storage import read_record

KIND = ": "
"""In the name of a metric that is of one kind of problem: there are hundreds, and the report shows them."""
LIVE_SECONDS = 120.0
"""A stage whose process is not of this machine trains as long as its metrics are not older than that."""
MOST_POINTS, MOST_SAMPLES = 40_000, 100
"""Of all curves of an answer together; of the samples of a run."""
SCORE = ("accuracy", "standard_error", "examples")
"""What the page shows of a grade."""
HERE = "open it as http://127.0.0.1 with its port, from elsewhere through the `ssh -L` that it said at its start"


def main(config: Watch) -> None:
    """Serve the page until interrupted."""
    check(config)
    watched = Watched(Path(config.run))
    server = Server(make_app(watched), host="127.0.0.1", port=config.port, grace_seconds=1)
    port = server.socket.getsockname()[1]
    console.say(f"{config.run}: {server.url}/")
    there = f"{getpass.getuser()}@{socket.gethostname()}"
    console.say(f"from elsewhere: ssh -N -L {port}:127.0.0.1:{port} {there}, then the same address there")
    server.run()


def make_app(watched: Watched) -> Any:
    """The page and its questions. Their handlers are no coroutines: they run in threads, as reading takes a while."""

    def state(_: Request) -> Response:
        return JSONResponse(watched.state())

    def curves(request: Request) -> Response:
        asked = dict(request.query_params)
        if (axis := asked.get("axis", AXES[0])) not in AXES:
            raise ApiError(f"axis={axis!r} is not one of {', '.join(AXES)}", param="axis")
        try:
            low, high = float(asked.get("low", -math.inf)), float(asked.get("high", math.inf))
            points = within("points", int(asked.get("points", 1000)), low=10, high=MOST_POINTS)
        except ValueError as error:
            raise ApiError(str(error)) from None
        metrics = request.query_params.getlist("metric")  # their names may hold commas
        bounds = {"points": points, "low": low, "high": high, "evenly": "evenly" in asked}
        return JSONResponse(watched.curves(metrics, axis, **bounds))

    def samples(request: Request) -> Response:
        return JSONResponse(watched.samples(request.query_params.get("run", "")))

    routes = [Route("/watch/state", state), Route("/watch/curves", curves), Route("/watch/samples", samples)]
    return site(routes, access=Access(remedy=HERE), page="watch.html")


def runs_in(path: Path) -> list[Path]:
    """The folder itself where it is a run, else the runs below it, as a sweep has them.

    Raises:
        FileNotFoundError: there is none.
    """
    if any((path / name).is_dir() for name in TRAINED):
        return [path]
    stages = (each.parent for depth in ("*/*", "*/*/*") for each in path.glob(f"{depth}/config.json"))
    if runs := sorted({stage.parent for stage in stages if stage.name in TRAINED}):
        return runs
    if (path / "tokenizer").is_dir():  # begun a moment ago
        return [path]
    others = sorted(str(each) for each in path.parent.glob("*") if each.is_dir())
    raise FileNotFoundError(f"{path}: neither a run, nor a sweep, nor a folder of runs.{nearest(str(path), others)}")


class Watched:
    """The runs of a folder, read anew at each question as far as they have grown."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, Lock()
        self.lines: dict[Path, Lines] = {}
        """By stage."""
        self.wrong: dict[Path, str] = {}
        """Why a file cannot be read."""
        runs_in(path)

    def _stages(self) -> dict[Path, list[Path]]:
        """The stages of each run that have begun, with their metrics read."""
        try:
            found = runs_in(self.path)
        except FileNotFoundError as error:  # somebody moved it
            raise ApiError(str(error), status=404) from None
        runs = {run: [run / name for name in TRAINED if (run / name).is_dir()] for run in found}
        for stage in (stage for stages in runs.values() for stage in stages):
            self.lines.setdefault(stage, Lines(stage / "metrics.jsonl")).read()
        return runs

    def state(self) -> Json:
        """Everything but the curves."""
        with self.lock:
            self.wrong.clear()
            runs = self._stages()
            sweep = self._read(self.path / "sweep.json")
            told = [self._run(run, stages) for run, stages in runs.items()]
            settings = [dict(flat(self._settings(stages[0]))) if stages else {} for stages in runs.values()]
            known = [each for each in settings if each]  # of a run that is unreadable nothing is
            differ = {name for each in known for name in each if any(each[name] != one.get(name) for one in known)}
            for path, run, each in zip(runs, told, settings, strict=True):
                run["differs"] = {name: each.get(name) for name in sorted(differ)}
                run["unreadable"] = [why for place, why in self.wrong.items() if place.is_relative_to(path)]
            return {
                "name": self.path.resolve().name,
                "version": sum(lines.version for lines in self.lines.values()),
                "runs": told,
                "metrics": [*dict.fromkeys(name for run in told for stage in run["stages"] for name in stage["last"])],
                "unreadable": self.wrong.get(self.path / "sweep.json", ""),
                "failed": [point for point in sweep.get("points", ()) if point["state"] == "failed"],
                "sentences": [f"{one['sentence']} at equal {one['at']}" for one in sweep.get("comparisons", ())],
            }

    def curves(
        self, metrics: list[str], axis: str, *, points: int, low: float, high: float, evenly: bool = False
    ) -> Json:
        """Of each metric the curves that have it; a stage begins (`start`) where the one before it ended."""
        found: Json = {name: [] for name in metrics}
        with self.lock:
            for run, stages in self._stages().items():
                start = 0.0
                share = max(10, min(points, MOST_POINTS // max(1, len(self.lines) * len(found))))
                for lines in (self.lines[stage] for stage in stages):
                    bounds = {"points": share, "low": low - start, "high": high - start, "evenly": evenly}
                    for name in found:
                        if curve := name in lines.columns and lines.curve(name, axis, **bounds):
                            of = {"run": self._name(run), "stage": lines.path.parent.name, "start": start}
                            found[name].append(of | curve)
                    start += lines.axes[axis][-1] if len(lines) else 0.0
        return found

    def samples(self, run: str) -> list[Json]:
        """What the stages of a run wrote on their way, and at the end."""
        found = []
        with self.lock:
            stages = next((stages for path, stages in self._stages().items() if self._name(path) == run), [])
            for stage in stages:
                lines, last = self.lines[stage], self._read(stage / "done.json").get("samples")
                written = [*lines.samples, *([(int(lines.axes["step"][-1]), last)] if last and len(lines) else [])]
                found += [{"stage": stage.name, "step": step, "texts": texts} for step, texts in written]
        return found[-MOST_SAMPLES:]

    def _settings(self, stage: Path) -> Json:
        return self._read(stage / "config.json").get("settings", {})

    def _read(self, path: Path) -> Json:
        """A file with its hash in it; empty where there is none, or it is not as it was written, which is told."""
        try:
            return read_record(path, advice="It is not shown.", always_sealed=True) if path.exists() else {}
        except ValueError as error:
            self.wrong[path] = str(error).replace(f"{self.path}/", "")
            return {}

    def _name(self, run: Path) -> str:
        return run.name if run == self.path else str(run.relative_to(self.path))

    def _run(self, run: Path, stages: list[Path]) -> Json:
        scores = {name: self._read(run / "eval" / f"{name}.json").get("scores") for name in TRAINED}
        rank = self._read(run / "report.json").get("rank")
        return {
            "name": self._name(run),
            "stages": [self._stage(stage) for stage in stages],
            "grades": {
                stage: {task: {name: score[name] for name in SCORE} for task, score in found.items()}
                for stage, found in scores.items()
                if found
            },
            "rank": f"{rank['title']}, {rank['points']} of 1000 points" if rank else "",
        }

    def _stage(self, stage: Path) -> Json:
        lines, settings = self.lines[stage], self._settings(stage)
        done = self._read(stage / "done.json")
        if lines.strange:
            told = f"lines left out that are not numbers with a step: {lines.strange}"
            self.wrong[lines.path] = f"{lines.path}: {told}".replace(f"{self.path}/", "")
        step, tokens, seconds = (values[-1] if values else 0.0 for values in lines.axes.values())
        recent = lines.recent()
        steps = settings.get("steps") or round((settings.get("tokens") or 0) / (settings.get("batch_tokens") or 1))
        left = (steps - step) * recent["seconds"] / max(1.0, recent["step"]) if steps and recent else None
        if settings.get("minutes"):
            left = 60 * settings["minutes"] - seconds
        state = "done" if is_done(stage) else "training" if is_training(stage) else "stopped"
        return {
            "name": stage.name,
            "state": state,
            "step": step,
            "steps": steps,
            "tokens": tokens,
            "seconds": seconds,
            "left_seconds": left if state == "training" else None,
            "tokens_per_second": recent["tokens"] / recent["seconds"] if recent.get("seconds") else None,
            "peak_memory_bytes": done.get("peak_memory_bytes") or lines.last("peak_memory_bytes"),
            "last": {name: lines.last(name) for name in lines.columns if KIND not in name},
            "samples": len(lines.samples) + ("samples" in done),
        }


def is_training(stage: Path) -> bool:
    """Whether the process that began a stage lives; of one of another machine, whether it wrote a moment ago."""
    with contextlib.suppress(OSError):
        process = (stage / "lock").read_text(encoding="utf-8")
        if process.isdecimal() and Path("/proc", process).is_dir():
            return True
    path = stage / "metrics.jsonl"
    return path.exists() and time.time() - path.stat().st_mtime < LIVE_SECONDS
