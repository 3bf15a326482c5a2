"""Conversations of other forms are those of ours: whatever form says the same is learned the same, and nothing said is lost."""

from __future__ import annotations

import copy
import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fledge.text.chat import Conversation, Part, parse_conversation, say, talk
from fledge.text.conversations import open_conversations
from fledge.text.forms import ANSWERED, ASKED, in_our_form

SAID = ("Hi", "Hello", "And\nthen?", "Caf\xe9 \U0001f600")
SYSTEM = say("system", "Be brief.")
CALL = {"id": "1", "type": "function", "function": {"name": "python", "arguments": json.dumps({"code": "6*7"})}}


def read(record: dict[str, Any]) -> Conversation:
    return parse_conversation(in_our_form(record, "here")[0], "here", joined=True)


def sharegpt(user: str, assistant: str, system: str = "system") -> dict[str, Any]:
    names = (system, *(user, assistant) * 2)
    return {
        "conversations": [{"from": n, "value": s} for n, s in zip(names, ("Be brief.", *SAID), strict=True)],
        "id": 1,
    }


@pytest.mark.parametrize(
    "record",
    [
        sharegpt("human", "gpt"),
        sharegpt("user", "chatgpt"),
        sharegpt("Human ", "AI", "developer"),
        {
            "system": "Be brief.",
            "conversation": [{"role": ("user", "assistant")[n % 2], "content": s} for n, s in enumerate(SAID)],
        },
        {"instruction": SAID[2], "output": SAID[3], "history": [list(SAID[:2])], "system": "Be brief.", "input": ""},
        {"query": SAID[2], "response": SAID[3], "history": [list(SAID[:2])], "system_prompt": "Be brief.", "tools": []},
    ],
)
def test_whatever_form_says_the_same_is_the_same(record: dict[str, Any]) -> None:
    assert read(record) == (SYSTEM, *talk(*SAID))


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("answered", ANSWERED)
def test_a_question_and_its_answer_are_a_conversation_by_whatever_names(asked: str, answered: str) -> None:
    assert read({asked: "Hi", answered: "Hello"}) == talk("Hi", "Hello")
    assert read({asked: "Sum:", "input": "1 2", answered: "3"}) == talk("Sum:\n\n1 2", "3")
    turns = {asked: [{"role": "user", "content": "Hi"}], answered: [{"role": "assistant", "content": "Hello"}]}
    assert read(turns) == talk("Hi", "Hello")


