"""What wandb and trackio are told is what metrics.jsonl has; both in their offline mode."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fledge.config import Pretrain, check
from fledge.runs import metrics

NAMES = ("loss_nats", "tokens", "val_bits_per_byte")
STAGE = """
import sys
from fledge.config import Pretrain
from fledge.folder import open_stage
for first in (1, 3):  # interrupted, and resumed
    with open_stage(Pretrain(run="mine", log=sys.argv[1])) as stage:
        for step in (first, first + 1):
            stage.log(step=step, loss_nats=4.0 / step, tokens=64)
        stage.log(step=step, val_bits_per_byte=1.5, samples=[{"prompt": "a", "text": "b"}])
"""


def told_wandb(home: Path) -> list[dict[str, Any]]:
    """Of their files, logs as LevelDB writes them: a head of 7 bytes, then records with check sum, length and kind (1: whole)."""
    Record = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    found = []
    for path in sorted(home.glob("wandb/offline-run-*/*.wandb")):
        data, at = path.read_bytes(), 7
        while at < len(data):
            _, size, kind = struct.unpack_from("<IHB", data, at)
            assert kind == 1, "longer than a block of 32 KB"
            record = Record.FromString(data[at + 7 : at + 7 + size])
            at += 7 + size
            if record.HasField("history"):
                items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                found.append({"step": items["_step"], **{name: items[name] for name in NAMES if name in items}})
    return found


def told_trackio(home: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(home / "trackio" / "fledge.db") as base:
        rows = base.execute("select step, metrics from metrics order by id").fetchall()
    return [{"step": step, **json.loads(values)} for step, values in rows]


@pytest.mark.parametrize(("name", "told"), [("wandb", told_wandb), ("trackio", told_trackio)])
def test_the_tracker_is_told_the_numbers_of_the_metrics_also_by_a_stage_that_goes_on(
    name: str, told: Any, tmp_path: Path
) -> None:
    pytest.importorskip(name, reason=f"`uv sync --group compat` brings {name}")
    own = {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "HOME": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", STAGE, name], cwd=tmp_path, env={**os.environ, **own}, check=True)
    expected: dict[int, dict[str, Any]] = {}
    for line in metrics(tmp_path / "mine" / "pretrain"):
        expected.setdefault(line["step"], {}).update({key: line[key] for key in ("step", *NAMES) if key in line})
    found: dict[int, dict[str, Any]] = {}
    for line in told(tmp_path):
        found.setdefault(line["step"], {}).update(line)
    assert found == expected


def test_offline_no_key_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="`uv sync --group compat` brings wandb")
    own = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(tmp_path)}
    words = [sys.executable, "-c", "from fledge.trackers import sign_in; sign_in('wandb'); sign_in('no')"]
    subprocess.run(words, cwd=tmp_path, env={**os.environ, **own}, stdin=subprocess.DEVNULL, check=True)


def test_a_tracker_that_is_not_installed_is_said_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"log=wandb: wandb is not installed; `uv sync --extra wandb`"):
        check(Pretrain(log="wandb"))
