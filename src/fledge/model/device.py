"""The machine: device, precision, compilation, memory.

device = find_device("auto")
loss = compiled(Transformer.nll_sum, device, wanted="auto")
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import torch

from fledge import ranks
from fledge.config import Compile, Dtype
from fledge.model.cards import find_card
from fledge.settings import cores

Function = TypeVar("Function", bound=Callable[..., Any])


def find_device(wanted: str) -> torch.device:
    """The device named, or for `auto` the best there is: CUDA (ROCm too), Apple's MPS, CPU.

    Several ranks of one machine have a GPU each.

    Raises:
        ValueError: the device asked for is not there, or there are more ranks than GPUs.
    """
    rank, many = ranks.here()
    has_mps = torch.backends.mps.is_available() and many == 1
    present = ["cpu", *["cuda"] * torch.cuda.is_available(), *["mps"] * has_mps]
    wanted = present[-1] if wanted == "auto" else wanted
    kind = wanted.split(":")[0]
    if kind not in present:
        raise ValueError(f"device={wanted!r} is not on this machine; there are: {', '.join(present)}")
    if many == 1 or kind != "cuda":
        return torch.device(wanted)
    if many > (gpus := torch.cuda.device_count()):
        raise ValueError(f"ranks={many}, but this machine has {gpus} GPUs; give so many, or fewer")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def find_dtype(wanted: Dtype, device: torch.device) -> torch.dtype:
    """Precision of activations: bfloat16 where a matrix product in it works and is quick, else float32."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if all(ranks.gather(_halves_are_quick())) else torch.float32
    return torch.float32


@lru_cache
def _halves_are_quick() -> bool:
    """Whether this processor multiplies matrices quicker in bfloat16 than in float32.

    It is tried, since one that lists the instructions may need twice the time: a Xeon whose tiles (AMX) are switched off. Others
    take half or an eighth of it. What counts is the least processor time of one thread, in turns: by the clock, or of threads that
    wait for each other, a busy machine once gave the points of one sweep different precisions.
    """
    if {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu_says("flags").split()):
        return False
    matrix, several = torch.randn(512, 512), torch.get_num_threads()
    torch.set_num_threads(1)
    took = [[_processor_seconds(each) for each in (matrix.bfloat16(), matrix)] for _ in range(12)]
    torch.set_num_threads(several)
    low, high = map(min, zip(*took, strict=True))
    return low < high


def _processor_seconds(matrix: torch.Tensor) -> float:
    """Of this thread, for the matrix times itself."""
    began = time.thread_time()
    torch.mm(matrix, matrix)
    return time.thread_time() - began


@lru_cache
def cpu_says(field: str) -> str:
    """What the processor says of itself (Linux), such as its `flags` or `model name`; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(field)), "")
    except OSError:
        return ""


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs: Triton comes with CUDA builds, the CPU needs a C++ compiler."""
    if device.type == "cuda":
        return sys.platform == "linux"
    return device.type == "cpu" and sys.platform == "linux" and shutil.which("g++") is not None


def compiled(function: Function, device: torch.device, *, wanted: Compile) -> Function:
    """`function`, compiled for fixed shapes where that is possible; results agree up to rounding.

    Equal runs on a CPU are equal to the bit all the same.
    """
    if wanted == "no" or (wanted == "auto" and not can_compile(device)):
        return function
    if device.type == "cpu":
        # Compiled code would add the embedding's gradient from several threads at once, in an order of their own; what is not
        # compiled does not. Here and not earlier, since this imports the compiler, which takes seconds.
        torch.use_deterministic_algorithms(True)
        # It would also fill every new tensor, which finds bugs of torch, not ours, and costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    # Inductor warns about its own internals; a user can do nothing about it.
    warnings.filterwarnings("ignore", module="torch._(inductor|dynamo)")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    return torch.compile(function, dynamic=False)  # pyright: ignore[reportReturnType]


def threads(wanted: int | None) -> int:
    """Use `wanted` CPU threads, or every core, shared by the ranks; returns how many. From now on freed memory is kept for the
    next tensor."""
    if wanted is None and ranks.count() > 1:
        wanted = max(1, cores() // ranks.here()[1])
    if wanted is not None:
        torch.set_num_threads(wanted)
    keep_freed_memory()
    return torch.get_num_threads()


def keep_freed_memory() -> None:
    """Have the C library of Linux hand tensors above 32 MiB out of memory that it keeps.

    It would map each anew, and the kernel would fill it with zeros: a sixth to four tenths of an eager step (docs/why.md).
    """
    if sys.platform == "linux":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        with contextlib.suppress(AttributeError, OSError):  # another C library, such as musl
            allocator = ctypes.CDLL(None)
            for parameter in (trim_threshold, mmap_threshold):
                allocator.mallopt(parameter, 1 << 30)


def finish(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def product_flops(device: torch.device, dtype: torch.dtype, *, size: int | None = None) -> float:
    """FLOP/s of a product of square matrices: the best within a fifth of a second. `size` None: enough to keep the device busy."""
    size = size or (1024 if device.type == "cpu" else 8192)
    # Not of ones: a GPU draws less power for equal numbers, and is quicker then than it ever is with weights.
    matrix, took = torch.randn(size, size, device=device).to(dtype), []
    while len(took) < 4 or sum(took) < 0.2:  # others may be at work here too
        finish(device)
        began = time.perf_counter()
        torch.mm(matrix, matrix)
        finish(device)
        took.append(time.perf_counter() - began)
    return 2 * size**3 / min(took)


def peak_flops(device: torch.device) -> float | None:
    """The device's bf16 peak, None when it is not in the table."""
    if device.type != "cuda":
        return None
    card = find_card(torch.cuda.get_device_name(device))
    return card.flops if card else None


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What a report says about where a run was made."""
    processor = cpu_says("model name") or platform.processor() or platform.machine()
    return {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(terse=True),
    }
