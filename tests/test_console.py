"""What reaches a terminal: letters, lines and tabs of any text from outside, and never its commands."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fledge import console
from fledge.cli import run
from fledge.config import Sampling
from fledge.console import visible
from fledge.evals.page import literal
from fledge.serve.terminal import Terminal
from fledge.text.chat import Part
from test_layers import modules

HOSTILE = "a\x1b]0;title\x07\x1b]52;c;Y29weQ==\x07\x1b[2J\x9b2J\rb\x08\x00\x7f\u0085 [/red] [link=x]y[/] :smile: &#27;[2J [a](http://b/\x1b)"
"""Sets the title and the clipboard, clears the screen in two ways, hides what stood before; mark-up of rich and of Markdown."""
TEXTS = st.text(st.sampled_from(HOSTILE) | st.characters(), max_size=40)


def commands(shown: str) -> list[str]:
    """Control characters in it, but for lines and tabs."""
    return [letter for letter in shown if (letter < " " and letter not in "\n\t") or "\x7f" <= letter < "\xa0"]


class Saying:
    """A client whose model says the same always."""

    name, outcome = HOSTILE, None

    def __init__(self, *parts: Part) -> None:
        self.parts = parts

    def answer(self, *_: object) -> Iterator[Part]:
        yield from self.parts


@given(TEXTS)
@settings(deadline=None, max_examples=50)
def test_no_text_commands_the_terminal_and_none_of_its_letters_is_lost(text: str) -> None:
    assert visible("\x1b[2Jgone\ttab\nline") == "␛[2Jgone\ttab\nline"
    assert len(visible(text)) == len(text)
    visible(text).encode()  # half a character pair would raise here
    for kind in ("text", "python", "output"):
        parts = [Part(kind, HOSTILE), Part(kind, text)]
        out = io.StringIO()
        chat = Terminal(Saying(*parts), Sampling(), system=None, console=Console(file=out, width=300))  # type: ignore[arg-type]
        chat.once("Hello", out)
        chat.ask("Hello")
        chat.say(text)
        assert not commands(out.getvalue() + literal(text))


def test_neither_lines_nor_tables_nor_errors_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for text in (HOSTILE, "[/]", "[bold]", ":warning:"):
        console.say(text)
        console.heading(text)
        console.table(text, [text, text], [[text, text]])
        with console.Live(text, total=1) as live:
            live.show(1, text)
        console.notice(text)
        assert run([text]) == 2
        shown = capsys.readouterr()
        assert not commands(shown.out + shown.err)
        assert shown.out.count("[") >= 5 * text.count("["), "brackets are text"
        assert shown.out.count(":warning:") >= 5 * text.count(":warning:")


def test_a_log_says_how_long_is_left_by_the_steps_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with console.Live("pretrain", total=100) as live:
        for done in (1, 2, 51, 100):
            now = 1000.0 + 20 * done
            live.show(done, "loss 1")
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "pretrain 1/100 · loss 1",
        "pretrain 2/100 · loss 1 · 32m 40s left",
        "pretrain 51/100 · loss 1 · 16m 20s left",
        "pretrain 100/100 · loss 1",
    ]


def test_only_the_console_prints() -> None:
    """So that whatever is printed has passed it. Help, settings and a measurement are JSON or the program's own words."""
    allowed = ("console", "cli", "plan", "bench.infer", "bench.rl", "bench.train", "sandbox.zygote")
    offences = [
        f"{name} line {node.lineno}: {ast.unparse(node)[:60]}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and name not in allowed
        and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write")
    ]
    assert not offences, "\n".join(offences)


FLEDGE = [sys.executable, "-c", "from fledge.cli import main; main()"]


@pytest.mark.parametrize("words", [["--help"], ["pretrain", "--help"], ["run", "--list"]])  # by print, tyro and rich
def test_the_end_of_a_reader_is_no_error(words: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run([*FLEDGE, *words], stdout=closed, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_output_is_said_and_a_closed_one_hinders_nothing(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*FLEDGE, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "fledge: [Errno 28] No space left on device\n")
    for closed, words in ((">&-", ["--help"]), ("2>&-", ["--help"]), ("<&- >&- 2>&-", ["run", "--list"])):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *FLEDGE, *words], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
    code = "import sys; from fledge import cli; cli.run = lambda words: print(repr(sys.stdin.read())) or 0; cli.main()"
    words = ["sh", "-c", 'exec "$@" <&-', "sh", *FLEDGE[:1], "-c", code]
    assert subprocess.run(words, capture_output=True, text=True).stdout == "''\n"


def test_a_signal_in_the_midst_of_another_does_not_wait_for_it() -> None:
    code = """if True:
        import os, signal, sys
        from fledge import endings
        endings.watch()
        def again(frame, event, _):
            sys.settrace(None)
            os.kill(os.getpid(), signal.SIGTERM)
        def follow(frame, event, _):
            frame.f_trace_lines = True
            return again if frame.f_code.co_name == "notify_all" else follow
        sys.settrace(follow)
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            print("ended")"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stdout) == (0, "ended\n")


def test_ctrl_c_once_more_while_the_first_is_told_says_nothing_more() -> None:
    code = """if True:
        import os, signal
        from fledge import cli
        def again(*_):
            os.kill(os.getpid(), signal.SIGINT)
        cli.dispatch, cli.notice = again, again
        cli.main()"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("problem", [BrokenPipeError(), OSError(28, "No space left on device")])
def test_words_that_cannot_be_written_do_not_end_the_work(monkeypatch: pytest.MonkeyPatch, problem: OSError) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise problem

    monkeypatch.setattr(console, "console", type(console.console)(file=Full()))
    console.say("step 1")
    console.table("title", ["a"], [["b"]])
    console.heading("part")
    monkeypatch.setattr(sys, "stderr", Full())
    console.notice("fetched")


def test_a_time_is_told_in_two_units() -> None:
    told = {9: "9s", 75: "1m 15s", 3700: "1h 1m", 99 * 3600: "99h 0m", 400_000: "4d 15h", 257_500_000: "2,980d 7h"}
    assert {seconds: console.duration(seconds) for seconds in told} == told
