"""The package installs from a wheel and from an editable checkout, with Rust and without, in fresh environments."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv")
PROGRAM = """
import fernhollow
from fledge.text import native
from fledge.text.tokenizer import Tokenizer
tokenizer = Tokenizer.train(["the cat and the dog and the hen"] * 3, vocab=290)
print(native.available(), tokenizer.encode("the cat"), tokenizer.hash, fernhollow.document(0, 0))
"""

pytestmark = pytest.mark.skipif(UV is None, reason="needs uv, which makes the environments")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources without anything built."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("src", "bpe"):
        ignored = shutil.ignore_patterns("*.so", "*.dylib", "*.dll", "target", "__pycache__", "Cargo.lock")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def run(*command: str | Path, rust: bool = True) -> str:
    """Runs a command, where wanted with Rust hidden, puccinialin out of reach, and uv still found."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RUSTC", "FLEDGE_BPE", "PYTHONPATH")
    }
    if not rust:
        visible = [folder for folder in environment["PATH"].split(os.pathsep) if not shutil.which("rustc", path=folder)]
        hidden = {
            "PATH": os.pathsep.join(visible),
            "CARGO_HOME": "/nonexistent",
            "PIP_NO_INDEX": "1",
            "UV_OFFLINE": "1",
        }
        environment |= hidden
    done = subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    if "Failed to fetch" in done.stderr or "error sending request" in done.stderr:
        pytest.skip(f"the package index is out of reach: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that every installation below starts from."""
    folder = tmp_path_factory.mktemp("environment")
    assert UV
    run(UV, "venv", "-q", "--python", sys.executable, folder / "venv")
    run(UV, "pip", "install", "-q", "--python", folder / "venv", "numpy", "rich")
    return folder / "venv"


def install(environment: Path, *what: str | Path, rust: bool) -> str:
    """Puts fledge alone into the environment, in the place of what is there, and returns what it then says."""
    assert UV
    run(UV, "pip", "install", "-q", "--python", environment, "--no-deps", "--reinstall", *what, rust=rust)
    return run(environment / ("Scripts" if sys.platform == "win32" else "bin") / "python", "-c", PROGRAM)


def build_wheel(checkout: Path, folder: Path, *, rust: bool) -> Path:
    """Built in an isolated environment, as an installer does."""
    assert UV
    run(UV, "build", "-q", "--wheel", "--out-dir", folder, checkout, rust=rust)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built first of all, so that uv has hatchling at hand when it is offline later."""
    return build_wheel(checkout, tmp_path_factory.mktemp("wheel"), rust=True)


def test_a_wheel_brings_the_library_for_every_python_version(wheel: Path, environment: Path) -> None:
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    assert [name for name in zipfile.ZipFile(wheel).namelist() if "_bpe." in name]
    assert install(environment, wheel, rust=True).startswith("True")


@pytest.mark.usefixtures("wheel")
def test_without_rust_wheel_and_checkout_install_and_say_the_same_in_plain_python(
    checkout: Path, environment: Path, tmp_path: Path
) -> None:
    built = build_wheel(checkout, tmp_path, rust=False)
    assert built.name.endswith("-py3-none-any.whl")
    slow = install(environment, built, rust=False)
    assert slow == install(environment, "--editable", checkout, rust=False)
    fast = install(environment, "--editable", checkout, rust=True)
    assert (slow.split()[0], fast.split()[0]) == ("False", "True")
    assert slow.split()[1:] == fast.split()[1:]
