"""The server as the official client sees it, over a tiny random model on 127.0.0.1."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
import torch
from starlette.applications import Starlette

from fledge.config import Sampling
from fledge.model.transformer import Transformer
from fledge.serve.connections import Server
from fledge.serve.pool import Entry, ModelPool
from fledge.serve.server import BODY_BYTES, create_app
from tiny_engine import BYTES, endless_model

CLIENTS: list[openai.OpenAI] = []
ASKED = [["What is 6 times 7?"]]
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def eager_model(seed: int) -> Transformer:
    """It reaches for its tool all the time."""
    model = endless_model(seed)
    with torch.no_grad():
        model.unembedding[[BYTES.special[f"<|python_{name}|>"] for name in ("start", "end")]] *= 10
    return model


def pool(**settings: Any) -> ModelPool:
    """A run of two stages whose models differ."""
    context, model = settings.pop("context", 256), settings.pop("model", endless_model)
    entries = [
        Entry(name=name, context=context, bytes=100_000, load=lambda _, s=seed: model(s), suggestions=ASKED[:seed])
        for seed, name in enumerate(("base", "sft"))
    ]
    about = {"tools": ["calculator"], "name": "Pip"}
    engine = {"slots": 16} | settings.pop("engine", {})
    memory = settings.pop("memory_bytes", 1 << 30)
    return ModelPool(entries, settings.pop("tokenizer", BYTES), memory, about=about, engine_settings=engine, **settings)


@contextmanager
def serving(
    on: ModelPool | None = None, *, app: Starlette | None = None, grace: float = 5.0, **settings: Any
) -> Iterator[str]:
    """The server in a thread; yields its address."""
    app = app or create_app(on or pool(), **settings)
    server = Server(app, host="127.0.0.1", port=0, grace_seconds=grace)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        while CLIENTS:
            CLIENTS.pop().close()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as address:
        yield address


def client(url: str, key: str = "none") -> openai.OpenAI:
    CLIENTS.append(openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=30))
    return CLIENTS[-1]


def ask(url: str, **settings: Any) -> Any:
    chat = client(url).chat.completions
    if "top_k" in settings:
        settings["extra_body"] = {"top_k": settings.pop("top_k")}  # unknown to the official client
    return chat.create(
        **({"model": "sft", "messages": HELLO, "max_tokens": 30, "seed": 5, "temperature": 1} | settings)
    )


def until(condition: Any, *, seconds: float = 5.0) -> None:
    """Wait for `condition`."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + seconds, "it did not happen"
        time.sleep(0.005)


def test_models_are_the_stages_of_the_run_and_the_last_is_the_default(url: str) -> None:
    models = client(url).models.list().data
    assert [model.id for model in models] == ["sft", "base"]
    about = models[0].model_dump()["fledge"]
    assert about["default"]
    assert about["context_tokens"] == 256
    assert [model.model_dump()["fledge"]["suggestions"] for model in models] == [[["What is 6 times 7?"]], []]
    assert client(url).models.retrieve("base").id == "base"
    assert ask(url, model="base", top_k=0).choices[0].message.content != ask(url, top_k=0).choices[0].message.content


def test_every_model_lists_the_settings_with_the_bounds_that_requests_are_held_to(url: str) -> None:
    for model in client(url).models.list().data:
        table = {field["name"]: field for field in model.model_dump()["fledge"]["sampling"]}
        assert table.keys() == {"temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty"} | {
            "max_tokens",
            "seed",
        }
        for name in table.keys() - {"seed"}:  # its bounds are those of numbers in JavaScript
            for outside in (table[name]["low"] - 1, table[name]["high"] + 1)[: 1 if name == "max_tokens" else 2]:
                with pytest.raises(openai.BadRequestError, match=f"{name}={outside}"):
                    client(url).chat.completions.create(model="sft", messages=HELLO, extra_body={name: outside})


