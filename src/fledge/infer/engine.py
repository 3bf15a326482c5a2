"""The engine: many answers at once, for chat, server, evaluation and reinforcement learning.

    engine = Engine(model, tokenizer)
    requests = engine.generate([Request(prompt=ids, sampling=Sampling(seed=7)), ...])       # evaluation, rollouts
    engine.start(); engine.submit(request, on_event); engine.close()        # server: a thread that steps while there is work

One rule drives everything: a request's tokens are the truth and `computed` counts how many of them are in the KV cache. A step
gives every running request its missing tokens (a chunk of the prompt, a tool's result, or the one token just sampled) in one
flat forward pass, and samples for those that are complete. Prefill, decoding, tool output, a conversation that goes on and
the 16 rollouts of one question are the same code.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fledge.infer.cache import SlotCache, default_slots
from fledge.infer.check import find_kernel, inference_model
from fledge.infer.gpu import DecodingSteps, FlatCache, Kernel
from fledge.infer.grammar import masked
from fledge.infer.request import Request, judge_rows
from fledge.infer.sampling import Settings, draw, in_a_loop, row_keys, tempered
from fledge.model.forward import Flat
from fledge.model.transformer import Transformer
from fledge.sandbox.calls import ToolPool
from fledge.sandbox.tools import Tool
from fledge.sandbox.tools import run_tool as run_calculator
from fledge.text.chat import PartReader
from fledge.text.tokenizer import Tokenizer

IDLE_SECONDS = 0.5  # an idle engine looks up this often, in case it was not woken
ECHOED = 2**25  # logits of echoed prompts in one step (128 MiB)


class Engine:
    """Continuous batching over one model on one device. Not for calls from several threads, but for submit and cancel."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        slots: int | None = None,
        context: int | None = None,
        budget: int | None = None,
        run_tool: Tool | None = run_calculator,
        dtype: torch.dtype | None = None,
        kernel: Kernel | Literal["auto"] | None = "auto",
    ) -> None:
        """
        Args:
            slots: answers computed at the same time. None: as `default_slots` says.
            context: most tokens of prompt and answer together. None: the model's.
            budget: most prompt tokens in one step; bounds how long running answers wait for a new prompt.
            run_tool: (code, stop) -> result, called in another thread. None: code is never run.
            dtype: of weights and cache. None: bfloat16 on CUDA, else float32.
            kernel: attends rows of any lengths at once (infer/gpu.py), and decoding steps are recorded. "auto": torch's, on a
                GPU where it works. None: rows are attended in groups of similar length.
        """
        config, device = model.config, model.embedding.device
        self.tokenizer, self.tools = tokenizer, ToolPool(run_tool) if run_tool else None
        self.device, self.context = device, context or config.context
        self.dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        slots = slots or default_slots(model, self.context, self.dtype)
        self.budget = budget or (8192 if device.type == "cuda" else 1024)
        self.model = inference_model(model, dtype=self.dtype, context=self.context)
        room = {"slots": slots, "context": self.context, "device": device, "dtype": self.dtype}
        if kernel == "auto":
            kernel = find_kernel(model, dtype=self.dtype)
        self.decoding: DecodingSteps | None = None
        if kernel is None:
            self.cache = SlotCache(config, **room)
        else:
            self.cache = FlatCache(config, **room, kernel=kernel)
            self.decoding = DecodingSteps(self.model, self.cache, most=slots)
        special = tokenizer.special
        self.ends = {special["<|assistant_end|>"], special["<|bos|>"]}
        self.python_start, self.python_end = special["<|python_start|>"], special["<|python_end|>"]
        self.output_start, self.output_end = special["<|output_start|>"], special["<|output_end|>"]
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.counts: Counter[str] = Counter()
        """Totals since the start: steps, requests, prompt, cached, sampled and forced tokens."""
        self.wake = threading.Event()
        self.thread: threading.Thread | None = None
        self.closed = self.cancelling = False
        self._drawn: tuple[list[Request], Settings, np.ndarray] | None = None

    def generate(self, requests: Sequence[Request]) -> list[Request]:
        """Answer all requests, batched; raises what a tool or the model raised."""
        assert self.thread is None, "the engine is serving; submit to it instead"
        for request in requests:
            self.submit(request)
        while not all(request.finish for request in requests):
            self._step_or_sleep()
        for request in requests:
            if request.error is not None:
                raise request.error
        return list(requests)

    def forget(self) -> None:
        """The model's weights have changed: copy them, and drop all cached keys."""
        assert not self.running, "requests are running on the old weights"
        self.model.refresh()
        self.cache.slots.forget()
        if self.decoding is not None:
            self.decoding.forget()

    def start(self) -> None:
        """Serve submitted requests from a thread of its own until `close`."""
        self.thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self.thread.start()

    def submit(self, request: Request, on_event: Callable[[Request], None] = lambda _: None) -> None:
        """Queue a request; `on_event` is called in the engine's thread whenever its answer grew or it finished."""
        request.on_event, request.submitted = on_event, time.perf_counter()
        if request.stop:
            request.reader = PartReader(self.tokenizer, request.stop)
        self.counts["requests"] += 1
        self.waiting.append(request)
        self.wake.set()

    def cancel(self, request: Request) -> None:
        """End a request before the next step, with finish reason "cancelled"."""
        request.cancelled = self.cancelling = True
        self.wake.set()

    def close(self) -> None:
        """Cancel what is left and stop the thread."""
        self.closed = True
        self.wake.set()
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        for request in [*self.running, *self.waiting]:
            self._end(request, "cancelled")
        if self.tools is not None:
            self.tools.close()

    @property
    def bytes(self) -> int:
        """Memory of weights and cache."""
        return self.model.bytes + self.cache.bytes

    def step(self) -> bool:
        """One forward pass for whoever has tokens to compute; False when there is nothing to do."""
        self._sweep()
        self._admit()
        rows = self._plan()
        if not rows:
            return False
        ready, logits_RV = self._compute(rows)
        self.counts["steps"] += 1
        if ready:
            self._sample(ready, logits_RV)
        return True

    # Scheduling

    def _sweep(self) -> None:
        """End what was cancelled, bring in what tools have answered."""
        if self.cancelling:
            self.cancelling = False
            for request in [*self.running, *self.waiting]:
                if request.cancelled:
                    self._end(request, "cancelled")
        for request in list(self.running):
            if request.tool is not None and request.tool.done():
                self._take_result(request, request.tool)

    def _admit(self) -> None:
        """Give slots to waiting requests. One whose prefix another is just computing waits for it; the next may pass.

        Each is always in one of the two lists: other threads count them, to choose the engine with the least to do.
        """
        place = 0
        while place < len(self.waiting):
            request = self.waiting[place]
            if len(request.prompt) >= self.context or (request.sampling.max_tokens < 1 and not request.echo):
                self._end(request, "length")
            elif not self.cache.slots.free:
                break
            elif (found := self.cache.acquire(request.prompt, reuse=not request.echo)) is None:
                place += 1
            else:
                request.slot, request.computed = found
                request.cached = request.computed
                self._bias(request)
                self.counts["prompt_tokens"] += len(request.prompt)
                self.counts["cached_tokens"] += request.cached
                self.running.append(request)
                self.waiting.remove(request)

    def _plan(self) -> list[tuple[Request, int]]:
        """Who computes how many tokens: every decoding request its one, prompts and results share the budget in order."""
        rows: list[tuple[Request, int]] = []
        left, echoes = self.budget, max(1, ECHOED // self.model.config.vocab)
        for request in self.running:
            count = len(request.tokens) - request.computed
            if count > 1:
                count = min(count, left, echoes if request.echo else left)
                left -= count
                echoes -= count * request.echo
            if count:
                rows.append((request, count))
        return sorted(rows, key=lambda row: (row[1], row[0].slot))  # the order in which the cache attends fastest

    def _compute(self, rows: list[tuple[Request, int]]) -> tuple[list[Request], Tensor]:
        """One forward pass: the requests that are complete after it, and their logits."""
        slots, starts, counts = np.array([(request.slot, request.computed, count) for request, count in rows]).T
        tokens: list[int] = []
        previous: list[int] = []
        ready, last, echoing, places = [], [], [], []
        for request, count in rows:
            start, known, first = request.computed, request.tokens, len(tokens)
            tokens += known[start : start + count]
            previous += known[start - 1 : start + count - 1] if start else [-1, *known[: count - 1]]
            if request.echo:
                told = request.prompt[start + 1 :][:count]
                echoing += [(request, token) for token in told]
                places += range(first, first + len(told))
            request.computed += count
            if request.computed == len(known) and request.tool is None:
                ready.append(request)
                last.append(len(tokens) - 1)
        places += last
        if self.decoding is not None and len(tokens) == len(rows):
            logits_RV = self.decoding(np.array(tokens), np.array(previous), slots, starts)
            return ready, self._echo(echoing, logits_RV if places == [*range(len(rows))] else logits_RV[places])
        self.cache.plan(slots, starts, counts)
        flat = Flat(
            tokens_N=torch.tensor(tokens, device=self.device),
            previous_N=torch.tensor(previous, device=self.device),
            positions_N=self.cache.position_N,
            last_R=torch.tensor(places, dtype=torch.int64, device=self.device),
        )
        return ready, self._echo(echoing, self.model.extend(flat, self.cache))

    def _echo(self, echoing: list[tuple[Request, int]], logits_RV: Tensor) -> Tensor:
        """Note what the first rows say of tokens of prompts; the rows that are left."""
        if echoing:
            requests, tokens = zip(*echoing, strict=True)
            judged = judge_rows(requests, logits_RV[: len(echoing)], torch.tensor(tokens, device=self.device))
            for request, found in zip(requests, judged, strict=True):
                request.echoed.append(found)
        return logits_RV[len(echoing) :]

    # Sampling and what follows from a token

    @torch.inference_mode()
    def _sample(self, ready: list[Request], logits_RV: Tensor) -> None:
        if self._drawn is None or self._drawn[0] != ready:
            keys = np.array([request.key for request in ready], np.uint64)
            self._drawn = (ready, Settings.of([request.sampling for request in ready], self.device), keys)
        _, settings, keys = self._drawn
        positions = np.array([request.computed for request in ready])
        row_keys_R2 = None if settings.temperature_R1 is None else row_keys(keys, positions, self.device)
        biased_RV = masked(self._biased(ready, logits_RV), ready)
        tokens_R = draw(biased_RV, settings, row_keys_R2)
        if any(request.top_logprobs is not None for request in ready):
            self._report(ready, logits_RV, tokens_R, drawn_RV=tempered(biased_RV, settings))
        self.counts["sampled_tokens"] += len(ready)  # before anyone hears of them: who then asks finds them counted
        now = time.perf_counter()
        for request, token in zip(ready, tokens_R.tolist(), strict=True):
            if not request.answer:
                request.first_token = now
            self._push(request, token)

    def _bias(self, request: Request) -> None:
        """Make room for what is added to its logits, where it asks for that."""
        sampling, bias = request.sampling, request.logit_bias
        if bias or sampling.presence_penalty or sampling.frequency_penalty:
            request.bias_V = torch.zeros(self.model.config.vocab, device=self.device)
            request.bias_V[[*bias]] = torch.tensor([*bias.values()], device=self.device)

    def _biased(self, ready: list[Request], logits_RV: Tensor) -> Tensor:
        """The logits as requests want them drawn from; what is reported is the model's own."""
        rows = [row for row, request in enumerate(ready) if request.bias_V is not None]
        if rows:
            logits_RV = logits_RV.clone()
            logits_RV[rows] += torch.stack([bias_V for request in ready if (bias_V := request.bias_V) is not None])
        return logits_RV

    def _report(self, ready: list[Request], logits_RV: Tensor, tokens_R: Tensor, *, drawn_RV: Tensor) -> None:
        """Note the log-probabilities of the drawn tokens and of the likeliest, for those who asked."""
        as_drawn_R1 = torch.tensor([[request.as_drawn] for request in ready], device=self.device)
        judged = judge_rows(ready, torch.where(as_drawn_R1, drawn_RV, logits_RV), tokens_R)
        for request, (logprob, likeliest) in zip(ready, judged, strict=True):
            if request.top_logprobs is not None:
                request.logprobs.append(logprob)
                request.alternatives.append(likeliest)

    def _push(self, request: Request, token: int) -> None:
        """Append a sampled token and act on it."""
        if request.sampling.max_tokens < 1:  # an echo alone
            self._end(request, "length")
            return
        if request.error is not None:
            self._end(request, "error")
            return
        sampling = request.sampling
        if request.bias_V is not None and (sampling.presence_penalty or sampling.frequency_penalty):
            again = token in request.answer
            request.bias_V[token] -= sampling.frequency_penalty + (0.0 if again else sampling.presence_penalty)
        request.append([token], sampled=True)
        if request.grammar is not None:
            request.grammar.take(token)
        if token in self.ends or token in request.stop_tokens:
            self._end(request, "stop")
        elif token == self.output_start:
            self._end(request, "tool_error")  # only the engine may say what a tool returned
        elif (request.reader is not None and request.reader.stopped) or self._is_stuck(request):
            self._end(request, "stop")
        elif len(request.answer) >= request.sampling.max_tokens or len(request.tokens) >= self.context:
            self._end(request, "length")
        else:
            if token == self.python_end and request.tools and self.tools is not None:
                self._call(request, self.tools)
            request.on_event(request)

    def _is_stuck(self, request: Request) -> bool:
        """Raw text may repeat itself, and what follows a grammar is not whole before that says so."""
        return request.tools and request.grammar is None and in_a_loop(request.answer)

    def _call(self, request: Request, tools: ToolPool) -> None:
        """Run the code that has just ended in another thread; nothing where none was begun."""
        marks = [place for place, token in enumerate(request.answer) if token in (self.python_start, self.python_end)]
        if len(marks) > 1 and request.answer[marks[-2]] == self.python_start:
            code = self.tokenizer.decode(request.answer[marks[-2] + 1 : -1])
            request.tool = tools.submit(code, client=request.client)
            request.tool.add_done_callback(lambda _: self.wake.set())

    def _take_result(self, request: Request, tool: Future[str]) -> None:
        """Force a tool's result into the answer, as much of it as fits."""
        request.tool = None
        if (error := tool.exception()) is not None:
            self._end(request, "error", error)
            return
        forced = [self.output_start, *self.tokenizer.encode(tool.result()), self.output_end]
        room = min(request.sampling.max_tokens - len(request.answer), self.context - len(request.tokens))
        fits = forced[:room]
        if request.top_logprobs is not None:
            request.logprobs += [0.0] * len(fits)
            request.alternatives += [[] for _ in fits]
        request.append(fits, sampled=False)
        self.counts["forced_tokens"] += len(fits)
        if len(fits) == room:
            self._end(request, "length")
        else:
            request.on_event(request)

    def _end(self, request: Request, why: str, error: BaseException | None = None) -> None:
        if request.tool is not None:
            request.tool.cancel()
        if request.slot >= 0:
            self.cache.slots.release(request.slot, request.tokens[: request.computed])
            self.running.remove(request)
            request.slot = -1
        elif request in self.waiting:
            self.waiting.remove(request)
        request.error, request.finish = error, why
        self.counts[f"finished_{why}"] += 1
        request.on_event(request)

    # The serving thread

    def _serve(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # a thread begins on the first GPU, whichever its engine has
        while not self.closed:
            try:
                self._step_or_sleep()
            except Exception as error:
                # Whoever was in the failed step is told; those who still wait get a fresh start.
                for request in list(self.running):
                    self._end(request, "error", error)
                self.cache.slots.forget()

    def _step_or_sleep(self) -> None:
        if not self.step():
            self.wake.wait(IDLE_SECONDS)
            self.wake.clear()  # what was asked for before is seen by the step that follows
