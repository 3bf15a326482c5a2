"""Student's t: how many standard errors from a few measurements hold the truth.

t_quantile(2)                     # 4.30: of three seeds
"""

from __future__ import annotations

import math

CONFIDENCE = 0.95


def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t within which Student's distribution lies with this confidence; for 1 to a few hundred degrees of freedom.

    By bisection of its finite series (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4) in the angle atan(t / sqrt(freedom)).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        is_odd, cosine = freedom % 2, math.cos(angle)
        total, term = 0.0, cosine if is_odd else 1.0
        for power in range(2 + is_odd, freedom + 1, 2):
            total += term
            term *= (power - 1) / power * cosine**2
        inside = math.sin(angle) * total
        inside = 2 / math.pi * (angle + inside) if is_odd else inside
        low, high = (angle, high) if inside < confidence else (low, angle)
    return math.sqrt(freedom) * math.tan(low)
