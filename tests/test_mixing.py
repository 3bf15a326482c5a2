"""Conversations of several sources: drawn by their shares, alike in every process, with what is held out of the user's own."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch

from fledge.config import ModelSettings, Pretrain, Sft
from fledge.origin import broken_links
from fledge.runs import metrics, summary
from fledge.settings import shares_of
from fledge.stages import pretrain
from fledge.tasks import find_task
from fledge.tasks.mixture import Mixed, are_own, open_chats
from fledge.text.chat import encode_conversation, talk, to_json
from fledge.text.documents import open_documents
from fledge.train.batches import document_rows
from fledge.train.converse import Fitting, bounded, conversations_per_row, fitted, main, sizes_of, tell_parts
from tiny_engine import BYTES

TALKS = [talk(f"What is number {n}?", f"It is {n}.") for n in range(200)]


def write(path: Path, *, name: str = "me") -> Path:
    path.write_text("".join(json.dumps(to_json(one)) + "\n" for one in TALKS))
    return path


@pytest.mark.parametrize(
    ("data", "shares"),
    [
        ("world", {"world": 1}),
        ("a.jsonl:2,world", {"a.jsonl": 2, "world": 1}),
        ("C:/a.jsonl:0.5, gsm8k:3", {"C:/a.jsonl": 0.5, "gsm8k": 3}),
        ("smoltalk,mmlu:3,b:c", {"smoltalk": 1, "mmlu": 3, "b:c": 1}),
    ],
)
def test_names_have_shares(data: str, shares: dict[str, float]) -> None:
    assert shares_of(data) == shares
    assert not are_own("a.jsonl:2,world")


def sums(path: Path) -> Path:
    path.write_text("".join(json.dumps({"question": f"{n} + 1?", "answer": n + 1}) + "\n" for n in range(100)))
    return path


def quiz(path: Path) -> Path:
    asked = [{"question": f"Is {n} even?", "choices": ["yes", "no"], "answer": "AB"[n % 2]} for n in range(100)]
    path.write_text("".join(json.dumps(each) + "\n" for each in asked))
    return path


@pytest.mark.parametrize("make", [sums, quiz])
def test_own_questions_are_learned_in_their_task_s_form_and_those_it_tests_never(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    name = str(make(tmp_path / "own.jsonl"))
    learned = open_chats(name, stage="sft", seed=0)
    assert not callable(learned)
    assert [*learned] == [example.messages for example in find_task(name).load("train")]
    tested = {example.question for split in ("validation", "test") for example in find_task(name).load(split)}
    assert len(learned) + len(tested) == 100
    assert not {one[:-1] for one in learned} & tested


def test_questions_with_other_answers_than_numbers_are_conversations(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"question": f"{said}?", "answer": said}) + "\n" for said in ("1969", "in Rome"))
    )
    assert [*open_chats(str(path), stage="sft", seed=0)] == [talk("1969?", "1969"), talk("in Rome?", "in Rome")]  # type: ignore[misc]


def test_several_own_files_are_learned_three_times_as_one_is(tmp_path: Path) -> None:
    data = f"{write(tmp_path / 'me.jsonl')}:3,{sums(tmp_path / 'sums.jsonl')}:1"
    assert are_own(data)
    assert not are_own(f"{data},world")
    chats, _ = fitted(open_chats(data, stage="sft", seed=0), BYTES, length=300)
    sizes, per_row = sizes_of(data, chats), conversations_per_row(chats, BYTES, length=300)
    config, told = bounded(Sft(data=data, replay=0.0), sizes, per_row=per_row, length=300)
    count = sum(sizes.values())
    assert told.endswith(f"epochs of {count} ")
    assert callable(chats)
    drawn = sum(len(encode_conversation(BYTES, chats(place)).ids) for place in range(3 * count))
    assert config.tokens == pytest.approx(drawn, rel=0.2)


def test_how_often_own_files_will_be_learned_in_a_mixture_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Sft(data=f"{write(tmp_path / 'me.jsonl')}:1,world", replay=0.0)
    chats, _ = fitted(open_chats(config.data, stage="sft", seed=0), BYTES, length=64)
    assert isinstance(chats, Mixed)
    sizes = sizes_of(config.data, chats)
    tell_parts(config, sizes, count=10_000)
    said = " ".join(capsys.readouterr().out.split())
    assert "me.jsonl: 50% of the conversations" in said
    assert "learn it by heart" in said
    tell_parts(config, sizes, count=100)
    assert "heart" not in capsys.readouterr().out


def test_epochs_are_the_same_of_all_and_of_each_file_also_where_conversations_are_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [talk(f"{place}?", f"No {place}.", "Why?", "so " * 99) for place in range(50)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(to_json(each)) + "\n" for each in long))
    data = f"{tmp_path / 'long.jsonl'}:1,{sums(tmp_path / 'sums.jsonl')}:1"
    chats, _ = fitted(open_chats(data, stage="sft", seed=0), BYTES, length=40)
    assert isinstance(chats, Mixed)
    sizes, per_row = sizes_of(data, chats), conversations_per_row(chats, BYTES, length=40)
    config, told = bounded(Sft(data=data, replay=0.0), sizes, per_row=per_row, length=40)
    assert told.startswith("about 3.0 epochs of")
    tell_parts(config, sizes, count=(config.tokens or 0) / 40 * per_row)
    shown = [float(each) for each in re.findall(r"about ([\d.]+), are", " ".join(capsys.readouterr().out.split()))]
    count = sum(sizes.values())
    assert sum(shown) == pytest.approx(3 * count, rel=0.25)


@pytest.mark.parametrize("data", ["a,,b", "a:0,b", "a,a:2", ":2"])
def test_what_is_no_share_is_refused(data: str) -> None:
    with pytest.raises(
        ValueError, match=r"found; expected are different names, each with a share above 0, as in a:2,b"
    ):
        shares_of(data)


def test_what_exists_under_the_whole_name_is_one_path(tmp_path: Path) -> None:
    odd = write(tmp_path / "a,b:2.jsonl")
    assert shares_of(str(odd)) == {str(odd): 1}
    assert shares_of(f"{write(tmp_path / 'c:3')}:2,world") == {str(tmp_path / "c:3"): 2, "world": 1}


def test_sources_are_drawn_by_their_shares_and_the_index_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "me.jsonl")
    drawn, again = (open_chats(f"{path}:3,world:1", stage="sft", seed=5) for _ in range(2))
    assert isinstance(drawn, Mixed)
    assert isinstance(again, Mixed)
    (drawn, [own]), (again, _) = (fitted(each, BYTES, length=64) for each in (drawn, again))
    assert isinstance(own, Fitting)
    assert callable(drawn)
    assert callable(again)
    found = [drawn(index) for index in range(400)]
    assert [again(index) for index in reversed(range(400))] == found[::-1]
    count = Counter(one in TALKS for one in found)
    assert count[True] == pytest.approx(300, abs=45)  # five standard errors
    assert own.held_out
    assert not {*found} & {*own.held_out}


def test_the_mixture_of_public_tasks_is_one_source_known_by_its_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a `Mixed` it would be taken for files, by whose hashes a stage knows its data, and it has none."""
    monkeypatch.setenv("FLEDGE_LOCAL", str(tmp_path))
    chats = open_chats("chat", stage="sft", seed=5)
    assert callable(chats)
    assert not isinstance(chats, Mixed)
    assert chats(7) == open_chats("chat", stage="sft", seed=5)(7)  # type: ignore[operator]


