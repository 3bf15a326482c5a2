"""Answers on their way from the engines' threads to the event loop.

    async with dispatcher.open(ask) as generation:
        async for update in generation.follow(): ...        # what is new in one choice, until every choice has finished

Leaving the loop early cancels the requests: that is how a client who hangs up frees its slots.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fledge.infer.grammar import Grammar, compile_schema
from fledge.infer.request import Request
from fledge.serve.api import ApiError, Ask
from fledge.serve.fields import Json
from fledge.serve.metrics import Histogram
from fledge.serve.pool import LoadedModel, ModelPool
from fledge.serve.site import LOG
from fledge.text.chat import Fitted, Part, PartReader, fit_prompt, join_pieces
from fledge.text.tokenizer import Tokenizer


@dataclass
class Update:
    """What is new in one choice."""

    index: int
    pieces: list[Part]
    logprobs: list[Json]
    finish: str = ""


class Choice:
    """One answer of a request, and how much of it the client has."""

    def __init__(
        self, index: int, request: Request, tokenizer: Tokenizer, *, plain: bool = False, echo: int | None = None
    ) -> None:
        """
        Args:
            plain: every token is prose, as in a text that is gone on with.
            echo: the place in the prompt from which it is repeated before the answer. None: nothing of it.
        """
        self.index, self.request, self.tokenizer, self.plain, self.echo = index, request, tokenizer, plain, echo
        self.reader = PartReader(tokenizer, request.stop)
        self.sent = 0
        self.done = False

    def advance(self) -> Update | None:
        """What came since the last call; None: nothing."""
        # The engine's thread appends to the answer first and sets `finish` last: read in the other order.
        finish = self.request.finish
        end = len(self.request.mask)
        if self.done or (end == self.sent and not finish):
            return None
        pieces, entries = self._repeat()
        for place in range(self.sent, end):
            token = self.request.answer[place]
            if finish == "tool_error" and place == end - 1 and not self.plain:
                break  # the mark of a result that the model made up
            pieces += self.reader.feed(token)
            is_prose = self.plain or (self.reader.kind == "text" and token not in self.reader.silent)
            if self.request.top_logprobs is not None and is_prose and self.request.mask[place]:
                entries.append(self._logprob(token, self.request.logprobs[place], self.request.alternatives[place]))
        self.sent = end
        if finish:
            self.done = True
            pieces += self.reader.flush()
        return Update(self.index, join_pieces(pieces, marks=True), entries, finish)

    def _repeat(self) -> tuple[list[Part], list[Json]]:
        """The prompt before an answer, once, and what the model says of it: nothing of a bos, before which nothing stands."""
        if self.echo is None:
            return [], []
        first, self.echo, request = self.echo, None, self.request
        said = [(None, []), *request.echoed] if request.echo else []
        entries = [self._logprob(token, *of) for token, of in [*zip(request.prompt, said, strict=False)][first:]]
        return [Part("text", self.tokenizer.decode(request.prompt[1:]))], entries

    def _logprob(self, token: int, logprob: float | None, likeliest: list[tuple[int, float]]) -> Json:
        """One entry of `logprobs.content`. `bytes` is exact where `token` had to replace half a character."""

        def entry(token: int, logprob: float | None) -> Json:
            raw = self.tokenizer.decode_bytes([token])
            # JSON knows no -inf: what is impossible is about as impossible as this.
            said = None if logprob is None else max(logprob, -9999.0)
            stands_for = [] if token in self.reader.silent else list(raw)
            return {"token": raw.decode("utf-8", "replace"), "logprob": said, "bytes": stands_for}

        return entry(token, logprob) | {"top_logprobs": [entry(*pair) for pair in likeliest]}


class Dispatcher:
    """Hands requests to engines and their answers to whoever waits for them."""

    def __init__(self, pool: ModelPool, *, queue: int) -> None:
        self.pool, self.queue = pool, queue
        self.closing = False
        """Whether the server is shutting down: nothing new begins, and what still runs then is cut off."""
        self.rejected = 0
        self.first_token = Histogram()
        self.between = Histogram()
        self._fresh: deque[asyncio.Event] = deque()
        self._scheduled = False

    @asynccontextmanager
    async def open(self, ask: Ask, *, client: str = "") -> AsyncIterator[Generation]:
        """A request with its model loaded and its prompts checked; nothing runs yet.

        Args:
            client: the address it came from.

        Raises:
            ApiError: unknown model, queue full, prompt too long, shutting down.
        """
        if self.closing:
            raise ApiError("the server is shutting down", status=503, retry_after=5)
        waiting = sum(len(engine.waiting) for engine in self.pool.engines)
        free = sum(len(engine.cache.slots.free) for engine in self.pool.engines)
        if waiting + ask.n * len(ask.prompts) > self.queue + free:
            self.rejected += 1
            raise ApiError(f"{waiting} requests are waiting; allowed: {self.queue}", status=429, retry_after=1)
        async with self.pool.borrow(ask.model) as model:
            if unknown := [token for token in ask.logit_bias if token >= self.pool.tokenizer.vocab]:
                raise ApiError(
                    f"logit_bias: {unknown[0]} is not one of the ids 0 to {self.pool.tokenizer.vocab - 1}",
                    param="logit_bias",
                )
            fitted = [self._fit(ask, prompt, model) for prompt in ask.prompts]
            grammar = await self._grammar(ask)
            bos = (self.pool.tokenizer.special["<|bos|>"],)
            choices: list[Choice] = []
            for prompt, fit in zip(ask.prompts, fitted, strict=True):
                # A bos that was put before the prompt is not repeated, one that the client gave is.
                echo = int(prompt[:1] != bos) if ask.echo else None
                for copy in range(ask.n):
                    request = Request(
                        prompt=fit.ids,
                        sampling=ask.sampling.nth(copy),
                        stop=ask.stop,
                        logit_bias=ask.logit_bias,
                        grammar=grammar and grammar.copy(),
                        tools=ask.tools and not model.entry.raw,
                        client=client,
                        top_logprobs=ask.top_logprobs,
                        echo=ask.echo and ask.top_logprobs is not None,
                    )
                    choices.append(Choice(len(choices), request, self.pool.tokenizer, plain=ask.plain, echo=echo))
            yield Generation(self, model, fitted, choices)

    async def _grammar(self, ask: Ask) -> Grammar | None:
        if ask.schema is None:
            return None
        try:
            return await asyncio.to_thread(compile_schema, ask.schema, self.pool.tokenizer)
        except ValueError as problem:
            raise ApiError(f"{ask.schema_field}: {problem}", param=ask.schema_field) from problem

    def _fit(self, ask: Ask, prompt: Any, model: LoadedModel) -> Fitted:
        tokenizer, context, code = self.pool.tokenizer, model.entry.context, "context_length_exceeded"
        bos = tokenizer.special["<|bos|>"]
        if not ask.plain:
            try:
                room = {"context": context, "max_tokens": ask.sampling.max_tokens}
                return fit_prompt(tokenizer, prompt, **room, raw=model.entry.raw)
            except ValueError as problem:
                raise ApiError(str(problem), param="messages", code=code) from problem
        ids = text_ids(tokenizer, prompt)
        ids = ids if ids[:1] == [bos] else [bos, *ids]
        if len(ids) >= context:
            what = f"the prompt has {len(ids)} tokens, the context holds {context} for prompt and answer"
            raise ApiError(what, param="prompt", code=code)
        return Fitted(ids, 0)

    def on_event(self, event: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
        """Called in an engine's thread; wakes the loop once for all that is new until it looks."""
        self._fresh.append(event)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False  # first: what an engine adds from here on is seen below or scheduled by itself
        while self._fresh:
            self._fresh.popleft().set()

    def measure(self, request: Request) -> None:
        """Note the latencies of a finished request."""
        if request.answer and request.first_token:
            self.first_token.observe(request.first_token - request.submitted)
            tokens = sum(request.mask) - 1
            if tokens > 0:
                self.between.observe((time.perf_counter() - request.first_token) / tokens, times=tokens)


