"""`fledge chat`: talk to a model in the terminal. Without a terminal, or with -p, it answers once and exits."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fledge import endings
from fledge.commands import Chat
from fledge.config import Sampling, check
from fledge.console import notice, visible
from fledge.runs import choose_stage, model_name, trained_stages
from fledge.serve.access import find_key
from fledge.serve.client import Client, LocalModel, RemoteServer
from fledge.serve.terminal import Terminal, line_editor


def main(config: Chat) -> None:
    """Chat until the user leaves, or answer one prompt: the text on standard input and below it that of -p."""
    check(config)
    endings.leave()
    chat = Terminal(
        open_client(config),
        Sampling.of(config),
        system=config.system,
        console=Console(highlight=False),
        open_stage=lambda stage: open_client(replace(config, stage=stage)),
    )
    try:
        if config.prompt is not None or not sys.stdin.isatty():
            text = "" if sys.stdin.isatty() else sys.stdin.read().strip()
            chat.once("\n".join(filter(None, (text, config.prompt))), sys.stdout)
            return
        about = ("  /help shows the commands, Ctrl-C stops an answer", "dim")
        chat.console.print(Text.assemble((visible(chat.client.name), "bold"), about))
        chat.suggest()
        with line_editor() as read:
            chat.loop(read)
    finally:
        chat.client.close()


def open_client(config: Chat) -> Client:
    """The model of the run, or the server at `url`."""
    if config.url is not None:
        model = config.stage and model_name(config.stage)
        return RemoteServer(config.url, api_key=find_key(config.api_key), model=model)
    stage = choose_stage(Path(config.run), config.stage)
    if sys.stderr.isatty():
        # Before torch, which takes seconds to import; not in the output, which scripts read.
        notice(f"{config.run}: loading {model_name(stage)} ...")
    from fledge.model.device import find_device, threads
    from fledge.sandbox.tools import find_tool
    from fledge.serve.pool import open_run

    run = open_run(Path(config.run), stage=stage)
    (entry,) = run.entries
    threads(config.threads)
    model = entry.load(str(find_device(config.device)))
    tool = find_tool(config.tools, unsafe_exec=config.unsafe_exec)
    return LocalModel(
        model,
        run.tokenizer,
        name=f"{run.name} ({config.run}, {entry.name})",
        stages=[model_name(name) for name in trained_stages(Path(config.run))],
        run_tool=tool,
        raw=entry.raw,
        suggestions=entry.suggestions,
    )
