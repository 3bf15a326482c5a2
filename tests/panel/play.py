"""Play the visitors' panel on a run and judge what it answers (panel_rules.md).

    python tests/panel/play.py RUN                                      # greedy
    python tests/panel/play.py RUN --temperature 0.6 --seed 1,2,3       # sampled, with the mean over the seeds
    python tests/panel/play.py RUN --prompts tests/panel/third.jsonl    # the third panel

Prints the share of acceptable answers per category, of all prompts, and the mean of the categories. The transcripts of each
setting lie in --out: NAME.txt to read, wrong answers first within a category, and NAME.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from judge import judge

from fledge.config import Sampling
from fledge.infer.engine import Engine
from fledge.infer.request import Request
from fledge.model import device
from fledge.runs import choose_stage
from fledge.sandbox.sandbox import Sandbox
from fledge.sandbox.tools import find_tool
from fledge.serve.pool import open_run
from fledge.text.chat import Conversation, Message, Part, decode_answer, fit_prompt, say

Row = dict[str, Any]
PANEL = Path(__file__).with_name("panel.jsonl")


@dataclass(frozen=True)
class Answer:
    """What the model said in one turn, and why it ended."""

    parts: tuple[Part, ...]
    finish: str | None

    @property
    def prose(self) -> str:
        """What a visitor reads, without tool calls."""
        return "".join(part.text for part in self.parts if part.kind == "text")

    def __str__(self) -> str:
        return "".join(part.text if part.kind == "text" else f"<<{part.text}>>" for part in self.parts)


def open_engine(run: Path) -> Engine:
    """The run's last model on the CPU, with the calculator."""
    found = open_run(run, stage=choose_stage(run, None))
    return Engine(found.entries[0].load("cpu"), found.tokenizer, slots=48, run_tool=find_tool("calculator"))


def play(engine: Engine, panel: Sequence[Row], temperature: float, seed: int) -> list[list[Answer]]:
    """Answers to every turn of every prompt; a seed gives each turn of each prompt one of its own."""
    talks: list[Conversation] = [() for _ in panel]
    answers: list[list[Answer]] = [[] for _ in panel]
    for turn in range(max(len(prompt["turns"]) for prompt in panel)):
        requests: dict[int, Request] = {}
        for number, prompt in enumerate(panel):
            if turn < len(prompt["turns"]):
                talks[number] += (say("user", prompt["turns"][turn]),)
                sampling = Sampling(temperature=temperature, seed=seed * 100_000 + number * 10 + turn)
                most = sampling.max_tokens
                fitted = fit_prompt(engine.tokenizer, talks[number], context=engine.context, max_tokens=most)
                requests[number] = Request(prompt=fitted.ids, sampling=sampling)
        engine.generate(list(requests.values()))
        for number, request in requests.items():
            answers[number].append(Answer(decode_answer(engine.tokenizer, request.answer), request.finish))
            talks[number] += (Message("assistant", answers[number][-1].parts),)
    return answers


def judge_all(panel: Sequence[Row], answers: Sequence[Sequence[Answer]], sandbox: Sandbox) -> list[Row]:
    """The prompts with their answers, whether the last is acceptable, and else why not."""
    rows = []
    for prompt, said in zip(panel, answers, strict=True):
        last, why = said[-1], f"finish {said[-1].finish}"
        if last.finish == "stop":
            why = judge(prompt["rule"], last.prose, prompt["turns"], sandbox)
        rows.append({**prompt, "answers": [str(answer) for answer in said], "ok": why is None, "why": why})
    return rows


def by_category(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each category, in the order of the panel."""
    return {
        name: [row for row in rows if row["category"] == name]
        for name in dict.fromkeys(row["category"] for row in rows)
    }


def transcript(rows: Sequence[Row]) -> str:
    """The conversations to read, wrong answers first within a category."""
    lines = []
    for category, of in by_category(rows).items():
        lines += ["", f"######## {category}: {sum(row['ok'] for row in of)} of {len(of)}"]
        for row in sorted(of, key=lambda row: row["ok"]):
            lines += ["", f"[ok] {row['id']}" if row["ok"] else f"[NO] {row['id']}   ({row['why']})"]
            lines += [
                f"  > {turn!r}\n    {answer!r}" for turn, answer in zip(row["turns"], row["answers"], strict=True)
            ]
    return "".join(line + "\n" for line in lines)


def table(played: dict[str, list[Row]]) -> str:
    """Shares of acceptable answers: a column per setting, and their mean."""
    settings = [by_category(rows) for rows in played.values()]
    shares = [{name: fmean(row["ok"] for row in of) for name, of in categories.items()} for categories in settings]
    several = len(played) > 1
    lines = [f"{'category':<14}{'n':>4}  " + "  ".join(f"{name:>8}" for name in played) + "      mean" * several]
    for name, of in settings[0].items():
        lines.append(line(name, len(of), [share[name] for share in shares], places=2))
    rows = list(played.values())
    lines.append(line("OVERALL", len(rows[0]), [fmean(row["ok"] for row in of) for of in rows], places=3))
    lines.append(line("mean of cats", "", [fmean(share.values()) for share in shares], places=3))
    return "\n".join(lines)


def line(name: str, count: int | str, scores: list[float], *, places: int) -> str:
    """One row of the table; the mean where there are several scores."""
    shown = [*scores, fmean(scores)] if len(scores) > 1 else scores
    return f"{name:<14}{count:>4}  " + "  ".join(f"{score:8.{places}f}" for score in shown)


def main() -> None:
    """Play, judge, write, print."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("run", type=Path)
    ask.add_argument("--prompts", type=Path, default=PANEL)
    ask.add_argument("--temperature", type=float, default=0.0)
    ask.add_argument("--seed", default="0", help="one, or several with commas; greedy needs none")
    ask.add_argument("--out", type=Path, default=Path("panel_out"))
    ask.add_argument("--threads", type=int, default=1)
    given = ask.parse_args()
    device.threads(given.threads)
    panel = [json.loads(line) for line in given.prompts.read_text(encoding="utf-8").splitlines()]
    seeds = [int(seed) for seed in given.seed.split(",")] if given.temperature else [0]
    run, engine = given.run.resolve().name, open_engine(given.run)
    given.out.mkdir(parents=True, exist_ok=True)
    played = {}
    with Sandbox(workers=1) as sandbox:
        for seed in seeds:
            name = f"t{given.temperature:g}" + (f"-s{seed}" if given.temperature else "")
            played[name] = rows = judge_all(panel, play(engine, panel, given.temperature, seed), sandbox)
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (given.out / f"{run}-{name}.jsonl").write_text(lines, encoding="utf-8")
            (given.out / f"{run}-{name}.txt").write_text(transcript(rows), encoding="utf-8")
    engine.close()
    print(table(played))
    print(f"transcripts: {given.out}/{{{','.join(f'{run}-{name}' for name in played)}}}.txt")


if __name__ == "__main__":
    main()