def text_ids(tokenizer: Tokenizer, prompt: str | Sequence[int]) -> list[int]:
    """The ids of a text, or ids as they came: of ordinary tokens behind a <|bos|>, for a client cannot speak for the engine."""
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    ordinary = prompt[1:] if prompt[0] == tokenizer.special["<|bos|>"] else prompt
    if any(not 0 <= token < tokenizer.vocab - len(tokenizer.special) for token in ordinary):
        raise ApiError("prompt holds ids that are not tokens of ordinary text", param="prompt")
    return [*prompt]


@dataclass
class Generation:
    """A request about to run."""

    dispatcher: Dispatcher
    model: LoadedModel
    fitted: list[Fitted]
    choices: list[Choice]

    def dropped(self) -> Json:
        """How many exchanges were left out of the prompt, where any were, as clients are told."""
        left_out = self.fitted[0].dropped
        return {"fledge": {"dropped_turns": left_out}} if left_out else {}

    def usage(self) -> Json:
        """Counts of tokens, as clients get them."""
        prompt = sum(len(fit.ids) for fit in self.fitted)
        completion = sum(len(choice.request.answer) for choice in self.choices)
        totals = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        # Of the copies of one prompt the first pays; what the others reuse is no saving of the client's.
        copies = len(self.choices) // len(self.fitted)
        cached = sum(choice.request.cached for choice in self.choices[::copies])
        return totals | {"prompt_tokens_details": {"cached_tokens": cached}}

    async def follow(self) -> AsyncGenerator[Update]:
        """Run the request; yields what is new in each choice until all have finished.

        Raises:
            ApiError: the engine failed, or the server stops.
        """
        dispatcher, event, loop = self.dispatcher, asyncio.Event(), asyncio.get_running_loop()
        with ExitStack() as later:
            for choice in self.choices:
                engine = self.model.engine()
                later.callback(engine.cancel, choice.request)  # which does nothing to one that has finished
                engine.submit(choice.request, lambda _: dispatcher.on_event(event, loop))
            while not all(choice.done for choice in self.choices):
                await event.wait()
                event.clear()
                for choice in self.choices:
                    update = choice.advance()
                    if update is None:
                        continue
                    if update.finish:
                        self._check(choice.request)
                    yield update

    def _check(self, request: Request) -> None:
        self.dispatcher.measure(request)
        if request.error is not None:
            LOG.error("an answer failed", exc_info=request.error)  # here alone: messages may hold paths
            what = f"the engine failed with {type(request.error).__name__}; the server's log says more"
            raise ApiError(what, status=500, code="engine_error") from request.error
        if request.finish == "cancelled":  # not by the client, who would not be here any more
            raise ApiError("the server is shutting down", status=503, retry_after=5)

    async def complete(self) -> list[Update]:
        """Every choice as one update, when all have finished."""
        whole = [Update(choice.index, [], []) for choice in self.choices]
        async with aclosing(self.follow()) as stream:
            async for new in stream:
                said = whole[new.index]
                said.pieces += new.pieces
                said.logprobs += new.logprobs
                said.finish = new.finish
        return whole
