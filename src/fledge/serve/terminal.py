"""One conversation in a terminal: commands, streaming, Ctrl-C.

Terminal(client, Sampling(), system=None, console=Console()).loop(input)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fledge.config import Sampling
from fledge.console import visible
from fledge.serve.client import Client
from fledge.settings import help_of, nearest, within
from fledge.text.chat import Message, Part, join_pieces, parse_conversation, say, to_json
from fledge.text.forms import in_our_form
from fledge.text.records import read_records

COMMANDS = {
    "/help": "show this",
    "/clear": "begin a new conversation",
    "/stage": "NAME: let another stage answer; without a name, list them",
    "/system": "TEXT: set the system prompt; without text, remove it",
    **{f"/{name.replace('_', '-')}": text for name, text in help_of(Sampling).items()},
    "/retry": "answer the last question again, differently",
    "/undo": "take back the last question and its answer",
    "/save": "FILE.jsonl: add the conversation to the file; fledge sft --data FILE.jsonl learns from it, the page imports it",
    "/load": "FILE: go on with the last conversation in it",
    "/stats": "tokens, speed and room left",
    "/exit": "leave; Ctrl-D does the same",
}
SUGGESTED = 3
"""Conversations that the first screen proposes."""
ENDS = {
    "length": "the answer was cut: it reached its longest length or the end of the context",
    "tool_error": "the model made up the result of its calculation, so the answer was ended",
    "cancelled": "stopped",
}


QUOTES = '"""'
"""What begins and ends a question of several lines."""
REMEMBERED = 1_000
"""Lines of earlier chats that the arrow keys bring back."""


@contextlib.contextmanager
def line_editor() -> Generator[Callable[[str], str]]:
    """What reads a line: arrow keys bring back those of earlier chats and Tab completes commands, where Python has readline.

    What is pasted is one question, however many lines it has.
    """
    try:
        import readline
    except ImportError:
        yield pasted
        return
    # Editline, which macOS's own Python has in its place, has other commands and does not know bracketed paste.
    is_editline = "libedit" in (readline.__doc__ or "")
    # "-" is part of a word, so that /top-k can be completed.
    readline.set_completer_delims(" \t\n")
    readline.set_completer(lambda text, place: [*complete(text), None][place])
    readline.parse_and_bind("bind ^I rl_complete" if is_editline else "tab: complete")
    if not is_editline:
        readline.parse_and_bind("set enable-bracketed-paste on")
    file = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "fledge" / "chat_history"
    for line in remembered(file):
        readline.add_history(line)
    new: list[str] = []

    def read(prompt: str) -> str:
        line = (pasted if is_editline else input)(prompt)
        new.extend(line.splitlines())
        return line

    try:
        yield read
    finally:
        # A home that cannot be read or written is no reason not to chat.
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            lines = [*remembered(file), *new][-REMEMBERED:]
            file.write_text("".join(line + "\n" for line in lines), encoding="utf-8", errors="surrogateescape")


def remembered(file: Path) -> list[str]:
    """The lines of earlier chats. As plain text: either library refuses a history that the other wrote, and then replaces it."""
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def pasted(prompt: str) -> str:
    """A line, together with those that wait behind it: nobody types as fast."""
    lines = [input(prompt)]
    while select.select([sys.stdin], [], [], 0.05)[0]:
        lines.append(input())
    return "\n".join(lines)


def complete(text: str) -> list[str]:
    """Commands that begin with `text`."""
    return [command + " " for command in COMMANDS if text.startswith("/") and command.startswith(text)]


