"""How likely a model finds given continuations, many at a time.

    rows = [Row(ids=[*context, *answer], start=len(context)) for answer in answers]
    for likelihood in likelihoods(model, rows):
        likelihood.total, likelihood.is_greedy

Rows that begin alike are computed once: rows sorted by their tokens are laid out as trees, where the four choices of a question
are four branches of one trunk, and the questions about one story branches of that story. A token attends to its ancestors.
Trees of like size go through the model together, and the unembedding sees only the positions somebody asks about. What comes
out equals one forward pass per row, up to rounding.

Other models than ours (anything that maps (B, T) ids to (B, T, V) logits) get padded batches of rows of like length instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge.infer.check import inference_model
from fledge.model.attention import attend
from fledge.model.forward import Flat, InferenceModel
from fledge.model.transformer import ModelConfig, Transformer

DEVICE_TOKENS = 8192
"""Tokens per forward pass where nobody says otherwise; results do not depend on it."""
LOGITS = 2**26
"""Most logits held at once (256 MiB in float32), so that a large vocabulary does not decide over memory."""
SPAN_TOKENS = 2**21
"""Tokens among which common beginnings are looked for; bounds what the trees take."""
SHARED = 0.5
"""A row joins the tree before it when it shares this part of the shorter of the two: less would cost more than it saves."""

Piece = TypeVar("Piece")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """Tokens, of which those from `start` on are to be judged; start >= 1, since the first token has no prediction."""

    ids: list[int]
    start: int

    def __post_init__(self) -> None:
        assert 1 <= self.start <= len(self.ids), f"start {self.start} of a row of {len(self.ids)} tokens"


@dataclass(frozen=True)
class Likelihood:
    """What the model says about the judged tokens of one row."""

    logprobs: list[float]
    """ln p of each, given all before it."""
    is_greedy: bool
    """Whether each was the likeliest token of all."""

    @property
    def total(self) -> float:
        """ln p of all judged tokens together."""
        return sum(self.logprobs)

    @property
    def mean_loss(self) -> float:
        """Mean -ln p per judged token; nan where none is judged."""
        return -self.total / len(self.logprobs) if self.logprobs else float("nan")


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without gradients and in evaluation mode; afterwards the model is as it was."""
    was_training = isinstance(model, nn.Module) and model.training
    if was_training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if was_training:
            model.train()


def likelihoods(model: Any, rows: Sequence[Row], *, device_tokens: int = DEVICE_TOKENS) -> list[Likelihood]:
    """Judge `rows`, in their order, in batches of about `device_tokens` tokens; a batch that does not fit in memory is halved.

    Args:
        model: a `Transformer`, or a function from ids (B, T) to logits (B, T, V) with `vocab` and `device`.

    Raises:
        torch.OutOfMemoryError: not even one tree (or row) at a time fits.
    """
    found: dict[int, Likelihood] = {}

    with evaluating(model):
        fused: InferenceModel | None = None
        if isinstance(model, Transformer):  # copied anew for each call: a model in training is judged as it is now
            longest = max((len(row.ids) for row in rows), default=1)
            fused = inference_model(model, dtype=model.compute_dtype, context=longest)

        def judge(batch: Sequence[Any]) -> dict[int, Likelihood]:
            return judge_rows(model, batch) if fused is None else _judge_trees(fused, batch)

        for span in _spans(rows):
            if isinstance(model, Transformer):
                trees = plant(span, max_tokens=device_tokens)
                batches = _tree_batches(trees, device_tokens, model.config.vocab)
            else:
                batches = _row_batches(span, device_tokens, model.vocab)
            for batch in batches:
                for result in shrinking(judge, batch):
                    found |= result
    return [found[place] for place in range(len(rows))]


def _spans(rows: Sequence[Row]) -> Iterator[dict[int, Row]]:
    """The rows with their places, about SPAN_TOKENS at a time."""
    span: dict[int, Row] = {}
    tokens = 0
    for place, row in enumerate(rows):
        span[place] = row
        tokens += len(row.ids)
        if tokens >= SPAN_TOKENS:
            yield span
            span, tokens = {}, 0
    if span:
        yield span


def shrinking(work: Callable[[Sequence[Piece]], Result], pieces: Sequence[Piece]) -> list[Result]:
    """The results of `work` on all pieces at once, or on halves where memory runs out."""
    try:
        return [work(pieces)]
    except torch.OutOfMemoryError:
        if len(pieces) == 1:
            raise
    # Outside of `except`, so that the traceback no longer holds the tensors that did not fit.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(pieces) // 2
    return shrinking(work, pieces[:middle]) + shrinking(work, pieces[middle:])


