"""What a metrics.jsonl holds, read as it grows, and thinned to what a screen can show.

    lines = Lines(stage / "metrics.jsonl")
    lines.read()                                            # what was written since the last call; True where something was
    lines.curve("loss_nats", "tokens", points=1000)         # {"x": [...], "y": [...], "mean": [...]}

Numbers are those of the file, none is computed but the mean. A hundred thousand lines are read once, in a second; what is added
to them costs what it has.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fledge.runs import measured

AXES = ("step", "tokens", "seconds")
"""What a curve goes along; tokens and seconds are summed up."""
MOST, MOST_SPENT = 1e300, 1e18
"""What is beyond the first cannot be summed or sent; a step that took more than the second of anything is none."""
WINDOW = 50
"""The mean is that of a fiftieth of what is shown."""
Numbers = npt.NDArray[np.float64]


class Lines:
    """One metrics.jsonl, column by column. It is only ever read."""

    def __init__(self, path: Path) -> None:
        self.path, self.version = path, 0
        """The version grows with everything that was read."""
        self._forget()

    def _forget(self) -> None:
        self.known = b""
        """All that was read: whole lines."""
        self.axes = {name: array("d") for name in AXES}
        self.columns: dict[str, tuple[array[int], array[float]]] = defaultdict(lambda: (array("q"), array("d")))
        """Of each metric the lines that have it, and its values."""
        self.samples: list[tuple[int, Any]] = []
        self.strange = 0
        """Lines that were left out."""

    def __len__(self) -> int:
        return len(self.axes["step"])

    def read(self) -> bool:
        """Take in what was written since. A torn last line waits; a file that is no longer the same is read from its beginning."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            raw = b""
        whole = raw[: raw.rfind(b"\n") + 1]
        if not whole.startswith(self.known):
            self.version += len(self) > 0
            self._forget()
        new, self.known = whole[len(self.known) :], whole
        for line in new.splitlines():
            self._add(line)
        self.version += bool(new)
        return bool(new)

    def _add(self, text: bytes) -> None:
        line = measured(text)
        samples = line.pop("samples", []) if line else []
        if line is None or not are_texts(samples) or not all(abs(line.get(name, 0)) < MOST_SPENT for name in AXES):
            self.strange += 1
            return
        for name, values in self.axes.items():
            before = values[-1] if values and name != "step" else 0.0
            values.append(before + line.get(name, 0.0))
        if samples:
            self.samples.append((line["step"], samples))
        for name, value in line.items():
            if name not in AXES and abs(value) < MOST:
                places, values = self.columns[name]
                places.append(len(self) - 1)
                values.append(value)

    def last(self, name: str) -> float | None:
        """The last value of a metric."""
        return self.columns[name][1][-1] if name in self.columns else None

    def recent(self, lines: int = 50) -> dict[str, float]:
        """Steps, tokens and seconds of the last lines with a loss."""
        places = self.columns["loss_nats"][0][-lines - 1 :] if "loss_nats" in self.columns else ()
        if len(places) < 2:
            return {}
        return {name: values[places[-1]] - values[places[0]] for name, values in self.axes.items()}

    def curve(
        self, name: str, axis: str, *, points: int, low: float = -np.inf, high: float = np.inf, evenly: bool = False
    ) -> dict[str, list[float]]:
        """At most so many points of a metric from low to high, and one beyond on each side, so that the line goes on.

        evenly: at equal distances, as for a mean alone: runs of one length have them at the same places, which are quick to draw.
        """
        places, values = self.columns.get(name, ((), ()))
        x, y = np.asarray(self.axes[axis])[np.asarray(places, dtype=int)], np.asarray(values)
        inside = np.flatnonzero((x >= low) & (x <= high))
        if not len(inside):
            return {"x": [], "y": [], "mean": []}
        shown = slice(max(0, inside[0] - 1), inside[-1] + 2)
        x, y = x[shown], y[shown]
        kept = np.unique(np.linspace(0, len(y) - 1, points).astype(int)) if evenly else thin(y, points)
        smooth = mean(y, len(y) // WINDOW)[kept].tolist() if len(y) > 2 * WINDOW else []
        return {"x": x[kept].tolist(), "y": y[kept].tolist(), "mean": smooth}


def are_texts(samples: Any) -> bool:
    """Whether it is a list of what a model wrote, which may have a prompt and a text."""
    return isinstance(samples, list) and all(
        isinstance(each, dict) and isinstance(each.get("prompt", ""), str) and isinstance(each.get("text", ""), str)
        for each in samples
    )


def thin(values: Numbers, points: int) -> npt.NDArray[np.int64]:
    """Places, in order, of at most `points` values: the first, the last, and of equal parts the least and the greatest."""
    if len(values) <= points:
        return np.arange(len(values))
    size = -(-len(values) // max(1, (points - 2) // 2))
    parts = -(-len(values) // size)
    table = np.pad(values, (0, parts * size - len(values)), mode="edge").reshape(parts, size)
    starts = np.arange(parts) * size
    places = [starts + table.argmin(axis=1), starts + table.argmax(axis=1), np.array([0, len(values) - 1])]
    return np.unique(np.concatenate(places))


def mean(values: Numbers, window: int) -> Numbers:
    """Of each value and as many on either side of it as half the window has; at the ends of those that there are.

    mean([1, 2, 6], 2) == [1.5, 3, 4]
    """
    sums, places = np.concatenate([[0.0], np.cumsum(values)]), np.arange(len(values))
    low, high = np.maximum(places - window // 2, 0), np.minimum(places + window // 2 + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
