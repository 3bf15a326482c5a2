"""HumanEval: complete a Python function, judged by unit tests in the sandbox (Chen et al. 2021, arXiv:2107.03374).

It has 164 problems and all of them are the test split: there is nothing to train on.
"""

from __future__ import annotations

import ast
import re
from textwrap import dedent, indent

from fledge.sandbox.sandbox import passes
from fledge.tasks.base import Example, Task
from fledge.tasks.records import Record, from_records
from fledge.text.chat import say

FENCE = re.compile(r"(`{3,}|~{3,})[ \t]*([^\s`]*)[^`\n]*$")
PYTHON = ("python", "python3", "py")
BEGINS = re.compile(r"(?:async|def|import|from|class)\b.*[\w:)]|@|\w+ *= *lambda\b")
"""How the first line of a program in the midst of words begins."""
CODE = re.compile(
    r"\s|[#@)\]}]|(?:async|def|class|import|from|if|elif|else|for|while|try|except|finally|with|assert|return|del|pass)\b"
    r"|[A-Za-z_][\w.]*(?:\(|\[|\s*[-+*/|&^%]?=|\s*:[^:\n]*=)"
)
"""How a line of a program begins; "This function adds them." does not."""
DEFINITIONS = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
)


def completion(entry_point: str, answer: str) -> str:
    """What to put behind a problem's prompt so that the program is the one the answer means.

    Chat models answer with fenced blocks, with words around the code, with the whole function, with a method of a class, or with
    the body alone. A whole function goes behind the prompt and replaces the unfinished one there, so that the prompt's imports
    and helpers stay in force; of several blocks the first that defines the function counts, and the definitions in others stay.
    Else the first that can be a body counts, Python's before others: one that lost its indentation gets it back.
    """
    # Copied from a web page, indentation is made of no-break spaces.
    answer = re.sub(r"(?m)^[^\S\n]+", lambda blanks: re.sub(r"[^\t]", " ", blanks[0]).replace("\t", "    "), answer)
    blocks = fenced(answer.replace("\r", "")) or [("", answer.replace("\r", ""))]
    blocks.sort(key=lambda block: 0 if block[0] in PYTHON else 1 + bool(block[0]))
    codes = [_readable(dedent(code)) for _, code in blocks]
    for code in codes:
        if definition := _definition(entry_point, code):
            others = [other for other in codes if other != code and _only_defines(other, entry_point)]
            # `pass` gives the function of the prompt a body whether or not it has a docstring.
            return "\n\n".join(["    pass", *others, definition]) + "\n"
    bodies = ["\n".join(_indented([line for line in code.split("\n") if line.strip()])) for code in codes]
    return next((body for body in bodies if _parsed(f"def f():\n{body}")), bodies[0]) + "\n"


def fenced(answer: str) -> list[tuple[str, str]]:
    """Language and code of each fenced block; one that never ends reaches to the end.

    "```py\nx = 1\n```" -> [("py", "x = 1")]
    """
    blocks: list[tuple[str, list[str]]] = []
    mark = ""
    for line in answer.split("\n"):
        fence = FENCE.search(line)
        # A fence that names a language never closes one, so a block that was forgotten ends there.
        if mark and line.lstrip().startswith(mark) and not (fence and fence[2].lower() in PYTHON):
            mark = ""
        elif fence and (not mark or fence[2]):
            mark = fence[1]
            blocks.append((fence[2].lower(), []))
        elif mark:
            blocks[-1][1].append(line)
    return [(language, "\n".join(lines)) for language, lines in blocks]


def _parsed(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _readable(code: str) -> str:
    """With blanks for the no-break spaces between words, where those keep it from being Python; in strings they may stay."""
    plain = code.replace("\u00a0", " ").replace("\u200b", "")
    return plain if plain != code and not _parsed(code) else code


def _only_defines(code: str, entry_point: str) -> bool:
    """Whether a block holds imports and definitions that another may need, and not the function itself."""
    tree = _parsed(code)
    nodes = tree.body if tree and entry_point not in code else []
    return bool(nodes) and all(isinstance(node, DEFINITIONS) for node in nodes)


def _definition(entry_point: str, code: str) -> str | None:
    """The program that defines the function, without the words around it; a method is called on an instance of its class."""
    name = re.escape(entry_point)
    if not re.search(rf"(?m)^(?:[ \t]*(?:async[ \t]+)?def[ \t]+{name}\b|{name} *= *lambda\b)", code):
        return None
    lines = code.split("\n")
    for first in [0, *(place for place, line in enumerate(lines) if BEGINS.match(line))]:
        rest = lines[first:]
        end = next((place for place, line in enumerate(rest) if line and not CODE.match(line)), len(rest))
        for program in ("\n".join(rest), "\n".join(rest[:end])):
            for node in tree.body if (tree := _parsed(program)) else ():
                if entry_point in _names(node):
                    return program
                if isinstance(node, ast.ClassDef) and any(entry_point in _names(inner) for inner in node.body):
                    return f"{program}\n\n{entry_point} = {node.name}().{entry_point}"
    # Nothing parses: what is there is judged, and its error shown.
    starts = [place for place, line in enumerate(lines) if BEGINS.match(line)]
    return "\n".join(lines[starts[0] :]) if starts else None


def _names(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.Assign(targets=targets, value=ast.Lambda()):
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def _indented(lines: list[str]) -> list[str]:
    """A function's body, four blanks deep."""
    if not lines or lines[0][0].isspace():
        inside = next((place for place, line in enumerate(lines) if not line[0].isspace()), len(lines))
        return indent(dedent("\n".join(lines[:inside])), "    ").split("\n")
    deep = [len(line) - len(line.lstrip()) for line in lines[1:]]
    if deep and min(deep) >= 4 and (deep[0] > 4 or not lines[0].rstrip().endswith(":")):  # only the first was stripped
        return ["    " + lines[0], *lines[1:]]
    return ["    " + line for line in lines]


def grade(example: Example, answer: str) -> float:
    """1 if the function passes its unit tests."""
    facts = example.facts
    code = completion(facts["entry_point"], answer)
    return passes(facts["prompt"], code, facts["test"], facts["entry_point"])


def example(record: Record) -> Example:
    """{"task_id", "prompt", "canonical_solution", "test", "entry_point"}"""
    facts = {name: record.text(name) for name in ("prompt", "test", "entry_point")}
    if not facts["entry_point"].isidentifier():
        raise record.wrong("entry_point", "the name of a function")
    asked = say("user", f"Complete this function:\n{facts['prompt'].rstrip()}")
    solved = say("assistant", facts["prompt"] + record.text("canonical_solution").rstrip())
    return Example(messages=(asked, solved), answer=record.text("task_id"), facts=facts)


LOAD = from_records("humaneval", {"test": "humaneval/HumanEval"}, read=example)
TASK = Task(name="humaneval", load=LOAD, grade=grade, max_tokens=512, default_for=("chat",), judged=True)