@dataclass
class Tree:
    """Rows laid over each other; tokens in the order of a depth-first walk, so that an ancestor lies before its descendants.

    The rows `a b c` and `a b d e` are the tokens a b c d e with depth 0 1 2 2 3 and end 5 5 3 5 5: token j is an ancestor of i
    (or i itself) exactly when j <= i < end[j]. The trunk a b is before the first branching.
    """

    tokens: list[int] = field(default_factory=list)
    previous: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    trunk: int = 0
    asks: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Row -> (place in the tree, token that follows there in the row), for its judged tokens."""


def plant(rows: Mapping[int, Row], *, max_tokens: int) -> list[Tree]:
    """Trees that hold all rows; those with a common beginning share it, as long as the tree stays below `max_tokens`."""
    trees: list[Tree] = []
    path: list[int] = []  # the places of the row before in its tree
    before: list[int] = []
    for number in sorted(rows, key=lambda number: rows[number].ids):
        ids = rows[number].ids
        shared = common_prefix(before, ids)
        tree = trees[-1] if trees else None
        joins = shared >= SHARED * min(len(before), len(ids)) and shared > 0
        if tree is None or not joins or len(tree.tokens) + len(ids) - shared > max_tokens:
            tree, path, shared = Tree(), [], 0
            trees.append(tree)
        if path:
            tree.trunk = min(tree.trunk, shared)
            for place in path[shared:]:
                tree.end[place] = len(tree.tokens)
        else:
            tree.trunk = len(ids)
        path = path[:shared]
        for depth in range(shared, len(ids)):
            tree.previous.append(path[-1] if path else -1)
            path.append(len(tree.tokens))
            tree.tokens.append(ids[depth])
            tree.depth.append(depth)
            tree.end.append(2**30)
        tree.asks[number] = [(path[place - 1], ids[place]) for place in range(rows[number].start, len(ids))]
        before = ids
    return trees


def common_prefix(left: list[int], right: list[int]) -> int:
    """How many tokens the two have in common from the beginning."""
    length = min(len(left), len(right))
    if left[:length] == right[:length]:
        return length
    return next(place for place in range(length) if left[place] != right[place])


def _tree_batches(trees: list[Tree], device_tokens: int, vocab: int) -> Iterator[list[Tree]]:
    """Trees of like size, as many as fit when all are padded to the longest trunk and the longest branches."""
    batch: list[Tree] = []
    trunk = branches = asked = 0
    for tree in sorted(trees, key=lambda tree: (tree.trunk, len(tree.tokens))):
        asks = sum(len(asks) for asks in tree.asks.values())
        wide, tall = max(trunk, tree.trunk), max(branches, len(tree.tokens) - tree.trunk)
        full = (wide + tall) * (len(batch) + 1) > device_tokens or (asked + asks) * vocab > LOGITS
        if batch and full:
            yield batch
            batch, asked, wide, tall = [], 0, tree.trunk, len(tree.tokens) - tree.trunk
        batch.append(tree)
        trunk, branches, asked = wide, tall, asked + asks
    if batch:
        yield batch


def _judge_trees(model: InferenceModel, trees: Sequence[Tree]) -> dict[int, Likelihood]:
    """One forward pass over some trees."""
    device = model.device
    starts = [0, *itertools.accumulate(len(tree.tokens) for tree in trees)]
    joined = list(zip(trees, starts, strict=False))
    asks = [
        (row, start + at, token) for tree, start in joined for row, asked in tree.asks.items() for at, token in asked
    ]
    wanted = sorted({place for _, place, _ in asks})
    if not wanted:  # every judged part is empty: nothing to compute
        return {row: Likelihood([], True) for tree in trees for row in tree.asks}
    before = [place if place < 0 else place + start for tree, start in joined for place in tree.previous]
    flat = Flat(
        tokens_N=torch.tensor([token for tree in trees for token in tree.tokens], device=device),
        previous_N=torch.tensor(
            [tree_token for tree, start in joined for tree_token in _previous_tokens(tree)], device=device
        ),
        positions_N=torch.tensor([depth for tree in trees for depth in tree.depth], device=device),
        last_R=torch.tensor(wanted, device=device),
    )
    logits_RV = model.extend(flat, Trees(model.config, trees, before_N=torch.tensor(before, device=device)))
    nth = {place: nth for nth, place in enumerate(wanted)}
    at_A = torch.tensor([nth[place] for _, place, _ in asks], device=device)
    target_A = torch.tensor([token for _, _, token in asks], device=device)
    logprob_A = logits_RV[at_A, target_A] - logits_RV.logsumexp(-1)[at_A]
    greedy_A = logits_RV.argmax(-1)[at_A] == target_A
    values, hits = iter(logprob_A.tolist()), iter(greedy_A.tolist())
    judged = {}
    for tree in trees:
        for row, asked in tree.asks.items():
            logprobs = list(itertools.islice(values, len(asked)))
            judged[row] = Likelihood(logprobs, all(list(itertools.islice(hits, len(asked)))))
    return judged


def _previous_tokens(tree: Tree) -> list[int]:
    """The token before each, -1 at the root."""
    return [place if place < 0 else tree.tokens[place] for place in tree.previous]


class Trees:
    """The past of one forward pass over trees: every token is new, and each attends to its ancestors.

    Trunks are plain causal rows and take the fast kernel; the branches see their trunk whole and each other through a mask.
    """

    def __init__(self, config: ModelConfig, trees: Sequence[Tree], *, before_N: Tensor) -> None:
        self.config, self.before_N = config, before_N
        device = before_N.device
        starts = torch.tensor([0, *itertools.accumulate(len(tree.tokens) for tree in trees)], device=device)[:-1]
        trunks = torch.tensor([tree.trunk for tree in trees], device=device)
        branches = torch.tensor([len(tree.tokens) - tree.trunk for tree in trees], device=device)
        # Places of each tree in N, padded to the widest: trunks (G, P), branches (G, Q).
        wide, tall = (torch.arange(int(most.max()), device=device) for most in (trunks, branches))
        self.is_trunk_GP = wide < trunks[:, None]
        self.is_branch_GQ = tall < branches[:, None]
        self.trunk_GP = torch.where(self.is_trunk_GP, starts[:, None] + wide, 0)
        self.branch_GQ = torch.where(self.is_branch_GQ, (starts + trunks)[:, None] + tall, 0)
        ends = [start + end for tree, start in zip(trees, starts.tolist(), strict=True) for end in tree.end]
        self.end_N = torch.tensor(ends, device=device)
        self.depth_N = torch.tensor([depth for tree in trees for depth in tree.depth], device=device)
        self.masks: dict[int | None, Tensor] = {}

    def attend(self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor) -> Tensor:
        """Each token attends to its ancestors and itself, within the layer's window."""
        window = self.config.window(layer)
        y_NHC = torch.empty_like(q_NHC)
        k_trunk, v_trunk = k_NKC[self.trunk_GP], v_NKC[self.trunk_GP]
        y = attend(q_NHC[self.trunk_GP], k_trunk, v_trunk, window=window)
        y_NHC[self.trunk_GP[self.is_trunk_GP]] = y[self.is_trunk_GP]
        if self.branch_GQ.size(1):
            keys = torch.cat((k_trunk, k_NKC[self.branch_GQ]), 1).transpose(1, 2)
            values = torch.cat((v_trunk, v_NKC[self.branch_GQ]), 1).transpose(1, 2)
            y = F.scaled_dot_product_attention(
                q_NHC[self.branch_GQ].transpose(1, 2),
                keys,
                values,
                attn_mask=self._mask(window),
                enable_gqa=q_NHC.size(1) != k_NKC.size(1),
            ).transpose(1, 2)
            y_NHC[self.branch_GQ[self.is_branch_GQ]] = y[self.is_branch_GQ]
        return y_NHC

    def shift_keys(self, layer: int, k_NKC: Tensor) -> Tensor:
        """The raw key of the token before each; 0 before the first."""
        return k_NKC[self.before_N.clamp_min(0)] * (self.before_N >= 0)[:, None, None]

    def _mask(self, window: int | None) -> Tensor:
        """True where a branch token may see a token of its tree: (G, 1, Q, P + Q)."""
        if window not in self.masks:
            keys = torch.cat((self.trunk_GP, self.branch_GQ), 1)[:, None, :]
            there = torch.cat((self.is_trunk_GP, self.is_branch_GQ), 1)[:, None, :]
            queries = self.branch_GQ[:, :, None]
            seen = there & (keys <= queries) & (queries < self.end_N[keys])
            if window is not None:
                seen &= self.depth_N[queries] - self.depth_N[keys] < window
            # A padded query sees the first key rather than nothing, whose softmax would be nan.
            seen[:, :, 0] |= ~self.is_branch_GQ
            self.masks[window] = seen[:, None]
        return self.masks[window]


