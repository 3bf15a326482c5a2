"""Compiles the Rust crate in bpe/ while fledge is being installed, and never fails the installation.

    python hatch_build.py        # puts the library into src/fledge/text/, as an editable installation does

rustc is used as found; cargo is not needed since the crate has no dependencies. Without rustc, the package puccinialin is
asked for a toolchain, as maturin does. It is fetched here and not declared as a build requirement, because a requirement
that cannot be fetched ends the installation, while fledge works without the library (src/fledge/text/bpe.py stands in).
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError:  # run by hand
    BuildHookInterface: Any = object

ROOT = Path(__file__).parent
LIBRARY = {"win32": "_bpe.dll", "darwin": "_bpe.dylib"}.get(sys.platform, "_bpe.so")
INSTALLED = ROOT / "src" / "fledge" / "text" / LIBRARY
RUSTC = ["--edition=2021", "--crate-type=cdylib", "--crate-name=bpe", "-Copt-level=3", "-Cstrip=symbols"]
SECONDS = 300


class BpeBuildHook(BuildHookInterface):  # pyright: ignore[reportGeneralTypeIssues]
    """Adds the library to a wheel; an editable installation finds it in the checkout."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        if version == "editable":
            build(INSTALLED)
            return
        self.folder = tempfile.TemporaryDirectory()  # until the wheel is written
        library = Path(self.folder.name) / LIBRARY
        if build(library):
            build_data["force_include"][str(library)] = f"fledge/text/{LIBRARY}"
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"  # ctypes: one library for every Python version


def build(library: Path) -> bool:
    """Compiles the crate to `library`. False, with one line on stderr, where that is not possible."""
    library.unlink(missing_ok=True)
    new = library.with_suffix(".new")
    with tempfile.TemporaryDirectory() as folder:
        try:
            rustc, environment = find_rustc(folder)
            run([rustc, *RUSTC, "-o", str(new), str(ROOT / "bpe" / "src" / "lib.rs")], environment)
            new.replace(library)  # a running Python keeps the file it has mapped
        except Exception as problem:  # whatever it is, the installation goes on without
            slower = "tokenizer library not compiled, the slower pure-Python one will be used"
            print(f"fledge: {slower}: {problem}", file=sys.stderr)
            return False
    return True


def find_rustc(folder: str) -> tuple[str, dict[str, str]]:
    """The compiler, fetched into `folder` and the user's cache where there is none, and the environment to run it in."""
    environment = dict(os.environ)
    home = Path(environment.get("CARGO_HOME", Path.home() / ".cargo")) / "bin"
    rustc = environment.get("RUSTC") or shutil.which("rustc", path=f"{environment.get('PATH', '')}{os.pathsep}{home}")
    if rustc:
        return rustc, environment
    install = ["pip", "install", "--quiet", "--target", folder, "puccinialin"]
    uv = environment.get("UV") or shutil.which("uv")
    run([uv, *install, "--python", sys.executable] if uv else [sys.executable, "-I", "-m", *install], environment)
    sys.path.insert(0, folder)
    from puccinialin import setup_rust  # pyright: ignore[reportMissingImports]

    environment |= setup_rust()
    rustc = shutil.which("rustc", path=environment["PATH"])
    if not rustc:
        raise FileNotFoundError("puccinialin brought no rustc")
    return rustc, environment


def run(command: list[str], environment: dict[str, str]) -> None:
    """Runs a command; the last line it says is the error."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip() and "hint:" not in line]
        raise RuntimeError(f"{Path(command[0]).name}: {lines[-1].strip() if lines else 'no output'}")


if __name__ == "__main__":
    raise SystemExit(0 if build(INSTALLED) else 1)
