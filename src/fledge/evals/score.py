"""A model scored on a task, and what the scores are made of.

    scorer = Scorer(model, tokenizer, out=run / "eval", stage="sft")
    score = scorer.score(find_task("arc-easy"), limit=200)
    score.accuracy, score.standard_error

A task's examples say how they are asked (tasks/base.py): continuations and letters are ranked by likelihood, chats are answered
freely through the engine and graded. Every example leaves one JSON line in `<out>/<stage>-<task>.jsonl`, so that two models or
two programs can be compared example by example. Measuring touches neither the model's mode nor global random state.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from fledge import ranks
from fledge.config import Sampling
from fledge.evals.likelihood import DEVICE_TOKENS, Likelihood, Row, common_prefix, likelihoods
from fledge.evals.results import Score, Suggestion, mean_and_error
from fledge.infer.engine import Engine
from fledge.infer.request import Request
from fledge.model.transformer import Transformer
from fledge.sandbox.sandbox import NotJudged
from fledge.storage import write_atomic
from fledge.tasks.base import SHUFFLE_SEED, Example, Task, shots
from fledge.text.chat import Conversation, Message, decode_answer, encode_prompt, fit_prompt
from fledge.text.split import Split
from fledge.text.tokenizer import Tokenizer

T = TypeVar("T")
Record = dict[str, Any]
"""How one example went, as it stands in its JSON line; "correct" is its grade in [0, 1], a list of them for several samples.

