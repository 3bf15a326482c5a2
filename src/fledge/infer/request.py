"""A request to the engine: what is asked, and the answer as it grows.

request = Request(prompt=ids, sampling=Sampling(seed=7), stop=("\\n",))
engine.submit(request, on_event)                # request.answer grows in the engine's thread until request.finish is set
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from fledge.config import Sampling
from fledge.infer.grammar import Grammar
from fledge.infer.sampling import Judged, judge, seed_key
from fledge.text.chat import PartReader


@dataclass(eq=False, kw_only=True)
class Request:
    """One answer wanted, and the answer as it grows."""

    prompt: list[int]
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of some tokens: -100 is never, 100 always."""
    grammar: Grammar | None = None
    """What the answer must be like; its own, for it follows the answer."""
    tools: bool = True
    client: str = ""
    """Who asks: one client's calls of tools must not keep others waiting. Empty: no bound."""
    top_logprobs: int | None = None
    """Likeliest alternatives to report per sampled token; 0: its own log-probability alone. None: neither."""
    as_drawn: bool = False
    """Whether reported log-probabilities are of what was drawn from, with its temperature and cuts; else the model's own."""
    echo: bool = False
    """Whether to report the same of the prompt, all of which is computed for that."""

    answer: list[int] = field(default_factory=list)
    """Tokens after the prompt, forced tool output included."""
    mask: list[int] = field(default_factory=list)
    """1: sampled, 0: forced."""
    logprobs: list[float] = field(default_factory=list)
    """ln p under the model itself (temperature 1, nothing truncated) or `as_drawn`, if `top_logprobs` asks; 0 where forced."""
    alternatives: list[list[tuple[int, float]]] = field(default_factory=list)
    """The likeliest (token, ln p) at each place, if `top_logprobs` asks."""
    echoed: list[Judged] = field(default_factory=list)
    """Of the prompt's tokens from the second on, if `echo` asks."""
    finish: str = ""
    """"" while running, then stop, length, tool_error, cancelled or error."""
    error: BaseException | None = None
    cached: int = 0
    """Prompt tokens found in the cache."""
    submitted: float = 0.0
    first_token: float = 0.0
    """Times on `time.perf_counter`'s clock."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt has no tokens; it begins with <|bos|> at least")
        self.tokens = list(self.prompt)
        seed = self.sampling.seed
        self.key = seed_key(secrets.randbits(63) if seed is None else seed)
        self.computed, self.slot, self.cancelled = 0, -1, False
        self.bias_V: Tensor | None = None
        self.tool: Future[str] | None = None
        self.reader: PartReader | None = None
        self.on_event: Callable[[Request], None] = lambda _: None

    def append(self, tokens: list[int], *, sampled: bool) -> None:
        """Let the answer grow."""
        self.tokens += tokens
        self.answer += tokens
        if self.reader is not None:
            for token in tokens:
                self.reader.feed(token)
        self.mask += [int(sampled)] * len(tokens)  # last: readers in other threads go by its length


def judge_rows(rows: Sequence[Request], logits_RV: Tensor, tokens_R: Tensor) -> list[Judged]:
    """What the model says of one token for each request, with as many of the likeliest as that one wants to see."""
    judged = judge(logits_RV, tokens_R, best=max(request.top_logprobs or 0 for request in rows))
    return [(logprob, best[: request.top_logprobs]) for request, (logprob, best) in zip(rows, judged, strict=True)]
