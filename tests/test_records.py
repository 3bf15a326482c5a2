"""Laws of reading what users bring: it is learned as it stands, left out and counted, or refused by file, line and field."""

from __future__ import annotations

import copy
import gzip
import json
import math
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fledge.config import Sft
from fledge.tasks import choice, core, gsm8k, humaneval
from fledge.tasks.mixture import open_chats
from fledge.text.chat import encode_conversation, parse_conversation, say, to_json
from fledge.text.conversations import open_conversations
from fledge.text.documents import describe, open_documents
from fledge.text.files import RECORDS, TEXTS, find_files
from fledge.text.records import Record, read_records
from fledge.train.converse import bounded, conversations_per_row, sizes_of, those_that_fit
from tiny_engine import BYTES

CASES = Path(__file__).parents[2] / "shared" / "cases"
HI = {"role": "user", "content": "Hi"}
TALK = {"messages": [HI, {"role": "assistant", "content": "Hello"}]}


def write(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


# Which files


def test_texts_and_conversations_are_found_by_one_rule(tmp_path: Path) -> None:
    for name in (
        "a.jsonl",
        "deep/er/B.JSONL",
        "chats.jsonl/c.ndjson",
        ".git/d.jsonl",
        "._a.jsonl",
        "a.jsonl~",
        "a.jsonl.bak",
    ):
        write(tmp_path / name, TALK | {"text": name})
    found = [find_files(tmp_path, endings) for endings in (RECORDS, TEXTS)]
    assert found[0] == found[1]
    names = [file.relative_to(tmp_path).as_posix() for file in found[0].files]
    assert names == ["a.jsonl", "chats.jsonl/c.ndjson", "deep/er/B.JSONL"]
    assert found[0].left_out == ["._a.jsonl", ".git", "a.jsonl.bak", "a.jsonl~"]
    assert "left out: ._a.jsonl, .git, a.jsonl.bak, a.jsonl~" in describe(str(tmp_path))
    assert len(open_conversations(tmp_path)) == 3


def test_files_are_told_by_name_and_content_wherever_they_lie(tmp_path: Path) -> None:
    here, there = (write(tmp_path / place / "deep/a.jsonl", TALK).parents[1] for place in ("here", "there"))
    before = find_files(here, RECORDS).fingerprints()
    assert list(before) == ["deep/a.jsonl"]
    assert find_files(there, RECORDS).fingerprints() == before
    write(there / "deep/a.jsonl", {"messages": TALK["messages"][::-1]})  # as many bytes
    assert find_files(there, RECORDS).fingerprints() != before


def test_links_are_followed_and_nothing_is_read_twice(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/far.jsonl", TALK)
    folder = write(tmp_path / "here/near.jsonl", TALK).parent
    (folder / "away").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "again.jsonl").symlink_to(folder / "near.jsonl")
    (folder / "broken.jsonl").symlink_to(folder / "nowhere")
    found = find_files(folder, RECORDS)
    assert {file.resolve().name for file in found.files} == {"near.jsonl", "far.jsonl"}
    assert len(found.files) == 2
    assert [name.partition(" ")[0] for name in found.left_out] in (
        ["broken.jsonl", "loop", "near.jsonl"],
        ["again.jsonl", "broken.jsonl", "loop"],
    )


def test_a_folder_that_cannot_be_read_is_no_empty_folder(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", TALK)
    (tmp_path / "shut").mkdir(mode=0)
    if os.access(tmp_path / "shut", os.R_OK):
        pytest.skip("this account may read everything")
    with pytest.raises(PermissionError, match="shut"):
        find_files(tmp_path, RECORDS)


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        (
            "a.jsonl",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            r"a\.jsonl: a pointer of Git LFS .*pull",
        ),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"a\.txt: a pointer of Git LFS"),
        ("a.parquet", b"<!DOCTYPE html><html>404</html>", r"a\.parquet: a web page.*fetch the file again"),
        ("a.jsonl", b"\n<html>", r"a\.jsonl: a web page"),
        ("a.txt", b"%PDF-1.4\n", r"a\.txt: a PDF"),
        ("a.txt", "caf\xe9 au lait".encode("utf-16"), r"a\.txt: text in UTF-16: convert"),
        ("a.txt", b"w\0o\0r\0d\0s\0", r"a\.txt: text in UTF-16, or no text at all"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), r"a\.jsonl: compressed by gzip: let its name end in \.gz"),
        ("a.jsonl.gz", b'{"text": "plain"}\n', r"a\.jsonl\.gz: plain text, not compressed: take \.gz off"),
        ("a.txt", b'{"messages": []}\n', r"a\.txt line 1: .* an object: let the name of such a file end in \.jsonl"),
        ("a.json", b'{"text": "a"}', r"a\.json: {.* found; expected is an array of objects"),
        ("a.json", b'[{"text": "a"}, 7]', r"a\.json entry 2: 7 found; each must be one object"),
        ("a.json", b'[{"text": "a"},]', r"a\.json: not JSON \("),
        ("a.json", b'{"text": "a"}\n{"text": "b"}', r"a\.json: not JSON .*let its name end in \.jsonl"),
        ("a.csv", b"text,text\na,b\n", r"a\.csv row 0: columns .*another name"),
        ("a.csv", b"id,text\n1,a\n2\n", r"a\.csv row 2: 1 fields found, expected 2 \(id, text\)"),
        ("a.csv", b'text\n"a', r"a\.csv: unexpected end of data; expected are fields in quotes"),
        ("a.tsv", b"a\tb\n1\t2\n", r"a\.tsv row 1: columns a, b found, but none called 'text'"),
        ("a.jsonl", b'[{"text": "a"}]', r"a\.jsonl line 1: \[.*found; each line must be one object"),
        ("a.jsonl", b'{\n "text": "a"\n}\n', r"a\.jsonl line 1: not JSON .*one object.*jq"),
        ("a.jsonl", b'{"text": "a", "text": "b"}', r"a\.jsonl line 1: .*'text' stands twice"),
        ("a.jsonl", b'{"text": "a"}\n' * 400 + b'{"text": "\xe9"}\n', r"line 401: byte 0xE9 in column 11"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_called_what_it_is(
    tmp_path: Path, name: str, raw: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(raw)
    found = refusal(lambda: (describe(str(tmp_path / name)), list(one_epoch(tmp_path / name))))
    assert found
    assert re.search(said, found), found


# Conversations


@pytest.mark.parametrize("learn", ["answers", "all"])
def test_an_answer_of_weight_0_is_read_and_not_learned(learn: Any) -> None:
    bad, good = ({"role": "assistant", "content": text, "weight": w} for text, w in (("BAD", 0), ("good", 1)))
    talk = parse_conversation({"messages": [HI, bad, HI, good]}, "here")
    assert [message.learn for message in talk] == [True, False, True, True]
    assert parse_conversation(to_json(talk), "here") == talk
    rendered = encode_conversation(BYTES, talk, learn=learn)
    learned = bytes(id for id, is_learned in zip(*vars(rendered).values(), strict=True) if is_learned and id < 256)
    assert b"BAD" in bytes(id for id in rendered.ids if id < 256)
    assert learned == (b"good" if learn == "answers" else b"HiHigood")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"reasoning_content": "hm"},
            "line 2 message 2: a field 'reasoning_content', which we do not know .*Take it out",
        ),
        ({"tool_calls": [{"id": "1"}]}, "line 2 message 2: calls the tool null; allowed is python alone"),
        (
            {"content": [{"type": "text", "text": "x", "weight": 0}]},
            "line 2 message 2: a field 'weight', .* type, text",
        ),
        ({"weight": 0.5}, "line 2 message 2: weight 0.5 of assistant; expected 0 or 1"),
        ({"weight": True}, "line 2 message 2: weight true"),
        ({"content": math.nan}, "line 2 message 2: content of assistant is NaN; allowed: a string or a list of parts"),
        ({"role": "judge"}, 'line 2 message 2: role "judge" is not one of system, user, assistant'),
    ],
)
def test_nothing_of_a_message_is_dropped_in_silence(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    answer = {"role": "assistant", "content": "Hello"}
    path = write(tmp_path / "a.jsonl", TALK, {"messages": [HI, answer | change]})
    with pytest.raises(ValueError, match=said):
        open_conversations(path)
    for nothing in (None, "", [], {}):
        write(path, {"messages": [HI, answer | dict.fromkeys(change.keys() - {"role", "content", "weight"}, nothing)]})
        assert list(open_conversations(path)) == [(say("user", "Hi"), say("assistant", "Hello"))]


@pytest.mark.parametrize("field", ["tools", "functions", "system", "weight"])
def test_fields_beside_the_messages_that_change_what_is_said_are_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(ValueError, match=f"line 1: '{field}' beside the messages"):
        open_conversations(write(tmp_path / "a.jsonl", TALK | {field: "x"}))
    assert len(open_conversations(write(tmp_path / "a.jsonl", TALK | {"id": 7, "source": "x", field: None}))) == 1


def test_what_cannot_be_learned_from_is_left_out_and_counted_by_reason_with_the_first_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blank = {"messages": [HI, {"role": "assistant", "content": "\n"}]}
    unheard = {"messages": [HI, {"role": "assistant", "content": "?", "weight": 0}]}
    long = {"messages": [HI, {"role": "assistant", "content": "word " * 99}]}
    path = write(tmp_path / "a.jsonl", TALK, {"messages": [HI]}, blank, blank, unheard, long, *[TALK] * 9)
    with pytest.raises(ValueError, match=r"15 conversations, 11 usable; .*At most 5% may be left out. Give --skip-bad"):
        open_conversations(path)
    chats = those_that_fit(open_conversations(path, skip_bad=True), BYTES, length=64)
    assert len(chats) == 10
    told = capsys.readouterr().out.replace("\n", " ")
    for reason in (
        "15 conversations, 10 usable",
        "1 without an answer (first: a.jsonl line 2)",
        "2 with an empty answer (first: a.jsonl line 3)",
        "1 whose answers all have weight 0 (first: a.jsonl line 5)",
        "1 without an answer that ends within 64 tokens (first: a.jsonl line 6)",
    ):
        assert reason in told, told
    write(path, TALK, *[long] * 29)
    with pytest.raises(ValueError, match=r"30 conversations, 1 usable; .* 29 without an answer that ends .*line 2"):
        those_that_fit(open_conversations(path), BYTES, length=64)


def test_conversations_that_are_cut_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"role": "assistant", "content": "word " * 9}
    path = write(tmp_path / "a.jsonl", {"messages": [HI, answer] * 3}, TALK, TALK, TALK)
    assert len(those_that_fit(open_conversations(path), BYTES, length=64)) == 4
    assert "25% are longer than a row" in capsys.readouterr().out.replace("\n", " ")