def test_a_stage_knows_the_files_of_its_mixture_and_measures_what_is_held_out(toy_run: Path, tmp_path: Path) -> None:
    for stage in ("tokenizer", "pretrain"):
        shutil.copytree(toy_run / stage, tmp_path / stage)
    path, threads = write(tmp_path / "me.jsonl"), torch.get_num_threads()
    short = Sft(run=str(tmp_path), start="pretrain", tokens=2048, batch_tokens=512, compile="no", threads=1)
    main(Sft(**{**vars(short), "data": f"{path}:2,world"}))
    torch.set_num_threads(threads)
    assert summary(tmp_path / "sft")["val_answer_bits_per_byte"] > 0
    assert [line["step"] for line in metrics(tmp_path / "sft") if "val_answer_bits_per_byte" in line] == [1, 2, 3, 4]
    assert not [*broken_links(tmp_path)]
    path.write_text(path.read_text().replace("7.", "8."))
    assert any("me.jsonl" in told for told in broken_links(tmp_path))
    with pytest.raises(ValueError, match="the shares changed"):
        main(Sft(**{**vars(short), "data": f"{path}:3,world"}))


def texts(folder: Path) -> str:
    """A mixture of two folders whose files are called alike, and the world."""
    for name in ("own", "other"):
        (folder / name).mkdir()
        (folder / name / "a.txt").write_text("<|endoftext|>".join(f"The {name} number {n}. " * 9 for n in range(99)))
    return f"{folder / 'own'}:2,{folder / 'other'}:1,world:0.5"


def test_rows_of_mixed_texts_go_on_in_the_midst_as_if_nothing_had_been(tmp_path: Path) -> None:
    data = texts(tmp_path)
    whole = list(islice(document_rows(open_documents(data), BYTES, length=300), 1300))
    for stop in (1, 700, 1200):
        cursor = json.loads(json.dumps(whole[stop - 1].cursor))
        documents = open_documents(data, cursor=cursor["documents"])
        rows = islice(document_rows(documents, BYTES, length=300, cursor=cursor), 60)
        assert [row.ids_C.tolist() for row in rows] == [row.ids_C.tolist() for row in whole[stop : stop + 60]]


def test_a_base_model_of_mixed_texts_is_measured_on_each_and_knows_their_files_and_shares(
    toy_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_run / "tokenizer", tmp_path / "tokenizer")
    data, threads = texts(tmp_path), torch.get_num_threads()
    model = ModelSettings(depth=1, width=32, head_channels=16, context=32)
    short = {"run": str(tmp_path), "model": model, "tokens": 192, "batch_tokens": 64, "compile": "no", "threads": 1}
    pretrain.main(Pretrain(**short, data=data, eval_tokens=1000))
    torch.set_num_threads(threads)
    done = summary(tmp_path / "pretrain")
    each = [done[f"val_bits_per_byte_{name}"] for name in ("1_own", "2_other", "3_world")]
    assert min(each) < done["val_bits_per_byte"] < max(each)
    assert not any("pretrain" in told for told in broken_links(tmp_path))
    with pytest.raises(ValueError, match="the shares changed"):
        pretrain.main(Pretrain(**short, data=data.replace(":2", ":3"), eval_tokens=1000))
    other = tmp_path / "other" / "a.txt"
    other.write_text(other.read_text().replace("7", "8"))
    assert any("source 2: a.txt changed" in told for told in broken_links(tmp_path))
