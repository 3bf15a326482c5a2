"""The pictures of the README, taken of a run: the chat in light, dark with two stages and token colours, on a phone; its curves and
its report card.

    python tests/screenshots.py runs/demo            # into docs/images; look at them before they are committed

Answers are the likeliest ones of the run's last model, unedited.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
LIGHT = ("Who are you?", "How much is 12 times 34?", "Tell me a story about Mira, a fox and a lantern.")
DARK = ("Who is the baker?", "I am a bird. I eat voles. I say hoot. What am I?")


@contextmanager
def served(*words: str) -> Iterator[str]:
    """The address of what `fledge serve` or `fledge watch` listens on."""
    words = (sys.executable, "-m", "fledge", *words, "--port", "0")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = next(match for line in server.stdout if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
            yield found[0]
        finally:
            server.terminate()


def ask(page: Any, *texts: str) -> None:
    """Ask one after the other, each when the answer before is complete."""
    for count, text in enumerate(texts, 1):
        page.fill("#prompt", text)
        page.press("#prompt", "Enter")
        expect(page.locator("#turns .question")).to_have_count(count)
        expect(page.locator("#send")).to_have_attribute("title", "Send")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    asked = parser.parse_args()
    serve, watch = served("serve", asked.run, "--temperature", "0"), served("watch", asked.run)
    with serve as address, watch as curves, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def opened(url: str, **options: Any) -> Any:
            page = browser.new_context(reduced_motion="reduce", **options).new_page()
            page.set_default_timeout(120_000)
            page.goto(url)
            page.wait_for_selector("body.ready")
            return page

        def shoot(page: Any, name: str) -> None:
            page.screenshot(path=asked.out / f"{name}.png")

        screen = {"viewport": {"width": 1280, "height": 800}}
        page = opened(address, **screen)
        ask(page, *LIGHT)
        shoot(page, "chat-light")
        page = opened(address, **screen, color_scheme="dark")
        page.click("#compare")
        page.click("#inspect")
        ask(page, *DARK)
        page.locator("#turns .answer .token").nth(-4).hover()
        shoot(page, "chat-dark")
        page = opened(address, **started.devices["iPhone 13"])
        ask(page, DARK[0], LIGHT[1])
        shoot(page, "chat-phone")
        page = opened(curves, **screen)
        chart = page.locator("[data-chart=loss_nats] .u-over")
        for place in (0.3, 0.31):  # the first move is that into it
            chart.hover(position={"x": place * chart.bounding_box()["width"], "y": 100})
        page.wait_for_selector("output b")
        shoot(page, "watch")
        page.goto((Path(asked.run) / "report.html").resolve().as_uri())
        shoot(page, "report")


if __name__ == "__main__":
    main()
