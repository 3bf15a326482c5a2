"""Which tokens share a row: pure functions on lengths, so that they can be tested with numbers.

    rows, rest = pack_spans([(0, 700), (700, 900)], capacity=513)     # documents: full rows, cut where nothing fits
    groups = pack_whole([40, 300, 90], capacity=512)                  # conversations: never cut, padded

A row is a fixed number of tokens. Documents fill it completely: the longest that fits goes in (best fit, Ding et al. 2024,
arXiv:2404.10830), and when none fits the shortest is cut, its remainder being used again rather than dropped. Every piece
costs one token more than it holds, the bos before it.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Span = tuple[int, int]
"""Tokens start <= i < stop of one flat array: a document or a piece of one, without its bos."""

_FAR = 1 << 62


def windows(items: Iterable[T], wanted: int, *, size: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in lists whose sizes sum to `wanted` or more; the last one of a finite stream may hold less."""
    window: list[T] = []
    missing = wanted
    for item in items:
        window.append(item)
        missing -= size(item)
        if missing <= 0:
            yield window
            window, missing = [], wanted
    if window:
        yield window


def pack_spans(spans: Iterable[Span], capacity: int) -> tuple[list[list[Span]], list[Span]]:
    """Full rows of `capacity` tokens, and the spans of the one row that stayed incomplete.

    A row holds, for each of its spans, a bos and the span's tokens. A last place too small for a bos and a token gets a bos
    alone: the mark that the document before it ended. No token is lost and none is used twice.

        >>> pack_spans([(0, 5), (5, 6)], capacity=4)  # the row of (3, 5) closes with a bos alone
        ([[(0, 3)], [(3, 5)]], [(5, 6)])

    Args:
        capacity: at least 2.
    """
    body = capacity - 1
    rows: list[list[Span]] = []
    short: list[tuple[int, int]] = []  # (size, start), ascending
    for start, stop in spans:
        while stop - start > body:
            rows.append([(start, start + body)])
            start += body
        if stop > start:
            short.append((stop - start, start))
    short.sort()
    row: list[Span] = []
    room = capacity
    while short:
        fit = bisect_right(short, (room - 1, _FAR)) - 1
        if fit >= 0:
            size, start = short.pop(fit)
        else:
            whole, start = short.pop(0)
            size = room - 1
            insort(short, (whole - size, start + size))
        row.append((start, start + size))
        room -= size + 1
        if room < 2:
            rows.append(row)
            row, room = [], capacity
    return rows, row


def fill_rows(rows: Sequence[Sequence[Span]], ids: npt.NDArray[np.integer], *, capacity: int, bos: int) -> npt.NDArray:
    """The tokens of packed rows, (rows, capacity), int32: before each span a bos."""
    filled_RC = np.full((len(rows), capacity), bos, np.int32)
    for tokens_C, row in zip(filled_RC, rows, strict=True):
        at = 1
        for start, stop in row:
            tokens_C[at : at + stop - start] = ids[start:stop]
            at += stop - start + 1
    return filled_RC


def pack_whole(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Groups of indices whose lengths sum to at most `capacity`, by best fit, the longest first; nothing is cut.

    The last group is the least filled.

        >>> pack_whole([3, 5, 2, 4], capacity=7)
        [[1, 2], [3, 0]]

    Raises:
        ValueError: a length exceeds the capacity.
    """
    if lengths and max(lengths) > capacity:
        raise ValueError(f"an item of {max(lengths)} tokens does not fit into a row of {capacity}; truncate it first")
    left = sorted((length, -index) for index, length in enumerate(lengths))  # among equals the first comes first
    groups: list[list[int]] = []
    group: list[int] = []
    room = capacity
    while left:
        fit = bisect_right(left, (room, 1)) - 1
        if fit < 0:
            groups.append(group)
            group, room = [], capacity
            continue
        length, index = left.pop(fit)
        group.append(-index)
        room -= length
    return [*groups, group] if group else groups
