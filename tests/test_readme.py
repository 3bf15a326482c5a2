"""The README's commands are commands: the shell parses them, and fledge knows every setting they name."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from fledge.cli import run

ROOT = Path(__file__).parents[1]
OUTSIDE = ("uv", "git", "cd", "curl", "pip", "fledge", "python", "torchrun", "docker", "pytest", "cat", "export")


def blocks(text: str) -> list[str]:
    """Code blocks of a Markdown text: fenced as shell, or indented by four blanks."""
    fenced = re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", text, re.M | re.S)
    plain = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return fenced + ["\n".join(lines) for lines in indented(plain)]


def indented(text: str) -> list[list[str]]:
    found: list[list[str]] = []
    inside, blank = False, True
    for line in text.splitlines():
        if line.startswith("    ") and line.strip() and (inside or blank):
            if not inside:
                found.append([])
            found[-1].append(line[4:])
            inside = True
        elif line.strip():
            inside = False
        blank = not line.strip()
    return found


def commands() -> list[str]:
    """Every shell line of README.md and CONTRIBUTING.md, continued lines joined, comments left out."""
    found = []
    for name in ("README.md", "CONTRIBUTING.md"):
        for block in blocks((ROOT / name).read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.removeprefix("$ ").strip()
                if line and not line.startswith("#") and (words := shlex.split(line, comments=True)):
                    first = next((word for word in words if "=" not in word), words[0])
                    if first in OUTSIDE:
                        found.append(line)
    return found


def of_fledge() -> list[list[str]]:
    """The words after `fledge` of the README's commands."""
    found = []
    for line in commands():
        words = shlex.split(line, comments=True)
        if "fledge" in words and "git" not in words[:1]:
            found.append([word for word in words[words.index("fledge") + 1 :] if word not in ("&", "&&")])
    return found


def test_the_readme_shows_its_first_command_within_15_lines() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:15]
    assert any("uv run fledge run" in line for line in lines)


def test_there_are_commands_to_check() -> None:
    assert ["run"] in of_fledge()
    assert any(line.startswith("uv run pytest") for line in commands())


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_the_shell_can_read_it(line: str) -> None:
    assert subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("words", of_fledge(), ids=" ".join)
def test_fledge_knows_the_command_and_its_settings(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*words, "--dry-run"] if words and not words[0].startswith("-") else words) == 0
