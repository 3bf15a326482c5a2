"""Whatever happens to a file of a run: one sentence that names it or the result as if nothing had happened, and nothing lost.

DAMAGED_FOLDERS=500 pytest tests/test_damage.py   # as many folders as that
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from fledge import cli
from fledge.commands import TRAINED

FOLDERS = int(os.environ.get("DAMAGED_FOLDERS", "20"))
STRANGE = [None, True, -1, 1e308, "", "x", [], {}, [1], {"a": 1}, "\0", 10**30]


def changed_json(value: Any, rng: random.Random) -> Any:
    """With one value of it, however deep, gone or another."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.2:
        return rng.choice(STRANGE)
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if rng.random() < 0.2:
        del value[key]
    else:
        value[key] = changed_json(value[key], rng)
    return value


def damage(path: Path, other: Path, rng: random.Random) -> None:
    """Cut, flip, overwrite, remove or exchange a file, or change a value of its JSON."""
    raw, at = path.read_bytes(), rng.randrange(path.stat().st_size)
    path.unlink()
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.5:
        lines = raw.decode().splitlines() if path.suffix == ".jsonl" else [raw.decode()]
        line = rng.randrange(len(lines))
        lines[line] = json.dumps(changed_json(json.loads(lines[line]), rng))
        path.write_text("\n".join(lines))
    elif rng.random() < 0.1:
        path.mkdir()
    elif rng.random() < 0.9:
        ways = [b"", raw[:at], raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :], raw[:at] + bytes(len(raw) - at)]
        path.write_bytes(rng.choice([*ways, rng.randbytes(len(raw)), other.read_bytes(), b"\xef\xbb\xbf" + raw]))


def command(run: Path, stage: str, rng: random.Random) -> list[str]:
    evaluate = ["evaluate", "--run", str(run), "--stage", stage, "--tasks", "world/choice", "--limit", "2"]
    chat = ["chat", str(run), "--stage", stage, "-p", "Hello", "--temperature", "0", "--max-tokens", "4"]
    go_on = ["run", "toy", "--out", str(run)]
    return rng.choice([["report", "--run", str(run)], evaluate, chat, go_on, go_on])


def weights(run: Path) -> dict[str, str]:
    files = (path for path in run.rglob("*.safetensors") if path.is_file())
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("seed", range(FOLDERS))
def test_a_damaged_run_gives_one_sentence_or_the_same_results(
    seed: int, toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    rng, run = random.Random(seed), tmp_path / "run"
    shutil.copytree(toy_run, run)
    known, stage = weights(run), rng.choice(TRAINED)
    if rng.random() < 0.3:
        (run / stage / "done.json").unlink()
    files = [path for path in sorted(run.rglob("*")) if path.suffix in (".json", ".jsonl", ".safetensors")]
    hurt, other = rng.sample(files, 2)
    damage(hurt, other, rng)
    left = weights(run)

    code = cli.run(command(run, stage, rng))
    said = "".join(capsys.readouterr())
    assert code == 0 or (code == 2 and str(run) in said.rpartition("fledge: ")[2]), said
    after = weights(run)
    for file in known:
        assert after.get(file) in (known[file], left.get(file)), said
