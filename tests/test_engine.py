"""The engine: whatever it batches, chunks, reuses or waits for, each answer is the one the model gives alone."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fledge.infer.engine import Engine
from fledge.infer.request import Request
from fledge.infer.sampling import LOOP, PERIOD, in_a_loop
from fledge.model.transformer import Transformer
from fledge.sandbox.calls import ToolPool
from tiny_engine import BYTES, EXTRAS, asking, tiny_engine, tiny_model

SPECIAL = BYTES.special
BOS, END = SPECIAL["<|bos|>"], SPECIAL["<|assistant_end|>"]
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"heads": 4, "kv_heads": 2},
    "windows": {"windows": "S", "layers": 3, "context": 64},
    "extras": EXTRAS,
    "all": {**EXTRAS, "heads": 4, "kv_heads": 1, "windows": "SL", "layers": 3},
}


def naive(model: Transformer, prompt: list[int], *, steps: int) -> list[int]:
    """Greedy decoding by full forward passes."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
            if tokens[-1] in (BOS, END):
                break
    return tokens[len(prompt) :]


def prompts(count: int, *, longest: int, seed: int = 1) -> list[list[int]]:
    rng = random.Random(seed)
    return [[BOS, *(rng.randrange(256) for _ in range(rng.randrange(longest)))] for _ in range(count)]


def scripted(engine: Engine, monkeypatch: pytest.MonkeyPatch, script: Callable[[Request], int]) -> None:
    """Let `script` choose the tokens instead of the distribution."""

    def draw(logits: torch.Tensor, settings: Any, keys: Any) -> torch.Tensor:
        ready = engine._drawn[0] if engine._drawn else []
        return torch.tensor([script(request) for request in ready])

    monkeypatch.setattr("fledge.infer.engine.draw", draw)


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_answers_equal_the_argmax_of_full_forwards(shape: str) -> None:
    model = tiny_model(**SHAPES[shape])
    questions = prompts(14, longest=40)
    # Shared beginnings, a repetition and a continuation: what is reused must not show.
    questions += [questions[0], [*questions[0], 5, 6, 7], [*questions[1][:20], 9], [BOS]]
    engine = tiny_engine(model, slots=4, budget=23)
    requests = engine.generate([asking(prompt=q, max_tokens=12, temperature=0, tools=False) for q in questions])
    made_up = SPECIAL["<|output_start|>"]
    for request, question in zip(requests, questions, strict=True):
        expected = naive(model, question, steps=12)
        if made_up in expected:
            expected = expected[: expected.index(made_up) + 1]
        assert request.answer == expected
    assert len(engine.cache.slots.free) == 4
    assert not engine.running


@pytest.mark.parametrize("shape", SHAPES)
def test_a_conversation_that_goes_on_reuses_its_keys_exactly(shape: str) -> None:
    model = tiny_model(**SHAPES[shape])
    engine = tiny_engine(model, slots=3)
    first = engine.generate([asking(prompt=[BOS, 1, 2, 3], max_tokens=10, temperature=0)])[0]
    longer = [BOS, 1, 2, 3, *first.answer, 7, 8]
    second = engine.generate([asking(prompt=longer, max_tokens=6, temperature=0)])[0]
    assert second.cached == len(longer) - 3  # all but the last sampled token and the two new ones
    assert second.answer == tiny_engine(model).generate([asking(prompt=longer, max_tokens=6, temperature=0)])[0].answer
    # A branch after an edit copies the common beginning into another slot and leaves the first branch where it is.
    edited = [*longer[:8], 99]
    branch = engine.generate([asking(prompt=edited, max_tokens=6, temperature=0)])[0]
    assert branch.cached == 8
    assert branch.answer == tiny_engine(model).generate([asking(prompt=edited, max_tokens=6, temperature=0)])[0].answer
    assert engine.generate([asking(prompt=longer, max_tokens=1, temperature=0)])[0].cached == len(longer) - 1


def test_an_answer_does_not_depend_on_what_else_runs() -> None:
    model = tiny_model(smear=True, key_filter=True)
    asked = [BOS, 1, 2, 3]

    def answer(company: int, *, slots: int, seed: int = 7) -> list[int]:
        others = [asking(prompt=[BOS, i], max_tokens=30, seed=i) for i in range(company)]
        mine = asking(prompt=asked, max_tokens=40, seed=seed, top_k=50)
        tiny_engine(model, slots=slots, budget=7).generate([*others, mine])
        return mine.answer

    alone = answer(0, slots=1)
    assert alone == answer(9, slots=6) == answer(30, slots=16)
    assert alone != answer(0, slots=1, seed=8)


def test_rollouts_of_one_question_compute_its_prompt_once() -> None:
    engine = tiny_engine(slots=16, budget=512)
    prompt = [BOS, *range(60)]
    requests = engine.generate([asking(prompt=prompt, max_tokens=5, seed=seed) for seed in range(16)])
    assert [request.cached for request in requests] == [0] + [len(prompt) - 1] * 15
    assert len({tuple(request.answer) for request in requests}) > 8


