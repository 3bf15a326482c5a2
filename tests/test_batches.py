import itertools
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import data
from fledge.text.chat import Conversation, say
from fledge.text.documents import Document
from fledge.train.batches import (
    Row,
    batched,
    conversation_rows,
    document_rows,
    in_background,
)
from fledge.train.held_out import validation_batches
from fledge.train.loop import Batch

NAMES = [f"<|{name}|>" for name in ("bos", "user_start", "user_end", "assistant_start", "assistant_end")]
NAMES += [f"<|{name}|>" for name in ("python_start", "python_end", "output_start", "output_end")]
BOS = 256


class Bytes:
    """One token per byte: a tokenizer small enough to check the batches by eye."""

    special: ClassVar[dict[str, int]] = {name: 256 + index for index, name in enumerate(NAMES)}
    bytes_per_token = np.array([1] * 256 + [0] * len(NAMES))

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        pieces = [text.encode() for text in texts]
        offsets = np.cumsum([0, *map(len, pieces)])
        return np.frombuffer(b"".join(pieces), np.uint8).astype(np.uint32), offsets


TOKENIZER: Any = Bytes()


def text(index: int) -> str:
    size = int(np.random.default_rng(index).integers(1, 90))
    return f"{index}:" + "x" * size


def documents(begin: int = 0, end: int | None = None) -> Iterator[Document]:
    indices = itertools.count(begin) if end is None else range(begin, end)
    return (Document(text(index), {"index": index + 1}) for index in indices)


def conversation(index: int, turns: int = 2) -> Conversation:
    size = int(np.random.default_rng(index).integers(1, 60))
    return tuple(say(role, f"{role[0]}{index}" * size) for _ in range(turns) for role in ("user", "assistant"))  # type: ignore[arg-type]


def document_batches(source: Iterator[Document], tokenizer: Any, *, rows: int, **settings: Any) -> Iterator[Batch]:
    return batched(document_rows(source, tokenizer, **settings), rows=rows)


