"""Whether a friendly visitor would accept an answer to a prompt of the panel; the rules are described in panel_rules.md.

    with Sandbox(workers=1) as sandbox:
        judge({"kind": "number", "value": 19}, "12 plus 7 is 20.", ["12+7?"], sandbox)   # "numbers [20.0], not 19"

The idea: a rule is data of the prompt, and a verdict that is not None says why, so that a person can check the judge.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fledge.sandbox.sandbox import Sandbox

Rule = dict[str, Any]
LISTS = tomllib.loads(
    Path(__file__).with_name("panel_rules.md").read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
)
QUOTES = str.maketrans("’‘“”", "''\"\"")
ASKED_FOR = ("contains", "number", "choice", "spelled")
"""Kinds of rules where a visitor wants to know something: no answer, or a question back, is wrong."""

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBERS = (
    {word: n for n, word in enumerate(ONES.split())}
    | {ten: 10 * n for n, ten in enumerate(TENS.split(), 2)}
    | {f"{ten}-{one}": 10 * n + m for n, ten in enumerate(TENS.split(), 2) for m, one in enumerate(ONES.split()[:10])}
    | {"none": 0, "once": 1, "twice": 2, "hundred": 100}
)

SOUNDS = (
    (r"^(?=.{4})(.*?)'?s$", r"\1"),
    ("ing$", "in"),
    ("ight", "ait"),
    ("ite$", "ait"),
    ("igh$", "ai"),
    ("^([^aeiou]+)y$", r"\1ai"),
    ("(ay|(?<=gr)ey|(?<=th)ey)$", "ei"),
    ("oy$", "oi"),
    ("e?y$", "i"),
    ("e[ae]", "i"),
    ("ie(?=[a-z])", "i"),
    ("^(he|she|we|be|me)$", "i"),
    ("a[iy]", "ei"),
    ("a([kmntvlpdgsr])e$", r"ei\1"),
    ("i([kmntvlpdgsr])e$", r"ai\1"),
    ("o([kmntvlpdgsr])e$", r"ou\1"),
    ("o[ae]", "ou"),
    ("own$", "aun"),
    ("ow$", "ou"),
    ("(ew|ue)$", "u"),
    ("oo", "u"),
    ("ou(?=[sdn])", "au"),
    ("e$", ""),
    ("ck", "k"),
    (r"(.)\1", r"\1"),
)
"""From spelling to a rough sound, in this order: what is written, how it is heard."""


def judge(rule: Rule, answer: str, turns: Sequence[str], sandbox: Sandbox) -> str | None:
    """None if the answer to the last of the visitor's turns is acceptable, else why it is not.

    Raises:
        KeyError: there is no such kind of rule.
    """
    answer, said, kind = answer.translate(QUOTES).strip(), " ".join(turns).translate(QUOTES), rule["kind"]
    if not re.search(r"\w", answer):
        return "empty"
    if kind == "any_of":
        reasons = [judge(option, answer, turns, sandbox) for option in rule["rules"]]
        return None if None in reasons else " / ".join(filter(None, reasons))
    if kind == "python":
        return judge_python(rule, answer, said, sandbox)
    if kind in FREE:
        return FREE[kind](rule, answer, said)
    return judge_matter(rule, answer, said) or MATTER[kind](rule, answer, said)


def judge_matter(rule: Rule, answer: str, said: str) -> str | None:
    """What holds for every answer that is not a text of its own: to the point, nobody else, the words asked for."""
    if len(words(answer)) > rule.get("max_words", 60):
        return "rambles"
    if rule["kind"] in ASKED_FOR and (reason := evades(rule, answer)):
        return reason
    accepted = [word for key in ("any", "all", "names") for word in rule.get(key, [])]
    accepted += rule.get("options", {}).values()
    if not rule.get("strangers_ok") and (new := strangers(answer, " ".join([said, *accepted]))):
        return f"names {new}"
    if wrong := [word for word in rule.get("none", []) if has(answer, word)]:
        return f"says {wrong}"
    if missing := [word for word in rule.get("all", []) if not has(answer, word)]:
        return f"misses {missing}"
    if rule.get("any") and not has_any(answer, rule["any"]):
        return f"none of {rule['any'][:6]}"
    return None


def evades(rule: Rule, answer: str) -> str | None:
    """Why an answer gives nothing to somebody who asked for a fact."""
    declined = re.search(r"\b(do not|don't) know\b|\bany(one|body) called\b", answer.lower())
    if declined and not any("know" in word for word in rule.get("any", [])):
        return "declines"
    if not rule.get("question_ok") and all(asks(sentence) for sentence in sentences(answer)):
        return "asks back"
    return None


def judge_contains(rule: Rule, answer: str, said: str) -> str | None:
    """The words of the rule are all there is to it."""
    return None


def judge_number(rule: Rule, answer: str, said: str) -> str | None:
    """The last number is the right one."""
    found = numbers(answer)
    return None if found and abs(found[-1] - rule["value"]) < 1e-9 else f"numbers {found}, not {rule['value']}"


def judge_choice(rule: Rule, answer: str, said: str) -> str | None:
    """The right option by text or mark, and no other. Marks are letters or digits, or "-1", "-2" where there are none.

    A mark stands after "=", in brackets, after "the answer is", before ".", ")" or ":", or at the end.
    """
    options, right = rule["options"], rule["right"]
    shown = {mark for mark, text in options.items() if has_plural(answer, text)}
    before = r"=|\(|\[|\b(?:answer|option|choice|letter|number)(?: is)?:? "
    marks = {
        mark
        for mark in options
        if not mark.startswith("-")
        and re.search(rf"(?:{before}){mark}\b|(?<![\w']){mark}\s*(?:[).\]:]|$)", answer, re.IGNORECASE)
    }
    for word, mark in re.findall(r"([\w']+)=(\w)\b", answer):
        if mark in options and mark not in shown and word.lower() != words(options[mark])[-1].lower():
            return f"says {word}={mark}"
    if shown - {right}:
        return f"also says {shown - {right}}"
    if marks - {right}:
        return f"marks {marks}"
    return None if right in shown | marks else "no choice"


def judge_spelled(rule: Rule, answer: str, said: str) -> str | None:
    """A run of single letters is the word."""
    runs = re.findall(r"(?<![A-Za-z'])[A-Za-z](?:[^A-Za-z]+[A-Za-z])*(?![A-Za-z'])", answer)
    spelled = [re.sub("[^a-z]", "", run.lower()) for run in runs]
    return None if rule["word"].lower() in spelled else f"spelled {spelled}"


def judge_talk(rule: Rule, answer: str, said: str) -> str | None:
    """A short reply in kind that takes nothing for a name, names nobody and does not decline."""
    if not rule.get("min_words", 1) <= len(words(answer)) <= 25:
        return f"{len(words(answer))} words"
    if re.search(r"any(one|body) called", answer):
        return "takes it for a name"
    if new := [word for word in new_names(answer, said) if word.lower() not in ("what", "how", "thank", "nice")]:
        return f"names {new}"
    return "declines" if judge_declines({}, answer, said) is None else None


def judge_nonsense(rule: Rule, answer: str, said: str) -> str | None:
    """A decline, a question back, a greeting or who it is."""
    if len(words(answer)) > 40:
        return "rambles"
    if has_any(answer, LISTS["decline"]):
        return judge_declines({"who": words(said)}, answer, said)
    greets = re.search(r"\b(i am|i'm|my name is) (pip|a )|\b(hi|hello|hey)\b", answer.lower())
    return None if greets or answer.endswith("?") else "a fact out of the blue"


def judge_declines(rule: Rule, answer: str, said: str) -> str | None:
    """An honest, short decline that names nobody new."""
    if not has_any(answer, LISTS["decline"]):
        return "does not decline"
    if len(words(answer)) > 40 or len(sentences(answer)) > 3:
        return "declines at length"
    if new := strangers(answer, said) or new_names(answer, said):
        return f"names {new}"
    if re.search(r"(?:called|named)\W*$|(?:any|no)(?:one|body) called\w", answer):
        return "breaks off"
    people = [bare(person) for person in rule.get("who", [])]
    for noun, name in re.findall(r"(\w+) (?:called|named|by the name of)\b\W*(.*?)(?=\s+in\b|[.,!?;]|$)", answer):
        if not bare(name) or not bare(name) <= bare(said):
            return f"called {name!r}, which was not said"
        if not people and noun.lower() not in ("anything", "something", "place", "thing"):
            return f"takes {name!r} for somebody"
        if people and not any(bare(name) & person for person in people):
            return f"takes {name!r} for the name"
    return None


def judge_story(rule: Rule, answer: str, said: str) -> str | None:
    """Several whole sentences about what was wanted, none twice."""
    if len(words(answer)) < rule["min_words"]:
        return f"{len(words(answer))} words"
    if len(sentences(answer)) < (2 if rule["min_words"] < 20 else 3):
        return "too few sentences"
    if not re.search(r"[.!?][\"')]*$", answer):
        return "breaks off"
    if missing := lacks(answer, rule):
        return f"not about {missing}"
    if has_any(answer, ["language model", "anyone called"]):
        return "not a story"
    return "repeats itself" if repeats(answer) else None


def judge_rhyme(rule: Rule, answer: str, said: str) -> str | None:
    """Two line ends, at most three lines apart, rhyme."""
    if missing := lacks(answer, rule):
        return f"not about {missing}"
    if len(words(answer)) < 6 or has(answer, "language model"):
        return "no poem"
    lines = spoken(re.split(r"\n+|\s/\s", answer))
    if len(lines) == 1:
        lines = spoken(re.split(r"[,.;:!?]+", answer))
    ends = [words(line)[-1] for line in lines]
    return None if any(rhymes(a, b) for n, a in enumerate(ends) for b in ends[n + 1 : n + 4]) else "no rhyme"


def judge_riddle(rule: Rule, answer: str, said: str) -> str | None:
    """A question that does not come from small talk."""
    asked = re.search(r"\b(who|what|which)\b[^.!?]*\?", answer.lower())
    small_talk = has_any(answer, ["for you", "language model", "how are you"])
    return None if 6 <= len(words(answer)) <= 50 and asked and not small_talk else "no riddle"


def judge_python(rule: Rule, answer: str, said: str, sandbox: Sandbox) -> str | None:
    """The function passes the tests of the rule, under the name that the visitor gave it or else as `f`."""
    code = find_code(answer, said)
    names = [a or b for a, b in re.findall(r"^(?:def (\w+)\(|(\w+) = lambda)", code, re.MULTILINE)]
    if not names:
        return "no function"
    name = rule.get("name", "f")
    if "name" not in rule:
        code += f"\n\nf = {names[0]}\n"
    elif name not in names:
        return f"the function is called {names}, not {name}"
    result = sandbox.check("", code, rule["test"], name, timeout_seconds=5)
    return None if result.passed else f"{result.status}: {result.error}"


MATTER = {
    "contains": judge_contains,
    "number": judge_number,
    "choice": judge_choice,
    "spelled": judge_spelled,
    "talk": judge_talk,
    "nonsense": judge_nonsense,
}
FREE = {"declines": judge_declines, "story": judge_story, "rhyme": judge_rhyme, "riddle": judge_riddle}


def words(text: str) -> list[str]:
    """Runs of letters, digits and apostrophes."""
    return re.findall(r"[\w']+", text)


def bare(text: str) -> set[str]:
    """The words in small letters, without 's."""
    return {word.lower().removesuffix("'s") for word in words(text)}


