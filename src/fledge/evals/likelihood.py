"""How likely a model finds given continuations, many at a time.

    rows = [Row(ids=[*context, *answer], start=len(context)) for answer in answers]
    for likelihood in likelihoods(model, rows):
        likelihood.total, likelihood.is_greedy

Rows that begin alike are computed once: rows sorted by their tokens are laid out as trees, where the four choices of a question
are four branches of one trunk, and the questions about one story branches of that story. A token attends to its ancestors.
Trees of like size go through the model together, and the unembedding sees only the positions somebody asks about. What comes
out equals one forward pass per row, up to rounding.

Other models than ours (anything that maps (B, T) ids to (B, T, V) logits) see each row as a tree of its own, padded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from fledge.infer.check import inference_model
from fledge.model.attention import attend
from fledge.model.forward import Flat, InferenceModel
from fledge.model.head import LOGITS
from fledge.model.transformer import Transformer

DEVICE_TOKENS = 8192
"""Tokens per forward pass where nobody says otherwise; results do not depend on it."""
SPAN_ROWS = 2048
"""Rows among which common beginnings are looked for; bounds what the trees take."""
SHARED = 0.5
"""A row joins the tree before it when it shares this part of the shorter of the two: less would cost more than it saves."""
NEVER = 2**30


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
    """Judge `rows`, in their order, in batches of about `device_tokens` tokens; of half as many where memory runs out.

    Args:
        model: a `Transformer`, or a function from ids (B, T) to logits (B, T, V) with `vocab` and `device`.

    Raises:
        torch.OutOfMemoryError: not even one row at a time fits.
    """
    rest = iter(rows)
    while span := list(islice(rest, SPAN_ROWS)):
        found: list[Likelihood] = []
        while not found:
            try:
                found = _judge(model, span, device_tokens)
            except torch.OutOfMemoryError:
                if device_tokens == 1:
                    raise
                device_tokens //= 2
        yield from found


def _judge(model: Any, rows: Sequence[Row], device_tokens: int) -> list[Likelihood]:
    found = [Likelihood() for _ in rows]
    if isinstance(model, Transformer):  # copied anew: a model in training is judged as it is now
        model = inference_model(model, dtype=model.compute_dtype, context=max(len(row.ids) for row in rows))
        layout, asked = TreeBatch, LOGITS // model.config.vocab
        trees, tokens = plant(rows, max_tokens=device_tokens), device_tokens
    else:  # computes the logits of every token
        layout, asked = RowBatch, LOGITS // model.vocab
        trees, tokens = plant(rows, max_tokens=0), min(device_tokens, asked)
    for group in batched(trees, tokens=tokens, asked=asked):
        batch = layout(model, group)
        joined = zip(group, batch.starts, strict=True)
        asks = [(row, start + place, target) for tree, start in joined for row, place, target in tree.asks]
        row_A, place_A, target_A = torch.tensor(asks, device=model.device).T
        wanted_R, at_A = place_A.unique(return_inverse=True)
        logits_RV = batch.logits(wanted_R)
        logprob_A = logits_RV[at_A, target_A] - logits_RV.logsumexp(-1)[at_A]
        likeliest_A = logits_RV.argmax(-1)[at_A] == target_A
        said = zip(row_A.tolist(), logprob_A.tolist(), likeliest_A.tolist(), strict=True)
        for row, logprob, is_likeliest in said:
            found[row].logprobs.append(logprob)
            found[row].is_greedy &= is_likeliest
    return found


@dataclass
class Tree:
    """Rows laid over each other; tokens in the order of a depth-first walk, so that an ancestor lies before its descendants.

    The rows `a b c` and `a b d e` are the tokens a b c d e with depth 0 1 2 2 3 and end - - 3 - -: token j is an ancestor of i
    (or i itself) exactly when j <= i < end[j]. The trunk a b is before the first branching.
    """

    tokens: list[int] = field(default_factory=list)
    previous: list[int] = field(default_factory=list)
    """Place of the token before each; -1 at the root."""
    depth: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    trunk: int = 0
    asks: list[tuple[int, int, int]] = field(default_factory=list)
    """(row, place in the tree, token that follows there in the row) for the judged tokens of all rows."""
    path: list[int] = field(default_factory=list)
    """Places of the row that was added last."""

    @property
    def branches(self) -> int:
        """Tokens behind the trunk."""
        return len(self.tokens) - self.trunk

    def add(self, number: int, row: Row, *, shared: int) -> None:
        """Lay on a row, of which the one before has the first `shared` tokens. Its last token predicts nothing and stays out."""
        ids, first = row.ids[:-1], len(self.tokens)
        self.trunk = min(self.trunk, shared) if first else len(ids)
        for place in self.path[shared:]:
            self.end[place] = first
        self.path[shared:] = range(first, first + len(ids) - shared)
        self.tokens += ids[shared:]
        self.previous += [-1, *self.path][shared:-1]
        self.depth += range(shared, len(ids))
        self.end += [NEVER] * (len(ids) - shared)
        self.asks += [(number, self.path[place - 1], row.ids[place]) for place in range(row.start, len(row.ids))]


def plant(rows: Sequence[Row], *, max_tokens: int) -> list[Tree]:
    """Trees that hold all rows of which something is judged; one of several rows has at most `max_tokens`."""
    trees: list[Tree] = []
    before: list[int] = []
    for number in sorted(range(len(rows)), key=lambda number: rows[number].ids):
        if rows[number].start == len(rows[number].ids):
            continue
        ids = rows[number].ids[:-1]
        shared = common_prefix(before, ids)
        joins = shared >= SHARED * min(len(before), len(ids))
        if not trees or not joins or len(trees[-1].tokens) + len(ids) - shared > max_tokens:
            trees.append(Tree())
            shared = 0
        trees[-1].add(number, rows[number], shared=shared)
        before = ids
    return trees


def common_prefix(*rows: Sequence[int]) -> int:
    """How many tokens the rows have in common from the beginning."""
    places = enumerate(zip(*rows, strict=False))
    return next((place for place, tokens in places if len(set(tokens)) > 1), min(map(len, rows)))


def batched(trees: Iterable[Tree], *, tokens: int, asked: int) -> Iterator[list[Tree]]:
    """Trees of like size, padded to at most so many tokens, with at most so many asked for.

    The largest come first, so that memory runs out at the beginning or not at all.
    """
    batch: list[Tree] = []
    branches = asks = 0
    for tree in sorted(trees, key=lambda tree: (tree.trunk, tree.branches), reverse=True):
        branches, asks = max(branches, tree.branches), asks + len(tree.asks)
        if batch and ((batch[0].trunk + branches) * (len(batch) + 1) > tokens or asks > asked):
            yield batch
            batch, branches, asks = [], tree.branches, len(tree.asks)
        batch.append(tree)
    if batch:
        yield batch


class RowBatch:
    """One forward pass of any model over trees of one row each, padded on the right, where a causal model cannot look."""

    def __init__(self, model: Any, trees: Sequence[Tree]) -> None:
        self.model = model
        self.ids_BT = pad_sequence([torch.tensor(tree.tokens) for tree in trees], batch_first=True)
        self.starts = range(0, self.ids_BT.numel(), self.ids_BT.size(1))

    def logits(self, wanted_R: Int[Tensor, " R"]) -> Float[Tensor, "R V"]:
        """Logits after the tokens at some places."""
        return self.model(self.ids_BT.to(self.model.device)).flatten(0, 1)[wanted_R].float()


class TreeBatch:
    """One forward pass over trees laid end to end, and its past: every token is new, and attends to its ancestors.

    Trunks are plain causal rows and take the fast kernel; the branches see their trunk whole and each other through a mask.
    """

    def __init__(self, model: InferenceModel, trees: Sequence[Tree]) -> None:
        self.model, self.config = model, model.config
        sizes = [len(tree.tokens) for tree in trees]
        self.starts = [0, *accumulate(sizes)][:-1]
        fields = ("tokens", "depth", "previous", "end")
        lists = [[value for tree in trees for value in getattr(tree, name)] for name in fields]
        lists.append([start for start, size in zip(self.starts, sizes, strict=True) for _ in range(size)])
        self.tokens_N, self.depth_N, previous_N, end_N, offset_N = torch.tensor(lists, device=model.device)
        self.before_N = previous_N + offset_N
        # Each tree's places in N, its trunk (P) beside its branches (Q), both padded with -1.
        places = torch.arange(len(offset_N), device=model.device).split(sizes)
        halves = zip(*(at.tensor_split([tree.trunk]) for tree, at in zip(trees, places, strict=True)), strict=True)
        trunk_GP, branch_GQ = (pad_sequence(list(part), batch_first=True, padding_value=-1) for part in halves)
        self.place_GT, self.trunk = torch.cat((trunk_GP, branch_GQ), 1), trunk_GP.size(1)
        keys, queries = self.place_GT[:, None], branch_GQ[:, :, None]
        # A padded query sees nothing and gets nan, which nobody reads.
        self.seen_GQT = (keys >= 0) & (keys <= queries) & (queries < (end_N + offset_N)[keys])
        self.distance_GQT = self.depth_N[queries] - self.depth_N[keys]

    def logits(self, wanted_R: Int[Tensor, " R"]) -> Float[Tensor, "R V"]:
        """Logits after the tokens at some places."""
        previous_N = torch.where(self.depth_N > 0, self.tokens_N[self.before_N], -1)
        flat = Flat(tokens_N=self.tokens_N, previous_N=previous_N, positions_N=self.depth_N, last_R=wanted_R)
        return self.model.extend(flat, self)

    def shift_keys(self, layer: int, k_NKC: Tensor) -> Tensor:
        """The raw key of the token before each; 0 before the first."""
        return k_NKC[self.before_N] * (self.depth_N > 0)[:, None, None]

    def attend(self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor) -> Tensor:
        """Each token attends to its ancestors and itself, within the layer's window."""
        window, trunk = self.config.window(layer), self.trunk
        q, k, v = (x[self.place_GT] for x in (q_NHC, k_NKC, v_NKC))
        y = attend(q[:, :trunk], k[:, :trunk], v[:, :trunk], window=window)
        if trunk < q.size(1):
            mask = self.seen_GQT if window is None else self.seen_GQT & (self.distance_GQT < window)
            q, k, v = (x.transpose(1, 2) for x in (q[:, trunk:], k, v))
            is_grouped = q.size(1) != k.size(1)
            branches = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], enable_gqa=is_grouped)
            y = torch.cat((y, branches.transpose(1, 2)), 1)
        return y[self.place_GT >= 0]
