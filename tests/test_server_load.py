"""The server under many clients at once, and under requests that nobody would think of."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fledge.config import Sampling
from fledge.text.chat import decode_answer, fit_prompt, say
from test_server import HELLO, pool, serving
from tiny_engine import BYTES, asking, endless_model, tiny_engine

CLIENTS, TOKENS = 200, 8


def test_200_streaming_clients_get_what_each_would_get_alone() -> None:
    bodies = [
        {"messages": [{"role": "user", "content": f"Hello {i % 50}"}], "seed": i, "max_tokens": TOKENS}
        | {"stream": True, "temperature": 0.8, "top_k": 0, "tool_choice": "none"}
        for i in range(CLIENTS)
    ]
    with serving(pool(engine={"slots": 64})) as url:
        program = [sys.executable, str(Path(__file__).with_name("many_clients.py")), url]
        pipe = subprocess.PIPE
        with subprocess.Popen([*program, "watch"], stdin=pipe, stdout=pipe, text=True) as watcher:
            begin = time.perf_counter()
            clients = subprocess.run([*program, "ask"], input=json.dumps(bodies), stdout=pipe, text=True, timeout=120)
            burst = time.perf_counter() - begin
            health = json.loads(watcher.communicate(timeout=60)[0])
    assert clients.returncode == watcher.returncode == 0
    texts = json.loads(clients.stdout)
    assert len(health) > 5
    print(
        f"/health: median {statistics.median(health):.4f} s, worst {max(health):.4f} s of {len(health)}, {burst:.1f} s"
    )
    assert max(health) < burst / 2  # nobody waits for the whole burst, however busy the machine
    alone = tiny_engine(endless_model(1), slots=1, context=256)
    for body, text in [*zip(bodies, texts, strict=True)][::4]:
        prompt = fit_prompt(BYTES, (say("user", body["messages"][0]["content"]),), context=256, max_tokens=TOKENS).ids
        request = asking(prompt=prompt, max_tokens=TOKENS, seed=body["seed"], temperature=0.8, tools=False)
        answer = alone.generate([request])[0].answer
        assert text == "".join(part.text for part in decode_answer(BYTES, answer) if part.kind == "text")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CONTENT = st.text(max_size=40) | st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "python", "output"]), "text": st.text(max_size=10)}),
    max_size=3,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": CONTENT | ANYTHING}
    ),
    max_size=5,
) | st.just(HELLO)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from(["sft", "base", "gpt"]) | ANYTHING,
    "max_tokens": st.integers(-1, 8) | ANYTHING,
    "temperature": st.floats(0, 2) | ANYTHING,
    "top_k": st.integers(0, 400) | ANYTHING,
    "top_p": st.floats(0, 1) | ANYTHING,
    "min_p": st.floats(0, 1) | ANYTHING,
    "n": st.integers(0, 3) | ANYTHING,
    "seed": st.integers() | ANYTHING,
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=5) | ANYTHING,
    "stream": st.booleans() | ANYTHING,
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}) | ANYTHING,
    "logprobs": st.booleans() | st.integers(0, 5) | ANYTHING,
    "top_logprobs": st.integers(0, 25) | ANYTHING,
    "tool_choice": ANYTHING,
    "echo": st.booleans() | ANYTHING,
    "presence_penalty": st.floats(-2, 2) | ANYTHING,
    "logit_bias": st.dictionaries(st.integers(-1, 400).map(str), st.floats(-100, 100), max_size=4) | ANYTHING,
}
IDS = st.lists(st.integers(-1, 270), max_size=9)
PROMPTS = st.text(max_size=20) | IDS | st.lists(IDS | st.text(max_size=5), max_size=5) | ANYTHING
CHATS = st.fixed_dictionaries({"messages": MESSAGES}, optional=FIELDS)
TEXTS = st.fixed_dictionaries({"prompt": PROMPTS}, optional=FIELDS)


def test_no_request_makes_the_server_fail_or_hang() -> None:
    with (
        serving(pool(), sampling=Sampling(max_tokens=8)) as url,
        httpx.Client(base_url=url, timeout=20) as http,
    ):

        @settings(
            max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
        )
        @given(st.sampled_from(["chat/completions", "completions"]), CHATS | TEXTS | ANYTHING)
        def ask(path: str, body: Any) -> None:
            if isinstance(body, dict) and body.get("max_tokens") is None:
                body["max_tokens"] = 5
            response = http.post(f"/v1/{path}", content=json.dumps(body))
            assert response.status_code < 500
            if response.status_code != 200:
                assert response.json()["error"]["message"]
            elif response.headers["content-type"].startswith("text/event-stream"):
                assert response.text.endswith("data: [DONE]\n\n")

        ask()
        assert http.get("/health").json()["running"] == 0