def test_an_empty_system_message_is_none() -> None:
    talk = (say("user", "Hi"), say("assistant", "Hello"))
    assert encode_conversation(BYTES, (say("system", " "), *talk)) == encode_conversation(BYTES, talk)


# Every case


GOOD = """c00 c01 c02 c03 c04 c05 c08 c12 c13 c15 c19 c20 c21 c24 c31 c32 c33 c34 c36 c38 c42 c43 c45 c48 c50
    c53 c55 c56 c57 c67 c68 UP chats.ndjson d10 d1 d2 d3 d4 d5 d6 d9 g upd
    t00 t04 t05 t06 t08 t10 t11 t16 t18 t20 t24b t25 t28 t29 t33 t39 t40 t41 t43 t48"""


@pytest.mark.skipif(not CASES.is_dir(), reason="the collected cases are not beside the checkout")
def test_every_case_is_learned_or_refused_in_a_sentence_that_names_it() -> None:
    good = set(GOOD.split())
    for path in sorted([*CASES.glob("c*"), *(CASES / "f").iterdir(), *(CASES / "t").iterdir()]):
        read = read_texts if path.parent.name == "t" else read_chats
        found = refusal(lambda read=read, path=path: read(path))
        assert (found is None) == bool(good & {path.name, re.split(r"[_.]", path.name)[0]}), found or path
        if found:
            assert str(path) in found
            assert "\n" not in found
            assert re.search(r"expected|allowed|must|needed|convert|fetch|name|take |put |write ", found), found