def test_whoever_counts_an_engines_requests_misses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while one is given its slot, and one has to wait for another's prompt."""
    engine, counted = tiny_engine(slots=8, budget=4), []
    acquire = engine.cache.acquire

    def counting(*prompt: Any, **how: Any) -> tuple[int, int] | None:
        counted.append(len(engine.running) + len(engine.waiting))
        return acquire(*prompt, **how)

    monkeypatch.setattr(engine.cache, "acquire", counting)
    same = prompts(1, longest=30)[0] * 2
    engine.generate([asking(prompt=prompt, max_tokens=6) for prompt in [same, same, *prompts(3, longest=9)]])
    assert counted[:5] == [5] * 5


def test_forgetting_takes_over_changed_weights() -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    engine = tiny_engine(model)
    request: dict[str, Any] = {"prompt": [BOS, *range(20)], "max_tokens": 8, "temperature": 0.0}
    before = engine.generate([asking(**request)])[0]
    model.load_state_dict(other.state_dict())
    engine.forget()
    after = engine.generate([asking(**request)])[0]
    assert after.cached == 0
    assert after.answer == tiny_engine(other).generate([asking(**request)])[0].answer != before.answer


def test_the_context_ends_an_answer_with_length() -> None:
    engine = tiny_engine(tiny_model(), context=24)
    for size in (1, 23, 24, 25, 200):
        request = engine.generate([asking(prompt=[BOS] * size, max_tokens=100, seed=3, stop_tokens=())])[0]
        assert request.finish in ("length", "stop", "tool_error")
        assert len(request.tokens) <= max(24, size)
        if size >= 24:
            assert (request.finish, request.answer) == ("length", [])


def test_logprobs_are_those_of_the_full_forward() -> None:
    model = tiny_model()
    request = asking(prompt=[BOS, 4, 5], max_tokens=20, seed=5, temperature=0.7, top_k=20, top_logprobs=3)
    tiny_engine(model).generate([request])
    with torch.no_grad():
        logprobs = model(torch.tensor([request.tokens]))[0].log_softmax(-1)[2:-1]
    expected = logprobs.gather(-1, torch.tensor(request.answer)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(request.logprobs), expected, atol=1e-4, rtol=1e-4)
    for place, best in enumerate(request.alternatives):
        assert [token for token, _ in best] == logprobs[place].topk(3).indices.tolist()


