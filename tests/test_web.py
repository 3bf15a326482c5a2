"""The web page in a real Chromium, against a server that answers from a script."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import test_server
from fledge.config import Sampling
from fledge.serve.client import LocalModel
from fledge.serve.terminal import Terminal
from fledge.text.chat import say
from fledge.text.conversations import open_conversations
from tiny_engine import BYTES, tiny_model
from web_server import Reply, ScriptedServer, delta, says, serving, stage, token

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need the package playwright")
Page, expect = playwright.Page, playwright.expect
CHROMIUM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"
)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]

Open = Callable[..., Any]
expect.set_options(timeout=30_000)  # on a machine that is busy with other tests


@pytest.fixture(scope="module")
def running() -> Iterator[ScriptedServer]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: ScriptedServer) -> ScriptedServer:
    running.reset()
    return running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=QUIET)
        yield launched
        launched.close()


class Tab:
    """A page in a profile of its own, which notes what went wrong in it."""

    def __init__(self, browser: Any, **options: Any) -> None:
        options = {"viewport": {"width": 1100, "height": 760}} | options
        self.context = browser.new_context(reduced_motion="reduce", **options)
        self.context.set_default_timeout(30_000)
        self.page = self.context.new_page()
        self.url, self.wrong = "", []
        self.page.on("pageerror", lambda error: self.wrong.append(f"page error: {error}"))
        self.page.on("console", lambda line: self.wrong.append(line.text) if "Content Security" in line.text else None)
        self.page.on("request", self.note_request)

    def note_request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "blob:", "about:")):
            self.wrong.append(request.url)

    def open(self, url: str) -> Any:
        """The page as on a first visit. What is kept is cleared, for a new renderer per test would cost most of the time."""
        if self.url:
            self.page.evaluate("sessionStorage.clear()")
            self.page.goto("about:blank")
            self.page.mouse.move(0, 0)
        self.url = url
        cleared = {"origin": url.rstrip("/"), "storageTypes": "all"}
        self.context.new_cdp_session(self.page).send("Storage.clearDataForOrigin", cleared)
        self.page.goto(url)
        return self.page


@pytest.fixture(scope="module")
def tab(browser: Any) -> Tab:
    return Tab(browser)


@pytest.fixture
def open_page(browser: Any, tab: Tab, server: ScriptedServer) -> Iterator[Open]:
    """Opens the page in an empty profile; afterwards no script failed and nothing but the server was asked."""
    tabs: list[Tab] = []

    def open_it(url: str = server.url, ready: bool = True, **options: Any) -> Any:
        tabs.append(Tab(browser, **options) if tabs or options else tab)
        page = tabs[-1].open(url)
        if ready:
            page.wait_for_selector("body.ready")
        return page

    yield open_it
    wrong = [line for each in tabs for line in each.wrong]
    tab.wrong.clear()
    for each in tabs:
        if each is not tab:
            each.context.close()
    assert not wrong


@pytest.fixture
def page(open_page: Open) -> Any:
    return open_page()


def ask(page: Any, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def set_to(page: Any, label: str, value: str) -> None:
    """Change one setting on its sheet."""
    page.click("#settings-open")
    page.get_by_label(label, exact=True).fill(value)
    page.keyboard.press("Escape")


def answered(page: Any, count: int = 1) -> Any:
    """The last answer, once `count` answers are complete."""
    expect(page.locator("#turns .answer")).to_have_count(count)
    expect(page.locator("#send")).to_have_attribute("title", "Send")
    return page.locator("#turns .answer").last


def settle(page: Any) -> None:
    """Waits until what was changed has been painted, and what it set off has run."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")


