"""Several processes that train one model: who this one is, and what they say to each other.

    fledge pretrain --ranks 8                                      # one process per GPU; on a CPU they share the cores
    torchrun --nproc-per-node 8 -m fledge -- pretrain --run R      # the same; without the -- torchrun takes --run for its own

    sum_of([loss, norm**2])                                        # a list of their sums, equal on every rank
    gather({"rank": number()})                                     # what each has to say, in the order of ranks

Weights, data and decisions are the same everywhere: every rank reads the same stream and keeps its rows, and what one alone can
know (a signal, the time, a loss that is not finite) is summed before anyone acts on it. Rank 0 writes and speaks. A process that is
alone pays nothing: no torch, no group. What is small travels on the CPU, over gloo, so that no GPU waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

RESTARTS = 3
"""How often all begin again from the last checkpoint because one was killed."""
PATIENCE = timedelta(hours=2)
"""For a rank that fetches data or measures while others wait; one that is dead is noticed at once."""
STOP_SECONDS = "600"
"""For the step in progress and its checkpoint after Ctrl-C, before the launcher kills."""


class RankLost(RuntimeError):
    """Another rank is gone: what was to be said together was not."""


_apart = False


def number() -> int:
    """Which rank this process is, from 0."""
    return int(os.environ.get("RANK", 0))


def count() -> int:
    """How many ranks there are."""
    return 1 if _apart else int(os.environ.get("WORLD_SIZE", 1))


def here() -> tuple[int, int]:
    """Which rank of this machine this is, and how many it has."""
    return int(os.environ.get("LOCAL_RANK", number())), int(os.environ.get("LOCAL_WORLD_SIZE", count()))


def is_first() -> bool:
    """Whether this process writes and speaks."""
    return number() == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """Those of the items that are this rank's to do, dealt like cards."""
    return items[number() :: count()]


# What ranks say to each other


def join(device: str) -> None:
    """Meet the other ranks, which must run the same code; ValueError where they do not, or torch cannot talk between GPUs."""
    import torch
    import torch.distributed as dist

    on_gpus = torch.cuda.is_available() and device != "cpu"
    if on_gpus and not dist.is_nccl_available():
        raise ValueError(
            f"ranks={count()}: torch {torch.__version__} is built without NCCL, through which GPUs talk. "
            "Install a CUDA build of torch for Linux, or give --device cpu or one rank"
        )
    with together():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=PATIENCE)
    from fledge.provenance import code_hash, commit

    check_alike({"commit": commit(), "code": code_hash(), "torch": torch.__version__})


def leave() -> None:
    """Part from the others, after all have come so far."""
    import torch.distributed as dist

    meet()
    dist.destroy_process_group()


def is_joined() -> bool:
    """Whether this process has met the others and not left them."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_initialized()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within, what torch says when another rank is gone becomes `RankLost`."""
    try:
        yield
    except RuntimeError as error:
        told = str(error).splitlines()[0]
        raise RankLost(
            f"rank {number()} of {count()} has lost the others: one ended, or cannot be reached ({told})"
        ) from error


def meet() -> None:
    """Wait until every rank is here."""
    sum_of([])


def sum_of(values: Sequence[float]) -> list[float]:
    """The sums over all ranks, in float64; nan and inf stay what they are."""
    if count() == 1:
        return list(values)
    import torch
    import torch.distributed as dist

    sums = torch.tensor([*values, 0.0], dtype=torch.float64)
    with together():
        dist.all_reduce(sums)
    return sums.tolist()[:-1]


def any_of(value: bool) -> bool:
    """Whether it is so on some rank."""
    return bool(sum_of([value])[0])


def gather(value: T) -> list[T]:
    """What every rank says, in the order of ranks. It travels as JSON."""
    if count() == 1:
        return [value]
    import torch
    import torch.distributed as dist

    said = json.dumps(value).encode()
    sizes = [int(size) for size in sum_of([len(said) if rank == number() else 0 for rank in range(count())])]
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(said)] = torch.frombuffer(bytearray(said), dtype=torch.uint8)
    heard = [torch.empty_like(padded) for _ in sizes]
    with together():
        dist.all_gather(heard, padded)
    return [json.loads(bytes(one[:size].numpy())) for one, size in zip(heard, sizes, strict=True)]


def check_alike(mine: Mapping[str, Any]) -> None:
    """Raise ValueError, on every rank alike, where a value is not what rank 0 has; what is within a mapping has its name."""
    first, *others = gather(dict(_flat(mine)))
    for rank, theirs in enumerate(others, 1):
        for name in sorted(first.keys() | theirs.keys()):
            if first.get(name) != theirs.get(name):
                raise ValueError(
                    f"rank {rank} has {name} {theirs.get(name)!r}, rank 0 {first.get(name)!r}; all must have the same. "
                    "Bring them in line and start again"
                )


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{inner} of {name}", each) for inner, each in _flat(value))
        else:
            yield name, value


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Within, rank 0 works as if there were no others, who wait for it with `meet`."""
    global _apart
    _apart = True
    try:
        yield
    finally:
        _apart = False


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Within, rank 0 is alone, and the others follow when it is done: what it writes they read."""
    if not is_first():
        meet()
    yield
    if is_first():
        meet()


# How they are started


def record(error: BaseException) -> bool:
    """Whether an error need not be told here, since it follows another rank's, or the launcher will show it."""
    if not is_first() and "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
        return True
    return not is_first() and isinstance(error, RankLost)


def launch(words: Sequence[str], ranks: int) -> int:
    """Run `fledge WORDS` in so many processes through torch's elastic launcher, and return their exit code.

    Where one is killed (by hand, for memory, by a crash of a library) all are started again and go on from the last checkpoint.
    """
    # Of torch's launcher, read when it is imported: what matters is said here.
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from fledge.console import notice

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", STOP_SECONDS)
    for left in reversed(range(RESTARTS + 1)):
        with tempfile.TemporaryDirectory(prefix="fledge-ranks-") as logs:
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=ranks,
                run_id=uuid.uuid4().hex,
                rdzv_backend="c10d",
                rdzv_endpoint="127.0.0.1:0",
                local_addr="127.0.0.1",
                max_restarts=0,  # torch would also start again after a mistake of the user
                logs_specs=DefaultLogsSpecs(log_dir=logs),
            )
            try:
                elastic_launch(config, sys.executable)("-m", "fledge", *words)
                return 0
            except SignalException:
                return 130
            except ChildFailedError as error:
                failed = error
        rank, failure = failed.get_first_failure()
        codes = {each: found.exitcode for each, found in failed.failures.items()}
        killed = [each for each, code in codes.items() if code < 0 and code != -signal.SIGTERM]
        if not killed or not {2, 130}.isdisjoint(codes.values()):
            if rank and isinstance(said := failure.error_file_data["message"], dict):
                notice(f"rank {rank}: {said['message'].partition(': ')[2]}")
            return max(failure.exitcode, 1)
        again = "All start again from the last checkpoint"
        if not left:
            again = f"This was start {RESTARTS + 1}; no more are tried"
        how = signal.Signals(-codes[killed[0]]).name
        notice(f"rank {killed[0]} was ended by {how}, as when memory runs out. {again}")
    return 1
