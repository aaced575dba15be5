"""Values in a text: what surrounds one, what is one, and which is the last."""

from __future__ import annotations

import re
from collections.abc import Sequence

_AROUND = " \t\r\n\"'`“”‘’"
_DELIMITED = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"), ("**", "**"), ("__", "__"))


def clean(text: str) -> str:
    """Without what only surrounds a value: spaces, emphasis, quotes, delimiters, a full stop."""
    previous = None
    while text != previous:
        previous = text
        text = text.strip(_AROUND)
        if not text.endswith((".m.", ".M.", "..")):
            text = text.rstrip(_AROUND + ".,;:。")
        for begin, end in _DELIMITED:
            inner = text[len(begin) : len(text) - len(end)]
            if (
                len(text) > len(begin) + len(end)
                and text.startswith(begin)
                and text.endswith(end)
                and not inner.endswith("\\")
                and begin not in inner
            ):
                text = inner
        for emphasis in ("**", "__"):  # with one end outside of what was cut here
            if text.count(emphasis) == 1:
                text = text.replace(emphasis, "")
    return text


_FUNCTION_WORDS = """
    sqrt sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp pi theta phi inf
    infinity oo and or in min max gcd lcm mod abs det dim rank deg cdot times frac pm alpha beta
    gamma delta lambda mu sigma omega
"""
_FUNCTIONS = frozenset(_FUNCTION_WORDS.split())
# Of two or three letters; others of that length are products of variables.
_WORDS = """
    we so it is he the she as to of for by at an if let are has had now was not but its all any see
    our you his her day can get cm mm km kg ft hr min sec mph lb oz am pm mi yd cc ml
"""
_SHORT_WORDS = frozenset(_WORDS.split())
_WORD_ANSWERS = ("yes", "no", "true", "false", "none", "undefined", "dne", "infinity")
_OPTION = re.compile(r"\(?[A-J]\)?(?:\s*[).:：]\s*\S.*)?|\(?[A-J]\)(?:\s.*)?", re.S)
_TOKEN = re.compile(
    r"\\(?:text(?:bf|rm|it)?|mbox|mathrm|operatorname)\s*\{[^{}]*\}|\\(?:begin|end)\{\w+\}"
    r"|\\[A-Za-z]+|[^\W\d_]{2,}|\d|\S|\s+"
)
_UNIT_WORDS = 5
_PROSE_BEHIND = re.compile(r"(?<!\bsq)(?<!\bcu)[.!?]\s+[A-Za-z]|,\s+(?!and\b|or\b)[A-Za-z]{2,}\s")


def is_value(text: str) -> bool:
    """Whether a text is a value as a whole: mathematics (with a unit), an option, yes or no."""
    text = text.strip()
    if not text or len(text) > 2000:
        return False
    if text.lower() in _WORD_ANSWERS or _OPTION.fullmatch(text):
        return True
    if _PROSE_BEHIND.search(text):
        return False
    has_value, words = False, 0
    for match in _TOKEN.finditer(text):
        piece = match[0]
        if piece.isspace():
            continue
        if piece[0] == "\\":
            has_value = True
        elif len(piece) > 1 and piece.lower() not in _FUNCTIONS and not _is_product(piece):
            words += 1
            if not has_value:
                return False
        elif piece.isdigit() or piece.isalpha():
            if words and piece not in "23":  # a value behind words is prose, but for in^2
                return False
            has_value = True
        elif words and piece in "=+*<>":
            return False
    return has_value and words <= _UNIT_WORDS


def _is_product(piece: str) -> bool:
    """Of variables: `xy`, `abc`."""
    return len(piece) <= 3 and piece.lower() not in _SHORT_WORDS


def is_short_text(text: str) -> bool:
    """A word or a few, as in `ellipse` or `all real numbers except -4`; not a sentence."""
    words = text.split()
    return 0 < len(words) <= 8 and len(text) <= 100 and "\n" not in text and "=" not in text


def is_sentence(text: str) -> bool:
    """Whether it is a sentence of more than three words."""
    return text.rstrip().endswith((".", "。", "!", "?")) and len(text.split()) > 3


MATH_SPAN = re.compile(
    r"\$\$[^$]{1,2000}\$\$|\$(?=\S)[^$\n]{0,1000}[^$\s]\$(?!\d)"
    r"|\\\((?:(?!\\\)).){1,1000}\\\)|\\\[(?:(?!\\\]).){1,2000}\\\]",
    re.S,
)
_OPERATOR = re.compile(r"[-+*/=×÷·^]|\\(?:times|cdot|div|pm)")
_OPERAND = re.compile(r".*[\d\\)].*|[A-Za-z]")


def last_value(text: str) -> str | None:
    """The last formula or number of a text, whole: `96 - 75 = 21`, `2 1/4`, `$29.00`."""
    spans = [match for match in MATH_SPAN.finditer(text) if re.search(r"[\d\w]", match[0])]
    begin = spans[-1].end() if spans else 0
    tokens = text[begin:].split()
    last = next((i for i in range(len(tokens) - 1, -1, -1) if re.search(r"\d", tokens[i])), None)
    if last is None:
        return _joined_spans(text, spans) if spans else None
    first = last
    while first > 0 and _joined(tokens[first - 1], tokens[first]):
        first -= 1
    return clean(" ".join(tokens[first : last + 1]).strip("*()[]:"))


def _joined_spans(text: str, spans: Sequence[re.Match[str]]) -> str:
    """The last formula, with those that only `and` or a comma parts from it: `$6$ and $-2$`."""
    first = len(spans) - 1
    while first > 0 and re.fullmatch(
        r"\s*(?:,|and|or|, and|, or)\s*", text[spans[first - 1].end() : spans[first].start()]
    ):
        first -= 1
    return ", ".join(clean(span[0]) for span in spans[first:])


def _joined(left: str, right: str) -> bool:
    """Whether two words of a text belong to one value."""
    if left[-1] in ",.:;" and not _OPERATOR.fullmatch(left):
        return False
    if _OPERATOR.fullmatch(right):
        return bool(_OPERAND.fullmatch(left))
    if _OPERATOR.fullmatch(left):
        return True
    return bool(re.fullmatch(r"-?\d+", left) and re.fullmatch(r"\d+/\d+\W*", right))  # 2 1/4
