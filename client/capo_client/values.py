"""Values in a text: what surrounds one, what is one, and which is the last."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BLANK = " \t\r\n"
_STOPS = ".,;:。．"
_QUOTES = "\"'`“”‘’"
_DELIMITED = (
    ("$$", "$$"),
    ("\\[", "\\]"),
    ("\\(", "\\)"),
    ("$", "$"),
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("<<", ">>"),
    *((quote, quote) for quote in "\"'`"),
    ("“", "”"),
    ("‘", "’"),
)
_TRAILING_SPACES = ("\\,", "\\;", "\\:", "\\!", "\\quad", "\\qquad")  # of LaTeX


def clean(text: str) -> str:
    """Without what only surrounds a value: spaces, emphasis, quotes, delimiters, a full stop."""
    previous = None
    while text != previous:
        previous = text
        text = text.strip(_BLANK)
        if text.endswith(_TRAILING_SPACES) or (text[-1:] == "\\" != text[-2:-1]):
            text = text[: text.rindex("\\")]
        if not text.endswith((".m.", ".M.", "..")):
            text = text.rstrip(_BLANK + _STOPS)
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
        for mark in ("**", "__", *_QUOTES):  # with one end outside of what was cut here
            if text.count(mark) == 1 and text.startswith(mark):
                text = text[len(mark) :]
            elif text.count(mark) == 1 and text.endswith(mark) and mark != "'":
                text = text[: -len(mark)]
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
# A text with one of these is a sentence, whatever numbers are in it.
_VERBS = {"is", "are", "was", "were", "has", "have", "had", "be", "will", "would", "can", "must"}
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
            if not has_value or piece.lower() in _VERBS:
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
    return len(piece) <= 3 and piece.isascii() and piece.lower() not in _SHORT_WORDS


def is_short_text(text: str) -> bool:
    """A word or a few, as in `ellipse` or `all real numbers except -4`; not a sentence."""
    words = len(text.split())
    equation = "=" in text and words > 3 and not re.search(r"[$\\]", text)
    return 0 < words <= 12 and len(text) <= 200 and "\n" not in text and not equation


def is_sentence(text: str) -> bool:
    """Whether it is a sentence of more than three words."""
    return text.rstrip().endswith((".", "。", "!", "?")) and len(text.split()) > 3


MATH_SPAN = re.compile(
    r"\$\$[^$]{1,2000}\$\$|\$(?=\S)[^$\n]{0,1000}[^$\s]\$(?!\d)"
    r"|\$\s[^$\n]{0,500}[\\^_=][^$\n]{0,500}\s\$(?!\d)"
    r"|\\\((?:(?!\\\)).){1,1000}\\\)|\\\[(?:(?!\\\]).){1,2000}\\\]",
    re.S,
)
_OPERATOR = re.compile(r"[-+*/=×÷·^<>≤≥∪U]|\\(?:times|cdot|div|pm|leq?|geq?|cup)|[<>]=")
_OPERAND = re.compile(r".*[\d\\)\]].*|[A-Za-z]")


def last_value(text: str) -> str | None:
    """The last formula or number of a text, whole: `96 - 75 = 21`, `2 1/4`, `(3, 4]`, `$29.00`."""
    spans = [match for match in MATH_SPAN.finditer(text) if re.search(r"[\d\w]", match[0])]
    begin = spans[-1].end() if spans else 0
    tokens = list(_WORD.finditer(text, begin))
    last = next((i for i in range(len(tokens) - 1, -1, -1) if _DIGIT.search(tokens[i][0])), None)
    if last is None:
        return _joined_spans(text, spans) if spans else None
    first, end = last, tokens[last].end()
    while first > 0 and _joined(text, tokens[first - 1], tokens[first]):
        first -= 1
    missing = sum(text.count(c, tokens[first].start(), end) for c in ")]") - sum(
        text.count(c, tokens[first].start(), end) for c in "(["
    )
    while missing > 0 and first > 0 and "\n" not in text[tokens[first - 1].start() : end]:
        first -= 1
        word = tokens[first][0]
        missing -= sum(map(word.count, "([")) - sum(map(word.count, ")]"))
    value = text[tokens[first].start() : end]
    return clean(_without_open_brackets(clean(value).strip("*:!")))


_WORD = re.compile(r"\S+")
_DIGIT = re.compile(r"\d")


def _without_open_brackets(text: str) -> str:
    """`(12` and `12)` are 12; `[2, 5)` is as it is."""
    open_ = text.count("(") + text.count("[") - text.count(")") - text.count("]")
    if open_ > 0 and text[:1] in ("(", "["):
        return text[1:]
    if open_ < 0 and text[-1:] in (")", "]"):
        return text[:-1]
    return text


def _joined_spans(text: str, spans: Sequence[re.Match[str]]) -> str:
    """The last formula, with those that only `and` or a comma parts from it: `$6$ and $-2$`."""
    first = len(spans) - 1
    while first > 0 and re.fullmatch(
        r"\s*(?:,|;|and|or|, and|, or)\s*", text[spans[first - 1].end() : spans[first].start()]
    ):
        first -= 1
    return ", ".join(clean(span[0]) for span in spans[first:])


def _joined(text: str, before: re.Match[str], after: re.Match[str]) -> bool:
    """Whether two words of a text belong to one value."""
    left, right = before[0], after[0]
    if _OPERATOR.fullmatch(left):
        return True
    if left[-1] in ",.:;":
        return False
    if _OPERATOR.fullmatch(right):
        return bool(_OPERAND.fullmatch(left))
    if "\n" in text[before.end() : after.start()]:
        return False
    if re.fullmatch(r"[-+]?\d{1,3}", left) and re.fullmatch(r"\d{3}(?!\d).*", right):  # 1 000
        return True
    if right == "and":  # 1 and 1/4
        return bool(re.fullmatch(r"[-+]?\d+", left) and re.match(r"\s*\d+/\d", text[after.end() :]))
    if left == "and":
        return bool(re.match(r"\d+/\d", right) and re.search(r"\d\s*$", text[: before.start()]))
    return bool(re.fullmatch(r"[-+]?\d+", left) and re.fullmatch(r"\d+/\d+\W*", right))  # 2 1/4