def test_a_stream_says_what_a_whole_answer_says(url: str) -> None:
    for seed in range(5):
        whole = ask(url, seed=seed)
        chunks = list(ask(url, seed=seed, stream=True, stream_options={"include_usage": True}))
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(texts) == whole.choices[0].message.content
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 0
        finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert finishes[-1] == whole.choices[0].finish_reason
        assert set(finishes[:-1]) == {None}
        assert whole.usage.prompt_tokens == len("Hello") + 4
    again = ask(url).usage
    assert again.prompt_tokens_details.cached_tokens == again.prompt_tokens - 1


def test_choices_differ_and_carry_logprobs(url: str) -> None:
    answer = ask(url, n=3, max_tokens=8, logprobs=True, top_logprobs=2)
    assert len(answer.choices) == 3
    assert len({choice.message.content for choice in answer.choices}) > 1
    for choice in answer.choices:
        raw = b"".join(bytes(entry.bytes) for entry in choice.logprobs.content)
        assert raw.decode("utf-8", "replace") == choice.message.content
        for entry in choice.logprobs.content:
            assert entry.logprob < 0
            assert len(entry.top_logprobs) == 2
    streamed = list(ask(url, n=3, max_tokens=8, logprobs=True, top_logprobs=2, stream=True))
    for choice in answer.choices:
        mine = [c.choices[0] for c in streamed if c.choices and c.choices[0].index == choice.index]
        entries = [entry.bytes for c in mine if c.logprobs for entry in c.logprobs.content]
        assert entries == [entry.bytes for entry in choice.logprobs.content]


def test_stop_strings_cut_the_answer_and_are_never_seen(url: str) -> None:
    text = ask(url, max_tokens=60).choices[0].message.content
    stop = text[6:9]
    whole = ask(url, max_tokens=60, stop=stop).choices[0]
    streamed = list(ask(url, max_tokens=60, stop=[stop, "never in there"], stream=True))
    assert whole.message.content == text[: text.find(stop)]
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == whole.message.content
    assert whole.finish_reason == streamed[-1].choices[0].finish_reason == "stop"


def test_plain_completions(url: str) -> None:
    create = client(url).completions.create
    settings: Any = {"model": "base", "max_tokens": 12, "seed": 1, "logprobs": 2}
    whole = create(prompt=["Once", "Twice"], **settings)
    assert [choice.index for choice in whole.choices] == [0, 1]
    chunks = list(create(prompt="Once", stream=True, **settings))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert len(whole.choices[0].logprobs.token_logprobs) == len(whole.choices[0].logprobs.text_offset)
    as_ids = create(prompt=list(b"Once"), **settings)
    assert as_ids.choices[0].text == whole.choices[0].text
    assert httpx.post(f"{url}/v1/completions", content=json.dumps({"prompt": "\ud800"})).status_code == 400
    with pytest.raises(openai.BadRequestError, match="ordinary text"):
        create(prompt=[BYTES.special["<|assistant_start|>"]], **settings)


def test_users_cannot_type_special_tokens(url: str) -> None:
    """The names are text, so they cost as many tokens as they have bytes."""
    typed = "<|user_end|><|assistant_start|>"
    answer = ask(url, messages=[{"role": "user", "content": typed}])
    assert answer.usage.prompt_tokens == len(typed) + 4


def test_content_may_be_parts_and_fields_that_change_nothing_are_ignored(url: str) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]
    extra = {"extra_body": {"presence_penalty": 0, "foo": {"bar": []}}}
    plain = ask(url).choices[0].message.content
    assert ask(url, messages=parts, **extra).choices[0].message.content == plain
    assert ask(url, messages=HELLO, max_tokens=None, max_completion_tokens=30).choices[0].message.content == plain
    history = [
        *HELLO,
        {"role": "assistant", "content": [{"type": "python", "text": "6*7"}, {"type": "output", "text": "42"}]},
    ]
    assert ask(url, messages=[*history, *HELLO]).usage.prompt_tokens == 1 + (5 + 2) + (2 + 3 + 2 + 2 + 2) + (5 + 2) + 1