def test_one_speaker_s_messages_in_a_row_are_one_and_python_s_results_are_parts_of_the_answer() -> None:
    messages = [
        {"role": "user", "content": "What is"},
        {"role": "user", "content": "6*7?"},
        {"role": "assistant", "content": "It is ", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
        {"role": "assistant", "content": "42."},
    ]
    assert read({"messages": messages}) == (
        say("user", "What is\n\n6*7?"),
        say("assistant", "It is ", Part("python", "6*7"), Part("output", "42"), "42."),
    )
    further: dict[str, Any] = {"role": "assistant", "content": "Sure?", "weight": 1}  # as if none stood there
    assert read({"messages": [*messages, further]})[1].parts[-1] == Part("text", "42.\n\nSure?")
    with pytest.raises(ValueError, match="here message 3: content of user is 7"):  # by its own number
        read({"messages": [*messages[:2], {"role": "user", "content": 7}]})
    messages[4]["weight"] = 0  # of a half of an answer nothing can be said
    with pytest.raises(ValueError, match="message 3 is by assistant, expected user"):
        read({"messages": messages})
    for name, arguments in (
        ("weather", "{}"),
        ("python", "6*7"),
        ("python", '{"code": 7}'),
        ("python", {"code": "6*7"}),
        ("python", "[" * 100_000),
    ):
        call = {"function": {"name": name, "arguments": arguments}}
        with pytest.raises(ValueError, match=f'here message 2: calls the tool "{name}"; allowed is python alone'):
            read({"messages": [messages[0], {"role": "assistant", "tool_calls": [call]}]})


def test_pairs_of_answers_and_two_questions_are_no_conversation() -> None:
    with pytest.raises(ValueError, match=r"no messages found .* .pairs of answers, which no stage learns from"):
        read({"prompt": "Hi", "chosen": "Hello", "rejected": "What?"})
    with pytest.raises(ValueError, match="no messages found"):
        read({"prompt": "Hi", "question": "Hi?", "answer": "Hello"})
    with pytest.raises(ValueError, match=r"here: history is .*; expected pairs of texts"):
        read({"query": "Hi", "response": "Hello", "history": ["a"]})


def as_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(
            [("question", "answer"), SAID[:2], SAID[2:]]
        )


def as_array(path: Path) -> None:
    path.write_text(json.dumps([{"question": SAID[place], "answer": SAID[place + 1]} for place in (0, 2)], indent=1))


@pytest.mark.parametrize(("name", "write"), [("a.csv", as_csv), ("a.tsv", as_csv), ("a.json", as_array)])
def test_tables_and_arrays_hold_conversations_too(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    chats = open_conversations(tmp_path)
    assert list(chats) == [talk(*SAID[:2]), talk(*SAID[2:])]
    assert dict(chats.forms) == {"question and answer": 2}


def test_a_table_as_excel_writes_it_is_read_and_others_are_refused_by_their_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf\r\nquestion; answer\r\nHi;Hello\r\n;\r\n")
    assert list(open_conversations(tmp_path / "a.csv")) == [talk("Hi", "Hello")]
    (tmp_path / "b.csv").write_text("frage;antwort\nHi;Hello\n")
    with pytest.raises(
        ValueError, match=r'b.csv row 1: no messages found among \["frage", "antwort"\].*\. Correct them'
    ):
        open_conversations(tmp_path / "b.csv", skip_bad=True)


ODD: tuple[Any, ...] = (
    None,
    "",
    "x",
    "user",
    "tool",
    0,
    1,
    True,
    [],
    {},
    [[]],
    ["a", "b"],
    {"a": 1},
    [{"role": "user"}],
    CALL,
)


def strings(value: Any, key: str = "") -> list[str]:
    """What is said somewhere in a record: values of the fields that hold what people say."""
    if isinstance(value, str):
        return (
            [value] if key in ("content", "value", "text", "code", *ASKED, *ANSWERED, "input") and value.strip() else []
        )
    inside = (
        value.items() if isinstance(value, dict) else [(key, one) for one in value] if isinstance(value, list) else []
    )
    return [said for name, one in inside for said in strings(one, name)]


def test_a_mutated_record_of_any_form_is_learned_whole_or_refused_in_a_sentence() -> None:
    rng, accepted, refused = random.Random(0), 0, []
    tools = [{"role": "user", "content": "6*7?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    tools += [{"role": "tool", "content": "42"}, {"role": "assistant", "content": "42."}]
    forms = [
        sharegpt("human", "gpt"),
        {"messages": tools},
        {"instruction": "Sum:", "input": "1 2", "output": "3", "history": []},
    ]
    for _ in range(3000):
        record = copy.deepcopy(rng.choice(forms))
        for _ in range(rng.choice((1, 1, 2))):
            places, todo = [], [record]
            while todo:
                inside = todo.pop()
                keys = list(inside) if isinstance(inside, dict) else range(len(inside))
                places += [(inside, key) for key in keys]
                todo += [inside[key] for key in keys if isinstance(inside[key], dict | list)]
            inside, key = rng.choice(places)
            inside[key] = copy.deepcopy(rng.choice(ODD))
        try:
            found = read(record)
        except ValueError as error:
            refused.append(str(error))
            continue
        accepted += 1
        heard = "\n".join(part.text for message in found for part in message.parts)
        turns = record.get("messages") or record.get("conversations") or record
        assert all(said in heard for said in strings(turns)), record
    assert min(accepted, len(refused)) > 300
    assert all(error.startswith("here") and "\n" not in error for error in refused)
