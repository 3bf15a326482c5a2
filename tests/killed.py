"""A recipe in one go and the same killed and signalled at random moments: weights, metrics, evaluations and report are equal.

    python tests/killed.py demo --kills 20 --out /tmp/killed       # takes as long as two demos and more, so it is no test

The suite does the same with the recipe of its kill tests (test_recipes.py), whose steps are few and small.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HOW = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TIMES = ("seconds", "tokens_per_second", "peak_memory_bytes", "mfu_share")
OF_ONE_RUN = (
    "run",
    "provenance",
    "stages",
    "seconds",
    "total_seconds",
    "speed",
    "curves",
    "scores",
    "subjects",
    "seal",
)
"""Parts of the report that hold times, and its hash; what is not a time in them is compared where it comes from."""


def begin(recipe: str, run: Path) -> subprocess.Popen[bytes]:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background would pass on that it ignores it
    with run.with_suffix(".log").open("ab") as log:
        words = [sys.executable, "-m", "fledge", "run", recipe, "--out", str(run)]
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)


def killed(recipe: str, run: Path, *, kills: int, seconds: float, rng: random.Random) -> int:
    """Run a recipe to its end in spite of `kills` signals over about `seconds`; how many there were."""
    count = 0
    while True:
        child = begin(recipe, run)
        end = time.monotonic() + (rng.uniform(2, 2 * seconds / kills) if count < kills else float("inf"))
        while child.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        if child.poll() == 0:
            return count
        assert child.poll() is None, run.with_suffix(".log").read_text()[-2000:]
        child.send_signal(rng.choice(HOW))
        child.wait()
        count += 1


def outcome(run: Path) -> dict[str, Any]:
    """What a run has made, by file, without times: of each stage the last checkpoint, since others are kept by the clock."""
    found: dict[str, Any] = {}
    for stage in sorted(path for path in run.iterdir() if (path / "checkpoints").is_dir()):
        for path in max((stage / "checkpoints").iterdir()).glob("*.safetensors"):
            found[f"{stage.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        lines = map(json.loads, (stage / "metrics.jsonl").read_text().splitlines())
        found[f"{stage.name}/metrics"] = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    for path in sorted((run / "eval").glob("*.jsonl")):
        found[path.name] = path.read_text()
    for path in sorted((run / "eval").glob("*.json")):
        scores = json.loads(path.read_text())["scores"]
        found[path.name] = {task: {k: v for k, v in score.items() if k != "seconds"} for task, score in scores.items()}
    report = json.loads((run / "report.json").read_text())
    return found | {"report": {name: part for name, part in report.items() if name not in OF_ONE_RUN}}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("recipe")
    ask.add_argument("--kills", type=int, default=20)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--out", type=Path, required=True)
    given = ask.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    straight, often = given.out / "straight", given.out / "killed"
    began = time.monotonic()
    assert begin(given.recipe, straight).wait() == 0
    seconds = time.monotonic() - began
    count = killed(given.recipe, often, kills=given.kills, seconds=seconds, rng=random.Random(given.seed))
    one, other = outcome(straight), outcome(often)
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    print(f"{given.recipe}: {count} kills and signals; {len(one)} outcomes compared, {len(differ)} differ: {differ}")


if __name__ == "__main__":
    main()
