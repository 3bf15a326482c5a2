"""Laws about the web page's files, without a browser."""

from __future__ import annotations

import hashlib
import json
import re

from web_files import STATIC

VENDOR = STATIC / "vendor"
LIBRARIES = json.loads((VENDOR / "manifest.json").read_text())["libraries"]
OURS = sorted(path for path in STATIC.rglob("*") if path.is_file() and VENDOR not in path.parents)


def test_every_vendored_file_is_the_one_the_manifest_names() -> None:
    named = {name: digest for library in LIBRARIES for name, digest in library["sha256"].items()}
    present = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert present == named


def test_every_vendored_library_brings_its_licence_and_says_its_version() -> None:
    for library in LIBRARIES:
        licence = (VENDOR / library["licence_file"]).read_text()
        assert any(word in licence for word in ("MIT", "Apache License", "Redistribution and use"))
        scripts = [VENDOR / name for name in library["sha256"] if name.endswith((".js", ".mjs"))]
        assert any(library["version"] in script.read_text() for script in scripts), library["name"]


def test_the_page_names_nothing_outside_its_own_folder() -> None:
    for path in OURS:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://[a-z]|[\"'(]//[a-z]", text), path.name
        names = re.findall(r"(?:src|href)=\"([^#\"]+)\"" if path.suffix == ".html" else r"from \"([^\"]+)\"", text)
        for name in names:
            assert (path.parent / name).is_file(), f"{path.name} names {name}"


def test_the_page_has_no_inline_script_or_style_and_never_parses_html_itself() -> None:
    for path in OURS:
        text = path.read_text()
        banned = r"(?<![.\w])style=|\son[a-z]+=\"|<style|<script>|\.(inner|outer)HTML|insertAdjacentHTML|document\.write|eval\("
        found = re.search(banned, text)
        assert found is None, f"{path.name}: {found}"


def test_every_icon_a_module_asks_for_is_in_the_sprite() -> None:
    sprite = set(re.findall(r'<symbol id="icon-([a-z]+)"', (STATIC / "icons.svg").read_text()))
    asked = set()
    for path in (STATIC / "js").iterdir():
        asked |= set(re.findall(r'(?:icon|iconButton)\("([a-z]+)"|#icon-([a-z]+)', path.read_text()))
    assert len(asked) > 10
    assert {name for names in asked for name in names if name} <= sprite
