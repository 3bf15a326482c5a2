"""The command line: `fledge <command> [folder] --setting value`.

Commands are the stages of a run and `run`, which chains them. Settings are the fields of the dataclasses in config.py, with
their docstrings as help. Nothing heavy is imported before it is needed, so help and mistakes answer at once.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from fledge import __version__
from fledge.config import STAGES, RunRecipe, nearest, to_json

GROUPS = {
    "Everything at once": {"run": "raise a model: all stages of a recipe, in one folder"},
    "Stages of training": {
        "tokenizer": "train the tokenizer",
        "pretrain": "train a base model on text",
        "midtrain": "teach it conversations, multiple choice and tool use",
        "sft": "fine-tune it on clean answers",
        "rl": "improve it on a task by reinforcement learning",
    },
    "Measuring": {
        "evaluate": "score the models of a run on tasks",
        "report": "write the report card of a run",
        "bench": "measure the speed of a part on this machine: infer",
    },
    "Talking": {
        "chat": "talk to a model in the terminal",
        "serve": "web page and OpenAI-compatible API",
    },
}
COMMANDS = tuple(name for group in GROUPS.values() for name in group)
BENCHES = {
    "infer": "InferBench",
}
SHORT = {"-p": "--prompt", "--from": "--start"}
BEGINS_AGAIN = {"--fresh", "--from", "--only"}
ANYWHERE = {
    "--dry-run": "show the resolved settings and exit",
    "--fresh": "begin again: forget what the stage left in the run",
    "--local": "folder of data sets already downloaded, or set FLEDGE_LOCAL; nothing is fetched for what lies there",
    "--debug": "show where an error came from",
}


def main() -> None:
    """Entry point of the console script; exits with 0, 1 (a failure), 2 (a mistake of the user) or 130 (interrupted)."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"fledge {__version__}")
        return 0
    command, *rest = arguments
    debug = "--debug" in rest
    try:
        return dispatch(command, [word for word in rest if word != "--debug"])
    except KeyboardInterrupt as interrupt:
        again = "" if BEGINS_AGAIN.isdisjoint(rest) else f", without {', '.join(sorted(BEGINS_AGAIN))}"
        complain(
            f"interrupted{f': {interrupt}' if str(interrupt) else ''}. The same command{again} goes on from there."
        )
        return 130
    except (ValueError, FileNotFoundError, OSError) as error:
        if debug:
            raise
        complain(str(error))
        return 2
    except (FloatingPointError, RuntimeError) as error:
        if debug:
            raise
        complain(f"{error} (--debug shows where)")
        return 1


def complain(text: str) -> None:
    """One message on the error stream."""
    print(f"fledge: {text}", file=sys.stderr, flush=True)


def overview() -> str:
    """The text of `fledge --help`."""
    lines = [
        "usage: fledge COMMAND [RUN] [--setting value ...]",
        "",
        "Raise your own ChatGPT, from raw text to a chat.",
        "",
    ]
    for title, commands in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<11}{text}" for name, text in commands.items()), ""]
    lines += ["With every command:", *(f"  {flag:<11}{text}" for flag, text in ANYWHERE.items()), ""]
    lines += ["`fledge COMMAND --help` lists the settings. First steps: `fledge run`, then `fledge chat`."]
    return "\n".join(lines)


def dispatch(command: str, words: list[str]) -> int:
    """Parse the settings of a command and call its `main(config)`."""
    if command not in COMMANDS:
        raise ValueError(f"{command!r} is not a command; there are: {', '.join(COMMANDS)}.{nearest(command, COMMANDS)}")
    words = with_data_home([part for word in words for part in long_form(word)])
    if command == "bench":
        return bench(words)
    fresh, dry = "--fresh" in words, "--dry-run" in words
    kind = RunRecipe if command == "run" else STAGES[command]
    own = {field.name for field in dataclasses.fields(kind)}
    words = [word for word in words if word != "--dry-run" and (word != "--fresh" or "fresh" in own)]
    words = with_folder(command, words)
    config = parse(kind, f"fledge {command}", words)
    if config is None:
        return 0
    if dry and command != "run":
        print(json.dumps(to_json(config), indent=1))
        return 0
    if fresh and command != "run":
        from pathlib import Path

        from fledge.runs import begin_again

        begin_again(Path(config.run), command)
    if command == "run":
        from fledge.recipes import main as run_recipe

        return run_recipe(config, dry=dry) or 0
    return importlib.import_module(f"fledge.stages.{command}").main(config) or 0


def long_form(word: str) -> list[str]:
    """--from=sft -> --start sft: settings under the names that the dataclasses have."""
    name, equals, value = word.partition("=")
    return [SHORT[name], *([value] if equals else [])] if name in SHORT else [word]


def with_data_home(words: list[str]) -> list[str]:
    """`--local DIR` is no setting of a stage but of the process, as FLEDGE_LOCAL is: where data sets lie already."""
    rest = iter(words)
    kept = []
    for word in rest:
        name, equals, value = word.partition("=")
        if name != "--local":
            kept.append(word)
        elif (folder := value if equals else next(rest, "")) == "":
            raise ValueError("--local: no folder given; name one that holds data sets already downloaded")
        else:
            os.environ["FLEDGE_LOCAL"] = folder
    return kept


def with_folder(command: str, words: list[str]) -> list[str]:
    """A first word without a dash is the run's folder (the recipe's name for `run`); without any, the newest run is meant."""
    if words and not words[0].startswith("-"):
        return ["--recipe" if command == "run" else "--run", *words]
    if command in ("chat", "serve", "evaluate", "report") and "--run" not in words and "--help" not in words:
        from fledge.runs import newest_run

        if (found := newest_run()) is not None:
            return ["--run", str(found), *words]
    return words


def parse(kind: type[Any], program: str, words: list[str]) -> Any:
    """Settings from words; None when help was shown. Mistakes are explained, with the nearest valid name."""
    import tyro

    try:
        return tyro.cli(kind, args=words, prog=program, description=kind.__doc__)
    except SystemExit as stop:
        if stop.code in (0, None):
            return None
        raise


def bench(words: list[str]) -> int:
    """`fledge bench NAME`: the settings and the work live in fledge/bench/NAME.py."""
    if not words or words[0] not in BENCHES:
        if words and words[0] in ("-h", "--help"):
            print(f"usage: fledge bench NAME [--setting value ...]\n\nNAME is one of: {', '.join(BENCHES)}")
            return 0
        asked = words[0] if words else ""
        raise ValueError(f"bench {asked!r} is not one of {', '.join(BENCHES)}.{nearest(asked, tuple(BENCHES))}")
    name, *rest = words
    module = importlib.import_module(f"fledge.bench.{name}")
    config = parse(getattr(module, BENCHES[name]), f"fledge bench {name}", rest)
    if config is not None:
        module.main(config)
    return 0