def read_chats(path: Path) -> Any:
    return those_that_fit(open_chats(str(path), stage="sft", seed=0), BYTES, length=1000)  # type: ignore[arg-type]


def read_texts(path: Path) -> Any:
    return describe(str(path)), list(one_epoch(path))


def refusal(read: Callable[[], Any]) -> str | None:
    """The sentence with which something is refused, or None."""
    try:
        read()
    except ValueError as error:
        return str(error)
    return None


# Whatever stands there


def text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def is_place(value: Any, count: int) -> bool:
    return str(value) in [str(place) for place in range(count)] and type(value) in (int, str)


def is_talk(record: Any) -> bool:
    if any(record.get(field) not in (None, "", [], {}) for field in ("tools", "functions", "system", "weight")):
        return False
    messages = record.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return False
    roles = [message.get("role") for message in messages]
    roles = roles[roles[:1] == ["system"] :]
    known = all(
        key in ("role", "content", "weight") or value in (None, "", [], {})
        for message in messages
        for key, value in message.items()
    )
    said = all(isinstance(message.get("content"), str) or is_parts(message.get("content")) for message in messages)
    turns = all(role == ("user", "assistant")[place % 2] for place, role in enumerate(roles))
    return bool(roles) and known and said and turns and all(is_weight(message) for message in messages)