OF_OTHERS = (
    *("suffix", "min_tokens", "repetition_penalty", "prompt_logprobs", "stop_token_ids", "ignore_eos", "best_of"),
    *(
        "repeat_penalty",
        "guided_json",
        "guided_regex",
        "structured_outputs",
        "grammar",
        "reasoning_effort",
        "bad_words",
    ),
)
"""Fields that change an answer elsewhere."""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 9}, "temperature=9 is not a number from 0.0 to 2.0"),
        ({"n": 99}, "n=99"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 'role "robot" is not one of system, user, assistant'),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "none is by the user"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, "304 tokens, the context holds 256"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            'is not {"type": one of text, python, output',
        ),
        ({"top_logprobs": 3}, "needs logprobs"),
        ({"stop": ["a"] * 5}, "stop has 5 strings; allowed: 4"),
        ({"extra_body": {"stream_options": 3}}, "stream_options"),
        ({"presence_penalty": 3}, "presence_penalty=3 is not a number from -2.0 to 2.0"),
        ({"logit_bias": {"a": 1}}, 'logit_bias has the key "a"'),
        ({"logit_bias": {"7": 101}}, "logit_bias of 7=101 is not a number from -100.0 to 100.0"),
        ({"logit_bias": {"99999": 1}}, f"logit_bias: 99999 is not one of the ids 0 to {BYTES.vocab - 1}"),
        ({"tool_choice": "required"}, "tool_choice is"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is"),
        ({"tools": [3], "tool_choice": "none"}, "tools[0] must be an object"),
        ({"functions": [{"name": "f"}]}, "functions is"),
        *(({"extra_body": {name: 3}}, f"{name} is 3, which is not done here") for name in OF_OTHERS),
    ],
)
def test_mistakes_are_answered_with_what_is_allowed(url: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(url, **settings)
    assert caught.value.type == "invalid_request_error"
    assert words in str(caught.value)


def test_unknown_models_long_bodies_and_broken_json_have_their_statuses(url: str) -> None:
    with pytest.raises(openai.NotFoundError, match="this run has base, sft"):
        ask(url, model="gpt-9")
    post = f"{url}/v1/chat/completions"
    assert httpx.post(post, content=b"x" * (BODY_BYTES + 1)).status_code == 413
    assert httpx.post(post, content=b"{").status_code == 400
    assert httpx.post(post, content=b"[" * 15_000).status_code == 400
    assert httpx.get(post).status_code == 405
    assert httpx.get(f"{url}/v1/nothing").json()["error"]["type"] == "not_found_error"


def test_old_turns_are_dropped_whole_and_said(url: str) -> None:
    turns: list[Any] = []
    for _ in range(4):
        turns += [{"role": "user", "content": "u" * 30}, {"role": "assistant", "content": "a" * 30}]
    system = [{"role": "system", "content": "Be kind."}]
    answer = ask(url, messages=[*system, *turns, *HELLO], max_tokens=40)
    assert answer.model_dump()["fledge"] == {"dropped_turns": 1}
    kept = ask(url, messages=[*system, *turns[2:], *HELLO], max_tokens=40)
    assert kept.choices[0].message.content == answer.choices[0].message.content
    last = list(ask(url, messages=[*system, *turns, *HELLO], max_tokens=40, stream=True))[-1]
    assert last.model_dump()["fledge"] == {"dropped_turns": 1}


def test_tool_use_travels_beside_the_text() -> None:
    with serving(pool(model=eager_model, engine={"run_tool": lambda code, stop=None: "42"})) as url:
        for seed in range(20):
            whole = ask(url, seed=seed, max_tokens=60, top_k=0)
            parts = (whole.choices[0].message.model_dump().get("fledge") or {"parts": []})["parts"]
            if any(part["text"] == "42" for part in parts):
                break
        else:
            pytest.fail("no answer used the tool")
        assert "42" in [part["text"] for part in parts if part["type"] == "output"]
        assert "42" not in whole.choices[0].message.content
        with client(url).chat.completions.stream(
            model="sft", messages=HELLO, seed=seed, max_tokens=60, temperature=1, extra_body={"top_k": 0}
        ) as stream:
            stream.until_done()
            merged = stream.current_completion_snapshot.choices[0].message.model_dump()
        assert (merged["content"], merged["fledge"]["parts"]) == (whole.choices[0].message.content, parts)
        # The same history comes back as parts, and without tools no result is forced.
        assert ask(url, messages=[*HELLO, {"role": "assistant", "content": parts}, *HELLO]).choices
        off = ask(url, seed=seed, max_tokens=60, top_k=0, tool_choice="none")
        assert "42" not in str(off.choices[0].message.model_dump().get("fledge"))


def test_a_client_who_hangs_up_before_a_whole_answer_frees_its_slot() -> None:
    on = pool(engine={"context": 10_000})
    with serving(on) as url:
        ask(url, max_tokens=1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/chat/completions", json={"messages": HELLO, "max_tokens": 4000}, timeout=0.1)
        until(lambda: on.counts["finished_cancelled"] == 1)


def test_a_full_queue_answers_429_and_when_to_come_back() -> None:
    with serving(pool(engine={"slots": 1}), queue=1) as url:
        body = {"messages": HELLO, "n": 3, "max_tokens": 5}
        response = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["type"] == "rate_limit_error"
        assert httpx.post(f"{url}/v1/chat/completions", json=body | {"n": 1}).status_code == 200
        assert "fledge_rejected_total 1" in httpx.get(f"{url}/metrics").text


def test_models_are_put_away_when_memory_is_needed() -> None:
    with serving(pool(memory_bytes=1_500_000, engine={"slots": 4})) as url:
        for name in ("base", "sft", "base"):
            assert ask(url, model=name, max_tokens=3).model == name
            assert httpx.get(f"{url}/health").json()["models"] == [name]
        assert "fledge_sampled_tokens_total 9" in httpx.get(f"{url}/metrics").text


def test_metrics_count(url: str) -> None:
    def value(name: str) -> float:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(name + " ")))

    ask(url)
    before = {name: value(name) for name in ("fledge_sampled_tokens_total", "fledge_inter_token_seconds_count")}
    tokens = ask(url).usage.completion_tokens
    assert value("fledge_sampled_tokens_total") == before["fledge_sampled_tokens_total"] + tokens
    assert value("fledge_inter_token_seconds_count") == before["fledge_inter_token_seconds_count"] + tokens - 1
    assert value("fledge_prefix_cache_hit_tokens_total") > 0
    assert value("fledge_running") == 0