class Terminal:
    """One conversation in a terminal."""

    def __init__(
        self,
        client: Client,
        sampling: Sampling,
        *,
        system: str | None,
        console: Console,
        open_stage: Callable[[str], Client] | None = None,
    ) -> None:
        self.client, self.sampling, self.instructions, self.console = client, sampling, system, console
        self.open_stage = open_stage
        self.turns: list[Message] = []
        self.tries = 0
        """How often the last question was retried: every try has a seed of its own."""

    def once(self, prompt: str, out: TextIO) -> None:
        """Answer one prompt as plain text; for scripts."""
        if not prompt.strip():
            raise ValueError("nothing was asked: -p and standard input are empty")
        for kind, text in self.client.answer(self._conversation(say("user", prompt.strip())), self.sampling):
            if kind == "text":
                out.write(visible(text))
                out.flush()
        out.write("\n")

    def suggest(self) -> None:
        """The first screen: some questions that this model was measured to answer right, where there are any."""
        if self.client.suggestions:
            self.say("to ask, for example:")
        for asked in self.client.suggestions[:SUGGESTED]:
            self.say("  " + " ... ".join(asked).replace("\n", " "))

    def loop(self, read: Callable[[str], str]) -> None:
        """Read lines until /exit or Ctrl-D; those between quotes are one question."""
        while True:
            try:
                line = read("\n> ").strip()
                is_quoted = line.startswith(QUOTES)
                while is_quoted and (line == QUOTES or not line.endswith(QUOTES)):
                    line += "\n" + read("... ")
            except EOFError:
                self.console.print()
                return
            except KeyboardInterrupt:
                self.console.print("[dim]Ctrl-D or /exit leaves[/]")
                continue
            try:
                if line.partition(" ")[0] in ("/exit", "/quit"):
                    return
                if line.startswith("/"):
                    self.command(line)
                elif line := line[len(QUOTES) : -len(QUOTES)].strip() if is_quoted else line:
                    self.tries = 0
                    self.ask(line)
            except (ValueError, OSError) as error:
                self.say(str(error), "red")
            except KeyboardInterrupt:
                self.say("stopped")  # before an answer had begun, or after it

    def command(self, line: str) -> None:
        """Do what a line with a slash says: each of `COMMANDS` is a setting of sampling or a method; `loop` itself knows /exit.

        Raises:
            ValueError: there is no such command, or it cannot be done; nothing has changed.
        """
        command, _, rest = line.partition(" ")
        name = command[1:].replace("-", "_")
        if command not in COMMANDS:
            raise ValueError(f"{command} is not a command; /help lists them.{nearest(command, tuple(COMMANDS))}")
        if name in help_of(Sampling):
            self.set(name, rest.strip())
        else:
            getattr(self, name)(rest.strip())

    def help(self, _: str = "") -> None:
        table = Table.grid(padding=(0, 2))
        about = {QUOTES: "begins and ends a question of several lines, or one with a slash"}
        for name, text in (COMMANDS | about).items():
            table.add_row(Text(name, style="bold", no_wrap=True), text)
        self.console.print(table)

    def clear(self, _: str = "") -> None:
        self.turns = []
        self.say("a new conversation")

    def stage(self, name: str) -> None:
        """Open the model of another stage and close this one's; the conversation goes on."""
        if name and self.open_stage is not None:
            before, self.client = self.client, self.open_stage(name)
            before.close()
        self.say(f"{self.client.name} answers; there are {', '.join(self.client.stages)}")

    def system(self, text: str) -> None:
        self.instructions = text or None
        self.say(f"system prompt: {text or 'none'}")

    def set(self, name: str, text: str) -> None:
        """Change a sampling setting, or say what it is; `none` removes the seed."""
        about = Sampling.__dataclass_fields__[name]
        if not text:
            self.say(f"{name} {getattr(self.sampling, name)}")
            return
        given: Any = text
        with contextlib.suppress(ValueError):
            given = json.loads(text)
        try:
            value = None if about.default is None and text.lower() == "none" else within(name, given, **about.metadata)
        except ValueError as problem:
            raise ValueError(f"{problem}; it stays {getattr(self.sampling, name)}") from None
        self.sampling = dataclasses.replace(self.sampling, **{name: value})
        self.say(f"{name} {value}")

    def retry(self, _: str = "") -> None:
        question = self._last_question()
        self.turns = self.turns[:-2]
        self.tries += 1
        self.ask(question)

    def undo(self, _: str = "") -> None:
        self.say(f"taken back: {self._last_question()}")
        self.turns = self.turns[:-2]

    def _last_question(self) -> str:
        if len(self.turns) < 2:
            raise ValueError("nothing has been asked yet")
        return self.turns[-2].text

    def save(self, name: str) -> None:
        self._last_question()
        with _file(name, "written") as path:
            if path.suffix != ".jsonl":
                raise ValueError(f"{path}: conversations are kept a line each; name a file that ends in .jsonl")
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(to_json(self._conversation()), ensure_ascii=False) + "\n")
        self.say(f"{len(self.turns)} messages added to {path}")

    def load(self, name: str) -> None:
        with _file(name, "read") as path:
            last = deque(read_records(path), maxlen=1)
            if not last:
                raise ValueError(f"{path}: no conversation is in it")
            conversation = parse_conversation(in_our_form(last[0], last[0].where)[0], last[0].where, joined=True)
        has_system = conversation[0].role == "system"
        turns = list(conversation[has_system:])
        if len(turns) % 2:
            raise ValueError(f"{path}: the last message is by the user; a saved conversation ends with an answer")
        self.instructions = conversation[0].text if has_system else None
        self.turns = turns
        self.say(f"{len(turns)} messages; the last: {turns[-1].text}")

    def stats(self, _: str = "") -> None:
        outcome = self.client.outcome
        if outcome is None:
            raise ValueError("nothing has been answered yet")
        rate = outcome.tokens / outcome.seconds if outcome.seconds else 0.0
        left = outcome.context - outcome.prompt_tokens - outcome.tokens
        self.say(
            f"prompt {outcome.prompt_tokens} tokens ({outcome.cached_tokens} from the cache), answer {outcome.tokens} in "
            f"{outcome.seconds:.2f} s ({rate:.0f} tokens/s), context left {left}"
        )

    def say(self, text: str, style: str = "dim") -> None:
        """A line by the program, not by the model."""
        self.console.print(Text(visible(text), style=style))

    def ask(self, question: str) -> None:
        """Put a question and show the answer while it comes; Ctrl-C ends it and keeps what was said."""
        asked, said = say("user", question), list[Part]()
        with closing(self.client.answer(self._conversation(asked), self.sampling.nth(self.tries))) as pieces:
            try:
                for piece in pieces:
                    before, said = len(said), join_pieces([*said, piece])
                    self.show(piece, is_new=len(said) > before)
            except KeyboardInterrupt:
                pass
        self.console.print()
        outcome = self.client.outcome
        # What did not end by itself is no example of how to end.
        self.turns += [asked, Message("assistant", tuple(said), learn=outcome is not None and outcome.finish == "stop")]
        if outcome is None:
            return  # stopped before it began
        if outcome.finish in ENDS:
            self.say(ENDS[outcome.finish])
        if outcome.dropped:
            left_out = "first exchange was" if outcome.dropped == 1 else f"first {outcome.dropped} exchanges were"
            self.say(f"the conversation is longer than the context: the {left_out} left out")

    def show(self, piece: Part, *, is_new: bool) -> None:
        """A piece of an answer as it was written; each part begins a line, and a sign tells tool use from prose.

        Without Markdown: that would have to be drawn again with every piece, which floods what a window has scrolled past.
        """
        sign = {"text": "", "python": "⚙ ", "output": "= "}[piece.kind]
        text = Text("\n" + sign if is_new else "", style="" if piece.kind == "text" else "cyan")
        self.console.print(text + visible(piece.text), end="", soft_wrap=True)

    def _conversation(self, *more: Message) -> tuple[Message, ...]:
        return (*([say("system", self.instructions)] if self.instructions else []), *self.turns, *more)


@contextlib.contextmanager
def _file(name: str, done: str) -> Iterator[Path]:
    if not name:
        raise ValueError("/save and /load need the name of a file")
    path = Path(name).expanduser()
    try:
        yield path
    except OSError as error:
        why = f"{path}: cannot be {done} ({error.strerror}); name another file"
        raise ValueError(why if error.strerror else str(error)) from None