def is_parts(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(part, dict)
        and part.get("type") in ("text", "python", "output")
        and isinstance(part.get("text"), str)
        and all(key in ("type", "text") or value in (None, "", [], {}) for key, value in part.items())
        for part in content
    )


def is_weight(message: dict[str, Any]) -> bool:
    weight = message.get("weight")
    return weight is None or (message["role"] == "assistant" and weight in (0, 1) and not isinstance(weight, bool))


FOUR = {"question": "2+2?", "choices": ["3", "4", "5", "6"], "answer": 1}
ARC = {"question": "Hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"}
CODE = {name: name for name in ("task_id", "prompt", "canonical_solution", "test", "entry_point")}
ENDS = {"query": "Q", "choices": ["a", "b"], "gold": 1}
BEGINS = {"context_options": ["a", "b"], "continuation": "c", "gold": 0}
SUM = {"question": "1+1?", "answer": "It is <<1+1=2>>2.\n#### 2"}
PARTS = [{"type": "text", "text": "So "}, {"type": "python", "text": "1+1"}, {"type": "output", "text": "2"}]
TOOL = {"messages": [{"role": "system", "content": "Sum."}, HI, {"role": "assistant", "content": PARTS, "weight": 1}]}


def is_arc(r: dict[str, Any]) -> bool:
    choices = r.get("choices")
    return isinstance(choices, dict) and texts(choices.get("text")) and texts(choices.get("label")) and (
        len(choices["text"]) == len(choices["label"]) == len({*choices["label"]})
        and r.get("answerKey") in choices["label"] and text(r.get("question"))
    )  # fmt: skip


Read = Callable[[Path], list[Any]]


def examples(read: Callable[[Record], Any]) -> Read:
    return lambda path: [read(record) for record in read_records(path)]


def listed(kind: core.Kind) -> Read:
    return examples(lambda record: core.example(core.Listed("toy", "toy.jsonl", kind, 0), record))


def is_choice(*fields: str, choices: str = "choices", answer: str = "answer") -> Callable[[Any], bool]:
    return lambda r: (
        all(text(r.get(name)) for name in fields) and texts(r.get(choices)) and is_place(r.get(answer), len(r[choices]))
    )


def has_texts(*fields: str) -> Callable[[Any], bool]:
    return lambda r: all(text(r.get(name)) for name in fields)


READERS: dict[str, tuple[Read, dict[str, Any], Callable[[Any], bool]]] = {
    "chats": (examples(lambda record: parse_conversation(record, record.where)), TOOL, is_talk),
    "mmlu": (examples(choice.plain), FOUR, is_choice("question")),
    "arc": (examples(choice.arc), ARC, is_arc),
    "gsm8k": (examples(gsm8k.example), SUM, has_texts("question", "answer")),
    "humaneval": (examples(humaneval.example), CODE, has_texts(*CODE)),
    "core choice": (listed("choice"), ENDS, is_choice("query", answer="gold")),
    "core schema": (listed("schema"), BEGINS, is_choice("continuation", choices="context_options", answer="gold")),
    "core text": (listed("text"), {"context": "a", "continuation": "b"}, has_texts("context", "continuation")),
    "texts": (read_texts, {"text": "one two"}, lambda r: isinstance(r.get("text", 0), str | None)),
}


def one_epoch(path: Path) -> Iterator[Any]:
    """The documents of both splits, once."""
    for document in open_documents(str(path)):
        if document.cursor["epoch"]:
            break
        yield document
    yield from open_documents(str(path), split="validation")


