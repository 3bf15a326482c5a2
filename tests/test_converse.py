"""Laws of training on conversations with text between them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.config import Midtrain, check
from fledge.train.converse import interleaved
from fledge.train.loop import Batch


def counting(name: str) -> Any:
    """A source whose batches are numbered and whose cursor is the next number."""

    def begin(cursor: dict[str, Any] | None) -> Iterator[Batch]:
        number = cursor["next"] if cursor else 0
        while True:
            tensor = torch.full((1, 1), number)
            yield Batch(
                inputs_BT=tensor,
                targets_BT=tensor,
                weights_BT=torch.ones(1, 1),
                tokens=len(name),
                cursor={"next": number + 1},
            )
            number += 1

    return begin


def taken(batches: Iterator[Batch], count: int) -> list[tuple[int, int, Any]]:
    return [(batch.tokens, int(batch.inputs_BT), batch.cursor) for batch in islice(batches, count)]


@given(share=st.floats(0, 0.95), before=st.integers(1, 12), after=st.integers(1, 12))
def test_a_mixture_goes_on_where_its_cursor_says(share: float, before: int, after: int) -> None:
    chats, texts = counting("chat"), counting("a text")
    whole = taken(interleaved(chats, texts, share=share, cursor=None), before + after)
    resumed = taken(interleaved(chats, texts, share=share, cursor=whole[before - 1][2]), after)
    assert resumed == whole[before:]


def test_a_quarter_of_text_is_every_fourth_batch() -> None:
    names = [
        tokens for tokens, *_ in taken(interleaved(counting("chat"), counting("a text"), share=0.25, cursor=None), 8)
    ]
    assert names == [4, 4, 4, 6] * 2


def test_nothing_but_text_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no conversations"):
        check(Midtrain(replay=1.0))
