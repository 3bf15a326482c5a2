"""Attention: the kernel of training, and what every other way of looking back must offer.

    y_BTHC = attend(q_BTHC, k_BTKC, v_BTKC, window=None)    # causal, optionally within a window
    past = Rows(windows)                                    # the past of training rows, one window per layer
    y_BTHC = past.attend(layer, q_BTHC, k_BTKC, v_BTKC)

Query heads share key/value heads in groups (Ainslie et al. 2023, arXiv:2305.13245): head h reads key head h // (H / K).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


class Past(Protocol):
    """What the new tokens of a forward pass look back on: the one thing in which training and inference differ.

    `Rows` (training, below), `SlotCache` (infer/cache.py), `FlatCache` (infer/gpu.py) and `TreeBatch` (evals/likelihood.py)
    are the pasts there are. New tokens lie as rows (B, T) in training and end to end (N) elsewhere; "..." is either.
    """

    def shift_keys(self, layer: int, k: Float[Tensor, "... K C"], /) -> Float[Tensor, "... K C"]:
        """Keep the raw keys, and return for each new token the raw key of the token before it (0 before the first)."""
        ...

    def attend(
        self, layer: int, q: Float[Tensor, "... H C"], k: Float[Tensor, "... K C"], v: Float[Tensor, "... K C"], /
    ) -> Float[Tensor, "... H C"]:
        """Keep keys and values, then let each token attend to its own sequence, within the layer's window."""
        ...


@dataclass(frozen=True)
class Rows:
    """The past of training rows: all of a row is new at once, so nothing need be kept."""

    windows: Sequence[int | None]
    """Of each layer; None: the whole row."""

    def shift_keys(self, layer: int, k_BTKC: Float[Tensor, "B T K C"]) -> Float[Tensor, "B T K C"]:
        return F.pad(k_BTKC, (0, 0, 0, 0, 1, 0))[:, :-1]

    def attend(
        self,
        layer: int,
        q_BTHC: Float[Tensor, "B T H C"],
        k_BTKC: Float[Tensor, "B T K C"],
        v_BTKC: Float[Tensor, "B T K C"],
    ) -> Float[Tensor, "B T H C"]:
        return attend(q_BTHC, k_BTKC, v_BTKC, window=self.windows[layer])


def attend(
    q_BTHC: Float[Tensor, "B T H C"],
    k_BTKC: Float[Tensor, "B T K C"],
    v_BTKC: Float[Tensor, "B T K C"],
    *,
    window: int | None = None,
) -> Float[Tensor, "B T H C"]:
    """Causal attention; with `window` a token sees itself and the `window - 1` tokens before it."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHC, k_BTKC, v_BTKC))
    grouped = q.size(1) != k.size(1)
    length = q.size(2)
    if window is None or window >= length:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=window_mask(length, window, q.device), enable_gqa=grouped)
    return y.transpose(1, 2)


def window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """True where query t may see key s: t - window < s <= t. For length 3, window 2: [[1,0,0],[1,1,0],[0,1,1]]."""
    place = torch.arange(length, device=device)
    distance = place[:, None] - place[None, :]
    return (distance >= 0) & (distance < window)