def until(page: Any, condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        page.wait_for_timeout(10)
    raise AssertionError("it did not happen")


# ---- The first screen


def test_the_first_screen_greets_and_asks_a_suggestion_on_a_click(page: Any, server: ScriptedServer) -> None:
    expect(page.locator("#greeting")).to_have_text("Hello, I’m Pip.")
    page.get_by_role("button", name="Who is the baker?").click()
    expect(answered(page)).to_contain_text("sft heard: Who is the baker?")
    assert server.requests[0]["model"] == "sft"
    expect(page.locator("#first")).to_be_hidden()


def test_a_proposed_conversation_goes_on_for_who_asks_what_was_measured(page: Any, server: ScriptedServer) -> None:
    cards = page.locator(".suggestions button")
    page.get_by_role("button", name="I am Sophia.").click()
    expect(cards).to_have_text(["What is my name?", "Who am I?"])
    cards.last.click()
    expect(cards).to_have_count(0)
    expect(page.locator(".answer")).to_have_count(2)
    asked = [message["content"] for message in server.requests[1]["messages"] if message["role"] == "user"]
    assert asked == ["I am Sophia.", "Who am I?"]


def test_where_nothing_was_measured_there_is_the_greeting_alone(server: ScriptedServer, open_page: Open) -> None:
    server.stages = [stage("base") | {"fledge": stage("base")["fledge"] | {"suggestions": []}}]
    page = open_page()
    expect(page.locator("#greeting")).to_have_text("Hello, I’m Pip.")
    expect(page.locator(".suggestions button")).to_have_count(0)


def test_the_default_stage_answers_and_another_one_can_be_chosen(page: Any, server: ScriptedServer) -> None:
    expect(page.locator("#stage")).to_have_value("sft")
    page.locator("#stage").select_option("base")
    ask(page, "Hello")
    answered(page)
    assert server.requests[0]["model"] == "base"
    page.reload()
    expect(page.locator("#stage")).to_have_value("base")


# ---- Streaming


CUT = """async ({events, ends, size}) => {
    // What fetch returns, cut to pieces of `size` bytes: TCP gives no test a say in that.
    window.fetch = async () => {
        const bytes = new TextEncoder().encode(events.map((event) => 'data: ' + event + ends + ends).join(': note' + ends));
        return new Response(new ReadableStream({start(stream) {
            for (let at = 0; at < bytes.length; at += size) stream.enqueue(bytes.slice(at, at + size));
            stream.close();
        }}));
    };
}"""


def test_an_answer_of_200_chunks_cut_at_every_byte_arrives_whole(page: Any) -> None:
    words = [f"wörd{i} 🐣 “{i}” " for i in range(200)]
    events = [*(json.dumps(event, ensure_ascii=False) for event in says(*words)), "[DONE]"]
    for count, (size, ends) in enumerate([(1, "\n"), (1, "\r\n"), (7, "\r\n"), (1 << 20, "\n")], 1):
        page.evaluate(CUT, {"events": events, "ends": ends, "size": size})
        ask(page, "Go")
        assert answered(page, count).locator(".prose").inner_text().strip() == "".join(words).strip()


JUMPS = """window.jumps = 0;
new PerformanceObserver((list) => list.getEntries().forEach((entry) => (window.jumps += entry.value)))
    .observe({type: 'layout-shift', buffered: false});"""


def test_nothing_on_the_page_jumps_while_an_answer_streams(page: Any, server: ScriptedServer) -> None:
    text = (
        "First **bold** words and `code`.\n\n- one\n- two\n\n```python\nprint(1)\n```\n\nThe last paragraph is here.\n"
    )
    pieces = [text[i : i + 3] for i in range(0, len(text), 3)]
    server.replies += [Reply(says(text)), Reply(says(*pieces), pause=0.005)]
    ask(page, "Short")
    answered(page)
    page.evaluate(JUMPS)
    ask(page, "Long")
    answered(page, 2)
    settle(page)
    assert page.evaluate("window.jumps") < 0.05


def test_nothing_jumps_while_the_page_opens(page: Any, server: ScriptedServer) -> None:
    page.add_init_script(JUMPS)
    for text in ("", "Hello"):
        if text:
            ask(page, text)
            answered(page)
        page.goto(page.url)
        page.reload()
        page.wait_for_selector("body.ready")
        settle(page)
        assert page.evaluate("window.jumps") < 0.05


def test_what_is_selected_stays_selected_when_the_answer_ends(page: Any, server: ScriptedServer) -> None:
    hold = threading.Event()
    server.replies.append(Reply(says("Some words", " and more"), hold=hold, hold_at=2))
    ask(page, "Go")
    expect(page.locator(".prose")).to_have_text("Some words and more")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.prose p'))")
    hold.set()
    answered(page)
    settle(page)
    assert page.evaluate("getSelection().toString()") == "Some words and more"


def test_a_block_that_is_complete_keeps_its_element_while_the_next_one_grows(page: Any, server: ScriptedServer) -> None:
    hold = threading.Event()
    server.replies.append(Reply(says("One.\n\n", "Two", " and **three"), hold=hold, hold_at=2))
    ask(page, "Go")
    expect(page.locator(".block")).to_have_count(2)
    page.evaluate("document.querySelector('.block').mark = true")
    hold.set()
    answered(page)
    assert page.evaluate("document.querySelector('.block').mark")


def test_the_end_stays_in_view_until_the_reader_scrolls_up(page: Any, server: ScriptedServer) -> None:
    hold = threading.Event()
    lines = [f"Line {i}\n\n" for i in range(60)]
    server.replies.append(Reply(says(*lines), hold=hold, hold_at=50))
    ask(page, "Go")
    expect(page.get_by_text("Line 49")).to_be_in_viewport()
    page.hover("#log")
    page.mouse.wheel(0, -600)
    expect(page.locator("#to-end")).to_be_visible()
    top = page.evaluate("document.querySelector('#log').scrollTop")
    hold.set()
    answered(page)
    assert page.evaluate("document.querySelector('#log').scrollTop") == top
    page.click("#to-end")
    expect(page.get_by_text("Line 59")).to_be_in_viewport()


def test_stop_cancels_the_request_and_keeps_what_was_written(page: Any, server: ScriptedServer) -> None:
    ways = (lambda: page.get_by_role("button", name="Stop").click(), lambda: page.keyboard.press("Escape"))
    for count, stop in enumerate(ways, 1):
        server.replies.append(Reply(says("So far", " never"), hold=threading.Event()))
        ask(page, "Go")
        expect(page.locator(".prose")).to_have_text(["So far"] * count)
        stop()
        expect(answered(page, count)).to_contain_text("You stopped this answer.")
        until(page, lambda: server.cancelled == count)  # noqa: B023
    ask(page, "And now?")
    answered(page, 3)
    said = [message["content"] for message in server.requests[2]["messages"]]
    assert said == ["Go", "So far", "Go", "So far", "And now?"]


def test_an_answer_says_its_speed_the_room_that_is_left_and_why_it_ended(page: Any, server: ScriptedServer) -> None:
    cut = Reply(says("Yes", finish="length", fledge={"dropped_turns": 2}))
    server.replies += [Reply(says(*["word "] * 40, usage=(100, 40)), pause=0.005), cut]
    server.replies += [Reply(says("Yes", fledge={"dropped_turns": 1})), Reply(says())]
    ask(page, "Go")
    expect(answered(page).locator(".figures")).to_contain_text(re.compile("^40 tokens · .* tokens/s"))
    expect(page.locator("#context")).to_contain_text("372 of 512 tokens left")
    notes = ["2 earlier turns no longer fit and were left out.", "1 earlier turn no longer fits and was left out."]
    notes[0] = f"It ran out of room: the token limit or the end of the context. {notes[0]}"
    for count, said in enumerate([*notes, "The answer is empty: the model ended it at once."], 2):
        ask(page, "On")
        expect(answered(page, count).locator(".note")).to_have_text(said)


def test_buttons_have_their_drawings_when_the_server_is_gone(page: Any) -> None:
    settle(page)
    page.context.set_offline(True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    ask(page, "Go")
    answered(page)
    page.context.set_offline(False)
    drawn = page.locator(".answer use").evaluate_all("all => all.map((use) => use.getBBox().width > 0)")
    assert drawn
    assert all(drawn)
    assert not [url for url in asked if "icons" in url]


# ---- Branches


def test_asking_again_adds_a_version_and_the_arrows_go_between_them(page: Any, server: ScriptedServer) -> None:
    server.replies += [Reply(says("first answer")), Reply(says("second answer"))]
    ask(page, "Go")
    answered(page)
    page.get_by_role("button", name="Ask again").click()
    expect(answered(page)).to_contain_text("second answer")
    expect(page.locator(".count")).to_have_text("2/2")
    page.get_by_role("button", name="Previous version").click()
    expect(page.locator(".prose")).to_have_text("first answer")
    page.reload()
    expect(page.locator(".prose")).to_have_text("first answer")
    page.get_by_role("button", name="Next version").click()
    expect(page.locator(".prose")).to_have_text("second answer")


def test_an_edited_question_branches_and_the_old_branch_stays(page: Any, server: ScriptedServer) -> None:
    for text in ("One", "Two"):
        ask(page, text)
        answered(page, 1 if text == "One" else 2)
    page.locator(".question").first.hover()
    page.get_by_role("button", name="Edit message").first.click()
    expect(page.locator("#asked")).to_be_focused()
    page.fill("#asked", "Uno")
    page.press("#asked", "Enter")
    expect(answered(page, 1)).to_contain_text("heard: Uno")
    assert [message["content"] for message in server.requests[-1]["messages"]] == ["Uno"]
    page.locator(".question").first.get_by_role("button", name="Previous version").click()
    expect(page.locator(".bubble")).to_have_text(["One", "Two"])


def test_the_arrow_up_edits_the_last_message_and_escape_leaves_it(page: Any) -> None:
    ask(page, "Ring")
    answered(page)
    page.press("#prompt", "ArrowUp")
    expect(page.locator("#asked")).to_have_value("Ring")
    page.keyboard.press("Escape")
    expect(page.locator("#asked")).to_have_count(0)
    expect(page.locator("#prompt")).to_be_focused()


def test_an_answer_is_corrected_on_a_branch_and_gone_on_with(page: Any, server: ScriptedServer) -> None:
    call = [
        delta(content="So: "),
        *(delta(fledge={"parts": [{"type": kind, "text": "36"}]}) for kind in ("python", "output")),
    ]
    server.replies += [Reply([*call, *says("It is 63.")]), Reply(says(" I am sure."))]
    ask(page, "12 times 3?")
    answered(page)
    page.get_by_role("button", name="Edit answer").click()
    parts = page.locator("#ask textarea")
    assert [parts.nth(place).input_value() for place in range(4)] == ["So: ", "36", "36", "It is 63."]
    parts.last.fill("It is 36.")
    page.keyboard.press("Enter")
    expect(page.locator(".count")).to_have_text("2/2")
    expect(page.locator(".body")).to_contain_text("It is 36.")
    page.click("#inspect")
    page.get_by_role("button", name="Continue answer").click()
    expect(answered(page).locator(".body")).to_contain_text("It is 36. I am sure.")
    said = server.requests[1]["messages"]
    assert [message["role"] for message in said] == ["user", "assistant"]
    assert said[1]["content"][-1] == {"type": "text", "text": "It is 36."}


# ---- Comparison


def test_two_stages_answer_side_by_side_and_each_remembers_its_own_words(page: Any, server: ScriptedServer) -> None:
    page.click("#compare")
    page.locator("#other").select_option("base")
    ask(page, "One")
    lanes = answered(page).locator(".lane")
    expect(lanes).to_have_count(2)
    expect(lanes.nth(0)).to_contain_text("sft heard: One")
    expect(lanes.nth(1)).to_contain_text("base heard: One")
    left, right = lanes.nth(0).bounding_box(), lanes.nth(1).bounding_box()
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    ask(page, "Two")
    answered(page, 2)
    said = {body["model"]: body["messages"][1]["content"] for body in server.requests[2:]}
    assert said == {"sft": "sft heard: One", "base": "base heard: One"}
    page.click("#compare")
    ask(page, "Three")
    expect(answered(page, 3).locator(".lane")).to_have_count(1)


# ---- Inspection


def test_inspection_colours_tokens_and_shows_five_alternatives_on_hover_and_focus(
    page: Any, server: ScriptedServer
) -> None:
    others = {" cat": -0.1, " dog": -2.5, " hen": -3.0, " cow": -4.0, " owl": -5.0}
    sampled = [token("The", -0.001, The=-0.001), token(" owl", -5.0, **others)]
    events = [delta(content=each["token"], logprobs=[each]) for each in sampled]
    server.replies.append(Reply([*events, *says()]))
    page.click("#inspect")
    ask(page, "Who?")
    tokens = answered(page).locator(".token")
    expect(tokens).to_have_text(["The", " owl"])
    assert (server.requests[0]["logprobs"], server.requests[0]["top_logprobs"]) == (True, 5)
    colours = [tokens.nth(i).evaluate("token => getComputedStyle(token).backgroundColor") for i in (0, 1)]
    assert colours[0] != colours[1]
    tokens.nth(1).hover()
    expect(page.locator("#alternatives li")).to_have_count(5)
    expect(page.locator("#alternatives li").first).to_contain_text("␣cat")
    expect(page.locator("#alternatives li").first).to_contain_text("90.5 %")
    expect(page.locator("#alternatives .chosen")).to_contain_text("␣owl")
    page.mouse.move(5, 5)
    expect(page.locator("#alternatives")).to_be_hidden()
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    expect(page.locator("#alternatives")).to_be_visible()
    page.click("#inspect")
    expect(page.locator(".prose")).to_have_text("The owl")


# ---- Tools


def test_a_tool_call_is_a_fold_with_its_code_and_its_result(page: Any, server: ScriptedServer) -> None:
    call = [
        delta(content="So: "),
        *(delta(fledge={"parts": [{"type": "python", "text": text}]}) for text in ("12", "*3")),
    ]
    server.replies.append(
        Reply([*call, delta(fledge={"parts": [{"type": "output", "text": "36"}]}), *says("It is 36.")])
    )
    ask(page, "12 times 3?")
    fold = answered(page).locator("details")
    left, right = page.locator(".prose").first.bounding_box(), page.locator(".prose").last.bounding_box()
    assert abs(left["y"] - right["y"]) < 8  # a calculation stays in its sentence
    expect(fold.locator("summary")).to_contain_text("= 36")
    expect(fold.locator(".result")).to_be_hidden()
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(fold.locator("figure code")).to_have_text("12*3")
    expect(fold.locator(".result")).to_have_text("36")
    ask(page, "Thanks")
    answered(page, 2)
    parts = [("text", "So: "), ("python", "12*3"), ("output", "36"), ("text", "It is 36.")]
    assert server.requests[1]["messages"][1]["content"] == [{"type": kind, "text": text} for kind, text in parts]


# ---- Markdown

HOSTILE = """<script>window.hit = 1</script> <img src=x onerror="window.hit=1">
<svg onload=window.hit=1></svg> <iframe srcdoc="<script>parent.hit=1</script>"></iframe>

[a](javascript:window.hit=1) [b](JaVaScRiPt&colon;window.hit=1) [c](data:text/html,<script>hit=1</script>) [d](vbscript:x)
<a href="javascript:window.hit=1">e</a> <javascript:window.hit=1> ![f](x" onerror="window.hit=1) [g](<java\nscript:hit=1>)

```html" onmouseover="window.hit=1
<script>window.hit=1</script>
```

| <img src=x onerror=window.hit=1> | `<b onclick=window.hit=1>` |
|--|--|
| <style>*{display:none}</style> | <math><mtext><style><img src onerror=window.hit=1> |

$\\href{javascript:window.hit=1}{x}$ $$\\text{<img src=x onerror=window.hit=1>}$$
<form action=/><input autofocus onfocus=window.hit=1></form>
"""


@pytest.mark.parametrize("inspect", [False, True])
def test_no_markdown_a_model_writes_is_ever_executed(page: Any, server: ScriptedServer, inspect: bool) -> None:
    pieces = [HOSTILE[i : i + 5] for i in range(0, len(HOSTILE), 5)]
    logprobs = [[token(piece, -0.5, **{piece: -0.5})] if inspect else None for piece in pieces]
    written = [delta(content=piece, logprobs=lp) for piece, lp in zip(pieces, logprobs, strict=True)]
    called = [delta(fledge={"parts": [{"type": kind, "text": HOSTILE}]}) for kind in ("python", "output")]
    server.replies.append(Reply([*written, *called, *says()]))
    if inspect:
        page.click("#inspect")
    ask(page, HOSTILE)
    answer = answered(page)
    answer.locator("summary").click()
    for link in answer.locator(".prose a").all():
        assert (link.get_attribute("href") or "http:").startswith(("http", "mailto:"))
        link.click(modifiers=["Control"], force=True) if link.get_attribute("href") is None else None
    settle(page)
    assert page.evaluate("window.hit") is None
    assert page.locator("#turns :is(script, img, iframe, style, form, input, object, embed)").count() == 0
    assert page.locator("#turns :is([onerror], [onclick], [onload], [onfocus], [srcdoc])").count() == 0
    assert not any("javascript:" in (link.get_attribute("href") or "") for link in page.locator("#turns [href]").all())


def test_markdown_becomes_elements_and_tags_show_as_written(page: Any, server: ScriptedServer) -> None:
    text = "# Head\n\n**bold** *it* `x<y` <b>tag</b>\n\n- one\n- two\n\n1. a\n\n> said\n\n| a | b |\n|--|--:|\n| 1 | 2 |\n\n[out](https://example.org)\n\nno\n--\n"
    server.replies.append(Reply(says(*text)))
    ask(page, "Go")
    prose = answered(page).locator(".prose")
    for selector, shown in {
        "h1": "Head",
        "strong": "bold",
        "em": "it",
        "p > code": "x<y",
        "blockquote": "said",
    }.items():
        expect(prose.locator(selector)).to_have_text(shown)
    expect(prose.locator("ul li")).to_have_count(2)
    expect(prose.locator("td").nth(1)).to_have_css("text-align", re.compile("right$"))
    expect(prose).to_contain_text("<b>tag</b>")
    expect(prose.locator("a")).to_have_attribute("rel", "noopener noreferrer")
    expect(prose.locator("h2")).to_have_count(0)


def test_formulas_become_mathml_and_neither_prices_do_nor_a_number_a_list(page: Any, server: ScriptedServer) -> None:
    formulas = "Prices: $5 and $6. Then $x^2$ and \\(y\\).\n\n$$\\frac{1}{2}$$\n"
    server.replies += [Reply(says("36.")), Reply(says("- ")), Reply(says(formulas))]
    for count, text in enumerate(["36.", "-"], 1):
        ask(page, "Go")
        expect(answered(page, count).locator(".prose")).to_have_text(text)
    ask(page, "Go")
    expect(answered(page, 3).locator("math")).to_have_count(3)
    expect(page.locator("math[display=block] mfrac")).to_have_count(1)
    expect(page.locator(".prose").last).to_contain_text("Prices: $5 and $6.")
    expect(page.locator(".prose li")).to_have_count(0)


def test_a_function_that_nobody_fenced_is_code_and_each_text_runs_in_its_own_direction(
    page: Any, server: ScriptedServer
) -> None:
    code = "def double(n):\n    # twice\n\n    return 2 * n"
    server.replies.append(Reply(says(*f"Here:\n{code}\n\nשלום\n\nclass dismissed: no code.")))
    ask(page, "שלום")
    prose = answered(page).locator(".prose")
    expect(prose.locator("pre")).to_have_text(code)
    expect(prose.locator(".hljs-keyword").first).to_have_text("def")
    directions = prose.locator(".block").evaluate_all("all => all.map((block) => getComputedStyle(block).direction)")
    assert directions == ["ltr", "ltr", "rtl", "ltr"]
    expect(page.locator(".bubble")).to_have_css("direction", "rtl")


def test_code_is_coloured_and_copied_and_so_is_a_message(open_page: Open, server: ScriptedServer) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    server.replies.append(Reply(says("See:\n\n```py\ndef f():\n    return '<1>'\n```\n")))
    ask(page, "Go")
    answer = answered(page)
    expect(answer.locator(".hljs-keyword")).to_have_text(["def", "return"])
    answer.get_by_role("button", name="Copy code").click()
    assert page.evaluate("navigator.clipboard.readText()") == "def f():\n    return '<1>'"
    answer.get_by_role("button", name="Copy message").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("See:\n\n```py")


# ---- The list of conversations


def test_conversations_are_listed_searched_renamed_deleted_and_brought_back(page: Any, server: ScriptedServer) -> None:
    for text in ("Apples", "Pears"):
        page.click("#new")
        ask(page, text)
        answered(page)
    titles = page.locator("#list .title")
    expect(titles).to_have_text(["Pears", "Apples"])
    titles.nth(1).click()
    expect(page.locator(".bubble")).to_have_text("Apples")
    page.keyboard.press("Control+k")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("heard: pea")
    expect(titles).to_have_text(["Pears"])
    page.keyboard.press("Enter")
    expect(page.locator(".bubble")).to_have_text("Pears")
    page.fill("#search", "")
    page.locator("#list li").first.hover()
    page.get_by_role("button", name="Rename “Pears”").click()
    expect(page.locator("#asked")).to_have_value("Pears")
    page.keyboard.type("Fruit")
    page.keyboard.press("Enter")
    expect(titles.first).to_have_text("Fruit")
    expect(page.locator(":focus")).to_have_attribute("title", "Rename “Fruit”")
    settle(page)
    page.reload()
    expect(titles).to_have_text(["Fruit", "Apples"])
    page.locator("#list li").first.hover()
    page.get_by_role("button", name="Delete “Fruit”").click()
    expect(titles).to_have_text(["Apples"])
    expect(page.locator("#first")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(titles).to_have_text(["Fruit", "Apples"])


def test_every_deletion_can_be_undone(page: Any) -> None:
    titles = page.locator("#list .title")
    for text in ("One", "Two"):
        page.click("#new")
        ask(page, text)
        answered(page)
    for text in ("One", "Two"):
        page.locator("#list li", has_text=text).hover()
        page.get_by_role("button", name=f"Delete “{text}”").click()
    expect(titles).to_have_count(0)
    for count in (1, 2):
        page.get_by_role("button", name="Undo").first.click()
        expect(titles).to_have_count(count)


def test_two_tabs_on_one_conversation_keep_what_both_say(page: Any, server: ScriptedServer) -> None:
    ask(page, "One")
    answered(page)
    other = page.context.new_page()
    other.goto(page.url)
    answered(other)
    for each in (page, other):  # neither hears of the other in time
        each.evaluate("BroadcastChannel.prototype.postMessage = () => {}")
    hold = threading.Event()
    server.replies += [Reply(says("slow", " and sure"), hold=hold), Reply(says("quick"))]
    ask(page, "Here")
    expect(page.locator(".prose").last).to_have_text("slow")
    ask(other, "There")
    expect(other.locator(".prose").last).to_have_text("quick")
    hold.set()
    expect(answered(page, 2)).to_contain_text("slow and sure")
    for each in (page, other):
        each.reload()
        each.get_by_role("button", name=re.compile("(Previous|Next) version")).and_(each.locator(":enabled")).hover()
        seen = {each.locator(".prose").last.inner_text()}
        each.get_by_role("button", name=re.compile("(Previous|Next) version")).and_(each.locator(":enabled")).click()
        settle(each)
        assert seen | {each.locator(".prose").last.inner_text()} == {"slow and sure", "quick"}
    page.locator("#list li").hover()
    page.get_by_role("button", name="Delete “One”").click()
    expect(other.locator("#list .title")).to_have_count(0)
    other.close()


def test_each_conversation_has_a_draft_that_survives_a_reload(page: Any) -> None:
    box = page.locator("#prompt")
    ask(page, "One")
    answered(page)
    page.fill("#prompt", "for one\nand two lines")
    page.click("#new")
    expect(box).to_have_value("")
    page.fill("#prompt", "for the next")
    page.reload()
    expect(box).to_have_value("for the next")
    page.locator("#list .title").click()
    expect(box).to_have_value("for one\nand two lines")
    page.keyboard.press("Control+Shift+O")
    page.locator("#prompt").press("Enter")
    answered(page)
    page.reload()
    expect(box).to_have_value("")


MANY = """(count) => new Promise((done) => {
    const request = indexedDB.open("fledge/", 1);
    request.onsuccess = () => {
        const writing = request.result.transaction("chats", "readwrite");
        const text = "a word and another one. ".repeat(20);
        for (let i = 0; i < count; i++) {
            const [id, at] = [`c${i}`, Date.now() - i * 1e6];
            const nodes = {};
            for (let turn = 0; turn < 4; turn++) {
                const question = {id: `q${turn}`, parent: turn ? `a${turn - 1}` : "root", role: "user", text};
                const answers = [{model: "sft", parts: [{type: "text", text, tokens: []}], finish: "stop", dropped: 0}];
                const answer = {id: `a${turn}`, parent: `q${turn}`, role: "assistant", answers};
                Object.assign(nodes, {[`q${turn}`]: question, [`a${turn}`]: answer});
            }
            const chosen = {root: "q0", q0: "a0", a0: "q1", q1: "a1", a1: "q2", q2: "a2", a2: "q3", q3: "a3"};
            writing.objectStore("chats").put({id, title: `Chat ${i}`, created: at, updated: at, system: "", nodes, chosen});
        }
        writing.oncomplete = done;
    };
})"""


def test_of_a_thousand_conversations_the_list_draws_what_is_in_view(page: Any) -> None:
    page.evaluate(MANY, 1000)
    page.reload()
    page.wait_for_selector("body.ready")
    titles = page.locator("#list .title")
    assert titles.count() < 100
    page.evaluate("document.querySelector('#list').scrollTop = 1e6")
    expect(titles.nth(100)).to_be_attached()
    page.fill("#search", "chat 999")
    expect(titles).to_have_text(["Chat 999"])
    titles.click()
    expect(page.locator("#turns .answer")).to_have_count(4)


def test_a_conversation_deleted_while_it_is_answered_stays_deleted(page: Any, server: ScriptedServer) -> None:
    server.replies.append(Reply(says("begun", " and done"), hold=threading.Event()))
    ask(page, "Away")
    expect(page.locator(".prose")).to_have_text("begun")
    page.locator("#list li").first.hover()
    page.get_by_role("button", name="Delete “Away”").click()
    expect(page.locator("#list .title")).to_have_count(0)
    until(page, lambda: server.cancelled == 1)
    page.reload()
    page.wait_for_selector("body.ready")
    expect(page.locator("#list .title")).to_have_count(0)


def test_exported_conversations_come_back_in_another_browser(
    open_page: Open, server: ScriptedServer, tmp_path: Path
) -> None:
    page = open_page()
    ask(page, "Keep this")
    answered(page)
    page.get_by_role("button", name="Ask again").click()
    answered(page)
    file = tmp_path / "chats.jsonl"
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(file)
    other = open_page()
    for _ in range(2):  # and once only
        other.set_input_files("#file", file)
        expect(other.locator("#toast p").last).to_contain_text("Imported 1 conversation.")
    other.locator("#list .title").click()
    expect(other.locator(".bubble")).to_have_text("Keep this")
    expect(other.locator(".count")).to_have_text("2/2")
    other.get_by_role("button", name="Ask again").click()
    expect(answered(other).locator(".count")).to_have_text("3/3")
    other.set_input_files("#file", file)
    settle(other)
    expect(other.locator(".count")).to_have_text("3/3")  # nothing newer is lost


def test_a_file_that_the_page_exported_once_is_still_read(page: Any, tmp_path: Path) -> None:
    said: list[Any] = [{"parts": [{"type": "text", "text": "Hi!"}], "model": "sft", "finish": "stop"}]
    nodes = {
        "a": {"id": "a", "parent": "root", "role": "user", "text": "Hello"},
        "b": {"id": "b", "parent": "a", "role": "assistant", "answers": said},
    }
    chat = {"id": "old", "title": "Old", "system": "", "nodes": nodes, "chosen": {"root": "a", "a": "b"}, "updated": 1}
    (tmp_path / "old.json").write_text(json.dumps({"format": "fledge-chats", "version": 1, "chats": [chat]}))
    page.set_input_files("#file", tmp_path / "old.json")
    page.locator("#list .title").click()
    expect(page.locator(".bubble")).to_have_text("Hello")
    expect(page.locator(".body")).to_have_text("Hi!")
    expect(page.locator("#context")).to_have_text("Room for 512 tokens")  # how many it has is not known


def test_page_terminal_and_training_read_one_form_of_conversations(
    page: Any, server: ScriptedServer, tmp_path: Path
) -> None:
    call = [
        delta(fledge={"parts": [{"type": kind, "text": text}]}) for kind, text in (("python", "6*2"), ("output", "12"))
    ]
    cut = [Reply(says("This was", finish="length")), Reply([*call, *says("It is 12.")])]
    server.replies += cut
    set_to(page, "System prompt", "Be brief.")
    for count, text in enumerate(("Go", "Sum?"), 1):
        ask(page, text)
        answered(page, count)
    page.locator("#list li").hover()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export “Go”", exact=True).click()
    download.value.save_as(tmp_path / "one.jsonl")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export “Go” as Markdown").click()
    written = Path(download.value.path()).read_text()
    assert [written.index(text) for text in ("# Go", "> Be brief.", "This was", "```python\n6*2\n```", "It is 12.")]
    (learned,) = open_conversations(tmp_path / "one.jsonl")
    answer = [("python", "6*2"), ("output", "12"), ("text", "It is 12.")]
    assert learned[0] == say("system", "Be brief.")
    assert [turn.learn for turn in learned[1:]] == [True, False, True, True]  # no example of how to end
    assert list(learned[-1].parts) == answer
    client = LocalModel(tiny_model(context=256), BYTES, name="tiny")
    terminal = Terminal(client, Sampling(), system=None, console=Console(file=io.StringIO()))
    terminal.load(str(tmp_path / "one.jsonl"))
    assert terminal._conversation() == learned
    terminal.save(str(tmp_path / "two.jsonl"))
    client.close()
    page.get_by_role("button", name="Delete “Go”").click()
    for _ in range(2):
        page.set_input_files("#file", tmp_path / "two.jsonl")
    expect(page.locator("#list .title")).to_have_text(["Go"])
    page.locator("#list .title").click()
    expect(page.locator(".bubble")).to_have_text(["Go", "Sum?"])
    expect(page.locator(".tool summary")).to_contain_text("= 12")


NO_CHATS = [
    "no json",
    '{"format": "other"}',
    '{"chat": {"nodes": {"a": {"parent": "b"}}}}',
    '{"messages": [{"role": "poet", "content": "x"}]}',
]


def test_a_file_that_is_no_export_is_refused_with_the_reason(page: Any, tmp_path: Path) -> None:
    for place, content in enumerate(NO_CHATS):
        (tmp_path / f"{place}.json").write_text(content)
        page.set_input_files("#file", tmp_path / f"{place}.json")
        expect(page.locator("#toast")).to_contain_text(f"{place}.json was not imported:")


def test_an_imported_file_cannot_run_anything_or_lead_in_circles(page: Any, tmp_path: Path) -> None:
    nodes = {
        "a": {"parent": "root", "role": "user", "text": "<img src=x onerror=window.hit=1>"},
        "b": {
            "parent": "a",
            "role": "assistant",
            "answers": [{"model": "x", "parts": [{"type": "text", "text": HOSTILE}]}],
        },
        "__proto__": {"parent": "b", "role": "user", "text": "loop"},
    }
    chat = {"title": "<b>x</b>", "nodes": nodes, "chosen": {"root": "a", "a": "b", "b": "a"}}
    (tmp_path / "bad.json").write_text(json.dumps([{"chat": chat}]))
    page.set_input_files("#file", tmp_path / "bad.json")
    page.locator("#list .title", has_text="<b>x</b>").click()
    expect(page.locator(".bubble")).to_have_count(1)
    assert page.evaluate("window.hit") is None


def test_an_answer_goes_on_while_another_conversation_is_on_show(page: Any, server: ScriptedServer) -> None:
    hold = threading.Event()
    server.replies.append(Reply(says("begun", " and done"), hold=hold))
    ask(page, "Slow")
    expect(page.locator(".prose")).to_have_text("begun")
    page.keyboard.press("Control+Shift+O")
    expect(page.locator("#list .running")).to_have_count(1)
    ask(page, "Fast")
    expect(answered(page)).to_contain_text("heard: Fast")
    hold.set()
    expect(page.locator("#list .running")).to_have_count(0)
    page.locator("#list .title", has_text="Slow").click()
    expect(page.locator(".prose")).to_have_text("begun and done")


# ---- Settings


def test_the_settings_and_the_system_prompt_reach_the_request_and_survive_a_reload(
    page: Any, server: ScriptedServer
) -> None:
    page.click("#settings-open")
    page.get_by_label("System prompt").fill("Be brief.")
    values = {"Temperature": "0.2", "Top k": "7", "Top p": "0.9", "Max tokens": "33", "Seed": "5"}
    for label, value in values.items():
        page.get_by_label(label, exact=True).fill(value)
    page.keyboard.press("Escape")
    ask(page, "Go")
    answered(page)
    body = server.requests[0]
    assert {key: body[key] for key in ("temperature", "top_k", "top_p", "max_tokens", "seed")} == {
        "temperature": 0.2, "top_k": 7, "top_p": 0.9, "max_tokens": 33, "seed": 5,
    }  # fmt: skip
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    page.reload()
    page.click("#settings-open")
    expect(page.get_by_label("Top k")).to_have_value("7")
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")
    page.get_by_label("Top k").fill("5000")
    page.keyboard.press("Tab")
    expect(page.locator("#set-top_k:user-invalid")).to_be_focused()
    page.keyboard.press("Escape")
    ask(page, "Go")
    answered(page, 2)
    assert server.requests[1]["top_k"] == 7
    page.click("#settings-open")
    page.get_by_role("button", name="Restore the defaults").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("")
    expect(page.get_by_label("Top k")).to_have_value("50")


def test_the_servers_default_holds_until_a_setting_is_changed(open_page: Open) -> None:
    told = Sampling(temperature=0.35, max_tokens=64)
    with test_server.serving(sampling=told) as address:
        page = open_page(address)
        temperature = page.get_by_label("Temperature", exact=True)

        def sampling(count: int) -> dict[str, Any]:
            with page.expect_request("**/v1/chat/completions") as asked:
                ask(page, "Go")
            answered(page, count)
            body = asked.value.post_data_json
            return {key: body[key] for key in body.keys() & vars(told).keys()}

        expect(temperature).to_have_value("0.35")
        expect(page.get_by_label("Max tokens")).to_have_attribute("max", "64")
        set_to(page, "Max tokens", "8")
        assert sampling(1) == {"max_tokens": 8}
        set_to(page, "Temperature", "0.6")
        assert sampling(2) == {"max_tokens": 8, "temperature": 0.6}
        set_to(page, "Temperature", "0.35")
        assert sampling(3) == {"max_tokens": 8}


def test_a_server_without_a_table_of_settings_is_sent_none(open_page: Open, server: ScriptedServer) -> None:
    server.stages = [stage("sft", default=True, sampling=[])]
    del server.stages[0]["fledge"]["sampling"]
    page = open_page()
    page.click("#settings-open")
    expect(page.get_by_label("System prompt")).to_be_visible()
    expect(page.locator("#fields input")).to_have_count(0)
    page.keyboard.press("Escape")
    ask(page, "Go")
    answered(page)
    assert server.requests[0].keys() == {"model", "messages", "stream", "stream_options"}


def test_enter_sends_and_shift_enter_breaks_the_line(page: Any, server: ScriptedServer) -> None:
    page.locator("#prompt").press_sequentially("/one")
    low = page.locator("#prompt").bounding_box()["height"]
    page.keyboard.press("Shift+Enter")
    page.locator("#prompt").press_sequentially("two")
    assert page.locator("#prompt").bounding_box()["height"] > low
    page.keyboard.press("Enter")
    answered(page)
    assert server.requests[0]["messages"][0]["content"] == "/one\ntwo"
    expect(page.locator("#prompt")).to_have_value("")


@pytest.mark.parametrize("composing", ["keyCode: 229", "isComposing: true"])
def test_enter_that_ends_a_word_of_a_writing_system_does_not_send(
    page: Any, server: ScriptedServer, composing: str
) -> None:
    page.fill("#prompt", "にほん")
    enter = f"new KeyboardEvent('keydown', {{key: 'Enter', bubbles: true, {composing}}})"
    page.evaluate(f"document.querySelector('#prompt').dispatchEvent({enter})")
    settle(page)
    expect(page.locator("#prompt")).to_have_value("にほん")
    assert not server.requests


def test_the_theme_follows_the_system_until_one_is_chosen(page: Any) -> None:
    paper = {"light": "rgb(253, 252, 250)", "dark": "rgb(27, 28, 27)"}
    root = page.locator(":root")
    for system, colour in paper.items():
        page.emulate_media(color_scheme=system)
        expect(root).to_have_css("background-color", colour)
    page.emulate_media(color_scheme="light")
    for theme, colour in paper.items():
        page.click("#theme")
        expect(page.get_by_role("button", name=f"Theme: {theme}")).to_be_visible()
        expect(root).to_have_css("background-color", colour)
    page.reload()
    expect(root).to_have_css("background-color", paper["dark"])
    page.emulate_media(color_scheme=None)


BLOCKED = """for (const name of ["localStorage", "sessionStorage", "indexedDB"])
  Object.defineProperty(window, name, { get() { throw new DOMException("blocked", "SecurityError"); } });"""
FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"


@pytest.mark.parametrize("script", [BLOCKED, FULL])
def test_where_nothing_can_be_kept_the_page_works_until_it_is_closed(
    browser: Any, server: ScriptedServer, script: str
) -> None:
    tab = Tab(browser)
    tab.page.add_init_script(script)
    server.key = "secret"
    page = tab.open(server.url)
    page.fill("#asked", "secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("body.ready")
    if script == BLOCKED:
        expect(page.locator("#toast")).to_contain_text("This browser keeps nothing")
    page.click("#theme")
    expect(page.locator(":root")).to_have_attribute("data-theme", "light")
    set_to(page, "Temperature", "0.3")
    for count in (1, 2):
        ask(page, "Go")
        expect(answered(page, count)).to_contain_text("heard: Go")
    assert server.requests[-1]["temperature"] == 0.3
    tab.context.close()
    assert not tab.wrong


# ---- Errors


FAILURES = [
    Reply(status=400, error="max_tokens is 9, allowed is 1 to 4."),
    Reply([delta(content="half"), {"error": {"message": "The engine stopped."}}], error="The engine stopped."),
    Reply([delta(content="half")], breaks=True, error="The connection broke off"),
    Reply(status=429, error="The queue is full."),
]


def test_every_failure_says_why_and_offers_a_retry(page: Any, server: ScriptedServer) -> None:
    for count, reply in enumerate(FAILURES, 1):
        server.replies += [reply, Reply(says("Whole."))]
        ask(page, "Go")
        expect(page.get_by_role("alert")).to_contain_text(reply.error)
        page.get_by_role("button", name="Retry", exact=True).click()
        expect(answered(page, count).locator(".prose")).to_have_text("Whole.")
        expect(page.locator(".problem")).to_have_count(0)
        # What had come stays, as a version of its own.
        kept = answered(page, count).get_by_role("button", name="Previous version")
        expect(kept).to_have_count(int(bool(reply.events)))
        if reply.events:
            kept.click()
            expect(answered(page, count)).to_contain_text("half")
            answered(page, count).get_by_role("button", name="Next version").click()


def test_a_server_that_is_gone_is_noticed_and_the_failed_question_is_not_sent_twice(
    page: Any, server: ScriptedServer
) -> None:
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "Lost")
    expect(page.locator("#turns .problem")).to_contain_text("The server does not answer.")
    page.unroute("**/v1/chat/completions")
    ask(page, "Found")
    answered(page, 2)
    assert [message["content"] for message in server.requests[0]["messages"]] == ["Found"]


def test_a_server_with_a_key_is_asked_with_it(open_page: Open, server: ScriptedServer) -> None:
    server.key = "secret"
    page = open_page(ready=False)
    expect(page.locator("#asked")).to_be_focused()
    page.fill("#asked", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#ask")).to_contain_text("The server did not accept that key.")
    page.fill("#asked", "secret")
    page.keyboard.press("Enter")
    expect(page.locator("#ask")).to_have_count(0)
    expect(page.locator("#greeting")).to_contain_text("Pip")
    ask(page, "Go")
    expect(answered(page)).to_contain_text("heard: Go")
    assert "secret" not in page.evaluate("JSON.stringify(localStorage)")


def test_a_list_of_stages_that_fails_can_be_asked_for_again(open_page: Open, server: ScriptedServer) -> None:
    server.key = "secret"
    page = open_page(ready=False)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#first .problem")).to_contain_text("This server needs an API key.")
    server.key = None
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#greeting")).to_contain_text("Pip")


# ---- Phones, screen readers, other runs


def test_on_a_phone_nothing_is_wider_than_the_screen_and_the_list_slides_in(
    open_page: Open, server: ScriptedServer
) -> None:
    page = open_page(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    code = "```python\n" + "x = " + "1 + " * 60 + "1\n```\n\n" + "w" * 200
    server.replies.append(Reply(says(code, usage=(3, 4))))
    page.click("#compare")
    ask(page, "Wide?")
    answered(page)
    page.click("#inspect")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.querySelector('#log').scrollWidth <= document.querySelector('#log').clientWidth")
    rects = "[...document.querySelectorAll('main button')].map((item) => item.getBoundingClientRect().toJSON())"
    assert all(box["left"] >= 0 and box["right"] <= 360 for box in page.evaluate(rects))
    expect(page.locator("#sidebar")).not_to_be_in_viewport()
    page.click("#menu")
    expect(page.locator("#sidebar")).to_be_in_viewport()
    page.click("#new")
    expect(page.locator("#sidebar")).not_to_be_in_viewport()


def test_a_tap_on_a_token_shows_its_alternatives(open_page: Open, server: ScriptedServer) -> None:
    page = open_page(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    page.tap("#inspect")
    entries = [token("One", -0.1, One=-0.1, Two=-2.5), token(" pear", -0.5, **{" pear": -0.5})]
    server.replies.append(Reply([delta(content="One pear", logprobs=entries), *says()]))
    ask(page, "Go")
    answered(page).locator(".token").first.tap()
    page.wait_for_timeout(300)
    expect(page.locator("#alternatives li")).to_have_count(2)
    expect(page.locator("#alternatives")).to_be_visible()


def test_every_control_has_a_name_and_the_focus_goes_from_list_to_bar_to_message(page: Any) -> None:
    ask(page, "Go")
    answered(page)
    nameless = page.evaluate("""() => [...document.querySelectorAll('button, input, select, textarea, summary')]
        .filter((item) => item.checkVisibility() && item.closest('selectedcontent, select') !== item.parentElement)
        .filter((item) => !(item.ariaLabel || item.textContent.trim() || item.labels?.length)).map((item) => item.outerHTML)""")
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((item) => item.id)")
    assert len(ids) == len(set(ids))
    expect(page.locator("#announce")).to_contain_text("Pip answered: sft heard: Go")
    page.locator(".skip").focus()
    seen = ["skip"]
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    order = [
        "skip",
        "new",
        "search",
        "title",
        "import",
        "menu",
        "stage",
        "inspect",
        "settings-open",
        "log",
        "prompt",
        "send",
    ]
    places = [seen.index(name) for name in order]
    assert places == sorted(places)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong(open_page: Open, server: ScriptedServer, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="uv sync --group compat").Axe()
    page = open_page(color_scheme=scheme, bypass_csp=True)
    text = (
        "# Head\n\n| a | b |\n|--|--|\n| 1 | 2 |\n\n```py\nx = 1\n```\n\n[out](https://example.org) $x$\n\n- [x] done"
    )
    call = [
        delta(fledge={"parts": [{"type": kind, "text": text}]}) for kind, text in (("python", "6*2"), ("output", "12"))
    ]
    server.replies += [Reply([delta(content=text), *call, *says("Done.")]), Reply(status=429, error="Full.")]

    def look(state: str) -> None:
        found = [f"{each['id']}: {each['nodes'][0]['html']}" for each in axe.run(page).response["violations"]]
        assert not found, state

    look("first screen")
    for count, text in enumerate(("Go", "On"), 1):
        ask(page, text)
        answered(page, count)
    look("conversation")
    for button in ("#settings-open", "#help-open", ".answer [aria-label='Edit answer']"):
        page.locator(button).first.click()
        settle(page)
        look(button)
        page.keyboard.press("Escape")
    page.set_viewport_size({"width": 390, "height": 700})
    look("phone")
    page.keyboard.press("Escape")  # closes the list, which covers the page
    page.click("#compare")
    page.click("#inspect")
    server.replies += [Reply([delta(content="Yes", logprobs=[token("Yes", -0.5, Yes=-0.5, No=-1.0)]), *says()])] * 2
    ask(page, "Sure?")
    answered(page, 3).locator(".token").first.focus()
    look("alternatives")


def test_a_run_with_one_stage_offers_no_comparison(open_page: Open, server: ScriptedServer) -> None:
    server.stages = [stage("sft", default=True)]
    page = open_page()
    expect(page.locator("#stage")).to_have_value("sft")
    expect(page.locator("#compare")).to_be_hidden()


# ---- The real server


@pytest.mark.parametrize("below", ["", "/pip"])
def test_the_page_and_the_real_server_understand_each_other(browser: Any, below: str) -> None:
    with test_server.serving(root_path=below) as address:
        page = browser.new_page()
        page.goto(f"{address}{below}/")
        expect(page.locator("#greeting")).to_have_text("Hello, I’m Pip.")
        page.click("#compare")
        page.click("#inspect")
        set_to(page, "Max tokens", "12")
        ask(page, "What is 6 times 7?")
        lanes = answered(page).locator(".lane")
        for index, stage_name in enumerate(("sft", "base")):
            expect(lanes.nth(index)).to_contain_text(stage_name)
            expect(lanes.nth(index)).to_contain_text("12 tokens")
        # What a random model says may begin with a character that has no width.
        lanes.first.locator(".token:visible").first.hover()
        expect(page.locator("#alternatives li").nth(4)).to_be_visible()
        expect(page.locator("#context")).to_contain_text("of 256 tokens left")
        page.close()
