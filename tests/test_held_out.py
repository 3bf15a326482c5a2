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
from fledge.config import OptimSettings, Sft
from fledge.runs import metrics, summary
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


def test_the_weights_remain_at_which_held_out_answers_cost_least(toy_run: Path, tmp_path: Path) -> None:
    for stage in ("tokenizer", "pretrain"):
        shutil.copytree(toy_run / stage, tmp_path / stage)
    path, threads = write(tmp_path / "chats.jsonl", TALKS), torch.get_num_threads()
    short: dict[str, Any] = {"tokens": 30 * 512, "batch_tokens": 512, "eval_every": 3, "compile": "no", "threads": 1}
    short["dtype"] = "float32"  # or what is loaded would measure otherwise than training did
    main(
        Sft(
            run=str(tmp_path),
            start="pretrain",
            data=str(path),
            optim=OptimSettings(matrix_rate=0.3, warmdown=0.0),
            **short,
        )
    )
    torch.set_num_threads(threads)
    bits = {
        line["step"]: line["val_answer_bits_per_byte"]
        for line in metrics(tmp_path / "sft")
        if "val_answer_bits_per_byte" in line
    }
    done, best = summary(tmp_path / "sft"), min(bits, key=lambda step: bits[step])
    assert list(bits) == [*range(3, 31, 3)]
    assert (done["kept_step"], done["val_answer_bits_per_byte"]) == (best, bits[best])
    assert best < 30, "answers without a rule are learned by heart, which must show"
    model, tokenizer = load_pair(tmp_path, "sft")
    held_out = those_that_fit(open_conversations(path), tokenizer, length=model.config.context).held_out
    batches = answer_batches(held_out, tokenizer, rows=4, length=model.config.context)
    assert validation_bits_per_byte(model, batches) == pytest.approx(bits[best], rel=1e-5)
