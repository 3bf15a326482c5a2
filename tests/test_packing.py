from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.text.packing import fill_rows, pack_spans, pack_whole


def spans_of(sizes: list[int]) -> list[tuple[int, int]]:
    ends = [0, *np.cumsum(sizes).tolist()]
    return list(pairwise(ends))


sizes = st.lists(st.integers(1, 60), max_size=40)


@settings(max_examples=200, deadline=None)
@given(sizes, st.integers(2, 40))
def test_no_token_is_lost_and_none_is_used_twice(sizes: list[int], capacity: int) -> None:
    rows, rest = pack_spans(spans_of(sizes), capacity)
    used = [token for row in [*rows, rest] for start, stop in row for token in range(start, stop)]
    assert sorted(used) == list(range(sum(sizes)))


@settings(max_examples=200, deadline=None)
@given(sizes, st.integers(2, 40))
def test_every_row_is_full_up_to_a_closing_bos_and_the_rest_is_less_than_a_row(sizes: list[int], capacity: int) -> None:
    rows, rest = pack_spans(spans_of(sizes), capacity)
    fullness = [sum(stop - start + 1 for start, stop in row) for row in rows]
    assert all(capacity - 1 <= full <= capacity for full in fullness)
    assert sum(stop - start + 1 for start, stop in rest) < capacity


def test_documents_that_fit_together_are_not_cut() -> None:
    rows, rest = pack_spans(spans_of([4, 9, 2, 7, 3, 5]), capacity=13)
    assert [[stop - start for start, stop in row] for row in rows] == [[9, 2], [7, 4]]
    assert [stop - start for start, stop in rest] == [5, 3]


def test_a_row_reads_bos_document_bos_document() -> None:
    rows, rest = pack_spans([(0, 3), (3, 5)], capacity=7)
    assert (rows, rest) == ([[(0, 3), (3, 5)]], [])
    assert fill_rows(rows, np.arange(10, 15), capacity=7, bos=1).tolist() == [[1, 10, 11, 12, 1, 13, 14]]


def test_a_cut_document_goes_on_behind_a_new_bos() -> None:
    rows, rest = pack_spans([(0, 4)], capacity=4)
    assert fill_rows(rows, np.arange(10, 14), capacity=4, bos=1).tolist() == [[1, 10, 11, 12]]
    assert rest == [(3, 4)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=40), st.integers(30, 80))
def test_whole_items_appear_once_each_and_never_overfill_a_row(lengths: list[int], capacity: int) -> None:
    groups = pack_whole(lengths, capacity)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in group) <= capacity for group in groups)


def test_the_known_example_of_whole_items() -> None:
    assert pack_whole([3, 5, 2, 4], capacity=7) == [[1, 2], [3, 0]]


def test_an_item_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="40 tokens does not fit into a row of 30"):
        pack_whole([40], capacity=30)
