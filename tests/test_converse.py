"""Laws of mixing text between conversations: by rows, evenly, and resumable at any of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.config import Midtrain, check
from fledge.train.batches import Row, batched, in_background, mixed


def counting(name: int) -> Callable[[dict[str, Any] | None], Iterator[Row]]:
    """A stream whose rows hold its name and their number, and whose cursor is the next number."""

    def begin(cursor: dict[str, Any] | None) -> Iterator[Row]:
        number = cursor["next"] if cursor else 0
        while True:
            yield Row(np.array([name, number], np.int32), np.ones(2, np.bool_), {"next": number + 1})
            number += 1

    return begin


CHATS, TEXTS = counting(1), counting(2)


def taken(rows: Iterator[Row], count: int) -> list[tuple[list[int], Any]]:
    return [(row.ids_C.tolist(), json.loads(json.dumps(row.cursor))) for row in islice(rows, count)]


@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 0.95), before=st.integers(1, 12), after=st.integers(1, 12))
def test_a_mixture_goes_on_where_its_cursor_says(share: float, before: int, after: int) -> None:
    whole = taken(mixed(CHATS, TEXTS, share=share), before + after)
    assert taken(mixed(CHATS, TEXTS, share=share, cursor=whole[before - 1][1]), after) == whole[before:]


@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 1), count=st.integers(1, 200))
def test_the_share_of_text_is_right_to_a_row_anywhere(share: float, count: int) -> None:
    texts = sum(ids[0] == 2 for ids, _ in taken(mixed(CHATS, TEXTS, share=share), count))
    assert abs(texts - share * count) <= 1


def test_a_quarter_of_text_is_every_fourth_row() -> None:
    assert [ids for ids, _ in taken(mixed(CHATS, TEXTS, share=0.25), 8)] == [
        [1, 0], [1, 1], [1, 2], [2, 0], [1, 3], [1, 4], [1, 5], [2, 1],
    ]  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 0.95), rows=st.integers(1, 6), ahead=st.integers(1, 5))
def test_neither_the_rows_of_a_batch_nor_reading_ahead_change_the_mixture(share: float, rows: int, ahead: int) -> None:
    whole = taken(mixed(CHATS, TEXTS, share=share), 12 * rows)
    stream = in_background(mixed(CHATS, TEXTS, share=share), ahead=ahead)
    batches = list(islice(batched(stream, rows=rows), 12))
    stream.close()  # type: ignore[attr-defined]
    found = [pair for one in batches for pair in torch.cat([one.inputs_BT, one.targets_BT], 1).tolist()]
    assert found == [ids for ids, _ in whole]
    assert [batch.cursor for batch in batches] == [cursor for _, cursor in whole[rows - 1 :: rows]]


def test_a_stream_that_is_not_asked_for_is_not_begun() -> None:
    def broken(_: Any) -> Iterator[Row]:
        raise AssertionError

    assert taken(mixed(CHATS, broken, share=0.0), 3)[2][1] == {"chats": {"next": 3}, "texts": None, "rows": 3}


def test_nothing_but_text_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no conversations"):
        check(Midtrain(replay=1.0))
