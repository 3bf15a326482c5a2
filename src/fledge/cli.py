"""The command line: `fledge <command> [folder] --setting value`.

Commands are the stages of a run and `run`, which chains them. Settings are the fields of the dataclasses in config.py and
commands.py, with their docstrings as help. Nothing heavy is imported before it is needed, so help and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fledge import __version__, endings, ranks
from fledge.commands import COMMANDS, SETTINGS, TRAINED, RunRecipe, Sweep, TrainBench
from fledge.config import Ranked, TrainStage, check
from fledge.console import notice
from fledge.runs import newest_run
from fledge.runs import summary as summary_of
from fledge.settings import NothingLearned, nearest

SHORT = {"-p": "--prompt", "--from": "--start", "--rehearse": "--replay-tokens"}
GO_ON = (*TRAINED, "run", "evaluate", "sweep")
"""Commands that find what they had done when they were interrupted; the others begin anew."""
APART = {
    "run": "pipeline",
    "plan": "plan",
    "sweep": "research.sweep",
    "compare": "research.compare",
    "watch": "research.watch",
}
APART |= {"export": "export.out", "import": "export.back", "upload": "export.upload"}
"""Modules of commands that are neither stages nor benches."""
BEGINS_AGAIN = {"--fresh", "--from", "--only"}
IN_JSON = (*TRAINED, "evaluate", "sweep", "compare")
"""Commands whose `--json` ends them with a line for programs, however they end."""
ENDS = {
    0: "done; a result that is worse is no error",
    1: "a crash",
    2: "wrong settings, paths or data",
    3: "out of memory",
    4: "diverged: the loss is not finite, or worse than guessing",
    5: "a sweep is done but for points that failed",
    6: "rl had nothing to learn from: all answers earned the same",
    130: "interrupted",
}
"""Exit codes."""
FIRST = {"run": ("--recipe",), "plan": ("--recipe",), "import": ("--source",), "upload": ("--folder", "--repo")}
"""What first words without a dash are; of other commands one is the folder of the run."""
ANYWHERE = {
    "--dry-run": "show the resolved settings and exit",
    "--local": "folder of data sets already downloaded, or set FLEDGE_LOCAL; nothing is fetched for what lies there",
    "--debug": "show where an error came from",
    "--json": f"end with one line of JSON: {', '.join(IN_JSON)}",
}


def main() -> None:
    """Entry point of the console script; exits with one of `ENDS`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed before it began, as by >&-
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    code = 130
    try:
        try:
            code = run(sys.argv[1:])
        finally:
            endings.watch(signal.SIG_DFL)  # all is said: from here on each ends the process at once, without a word
    except KeyboardInterrupt:
        pass  # once more, while the first was told
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again at its very end, and say so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if ranks.is_joined():
        # A rank that failed ends at once. While Python ends gloo's threads let go of its objects, by which one process in fifteen
        # was aborted, which the launcher takes for a crash; and NCCL would wait for the others.
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    # A thread of torch that waits for others keeps its core busy for long, which beside two busy programs cost two fifths of the
    # speed of training. A fifteenth of libgomp's own patience costs 2 % on idle cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    command, *rest = arguments or ["--help"]
    endings.watch()
    try:
        code = dispatch(command, rest)
        sys.stdout.flush()
        return ended(command, rest, code)
    except SystemExit as stop:
        return ended(command, rest, int(stop.code or 0))
    except BrokenPipeError:
        return 0  # nobody reads any more, as with `| head`
    except KeyboardInterrupt as interrupt:
        again = "" if BEGINS_AGAIN.isdisjoint(rest) else f", without {', '.join(sorted(BEGINS_AGAIN))}"
        hope = f" The same command{again} goes on from there." if command in GO_ON else ""
        notice(f"interrupted{f': {interrupt}' if str(interrupt) else ''}.{hope}")
        return ended(command, rest, 130)
    except (ValueError, OSError, FloatingPointError, RuntimeError, MemoryError) as error:
        if "--debug" in rest:
            raise
        code = code_of(error)
        if not ranks.record(error):
            notice(f"{error}{' (--debug shows where)' * (code == 1)}", everywhere=True)
        return ended(command, rest, code, str(error))
    except Exception as error:  # a defect: Python shows where
        ended(command, rest, 1, repr(error))
        raise


def code_of(error: Exception) -> int:
    """The exit code that an error ends a command with."""
    # torch is not imported for its class, and has none of its own where the memory is the CPU's.
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "DefaultCPUAllocator" in str(error):
        return 3
    if isinstance(error, FloatingPointError):
        return 4
    if isinstance(error, NothingLearned):
        return 6
    return 2 if isinstance(error, ValueError | OSError) else 1


def ended(command: str, words: Sequence[str], code: int, error: str = "") -> int:
    """The exit code, and where it was asked for a line of JSON that says it and why."""
    if code not in (0, 5) and command in IN_JSON and "--json" in words and ranks.is_first():
        line = {"command": command, "exit_code": code, "ended": ENDS.get(code, ""), "error": error}
        with contextlib.suppress(OSError):
            print(json.dumps(line), flush=True)
    return code


def overview() -> str:
    """The text of `fledge --help`."""
    lines = [
        "usage: fledge COMMAND [RUN] [--setting value ...]",
        "",
        "Raise your own ChatGPT, from raw text to a chat.",
        "",
    ]
    for title, commands in COMMANDS.items():
        lines += [f"{title}:", *(f"  {name:<12}{summary(kind)}" for name, kind in commands.items()), ""]
    lines += ["With every command:", *(f"  {flag:<12}{text}" for flag, text in ANYWHERE.items()), ""]
    lines += ["Exit codes:", *(f"  {code:<12}{text}" for code, text in ENDS.items()), ""]
    lines += ["`fledge COMMAND --help` lists the settings. First steps: `fledge run`, then `fledge chat`."]
    return "\n".join(lines)


