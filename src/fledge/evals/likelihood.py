"""How likely a model finds given continuations, many at a time.

    rows = [Row(ids=[*context, *answer], start=len(context)) for answer in answers]
    for likelihood in likelihoods(model, rows):
        likelihood.total, likelihood.is_greedy

Rows go through the engine as prompts of which it reports what the model says, and nothing is drawn. In the order of their tokens
those that begin alike come behind each other, and find their beginning in the cache: of the four choices of a question the first
computes it. What comes out equals one forward pass per row, up to rounding.

Other models than ours (anything that maps (B, T) ids to (B, T, V) logits) see whole rows, padded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from fledge.config import Sampling
from fledge.infer.cache import default_slots
from fledge.infer.engine import Engine
from fledge.infer.request import Request
from fledge.infer.sampling import Judged, judge
from fledge.model.head import LOGITS
from fledge.model.transformer import Transformer
from fledge.text.tokenizer import Tokenizer

DEVICE_TOKENS = 8192
"""Tokens per forward pass where nobody says otherwise; results do not depend on it."""
SPAN_ROWS = 2048
"""Rows among which common beginnings are looked for."""
SLOT_TOKENS = 128
"""A slot of the cache for so many tokens of a pass, so that less memory of one is less of the other."""


@dataclass(frozen=True)
class Row:
    """Tokens, of which those from `start` on are to be judged; start >= 1, since the first token has no prediction."""

    ids: list[int]
    start: int

    def __post_init__(self) -> None:
        assert 1 <= self.start <= len(self.ids), f"start {self.start} of a row of {len(self.ids)} tokens"


@dataclass
class Likelihood:
    """What the model says about the judged tokens of one row."""

    logprobs: list[float] = field(default_factory=list)
    """ln p of each, given all before it."""
    is_greedy: bool = True
    """Whether each was the likeliest token of all."""

    @property
    def total(self) -> float:
        """ln p of all judged tokens together."""
        return sum(self.logprobs)

    @property
    def mean_loss(self) -> float:
        """Mean -ln p per judged token; nan where none is judged."""
        return -self.total / len(self.logprobs) if self.logprobs else float("nan")


def likelihoods(model: Any, rows: Iterable[Row], *, device_tokens: int = DEVICE_TOKENS) -> Iterator[Likelihood]:
    """Judge `rows`, in their order, in passes of about `device_tokens` tokens; of half as many where memory runs out.

    Args:
        model: a `Transformer`, or a function from ids (B, T) to logits (B, T, V) with `vocab` and `device`.

    Raises:
        torch.OutOfMemoryError: not even one token at a time fits, or of another model one row.
    """
    rest = iter(rows)
    while span := list(islice(rest, SPAN_ROWS)):
        # By their tokens, and those of which nothing is asked left out.
        asked = sorted((n for n, row in enumerate(span) if row.start < len(row.ids)), key=lambda n: span[n].ids)
        judged: dict[int, list[Judged]] = {}
        while len(judged) < len(asked):
            try:
                judge_all = _judge_ours if isinstance(model, Transformer) else _judge_padded
                judged = dict(zip(asked, judge_all(model, [span[n] for n in asked], device_tokens), strict=True))
            except torch.OutOfMemoryError:
                if device_tokens == 1:
                    raise
                device_tokens //= 2
        for n, row in enumerate(span):
            said = judged.get(n, [])
            is_greedy = all(best == token for (_, [(best, _)]), token in zip(said, row.ids[row.start :], strict=True))
            yield Likelihood([logprob for logprob, _ in said], is_greedy)


def _judge_ours(model: Transformer, rows: Sequence[Row], device_tokens: int) -> list[list[Judged]]:
    context, dtype = max(len(row.ids) for row in rows) + 1, model.compute_dtype
    slots = min(default_slots(model, context, dtype), len(rows), -(-device_tokens // SLOT_TOKENS))
    settings: dict[str, Any] = {"slots": slots, "context": context, "budget": device_tokens, "dtype": dtype}
    engine, alone = Engine(model, Tokenizer([]), run_tool=None, **settings), Sampling(max_tokens=0)
    requests = [Request(prompt=row.ids, sampling=alone, echo=row.start, top_logprobs=1) for row in rows]
    for request in requests:
        request.tokens.pop()  # of what follows the last nothing is asked
    return [request.echoed for request in engine.generate(requests)]


def _judge_padded(model: Any, rows: Sequence[Row], device_tokens: int) -> Iterator[list[Judged]]:
    """Rows padded on the right, where a causal model cannot look."""
    most = min(device_tokens, LOGITS // model.vocab)
    rest = iter(rows)
    while batch := list(islice(rest, max(1, most // max(len(row.ids) for row in rows)))):
        ids_BT = pad_sequence([torch.tensor(row.ids, device=model.device) for row in batch], batch_first=True)
        for row, ids_T, logits_TV in zip(batch, ids_BT, model(ids_BT[:, :-1]).float(), strict=True):
            asked = slice(row.start, len(row.ids))
            yield judge(logits_TV[row.start - 1 : len(row.ids) - 1], ids_T[asked], best=1)


def common_prefix(*rows: Sequence[int]) -> int:
    """How many tokens the rows have in common from the beginning."""
    places = enumerate(zip(*rows, strict=False))
    return next((place for place, tokens in places if len(set(tokens)) > 1), min(map(len, rows)))
