"""The Rust crate in bpe/ through ctypes: `Trainer` and `Encoder` as in `bpe.py`, with Python's lock released while they work.

    if available():
        trainer = Trainer(digits=3, threads=2)

hatch_build.py puts the library next to this file when fledge is installed.
"""

import ctypes
import sys
import weakref
from collections.abc import Callable, Sequence
from ctypes import c_size_t as size
from ctypes import c_void_p as pointer
from functools import cache
from pathlib import Path

import numpy as np

INTERFACE = 2  # as in bpe/src/lib.rs
LIBRARY = Path(__file__).with_name({"win32": "_bpe.dll", "darwin": "_bpe.dylib"}.get(sys.platform, "_bpe.so"))
FAILED = size(-1).value
ROOM = 7  # ids of room that the encoder wants behind each text (HELD in encode.rs)


@cache
def library() -> ctypes.CDLL:
    """The library with its signatures declared; OSError where it is missing, cannot be loaded, or is of another version."""
    lib = ctypes.CDLL(str(LIBRARY))
    lib.bpe_interface.restype = size
    if lib.bpe_interface() != INTERFACE:
        raise OSError(f"{LIBRARY} belongs to another version of fledge; reinstall fledge")
    for name, result, arguments in (
        ("trainer_new", pointer, [size, size]),
        ("trainer_count", size, [pointer, pointer, size]),
        ("trainer_merge", size, [pointer, size, pointer]),
        ("trainer_free", None, [pointer]),
        ("encoder_new", pointer, [pointer, size, size, ctypes.c_bool]),
        ("encode", size, [pointer, pointer, size, size, pointer, pointer]),
        ("encoder_free", None, [pointer]),
    ):
        function = getattr(lib, f"bpe_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


@cache
def _strings() -> Callable[[int, int, int], int]:
    """bpe_strings alone runs under Python's lock (PyDLL), and an error of Python's that it meets is raised."""
    function = ctypes.PyDLL(str(LIBRARY)).bpe_strings
    function.restype, function.argtypes = size, [pointer, size, pointer, pointer]
    utf8 = ctypes.cast(ctypes.pythonapi.PyUnicode_AsUTF8AndSize, pointer)
    return lambda strings, count, places: function(strings, count, utf8, places)


def available() -> bool:
    """Whether the library was built for this machine and version."""
    try:
        library()
    except OSError:
        return False
    return True


class Texts:
    """Where the UTF-8 of each string of a list lies. Holds the strings for as long as the pointers are used."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.strings = np.array(texts, object)  # pointers to the strings
        self.places = np.empty((2, len(texts)), np.uintp)  # addresses, then lengths
        self.arguments = (self.places.ctypes.data, len(texts))
        self.bytes = _strings()(self.strings.ctypes.data, len(texts), self.places.ctypes.data)


class Trainer:
    """Counts pieces on several threads, then merges pairs."""

    def __init__(self, *, digits: int, threads: int = 1) -> None:
        self.handle = library().bpe_trainer_new(digits, threads)
        self.free = weakref.finalize(self, library().bpe_trainer_free, self.handle)

    def count(self, documents: Sequence[str]) -> None:
        texts = Texts(documents)
        check(library().bpe_trainer_count(self.handle, *texts.arguments))

    def merge(self, limit: int) -> list[tuple[int, int]]:
        """Up to `limit` more merges; fewer mean that no pair is left. Of equally frequent pairs the smallest ids win."""
        pairs = np.empty((limit, 2), np.uint32)
        made = check(library().bpe_trainer_merge(self.handle, limit, pairs.ctypes.data))
        return [(a, b) for a, b in pairs[:made].tolist()]


class Encoder:
    """Text to ids of 16 bits, or of 32 where `wide`. The k-th merge makes token 256 + k. Threads may share one."""

    def __init__(self, merges: Sequence[tuple[int, int]], *, digits: int, wide: bool = False) -> None:
        pairs = np.array(merges, np.uint32).reshape(-1, 2)
        self.dtype = np.uint32 if wide else np.uint16
        self.handle = library().bpe_encoder_new(pairs.ctypes.data, len(pairs), digits, wide)
        if not self.handle:
            raise ValueError("merges: one of them uses a token that is made later or not at all")
        self.free = weakref.finalize(self, library().bpe_encoder_free, self.handle)

    def encode_batch(self, texts: list[str], *, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """All ids one after another, and where each text begins (one entry more than texts)."""
        source = Texts(texts)
        ids = np.empty(source.bytes + ROOM * len(texts), self.dtype)
        offsets = np.empty(len(texts) + 1, np.uint64)
        results = (ids.ctypes.data, offsets.ctypes.data)
        written = check(library().bpe_encode(self.handle, *source.arguments, threads, *results))
        ids.resize(written, refcheck=False)  # gives the unused room back
        return ids, offsets


def check(result: int) -> int:
    """Raises RuntimeError where the library reports a failure of its own."""
    if result == FAILED:
        raise RuntimeError(
            "the tokenizer library failed (distinct pieces beyond 4 GiB, or a defect); FLEDGE_BPE=python avoids it"
        )
    return result
