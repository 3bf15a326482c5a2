"""The head: logits from the last hidden state, and the loss of training, made together with its gradient.

    logits_BTV = logits(x_BTD, unembedding, vocab=vocab, softcap=15.0)
    loss = nll_sum(x_ND, unembedding, targets_N, weights_N, vocab=vocab, softcap=15.0)        # loss.backward() as usual

Logits are softcap * tanh(z / softcap). So how far each is below the cap, 2 softcap sigmoid(-2 z / softcap), takes the place of
the distance from the largest, and no pass over the logits is needed to find that one.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

CHUNK = 4096
"""Tokens whose logits are there at a time."""


def logits(
    x: Float[Tensor, "... D"], unembedding: Float[Tensor, "R D"], *, vocab: int, softcap: float
) -> Float[Tensor, "... V"]:
    """Float32, without the rows that pad the vocabulary."""
    z = F.linear(x, unembedding.to(x.dtype))[..., :vocab].float()
    return softcap * torch.tanh(z / softcap)


def nll_sum(
    x_ND: Float[Tensor, "N D"],
    unembedding: Float[Tensor, "R D"],
    targets_N: Int[Tensor, " N"],
    weights_N: Float[Tensor, " N"],
    *,
    vocab: int,
    softcap: float,
) -> Float[Tensor, ""]:
    """Weighted sum of -ln p(target) under `logits`; differentiable in `x_ND` and `unembedding`, not in the weights."""
    return _NllSum.apply(x_ND, unembedding, targets_N, weights_N, vocab, softcap)  # pyright: ignore[reportReturnType]


class _NllSum(torch.autograd.Function):
    """The gradient is made at once, so logits are neither kept for it nor multiplied out a second time."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, unembedding: Tensor, targets_N: Tensor, weights_N: Tensor, vocab: int, softcap: float
    ) -> Tensor:
        matrix = unembedding.to(x_ND.dtype)
        total, d_x, d_z = x_ND.new_zeros((), dtype=torch.float32), [], []
        for x, targets, weights in zip(*(part.split(CHUNK) for part in (x_ND, targets_N, weights_N)), strict=True):
            z = F.linear(x, matrix)[:, :vocab].float() * (2 / softcap)
            log_sums = torch.exp(2 * softcap * (torch.sigmoid(z) - 1)).sum(-1).log()
            # In other words than above, or the compiler would keep it in float32 in between, which takes longer than this.
            below = torch.sigmoid(-z)
            probabilities = torch.exp(-2 * softcap * below - log_sums[:, None])
            own = torch.sigmoid(-z.gather(-1, targets[:, None])[:, 0])
            total = total + (weights * (log_sums + 2 * softcap * own)).sum()
            hit = torch.arange(vocab, device=x.device) == targets[:, None]
            d_logits = weights[:, None] * (probabilities - hit.float())
            slopes = 4 * below * (1 - below)  # of tanh
            d_z.append(F.pad((d_logits * slopes).to(x.dtype), (0, len(matrix) - vocab)))
            d_x.append(d_z[-1] @ matrix)
        ctx.save_for_backward(torch.cat(d_x), (torch.cat(d_z).mT @ x_ND).to(unembedding.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        d_x, d_matrix = ctx.saved_tensors
        return d_x * gradient.to(d_x.dtype), d_matrix * gradient, None, None, None, None