def spoken(pieces: Iterable[str]) -> list[str]:
    """The pieces that hold a letter or digit."""
    return [piece for piece in pieces if re.search(r"\w", piece)]


def sentences(text: str) -> list[str]:
    """Pieces that end with an end mark or a line."""
    return spoken(re.split(r"(?<=[.!?])[\"')]*\s+|\n+", text))


def asks(sentence: str) -> bool:
    """Whether it ends with a question mark."""
    return sentence.rstrip("\"')").endswith("?")


def has(text: str, phrase: str) -> bool:
    """Whether the phrase occurs as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(phrase.lower())}(?!\w)", text.lower()) is not None


def has_any(text: str, phrases: Iterable[str]) -> bool:
    """Whether one of the phrases occurs."""
    return any(has(text, phrase) for phrase in phrases)


def has_plural(text: str, word: str) -> bool:
    """Whether the word occurs, alone or with an ending."""
    return has_any(text, (word + end for end in ("", "s", "es", "'s")))


def lacks(answer: str, rule: Rule) -> list[str]:
    """What it should be about and is not."""
    return [word for word in rule.get("about", []) if not has_plural(answer, word)]


def strangers(answer: str, known: str) -> list[str]:
    """Villagers named in the answer whom nobody mentioned."""
    return [name for name in LISTS["villagers"] if re.search(rf"\b{name}\b", answer) and not has_plural(known, name)]


def new_names(answer: str, said: str) -> list[str]:
    """Words with a capital in mid-sentence that nobody said."""
    inner = [word for sentence in sentences(answer) for word in words(sentence)[1:] if word[0].isupper()]
    return [w for w in inner if w not in LISTS["allowed_names"] and not has_plural(said, w.removesuffix("'s"))]


def numbers(text: str) -> list[float]:
    """Numbers in digits, else those in words: of a short text only, since a longer one may count by the way."""
    if found := re.findall(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?", text):
        return [float(number.replace(",", "")) for number in found]
    if len(words(text)) > 15:
        return []
    return [float(NUMBERS[word]) for word in re.findall(r"[a-z]+(?:-[a-z]+)?", text.lower()) if word in NUMBERS]


def repeats(text: str) -> bool:
    """Whether a sentence of four words or more, or a run of eight words, occurs twice."""
    long = [sentence.lower().strip() for sentence in sentences(text) if len(words(sentence)) >= 4]
    heard = words(text.lower())
    runs = [tuple(heard[begin : begin + 8]) for begin in range(len(heard) - 7)]
    return len(set(long)) < len(long) or len(set(runs)) < len(runs)


def rhymes(a: str, b: str) -> bool:
    """Whether two different words end alike, by sound or by their last three letters."""
    a, b = a.lower(), b.lower()
    return a != b and (ending(a) == ending(b) or (min(len(a), len(b)) > 2 and a[-3:] == b[-3:]))


def ending(word: str) -> str:
    """Roughly how it sounds from its last vowel on."""
    for written, heard in SOUNDS:
        word = re.sub(written, heard, word)
    last = re.search(r"[aeiouy]+[^aeiouy]*$", word)
    return last[0] if last else word


def find_code(answer: str, said: str) -> str:
    """The function in an answer, fenced or not; a body alone is put below the `def` that the visitor wrote."""
    fence = re.search(r"```(?:\w*\n)?(.*?)(?:```|$)", answer, re.DOTALL)
    text = fence[1] if fence else answer
    code: list[str] = []
    for line in text.splitlines():
        begins = re.match(r"\s*(def |import |from \w+ import|\w+ = lambda)", line)
        if begins or (code and (not line.strip() or line[0].isspace())):
            code.append(line)
        elif re.search(r"\bdef ", "\n".join(code)):
            break
    if any("def " in line or "lambda" in line for line in code):
        return textwrap.dedent("\n".join(code))
    if inline := re.search(r"def \w+\(.*", text, re.DOTALL):
        return inline[0]
    head = re.search(r"def \w+\(.*?\):", said)
    body = [line for line in text.splitlines() if re.match(r"\s*(return|if|for|while|\w+ =)", line)]
    return "\n    ".join([head[0], *(line.strip() for line in body)]) if head else ""
