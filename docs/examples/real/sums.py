"""Writes sums.jsonl, which a small model can be reinforced on: problems of the village, and the shortest of GSM8K's training split.

uv run python docs/examples/real/sums.py sums.jsonl DATA
"""

import json
import os
import sys
from pathlib import Path

from fledge.tasks import find_task

path, local = sys.argv[1:]
os.environ["FLEDGE_LOCAL"] = local
village = find_task("world/problems_hard").load("train")[:2000]
school = sorted(find_task("gsm8k").load("train"), key=lambda example: len(example.messages[0].text))[:1000]
lines = [json.dumps({"question": each.messages[0].text, "answer": each.answer}) for each in (*village, *school)]
Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