VALUES = [
    None,
    0,
    1,
    -1,
    7,
    1.5,
    True,
    math.nan,
    10**30,
    "",
    " ",
    "x",
    "1",
    "\ud83d",
    [],
    [None],
    ["x"],
    {},
    {"x": 1},
    [[]],
]


def mutated(record: dict[str, Any], rng: random.Random) -> Any:
    """The record with one thing in it removed, added, repeated or replaced, at any depth."""
    record = copy.deepcopy(record)
    places: list[tuple[Any, Any]] = []
    todo: list[Any] = [record]
    while todo:
        inside = todo.pop()
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        places += [(inside, key) for key in keys]
        todo += [inside[key] for key in keys if isinstance(inside[key], dict | list)]
    inside, key = rng.choice(places)
    match rng.randrange(5):
        case 0:
            del inside[key]
        case 1 if isinstance(inside, dict):
            inside[rng.choice(["name", "tools", "extra", key.upper()])] = rng.choice(VALUES)
        case 1 | 2 if isinstance(inside, list):
            inside.insert(rng.randrange(len(inside) + 1), inside[key])
        case _:
            inside[key] = rng.choice(VALUES)
    return record


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_record_is_valid_or_refused_by_line(name: str, tmp_path: Path) -> None:
    read, good, is_valid = READERS[name]
    rng, path = random.Random(name), tmp_path / "a.jsonl"
    first, last = json.dumps(good), json.dumps(good | ({"text": "three"} if name == "texts" else {}))
    accepted = 0
    for _ in range(300):
        record = mutated(good, rng)
        path.write_text(f"{first}\n{json.dumps(record)}\n{last}\n")
        found = refusal(lambda: read(path))
        if found is None:
            accepted += 1
            assert is_valid(record), record
        else:
            assert f"{path} line 2" in found
            assert "\n" not in found
    assert 0 < accepted < 300


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_line_is_refused_by_its_number_or_says_what_it_said(name: str, tmp_path: Path) -> None:
    read, good, _ = READERS[name]
    rng, path = random.Random(name), tmp_path / "a.jsonl"
    line = json.dumps(good).encode()
    for _ in range(100):
        raw = bytearray(line)
        raw[rng.randrange(len(raw))] = rng.randrange(256)
        path.write_bytes(b"%b\n%b\n%b\n" % (line, raw[: rng.choice((len(raw), rng.randrange(len(raw))))], line))
        found = refusal(lambda: read(path)) or str(path)
        assert str(path) in found
        assert "\n" not in found


# How often


def test_own_conversations_are_learned_three_times_where_nobody_says_how_often(tmp_path: Path) -> None:
    chats = those_that_fit(open_conversations(write(tmp_path / "a.jsonl", *[TALK] * 2000)), BYTES, length=64)
    tokens, sizes = 2000 * len(encode_conversation(BYTES, chats[0]).ids), sizes_of("a.jsonl", chats)
    many = {"per_row": conversations_per_row(chats, BYTES, length=64), "length": 64}
    for replay in (0.0, 0.5):
        config, told = bounded(Sft(data="a.jsonl", replay=replay), sizes, **many)
        assert config.tokens == pytest.approx(3 * tokens / (1 - replay), rel=0.2)
        assert config.batch_tokens == pytest.approx(tokens / (1 - replay) / 10, rel=0.2)
        assert re.search(r"about (2\.\d|3\.\d) epochs of 2,000", told), told
    assert bounded(Sft(data="a.jsonl", tokens=640, batch_tokens=64), sizes, **many)[0].tokens == 640


def test_more_epochs_than_anybody_can_mean_are_refused_and_many_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chats = those_that_fit(open_conversations(write(tmp_path / "a.jsonl", *[TALK] * 30)), BYTES, length=64)
    sizes, per_row = sizes_of("a.jsonl", chats), conversations_per_row(chats, BYTES, length=64)
    with pytest.raises(ValueError, match=r"tokens=1000000 are [\d,]+ epochs of 30 conversations.*at most 1,000"):
        bounded(Sft(data="a.jsonl", tokens=1_000_000), sizes, per_row=per_row, length=64)
    bounded(Sft(data="a.jsonl", tokens=20_000), sizes, per_row=per_row, length=64)
    assert "may be forgotten" in capsys.readouterr().out
