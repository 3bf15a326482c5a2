"""What several test files share: a pool of processes, and one finished toy run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import Processes

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker per core is enough; torch reads it when it is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with processes or a browser come first: they take longest, and one that is begun last is waited for by all cores."""
    slow = {item.path for item in items if {"processes", "browser"} & set(getattr(item, "fixturenames", ()))}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """Runs command lines in processes of their own that need not import torch again."""
    processes = Processes()
    yield processes
    processes.close()


def made_once(recipe: str, processes: Processes, factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, which the first worker to ask for it makes for all."""
    root = factory.getbasetemp()
    run = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "runs" / recipe
    run.parent.mkdir(exist_ok=True)
    with run.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (run / "report.json").exists():
            code, output = processes.run("run", recipe, "--out", str(run), log=run.with_suffix(".log"))
            assert code == 0, output
    return run


@pytest.fixture(scope="session")
def toy_run(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `fledge run toy`. Read it, do not write it; its output lies beside it in `toy.log`."""
    return made_once("toy", processes, tmp_path_factory)


@pytest.fixture(scope="session")
def straight(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run from beginning to end without interruption, in one process."""
    return made_once("small", processes, tmp_path_factory)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose chat model, of random weights, talks until it is stopped or its 8,000 tokens are full."""
    from fledge.checkpoint import Progress, copied  # torch is not for every test
    from fledge.config import OptimSettings
    from fledge.train.optim import build
    from tiny_engine import BYTES, endless_model

    folder = tmp_path_factory.mktemp("run")
    BYTES.save(folder / "tokenizer")
    model = endless_model(0, context=8000)
    copied(folder / "sft", model, build(model, OptimSettings()), Progress(step=1), keep=1)()
    return folder


@pytest.fixture(autouse=True)
def no_data_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the data home that they set themselves, and what a command line sets is gone after the test."""
    monkeypatch.setenv("FLEDGE_LOCAL", "")
