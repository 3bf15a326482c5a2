"""The Rust crate in bpe/ through ctypes: `Trainer` and `Encoder` as in `bpe.py`, with Python's lock released while they work.

    if available():
        trainer = Trainer(digits=3, threads=2)

hatch_build.py puts the library next to this file when fledge is installed.
"""

import ctypes
import sys
import weakref
from collections.abc import Callable, Sequence
from ctypes import c_bool, c_size_t, c_void_p
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

INTERFACE = 1  # as in bpe/src/lib.rs
LIBRARY = Path(__file__).with_name({"win32": "_bpe.dll", "darwin": "_bpe.dylib"}.get(sys.platform, "_bpe.so"))
FAILED = c_size_t(-1).value
UTF8_SLACK = 7  # ids of room that the encoder wants behind each text (HELD in encode.rs)


@cache
def library() -> ctypes.CDLL:
    """The library with its signatures declared.

    Raises:
        OSError: it is not there, cannot be loaded here, or belongs to another version of fledge.
    """
    lib = ctypes.CDLL(str(LIBRARY))
    lib.bpe_interface.restype = c_size_t
    if lib.bpe_interface() != INTERFACE:
        raise OSError(f"{LIBRARY} belongs to another version of fledge; reinstall fledge")
    size, pointer = c_size_t, c_void_p
    for name, result, arguments in (
        ("split", size, [size, pointer, size, pointer]),
        ("trainer_new", pointer, [size, size]),
        ("trainer_count", size, [pointer, pointer, pointer, size]),
        ("trainer_merge", size, [pointer, size, pointer]),
        ("trainer_free", None, [pointer]),
        ("encoder_new", pointer, [pointer, pointer, size, size]),
        ("encode", size, [pointer, pointer, pointer, size, size, c_bool, pointer, pointer]),
        ("encoder_free", None, [pointer]),
    ):
        function = getattr(lib, f"bpe_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


@cache
def _strings() -> Callable[[list[str], int, int], int]:
    """bpe_strings alone runs under Python's lock, and an error of Python's that it meets is raised."""
    function = ctypes.PyDLL(str(LIBRARY)).bpe_strings
    function.restype = c_size_t
    function.argtypes = [ctypes.py_object, c_size_t, c_void_p, c_void_p, c_void_p, c_void_p]
    api = [ctypes.cast(ctypes.pythonapi[name], c_void_p) for name in ("PyList_GetItem", "PyUnicode_AsUTF8AndSize")]
    return lambda texts, starts, lengths: function(texts, len(texts), *api, starts, lengths)


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
        self.texts = list(texts)  # our own list: another thread cannot change it under us
        self.starts = np.empty(len(self.texts), np.uintp)
        self.lengths = np.empty(len(self.texts), np.uintp)
        self.bytes = _strings()(self.texts, self.starts.ctypes.data, self.lengths.ctypes.data)
        self.arguments = (self.starts.ctypes.data, self.lengths.ctypes.data, len(self.texts))


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
        return [(int(a), int(b)) for a, b in pairs[:made].tolist()]


class Encoder:
    """Text to ids. `byte_ids[b]` is the id of byte b; the k-th merge makes token 256 + k. Threads may share one."""

    def __init__(self, byte_ids: Sequence[int], merges: Sequence[tuple[int, int]], *, digits: int) -> None:
        first = np.array(byte_ids, np.uint32)
        triples = np.empty((len(merges), 3), np.uint32)
        triples[:, :2] = np.array(merges, np.uint32).reshape(-1, 2)
        triples[:, 2] = np.arange(256, 256 + len(merges))
        self.handle = library().bpe_encoder_new(first.ctypes.data, triples.ctypes.data, len(merges), digits)
        if not self.handle:
            raise ValueError("merges: one of them uses a token that is made later or not at all")
        self.free = weakref.finalize(self, library().bpe_encoder_free, self.handle)

    def encode_batch(self, texts: list[str], *, threads: int = 1, wide: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """All ids one after another, and where each text begins (one entry more than texts)."""
        source = Texts(texts)
        ids = np.empty(source.bytes + UTF8_SLACK * len(source.texts), np.uint32 if wide else np.uint16)
        offsets = np.empty(len(source.texts) + 1, np.uint64)
        arguments = (*source.arguments, threads, wide, ids.ctypes.data, offsets.ctypes.data)
        written = check(library().bpe_encode(self.handle, *arguments))
        ids.resize(written, refcheck=False)  # gives the unused room back
        return ids, offsets


def split(text: str, *, digits: int) -> list[bytes]:
    """The pieces of a text, for the tests."""
    source = Texts([text])
    ends = np.empty(source.bytes, np.uint64)
    count = check(library().bpe_split(digits, int(source.starts[0]), source.bytes, ends.ctypes.data))
    cuts, raw = [0, *ends[:count].tolist()], text.encode()
    return [raw[a:b] for a, b in pairwise(cuts)]


def check(result: int) -> int:
    """Raises RuntimeError where the library reports a failure of its own."""
    if result == FAILED:
        raise RuntimeError(
            "the tokenizer library failed (distinct pieces beyond 4 GiB, or a defect); FLEDGE_BPE=python avoids it"
        )
    return result
