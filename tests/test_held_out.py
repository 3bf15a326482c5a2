"""Own conversations that are held out: never learned, the same whatever stands beside them, and they choose the weights."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.checkpoint import load_pair
from fledge.config import Evaluate, OptimSettings, Report, Sft
from fledge.evals.results import read_results
from fledge.runs import metrics, summary
from fledge.stages import evaluate, report
from fledge.text.chat import encode_conversation, say, talk, to_json
from fledge.text.conversations import open_conversations
from fledge.train.converse import Fitting, main, those_that_fit
from fledge.train.held_out import answer_batches, validation_bits_per_byte
from tiny_engine import BYTES, tiny_model

RNG = random.Random(0)
TALKS = [talk(f"What is number {n}?", f"It is {RNG.randrange(10**6)}.") for n in range(240)]


def write(path: Path, talks: list[Any]) -> Path:
    path.write_text("".join(json.dumps(to_json(one)) + "\n" for one in talks))
    return path


def fitting(path: Path) -> Fitting:
    return those_that_fit(open_conversations(path), BYTES, length=64)


def test_what_is_held_out_is_not_learned_and_depends_on_the_question_alone(tmp_path: Path) -> None:
    whole, fewer = fitting(write(tmp_path / "a.jsonl", TALKS)), fitting(write(tmp_path / "b.jsonl", TALKS[::-2]))
    assert {*whole, *whole.held_out} == {*TALKS}
    assert len(whole) + len(whole.held_out) == len(TALKS)
    assert 0 < len(whole.held_out) < 30
    assert {*fewer.held_out} == {*whole.held_out} & {*TALKS[::-2]}
    again = [(one[0], say("assistant", "Another.")) for one in whole.held_out]
    assert {*again} <= {*fitting(write(tmp_path / "c.jsonl", [*TALKS, *again])).held_out}
    assert not fitting(write(tmp_path / "d.jsonl", TALKS[:99])).held_out  # of few all are learned
    assert not fitting(write(tmp_path / "e.jsonl", TALKS[:1] * 200)).held_out  # and of those that are one


def test_bits_are_those_of_the_bytes_of_answers() -> None:
    model, talks = tiny_model(vocab=BYTES.vocab), [*TALKS[:5], talk("Who?", "I.", "Where?", "Here.")]
    nats = count = 0.0
    for one in talks:
        rendered = encode_conversation(BYTES, one)
        ids, logits = torch.tensor(rendered.ids), model(torch.tensor([rendered.ids]))[0].detach().log_softmax(-1)
        for place in range(1, len(ids)):
            if rendered.mask[place] and ids[place] < 256:  # no mark of ours
                nats -= float(logits[place - 1, ids[place]])
                count += 1
    for rows in (1, 4):
        found = validation_bits_per_byte(model, answer_batches(talks, BYTES, rows=rows, length=64))
        assert found == pytest.approx(nats / count / math.log(2), rel=1e-5)


@pytest.fixture(scope="module")
def trained(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was fine-tuned on the conversations of its chats.jsonl."""
    run = tmp_path_factory.mktemp("trained")
    for stage in ("tokenizer", "pretrain"):
        shutil.copytree(toy_run / stage, run / stage)
    path, threads = write(run / "chats.jsonl", TALKS), torch.get_num_threads()
    # In float32, as what is loaded measures, also on a CPU that trains in bfloat16.
    short: dict[str, Any] = {"tokens": 30 * 512, "batch_tokens": 512, "eval_every": 3, "dtype": "float32"}
    optim = OptimSettings(matrix_rate=0.3, warmdown=0.0)
    main(Sft(run=str(run), start="pretrain", data=str(path), optim=optim, compile="no", threads=1, **short))
    torch.set_num_threads(threads)
    return run


