"""Calls of a tool, in threads: they end when nobody waits for them any more, and no client has all threads.

calls = ToolPool(python_tool(sandbox))
call = calls.submit("print(6 * 7)", client="10.0.0.7")      # a Future: call.result(), or call.cancel()
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from fledge.sandbox.tools import Tool

TOOL_THREADS = 4
"""Calls of one model at the same time."""


class Call(Future[str]):
    """A call of a tool. `cancel` ends it also where it runs already."""

    def __init__(self, code: str, client: str) -> None:
        super().__init__()
        self.code, self.client, self.stop = code, client, threading.Event()

    def cancel(self) -> bool:
        self.stop.set()
        return super().cancel()


class ToolPool:
    """Threads for calls of a tool. One client has at most half of them, so that others need not wait for its programs."""

    def __init__(self, run: Tool, *, threads: int = TOOL_THREADS) -> None:
        self.run, self.threads = run, threads
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="tool")
        self.lock = threading.Lock()
        self.waiting: list[Call] = []
        self.running: list[Call] = []

    def submit(self, code: str, *, client: str = "") -> Call:
        """Run the code when its turn comes; a client without a name has no bound."""
        call = Call(code, client)
        with self.lock:
            self.waiting.append(call)
            self._begin()
        return call

    def close(self) -> None:
        """End all calls."""
        with self.lock:
            for call in self.waiting + self.running:
                call.cancel()
            self.waiting.clear()
        self.pool.shutdown(wait=False)

    def _begin(self) -> None:
        for call in list(self.waiting):
            others = sum(call.client == other.client for other in self.running)
            if len(self.running) < self.threads and (not call.client or others < max(1, self.threads // 2)):
                self.waiting.remove(call)
                self.running.append(call)
                self.pool.submit(self._run, call)

    def _run(self, call: Call) -> None:
        try:
            if call.set_running_or_notify_cancel():
                call.set_result(self.run(call.code, call.stop))
        except BaseException as error:
            call.set_exception(error)
        finally:
            with self.lock:
                self.running.remove(call)
                self._begin()
