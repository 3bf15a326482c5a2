"""Attention: one interface over the kernels.

    y_BTHC = attend(q_BTHC, k_BTKC, v_BTKC)                 # training: causal, optionally within a window

Query heads share key/value heads in groups (Ainslie et al. 2023, arXiv:2305.13245): head h reads key head h // (H / K).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


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
