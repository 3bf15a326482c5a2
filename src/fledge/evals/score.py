"""A model scored on a task, and what the scores are made of.

    scorer = Scorer(model, tokenizer, out=run / "eval", stage="sft")
    score = scorer.score(find_task("arc-easy"), limit=200)
    score.accuracy, score.standard_error

A task's examples say how they are asked (tasks/base.py): continuations and letters are ranked by likelihood, chats are answered
freely through the engine and graded. Every example leaves one JSON line in `<out>/<stage>-<task>.jsonl`, so that two models or
two programs can be compared example by example. Measuring changes nothing: the model gets back the mode it was in, and no
global random state is touched.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from fledge.config import Sampling
from fledge.evals.likelihood import (
    DEVICE_TOKENS,
    LOGITS,
    Likelihood,
    Row,
    common_prefix,
    evaluating,
    likelihoods,
    shrinking,
)
from fledge.evals.results import Score, mean_and_error
from fledge.model.transformer import Transformer
from fledge.tasks.base import Example, Task, shots
from fledge.text.chat import decode_answer, encode_prompt
from fledge.text.split import Split

if TYPE_CHECKING:
    from fledge.infer.engine import Engine, Request
    from fledge.text.tokenizer import Tokenizer
    from fledge.train.loop import Batch

BATCH_TOKENS = 2**21
"""Prompt tokens prepared at a time for ranking; bounds memory."""
SHUFFLE_SEED = 1337
"""`limit` keeps the first examples of this shuffle, as the public CORE code does."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one example went: its grade in [0, 1], and what goes into its JSON line."""

    grade: float
    record: dict[str, Any]
    passes: int = 0
    truncated: int = 0