def _row_batches(rows: Mapping[int, Row], device_tokens: int, vocab: int) -> Iterator[list[tuple[int, Row]]]:
    """Rows of like length, longest first, so that memory runs out at the beginning or not at all."""
    batch: list[tuple[int, Row]] = []
    most = 0
    for place, row in sorted(rows.items(), key=lambda item: -len(item[1].ids)):
        if batch and (len(batch) + 1) * most > min(device_tokens, LOGITS // vocab):
            yield batch
            batch = []
        most = most if batch else len(row.ids)
        batch.append((place, row))
    if batch:
        yield batch


def judge_rows(model: Any, batch: Sequence[tuple[int, Row]]) -> dict[int, Likelihood]:
    """One forward pass over some rows, padded on the right, where a causal model cannot look."""
    longest = max(len(row.ids) for _, row in batch)
    ids_BT = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for _, row in batch])
    logits_BTV = model(ids_BT.to(model.device))
    judged = {}
    for number, (place, row) in enumerate(batch):
        logits_SV = logits_BTV[number, row.start - 1 : len(row.ids) - 1].float()
        target_S = torch.tensor(row.ids[row.start :], dtype=torch.long, device=logits_SV.device)
        logprob_S = logits_SV.log_softmax(-1).gather(-1, target_S[:, None])[:, 0]
        judged[place] = Likelihood(logprob_S.tolist(), bool((logits_SV.argmax(-1) == target_S).all()))
    return judged
