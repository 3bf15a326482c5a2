"""Likelihoods of many rows at once."""

import random

import pytest
import torch

from fledge.evals import likelihood
from fledge.evals.likelihood import Row, likelihoods, plant
from fledge.model.attention import Past
from fledge.model.forward import Flat, InferenceModel
from fledge.model.transformer import ModelConfig, Transformer
from tiny_engine import Foreign

VOCAB = 50


def tiny(**extras) -> Transformer:
    """A model whose weights are all random; the untrained one would find everything equally likely."""
    config = ModelConfig(vocab=VOCAB, layers=3, width=32, heads=4, kv_heads=2, context=32, **extras)
    model = Transformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def one_by_one(model: Transformer, rows: list[Row]) -> list[list[float]]:
    found = []
    with torch.no_grad():
        for row in rows:
            logprobs = model(torch.tensor([row.ids]))[0].log_softmax(-1)
            found.append([float(logprobs[place - 1, row.ids[place]]) for place in range(row.start, len(row.ids))])
    return found


def family(seed: int) -> list[Row]:
    """Rows of every kinship: choices after one prompt, growing dialogues, one inside another, equal ones, strangers."""
    rng = random.Random(seed)

    def text(length: int) -> list[int]:
        return [rng.randrange(VOCAB) for _ in range(length)]

    rows = []
    for _ in range(4):
        prompt = text(rng.randint(1, 60))
        rows += [Row(prompt + text(rng.randint(1, 12)), len(prompt)) for _ in range(4)]
        story = list(prompt)
        for _ in range(3):
            story += text(rng.randint(1, 9))
            rows.append(Row(list(story), len(prompt)))
    rows += [rows[0], Row(text(1), 1), Row(text(5), 5)]
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize(
    "extras",
    [
        {},
        {"smear": True, "value_embeddings": True, "residual_scales": True, "pairs": 51},
        {"windows": "SL", "key_filter": True, "backout": True, "qk_scale": 1.2},
    ],
)
@pytest.mark.parametrize("device_tokens", [40, 300, 100_000])
def test_rows_judged_together_are_judged_as_if_alone(extras, device_tokens) -> None:
    model = tiny(**extras)
    rows = family(1)
    judged = likelihoods(model, iter(rows), device_tokens=device_tokens)
    for together, alone in zip(judged, one_by_one(model, rows), strict=True):
        assert together.logprobs == pytest.approx(alone, abs=2e-5)


def test_rows_are_judged_in_their_order_a_span_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, model = family(5), tiny()
    whole = list(likelihoods(model, rows))
    monkeypatch.setattr(likelihood, "SPAN_ROWS", 7)
    for left, right in zip(likelihoods(model, rows), whole, strict=True):
        assert left.logprobs == pytest.approx(right.logprobs, abs=2e-5)


@pytest.mark.parametrize("device_tokens", [1, 300, 100_000])
def test_a_foreign_model_is_judged_as_ours(device_tokens) -> None:
    rows, model = family(6), tiny()
    foreign = likelihoods(Foreign(model), rows, device_tokens=device_tokens)
    for left, right in zip(foreign, likelihoods(model, rows), strict=True):
        assert left.logprobs == pytest.approx(right.logprobs, abs=2e-5)
        assert left.is_greedy == right.is_greedy


def test_a_common_beginning_is_computed_once() -> None:
    prompt = [1] * 40
    rows = [Row([*prompt, choice, 7], 40) for choice in (2, 3, 4)]
    (tree,) = plant(rows, max_tokens=1000)
    assert len(tree.tokens) == 40 + 3  # after the last token of a row nothing is predicted
    assert tree.trunk == 40


def test_choices_of_one_token_need_their_prompt_alone() -> None:
    (tree,) = plant([Row([*[1] * 40, letter], 40) for letter in (2, 3, 4)], max_tokens=1000)
    assert len(tree.tokens) == tree.trunk == 40
    assert tree.asks == [(row, 39, letter) for row, letter in enumerate((2, 3, 4))]


def test_trees_hold_every_row_and_stay_below_the_limit() -> None:
    rows = family(2)
    longest = max(len(row.ids) for row in rows)
    trees = plant(rows, max_tokens=longest)
    assert all(len(tree.tokens) <= longest for tree in trees)
    asked = []
    for tree in trees:
        for row, place, token in tree.asks:
            ids = [token]
            while place >= 0:
                ids.append(tree.tokens[place])
                place = tree.previous[place]
            assert ids[::-1] == rows[row].ids[: len(ids)]
            asked.append((row, len(ids) - 1))
    assert sorted(asked) == [(n, place) for n, row in enumerate(rows) for place in range(row.start, len(row.ids))]


def test_a_row_is_greedy_when_every_token_was_the_likeliest() -> None:
    model = tiny()
    ids = [3, 4]
    with torch.no_grad():
        for _ in range(3):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    other = [*ids[:-1], (ids[-1] + 1) % VOCAB]
    right, wrong = likelihoods(model, [Row(ids, 2), Row(other, 2)])
    assert right.is_greedy
    assert not wrong.is_greedy


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Forward passes of more than 100 tokens run out of memory, as on a GPU; the tokens of each that was tried."""
    extend, tried = InferenceModel.extend, []

    def limited(self: InferenceModel, flat: Flat, past: Past) -> torch.Tensor:
        tried.append(len(flat.tokens_N))
        if tried[-1] > 100:
            raise torch.OutOfMemoryError("too much")
        return extend(self, flat, past)

    monkeypatch.setattr(InferenceModel, "extend", limited)
    return tried


def test_when_memory_runs_out_batches_are_halved_and_the_answers_stay(request: pytest.FixtureRequest) -> None:
    rows = family(3)
    whole = list(likelihoods(tiny(), rows))
    tried = request.getfixturevalue("small_memory")
    judged = list(likelihoods(tiny(), rows, device_tokens=250))
    assert max(tried) > 100
    for left, right in zip(judged, whole, strict=True):
        assert left.logprobs == pytest.approx(right.logprobs, abs=2e-5)


@pytest.mark.usefixtures("small_memory")
def test_one_row_too_large_for_the_memory_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        list(likelihoods(tiny(), [Row([1] * 200, 1)]))


def test_judging_leaves_the_model_in_its_mode_and_the_random_state_alone() -> None:
    model = tiny()
    model.train()
    state = torch.random.get_rng_state()
    rows = family(4)
    list(likelihoods(model, rows))
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state())