def conversation_batches(source: Any, tokenizer: Any, *, rows: int, **settings: Any) -> Iterator[Batch]:
    return batched(conversation_rows(source, tokenizer, **settings), rows=rows)


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    taken = list(itertools.islice(batches, count))
    close = getattr(batches, "close", None)
    assert close is not None
    close()
    return taken


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for name in ("inputs_BT", "targets_BT", "weights_BT"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert one.tokens == other.tokens


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a test passes through several of them."""
    monkeypatch.setattr("fledge.train.batches.WINDOW_CHARACTERS", 1000)
    monkeypatch.setattr("fledge.train.batches.WINDOW_ROWS", 6)


def test_every_row_begins_with_bos_and_targets_are_the_inputs_moved_by_one() -> None:
    for batch in take(document_batches(documents(), TOKENIZER, rows=3, length=64), 20):
        assert batch.inputs_BT.shape == batch.targets_BT.shape == (3, 64)
        assert (batch.inputs_BT[:, 0] == BOS).all()
        assert torch.equal(batch.inputs_BT[:, 1:], batch.targets_BT[:, :-1])
        assert (batch.weights_BT == 1).all()
        assert batch.tokens == 3 * 64


@pytest.mark.parametrize("length", [2, 7, 64, 500])
def test_all_text_arrives_once_but_for_what_waits_to_fill_a_row(length: int) -> None:
    rows = [row.ids_C for row in document_rows(documents(0, 50), TOKENIZER, length=length)]
    learned = np.concatenate([ids[ids != BOS] for ids in rows])
    given = np.concatenate([np.frombuffer(text(index).encode(), np.uint8) for index in range(50)])
    waiting = np.bincount(given, minlength=256) - np.bincount(learned, minlength=256)
    assert waiting.min() >= 0
    assert waiting.sum() < length


def test_no_more_is_read_ahead_than_a_few_windows() -> None:
    read = 0

    def counted() -> Iterator[Document]:
        nonlocal read
        for document in documents():
            read += len(document.text)
            yield document

    batches = document_batches(counted(), TOKENIZER, rows=2, length=32)
    used = sum(batch.tokens for batch in take(batches, 100))
    # In this test a window is 1,000 characters: one is packed, one waits, one is being read; and four batches wait.
    assert read < used + 4 * 1000 + 5 * 2 * 32


def test_whole_documents_can_be_read_back_from_the_rows() -> None:
    batches = take(document_batches(documents(), TOKENIZER, rows=4, length=256), 10)
    rows = [row for batch in batches for row in batch.inputs_BT.tolist()]
    pieces = [piece for row in rows for piece in "".join(map(chr, row)).split(chr(BOS)) if piece]
    whole = {text(index) for index in range(400)}
    assert sum(piece in whole for piece in pieces) / len(pieces) > 0.6


@pytest.mark.parametrize("stop", [1, 2, 5, 13, 14, 15, 16, 30])
def test_documents_resumed_anywhere_go_on_bitwise_equal(stop: int) -> None:
    whole = take(document_batches(documents(), TOKENIZER, rows=3, length=48), stop + 20)
    cursor = json.loads(json.dumps(whole[stop - 1].cursor))
    resumed = document_batches(
        documents((cursor["documents"] or {"index": 0})["index"]), TOKENIZER, rows=3, length=48, cursor=cursor
    )
    again = take(resumed, 20)
    assert_equal(again, whole[stop:])
    assert again[-1].cursor == whole[-1].cursor


def test_resuming_with_other_documents_than_the_cursor_says_is_refused() -> None:
    cursor = take(document_batches(documents(), TOKENIZER, rows=3, length=48), 30)[-1].cursor
    with pytest.raises(ValueError, match=r'open them with cursor=cursor\["documents"\]'):
        next(document_batches(documents(), TOKENIZER, rows=3, length=48, cursor=cursor))


@pytest.mark.parametrize("ahead", [1, 4, 40])
def test_the_background_thread_changes_nothing(ahead: int) -> None:
    assert list(in_background(iter(range(25)), ahead=ahead)) == list(range(25))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 9))
def test_rows_do_not_depend_on_how_many_make_a_batch(rows: int) -> None:
    for make in (
        lambda rows: document_batches(documents(), TOKENIZER, rows=rows, length=40),
        lambda rows: conversation_batches(conversation, TOKENIZER, rows=rows, length=200),
    ):
        one_by_one = [batch.targets_BT for batch in take(make(1), 4 * rows)]
        together = [batch.targets_BT for batch in take(make(rows), 4)]
        assert torch.equal(torch.cat(one_by_one), torch.cat(together))


@pytest.mark.parametrize("length", [64, 256, 2048])
@pytest.mark.parametrize("turns", [1, 40])
def test_conversations_make_progress_at_every_length_also_when_longer_than_a_row(length: int, turns: int) -> None:
    batches = take(conversation_batches(lambda index: conversation(index, turns), TOKENIZER, rows=2, length=length), 30)
    for batch in batches:
        assert batch.inputs_BT.shape == (2, length)
        assert batch.tokens == int((batch.weights_BT > 0).sum()) > 0
        assert (batch.inputs_BT[:, 0] == BOS).all()
    assert len({batch.cursor["window"] for batch in batches}) > 1


def test_only_answers_are_learned_unless_all_is_asked_for() -> None:
    answers, everything = (
        take(conversation_batches(conversation, TOKENIZER, rows=2, length=400, learn=learn), 5)  # type: ignore[arg-type]
        for learn in ("answers", "all")
    )
    for some, every in zip(answers, everything, strict=True):
        learned = some.targets_BT[some.weights_BT > 0]
        assert not set(learned.tolist()) & {BOS, Bytes.special["<|user_start|>"], ord("u")}
        assert ord("u") in every.targets_BT[every.weights_BT > 0].tolist()
        assert torch.equal(some.targets_BT, every.targets_BT)
        assert every.tokens > some.tokens


def test_changing_what_users_say_changes_no_learned_token() -> None:
    def louder(index: int) -> Conversation:
        return tuple(say("user", m.text.upper()) if m.role == "user" else m for m in conversation(index))

    quiet, loud = (
        take(conversation_batches(talk, TOKENIZER, rows=2, length=400), 8) for talk in (conversation, louder)
    )
    for one, other in zip(quiet, loud, strict=True):
        assert torch.equal(one.weights_BT, other.weights_BT)
        assert torch.equal(one.targets_BT[one.weights_BT > 0], other.targets_BT[one.weights_BT > 0])


@pytest.mark.parametrize("stop", [1, 3, 6, 7, 20])
@pytest.mark.parametrize("endless", [True, False])
def test_conversations_resumed_anywhere_go_on_bitwise_equal(stop: int, endless: bool) -> None:
    data = conversation if endless else [conversation(index) for index in range(30)]
    whole = take(conversation_batches(data, TOKENIZER, rows=3, length=200), stop + 12)
    cursor = json.loads(json.dumps(whole[stop - 1].cursor))
    again = take(conversation_batches(data, TOKENIZER, rows=3, length=200, cursor=cursor), 12)
    assert_equal(again, whole[stop:])
    assert [batch.cursor for batch in again] == [batch.cursor for batch in whole[stop:]]


def test_each_epoch_uses_every_conversation_once() -> None:
    data = [(say("user", "?"), say("assistant", chr(97 + index) * 3)) for index in range(20)]
    batches = take(conversation_batches(data, TOKENIZER, rows=1, length=29), 400)
    seen = torch.cat([batch.targets_BT[batch.weights_BT > 0] for batch in batches])
    counts = np.bincount(seen[seen < 256])[97:117] / 3
    # What a window carries over may still be under way.
    assert counts.max() - counts.min() <= 3
    assert counts.min() > 10


def test_conversations_without_an_answer_that_fits_are_dropped_and_counted() -> None:
    asked: list[int] = []

    def some_too_long(index: int) -> Conversation:
        asked.append(index)
        return (say("user", "?"), say("assistant", "a" * (500 if index % 3 == 0 else 10)))

    def stream(cursor: dict[str, Any] | None) -> Iterator[Row]:
        return conversation_rows(some_too_long, TOKENIZER, length=64, cursor=cursor)

    rows = list(itertools.islice(stream(None), 40))
    assert rows[-1].cursor["dropped"] == sum(index % 3 == 0 for index in set(asked)) > 0
    assert list(itertools.islice(stream(rows[19].cursor), 20))[-1].cursor == rows[-1].cursor


def test_conversations_that_never_fit_raise_instead_of_hanging() -> None:
    talk = (say("user", "u" * 100), say("assistant", "a"))
    with pytest.raises(ValueError, match="no answer that ends within length 64"):
        next(conversation_batches([talk], TOKENIZER, rows=2, length=64))
    with pytest.raises(ValueError, match="the data is empty"):
        next(conversation_batches([], TOKENIZER, rows=2, length=64))


@pytest.mark.parametrize("length", [8, 40, 1000])
def test_validation_scores_every_byte_once_whatever_the_rows(length: int) -> None:
    texts = [text(index) + "é漢" for index in range(30)]
    expected = sum(len(one.encode()) for one in texts)
    pinned = [Document(one, {}) for one in texts]
    rows_of = {}
    for rows in (1, 7):
        batches = list(validation_batches(pinned, TOKENIZER, rows=rows, length=length))
        assert sum(int(batch.weights_BT.sum()) for batch in batches) == expected
        assert all((batch.inputs_BT[:, 0] == BOS).all() for batch in batches)
        assert all(batch.inputs_BT.shape[1] <= length for batch in batches)
        rows_of[rows] = [
            [(i, t) for i, t, b in zip(*row, strict=True) if b]
            for batch in batches
            for row in zip(batch.inputs_BT.tolist(), batch.targets_BT.tolist(), batch.weights_BT.tolist(), strict=True)
        ]
    assert rows_of[1] == rows_of[7]


def test_an_error_in_the_background_is_raised_where_the_batch_is_asked_for() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    items = in_background(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)


def test_the_background_thread_stays_close_and_ends_with_its_reader() -> None:
    import threading

    before, made = threading.active_count(), SimpleNamespace(count=0)

    def endless() -> Iterator[int]:
        while True:
            made.count += 1
            yield made.count

    items = in_background(endless(), ahead=3)
    assert [next(items) for _ in range(5)] == [1, 2, 3, 4, 5]
    items.close()  # type: ignore[attr-defined]
    assert made.count <= 5 + 3 + 2
    assert threading.active_count() == before


def test_the_bench_measures_from_files_to_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    data.main(data.Settings(tokens=20_000, vocab=300, rows=4, length=64))
    printed = capsys.readouterr().out
    assert "all, from file to tensors" in printed
