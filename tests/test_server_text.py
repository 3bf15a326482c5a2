"""From an answer's tokens to its text: one rule, for whole answers and for streams."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fledge.infer.request import Request
from fledge.serve.stream import Choice
from fledge.text.chat import KINDS, Message, Part, PartReader, decode_answer, encode_conversation, join_pieces, say
from tiny_engine import BYTES

SPECIAL = BYTES.special
ENDS = [SPECIAL["<|assistant_end|>"], SPECIAL["<|bos|>"]]
HALVES = list("é漢😀".encode())
TOKENS = st.lists(
    st.sampled_from([*SPECIAL.values()]) | st.sampled_from(HALVES) | st.integers(0, BYTES.vocab - 1), max_size=40
)
BUSY = settings(deadline=None)  # a law does not depend on how busy the machine is
PARTS = st.lists(st.builds(Part, st.sampled_from(KINDS), st.text(max_size=6)), max_size=6)


@given(TOKENS, st.lists(st.integers(1, 5), min_size=1))
@example([257, 261, 261, 195], [2])
@BUSY
def test_a_stream_joined_is_the_whole_answer_whatever_the_tokens(tokens: list[int], steps: list[int]) -> None:
    """Also marks that close nothing, parts never closed, special tokens within a character, and tokens after the end."""
    request = Request(prompt=[0])
    choice = Choice(0, request, BYTES)
    pieces, left = [], list(tokens)
    while not request.finish:
        count = steps[len(request.answer) % len(steps)]
        request.answer += left[:count]
        request.mask += [1] * len(left[:count])
        left = left[count:]
        request.finish = "" if left else "stop"
        update = choice.advance()
        pieces += update.pieces if update else []
    assert tuple(join_pieces(pieces)) == decode_answer(BYTES, tokens)


@given(TOKENS)
@BUSY
def test_the_text_is_that_of_the_bytes_between_marks(tokens: list[int]) -> None:
    """Decoded at once rather than token by token; special tokens stand for no bytes."""
    end = next((place for place, token in enumerate(tokens) if token in ENDS), len(tokens))
    marks = {SPECIAL[f"<|{name}|>"] for name in ("python_start", "python_end", "output_start", "output_end")}
    groups = [b""]
    for token in tokens[:end]:
        if token in marks:
            groups.append(b"")
        elif token not in SPECIAL.values():
            groups[-1] += BYTES.decode_bytes([token])
    text = "".join(part.text for part in decode_answer(BYTES, tokens))
    assert text == "".join(group.decode("utf-8", "replace") for group in groups)


@given(PARTS)
@BUSY
def test_an_answer_that_was_written_is_read_back(parts: list[Part]) -> None:
    rendered = encode_conversation(BYTES, (say("user", "q"), Message("assistant", tuple(parts))))
    answer = rendered.ids[rendered.ids.index(SPECIAL["<|assistant_start|>"]) + 1 :]
    read = decode_answer(BYTES, answer)
    # Neighbouring prose is one part, and none where there is nothing to say.
    expected: list[Part] = []
    for part in parts:
        if part.kind != "text" or not expected or expected[-1].kind != "text":
            expected.append(part)
        else:
            expected[-1] = Part("text", expected[-1].text + part.text)
    assert read == tuple(part for part in expected if part.kind != "text" or part.text)


def test_stray_marks_mean_what_the_rule_says() -> None:
    def read(*said: str | bytes) -> list[tuple[str, str]]:
        ids = [t for item in said for t in ([SPECIAL[f"<|{item}|>"]] if isinstance(item, str) else list(item))]
        return [(part.kind, part.text) for part in decode_answer(BYTES, ids)]

    assert read(b"a", "output_end", b"b") == [("text", "ab")]
    assert read(b"a", "python_start", b"1+1") == [("text", "a"), ("python", "1+1")]
    assert read("python_start", b"1", "python_start", b"2", "output_end", b"c") == [
        ("python", "1"),
        ("python", "2"),
        ("text", "c"),
    ]
    assert read(b"a", "user_start", b"b", "user_end", b"c") == [("text", "abc")]
    assert read(b"a", "assistant_end", b"b") == read(b"a", "bos", "python_start", b"b") == [("text", "a")]
    assert read(b"\xc3", "user_start", b"\xa9") == [("text", "é")]
    assert read(b"\xc3", "output_end", b"\xa9") == [("text", "\ufffd\ufffd")]


@given(TOKENS, st.lists(st.sampled_from(["a", "é", "\ufffd", "ab", "\x00"]), min_size=1, max_size=3))
@BUSY
def test_prose_before_a_stop_string_is_the_beginning_of_the_whole_prose(tokens: list[int], stop: list[str]) -> None:
    reader = PartReader(BYTES, stop)
    pieces = [piece for token in tokens for piece in reader.feed(token)] + reader.flush()
    said = "".join(text for kind, text in pieces if kind == "text")
    whole = "".join(part.text for part in decode_answer(BYTES, tokens) if part.kind == "text")
    assert whole.startswith(said)
    if not reader.stopped:
        assert said == whole
