"""Conversations of files: read with errors that name the line, kept on disk, made when they are drawn."""

from __future__ import annotations

import contextlib
import gc
import json
import random
import shutil
from pathlib import Path

import pytest

from fledge.tasks.mixture import MIXES, mixture, training_conversations
from fledge.text.chat import Message, Part, parse_conversation, say, to_json
from fledge.text.conversations import Stored, answered, open_conversations

TALK = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


def write(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def messages_alive() -> int:
    gc.collect()
    return sum(type(one) is Message for one in gc.get_objects())


def test_the_users_conversations_are_read_and_errors_name_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "chats.jsonl", [TALK, TALK])
    assert [[message.role for message in talk] for talk in open_conversations(path)] == [["user", "assistant"]] * 2
    assert len(open_conversations(tmp_path)) == 2
    path.write_text(json.dumps(TALK) + "\n" + json.dumps(TALK).replace("assistant", "asistant"))
    with pytest.raises(ValueError, match=r'chats\.jsonl line 2 message 2: role "asistant" is not one of system'):
        open_conversations(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="no conversation found"):
        open_conversations(path)


def test_a_line_that_is_no_json_is_left_out_and_counted_where_that_is_allowed(tmp_path: Path) -> None:
    talk = json.dumps({"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]})
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join([talk, talk[:-5], "[1]", talk]))
    with pytest.raises(ValueError, match="line 2: not JSON"):
        open_conversations(path)
    chats = open_conversations(path, skip_bad=True)
    assert (len(chats), dict(chats.left_out.counts)) == (2, {"not JSON": 2})
    assert "line 2" in str(chats.left_out)


def test_what_is_drawn_is_what_the_file_says(tmp_path: Path) -> None:
    tool = say("assistant", "It is ", Part("python", "1+1"), Part("output", "2"), "2. \U0001f600 caf\xe9 \u4e2d")
    talks = [(say("system", "Be brief."), say("user", f"Sum {n}?"), tool, say("user", "")) for n in range(50)]
    stored = open_conversations(write(tmp_path / "a.jsonl", [to_json(talk) for talk in talks]))
    assert list(stored) == talks
    assert (stored[-1], stored[3:5], len(stored)) == (talks[-1], talks[3:5], 50)
    with pytest.raises(IndexError):
        stored[50]
    random.Random(0).shuffle(order := list(range(50)))
    assert [stored[index] for index in order] == [talks[index] for index in order]


def test_nothing_stored_is_an_empty_sequence() -> None:
    assert list(Stored([], make=str)) == []


def test_loaded_conversations_are_no_objects_and_take_eight_bytes_beside_their_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [TALK] * 3000)
    before = messages_alive()
    stored = open_conversations(path)
    assert messages_alive() == before
    assert isinstance(stored, Stored)
    assert stored.ends.itemsize * len(stored.ends) == 8 * 3001
    assert len(stored.raw) <= path.stat().st_size + 40 * 3000  # each knows its file and line


def test_examples_of_large_tasks_are_no_objects_until_they_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEDGE_LOCAL", str(tmp_path))
    choice = {"question": "2+2?", "choices": ["3", "4"], "answer": 1}
    write(tmp_path / "mmlu/auxiliary_train.jsonl", [choice] * 1000)
    write(tmp_path / "smoltalk/train.jsonl", [TALK | {"source": "x"}] * 1000)
    before = messages_alive()
    tasks = [training_conversations(name, tmp_path) for name in ("mmlu", "smoltalk")]
    assert messages_alive() == before
    assert [len(task) for task in tasks] == [1000, 1000]
    assert tasks[0][7][-1].text == "B"
    assert tasks[1][7] == parse_conversation(TALK, "here")


def test_the_mixture_is_read_once_and_drawn_by_seed_and_index_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fledge run` opens it before its first stage; midtrain, sft and rl open it again."""
    monkeypatch.setenv("FLEDGE_LOCAL", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write(tmp_path / "smoltalk/train.jsonl", [to_json((say("user", str(n)), say("assistant", "?"))) for n in range(99)])
    first = mixture(MIXES["midtrain"], seed=3)
    shutil.rmtree(tmp_path / "smoltalk")
    again, other = (mixture(MIXES["midtrain"], seed=seed) for seed in (3, 4))
    drawn = [first(index) for index in range(30)]
    assert [again(index) for index in reversed(range(30))] == drawn[::-1]
    assert [other(index) for index in range(30)] != drawn


@pytest.mark.parametrize("name", sorted({name for mix in MIXES.values() for name in mix}))
def test_what_a_mixture_is_made_of_comes_along_or_can_be_fetched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLEDGE_LOCAL", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with contextlib.suppress(ConnectionError):  # the hub would be asked for it
        assert training_conversations(name, None)


def test_dialogues_in_another_form_are_left_out_of_the_mixture_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = {"messages": [{"role": "stranger", "content": "Hi"}]}
    unanswered = {"messages": [*TALK["messages"], {"role": "user", "content": "Well?"}]}
    write(tmp_path / "chat/a.jsonl", [TALK, strange, unanswered])
    found = training_conversations("smoltalk", tmp_path)
    assert [answered(one) for one in found] == [parse_conversation(TALK, "here")] * 2
    assert "3 conversations, 2 usable; left out are 1 in a form" in capsys.readouterr().out