def summary(kind: type[Any]) -> str:
    """What a command does, in a few words: the first line of its settings' docstring."""
    line = (kind.__doc__ or "").splitlines()[0].rstrip(".")
    return line[:1].lower() + line[1:]


def dispatch(command: str, words: list[str]) -> int:
    """Parse the settings of a command and call its `main(config)`.

    Raises:
        ValueError: there is no such command, or a setting is out of its bounds.
        SystemExit: help was shown, or a setting cannot be read and that was said.
    """
    if command in ("-h", "--help", "help"):
        print(overview())
        return 0
    if command == "--version":
        print(f"fledge {__version__}")
        return 0
    if command == "bench" and words and not words[0].startswith("-"):
        command, words = f"bench {words[0]}", words[1:]
    if command not in SETTINGS:
        there = tuple(SETTINGS)
        raise ValueError(f"{command!r} is not a command; there are: {', '.join(there)}.{nearest(command, there)}")
    parser = argparse.ArgumentParser(prog=f"fledge {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("--local", metavar="DIR")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.set_defaults(json=False)
    if command in IN_JSON:
        parser.add_argument("--json", action="store_true")
    flags, words = parser.parse_known_args([part for word in words for part in long_form(word)])
    if flags.local is not None:  # where data sets lie already is no setting of a stage but of the process
        os.environ["FLEDGE_LOCAL"] = flags.local
    config = parse(SETTINGS[command], f"fledge {command}", with_folder(command, words))
    check(config)
    if flags.dry_run:
        print(json.dumps(planned(config), indent=1))
        return 0
    if isinstance(config, Ranked) and config.ranks > 1 and ranks.count() == 1:
        return ranks.launch([command, *words, *["--debug"] * flags.debug, *["--json"] * flags.json], config.ranks)
    if ranks.count() > 1:
        if not isinstance(config, Ranked | TrainBench):
            raise ValueError(
                f"fledge {command} is for one process; there are {ranks.count()}: start it without torchrun"
            )
        ranks.join(config.device)  # pyright: ignore[reportAttributeAccessIssue]
    found = importlib.import_module(module_of(command)).main(config)
    if ranks.count() > 1:
        ranks.leave()
    if flags.json and ranks.is_first():
        run = vars(config).get("run", "")
        print(json.dumps({"command": command, "exit_code": 0, "run": run} | (found or summary_of(Path(run) / command))))
    return found["exit_code"] if command in ("sweep", "rl") else 0


def planned(config: Any) -> dict[str, Any]:
    """The settings with what can be derived; of a recipe those of each of its stages."""
    if isinstance(config, RunRecipe):
        from fledge.recipes import choose, derived

        return {item.name: dataclasses.asdict(item.config) for item in derived(choose(config))}
    if isinstance(config, Sweep):
        from fledge.research.sweep import plan

        return plan(config)
    if isinstance(config, TrainStage):
        from fledge.train.resolve import resolved

        config = resolved(config)
    return dataclasses.asdict(config)


def module_of(command: str) -> str:
    """Where the `main(config)` of a command is."""
    if command in APART:
        return f"fledge.{APART[command]}"
    return f"fledge.{command.replace(' ', '.')}" if " " in command else f"fledge.stages.{command}"


def long_form(word: str) -> list[str]:
    """--from=sft -> --start sft: settings under the names that the dataclasses have."""
    name, equals, value = word.partition("=")
    return [SHORT[name], *([value] if equals else [])] if name in SHORT else [word]


def with_folder(command: str, words: list[str]) -> list[str]:
    """First words without a dash are settings too, mostly the run's folder; without any, the newest run is meant.

    Those of `compare` are runs; what `sweep` does not know as its own is of the stage behind it: --minutes -> --base.minutes.
    """
    if command == "sweep":
        stage, *words = words or [""]
        if stage != "pretrain" and stage != "--help":
            raise ValueError(
                f"sweep {stage!r} is not a sweep of a stage; allowed is: fledge sweep pretrain --out DIR ..."
            )
        for name in ("--over", "--variant"):
            if sum(word.partition("=")[0] == name for word in words) > 1:  # the last alone would count, without a word
                raise ValueError(f"{name} is given twice; give all values behind one: {name} A B")
        own = {*(name.replace("_", "-") for name in vars(Sweep)["__dataclass_fields__"]), "help"}
        is_own = [not word.startswith("--") or word[2:].partition("=")[0] in own for word in words]
        words = [word if mine else f"--base.{word[2:]}" for word, mine in zip(words, is_own, strict=True)]
        return [*words, *["--help"] * (stage == "--help")]
    if command == "compare" and words and not words[0].startswith("-"):
        return ["--runs", *words]
    given = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    names = FIRST.get(command, ("--run",))[: len(given)]
    if names:
        return [*itertools.chain.from_iterable(zip(names, given, strict=False)), *words[len(names) :]]
    about_a_run = command in ("chat", "serve", "evaluate", "report", "watch", "export")
    talks_of_a_run = about_a_run and not {"--run", "--help"} & set(words)
    found = newest_run() if talks_of_a_run else None
    return words if found is None else ["--run", str(found), *words]


def parse(kind: type[Any], program: str, words: list[str]) -> Any:
    """Settings from words. Help and mistakes, with the nearest valid name, are shown and end in SystemExit."""
    import tyro

    return tyro.cli(kind, args=words, prog=program, description=kind.__doc__)
