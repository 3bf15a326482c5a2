"""Sampling is declared once: command line, engine, API, terminal and page name, bound and explain the same settings."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from fledge.cli import parse, run
from fledge.commands import Chat, Serve
from fledge.config import Sampling, check
from fledge.infer.request import Request
from fledge.serve.api import ApiError, parse_chat, parse_completion
from fledge.serve.client import LocalModel
from fledge.serve.terminal import COMMANDS, Terminal
from fledge.settings import help_of
from fledge.stages.serve import make_app
from test_server import HELLO, serving
from tiny_engine import BYTES, tiny_model

FIELDS = Sampling.__dataclass_fields__
BODY: dict[str, Any] = {"messages": HELLO}


def flag(name: str) -> str:
    return name.replace("_", "-")


def bounds(name: str) -> tuple[Any, Any]:
    return FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]


@pytest.mark.parametrize("name", FIELDS)
def test_command_line_api_and_engine_take_every_setting(name: str) -> None:
    low, _ = bounds(name)
    for kind in (Chat, Serve):
        assert getattr(parse(kind, "fledge", [f"--{flag(name)}={low}"]), name) == low
    assert getattr(parse_chat(BODY | {name: low}, Serve()).sampling, name) == low
    assert getattr(Request(prompt=[0], sampling=Sampling(**{name: low})).sampling, name) == low
    assert f"/{flag(name)}" in COMMANDS


@pytest.mark.parametrize("name", FIELDS)
def test_defaults_and_bounds_agree_everywhere(name: str) -> None:
    default, (low, high) = FIELDS[name].default, bounds(name)
    row = next(row for row in Serve().table() if row["name"] == name)
    assert getattr(Chat(), name) == getattr(Request(prompt=[0]).sampling, name) == default
    assert row["default"] == getattr(Serve(), name) == getattr(parse_chat(BODY, Serve()).sampling, name)
    assert name == "max_tokens" or row["default"] == default
    high = row["high"] if name == "max_tokens" else high  # a server has a limit of its own
    for value, neighbour in ((low, low - 1), (high, high * 2 + 1)):
        check(Chat(**{name: value}))
        parse_chat(BODY | {name: value}, Serve())
        if name == "max_tokens":
            continue  # of which whoever wants more than there is gets the most
        with pytest.raises(
            ApiError, match=rf"^{name}={neighbour} is not a .*number from {row['low']} to {row['high']}$"
        ):
            parse_chat(BODY | {name: neighbour}, Serve())
    with pytest.raises(ValueError, match=rf"^{name}={low - 1} is not a .*number from {low} to {bounds(name)[1]}$"):
        check(Chat(**{name: low - 1}))


def test_a_server_sets_the_longest_answer_also_for_who_wants_more() -> None:
    short = Sampling(max_tokens=7)
    assert parse_chat(BODY, short).sampling.max_tokens == 7
    for name in ("max_tokens", "max_completion_tokens"):
        for asked, given in ((3, 3), (7, 7), (8, 7), (100_000, 7), (-1, 7)):
            assert parse_chat(BODY | {name: asked}, short).sampling.max_tokens == given
        for wrong in (0, -2, 1.5, True, "7"):
            with pytest.raises(ApiError, match=f"^{name}=.* is not a whole number of 1 or more"):
                parse_chat(BODY | {name: wrong}, short)
    assert parse_completion({"max_tokens": 0}, short).sampling.max_tokens == 0


def test_every_setting_is_explained_in_the_same_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(help_of(Sampling)) == set(FIELDS)
    local = LocalModel(tiny_model(), BYTES, name="tiny")
    console = Console(file=io.StringIO(), width=200)
    Terminal(local, Sampling(), system=None, console=console).help()
    local.close()
    run(["chat", "--help"])
    shown = [re.sub(r"[\s│]+", " ", text) for text in (capsys.readouterr().out, console.file.getvalue())]  # type: ignore[attr-defined]
    for row in Serve().table():
        assert row["help"] == help_of(Sampling)[row["name"]]
        assert all(row["help"] in text for text in shown)


@pytest.mark.parametrize("setting", [{"temperature": 0.2}, {"temperature": 0.0, "top_k": 0}, {"top_p": 0.3}])
def test_what_serve_is_told_holds_for_a_client_who_does_not_say(run_folder: Path, setting: dict[str, float]) -> None:
    words = ["--run", str(run_folder), *(f"--{flag(name)}={value}" for name, value in setting.items())]
    body = BODY | {"max_tokens": 30, "seed": 3}
    with serving(app=make_app(parse(Serve, "fledge serve", words))) as url:

        def said(**fields: Any) -> str:
            answer = httpx.post(f"{url}/v1/chat/completions", json=body | fields, timeout=30).json()
            return answer["choices"][0]["message"]["content"]

        assert said() == said(**setting) != said(temperature=2.0, top_k=0, top_p=1.0)
        table = httpx.get(f"{url}/v1/models").json()["data"][0]["fledge"]["sampling"]
    defaults = {row["name"]: row["default"] for row in table}
    assert defaults == vars(Sampling(max_tokens=4096)) | setting
