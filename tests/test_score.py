"""Scores of tasks, and the numbers they are made of."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch

from fledge.config import Sampling
from fledge.evals.results import Score, mean_and_error, mean_score
from fledge.evals.score import (
    Scorer,
    choose,
    pass_at_k,
    samples,
)
from fledge.model.attention import Past
from fledge.model.forward import Flat, InferenceModel
from fledge.model.head import LOGITS
from fledge.model.transformer import ModelConfig, Transformer
from fledge.sandbox.sandbox import NotJudged
from fledge.tasks.base import Example, Task
from fledge.text.chat import encode_prompt, say
from fledge.text.tokenizer import Tokenizer
from fledge.train.held_out import validation_bits_per_byte
from fledge.train.loop import Batch

TOKENIZER = Tokenizer([])


def tiny(kind: type[Transformer] = Transformer) -> Transformer:
    model = kind(ModelConfig(vocab=TOKENIZER.vocab, layers=2, width=32, heads=2, kv_heads=1, context=64))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def continuations() -> Task:
    examples = [
        Example(prompt=f"The {animal} lives in the", choices=(" den", " nest of straw", " sea"), answer=place)
        for place, animal in enumerate(("fox", "swallow", "herring"))
    ]
    return Task(name="toy/homes", load=lambda split: examples, chance=1 / 3)


def letters() -> Task:
    examples = [
        Example(messages=(say("user", f"{n}+1? A {n} B {n + 1}"), say("assistant", "B")), choices=("A", "B"), answer=1)
        for n in range(20)
    ]
    return Task(name="toy/letters", load=lambda split: examples, chance=0.5)


def test_the_choice_taken_is_the_likeliest_continuation(tmp_path) -> None:
    model, task = tiny(), continuations()
    score = Scorer(model, TOKENIZER, out=tmp_path, stage="base").score(task)
    lines = [json.loads(line) for line in (tmp_path / "base-toy-homes.jsonl").read_text().splitlines()]
    right = 0
    for example, line in zip(task.load("test"), lines, strict=True):
        bos, totals = TOKENIZER.special["<|bos|>"], []
        for choice in example.choices:
            ids = [bos, *TOKENIZER.encode(example.prompt + choice)]
            with torch.no_grad():
                logprobs = model(torch.tensor([ids]))[0].log_softmax(-1)
            start = 1 + len(
                TOKENIZER.encode(example.prompt + " ")
            )  # the space, which every choice begins with, is not judged
            totals.append(sum(float(logprobs[at - 1, ids[at]]) for at in range(start, len(ids))))
        assert line["log_likelihoods"] == pytest.approx(totals, abs=1e-4)
        assert line["choice"] == totals.index(max(totals))
        assert (line["task"], line["expected"], line["correct"]) == (
            task.name, example.answer, float(line["choice"] == example.answer),
        )  # fmt: skip
        right += line["correct"]
    assert score.accuracy == right / 3
    assert score.examples == 3


def test_letters_are_ranked_by_the_next_token(tmp_path) -> None:
    model, task = tiny(), letters()
    Scorer(model, TOKENIZER, out=tmp_path, stage="sft").score(task)
    lines = (tmp_path / "sft-toy-letters.jsonl").read_text().splitlines()
    for line, example in zip(lines, task.load("test"), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([encode_prompt(TOKENIZER, example.question)]))[0, -1]
        wanted = [TOKENIZER.encode(choice)[0] for choice in example.choices]
        assert json.loads(line)["choice"] == int(logits[wanted].argmax())


def test_letters_that_begin_with_one_token_are_judged_whole() -> None:
    example = Example(messages=(say("user", "?"), say("assistant", "xa")), choices=("xa", "xb"), answer=0)
    score = Scorer(tiny(), TOKENIZER).score(Task(name="toy", load=lambda split: [example]))
    assert score.examples == 1


def test_a_limit_keeps_the_first_of_the_seeded_shuffle() -> None:
    shuffled = list(range(100))
    random.Random(1337).shuffle(shuffled)
    examples = [Example(prompt=str(number)) for number in range(100)]
    chosen = choose(examples, 10)
    assert list(chosen) == sorted(shuffled[:10])
    assert all(example.prompt == str(index) for index, example in chosen.items())
    assert list(choose(examples, None)) == list(range(100)) == list(choose(examples, 1000))


def test_a_grader_that_raises_stops_the_run_and_shows_the_example() -> None:
    def grade(example: Example, answer: str) -> float:
        raise KeyError("story")

    task = Task(name="toy/broken", load=continuations().load, grade=grade)
    with pytest.raises(RuntimeError, match=r"toy/broken.*KeyError\('story'\).*The fox lives"):
        Scorer(tiny(), TOKENIZER).score(task)


def test_what_cannot_be_judged_is_neither_right_nor_wrong_and_is_counted(tmp_path) -> None:
    def grade(example: Example, answer: str) -> float:
        if example.answer == 1:
            raise NotJudged("the machine failed")
        return float(example.answer == 2)

    task = replace(continuations(), grade=grade, lenient=lambda example, answer: 1.0)
    score = Scorer(tiny(), TOKENIZER, out=tmp_path, stage="base").score(task)
    assert (score.accuracy, score.examples, score.not_judged, score.lenient) == (0.5, 2, 1, 1.0)
    lines = [json.loads(line) for line in (tmp_path / "base-toy-homes.jsonl").read_text().splitlines()]
    assert [line["correct"] for line in lines] == [0.0, None, 1.0]
    assert lines[1]["not_judged"] == ["the machine failed"]


def test_where_nothing_can_be_judged_there_is_no_score() -> None:
    def grade(example: Example, answer: str) -> float:
        raise NotJudged("the machine failed")

    with pytest.raises(RuntimeError, match=r"toy/homes: none of 3 answers could be judged \(the machine failed\)"):
        Scorer(tiny(), TOKENIZER).score(replace(continuations(), grade=grade))


def test_an_empty_split_and_equal_samples_are_refused() -> None:
    scorer = Scorer(tiny(), TOKENIZER)
    with pytest.raises(ValueError, match="the validation split is empty"):
        scorer.score(Task(name="toy", load=lambda split: []), split="validation")
    with pytest.raises(ValueError, match="temperature"):
        scorer.score(continuations(), samples=4)


def test_of_several_ranks_one_may_have_nothing_to_ask() -> None:
    assert Scorer(tiny(), TOKENIZER).answer(sums(), {}, [Sampling(temperature=0.0)]) == {}


def test_pass_at_k_is_unbiased() -> None:
    samples, right = 6, 2
    outcomes = [1] * right + [0] * (samples - right)
    for k in range(1, samples + 1):
        draws = [random.Random(seed).sample(outcomes, k) for seed in range(4000)]
        seen = sum(any(draw) for draw in draws) / len(draws)
        assert pass_at_k(samples, right, k) == pytest.approx(seen, abs=0.03)
    assert pass_at_k(2, 1, 1) == 0.5
    assert pass_at_k(5, 0, 5) == 0
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k(2, 1, 3)


def test_the_centered_mean_is_0_for_guessing_and_1_for_perfect() -> None:
    def score(accuracy: float, chance: float) -> Score:
        return Score(accuracy=accuracy, standard_error=0, examples=1, chance=chance, seconds=0)

    assert mean_score([score(0.25, 0.25), score(0, 0)]).accuracy == 0
    assert mean_score([score(1, 0.25), score(1, 0)]).accuracy == 1
    assert mean_score([score(0.25, 0.25), score(1, 0)]).accuracy == 0.5


def test_the_standard_error_of_a_share_is_that_of_the_binomial() -> None:
    mean, error = mean_and_error([1.0] * 30 + [0.0] * 70)
    assert mean == pytest.approx(0.3)
    assert error == pytest.approx(math.sqrt(0.3 * 0.7 / 99))


class Guessing(Transformer):
    """Finds every token equally likely."""

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*tokens_BT.shape, self.config.vocab)


def test_guessing_one_of_v_bytes_scores_log2_v_bits_and_special_tokens_do_not_count() -> None:
    bits, ids = math.log2(TOKENIZER.vocab), torch.zeros(2, 3, dtype=torch.long)

    def measured(bytes_BT: torch.Tensor) -> float:
        part = Batch(inputs_BT=ids, targets_BT=ids, weights_BT=bytes_BT.float(), tokens=0, cursor={})
        return validation_bits_per_byte(tiny(Guessing), [part])

    assert measured(torch.ones_like(ids)) == pytest.approx(bits)
    size = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert measured(size) == pytest.approx(bits)
    assert measured(size * 2) == pytest.approx(bits / 2)
    with pytest.raises(ValueError, match="no target"):
        measured(torch.zeros_like(ids))


def test_held_out_text_is_measured_with_all_pairs_read() -> None:
    config = ModelConfig(vocab=50, layers=1, width=32, heads=2, kv_heads=2, context=16, pairs=40)
    model, ids = (
        Transformer(config).init(seed=0),
        torch.randint(50, (3, 17), generator=torch.Generator().manual_seed(1)),
    )
    with torch.no_grad():
        model.pair_embedding.normal_(generator=torch.Generator().manual_seed(2))
        model.unembedding.normal_(generator=torch.Generator().manual_seed(3))
    model.pair_dropout = 0.5
    one = Batch(inputs_BT=ids[:, :-1], targets_BT=ids[:, 1:], weights_BT=torch.ones(3, 16), tokens=0, cursor={})
    assert validation_bits_per_byte(model.train(), [one]) == validation_bits_per_byte(model.eval(), [one])


def batch(rows: int, width: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(TOKENIZER.vocab, (rows, width + 1), generator=generator)
    weights = (torch.rand(rows, width, generator=generator) > 0.3).float()
    return Batch(inputs_BT=ids[:, :-1], targets_BT=ids[:, 1:], weights_BT=weights, tokens=0, cursor={})


@pytest.mark.parametrize("logits", [LOGITS, 20 * TOKENIZER.vocab])
def test_validation_bits_per_byte_is_that_of_all_tokens_together(logits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fledge.train.held_out.LOGITS", logits)  # 20 places of logits at once are two rows of 8
    sizes = torch.as_tensor(TOKENIZER.bytes_per_token)
    batches = [replace(part, weights_BT=sizes[part.targets_BT].float()) for part in (batch(5), batch(2))]
    model, nats = tiny(), []
    for part in batches:
        with torch.no_grad():
            logits = model(part.inputs_BT)
        nats.append(torch.nn.functional.cross_entropy(logits.transpose(1, 2), part.targets_BT, reduction="none"))
    nll_BT, bytes_BT = torch.cat(nats), torch.cat([part.weights_BT for part in batches])
    expected = float(nll_BT[bytes_BT > 0].sum()) / (math.log(2) * int(bytes_BT.sum()))
    assert validation_bits_per_byte(model, batches) == pytest.approx(expected, rel=1e-5)
    assert model.training


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward passes of more than 100 tokens run out of memory, as on a GPU."""
    extend = InferenceModel.extend

    def limited(self: InferenceModel, flat: Flat, past: Past) -> torch.Tensor:
        if len(flat.tokens_N) > 100:
            raise torch.OutOfMemoryError("too much")
        return extend(self, flat, past)

    monkeypatch.setattr(InferenceModel, "extend", limited)


