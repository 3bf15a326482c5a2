"""The terminal chat: commands, streaming, stopping, scripts, and a remote server."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest
from rich.console import Console

from fledge.cli import run as command_line
from fledge.config import Sampling
from fledge.serve.client import LocalModel, RemoteServer
from fledge.serve.terminal import COMMANDS, Terminal, complete
from fledge.text.chat import Part, say
from processes import Processes
from test_server import pool, serving, until
from tiny_engine import BYTES, endless_model, tiny_model


@pytest.fixture
def chat() -> Iterator[Terminal]:
    client = LocalModel(tiny_model(context=256), BYTES, name="tiny")
    console = Console(file=io.StringIO(), width=100)
    yield Terminal(client, Sampling(max_tokens=12, temperature=1.0, seed=0), system=None, console=console)
    client.close()


def shown(chat: Terminal) -> str:
    assert isinstance(chat.console.file, io.StringIO)
    return chat.console.file.getvalue()


def typing(*lines: str) -> Iterator[str]:
    yield from lines
    raise EOFError


def run(chat: Terminal, *lines: str) -> str:
    """What the chat shows for these lines; it must come back to its prompt after each."""
    left = typing(*lines)
    chat.loop(lambda _: next(left))
    return shown(chat)


def test_questions_and_answers_alternate_and_the_system_prompt_leads(chat: Terminal) -> None:
    run(chat, "/system Be brief.", "Hello", "And you?")
    assert [turn.role for turn in chat.turns] == ["user", "assistant"] * 2
    assert chat._conversation()[0] == say("system", "Be brief.")


def test_retry_asks_again_with_another_seed_and_undo_takes_back(chat: Terminal) -> None:
    run(chat, "Hello")
    first = chat.turns[1]
    run(chat, "/retry")
    assert len(chat.turns) == 2
    assert chat.turns[1] != first
    run(chat, "/undo")
    assert chat.turns == []
    assert "nothing has been asked yet" in run(chat, "/undo")
    run(chat, "Hello")
    assert chat.turns[1] == first  # the same seed says the same


def test_settings_change_within_their_limits(chat: Terminal) -> None:
    told = run(chat, "/temperature 0.3", "/top-k 7", "/top-p 0.9", "/seed 5", "/temperature hot", "/top-p 7")
    settings = chat.sampling
    assert (settings.temperature, settings.top_k, settings.top_p, settings.seed) == (0.3, 7, 0.9, 5)
    assert "'hot' is not a number from 0.0 to 2.0; it stays 0.3" in told
    assert "top_p=7 is not a number from 0.0 to 1.0; it stays 0.9" in told
    assert "seed None" in run(chat, "/seed none", "/seed")
    assert run(chat, "/temperature").endswith("\n\ntemperature 0.3\n\n")  # what it is


def test_a_saved_conversation_can_be_loaded(chat: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    assert "nothing has been asked yet" in run(chat, f"/save {file}")
    run(chat, "/system Be brief.", "Hello", f"/save {file}", "And you?", f"/save {file}")
    before = chat._conversation()
    run(chat, "/clear", "/system")
    assert chat._conversation() == ()
    run(chat, f"/load {file}")
    assert chat._conversation() == before
    assert len(file.read_text().splitlines()) == 2
    told = " ".join(run(chat, f"/load {tmp_path / 'none.jsonl'}", f"/save {tmp_path / 'talk.json'}").split())
    assert "no such file" in told
    assert "name a file that ends in .jsonl" in told
    file.write_text("no JSON")
    assert "not JSON" in " ".join(run(chat, f"/load {file}").split())
    file.write_text("")
    assert "no conversation is in it" in " ".join(run(chat, f"/load {file}").split())


def test_an_answer_that_did_not_end_by_itself_is_saved_as_none_to_learn_from(chat: Terminal) -> None:
    run(chat, "/max-tokens 1", "Hello")
    assert not chat.turns[-1].learn


def test_lines_between_quotes_are_one_question(chat: Terminal) -> None:
    run(chat, '"""', "/one", "  two", '"""', '"""/three"""')
    assert [turn.text for turn in chat.turns[::2]] == ["/one\n  two", "/three"]


def test_every_command_is_known_explained_and_completed(chat: Terminal) -> None:
    told = run(chat, "/help", "/stats", "/tempratur 1")
    for command in COMMANDS:
        assert f"\n{command} " in f"\n{told}"  # the longest ones too stand apart from what they do
    assert "nothing has been answered yet" in told
    assert "Did you mean '/temperature'?" in told
    assert complete("/te") == ["/temperature "]
    assert complete("hello") == []
    assert "context left" in run(chat, "Hello", "/stats")
    assert "TEXT" not in run(chat, "/exit", "/help").split("context left")[-1]


def test_an_answer_is_shown_as_it_was_written_and_tool_use_on_lines_of_its_own(chat: Terminal) -> None:
    code = "def double(n):\n    return 2 * n"
    pieces = [("text", "It is"), ("text", " **12**, <b>\n36."), ("python", ""), ("python", "6*2"), ("output", "12")]
    for place, (kind, text) in enumerate([*pieces, ("python", code)]):
        chat.show(Part(kind, text), is_new=place in (0, 2, 4, 5))  # type: ignore[arg-type]
    assert shown(chat) == f"\nIt is **12**, <b>\n36.\n⚙ 6*2\n= 12\n⚙ {code}"


def test_an_answer_that_is_left_early_ends_and_the_next_one_works(chat: Terminal) -> None:
    assert isinstance(chat.client, LocalModel)
    pieces = chat.client.answer((say("user", "Hello"),), Sampling(max_tokens=10_000, temperature=2.0))
    next(pieces)
    pieces.close()
    assert chat.client.outcome is not None
    engine = chat.client.engine
    until(lambda: not engine.running)
    run(chat, "Hello")
    assert len(chat.turns) == 2


def test_a_remote_server_answers_as_the_model_itself_would() -> None:
    conversation, settings = (say("user", "Hello"),), Sampling(max_tokens=20, temperature=1.0, seed=3)
    local = LocalModel(endless_model(1), BYTES, name="tiny", run_tool=lambda code, stop=None: "42")
    expected = "".join(text for kind, text in local.answer(conversation, settings) if kind == "text")
    with serving(pool(engine={"run_tool": lambda code, stop=None: "42"})) as url:
        remote = RemoteServer(url)
        assert remote.model == "sft"
        pieces = list(remote.answer(conversation, settings))
        assert "".join(text for kind, text in pieces if kind == "text") == expected
        assert (remote.outcome and remote.outcome.tokens) == (local.outcome and local.outcome.tokens)
        with pytest.raises(ValueError, match="there are: sft, base"):
            RemoteServer(url, model="rl")
        with pytest.raises(ValueError, match="the context holds 256"):
            list(remote.answer((say("user", "x" * 500),), settings))
    local.close()
    with pytest.raises(ValueError, match="no server answers"):
        RemoteServer(url)


def test_scripts_ask_with_p_or_standard_input(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["chat", str(run_folder), "--max-tokens", "8", "--temperature", "0"]

    def answer(text: str, *prompt: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert command_line([*options, *prompt]) == 0
        return capsys.readouterr().out

    by_option = answer("", "-p", "Hello")
    assert by_option.strip()
    assert answer("Hello\n") == by_option
    # Text and question are one prompt.
    assert answer("Lumi had a hammer.\n", "-p", "Who has it?") == answer("Lumi had a hammer.\nWho has it?") != by_option
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert command_line(options) == 2
    assert "nothing was asked" in capsys.readouterr().err


WATCHED = """
import io, json, sys
from fledge.cli import run

