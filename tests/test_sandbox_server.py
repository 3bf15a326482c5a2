"""The server while a model emits hostile tool calls: it stays up, leaks nothing, and answers others meanwhile."""

from __future__ import annotations

import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from os import getpid
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from fledge.sandbox.sandbox import Sandbox
from fledge.sandbox.tools import CALCULATOR_ERROR, MAX_OUTPUT_BYTES, Tool, python_tool, run_tool
from fledge.serve.pool import Entry, ModelPool
from hostile.attack import World, children, secrets_in
from test_server import serving
from tiny_engine import BYTES, asking, tiny_model

HOSTILE = Path(__file__).parent / "hostile"
PROGRAMS = tomllib.loads((HOSTILE / "programs.toml").read_text("utf-8"))["program"][::9]
EXPRESSIONS = tomllib.loads((HOSTILE / "expressions.toml").read_text("utf-8"))["refused"]
START, END = BYTES.special["<|python_start|>"], BYTES.special["<|python_end|>"]
STOP = BYTES.special["<|assistant_end|>"]
POLITE = 10_000
"""The seed of those who only talk."""
CONTEXT = 4096

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the attacks look for traces in /proc")


def plan(code: str) -> list[int]:
    """What a model that wants to run `code` says."""
    return [START, *BYTES.encode(code), END, *b"done", STOP]


def converse(monkeypatch: pytest.MonkeyPatch, codes: list[str], run: Tool) -> tuple[list[str], int]:
    """Ask a server whose model says plan(codes[seed]); the tools' answers, and how many others were answered meanwhile."""
    plans = dict(enumerate(map(plan, codes))) | {POLITE: [*b"I only talk.", STOP]}
    models = ModelPool(
        [Entry(name="sft", context=CONTEXT, bytes=100_000, load=lambda _: tiny_model(context=CONTEXT))],
        BYTES,
        memory_bytes=1 << 30,
        engine_settings={"slots": 16, "run_tool": run},
    )

    def draw(logits: torch.Tensor, settings: Any, keys: Any) -> torch.Tensor:
        (engine,) = models.engines
        ready = engine._drawn[0] if engine._drawn else []
        return torch.tensor([plans[seeds[request.key]][sum(request.mask)] for request in ready])

    seeds = {asking(prompt=[0], seed=seed).key: seed for seed in plans}
    monkeypatch.setattr("fledge.infer.engine.draw", draw)
    with serving(models) as url, httpx.Client(base_url=url, timeout=120) as web:

        def ask(seed: int) -> dict[str, Any]:
            body = {
                "messages": [{"role": "user", "content": "Hello"}],
                "seed": seed,
                "temperature": 1,
                "max_tokens": 3000,
            }
            response = web.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            return response.json()["choices"][0]

        def attack(seed: int) -> str:
            choice = ask(seed)
            assert (choice["message"]["content"], choice["finish_reason"]) == ("done", "stop"), choice
            (output,) = [part["text"] for part in choice["message"]["fledge"]["parts"] if part["type"] == "output"]
            return output

        polite = 0
        with ThreadPoolExecutor(8) as pool:
            attacks = [pool.submit(attack, seed) for seed in range(len(codes))]
            while polite < 5 or not all(future.done() for future in attacks):
                assert ask(POLITE)["message"]["content"] == "I only talk."
                polite += 1
        health = web.get("/health").json()
        assert (health["status"], health["running"], health["waiting"]) == ("ok", 0, 0)
    return [future.result() for future in attacks], polite


def test_a_server_with_the_calculator_survives_hostile_expressions_and_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with World() as world:
        before = children(getpid())
        codes = [*EXPRESSIONS, *(world.names + case["code"] for case in PROGRAMS)]
        outputs, polite = converse(monkeypatch, codes, run_tool)
        assert set(outputs) == {CALCULATOR_ERROR}
        assert polite >= 5
        assert world.damage() == []
        assert children(getpid()) == before


def test_a_server_with_the_python_tool_survives_hostile_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children(getpid())  # other tests keep a helper process
    with World() as world, Sandbox(workers=2) as sandbox:
        codes = [world.names + case["code"] for case in PROGRAMS] + ["print(6 * 7)"]
        outputs, polite = converse(monkeypatch, codes, python_tool(sandbox, timeout_seconds=1.0))
        assert outputs[-1] == "42"
        assert [
            (case["name"], found)
            for case, output in zip(PROGRAMS, outputs, strict=False)
            if (found := secrets_in(output))
        ] == []
        assert max(map(len, outputs)) < MAX_OUTPUT_BYTES + 500
        assert polite >= 5
        assert world.damage() == []
        assert not any(children(worker) for worker in children(getpid()) - before)
    assert children(getpid()) == before