def test_where_memory_runs_out_the_answers_stay(tmp_path, request: pytest.FixtureRequest) -> None:
    Scorer(tiny(), TOKENIZER, out=tmp_path, stage="plain").score(letters())
    request.getfixturevalue("small_memory")
    Scorer(tiny(), TOKENIZER, out=tmp_path, stage="short").score(letters())
    plain, short = (
        [json.loads(line) for line in (tmp_path / f"{stage}-toy-letters.jsonl").read_text().splitlines()]
        for stage in ("plain", "short")
    )
    assert [line["choice"] for line in plain] == [line["choice"] for line in short]


def sums() -> Task:
    """Free answers whose grade is 1 for any answer with an e in it: an untrained model can be right."""
    examples = [Example(messages=(say("user", f"{n}+{n}?"), say("assistant", str(2 * n)))) for n in range(6)]
    return Task(
        name="toy/sums", load=lambda split: examples, grade=lambda _, answer: float("e" in answer), max_tokens=24
    )


def test_what_is_answered_does_not_depend_on_the_company(tmp_path) -> None:
    model = tiny()
    for slots in (1, 8):
        scorer = Scorer(model, TOKENIZER, slots=slots, out=tmp_path, stage=f"slots{slots}")
        score = scorer.score(sums(), samples=4, temperature=1.0)
        assert set(score.pass_at) == {"1", "2", "4"}
        assert score.pass_at["1"] == pytest.approx(score.accuracy)
        assert 0 < score.pass_at["1"] < score.pass_at["4"]
    assert (tmp_path / "slots1-toy-sums.jsonl").read_text() == (tmp_path / "slots8-toy-sums.jsonl").read_text()
    assert model.training


def test_answers_follow_the_weights_of_the_moment(tmp_path) -> None:
    model = tiny()
    old = Scorer(model, TOKENIZER, out=tmp_path, stage="old")
    old.score(sums())
    before = (tmp_path / "old-toy-sums.jsonl").read_text()
    with torch.no_grad():
        model.unembedding.copy_(model.unembedding.flip(0))
    old.score(sums())
    Scorer(model, TOKENIZER, out=tmp_path, stage="new").score(sums())
    after = (tmp_path / "old-toy-sums.jsonl").read_text()
    assert after != before
    assert after == (tmp_path / "new-toy-sums.jsonl").read_text()


def test_samples_are_text_after_each_prompt_and_from_nothing() -> None:
    model = tiny()
    written = samples(model, TOKENIZER, prompts=("A", "The"), seed=0)
    assert [sample["prompt"] for sample in written] == ["A", "The", "", ""]
    assert written == samples(model, TOKENIZER, prompts=("A", "The"), seed=0)
    assert not any("<|" in sample["text"] for sample in written)