class Screen(io.StringIO):
    shown = []

    def isatty(self):
        return True

    def write(self, text):
        self.shown.append([text.strip(), "torch" in sys.modules])
        return len(text)

sys.stderr = Screen()
assert run(["chat", sys.argv[1], "-p", "Hello", "--max-tokens", "2"]) == 0
print(json.dumps(Screen.shown[0]))
"""


def test_it_says_that_it_loads_before_torch_is_imported(run_folder: Path) -> None:
    program = [sys.executable, "-c", WATCHED, str(run_folder)]
    done = subprocess.run(program, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [f"fledge: {run_folder}: loading sft ...", False]


BEGUN = b"\x1b[?2004l\r\r\n"
"""What follows a question when its answer begins: pasting has an end, and a line is left empty."""


class Typist:
    """Somebody at a terminal in which `fledge chat` runs."""

    def __init__(self, processes: Processes, run_folder: Path, *options: str, before: str = "") -> None:
        self.screen, there = pty.openpty()
        options = options or ("--max-tokens", "100000", "--temperature", "0", "--top-k", "0")
        self.process = processes.start(
            *("chat", str(run_folder), *options),
            log=run_folder / "chat.log",
            environment={"TERM": "xterm", "XDG_STATE_HOME": str(run_folder.parent / "state")},
            terminal=os.ttyname(there),
            before=before,
        )
        self.seen = b""
        self.read_until(b"> ")
        os.close(there)  # which the process has opened

    def type(self, line: bytes) -> int:
        """Type a line; where on the screen it begins."""
        begin = len(self.seen)
        os.write(self.screen, line + b"\n")
        self.read_until(line, begin)
        return begin

    def read_until(self, word: bytes, after: int = 0) -> int:
        deadline = time.monotonic() + 60
        while word not in self.seen[after:]:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.screen], [], [], 0.1)[0]:
                self.seen += os.read(self.screen, 65536)
            else:
                assert self.process.poll() is None, self.seen
        return self.seen.index(word, after) + len(word)

    def read_all(self) -> bytes:
        """What the program says until it has ended."""
        deadline = time.monotonic() + 60
        with contextlib.suppress(OSError):  # Linux says so when nobody is left at the other side
            while True:
                assert time.monotonic() < deadline, self.seen
                if select.select([self.screen], [], [], 0.1)[0]:
                    self.seen += (part := os.read(self.screen, 65536))
                    if not part:
                        break
        self.process.wait(seconds=30)
        return self.seen

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.screen)


def test_ctrl_c_stops_the_answer_and_not_the_chat(processes: Processes, run_folder: Path) -> None:
    with Typist(processes, run_folder) as typist:
        place = 0
        while b"stopped" not in typist.seen[place:]:  # an answer may be quicker than the signal
            place = typist.type(b"Hello")
            typist.read_until(BEGUN, place)
            os.kill(typist.process.pid, signal.SIGINT)
            typist.read_until(b"> ", typist.read_until(b"\x1b[0m", place))
        place = typist.type(b"/help")
        typist.read_until(b"/retry", place)
        typist.type(b"/exit")
        typist.read_all()
        assert typist.process.code == 0


EDITLINE = "import readline as r; r.__doc__ = 'libedit'; r.parse_and_bind = r.read_history_file = r.write_history_file = print; "
"""As if Python had that library, whose form of a history is its own."""


@pytest.mark.parametrize("before", ["", EDITLINE, "import sys; sys.modules['readline'] = None; "])
def test_what_is_pasted_is_one_question_and_lines_are_remembered(
    processes: Processes, run_folder: Path, tmp_path: Path, before: str
) -> None:
    lines, saved = b"Lumi had a hammer.\nWho has it?", tmp_path / "talk.jsonl"
    history = run_folder.parent / "state" / "fledge" / "chat_history"
    history.unlink(missing_ok=True)
    marks = (b"", b"") if before else (b"\x1b[200~", b"\x1b[201~")
    with Typist(processes, run_folder, "--max-tokens", "4", before=before) as typist:
        os.write(typist.screen, lines.join(marks))
        typist.read_until(b"> ", typist.type(b""))
        # One at a time: without readline, lines that come together are one question.
        typist.read_until(b"> ", typist.read_until(b"\n", typist.type(f"/save {saved}".encode())))
        typist.type(b"/exit")
        typist.read_all()
    assert [json.loads(line)["messages"][0]["content"] for line in saved.read_text().splitlines()] == [lines.decode()]
    assert (b"bind ^I rl_complete" in typist.seen) == (before == EDITLINE)
    if "None" not in before:
        assert history.read_text().splitlines() == [*lines.decode().splitlines(), f"/save {saved}", "/exit"]
        assert history.stat().st_mode & 0o777 == 0o600
        with Typist(processes, run_folder, "--max-tokens", "4") as typist:
            os.write(typist.screen, b"\x1b[A\x1b[A")
            typist.read_until(f"save {saved}".encode())  # the slash may stand there already


def test_another_stage_goes_on_with_the_conversation(chat: Terminal) -> None:
    first, other = chat.client, LocalModel(tiny_model(context=256), BYTES, name="base", stages=["base", "sft"])
    chat.open_stage = {"base": other}.__getitem__
    told = run(chat, "Hello", "/stage base", "And you?", "/stage")
    assert chat.client is other
    assert len(chat.turns) == 4
    assert "base answers; there are base, sft" in told
    assert isinstance(first, LocalModel)
    assert not first.engine.running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_chat(processes: Processes, run_folder: Path, number: int) -> None:
    with Typist(processes, run_folder) as typist:
        place = typist.type(b"Hello")
        typist.read_until(BEGUN, place)
        os.kill(typist.process.pid, number)
        assert b"Traceback" not in typist.read_all()
        assert typist.process.code == 128 + number


def test_a_signal_ends_the_program_that_users_start(run_folder: Path) -> None:
    """The others run in a process that was forked: here Python's own end comes too."""
    screen, there = pty.openpty()
    code, options = "from fledge.cli import main; main()", ("--max-tokens", "100000", "--temperature", "0")
    program = [sys.executable, "-c", code, "chat", str(run_folder), *options]
    process = subprocess.Popen(program, stdin=there, stdout=there, stderr=there, start_new_session=True)
    os.close(there)
    seen = b""
    try:
        for word, line in ((b"> ", b"Hello\n"), (BEGUN, b"")):
            while word not in seen:
                seen += os.read(screen, 65536)
            os.write(screen, line)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(screen, 65536):
                seen += part
        assert process.wait(30) == 128 + signal.SIGTERM
        assert b"Traceback" not in seen
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def test_what_cannot_go_on_promises_nothing_when_it_is_interrupted(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.StringIO):
        def read(self, _: int | None = -1) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert command_line(["chat", str(run_folder)]) == 130
    assert capsys.readouterr().err == "fledge: interrupted.\n"


ODD_MODELS = [b"<html>", b"[]", b"{}", b'{"data": 3}', b'{"data": [{}]}', b'{"data": []}', b"\xff"]
MODELS = b'{"data": [{"id": "sft"}]}'
ODD_ANSWERS = [
    b"data: []",
    b"data: {",
    b"data: {}",
    b'data: {"choices": [{}]}',
    b'data: {"choices": [3]}',
    b'data: {"error": 3}',
]
ODD_ANSWERS += [
    b'data: {"choices": [{"delta": {"fledge": {"parts": [{"type": "evil", "text": "x"}]}}}]}',
    b'data: {"usage": {}}',
]


@pytest.mark.parametrize(
    ("models", "answer"), [*((odd, b"") for odd in ODD_MODELS), *((MODELS, odd) for odd in ODD_ANSWERS)]
)
def test_a_server_of_another_protocol_is_told_as_such(models: bytes, answer: bytes) -> None:
    class Strange(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer + b"\n\n" if self.command == "POST" else models)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Strange) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(ValueError, match="not OpenAI's protocol"):
            list(RemoteServer(f"http://127.0.0.1:{server.server_port}").answer((say("user", "Hello"),), Sampling()))
        server.shutdown()
