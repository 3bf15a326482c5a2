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
OUTERMOST = re.compile(r"(?s).*?(`{3,}|~{3,})[^\n]*\n(.*)\1.*")
PYTHON = ("python", "python3", "py")
BEGINS = re.compile(r"(?:async|def|import|from|class)\b|[@#]|\w+ *=")
"""How the first line of a program in the midst of words begins."""
FUTURE = re.compile(r"(?m)^from __future__ import .*\n")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.Import, ast.ImportFrom, ast.ClassDef, ast.Assign, ast.AnnAssign)


def completion(entry_point: str, answer: str) -> str:
    """What to put behind a problem's prompt so that the program is the one the answer means.

    Chat models answer with fenced blocks, of which some hold commands and leave the code outside, with words around the code,
    with the whole function, with a method of a class, or with the body alone. A whole function goes behind the prompt and
    replaces the unfinished one there, so that the prompt's imports and helpers stay in force; of several blocks the first that
    defines the function counts, and the definitions in others stay. Else the first that can be a body counts, one that returns
    something before others: a command such as `ls` could be one too. One that lost its indentation gets it back.
    """
    answer = re.sub(r"\r\n?", "\n", answer.rpartition("</think>")[2])  # drafts are no answer
    # Copied from a web page, indentation is made of no-break spaces.
    answer = re.sub(r"(?m)^[^\S\n]+", lambda blanks: re.sub(r"[^\t]", " ", blanks[0]).replace("\t", "    "), answer)
    blocks, outside = fenced(answer)
    blocks.sort(key=lambda block: 0 if block[0] in PYTHON else 1 + bool(block[0]))
    # The last is what lies between the outermost fences: a docstring may hold some.
    candidates = [code for _, code in blocks] + [outside, OUTERMOST.sub(r"\2", answer)]
    codes = [_readable(dedent(code)) for code in candidates]
    for code in codes:
        if definition := _definition(entry_point, code):
            others = [other for other in codes if other != code and _only_defines(other, entry_point)]
            # `pass` gives the function of the prompt a body whether or not it has a docstring.
            return "\n\n".join(["    pass", *others, definition]) + "\n"
    bodies = ["\n".join(_indented([line for line in code.split("\n") if line.strip()])) for code in codes]
    likely = sorted((*bodies, *codes), key=lambda body: "return" not in body)
    return next((body for body in likely if _parsed(f"def f():\n{body}")), bodies[0]) + "\n"


def fenced(answer: str) -> tuple[list[tuple[str, str]], str]:
    """Language and code of each fenced block, and what stands outside; one that never ends reaches to the end.

    "```py\nx = 1\n```\nDone" -> [("py", "x = 1")], "Done"
    """
    blocks: list[tuple[str, list[str]]] = []
    outside: list[str] = []
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
            blocks[-1][1].append(line.removesuffix(mark))
            mark = "" if line.endswith(mark) else mark
        else:
            outside.append(line)
    return [(language, "\n".join(lines)) for language, lines in blocks], "\n".join(outside)


def _parsed(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _readable(code: str) -> str:
    """With blanks for the no-break spaces between words, where those keep it from being Python; in strings they may stay."""
    plain = code.replace("\u00a0", " ").replace("\u200b", "").replace("\ufeff", "")
    return plain if plain != code and not _parsed(code) else code


def _only_defines(code: str, entry_point: str) -> bool:
    """Whether a block holds imports and definitions that another may need, and not the function itself."""
    if not (tree := _parsed(code)) or not all(isinstance(node, DEFINITIONS) for node in tree.body):
        return False
    return entry_point not in {getattr(node, "id", getattr(node, "name", "")) for node in ast.walk(tree)}


def _definition(entry_point: str, code: str) -> str | None:
    """The program that defines the function, without the words around it; a method is called on an instance of its class."""
    lines = code.split("\n") if entry_point in code else []
    for first in [0, *(place for place, line in enumerate(lines) if BEGINS.match(line))]:
        program, nodes = _longest_program(lines[first:])
        for node in nodes:
            if _defines(node, entry_point):
                return program
            if isinstance(node, ast.ClassDef) and any(_defines(inner, entry_point) for inner in node.body):
                return f"{program}\n\n{entry_point} = {node.name}().{entry_point}"
    return None


def _longest_program(lines: list[str]) -> tuple[str, list[ast.stmt]]:
    """How far lines are a program, and its statements; words and examples behind the last definition are none of it."""
    while lines:
        program = "\n".join(lines)
        try:
            nodes = ast.parse(program).body
            if nodes and not isinstance(nodes[-1], ast.Expr):
                return program, nodes
            end = nodes[-1].lineno - 1 if nodes else 0
        except SyntaxError as error:
            end = min(error.lineno or 1, len(lines)) - 1
        except (ValueError, RecursionError, MemoryError):
            break
        while end > 0 and lines[end][:1] in ("", " ", "\t"):  # up to where the statement begins that is none
            end -= 1
        lines = lines[: max(end, 0)]
    return "", []


def _defines(node: ast.stmt, name: str) -> bool:
    """Whether the statement binds the name, also in a branch of an `if` or `try`, or to a lambda or another function."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return not isinstance(node, ast.ClassDef) and node.name == name
    inner = list(ast.walk(node))
    stored = (each.id for each in inner if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store))
    return name in (*stored, *(each.name for each in inner if isinstance(each, FUNCTIONS)))


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
    future = "".join(FUTURE.findall(code))  # nothing may stand before it
    return passes(future + facts["prompt"], FUTURE.sub("", code), facts["test"], facts["entry_point"])


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
