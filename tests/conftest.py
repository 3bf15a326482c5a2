"""What several test files share: a pool of processes, and one finished toy run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import Processes

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker per core is enough; torch reads it when it is imported


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """Runs command lines in processes of their own that need not import torch again."""
    processes = Processes()
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def toy_run(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `fledge run toy`. Read it, do not write it; its output lies beside it in `toy.log`."""
    run = tmp_path_factory.mktemp("runs") / "toy"
    code, output = processes.run("run", "toy", "--out", str(run), log=run.with_suffix(".log"))
    assert code == 0, output
    return run


@pytest.fixture(scope="session")
def straight(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run from beginning to end without interruption, in one process."""
    run = tmp_path_factory.mktemp("straight") / "small"
    code, output = processes.run("run", "small", "--out", str(run), log=run.with_suffix(".log"))
    assert code == 0, output
    return run


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