class Scorer:
    """Scores one model on any number of tasks.

    Args:
        model: a `Transformer`, or a model of evals/hf.py (likelihoods only).
        tokenizer: a `Tokenizer`, or that of evals/hf.py.
        device_tokens: tokens per forward pass for likelihoods. Results do not change.
        slots: answers generated at a time; None: the engine's choice. Results do not change.
        out: folder of the JSON lines; None: none are written.
        stage: first part of their names.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        device_tokens: int = DEVICE_TOKENS,
        slots: int | None = None,
        out: Path | None = None,
        stage: str = "model",
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.device_tokens, self.slots, self.out, self.stage = device_tokens, slots, out, stage
        self.engine: Engine | None = None  # made when a task needs answers

    def score(
        self,
        task: Task,
        *,
        split: Split = "test",
        limit: int | None = None,
        samples: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Score:
        """Ask the task's examples and grade the answers.

        Args:
            limit: only the first so many of the seeded shuffle.
            samples: answers per example, for pass@k; examples ranked by likelihood have one.
            temperature: 0 takes the likeliest token; several samples need more than 0.
            seed: answer `n` to example `i` is drawn with a seed made of `seed`, `i` and `n` alone.

        Raises:
            ValueError: the split is empty, or several samples are asked for at temperature 0.
            RuntimeError: the grader raised; the example is shown.
        """
        if samples > 1 and temperature == 0:
            raise ValueError(f"samples={samples} at temperature=0 are all alike; set a temperature, e.g. 0.8")
        begin = time.perf_counter()
        examples = choose(task.load(split), limit, shuffled=task.shuffled)
        if not examples:
            raise ValueError(f"task {task.name}: the {split} split is empty; choose another split")
        free = {index: example for index, example in examples.items() if example.form == "chat"}
        ranked = {index: example for index, example in examples.items() if example.form != "chat"}
        outcomes = self.rank(task, ranked)
        if free:
            sampling = Sampling(temperature=temperature, top_k=0, max_tokens=task.max_tokens, seed=seed)
            outcomes |= self._answer(task, free, samples, sampling)
        ordered = [outcomes[index] for index in sorted(outcomes)]
        self._write(task.name, [outcome.record for outcome in ordered])
        accuracy, error = mean_and_error([outcome.grade for outcome in ordered])
        ks = [2**power for power in range(samples.bit_length())] if free else []
        passes = [outcomes[index].passes for index in free]
        return Score(
            accuracy=accuracy,
            standard_error=error,
            examples=len(ordered),
            chance=task.chance,
            seconds=time.perf_counter() - begin,
            truncated_share=sum(o.truncated for o in ordered) / (samples * len(free)) if free else 0.0,
            pass_at={str(k): statistics.fmean(pass_at_k(samples, right, k) for right in passes) for k in ks},
        )

    def _write(self, task: str, records: Iterable[Mapping[str, Any]]) -> None:
        """One JSON line per example, replacing what an earlier evaluation of the stage left."""
        if self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{self.stage}-{task.replace('/', '-')}.jsonl"
        lines = (json.dumps({"task": task, **record}, ensure_ascii=False) + "\n" for record in records)
        partial = path.with_suffix(".part")
        partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(path)

    def rank(self, task: Task, examples: Mapping[int, Example], *, count: int | None = None) -> dict[int, Outcome]:
        """Outcomes of examples that are ranked by likelihood, by their index.

        Args:
            count: only the first so many; the examples shown in their prompts still come from all.
        """
        all_examples, outcomes = list(examples.values()), {}
        waiting: dict[int, list[Row]] = {}

        def flush() -> None:
            rows = [row for some in waiting.values() for row in some]
            rest = iter(likelihoods(self.model, rows, device_tokens=self.device_tokens))
            for index, some in waiting.items():
                outcomes[index] = ranked(task, examples[index], index, [next(rest) for _ in some])
            waiting.clear()

        tokens = 0
        for place, index in enumerate(list(examples)[:count]):
            waiting[index] = self.rows(task, all_examples, place)
            tokens += sum(len(row.ids) for row in waiting[index])
            if tokens >= BATCH_TOKENS:
                flush()
                tokens = 0
        flush()
        return outcomes

    def rows(self, task: Task, examples: Sequence[Example], place: int) -> list[Row]:
        """What has to be judged to answer the example at `place`: one row per choice, alike up to where they begin to differ.

        What the choices of a continuation share cancels out of the comparison, so it is not judged. Letters are compared by
        their first token alone, which is the model's next-token distribution restricted to the letters; where first tokens
        coincide the whole choices are summed.
        """
        example, most = examples[place], getattr(self.model, "max_tokens", None)
        if example.form == "letter":
            prompt = self._prompt(example)
            endings = [self.tokenizer.encode(choice) for choice in example.choices]
            if len({ids[0] for ids in endings}) == len(endings):
                endings = [ids[:1] for ids in endings]
            return [crop([*prompt, *ids], len(prompt), most) for ids in endings]
        solved = (one.texts[int(one.answer)] + "\n\n" for one in shots(examples, place, count=task.shots))
        before = "".join(solved)
        rows = [self._plain(before + text) for text in example.texts]
        if example.form == "beginning":
            same = min(common_prefix(rows[0][::-1], ids[::-1]) for ids in rows)
            return [crop(ids, len(ids) - same, most) for ids in rows]
        # Without its last blank the prompt is a prefix of the whole also in tokens: " Paris" is one token, " " another.
        first = self._plain((before + example.prompt).strip()) if example.form == "exact" else rows[0]
        same = min(common_prefix(first, ids) for ids in rows)
        return [crop(ids, same, most) for ids in rows]

    def _plain(self, text: str) -> list[int]:
        """Tokens of a document that begins with `text`."""
        return [self.tokenizer.special["<|bos|>"], *self.tokenizer.encode(text)]

    def _prompt(self, example: Example) -> list[int]:
        """What a chat model is shown: our own format, or that of a foreign tokenizer (evals/hf.py)."""
        own_format = getattr(self.tokenizer, "encode_prompt", None)
        return own_format(example.question) if own_format else encode_prompt(self.tokenizer, example.question)

    def _answer(
        self, task: Task, examples: Mapping[int, Example], samples: int, sampling: Sampling
    ) -> dict[int, Outcome]:
        """Examples answered freely, all of them in one flow through the engine, and graded."""
        asked = [
            (prompt, replace(sampling, seed=draw_seed(sampling.seed, index, number)))
            for index, example in examples.items()
            for prompt in (self._prompt(example),)
            for number in range(samples)
        ]
        requests = self._generate(asked)
        rest = iter(requests)
        outcomes = {}
        for index, example in examples.items():
            texts, cut = [], 0
            for request in itertools.islice(rest, samples):
                parts = decode_answer(self.tokenizer, request.answer)
                texts.append("".join(part.text for part in parts if part.kind == "text"))
                cut += request.finish == "length"
            taught = example.reference.text if example.messages[-1].role == "assistant" else ""
            answer = texts[0] if samples == 1 else texts
            asked_last = example.question[-1].text
            record = {"index": index, "asked": asked_last, "answer": answer, "expected": example.answer or taught}
            outcomes[index] = graded(task, example, texts, record, truncated=cut)
        return outcomes

    def _generate(self, asked: Sequence[tuple[list[int], Sampling]]) -> list[Request]:
        """Answer the requests; where memory runs out, with half as many slots, and so on down to one."""
        from fledge.infer.engine import Engine, Request

        if not isinstance(self.model, Transformer):
            raise ValueError(
                "free answers need a model of fledge; others are scored by likelihood: core, arc-easy, mmlu ..."
            )
        with evaluating(self.model):
            while True:
                requests = [Request(prompt=prompt, sampling=sampling) for prompt, sampling in asked]
                try:
                    if self.engine is None:
                        self.engine = Engine(self.model, self.tokenizer, slots=self.slots)
                    else:
                        self.engine.forget()  # the weights may have moved since it copied them
                    return self.engine.generate(requests)
                except torch.OutOfMemoryError:
                    if self.slots == 1:
                        raise
                self.engine, self.slots = None, max(1, (self.slots or 64) // 2)


def choose(examples: Sequence[Example], limit: int | None, *, shuffled: bool = False) -> dict[int, Example]:
    """Index -> example: all, or the first `limit` of a seeded shuffle, unless they are shuffled already."""
    indices = list(range(len(examples)))
    if limit is not None and shuffled:
        indices = indices[:limit]
    elif limit is not None and limit < len(indices):
        random.Random(SHUFFLE_SEED).shuffle(indices)
        indices = sorted(indices[:limit])
    return {index: examples[index] for index in indices}


def draw_seed(seed: int | None, index: int, number: int) -> int:
    """A seed for one sample of one example, the same in whatever company it is drawn."""
    return random.Random(f"{seed}/{index}/{number}").getrandbits(62)


def crop(ids: list[int], start: int, most: int | None) -> Row:
    """The last `most` tokens, for models that can see no more; answers longer than that lose their beginning."""
    cut = max(0, len(ids) - most) if most is not None else 0
    return Row(ids[cut:], max(1, start - cut))


def ranked(task: Task, example: Example, index: int, judged: Sequence[Likelihood]) -> Outcome:
    """The outcome of an example whose choices were judged: the likeliest is taken, of equals the first."""
    record: dict[str, Any] = {"index": index, "expected": example.answer}
    if example.form == "exact":
        choice, record["expected"] = (0 if judged[0].is_greedy else None), example.choices[0]
    else:
        losses = [each.mean_loss if task.per_token else -each.total for each in judged]
        choice = record["choice"] = losses.index(min(losses))
    record["log_likelihoods"] = [round(each.total, 6) for each in judged]
    record["tokens"] = [len(each.logprobs) for each in judged]
    return graded(task, example, [str(choice)], record)


def graded(
    task: Task, example: Example, answers: Sequence[str], record: dict[str, Any], *, truncated: int = 0
) -> Outcome:
    """The outcome of an example: the mean grade of its answers.

    Raises:
        RuntimeError: the grader raised; a broken grader must not look like a wrong answer.
    """
    grades = []
    for answer in answers:
        try:
            grades.append(float(task.grade(example, answer)))
        except Exception as error:
            raise RuntimeError(
                f"task {task.name}: the grader raised {error!r} on example {record['index']}, answer {answer!r}; {example}"
            ) from error
    correct = grades[0] if len(grades) == 1 else grades
    mean, passes = statistics.fmean(grades), sum(grade == 1 for grade in grades)
    return Outcome(grade=mean, record={**record, "correct": correct}, passes=passes, truncated=truncated)


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Probability that one of k samples is right, unbiased: 1 - C(n - c, k) / C(n, k).

    Source: Chen et al. 2021, arXiv:2107.03374. Right 1 of 2: pass@1 = 0.5, pass@2 = 1.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs between 1 and {samples} samples for k")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def validation_bits_per_byte(model: Any, batches: Iterable[Batch]) -> float:
    """Loss per byte of text rather than per token, so that tokenizers can be compared.

    Args:
        batches: of `validation_batches`, weights being bytes; targets that stand for 0 bytes (special, padding) are left out.
            Rows go through the model as many at a time as memory holds.

    Returns:
        sum(nll) / (ln 2 * sum(bytes)). Guessing 256 equally likely bytes scores 8; lower is better.

    Raises:
        ValueError: no target stands for any byte.

    Source: bits per UTF-8 byte as in Gao et al. 2020, arXiv:2101.00027.
    """
    nats, count = 0.0, 0
    with evaluating(model):
        for batch in batches:
            at_once = max(1, min(len(batch.weights_BT), LOGITS // (batch.inputs_BT.size(1) * model.config.vocab)))

            def work(rows: Sequence[int], batch: Batch = batch) -> float:
                chosen = list(rows)
                targets_N, bytes_N = batch.targets_BT[chosen].flatten(), batch.weights_BT[chosen].flatten()
                logits_BTV = model(batch.inputs_BT[chosen])
                nll_N = F.cross_entropy(logits_BTV.flatten(0, 1), targets_N, reduction="none")
                return float(nll_N[bytes_N > 0].double().sum())

            for first in range(0, len(batch.weights_BT), at_once):
                nats += sum(shrinking(work, range(first, min(first + at_once, len(batch.weights_BT)))))
            count += int(batch.weights_BT.double().sum())
    if count == 0:
        raise ValueError(
            "no target stands for any byte of text; measure on text, not on special tokens or padding alone"
        )
    return nats / (math.log(2) * count)


def samples(model: Any, tokenizer: Tokenizer, *, prompts: Sequence[str], seed: int) -> list[dict[str, str]]:
    """What a base model writes, for the report: `prompt` and `text` of each.

    After each prompt the likeliest continuation; then, as `prompt` "", two texts drawn at temperature 1 from nothing.
    """
    from fledge.infer.engine import Engine, Request

    bos = tokenizer.special["<|bos|>"]
    asked = [(prompt, 0.0) for prompt in prompts] + [("", 1.0)] * 2
    requests = [
        Request(
            prompt=[bos, *tokenizer.encode(prompt)],
            sampling=Sampling(max_tokens=64, temperature=temperature, top_k=0, seed=draw_seed(seed, place, 0)),
            tools=False,
        )
        for place, (prompt, temperature) in enumerate(asked)
    ]
    with evaluating(model):
        Engine(model, tokenizer, slots=len(requests)).generate(requests)
    special = set(tokenizer.special.values())
    written = []
    for (prompt, _), request in zip(asked, requests, strict=True):
        ids = list(request.answer)
        end = next((place for place, token in enumerate(ids) if token in special), len(ids))
        written.append({"prompt": prompt, "text": tokenizer.decode(ids[:end])})
    return written
