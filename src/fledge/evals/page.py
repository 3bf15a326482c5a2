"""A text as Markdown and as one HTML file, with its plots.

    publish(Path("runs/demo/report"), title="Report card: demo", text="# Report card ...", drawn={"loss": svg})

writes report.md, report.html, which needs nothing else, and plots/loss.svg, each whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from fledge import console
from fledge.storage import write_atomic


def publish(path: Path, *, title: str, text: str, drawn: Mapping[str, str], badges: str = "") -> None:
    """Write path.md, path.html and the plots beside them; the text has a plot as `![name](plots/name.svg)`."""
    for name, svg in drawn.items():
        write_atomic(path.parent / "plots" / f"{name}.svg", svg)
    write_atomic(path.with_name(f"{path.name}.md"), text)
    write_atomic(path.with_name(f"{path.name}.html"), page(title, text, drawn, badges=badges))


def page(title: str, text: str, drawn: Mapping[str, str], *, badges: str = "") -> str:
    """The Markdown as HTML: plots stand inside, badges before the first section, and HTML in the text is shown and not obeyed."""
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for name, svg in drawn.items():
        html = html.replace(f'<img src="plots/{name}.svg" alt="{name}" />', svg)
    html = html.replace("<h2>", f"{badges}<h2>", 1)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><main>{html}</main></html>"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> list[str]:
    """Lines of a Markdown table; numbers stand to the right, but for the first column."""
    line = "|--" + ("|--:" if numbers else "|--") * (len(columns) - 1) + "|"
    return ["| " + " | ".join(columns) + " |", line, *("| " + " | ".join(row) + " |" for row in rows)]


def paragraphs(*parts: str | Iterable[str]) -> list[str]:
    """Lines of texts, tables and lists with a blank one behind each."""
    return [line for part in parts for line in (*([part] if isinstance(part, str) else part), "")]


def images(drawn: Iterable[str]) -> list[str]:
    """Where plots stand, by their names."""
    return [f"![{name}](plots/{name}.svg)" for name in drawn]


def literal(text: str) -> str:
    """Markdown that shows a text as it is: what a model writes is neither a heading nor a link nor HTML."""
    text = re.sub(r"([\\`*_\[\]<|~&])", r"\\\1", console.visible(text).expandtabs(4))
    # What begins a line could begin a list, a quotation or a heading, and blanks a block of code.
    text = re.sub(r"^( *(?:\d+(?=[.)])|(?=[-+=#>])))", r"\1\\", text, flags=re.MULTILINE)
    return re.sub(r"^ +", lambda blanks: "\u00a0" * len(blanks[0]), text, flags=re.MULTILINE)


def flat(text: str) -> str:
    """Markdown of a text, on one line."""
    return literal(text.strip().replace("\n", " / "))


STYLE = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
main{max-width:70rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
h1{font-size:1.7rem}ul{padding:0;list-style:none}
h1+ul li{display:grid;grid-template-columns:min(11rem,35%) minmax(0,1fr);margin:.2rem 0}h1+ul strong{font-weight:400;opacity:.65}
.badges{display:flex;flex-wrap:wrap;gap:.6rem}
.badges li{display:grid;width:8rem;padding:.6rem;border-radius:.7rem;text-align:center;
background:color-mix(in srgb,var(--c) 14%,transparent)}
.badges b{font-size:1.8rem;color:var(--c)}.badges i{opacity:.7}
.S{--c:#b8860b}.A{--c:#2a9d62}.B{--c:#2f6fde}.C{--c:#8a5cd1}.D{--c:#d9622b}.F{--c:#c23b3b}
table{border-collapse:collapse;display:block;overflow-x:auto;overflow-wrap:normal;margin:1rem 0}
th,td{padding:.25rem .7rem;text-align:left;vertical-align:top;border-bottom:1px solid #8883}
[style*=right]{white-space:nowrap}
p:has(svg){display:flex;flex-wrap:wrap;gap:1rem}svg{flex:1 1 30rem;max-width:min(100%,40rem);height:auto}
pre{overflow-x:auto}blockquote{margin:.6rem 0;padding:.2rem 1rem;border-left:3px solid #8886}blockquote p{margin:0}
"""
