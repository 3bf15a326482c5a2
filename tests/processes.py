"""Command lines in processes of their own that begin with torch imported: a kill test needs dozens, and importing takes seconds.

    processes = Processes()
    child = processes.start("run", "toy", "--out", "somewhere", log=Path("log"))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()                                       # exit code, or minus the signal that ended it

Run as a script this file is the parent process itself: it imports once and forks a child for each request.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def rendezvous(count: int) -> dict[str, str]:
    """The environment in which `count` processes find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


class Processes:
    """A process that forks others on request."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "20000", "COLUMNS": "200"}
        environment["TORCHINDUCTOR_VEC_ISA_OK"] = "1"  # it would compile a program per instruction set to see: 12 s
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(
        self,
        *words: str,
        log: Path,
        cwd: Path | None = None,
        limits: Mapping[str, int] | None = None,
        environment: Mapping[str, str] | None = None,
        terminal: str | None = None,
        before: str = "",
    ) -> Child:
        """Begin `fledge WORDS`; its output goes to `log`.

        Args:
            limits: as in {"FSIZE": 1000}, a full disk.
            terminal: the device to which it speaks instead, and which it hears.
            before: Python that it executes first.
        """
        log.touch()
        request = {"words": words, "log": str(log), "cwd": str(cwd or log.parent), "limits": limits or {}}
        request |= {"terminal": terminal, "before": before}
        return Child(self, self.ask(request | {"environment": environment or {}}), log)

    def start_ranks(
        self, count: int, *words: str, log: Path, each: Sequence[dict[str, Any]] | None = None
    ) -> list[Child]:
        """Begin `fledge WORDS` in `count` processes that train together, as torchrun would. `each`: more for `start`, by rank."""
        shared = rendezvous(count)
        return [
            self.start(
                *words,
                log=log,
                **(more | {"environment": shared | {"RANK": str(rank)} | more.get("environment", {})}),
            )
            for rank, more in enumerate(each or [{}] * count)
        ]

    def run(self, *words: str, log: Path, **settings: Any) -> tuple[int, str]:
        """Exit code and output of `fledge WORDS`."""
        child = self.start(*words, log=log, **settings)
        return child.wait(), child.output()

    def ask(self, request: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@dataclass
class Child:
    processes: Processes
    pid: int
    log: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Exit code, minus the signal that ended it, or None while it lives."""
        if self.code is None:
            self.code = self.processes.ask({"poll": self.pid})
        return self.code

    def wait(self, *, seconds: float = 240.0) -> int:
        until = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"still at work after {seconds:.0f} s:\n{self.output()[-2000:]}")
            time.sleep(0.02)
        return code

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")


def small(ask: Any) -> list[Any]:
    """The recipe of the kill tests: the toy's stages with a handful of steps, saving after each, and a reward that varies."""
    from dataclasses import replace

    from fledge.config import Evaluate, Midtrain, Pretrain, Rl, TrainStage
    from fledge.recipes import toy

    items = []
    for item in toy(ask):
        config = item.config
        if isinstance(config, Pretrain):
            config = replace(config, tokens=8192, eval_every=3)
        elif isinstance(config, Midtrain):
            config = replace(config, tokens=6144)
        elif isinstance(config, Rl):
            config = replace(config, task="world/vowels", steps=5, eval_every=2, eval_examples=4)
        elif isinstance(config, Evaluate):
            config = replace(config, tasks="world/choice", limit=2)
        if isinstance(config, TrainStage):
            config = replace(config, save_every=1, dtype="float32")  # in which ranks agree to 2e-6
        if item.module != "evaluate" or item.name == "evaluate sft":
            items.append(replace(item, config=config))
    return items


def compiled(ask: Any) -> list[Any]:
    """The stages of `small` that learn from rows, compiled as they are by default: once, since one layer is their only shape."""
    from dataclasses import replace

    from fledge.config import Pretrain, RowStage

    items = []
    for item in small(replace(ask, classic=True)):
        config = item.config
        if isinstance(config, RowStage):
            config = replace(config, compile="auto")
        if isinstance(config, Pretrain):
            config = replace(config, model=replace(config.model, depth=1))
        if isinstance(config, RowStage) or item.name in ("tokenizer", "report"):
            items.append(replace(item, config=config))
    return items


def letters(example: Any, answer: str) -> float:
    """A reward that a model which has learned nothing gets now and then: the share of a few letters in its answer."""
    return sum(letter in "aeiou" for letter in answer) / max(1, len(answer))


def prepare() -> None:
    """Import what any stage needs, add the recipe and the task of the tests, and draw what every run asks."""
    from dataclasses import replace

    import numpy.random
    import tyro

    import fledge.cli
    import fledge.evals.score
    import fledge.pipeline
    import fledge.stages.evaluate
    import fledge.stages.midtrain
    import fledge.stages.pretrain
    import fledge.stages.report
    import fledge.stages.rl
    import fledge.stages.sft
    import fledge.stages.tokenizer
    import fledge.train.rollouts
    import fledge.train.session
    from fernhollow.asked import TASKS
    from fledge import recipes
    from fledge.commands import RunRecipe
    from fledge.infer import engine

    assert engine
    assert fledge.stages
    assert numpy.random
    assert tyro
    recipes.RECIPES |= {"small": small, "compiled": compiled}
    TASKS["world/vowels"] = replace(TASKS["world/spelling"], name="world/vowels", grade=letters, max_tokens=24)
    items = recipes.toy(RunRecipe())
    for item in (*items, *small(RunRecipe())):  # kept by the processes that are forked here: drawing takes seconds too
        with contextlib.suppress(Exception):  # what cannot be drawn fails the tests that need it
            fledge.pipeline.ready(item, {one.name for one in items})


def be_child(request: dict[str, Any]) -> int:
    from fledge.cli import run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    if terminal := request["terminal"]:
        os.setsid()  # or it would not become the terminal of this process
    handle = os.open(terminal or request["log"], os.O_CREAT | os.O_RDWR | os.O_APPEND)
    os.dup2(handle if terminal else os.open(os.devnull, os.O_RDONLY), 0)  # not the requests
    for stream in (1, 2):
        os.dup2(handle, stream)
    if terminal:  # line by line
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    for name, most in request["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    exec(request["before"])
    return run(request["words"])


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal belongs to pytest
    prepare()
    for line in sys.stdin:
        request = json.loads(line)
        if "import" in request:
            print(json.dumps(bool(importlib.import_module(request["import"]))), flush=True)
        elif "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            code = 99
            try:
                code = be_child(request)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
    os._exit(0)  # without torch's slow farewell


if __name__ == "__main__":
    main()
