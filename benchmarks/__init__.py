"""Comparisons with other programs, outside the package: `uv run --group bench python -m benchmarks NAME --help`."""
