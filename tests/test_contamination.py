import doctest
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

import benchmarks.contamination as module
from benchmarks.contamination import contamination, words_of

WORDS = [f"word{index}" for index in range(500)]


def text(seed: int, words: int) -> str:
    return " ".join(Random(seed).choices(WORDS, k=words))


def test_an_item_that_stands_in_the_training_text_is_found_whatever_its_case_and_punctuation() -> None:
    item = text(1, 20)
    copied = text(2, 50) + "\n" + item.upper().replace(" ", ", ") + "! " + text(3, 50)
    (overlap,) = contamination([text(4, 100), copied], {"test": [text(5, 20), item, text(6, 20)]})
    assert (overlap.items, overlap.seen, overlap.short) == (3, (1,), 0)
    assert overlap.share == 1 / 3
    assert overlap.example == " ".join(item.split()[:13])


def test_twelve_words_in_a_row_are_not_enough_and_thirteen_are() -> None:
    item = text(1, 30).split()
    for words, seen in ((12, ()), (13, (0,))):
        document = " ".join([text(2, 20), *item[9 : 9 + words], text(3, 20)])
        assert contamination([document], {"test": [" ".join(item)]})[0].seen == seen


def test_items_too_short_to_be_judged_are_counted_apart() -> None:
    (overlap,) = contamination([text(1, 12)], {"test": [text(1, 12), text(2, 40)]})
    assert (overlap.short, overlap.seen, overlap.share) == (1, (), 0)


def test_each_set_is_judged_by_itself_and_empty_ones_are_clean() -> None:
    item = text(1, 15)
    overlaps = contamination([item], {"one": [item], "two": [text(2, 15)], "none": []})
    assert [(overlap.name, overlap.seen) for overlap in overlaps] == [("one", (0,)), ("two", ()), ("none", ())]
    assert contamination([item], {}) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_it_finds_what_a_plain_search_finds(seed: int, words: int) -> None:
    few = WORDS[:4]
    items = [" ".join(Random(seed + k).choices(few, k=8)) for k in range(4)]
    documents = [" ".join(Random(-seed - k).choices([*few, "strange"], k=30)) for k in range(3)]

    def runs(one: str) -> set[tuple[str, ...]]:
        split = words_of(one)
        return {tuple(split[place : place + words]) for place in range(len(split) - words + 1)}

    everything = set().union(*map(runs, documents))
    expected = tuple(index for index, item in enumerate(items) if runs(item) & everything)
    assert contamination(documents, {"test": items}, words=words)[0].seen == expected


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(module).failed == 0
