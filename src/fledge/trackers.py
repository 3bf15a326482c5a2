"""What metrics.jsonl is told, told to wandb or trackio too: `--log wandb`.

    with tracking("wandb", run / "sft", settings={...}, begun="...") as tell:
        tell(12, {"loss_nats": 2.31})

Both have the same few calls. A stage is one of their runs, in a group named after the folder of ours; one that is resumed goes on
in its own. Nothing is read back: the run's files stay what counts, and steps that a resumed stage takes again may be twice there.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fledge.storage import json_hash

Tell = Callable[[int, Mapping[str, Any]], None]
PROJECT = "fledge"


def check_tracker(name: str) -> None:
    """Raise ValueError where it is not installed."""
    if name != "no" and importlib.util.find_spec(name) is None:
        raise ValueError(
            f"log={name}: {name} is not installed; `uv sync --extra {name}` or `pip install {name}` brings it. "
            "Without --log `fledge watch` shows the same curves"
        )


def sign_in(name: str) -> None:
    """Find the key of wandb, or ask for it in a terminal, before the first of many stages would; offline it has none.

    Raises:
        ValueError: there is no key, or it is not accepted.
    """
    if name == "wandb":
        try:
            importlib.import_module(name).login(force=True)
        except Exception as error:  # of classes of its own
            raise ValueError(f"log=wandb: {error} Or set WANDB_MODE=offline") from error


@contextlib.contextmanager
def tracking(name: str, stage: Path, *, settings: Mapping[str, Any], begun: str) -> Iterator[Tell | None]:
    """What takes a step and its numbers; None where no tracker is asked for.

    begun: what tells a stage begun anew in the same folder from one that goes on.
    """
    if name == "no":
        yield None
        return
    library, is_wandb = importlib.import_module(name), name == "wandb"
    run = stage.absolute().parent.name
    label = f"{run}-{stage.name}-{json_hash([str(stage.absolute()), begun])[:6]}"
    own: dict[str, Any] = {"id": label} if is_wandb else {"embed": False}
    try:
        told = library.init(project=PROJECT, name=label, group=run, config=dict(settings), resume="allow", **own)
    except Exception as error:  # of classes of its own: no key, no network
        raise ValueError(f"log={name}: {name} did not begin: {error}") from error
    ended = 1
    try:
        yield lambda step, values: told.log(dict(values), step=step)
        ended = 0
    finally:
        told.finish(**({"exit_code": ended} if is_wandb else {}))
