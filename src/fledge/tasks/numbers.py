r"""Numbers as people and models write them, read exactly, and the graders of tasks whose answer is one.

read_number("$1,200.50")          # Fraction(2401, 2); so are "1 200.5 dollars", r"\boxed{2401/2}" and "**1.2005e3**"
read_number("10:30")              # None: no number is better than a wrong one
marked_number("... #### 72")      # 72: the whole expression behind the last ####, as GSM8K marks its answers
last_number("The answer is 72.")  # 72: of a model that was never taught the mark
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from fledge.tasks.base import Example

MARK = "####"
COINS = "$€£¥₹₩₽₺₫₪₴฿¢"
# Alike in every language that has them: groups of three, parted by one kind of mark. 1.234,5 and 12,5 have the comma for a point.
GROUPED = r"[1-9]\d{0,2}(?P<mark>[,' _])\d{3}(?:(?P=mark)\d{3})*(?!\d)(?:\.\d+)?"
COMMA = r"[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:\.\d{3}){2,}|0,\d+|\d+,\d{1,2}(?!\d)"
PLAIN = r"\d*\.\d+|\d+\.?"
# Three digits of an exponent are enough for anybody, and 10**999999999 would fill the memory.
POWER = r"[eE](?P<e>[-+]?\d{1,3})|\s?[x*·×]\s?10(?:\^|\*\*)\{?(?P<ten>[-+]?\d{1,3})\}?"
NUMBER = re.compile(
    rf"(?P<sign>[-+]?)(?P<coin>\s?(?:[A-Z]{{0,3}}[{COINS}]|USD|EUR|GBP|Rs\.?)?)\s?(?P<inner>[-+]?)"
    rf"(?P<value>(?P<grouped>{GROUPED})|(?P<comma>{COMMA})|{PLAIN})(?:{POWER})?"
    r"(?:\s?/\s?(?P<under>\d+)|\s(?P<over>\d+)/(?P<part>\d+))?"
)
SCALES = {"hundred": 2, "thousand": 3, "k": 3, "million": 6, "M": 6, "billion": 9, "bn": 9, "B": 9, "trillion": 12}
DRESS = r"boxed|fbox|text\w*|math\w+|bf|rm|displaystyle|left|right|q?quad|degree|circ"
"""Commands of LaTeX that change how a number looks, not which it is."""
BLANKS = dict.fromkeys(map(ord, "\u00a0\u2007\u2009\u202f"), " ")
SIGNS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"), "-") | {0x2019: "'", 0x2044: "/"}


class Percent(Fraction):
    """50% is 50 where percents are asked for, and 1/2 where a share is."""


def read_number(text: str) -> Fraction | None:
    """The exact value of a text that is one number, with its sign, currency, fraction, power of ten, percent sign and unit."""
    text = _plain(text)
    found = NUMBER.match(text)
    return _value(found, text[found.end() :]) if found else None


def marked_number(text: str) -> Fraction | None:
    """The number behind the last `####`: "... #### 1,200" -> 1200; None where there is none, or where it is not clear."""
    marked = [part.strip() for part in text.split(MARK)[1:] if part.strip()]
    return read_number(marked[-1].split("\n")[0]) if marked else None


def last_number(text: str) -> Fraction | None:
    r"""The marked number, else that of the last `\boxed{}`, else the last number of a text: 48 + 24 = 72 clips -> 72."""
    value = marked_number(text)
    if value is None and (boxed := re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", text)):
        value = read_number(boxed[-1])
    if value is not None:
        return value
    text = _plain(text)
    for found in NUMBER.finditer(text):
        # In 7-5 the sign takes 5 from 7, and the number is 5.
        inside = found["sign"] and text[: found.start()].endswith((*"0123456789)", "."))
        here = NUMBER.match(text, found.start() + bool(inside)) or found
        # With the word behind it, which may scale it.
        read = _value(here, re.sub(r"(?s)(\s*(?:%|[^\W\d_]*)).*", r"\1", text[here.end() :]))
        value = value if read is None else read
    return value


def strict(example: Example, answer: str) -> float:
    """1 if the marked number is the reference's."""
    return _same(marked_number(str(example.answer)), marked_number(answer))


def lenient(example: Example, answer: str) -> float:
    """1 if the last number of the answer is the reference's, marked or not."""
    return _same(marked_number(str(example.answer)), last_number(answer))


def _same(wanted: Fraction | None, found: Fraction | None) -> float:
    if wanted is None or found is None:
        return 0.0
    shares = (number / 100 if isinstance(number, Percent) else number for number in (wanted, found))
    return float(wanted == found or (type(wanted) is not type(found) and next(shares) == next(shares)))


def _plain(text: str) -> str:
    """Without LaTeX, Markdown and the many forms of blanks, minus signs and halves."""
    text = text.translate(BLANKS | SIGNS)
    text = re.sub("[¼-¾⅐-⅞]", lambda half: " " + unicodedata.normalize("NFKC", half[0]).replace("\u2044", "/"), text)
    text = re.sub("[⁺⁻⁰¹²³⁴-⁹]+", lambda power: "^" + unicodedata.normalize("NFKC", power[0]).translate(SIGNS), text)
    text = re.sub(r"\\[dt]?frac(?:\{(\d+)\}\{(\d+)\}|(\d)(\d))", r" \1\3/\2\4", text.replace("{,}", ","))
    text = re.sub(r"\\(times|cdot)(?![a-z])", "×", text)
    # \boxed{}, \text{}, one in the other
    while (bare := re.sub(rf"\\(?:{DRESS})\s*\{{([^{{}}]*)\}}", r"\1", text)) != text:
        text = bare
    # Any other command, such as \sqrt, says another number, and what it leaves behind is none.
    text = re.sub(rf"\\([,;:!()\[\] ]|(?:{DRESS})(?![a-zA-Z])|(?![a-z]))", "", text)
    text = re.sub(r"(?<!\w)(\*\*|[*_`])(\S.*?)\1(?!\w)", r"\2", text).strip(' *_`~=$\t\n"“”')
    return re.sub(r"^[(\[{]([^()\[\]{}]*)[)\]}]", r"\1", text).strip()


def _value(found: re.Match[str], tail: str) -> Fraction | None:
    """The value of a match of NUMBER; None where what follows it is more than a unit."""
    words = re.sub(r"\(.*\)", "", tail).strip(f" .!?,;:)'\"{COINS}").removeprefix("%").lstrip("-/°").split()
    # 10:30, 3-4, 3x4, 3π and 3 and a half go on with more of a number; clips, m^2, hours do not.
    if any(re.match(r"[\W\d_]|x\d|π|half\b", word) for word in words) or (found["sign"] and found["inner"]):
        return None
    digits = found["value"]
    if found["grouped"]:
        digits = re.sub(r"[,' _]", "", digits)
    elif found["comma"]:
        digits = digits.replace(".", "").replace(",", ".")
    try:
        value = Fraction(digits.rstrip("."))
        if found["over"]:
            value += Fraction(int(found["over"]), int(found["part"]))
        value /= int(found["under"] or 1)
    except (ValueError, ZeroDivisionError):  # ValueError: thousands of digits
        return None
    scale = SCALES.get(words[0], SCALES.get(words[0].lower(), 0)) if words else 0
    value *= Fraction(10) ** int(found["e"] or found["ten"] or scale)
    value = -value if "-" in (found["sign"], found["inner"]) else value
    return Percent(value) if tail.lstrip().startswith(("%", "percent")) else value