null where the answer could not be judged; "not_judged" then says why. "lenient" is the second grade, of tasks that have one."""


@dataclass
class Scorer:
    """Scores one model on any number of tasks."""

    model: Any
    """A `Transformer`, or a model of evals/hf.py (likelihoods only)."""
    tokenizer: Any
    """A `Tokenizer`, or that of evals/hf.py."""
    _: KW_ONLY
    device_tokens: int = DEVICE_TOKENS
    """Tokens per forward pass for likelihoods. Results do not change."""
    out: Path | None = None
    """Folder of the JSON lines; None: none are written."""
    stage: str = "model"
    """First part of their names."""
    slots: int | None = None
    """Answers generated at a time; None: the engine's choice, or as many as fit in memory. Results do not change."""
    engine: Engine | None = field(default=None, init=False)
    """Made when a task needs answers."""

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
            RuntimeError: the grader raised; the example is shown. Or no answer at all could be judged.
        """
        if samples > 1 and temperature == 0:
            raise ValueError(f"samples={samples} at temperature=0 are all alike; set a temperature, e.g. 0.8")
        begin = time.perf_counter()
        examples = choose(task.examples(split), limit, shuffled=task.shuffled)
        free = [index for index, example in examples.items() if example.form == "chat"]
        ways = [Sampling(temperature=temperature, top_k=0, max_tokens=task.max_tokens, seed=seed)] * samples
        if task.drawn:
            chat = Sampling(max_tokens=task.max_tokens, seed=seed)
            ways = [replace(chat, temperature=0.0), *[chat] * task.drawn]
        records = self.ask(task, examples, ways)
        self.write(task.name, [records[index] for index in sorted(records)])
        grades = {index: judged(record["correct"]) for index, record in records.items()}
        means = [statistics.fmean(found) for found in grades.values() if found]
        if not means:
            reasons = ", ".join({reason for record in records.values() for reason in record["not_judged"]})
            raise RuntimeError(f"task {task.name}: none of {len(records)} answers could be judged ({reasons})")
        accuracy, error = mean_and_error(means)
        truncated = sum(records[index]["truncated"] for index in free)
        second = [statistics.fmean(judged(record["lenient"])) for record in records.values() if "lenient" in record]
        return Score(
            accuracy=accuracy,
            standard_error=error,
            examples=len(means),
            chance=task.chance,
            seconds=time.perf_counter() - begin,
            truncated_share=truncated / max(1, len(ways) * len(free)),
            lenient=statistics.fmean(second) if second else None,
            not_judged=sum(len(record.get("not_judged", ())) for record in records.values()),
            pass_at=pass_at([grades[index] for index in free], samples),
            suggestions=[suggestion(examples[index], records[index]) for index in free if task.drawn],
        )

    def ask(self, task: Task, examples: Mapping[int, Example], ways: Sequence[Sampling]) -> dict[int, Record]:
        """The records of examples of a task, by their index: free ones are answered in each of the ways, others ranked."""
        free = {index: example for index, example in examples.items() if example.form == "chat"}
        own = self.rank(task, {index: example for index, example in examples.items() if index not in free})
        if free:
            own |= self.answer(task, dict(ranks.share(list(free.items()))), ways)
        return {record["index"]: record for part in ranks.gather(list(own.values())) for record in part}

    def write(self, task: str, records: Iterable[Record]) -> None:
        """One JSON line per example, replacing what an earlier evaluation of the stage left."""
        if self.out is not None and ranks.is_first():
            lines = (json.dumps({"task": task, **record}, ensure_ascii=False) + "\n" for record in records)
            write_atomic(self.out / f"{self.stage}-{task.replace('/', '-')}.jsonl", "".join(lines))

    def rank(self, task: Task, examples: Mapping[int, Example]) -> dict[int, Record]:
        """The records of examples that are ranked by likelihood, by their index; of several ranks each has its share."""
        shown = list(examples.values())
        own = ranks.share(list(enumerate(examples)))
        rows = (row for place, _ in own for row in self.rows(task, shown, place))
        judged = likelihoods(self.model, rows, device_tokens=self.device_tokens)
        return {
            index: ranked(task, shown[place], index, list(itertools.islice(judged, len(shown[place].texts))))
            for place, index in own
        }

    def rows(self, task: Task, examples: Sequence[Example], place: int) -> list[Row]:
        """What has to be judged to answer the example at `place`: one row per choice, alike up to where they begin to differ.

        What the choices of a continuation share cancels out of the comparison, so it is not judged. Letters are compared by
        their first token alone, which is the model's next-token distribution restricted to the letters; where first tokens
        coincide the whole choices are summed.
        """
        example, most = examples[place], getattr(self.model, "max_tokens", None)
        if example.form == "letter":
            own_format = getattr(self.tokenizer, "encode_prompt", None)  # of a foreign tokenizer (evals/hf.py)
            prompt = own_format(example.question) if own_format else encode_prompt(self.tokenizer, example.question)
            endings = [self.tokenizer.encode(choice) for choice in example.choices]
            if len({ids[0] for ids in endings}) == len(endings):
                endings = [ids[:1] for ids in endings]
            return [crop([*prompt, *ids], len(prompt), most) for ids in endings]
        solved = (one.texts[int(one.answer)] + "\n\n" for one in shots(examples, place, count=task.shots))
        before = "".join(solved)
        rows = [self._plain(before + text) for text in example.texts]
        if example.form == "beginning":
            same = common_prefix(*(row[::-1] for row in rows))
            return [crop(ids, len(ids) - same, most) for ids in rows]
        # Without its last blank the prompt is a prefix of the whole also in tokens: " Paris" is one token, " " another.
        prompt = [self._plain((before + example.prompt).strip())] if example.form == "exact" else []
        same = common_prefix(*prompt, *rows)
        return [crop(ids, same, most) for ids in rows]

    def _plain(self, text: str) -> list[int]:
        """Tokens of a document that begins with `text`."""
        return [self.tokenizer.special["<|bos|>"], *self.tokenizer.encode(text)]

    def answer(self, task: Task, examples: Mapping[int, Example], ways: Sequence[Sampling]) -> dict[int, Record]:
        """The records of examples that are answered freely, each in several ways, by their index."""
        requests = iter(self._converse(examples, ways))
        records = {}
        for index, example in examples.items():
            answered = list(itertools.islice(requests, len(ways)))
            texts = [self._said(request).text for request in answered]
            taught = example.reference.text if example.messages[-1].role == "assistant" else ""
            record = {
                "index": index,
                "asked": example.question[-1].text,
                "answer": texts[0] if len(ways) == 1 else texts,
                "expected": example.answer or taught,
                "truncated": sum(request.finish == "length" for request in answered),
            }
            records[index] = graded(task, example, texts, record)
        return records

    def _said(self, request: Request) -> Message:
        return Message("assistant", decode_answer(self.tokenizer, request.answer))

    def _converse(self, examples: Mapping[int, Example], ways: Sequence[Sampling]) -> list[Request]:
        """The last answers to all examples, in every way; turns before them are answered in the same way and not graded."""
        if not isinstance(self.model, Transformer):
            raise ValueError(
                "free answers need a model of fledge; others are scored by likelihood: core, arc-easy, mmlu ..."
            )
        turns, context = {index: turns_of(each.question) for index, each in examples.items()}, self.model.config.context
        drawn = [(index, n, way) for index in examples for n, way in enumerate(ways)]
        talks = [(index, replace(way, seed=draw_seed(way.seed, index, n))) for index, n, way in drawn]
        heard: list[Conversation] = [()] * len(talks)
        answered: dict[int, Request] = {}
        for turn in range(max(map(len, turns.values()), default=0)):  # of several ranks one may have none
            prompts: dict[int, list[int]] = {}
            for place, (index, way) in enumerate(talks):
                if turn == 0:
                    heard[place] = turns[index][0]
                    prompts[place] = encode_prompt(self.tokenizer, heard[place])
                elif turn < len(turns[index]):
                    heard[place] += (self._said(answered[place]), *turns[index][turn])
                    # What the model said may have filled the context: the beginning is left out then, as in a chat.
                    fitted = fit_prompt(self.tokenizer, heard[place], context=context, max_tokens=way.max_tokens)
                    prompts[place] = fitted.ids
            requests = self._generate([(prompt, talks[place][1]) for place, prompt in prompts.items()])
            answered |= zip(prompts, requests, strict=True)
        return list(answered.values())

    def _generate(self, asked: Sequence[tuple[list[int], Sampling]]) -> list[Request]:
        """All answers in one flow through the engine; where memory runs out, with half as many slots, and so on down to one."""
        while True:
            requests = [Request(prompt=prompt, sampling=sampling) for prompt, sampling in asked]
            try:
                self.engine = self.engine or Engine(self.model, self.tokenizer, slots=self.slots)
                self.engine.forget()  # the weights may have moved since it copied them
                return self.engine.generate(requests)
            except torch.OutOfMemoryError:
                if self.slots == 1:
                    raise
            self.engine, self.slots = None, max(1, (self.slots or 64) // 2)


def turns_of(question: Conversation) -> list[Conversation]:
    """A question cut behind each message of the user that the model has to answer before the next one."""
    unanswered = [place for place, pair in enumerate(itertools.pairwise(question), 1) if pair[0].role == pair[1].role]
    return [question[begin:end] for begin, end in itertools.pairwise([0, *unanswered, len(question)])]


def suggestion(example: Example, record: Record) -> Suggestion:
    """How often a conversation went right whose likeliest answer stands before those that were drawn."""
    likeliest, *drawn = (grade == 1.0 for grade in record["correct"])
    asked = [message.text for message in example.question if message.role == "user"]
    skill = example.facts["skill"]
    return Suggestion(skill=skill, asked=asked, likeliest=likeliest, right=sum(drawn), drawn=len(drawn))


def choose(examples: Sequence[T], limit: int | None, *, shuffled: bool = False) -> dict[int, T]:
    """Index -> example: all, or the first `limit` of a seeded shuffle, unless they are shuffled already."""
    indices = list(range(len(examples)))
    if limit is not None and limit < len(indices):
        if not shuffled:
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


def ranked(task: Task, example: Example, index: int, judged: Sequence[Likelihood]) -> Record:
    """The record of an example whose choices were judged: the likeliest is taken, of equals the first."""
    record: Record = {"index": index, "expected": example.answer}
    if example.form == "exact":
        choice, record["expected"] = (0 if judged[0].is_greedy else None), example.choices[0]
    else:
        losses = [each.mean_loss if task.per_token else -each.total for each in judged]
        choice = record["choice"] = losses.index(min(losses))
    record["log_likelihoods"] = [round(each.total, 6) for each in judged]
    record["tokens"] = [len(each.logprobs) for each in judged]
    return graded(task, example, [str(choice)], record)


def graded(task: Task, example: Example, answers: Sequence[str], record: Record) -> Record:
    """The record with the grade of each answer; raises as `Task.graded`."""
    grades, reasons = [], []
    for answer in answers:
        try:
            grades.append(task.graded(example, answer))
        except NotJudged as reason:
            grades.append(None)
            reasons.append(str(reason))
    found = {"correct": grades}
    if task.lenient:
        found["lenient"] = [task.lenient(example, answer) for answer in answers]
    if len(answers) == 1:
        found = {name: one for name, [one] in found.items()}
    return record | found | ({"not_judged": reasons} if reasons else {})


def judged(grades: float | list[float | None] | None) -> list[float]:
    """The grades of a record but for those of answers that could not be judged."""
    return [grade for grade in (grades if isinstance(grades, list) else [grades]) if grade is not None]


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Probability that one of k samples is right, unbiased: 1 - C(n - c, k) / C(n, k).

    Source: Chen et al. 2021, arXiv:2107.03374. Right 1 of 2: pass@1 = 0.5, pass@2 = 1.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs between 1 and {samples} samples for k")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_at(grades: Sequence[Sequence[float]], samples: int) -> dict[str, float]:
    """Mean pass@k of examples for k = 1, 2, 4 ... up to `samples`, by the grades of each one's answers that could be judged."""
    counts = [(len(found), list(found).count(1.0)) for found in grades]
    chances = {
        2**power: [pass_at_k(many, right, 2**power) for many, right in counts if many >= 2**power]
        for power in range(samples.bit_length())
    }
    return {str(k): statistics.fmean(found) for k, found in chances.items() if found}


def samples(model: Transformer, tokenizer: Tokenizer, *, prompts: Sequence[str], seed: int) -> list[dict[str, str]]:
    """What a base model writes, for the report: `prompt` and `text` of each.

    After each prompt the likeliest continuation; then, as `prompt` "", two texts drawn at temperature 1 from nothing.
    """
    asked = [*((prompt, 0.0) for prompt in prompts), *[("", 1.0)] * 2]
    requests = [
        Request(
            prompt=[tokenizer.special["<|bos|>"], *tokenizer.encode(prompt)],
            sampling=Sampling(max_tokens=64, temperature=temperature, top_k=0, seed=draw_seed(seed, place, 0)),
            tools=False,
        )
        for place, (prompt, temperature) in enumerate(asked)
    ]
    Engine(model, tokenizer, slots=len(requests)).generate(requests)
    texts = (Message("assistant", decode_answer(tokenizer, request.answer)).text for request in requests)
    return [{"prompt": prompt, "text": text} for (prompt, _), text in zip(asked, texts, strict=True)]
