"""Ctrl-C, SIGTERM and the end of the terminal: noted at any moment, and training stops after the step in progress.

    endings.watch()                      # once, before anything slow
    with endings.gently() as asked:      # within, the first is only noted, the second stops at once
        ...
        if asked.is_set: ...

A KeyboardInterrupt that is raised while Python is in a callback of torch or cleans up is printed and lost; the note is not.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Flag:
    """An event without the lock of threading.Event, for which a second signal in the midst of the first would wait for ever."""

    is_set = False


_asked, _gentle = Flag(), Flag()


def watch(hear: Callable[[int, FrameType | None], None] | signal.Handlers | None = None) -> None:
    """From here on each of the signals calls `hear`; None: it raises KeyboardInterrupt, outside of `gently`.

    For the main thread; elsewhere nothing.
    """
    if threading.current_thread() is threading.main_thread():
        _asked.is_set = False
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and background jobs ask to be left alone
                signal.signal(number, _note if hear is None else hear)  # SIG_DFL is 0


def leave() -> None:
    """From here on SIGTERM and the end of the terminal raise SystemExit: a chat hears Ctrl-C as the end of an answer alone."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if number != signal.SIGINT and signal.getsignal(number) is _note:
                signal.signal(number, lambda number, _: sys.exit(128 + number))


@contextlib.contextmanager
def gently() -> Iterator[Flag]:
    """Within, the first signal only sets the event; one that came before and was lost has set it already."""
    _gentle.is_set = True
    try:
        yield _asked
    finally:
        _gentle.is_set = False


def _note(number: int, frame: FrameType | None) -> None:
    again = _asked.is_set
    _asked.is_set = True
    if again or not _gentle.is_set:
        raise KeyboardInterrupt
    with contextlib.suppress(OSError):  # the terminal may be what ended
        from fledge import console

        console.say("stopping after this step; once more to stop at once")
