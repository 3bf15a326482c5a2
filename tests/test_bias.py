"""Biases and penalties: added to the logits that an answer is drawn from, row by row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from fledge.infer.request import Request
from test_engine import BOS, END, prompts
from tiny_engine import asking, endless_model, tiny_engine

WAYS: list[dict[str, Any]] = [
    {},
    {"logit_bias": {65: 4.0, 66: -100.0, END: -100.0}},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.4, "temperature": 0},
    {"presence_penalty": -0.5, "frequency_penalty": 1.0, "logit_bias": {70: 2.5}, "top_k": 20},
]


def test_an_answer_with_a_bias_is_the_same_alone_and_in_company() -> None:
    model = endless_model(0)
    asked: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts(20, longest=30)]
    asked = [one | WAYS[place % len(WAYS)] for place, one in enumerate(asked)]

    def ask(place: int) -> Request:
        return asking(**asked[place], max_tokens=25, seed=place, tools=False)

    together = tiny_engine(model, slots=6, budget=17).generate([ask(place) for place in range(20)])
    for place, request in enumerate(together):
        assert request.answer == tiny_engine(model).generate([ask(place)])[0].answer


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_minus_100_is_never_and_100_always(temperature: float) -> None:
    engine = tiny_engine(endless_model(0))
    free = engine.generate([asking([BOS, 1], max_tokens=60, temperature=temperature, seed=3)])[0]
    common = [token for token, _ in Counter(free.answer).most_common(40)]
    never, always = engine.generate(
        [
            asking([BOS, 1], max_tokens=60, temperature=temperature, seed=3, logit_bias=dict.fromkeys(common, -100.0)),
            asking([BOS, 1], max_tokens=40, temperature=temperature, seed=3, logit_bias={200: 100.0}),
        ]
    )
    assert not {*common} & {*never.answer}
    assert {*always.answer} == {200}


def test_penalties_are_taken_from_the_logits_of_what_the_answer_has() -> None:
    """Of the answer alone: the prompt has the likeliest token already. What is reported is the model's own."""
    model, presence, frequency = endless_model(1), 1.25, 0.5
    prompt = [BOS, *range(40)]
    sampling: dict[str, Any] = {"presence_penalty": presence, "frequency_penalty": frequency, "temperature": 0}
    request = tiny_engine(model).generate([asking(prompt, max_tokens=40, top_logprobs=1, **sampling)])[0]
    tokens, counts = list(prompt), Counter[int]()
    with torch.no_grad():
        for logprob, (best,) in zip(request.logprobs, request.alternatives, strict=True):
            z_V = model(torch.tensor([tokens]))[0, -1]
            own_V = z_V.log_softmax(-1)
            for token, count in counts.items():
                z_V[token] -= presence + frequency * count
            tokens.append(int(z_V.argmax()))
            counts[tokens[-1]] += 1
            assert logprob == pytest.approx(float(own_V[tokens[-1]]), abs=1e-4)
            assert best == (int(own_V.argmax()), pytest.approx(float(own_V.max()), abs=1e-4))
    assert request.answer == tokens[len(prompt) :]
    assert len(counts) > len({*tiny_engine(model).generate([asking(prompt, max_tokens=40, temperature=0)])[0].answer})
