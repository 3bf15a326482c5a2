"""The head: logits from the last hidden state, and the loss of training, made together with its gradient.

    logits_BTV = logits(x_BTD, unembedding, vocab=vocab, softcap=15.0)
    loss = nll_sum(x_ND, unembedding, targets_N, weights_N, vocab=vocab, softcap=15.0)        # loss.backward() as usual

Logits are softcap * tanh(z / softcap). So how far each is below the cap, 2 softcap sigmoid(-2 z / softcap), takes the place of
the distance from the largest, and no pass over the logits is needed to find that one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

CHUNK = 4096
"""Tokens whose logits are there at a time."""
LOGITS = 2**26
"""Most logits held at once (256 MiB in float32), so that a large vocabulary does not decide over memory."""
Part = Callable[[Tensor, Tensor, Tensor, Tensor, int, float], tuple[Tensor, Tensor, Tensor]]


def logits(
    x: Float[Tensor, "... D"], unembedding: Float[Tensor, "R D"], *, vocab: int, softcap: float
) -> Float[Tensor, "... V"]:
    """Float32, without the rows that pad the vocabulary."""
    z = F.linear(x, unembedding.to(x.dtype))[..., :vocab].float()
    return softcap * torch.tanh(z / softcap)


def logprobs(
    x_ND: Float[Tensor, "N D"],
    unembedding: Float[Tensor, "R D"],
    targets_N: Int[Tensor, " N"],
    *,
    vocab: int,
    softcap: float,
) -> Float[Tensor, " N"]:
    """ln p(target) of each under `logits`; not for a gradient."""
    pairs = zip(*(each.split(max(1, LOGITS // vocab)) for each in (x_ND, targets_N)), strict=True)
    return torch.cat(
        [
            logits(x, unembedding, vocab=vocab, softcap=softcap).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
            for x, targets in pairs
        ]
    )


def nll_sum(
    x_ND: Float[Tensor, "N D"],
    unembedding: Float[Tensor, "R D"],
    targets_N: Int[Tensor, " N"],
    weights_N: Float[Tensor, " N"],
    *,
    vocab: int,
    softcap: float,
    part: Part | None = None,
) -> Float[Tensor, ""]:
    """Weighted sum of -ln p(target) under `logits`; differentiable in `x_ND` and `unembedding`, not in the weights.

    part: `nll_part`, or its compiled form.
    """
    return _NllSum.apply(x_ND, unembedding, targets_N, weights_N, vocab, softcap, part or nll_part)  # pyright: ignore[reportReturnType]


def nll_part(
    x_ND: Tensor, matrix: Tensor, targets_N: Tensor, weights_N: Tensor, vocab: int, softcap: float
) -> tuple[Float[Tensor, ""], Float[Tensor, "N D"], Float[Tensor, "R D"]]:
    """The loss of a chunk, and its gradients for `x_ND` and `matrix`."""
    z = F.linear(x_ND, matrix)[:, :vocab].float() * (2 / softcap)
    log_sums = torch.exp(2 * softcap * (torch.sigmoid(z) - 1)).sum(-1).log()
    # In other words than above, or the compiler would keep it in float32 in between, which takes longer than this.
    below = torch.sigmoid(-z)
    probabilities = torch.exp(-2 * softcap * below - log_sums[:, None])
    own = torch.sigmoid(-z.gather(-1, targets_N[:, None])[:, 0])
    hit = torch.arange(vocab, device=z.device) == targets_N[:, None]
    d_logits = weights_N[:, None] * (probabilities - hit.float())
    slopes = 4 * below * (1 - below)  # of tanh
    d_z = F.pad((d_logits * slopes).to(x_ND.dtype), (0, len(matrix) - vocab))
    return (weights_N * (log_sums + 2 * softcap * own)).sum(), d_z @ matrix, d_z.mT @ x_ND


class _NllSum(torch.autograd.Function):
    """The gradient is made at once, so logits are neither kept for it nor multiplied out a second time."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, unembedding: Tensor, targets_N: Tensor, weights_N: Tensor, *rest: Any
    ) -> Tensor:
        vocab, softcap, part = rest
        x_ND = x_ND.detach()  # the compiler asks what has a gradient for it
        matrix, rows, learned = unembedding.to(x_ND.dtype), (x_ND, targets_N, weights_N), _learned(weights_N)
        chunk = CHUNK
        if learned is not None:
            chunk = _few(len(weights_N))
            padding = (0, chunk - len(learned) % chunk)  # by rows that weigh nothing
            index = F.pad(learned, padding)
            rows = x_ND[index], targets_N[index], F.pad(weights_N[learned], padding)
        total, d_x, d_matrix = x_ND.new_zeros((), dtype=torch.float32), [], torch.zeros_like(unembedding)
        for x, targets, weights in zip(*(each.split(chunk) for each in rows), strict=True):
            loss, d_rows, d_part = part(x, matrix, targets, weights, vocab, softcap)
            total, d_matrix = total + loss, d_matrix + d_part
            d_x.append(d_rows)
        d_rows = torch.cat(d_x)
        if learned is not None:
            d_rows = torch.zeros_like(x_ND).index_copy_(0, learned, d_rows[: len(learned)])
        ctx.save_for_backward(d_rows, d_matrix)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        d_x, d_matrix = ctx.saved_tensors
        return d_x * gradient.to(d_x.dtype), d_matrix * gradient, *[None] * 5


def _learned(weights_N: Tensor) -> Tensor | None:
    """Which rows count, where they are so few that leaving out the others pays: of conversations often a quarter.

    None: all. A GPU would have to be waited for to know, and a graph is made for all.
    """
    if weights_N.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    learned = weights_N.nonzero()[:, 0]
    return learned if len(learned) + _few(len(weights_N)) < len(weights_N) else None


def _few(rows: int) -> int:
    """A chunk where not all rows count. Chunks are of one size, which is compiled once."""
    return min(CHUNK, max(1, rows // 8))