def test_the_weights_remain_at_which_held_out_answers_cost_least(trained: Path) -> None:
    bits = {
        line["step"]: line["val_answer_bits_per_byte"]
        for line in metrics(trained / "sft")
        if "val_answer_bits_per_byte" in line
    }
    done, best = summary(trained / "sft"), min(bits, key=lambda step: bits[step])
    assert list(bits) == [*range(3, 31, 3)]
    assert (done["kept_step"], done["val_answer_bits_per_byte"]) == (best, bits[best])
    assert best < 30, "answers without a rule are learned by heart, which must show"
    model, tokenizer = load_pair(trained, "sft")
    chats = open_conversations(trained / "chats.jsonl")
    held_out = those_that_fit(chats, tokenizer, length=model.config.context).held_out
    batches = answer_batches(held_out, tokenizer, rows=4, length=model.config.context)
    assert validation_bits_per_byte(model, batches) == pytest.approx(bits[best], rel=1e-5)


def test_of_several_sources_the_mean_chooses_and_each_is_measured(trained: Path, tmp_path: Path) -> None:
    run, threads = tmp_path / "run", torch.get_num_threads()
    for stage in ("tokenizer", "pretrain"):
        shutil.copytree(trained / stage, run / stage)
    quiz = tmp_path / "quiz.jsonl"
    quiz.write_text("".join(json.dumps({"question": f"What is {n} and 1?", "answer": n + 1}) + "\n" for n in range(40)))
    (tmp_path / "me.txt").write_text("name = Rex\n")
    data = f"{trained / 'chats.jsonl'}:3,{quiz}:1"
    short: dict[str, Any] = {"tokens": 12 * 512, "batch_tokens": 512, "eval_every": 4, "dtype": "float32", "threads": 1}
    config = Sft(run=str(run), start="pretrain", data=data, identity=str(tmp_path / "me.txt"), compile="no", **short)
    main(config)
    torch.set_num_threads(threads)
    each = [f"val_answer_bits_per_byte_{part}" for part in ("1_chats", "2_quiz", "3_me")]
    lines = [line for line in metrics(run / "sft") if each[0] in line]
    assert [line["step"] for line in lines] == [4, 8, 12]
    for line in lines:
        assert line["val_answer_bits_per_byte"] == pytest.approx(math.prod(line[name] for name in each) ** (1 / 3))
    best = min(lines, key=lambda line: line["val_answer_bits_per_byte"])
    assert summary(run / "sft")["kept_step"] == best["step"]


def test_what_is_evaluated_was_never_learned_whatever_its_file_is_called(trained: Path, tmp_path: Path) -> None:
    new, threads = [talk("Who?", "I."), talk("Where?", "Here.", "When?", "Now.")], torch.get_num_threads()
    parts = {"again": TALKS[::-1], "more": TALKS + new, "new": new, "few": [TALKS[0]]}
    assert TALKS[0] not in fitting(trained / "chats.jsonl").held_out
    files = {name: str(write(tmp_path / f"{name}.jsonl", talks)) for name, talks in parts.items()}
    config = Evaluate(run=str(trained), tasks=",".join(files.values()), threads=1)
    [found] = evaluate.main(config).values()
    torch.set_num_threads(threads)
    kept = read_results(trained / "eval" / "sft.json")[1]
    assert found == {"answer_bits_per_byte": {name: cost.bits_per_byte for name, cost in kept.items()}}
    costs = {name: kept[path] for name, path in files.items()}
    assert costs["again"].bits_per_byte == pytest.approx(summary(trained / "sft")["val_answer_bits_per_byte"], rel=1e-5)
    count = len(fitting(trained / "chats.jsonl").held_out)
    assert {name: cost.scored for name, cost in costs.items()} == {
        "again": f"{count} of 240, never learned",
        "more": f"{count + 2} of 242, never learned",
        "new": "2 of 2, never learned",
        "few": "1 of 1, learned",
    }
    [line] = (trained / "eval").glob("sft-*few.jsonl.jsonl")
    assert json.loads(line.read_text()) | {"bits": 0} == {
        "task": files["few"], "index": 0, "asked": TALKS[0][0].text, "bits": 0, "bytes": len(TALKS[0][1].text),
    }  # fmt: skip
    report.main(Report(run=str(trained)))
    text = (trained / "report.md").read_text()
    assert "## Own conversations" in text
    assert "2 of 2, never learned" in text
    assert not json.loads((trained / "report.json").read_text())["subjects"], "what conversations cost is no accuracy"
