"""`fledge serve`: the web page and the OpenAI-compatible API over the models of a run."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import torch
from starlette.applications import Starlette

from fledge import console
from fledge.commands import Serve
from fledge.config import Sampling, check
from fledge.model.device import find_device, threads
from fledge.sandbox.tools import find_tool
from fledge.serve.access import KEY, Access, find_key, find_origins, host_names, is_loopback
from fledge.serve.connections import Server
from fledge.serve.pool import ModelPool, open_run
from fledge.serve.server import create_app


def main(config: Serve) -> None:
    """Serve until interrupted."""
    check(config)
    threads(config.threads)
    app = make_app(config)
    server = Server(app, host=config.host, port=config.port, grace_seconds=config.grace_seconds)
    if not is_loopback(config.host) and find_key(config.api_key) is None:
        console.notice(f"whoever reaches {config.host} may use this server; {KEY} asks for a key")
    where = server.url + config.root_path
    models = ", ".join(entry.name for entry in app.state.dispatcher.pool.entries)
    console.say(f"{config.run}: {models}. Page: {where}/  API: {where}/v1")
    gc.freeze()  # or every full collection walks all of torch while the streams wait
    server.run()


def make_app(config: Serve) -> Starlette:
    """The application over the stages of the run as models."""
    run = open_run(Path(config.run), stage=config.stage)
    entries = [replace(entry, context=config.context or entry.context) for entry in run.entries]
    places = devices(config.device)
    tool = find_tool(config.tools, unsafe_exec=config.unsafe_exec)
    pool = ModelPool(
        entries,
        run.tokenizer,
        memory_bytes=config.memory_bytes or most_memory(places),
        devices=places,
        about={"tools": [config.tools] if tool else [], "name": run.name},
        engine_settings={"slots": config.slots, "context": config.context, "run_tool": tool},
    )
    further = host_names(config.allowed_hosts)
    origins = find_origins(config.origins)
    access = Access(host=config.host, allowed_hosts=further, origins=origins, key=find_key(config.api_key))
    sampling = Sampling.of(config)
    return create_app(pool, access=access, sampling=sampling, queue=config.queue, root_path=config.root_path)


def most_memory(places: list[str]) -> int:
    """Bytes for models and caches where nothing is said."""
    if not places[0].startswith("cuda"):
        return 8 << 30
    return int(0.8 * sum(torch.cuda.get_device_properties(place).total_memory for place in places))


def devices(wanted: str) -> list[str]:
    """One engine each: every GPU for `auto` where there are several."""
    device = find_device(wanted)
    if wanted == "auto" and device.type == "cuda":
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(device)]