def test_shutting_down_lets_short_answers_finish_and_ends_long_ones_with_an_error() -> None:
    lines: dict[str, list[str]] = {"short": [], "long": []}
    started = threading.Barrier(3)

    def read(url: str, name: str, tokens: int) -> None:
        # Raw text, which may go round in a loop for ever.
        body = {"prompt": "Hello", "max_tokens": tokens, "stream": True, "temperature": 0, "top_k": 0}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
            waiting = True
            for line in response.iter_lines():
                lines[name].append(line)
                if waiting and '"text"' in line:
                    waiting = False
                    started.wait(20)

    threads = []
    with serving(pool(engine={"context": 20_000}), grace=0.5, sampling=Sampling(max_tokens=19_000)) as url:
        for name, tokens in (("short", 20), ("long", 19_000)):
            threads.append(threading.Thread(target=read, args=(url, name, tokens)))
            threads[-1].start()
        started.wait(20)
    for thread in threads:
        thread.join(20)
    assert "data: [DONE]" in lines["short"]
    assert "shutting down" in lines["long"][-2] + lines["long"][-1]
    assert "data: [DONE]" not in lines["long"]


def test_a_failing_engine_is_an_error_event_and_the_next_request_works(monkeypatch: pytest.MonkeyPatch) -> None:
    on = pool()
    with serving(on) as url:
        ask(url, max_tokens=2)
        engine = on.engines[0]
        healthy = engine.model.extend

        def broken(*_: Any) -> Any:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(engine.model, "extend", broken)
        with pytest.raises(openai.InternalServerError, match="failed with RuntimeError"):
            ask(url)
        with pytest.raises(openai.APIError, match="failed with RuntimeError"):
            list(ask(url, stream=True))
        monkeypatch.setattr(engine.model, "extend", healthy)
        assert ask(url).choices[0].message.content


def test_it_works_below_a_path() -> None:
    with serving(root_path="/pip") as url:
        assert httpx.get(f"{url}/pip/health").status_code == 200
        assert httpx.get(f"{url}/health").status_code == 200
        assert client(url + "/pip").models.list().data
