"""What README and guides say is so: commands parse, fledge knows their settings, what they name is there, and their task works."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fledge.cli import run
from fledge.config import Rl
from fledge.stages.rl import prepare

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
GUIDES = ("tour.md", "extending.md", "research.md", "recipes.md")
MADE = ("tasks/backwards.py", "tests/test_backwards.py")
"""What the reader of a guide makes."""
OUTSIDE = (
    "uv",
    "git",
    "cd",
    "curl",
    "pip",
    "fledge",
    "python",
    "torchrun",
    "srun",
    "docker",
    "pytest",
    "cat",
    "export",
)


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
    """Every shell line of the pages, continued lines joined, comments left out."""
    found = []
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.removeprefix("$ ").strip()
                if line and not line.startswith("#") and (words := shlex.split(line, comments=True)):
                    first = next((word for word in words if "=" not in word), words[0])
                    if first in OUTSIDE:
                        found.append(line)
    return found


def of_fledge() -> list[list[str]]:
    """The words after `fledge` of the commands."""
    found = []
    for line in commands():
        words = shlex.split(line, comments=True)
        if "fledge" in words and "git" not in words[:1]:
            found.append([word for word in words[words.index("fledge") + 1 :] if word not in ("&", "&&")])
    return [list(words) for words in dict.fromkeys(map(tuple, found))]


def reward() -> str:
    """The reward of the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return next(block for block in map("\n".join, indented(readme)) if "def grade" in block)


def test_the_readme_s_reward_has_questions_enough_for_its_command(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(reward())
    words = next(words for words in of_fledge() if words[0] == "rl")
    prompts = int(words[words.index("--prompts") + 1])
    prepare(Rl(run="runs/mine", task=f"{tmp_path}/reward.py:grade", prompts=prompts))
    with pytest.raises(ValueError, match=f"give --prompts {prompts}"):
        prepare(Rl(run="runs/mine", task=f"{tmp_path}/reward.py:grade"))


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
    Path("reward.py").write_text(reward())
    Path("texts").mkdir()
    Path("texts/own.txt").write_text("A text of the reader's own.")
    (tmp_path / "me.txt").write_text("name = Rex\n")
    assert run([*words, "--dry-run"] if words and not words[0].startswith("-") else words) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_definitions_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path, name in re.findall(r"`((?:[a-z]\w*/)+\w+\.\w+|\w+\.py):?(\w*)`", text) if page.name in GUIDES else ():
        found = [place / path for place in (ROOT, ROOT / "src/fledge") if (place / path).is_file()]
        assert found or path in MADE, f"{page.name}: {path}"
        assert not name or re.search(rf"^ *(def |class )?{name}\b", found[0].read_text(encoding="utf-8"), re.M), path
    for path in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / path).exists(), f"{page.name}: {path}"


def test_the_task_of_the_guide_works_as_it_is_written() -> None:
    module, tests = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/extending.md").read_text(encoding="utf-8"), re.M | re.S
    )[:2]
    known: dict[str, Any] = {"__name__": "backwards"}
    exec(module + tests, known)
    laws = [known[name] for name in known if name.startswith("test_")]
    assert len(laws) == 2
    for law in laws:
        law()
