"""The command line of the comparisons: `python -m benchmarks NAME --setting value`.

A benchmark is a module of this folder with the dataclass `Settings` (its docstring is the help of the command, the docstring
below a field that of the setting) and `main(settings)`. To add one, write it and name it in BENCHMARKS.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import tyro

BENCHMARKS = {
    "compression": "bytes per token beside the vocabularies of GPT-2, GPT-4 and GPT-4o",
    "contamination": "how much of the evaluation sets stands in the training text",
    "data": "from files to training batches",
    "infer": "the engine beside full forward passes and transformers",
    "sandbox": "calculator and judge: how fast they are",
    "tokenizer": "training and encoding beside rustbpe, tokenizers, tiktoken and gigatoken",
    "train": "a pretraining step beside nanochat's own model and optimizer",
}


def main(words: Sequence[str]) -> int:
    """Run one benchmark; exit code 2 for a mistake of the user."""
    if not words or words[0] not in BENCHMARKS:
        print("usage: python -m benchmarks NAME [--setting value ...]\n")
        print("\n".join(f"  {name:<15}{text}" for name, text in BENCHMARKS.items()))
        return 0 if words and words[0] in ("-h", "--help") else 2
    name, *rest = words
    module = importlib.import_module(f"benchmarks.{name}")
    description = module.Settings.__doc__
    settings = tyro.cli(module.Settings, args=rest, prog=f"python -m benchmarks {name}", description=description)
    try:
        module.main(settings)
    except (ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
