"""What the sandbox withstands: the lists in tests/hostile, run by an ordinary user; what asks for root's rights, by root too."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOSTILE = ROOT / "tests" / "hostile"
NOBODY = 65534
MODULES = [
    "__init__",
    "settings",
    "sandbox/__init__",
    *(f"sandbox/{name}" for name in ("sandbox", "jail", "wire", "check")),
]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the attacks look for traces in /proc")


def test_the_lists_are_long_enough_and_every_case_says_what_must_hold() -> None:
    lists = {name: tomllib.loads((HOSTILE / f"{name}.toml").read_text("utf-8")) for name in ("programs", "cheats")}
    programs, cheats = lists["programs"]["program"], lists["cheats"]["cheat"]
    assert len(programs) >= 80
    assert len(cheats) >= 30
    assert all(case["holds"] and case["status"] for case in programs + cheats)
    for cases in (programs, cheats):
        assert len({case["name"] for case in cases}) == len(cases)


@pytest.fixture(scope="module")
def copy_for_nobody() -> Iterator[Path]:
    """The sandbox and the lists where any user can read them: the checkout may lie in a private home."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(HOSTILE, root / "tests" / "hostile", ignore=shutil.ignore_patterns("__pycache__"))
        for module in [*MODULES, "sandbox/zygote"]:
            target = root / "src" / "fledge" / f"{module}.py"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / "src" / "fledge" / f"{module}.py", target)
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755)
        yield root


@pytest.mark.parametrize("what", ["programs", "cheats"])
def test_no_attack_succeeds_and_benign_code_passes(what: str, copy_for_nobody: Path) -> None:
    """As an ordinary user, who shares programs' user id: the harder case. From root as nobody, where that can run Python."""
    python = _python_for_nobody() if os.geteuid() == 0 else None
    if python is None:
        assert _attack(what, python=sys.executable, root=ROOT) == []
    else:
        assert _attack(what, python=python, root=copy_for_nobody, user=NOBODY) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has root's rights to give up")
def test_from_root_no_program_has_the_rights_of_root() -> None:
    assert _attack("privileges", python=sys.executable, root=ROOT) == []


def _attack(what: str, *, python: str, root: Path, user: int | None = None) -> list[str]:
    """Run the attacks in a process of their own and return what did not hold."""
    result = subprocess.run(
        [python, "-W", "error", str(root / "tests" / "hostile" / "attack.py"), what],
        env={"PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=root,
        capture_output=True,
        text=True,
        **({} if user is None else {"user": user, "group": user, "extra_groups": []}),
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def _python_for_nobody() -> str | None:
    """An interpreter that an ordinary user can start, which one in root's home is not."""
    for python in (sys.executable, *filter(None, map(shutil.which, ("/usr/bin/python3", "/usr/local/bin/python3")))):
        probe = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            if subprocess.run(probe, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/").returncode == 0:
                return python
        except OSError:
            continue
    return None