def test_a_tool_result_is_forced_in_and_never_blocks_others(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, steps_meanwhile = [], []

    def slow_tool(code: str, stop: threading.Event | None = None) -> str:
        codes.append(code)
        before = engine.counts["steps"]
        deadline = time.monotonic() + 5
        while engine.counts["steps"] < before + 3 and time.monotonic() < deadline:
            time.sleep(0.002)
        steps_meanwhile.append(engine.counts["steps"] - before)
        return "42"

    engine = tiny_engine(slots=2, run_tool=slow_tool)
    call = [SPECIAL["<|python_start|>"], *b"6*7", SPECIAL["<|python_end|>"]]
    result = [SPECIAL["<|output_start|>"], *b"42", SPECIAL["<|output_end|>"]]
    script = iter([*call, ord("A"), END])
    scripted(engine, monkeypatch, lambda request: next(script) if request.sampling.seed == 1 else len(request.answer))
    asked = asking(prompt=[BOS, 1], seed=1, max_tokens=64, top_logprobs=0)
    other = asking(prompt=[BOS, 2], seed=2, max_tokens=60)
    engine.generate([asked, other])
    assert codes == ["6*7"]
    assert steps_meanwhile[0] >= 3
    assert asked.answer == [*call, *result, ord("A"), END]
    assert asked.mask == [1] * len(call) + [0] * len(result) + [1, 1]
    assert asked.logprobs[len(call) : len(call) + len(result)] == [0.0] * len(result)
    assert (asked.finish, other.finish, len(other.answer)) == ("stop", "length", 60)


def test_after_a_tool_result_decoding_continues_as_the_full_forward_would() -> None:
    model = tiny_model(key_filter=True, smear=True)
    call = [SPECIAL["<|python_start|>"], *b"1+1", SPECIAL["<|python_end|>"]]
    result = [SPECIAL["<|output_start|>"], *b"2", SPECIAL["<|output_end|>"]]
    engine = tiny_engine(model)
    request = asking(prompt=[BOS, 1], max_tokens=30, temperature=0)
    # The model does not call the tool by itself: put the call into its mouth.
    request.tokens += call
    request.answer += call
    request.mask += [1] * len(call)
    engine._call(request, ToolPool(lambda code, stop=None: {"1+1": "2"}[code]))
    engine.generate([request])
    assert request.answer[: len(call) + len(result)] == call + result
    after = request.answer[len(call) + len(result) :]
    assert after == naive(model, [BOS, 1, *call, *result], steps=len(after))


def test_a_made_up_tool_result_ends_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine(slots=1)
    script = iter([65, SPECIAL["<|output_start|>"]])
    scripted(engine, monkeypatch, lambda request: next(script))
    request = engine.generate([asking(prompt=[BOS])])[0]
    assert (request.finish, request.answer, request.mask) == ("tool_error", [65, SPECIAL["<|output_start|>"]], [1, 1])


def test_a_tool_that_raises_stops_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(code: str, stop: threading.Event | None = None) -> str:
        raise RuntimeError("no such tool")

    engine = tiny_engine(slots=1, run_tool=broken)
    script = iter([SPECIAL["<|python_start|>"], SPECIAL["<|python_end|>"]])
    scripted(engine, monkeypatch, lambda request: next(script))
    with pytest.raises(RuntimeError, match="no such tool"):
        engine.generate([asking(prompt=[BOS])])
    assert len(engine.cache.slots.free) == 1


def test_a_cancelled_answer_ends_its_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(_: str, stop: threading.Event) -> str:
        begun.set()
        if stop.wait(60):
            ended.set()
        return ""

    engine = tiny_engine(slots=1, run_tool=endless)
    script = iter([SPECIAL["<|python_start|>"], SPECIAL["<|python_end|>"]])
    scripted(engine, monkeypatch, lambda request: next(script))
    request = asking(prompt=[BOS])
    engine.submit(request)
    while not begun.is_set():
        engine.step()
    engine.cancel(request)
    engine.step()
    assert request.finish == "cancelled"
    assert ended.wait(5)


def test_a_long_tool_result_fills_what_room_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine(slots=1, run_tool=lambda code, stop=None: "9" * 500)
    script = iter([SPECIAL["<|python_start|>"], SPECIAL["<|python_end|>"]])
    scripted(engine, monkeypatch, lambda request: next(script))
    request = engine.generate([asking(prompt=[BOS], max_tokens=20)])[0]
    assert (request.finish, len(request.answer), sum(request.mask)) == ("length", 20, 2)


def test_stop_strings_and_stop_tokens_end_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine(slots=1)
    ways: list[dict[str, Any]] = [{"stop": ("cd",)}, {"stop": ("x", "bcd")}, {"stop_tokens": (ord("d"),)}]
    for settings in ways:
        script = iter(b"abcdefg")
        scripted(engine, monkeypatch, lambda request, script=script: next(script))
        request = engine.generate([asking(prompt=[BOS], max_tokens=7, **settings)])[0]
        assert (request.finish, bytes(request.answer)) == ("stop", b"abcd")


@pytest.mark.parametrize("period", [1, 3, PERIOD])
def test_an_answer_that_goes_round_in_a_loop_ends_and_raw_text_goes_on(
    monkeypatch: pytest.MonkeyPatch, period: int
) -> None:
    engine = tiny_engine(context=256)
    scripted(engine, monkeypatch, lambda request: 97 + len(request.answer) % period if len(request.answer) > 5 else 65)
    answer, text = asking([BOS, 65], max_tokens=100), asking([BOS, 65], max_tokens=100, tools=False)
    engine.generate([answer, text])
    assert (answer.finish, text.finish) == ("stop", "length")
    assert LOOP <= len(answer.answer) <= LOOP + 6
    assert len(text.answer) == 100


def test_what_is_counted_off_is_no_loop() -> None:
    assert not in_a_loop([token for number in range(100) for token in (48 + number // 10, 48 + number % 10, 44)])


def test_served_requests_stream_and_cancel() -> None:
    model = tiny_model()
    engine = tiny_engine(model, slots=2)
    engine.start()
    try:
        seen: list[int] = []
        done = threading.Event()

        def on_event(request: Request) -> None:
            seen.append(len(request.answer))
            if request.finish:
                done.set()

        request = asking(prompt=[BOS, 3], max_tokens=12, temperature=0)
        engine.submit(request, on_event)
        assert done.wait(10)
        assert request.answer == naive(model, [BOS, 3], steps=12)[: len(request.answer)]
        assert seen[0] == 1
        assert seen == sorted(seen)
        # Running and waiting requests alike end before the step after the one in progress.
        endless = [asking(prompt=[BOS, i], max_tokens=10**6, seed=i) for i in range(6)]
        for each in endless:
            engine.submit(each, lambda _: None)
        for each in reversed(endless):
            engine.cancel(each)
        steps, patience = engine.counts["steps"], time.monotonic() + 30
        while not all(each.finish for each in endless) and time.monotonic() < patience:
            time.sleep(0.001)
        assert {each.finish for each in endless} == {"cancelled"}
        assert engine.counts["steps"] - steps <= 1
        assert len(engine.cache.slots.free) == 2
    finally:
        engine.close()


def test_a_failing_step_ends_its_requests_with_the_error_and_the_next_ones_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = tiny_engine(slots=2)
    healthy = engine.model.extend
    finished = threading.Event()

    def broken(*_: Any) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine.model, "extend", broken)
    engine.start()
    try:
        request = asking(prompt=[BOS, 3])
        engine.submit(request, lambda r: finished.set() if r.finish else None)
        assert finished.wait(10)
        assert (request.finish, str(request.error)) == ("error", "out of memory")
        monkeypatch.setattr(engine.model, "extend", healthy)
        finished.clear()
        request = asking(prompt=[BOS, 3], max_tokens=3)
        engine.submit(request, lambda r: finished.set() if r.finish else None)
        assert finished.wait(10)
        assert request.error is None
    finally:
        engine.close()
