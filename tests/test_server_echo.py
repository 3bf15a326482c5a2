"""Completions with `echo` and `logprobs`, from which lm-evaluation-harness reads likelihoods."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fledge.evals.likelihood import Row, likelihoods
from test_server import pool, serving
from tiny_engine import BYTES, EXTRAS, asking, tiny_engine, tiny_model

BOS = BYTES.special["<|bos|>"]
MODEL = tiny_model(**EXTRAS)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A step takes 23 tokens of prompts, so that most are computed in pieces."""
    with serving(pool(model=lambda _: MODEL, context=96, engine={"slots": 8, "budget": 23})) as address:
        yield address


def complete(url: str, **fields: Any) -> dict[str, Any]:
    body = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1234} | fields
    return httpx.post(f"{url}/v1/completions", json=body, timeout=60).raise_for_status().json()


def harness(choice: dict[str, Any], context: int) -> tuple[float, bool]:
    """What lm-evaluation-harness makes of a choice to which one token was added; `context` tokens are not judged."""
    said = choice["logprobs"]["token_logprobs"][context:-1]
    best = [max(top.values()) for top in choice["logprobs"]["top_logprobs"][context:-1]]
    return sum(said), said == best


def test_likelihoods_read_from_an_echo_are_those_of_evaluation(url: str) -> None:
    """Also of prompts that begin alike, that are in the cache already, and that begin with a bos of their own."""
    rng = random.Random(0)
    asked = [[rng.randrange(256) for _ in range(rng.randrange(2, 60))] for _ in range(30)]
    asked += [[*asked[0], 5], [*asked[1][:20], 7, 8], asked[2], [7, 7]]
    asked += [[BOS, *ids] for ids in asked[:6]]
    contexts = [1 + (ids[0] == BOS) for ids in asked]
    # What the model says by itself is the likeliest.
    said = tiny_engine(MODEL).generate([asking([BOS, *ids], max_tokens=5, temperature=0) for ids in asked[:30]])
    contexts += [len(ids) for ids in asked[:30]]
    asked += [[*ids, *(token for token in own.answer if token < 256)] for ids, own in zip(asked, said, strict=False)]
    implied = [int(ids[0] != BOS) for ids in asked]
    rows = [[BOS, *ids][1 - more :] for ids, more in zip(asked, implied, strict=True)]
    starts = [context + more for context, more in zip(contexts, implied, strict=True)]
    judged = list(likelihoods(MODEL, [Row(ids=ids, start=at) for ids, at in zip(rows, starts, strict=True)]))
    every = list(likelihoods(MODEL, [Row(ids=ids, start=1) for ids in rows]))
    assert {true.is_greedy for true in judged if true.logprobs} == {True, False}
    for _ in range(2):
        choices = complete(url, prompt=asked)["choices"]
        assert len(choices) == len(asked) > 32
        for choice, context, true, whole, more in zip(choices, contexts, judged, every, implied, strict=True):
            assert harness(choice, context) == (pytest.approx(true.total, abs=1e-4), true.is_greedy)
            told = choice["logprobs"]["token_logprobs"][:-1]
            assert told[1 - more :] == pytest.approx(whole.logprobs, abs=1e-5)
            assert told[: 1 - more] == [None] * (1 - more)


def test_an_echo_is_the_prompt_before_the_answer(url: str) -> None:
    prompt = "Wörter, 漢字"
    plain = complete(url, prompt=prompt, max_tokens=8, echo=False, temperature=1)["choices"][0]
    whole = complete(url, prompt=prompt, max_tokens=8, temperature=1)["choices"][0]
    alone = complete(url, prompt=prompt, max_tokens=0)["choices"][0]
    assert whole["text"] == prompt + plain["text"]
    assert (alone["text"], alone["finish_reason"]) == (prompt, "length")
    size = len(prompt.encode())
    for name, values in whole["logprobs"].items():
        assert values[:size] == alone["logprobs"][name]
        if name != "text_offset":
            assert values[size:] == plain["logprobs"][name]
    assert complete(url, prompt=prompt, max_tokens=0, logprobs=None)["choices"] == [alone | {"logprobs": None}]
    as_ids = complete(url, prompt=[BOS, *prompt.encode()], max_tokens=0)["choices"][0]
    assert as_ids["text"] == prompt
    assert as_ids["logprobs"]["tokens"][1:] == alone["logprobs"]["tokens"]
    assert as_ids["logprobs"]["text_offset"][0] == as_ids["logprobs"]["text_offset"][1] == 0
    letters = complete(url, prompt="plain words", max_tokens=0)["choices"][0]
    assert "".join(letters["logprobs"]["tokens"]) == letters["text"]
    assert letters["logprobs"]["text_offset"] == [*range(len("plain words"))]


def test_an_echo_streams_what_it_says_whole(url: str) -> None:
    asked = {"prompt": ["Once", [1, 2, 3]], "max_tokens": 6, "echo": True, "logprobs": 2, "seed": 3, "n": 2}
    whole = httpx.post(f"{url}/v1/completions", json=asked, timeout=60).json()["choices"]
    lines = httpx.post(f"{url}/v1/completions", json=asked | {"stream": True}, timeout=60).text.split("\n\n")
    events = [httpx.Response(200, text=line[6:]).json() for line in lines if line.startswith("data: {")]
    for choice in whole:
        mine = [event["choices"][0] for event in events if event["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in mine) == choice["text"]
        for name, values in choice["logprobs"].items():
            streamed = [value for piece in mine if piece["logprobs"] for value in piece["logprobs"][name]]
            if name == "top_logprobs":
                streamed, values = (
                    [value for best in found for value in best.values()] for found in (streamed, values)
                )
            assert streamed == (values if name == "tokens" else pytest.approx(values, abs=1e-5))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": [[1, 2], [3, True]]}, "a list of such lists"),
        ({"prompt": [[]]}, "a list of such lists"),
        ({"prompt": [[1], 2]}, "a list of such lists"),
        ({"prompt": [[1, BOS]]}, "ordinary text"),
        ({"prompt": [[BOS, BOS]]}, "ordinary text"),
        ({"prompt": [[1]] * 257}, "prompt has 257 texts; allowed: 256"),
        ({"prompt": ["a"] * 200, "n": 2}, "n=2 answers to 200 prompts; allowed: 256 in all"),
        ({"prompt": [[1] * 95]}, "the context holds 96"),
        ({"prompt": "a", "max_tokens": -2}, "max_tokens=-2 is not a whole number of 0 or more"),
        ({"prompt": "a", "echo": "yes"}, "echo must be true or false"),
    ],
)
def test_prompts_of_another_form_are_refused(url: str, fields: dict[str, Any], words: str) -> None:
    response = httpx.post(f"{url}/v1/completions", json=fields)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]
